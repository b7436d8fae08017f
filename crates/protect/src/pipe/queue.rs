//! What goes beside the ring: disk writes, barriers and messages, in the order in which they were queued.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hawser_proto::replication::{Extent, HEADER, Head};

use super::{ChannelBroken, MAX_CONTROL};
use crate::{
    disk,
    ring::{Bell, lock},
};

/// What a queued write costs beside its bytes.
const OVERHEAD: usize = 64;
/// Most bytes of messages that wait. They never wait for room: the agents send few.
const MAX_MESSAGES: usize = 16 * MAX_CONTROL;

/// Frames as they go to the channel.
pub(super) struct Piece {
    pub(super) frames: Vec<u8>,

    /// Its number: one more than that of the piece before it.
    pub(super) number: u64,
    /// The epoch whose barrier this is.
    pub(super) barrier: Option<u64>,
    /// What it takes of the room for disk writes, and of that for messages.
    cost: usize,
    message: usize,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// Number of the last piece.
    number: u64,
    /// Number of the last message.
    last_message: u64,
    bytes: usize,
    messages: usize,
    waits: u64,
    waited: Duration,
    broken: Option<Arc<str>>,
}

/// Bounded queue; NBD threads wait when it is full.
pub(super) struct Queue {
    state: Mutex<State>,
    room: Condvar,
    bell: Arc<Bell>,
    limit: usize,
}

/// Fill and waits of a [`Queue`].
pub(super) struct QueueStats {
    pub(super) bytes: u64,
    pub(super) waits: u64,
    pub(super) waited: Duration,
}

impl Queue {
    /// A queue for `limit` bytes of disk writes.
    pub(super) fn new(limit: usize, bell: Arc<Bell>) -> Self {
        Self {
            state: Mutex::default(),
            room: Condvar::new(),
            bell,
            limit,
        }
    }

    /// A barrier. Never waits: the machine is stopped.
    pub(super) fn barrier(&self, epoch: u64) -> Result<(), ChannelBroken> {
        let frames = Head::Barrier { epoch }.encode().to_vec();
        self.push(Piece {
            frames,
            number: 0,
            barrier: Some(epoch),
            cost: 0,
            message: 0,
        })
    }

    /// A message. `Ok(false)`: too many wait already.
    pub(super) fn control(&self, message: &[u8]) -> Result<bool, ChannelBroken> {
        let head = Head::Control {
            length: message.len() as u32,
        };
        let frames = [&head.encode(), message].concat();
        if lock(&self.state).messages + frames.len() > MAX_MESSAGES {
            return Ok(false);
        }
        let message = frames.len();
        self.push(Piece {
            frames,
            number: 0,
            barrier: None,
            cost: 0,
            message,
        })?;
        Ok(true)
    }

    /// A change of a disk. Waits for room; a change larger than the queue is taken when it is empty.
    fn disk(&self, head: Head, data: &[u8]) -> Result<(), disk::Broken> {
        let mut frames = Vec::with_capacity(HEADER + data.len());
        frames.extend_from_slice(&head.encode());
        frames.extend_from_slice(data);
        let cost = frames.len() + OVERHEAD;
        let mut state = lock(&self.state);
        if state.full(cost, self.limit) {
            let began = Instant::now();
            state.waits += 1;
            while state.full(cost, self.limit) {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.waited += began.elapsed();
        }
        if let Some(why) = &state.broken {
            return Err(disk::Broken(why.clone()));
        }
        state.bytes += cost;
        state.put(Piece {
            frames,
            number: 0,
            barrier: None,
            cost,
            message: 0,
        });
        drop(state);
        self.bell.ring();
        Ok(())
    }

    fn push(&self, piece: Piece) -> Result<(), ChannelBroken> {
        let message = piece.message > 0;
        let mut state = lock(&self.state);
        if let Some(why) = &state.broken {
            return Err(ChannelBroken(why.clone()));
        }
        state.messages += piece.message;
        let number = state.put(piece);
        if message {
            state.last_message = number;
        }
        drop(state);
        self.bell.ring();
        Ok(())
    }

    /// The next piece.
    pub(super) fn take(&self) -> Option<Piece> {
        let mut state = lock(&self.state);
        let piece = state.pieces.pop_front()?;
        state.bytes -= piece.cost;
        state.messages -= piece.message;
        drop(state);
        if piece.cost > 0 {
            // Writes of different sizes wait: the first may still not fit where another does.
            self.room.notify_all();
        }
        Some(piece)
    }

    /// Number of the last piece.
    pub(super) fn last(&self) -> u64 {
        lock(&self.state).number
    }

    /// Number of the last message.
    pub(super) fn last_message(&self) -> u64 {
        lock(&self.state).last_message
    }

    /// Ends every wait, now and from now on.
    pub(super) fn break_now(&self, why: &Arc<str>) {
        let mut state = lock(&self.state);
        state.broken.get_or_insert_with(|| why.clone());
        state.pieces.clear();
        state.bytes = 0;
        state.messages = 0;
        drop(state);
        self.room.notify_all();
        self.bell.ring();
    }

    pub(super) fn stats(&self) -> QueueStats {
        let state = lock(&self.state);
        QueueStats {
            bytes: state.bytes as u64,
            waits: state.waits,
            waited: state.waited,
        }
    }
}

impl State {
    /// Numbers a piece and queues it.
    fn put(&mut self, mut piece: Piece) -> u64 {
        self.number += 1;
        piece.number = self.number;
        self.pieces.push_back(piece);
        self.number
    }

    fn full(&self, cost: usize, limit: usize) -> bool {
        self.broken.is_none() && self.bytes > 0 && self.bytes + cost > limit
    }
}

impl disk::Sink for Queue {
    fn write(&self, disk: u16, offset: u64, data: &[u8]) -> Result<(), disk::Broken> {
        // One frame for each piece: the contract allows no larger one, but a larger one must not tear the channel down.
        for (i, data) in data.chunks(disk::PIECE).enumerate() {
            let offset = offset + (i * disk::PIECE) as u64;
            self.disk(
                Head::Write(Extent {
                    disk,
                    offset,
                    length: data.len() as u64,
                }),
                data,
            )?;
        }
        Ok(())
    }

    fn zeroes(&self, disk: u16, offset: u64, len: u64) -> Result<(), disk::Broken> {
        if len == 0 {
            return Ok(());
        }
        self.disk(
            Head::Zeroes(Extent {
                disk,
                offset,
                length: len,
            }),
            &[],
        )
    }

    fn discard(&self, disk: u16, offset: u64, len: u64) -> Result<(), disk::Broken> {
        if len == 0 {
            return Ok(());
        }
        self.disk(
            Head::Discard(Extent {
                disk,
                offset,
                length: len,
            }),
            &[],
        )
    }
}

const _: () = assert!(disk::PIECE <= hawser_proto::replication::MAX_BODY as usize);
