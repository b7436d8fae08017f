//! The send thread: the only one that writes to the channel. Takes from the ring and from the queue, and keeps their order rules.

use std::{
    io::{self, Write},
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use hawser_proto::replication::{Head, MAX_BODY, PREAMBLE};
use xxhash_rust::xxh3::Xxh3Default;

use super::outbound::Shared;
use crate::ring::{Bell, Item, Reader, Slot};

/// Small frames are gathered up to this many bytes before they are written.
const GATHER: usize = 64 << 10;
/// Bytes of disk writes sent between two slots of the ring, so that neither starves the other.
const TURN: usize = 256 << 10;

/// What stands between pages in the ring.
pub(super) enum Mark {
    /// The epoch is whole.
    End {
        epoch: u64,
        pages: u32,
        zero_pages: u32,
        state: Vec<u8>,
    },

    /// What follows comes after that piece of the queue.
    After(u64),
    /// Somebody wants to know when everything before this is out, that piece of the queue included.
    Flush(u64, SyncSender<()>),
}

pub(super) struct Sender {
    out: Box<dyn Write + Send>,
    ring: Reader<Mark>,
    shared: Arc<Shared>,
    digest: Box<Xxh3Default>,
    gathered: Vec<u8>,
    /// Last piece of the queue that was sent.
    piece: u64,
    /// Last barrier that was sent.
    barrier: Option<u64>,
    /// Something was written since the last flush.
    unflushed: bool,
}

impl Sender {
    pub(super) fn new(out: Box<dyn Write + Send>, ring: Reader<Mark>, shared: Arc<Shared>) -> Self {
        Self {
            out,
            ring,
            shared,
            digest: Box::default(),
            gathered: Vec::with_capacity(GATHER),
            piece: 0,
            barrier: None,
            unflushed: false,
        }
    }

    /// Sends until the channel breaks.
    pub(super) fn run(mut self, bell: &Bell) {
        let outcome = self.write(&PREAMBLE).and_then(|()| {
            while self.shared.broken().is_none() {
                let seen = bell.seen();
                if !self.turn()? {
                    self.flush()?;
                    bell.wait(seen);
                }
            }
            Ok(())
        });
        if let Err(e) = outcome {
            self.shared.break_now(&format!("it cannot be written to: {e}"));
        }
    }

    /// Some of either kind. False: there was nothing to do.
    fn turn(&mut self) -> io::Result<bool> {
        let mut busy = false;
        let mut sent = 0;
        while sent < TURN {
            let Some(bytes) = self.piece()? else { break };
            sent += bytes;
            busy = true;
        }
        match self.ring.take() {
            Some(Item::Frames(slot)) => self.slot(slot)?,
            Some(Item::Mark(mark)) => self.mark(mark)?,
            None => return Ok(busy),
        }
        Ok(true)
    }

    /// One piece of the queue. Returns its bytes.
    fn piece(&mut self) -> io::Result<Option<usize>> {
        let Some(piece) = self.shared.queue.take() else {
            return Ok(None);
        };
        self.write(&piece.frames)?;
        self.piece = piece.number;
        self.barrier = piece.barrier.or(self.barrier);
        Ok(Some(piece.frames.len()))
    }

    fn slot(&mut self, slot: Slot) -> io::Result<()> {
        let began = Instant::now();
        self.digest.update(slot.frames());
        let read = began.elapsed();
        let outcome = self.write_out().and_then(|()| self.out.write_all(slot.frames()));
        self.sent(slot.filled());
        let sent = began.elapsed() - read;
        self.ring.give_back(slot, read, sent);
        outcome
    }

    fn mark(&mut self, mark: Mark) -> io::Result<()> {
        match mark {
            Mark::End {
                epoch,
                pages,
                zero_pages,
                state,
            } => self.end(epoch, pages, zero_pages, &state),
            Mark::After(piece) => self.up_to(piece),
            Mark::Flush(piece, done) => {
                self.up_to(piece)?;

                self.flush()?;
                // Whoever asked may have lost patience.
                let _ = done.try_send(());
                Ok(())
            }
        }
    }

    /// Sends the queue up to that piece.
    fn up_to(&mut self, piece: u64) -> io::Result<()> {
        while self.piece < piece && self.piece()?.is_some() {}
        Ok(())
    }

    fn end(&mut self, epoch: u64, pages: u32, zero_pages: u32, state: &[u8]) -> io::Result<()> {
        for part in state.chunks(MAX_BODY as usize) {
            let head = Head::State {
                epoch,
                length: part.len() as u32,
            }
            .encode();
            self.digest.update(&head);
            self.digest.update(part);
            self.write(&head)?;
            self.write(part)?;
        }
        // The barrier was queued before the epoch was copied: it is in the queue, or out.
        while self.barrier < Some(epoch) {
            if self.piece()?.is_none() {
                return Err(io::Error::other("an epoch ended whose barrier was never set"));
            }
        }
        let digest = self.digest.digest();
        self.digest.reset();
        let head = Head::End {
            epoch,
            pages,
            zero_pages,
            state: state.len() as u32,
            digest,
        };
        self.write(&head.encode())?;
        self.flush()
    }

    /// Writes, small things together.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sent(bytes.len());
        if self.gathered.len() + bytes.len() <= GATHER {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_out()?;
        if bytes.len() <= GATHER / 2 {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.out.write_all(bytes)
    }

    fn write_out(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.out.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        if std::mem::take(&mut self.unflushed) {
            self.out.flush()?;
        }
        Ok(())
    }

    fn sent(&mut self, bytes: usize) {
        self.unflushed = true;
        self.shared.count_sent(bytes as u64);
    }
}

/// Longest name of a thread that the kernel keeps is 15 bytes.
pub(super) const THREADS: [&str; 2] = ["hawser-copy", "hawser-send"];

/// How long [`super::Outbound::flush`] may at most be asked to wait.
pub(super) const LONGEST_FLUSH: Duration = Duration::from_secs(3600);
