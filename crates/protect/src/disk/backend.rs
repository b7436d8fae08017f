//! What stands behind an NBD export.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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

/// A disk in memory, for tests of whatever speaks to a backend.
pub struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// A disk of `size` bytes, all zero.
    pub fn new(size: usize) -> Self {
        Self(Mutex::new(vec![0; size]))
    }

    /// All of it.
    pub fn contents(&self) -> Vec<u8> {
        self.bytes().clone()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at<T>(&self, offset: u64, len: usize, act: impl FnOnce(&mut [u8]) -> T) -> io::Result<T> {
        let mut bytes = self.bytes();
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|s| bytes.get_mut(s..s.checked_add(len)?));
        range.map(act).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Backend for Memory {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.at(offset, into.len(), |range| into.copy_from_slice(range))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.at(offset, data.len(), |range| range.copy_from_slice(data))
    }

    fn zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        self.at(offset, len as usize, |range| range.fill(0))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zeroes(offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
