//! What stands behind an NBD export.

use std::{io, sync::Arc};

use super::{PIECE, Sink};

/// Serves one NBD export. Offsets and lengths, in bytes, have been checked against the export's size before a call.
/// Calls come from one thread for each connection; an answer to a client waits for the call's return.
pub trait Backend: Send + Sync {
    /// Fills `into` with what is at `offset`.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes at most [`PIECE`] bytes.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Writes zeroes.
    fn zeroes(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Forgets a range, which reads as zeroes from then on.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Returns when everything that was written before will survive as far as this backend promises at all. Also stands for
    /// the FUA flag of a single write.
    fn flush(&self) -> io::Result<()>;
}

/// Passes writes to a [`Sink`] and keeps nothing. A flush is answered at once: the guest's own flush has gone to its own disk, and
/// whether the replica has the write is decided by the commit of its epoch.
pub struct Forward {
    sink: Arc<dyn Sink>,
    disk: u16,
}

impl Forward {
    /// Writes go to `sink` as those of the disk of that number.
    pub fn new(sink: Arc<dyn Sink>, disk: u16) -> Self {
        Self { sink, disk }
    }
}

impl Backend for Forward {
    fn read(&self, _offset: u64, _into: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a mirror's target is written only",
        ))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        debug_assert!(data.len() <= PIECE);
        self.sink.write(self.disk, offset, data).map_err(io::Error::other)
    }

    fn zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        self.sink.zeroes(self.disk, offset, len).map_err(io::Error::other)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.sink
            .discard(self.disk, offset, len)
            .map_err(io::Error::other)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
