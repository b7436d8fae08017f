//! The one ordered channel: pages, device state, disk writes and barriers, out of the active host and into the standby.
//!
//! [`Outbound`] has two threads, started once. The copy thread reads guest memory into the [`crate::ring`], the send thread
//! takes from the ring and from the queue of disk writes, and is the only one that writes to the channel. Order: disk writes,
//! barriers and messages stay in the order in which they were queued, pages and ends in theirs, and the end of an epoch never
//! overtakes its barrier. [`Inbound`] reads the same on the standby, stages an epoch's pages until it is whole, and takes
//! nothing from its peer on trust: every frame is checked against limits before memory is spent on it.
//!
//! Imports the frames from `hawser_proto::replication`, the ring, and the traits of the disks.

mod copy;
mod inbound;
mod outbound;
mod queue;
mod send;
mod staged;

use std::{error::Error, sync::Arc};

pub use copy::CopyStats;
pub use hawser_proto::replication::Mode;
pub use inbound::{Inbound, Incoming, Limits, PipeError, Target};
pub use outbound::{Copying, Options, Outbound, OutboundError, Stats};
pub use staged::{Applied, Staged};

use crate::{memory::PageRun, sys};

/// Most bytes of device state in one epoch.
pub const MAX_STATE: usize = 64 << 20;
/// Most bytes in one message of the agents.
pub const MAX_CONTROL: usize = hawser_proto::replication::MAX_BODY as usize;

/// Why memory could not be read or written, as its owner says it.
pub type Fault = Box<dyn Error + Send + Sync>;

/// Where pages come from: the memory of a running guest.
pub trait Source: Send + Sync {
    /// Reads the pages of a run. `into` has exactly the run's bytes.
    fn read(&self, run: PageRun, into: &mut [u8]) -> Result<(), Fault>;

    /// Reads many runs, for sources that can do so at once.
    fn read_all(&self, pieces: &mut [(PageRun, &mut [u8])]) -> Result<(), Fault> {
        pieces
            .iter_mut()
            .try_for_each(|(run, into)| self.read(*run, into))
    }
}

/// Where pages go to: the memory of the standby's guest.
pub trait Store {
    /// Writes the pages of a run. `from` has exactly the run's bytes.
    fn write(&self, run: PageRun, from: &[u8]) -> Result<(), Fault>;

    /// Makes the pages of a run zeros.
    fn zero(&self, run: PageRun) -> Result<(), Fault>;
}

impl Source for sys::Memory {
    fn read(&self, run: PageRun, into: &mut [u8]) -> Result<(), Fault> {
        Ok(sys::Memory::read(self, run, into)?)
    }
}

impl Store for sys::Memory {
    fn write(&self, run: PageRun, from: &[u8]) -> Result<(), Fault> {
        Ok(sys::Memory::write(self, run, from)?)
    }

    fn zero(&self, run: PageRun) -> Result<(), Fault> {
        Ok(sys::Memory::zero(self, run)?)
    }
}

/// The channel is gone, with the first reason that was given for it. Everything on it ends; a new session needs a new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the replication channel is broken: {0}")]
pub struct ChannelBroken(pub Arc<str>);

#[cfg(test)]
mod tests;
