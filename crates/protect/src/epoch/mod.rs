//! The replication protocol of both roles, without I/O: events and the time go in, commands come out.
//!
//! [`active::Active`] decides when held output may leave and whether the machine may go on here; [`standby::Standby`] decides what
//! is acknowledged and when the machine starts here. Both end in the register ([`crate::arbiter`]), by compare-and-set alone: no
//! clock decides who runs, clocks only decide when to ask. [`pace`] decides when the next epoch is due.
//!
//! What must hold, whatever the network, the hosts and the clocks do:
//! - no output of an epoch leaves before the standby holds that epoch;
//! - never two machines whose output leaves;
//! - a machine whose register cannot be reached keeps its role, and its output stays held.

pub mod active;
pub mod pace;
pub mod standby;

#[cfg(test)]
mod tests;

use hawser_proto::arbiter::Record;

/// What the register answered to the last question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// What it says now.
    Is(Option<Record>),
    /// The change is made.
    Changed(Record),
    /// Somebody else changed it first; what it says now.
    Lost(Option<Record>),
    /// It will not be; why.
    Refused(String),
    /// The question may have been carried out or not.
    Unknown,
    /// The question was never put.
    Unreachable,
}

/// Tells silence of the other side from a stop of one's own: a process that was frozen finds much time gone by, and must not
/// take that for the other side's death, nor trust what it was about to do.
#[derive(Debug, Clone)]
pub(crate) struct Silence {
    detect: std::time::Duration,
    heard: std::time::Instant,
    looked: std::time::Instant,
}

impl Silence {
    pub(crate) fn new(detect: std::time::Duration, now: std::time::Instant) -> Self {
        Self {
            detect,
            heard: now,
            looked: now,
        }
    }

    /// A sign of life. True when so much time has passed since the last one, or this process did not run for so long, that the other
    /// side may have given this one up.
    pub(crate) fn heard(&mut self, now: std::time::Instant) -> bool {
        let gap = now.duration_since(self.heard) >= self.detect || self.has_slept(now);
        self.heard = now;
        self.looked = now;
        gap
    }

    /// Looks at the clock; to be called at least each quarter of the detection time.
    pub(crate) fn look(&mut self, now: std::time::Instant) -> Seen {
        let frozen = self.has_slept(now);
        self.looked = now;
        if frozen {
            self.heard = now;
            return Seen::OwnGap;
        }
        if now.duration_since(self.heard) >= self.detect {
            Seen::Silent
        } else {
            Seen::Alive
        }
    }

    /// When to look next.
    pub(crate) fn next_look(&self) -> std::time::Instant {
        (self.looked + self.detect / 8).min(self.heard + self.detect)
    }

    fn has_slept(&self, now: std::time::Instant) -> bool {
        now.duration_since(self.looked) >= self.detect / 2
    }
}

/// What a look at the clock showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Alive,
    Silent,
    /// This process did not run for a while.
    OwnGap,
}
