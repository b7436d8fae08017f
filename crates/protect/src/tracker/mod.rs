//! Which pages a guest has written since the last checkpoint. Imports [`crate::memory`] and [`crate::sys`].
//!
//! # The rule
//!
//! A tracker is re-armed **only while the guest is stopped** ([`Tracker::take`] between `stop` and `cont`). Re-arming under a running
//! guest loses pages into which a read with O_DIRECT is on its way: the kernel has pinned them, and writes without a page fault.

use crate::{memory::PageRun, sys::MemoryError};

/// Finds the pages that were written.
pub trait Tracker: Send {
    /// Adds all pages written since the last time, sorted and merged, and starts anew. **The guest must be stopped** from before
    /// this call until its end. The first time everything counts as written, holes too.
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
}
