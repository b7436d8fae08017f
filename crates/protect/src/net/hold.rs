//! What is held, and up to where it may go: positions in one stream of bytes, so that nothing can overtake. No I/O.

use std::{collections::VecDeque, time::Instant};

use super::NetError;

/// Bytes that are kept and moved together.
const SEGMENT: usize = 64 * 1024;
/// Empty segments that are kept for the next frames.
const SPARE: usize = 16;

/// Bounds on the frames kept for one network device, in bytes, their length fields included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From here on an epoch is wanted soon.
    pub soft: usize,
    /// What does not fit below this is dropped: the newest, and counted. A guest's protocols repeat what is lost.
    pub hard: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            soft: 4 << 20,
            hard: 64 << 20,
        }
    }
}

/// What an epoch's line lies behind: the frames since the line before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Boundary {
    /// Whole frames.
    pub frames: u64,
    /// Their bytes, length fields included.
    pub bytes: u64,
}

/// Frames that wait for their epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub frames: u64,
    /// Their bytes, length fields included.
    pub bytes: u64,
    /// When the oldest came.
    pub since: Option<Instant>,
}

/// Frames lost at the hard limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub frames: u64,
    /// Their bytes, length fields included.
    pub bytes: u64,
}

/// Whether frames wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// For their epoch.
    Held,
    /// For nothing.
    Open,
    /// For ever.
    Mute,
}

/// What a frame that came brought about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    /// It is the first since the last boundary.
    pub(super) first: bool,
    /// The soft limit is reached, for the first time since the last boundary.
    pub(super) soft: bool,
}

struct Mark {
    epoch: u64,
    end: u64,
    frames: u64,
    since: Option<Instant>,
}

/// The frames of one network device that have not left yet.
///
/// All positions count bytes from the beginning: `sent <= taken <= released <= appended`.
pub(super) struct Hold {
    limits: Limits,
    gate: Gate,
    segments: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    marks: VecDeque<Mark>,
    last_epoch: Option<u64>,
    appended: Position,
    marked: Position,
    released: Position,
    taken: u64,
    sent: u64,
    since: Option<Instant>,
    soft_told: bool,
    dropped: Dropped,
    passed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    bytes: u64,
    frames: u64,
}

impl Position {
    fn since(self, earlier: Position) -> Boundary {
        Boundary {
            frames: self.frames - earlier.frames,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

impl Hold {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            gate: Gate::Held,
            segments: VecDeque::new(),
            spare: Vec::new(),
            marks: VecDeque::new(),
            last_epoch: None,
            appended: Position::default(),
            marked: Position::default(),
            released: Position::default(),
            taken: 0,
            sent: 0,
            since: None,
            soft_told: false,
            dropped: Dropped::default(),
            passed: 0,
        }
    }

    /// A whole frame came.
    pub(super) fn push(&mut self, frame: &[u8], now: Instant) -> Pushed {
        if self.gate == Gate::Mute {
            return Pushed::default();
        }
        let kept = (self.appended.bytes - self.sent) as usize;
        if kept + frame.len() > self.limits.hard {
            self.dropped.frames += 1;
            self.dropped.bytes += frame.len() as u64;
            return Pushed {
                first: false,
                soft: self.soft(kept),
            };
        }
        self.append(frame);
        self.appended.frames += 1;
        if self.gate == Gate::Open {
            self.released = self.appended;
            self.passed += 1;
            return Pushed::default();
        }
        let first = self.since.is_none();
        self.since.get_or_insert(now);
        Pushed {
            first,
            soft: self.soft(kept + frame.len()),
        }
    }

    fn soft(&mut self, kept: usize) -> bool {
        let tell = self.gate == Gate::Held && !self.soft_told && kept >= self.limits.soft;
        self.soft_told |= tell;
        tell
    }

    fn append(&mut self, mut bytes: &[u8]) {
        self.appended.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.segments.back().is_none_or(|s| s.len() >= SEGMENT) {
                let fresh = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(SEGMENT));
                self.segments.push_back(fresh);
            }
            let Some(last) = self.segments.back_mut() else {
                return;
            };
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Draws the line of an epoch behind all frames so far. Epochs go up.
    pub(super) fn mark(&mut self, epoch: u64) -> Result<Boundary, NetError> {
        if let Some(last) = self.last_epoch
            && epoch <= last
        {
            return Err(NetError::Epoch { epoch, last });
        }
        self.last_epoch = Some(epoch);
        let made = self.appended.since(self.marked);
        if made.frames > 0 && self.gate == Gate::Held {
            self.marks.push_back(Mark {
                epoch,
                end: self.appended.bytes,
                frames: self.appended.frames,
                since: self.since,
            });
        }
        self.marked = self.appended;
        self.since = None;
        self.soft_told = false;
        Ok(made)
    }

    /// Lets go all frames up to the line of this epoch, and says how many those are.
    pub(super) fn release(&mut self, epoch: u64) -> Boundary {
        let before = self.released;
        while self.marks.front().is_some_and(|m| m.epoch <= epoch) {
            if let Some(mark) = self.marks.pop_front() {
                self.released = Position {
                    bytes: mark.end,
                    frames: mark.frames,
                };
            }
        }
        let gone = self.released.since(before);
        self.passed += gone.frames;
        gone
    }

    /// From now on nothing waits; what was held goes first. Without effect once mute.
    pub(super) fn open(&mut self) {
        if self.gate == Gate::Held {
            self.gate = Gate::Open;
            self.marks.clear();
            self.passed += self.appended.since(self.released).frames;
            self.released = self.appended;
            self.since = None;
        }
    }

    /// From now on nothing leaves, for ever: not what is held, and not what was let go and has not left.
    pub(super) fn mute(&mut self) {
        self.gate = Gate::Mute;
        self.marks.clear();
        self.segments.clear();
        self.spare.clear();
        self.since = None;
        self.released = self.appended;
        self.marked = self.appended;
        (self.taken, self.sent) = (self.appended.bytes, self.appended.bytes);
    }

    /// The next bytes that may leave, at most a segment. The caller sends them in this order and says so by [`Self::sent`].
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let may = (self.released.bytes - self.taken) as usize;
        if may == 0 {
            return None;
        }
        let front = self.segments.front_mut()?;
        let bytes = if front.len() <= may {
            self.segments.pop_front()?
        } else {
            let rest = front.split_off(may);
            std::mem::replace(front, rest)
        };
        self.taken += bytes.len() as u64;
        Some(bytes)
    }

    /// This many of the taken bytes have left.
    pub(super) fn sent(&mut self, n: usize) {
        // What was taken before it became mute may be told after that.
        self.sent = (self.sent + n as u64).min(self.taken);
    }

    /// Gives an emptied segment back.
    pub(super) fn recycle(&mut self, mut segment: Vec<u8>) {
        if self.spare.len() < SPARE && segment.capacity() >= SEGMENT {
            segment.clear();
            self.spare.push(segment);
        }
    }

    pub(super) fn held(&self) -> Held {
        let waiting = self.appended.since(self.released);
        Held {
            frames: waiting.frames,
            bytes: waiting.bytes,
            since: self.marks.front().map_or(self.since, |m| m.since),
        }
    }

    /// Whether frames came since the last line, and whether they fill it to the soft limit.
    pub(super) fn unmarked(&self) -> (bool, bool) {
        let any = self.gate == Gate::Held && self.appended.frames > self.marked.frames;
        (any, any && self.soft_told)
    }

    pub(super) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Frames that were let go, ever.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }
}

#[cfg(test)]
mod tests;
