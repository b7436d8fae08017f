//! Which pages a guest has written since the last checkpoint. Imports [`crate::memory`] and [`crate::sys`].
//!
//! # The rule
//!
//! A tracker is re-armed **only while the guest is stopped** ([`Tracker::take`] between `stop` and `cont`). Re-arming under a running
//! guest loses pages into which a read with O_DIRECT is on its way: the kernel has pinned them, and writes without a page fault.
//!
//! # What counts as written
//!
//! Everything that QEMU or its guest, or the kernel for them, wrote through QEMU's own address space. Pages that a guest gave back
//! (balloon, free page reporting) may or may not count, although they read as zero afterwards: a guest may not rely on what is
//! in them, and finds their old contents after a fail-over.

mod hashed;
mod written;

pub use hashed::Hashed;
pub use written::Written;

use crate::{
    memory::{Layout, PageRun},
    sys::{Memory, MemoryError, Process, WatchError},
};

/// Finds the pages that were written.
pub trait Tracker: Send {
    /// Adds all pages written since the last time, sorted and merged, and starts anew. **The guest must be stopped** from before
    /// this call until its end. The first time everything counts as written, holes too (see [`Memory::populated`]).
    fn take(&mut self, into: &mut Vec<PageRun>) -> Result<(), TrackerError>;

    /// How many pages [`take`](Self::take) would find now. The guest may run.
    fn peek(&mut self) -> Result<u64, TrackerError>;
}

/// Why the written pages are not known. After any of these the tracker is useless, and what it tracked must be copied anew.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The process could not be read, or has died.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel does not note writes in this process at all.
    #[error("writes of process {pid} cannot be watched: {source}")]
    Watch {
        /// Number of the QEMU process.
        pid: u32,
        /// What stands in the way.
        source: WatchError,
    },
    /// Another program watches this block already.
    #[error(
        "RAM block `{block}` of process {pid} is watched by another program: is another agent at work, or a migration?"
    )]
    Taken {
        /// Name of the block.
        block: String,
        /// Number of the QEMU process.
        pid: u32,
    },
    /// A block cannot be watched, or no longer: QEMU put other memory in its place.
    #[error(
        "RAM block `{block}` of process {pid} cannot be watched: {source}; was memory plugged or unplugged?"
    )]
    Block {
        /// Name of the block.
        block: String,
        /// Number of the QEMU process.
        pid: u32,
        /// What stands in the way.
        source: WatchError,
    },
}

/// A tracker for a guest.
pub struct Choice {
    /// The best one that works here.
    pub tracker: Box<dyn Tracker>,
    /// Why it is not [`Written`] but [`Hashed`], which reads all of a guest's memory at each checkpoint: 0.3 s per GiB.
    pub instead: Option<TrackerError>,
}

/// Picks a tracker for a guest, which may run.
pub fn choose(process: &Process, layout: &Layout) -> Result<Choice, TrackerError> {
    let pid = process.pid();
    let instead = match Written::attach(process, layout) {
        Ok(written) => {
            let tracker = Box::new(written);
            return Ok(Choice {
                tracker,
                instead: None,
            });
        }
        Err(_) if !process.is_alive() => return Err(MemoryError::Gone { pid }.into()),
        Err(e) => e,
    };
    let memory = Memory::open(process, layout)?;
    Ok(Choice {
        tracker: Box::new(Hashed::new(memory)),
        instead: Some(instead),
    })
}
