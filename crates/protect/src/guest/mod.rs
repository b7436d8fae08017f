//! A running virtual machine, seen from outside: the [`Guest`] trait and its driver for stock QEMU over QMP. Blocking, for a
//! dedicated thread; a deadline on everything. Imports [`crate::memory`] and [`crate::sys`].

mod error;
mod filters;
mod incoming;
mod leftovers;
mod mirror;
mod qemu;
mod qmp;
mod ramblocks;
mod state;
mod statefile;
mod wire;

pub use error::GuestError;
pub use filters::{Held, Nic};
pub use incoming::Incoming;
pub use leftovers::{Leftovers, Output};
pub use mirror::{Disk, Progress};
pub use qemu::Qemu;
pub use qmp::{Qmp, Ticket, Timeouts};
pub use state::compose;
pub use wire::Event;

use crate::{memory::Layout, sys::Process};

/// What a VM is doing, as QEMU calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Its processors run.
    Running,
    /// Somebody stopped it.
    Paused,
    /// A disk error stopped it; its owner continues it when there is room again.
    IoError,
    /// The guest sleeps (ACPI S3).
    Suspended,
    /// The guest powered off and QEMU was told to stay.
    Shutdown,
    /// It waits for a state to load.
    Incoming,
    /// Anything else, in QEMU's words.
    Other(String),
}

impl RunState {
    fn parse(name: &str) -> Self {
        match name {
            "running" => Self::Running,
            "paused" => Self::Paused,
            "io-error" => Self::IoError,
            "suspended" => Self::Suspended,
            "shutdown" => Self::Shutdown,
            "inmigrate" => Self::Incoming,
            other => Self::Other(other.into()),
        }
    }
}

/// How a VM stands still now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// It ran, and [`Guest::resume`] will continue it. Otherwise it stood already: by its user, a disk error, or sleep.
    pub stopped_by_us: bool,
    /// What QEMU calls the state that it was found in: [`RunState::Running`] when `stopped_by_us`.
    pub found: RunState,
}

/// What happened to a guest, other than by our own suspending and resuming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// It powers off, or its QEMU was told to quit. It must not be resurrected.
    Shutdown {
        /// The guest asked for it, rather than its host.
        by_guest: bool,
        /// In QEMU's words, as in `guest-shutdown` or `host-signal`.
        reason: String,
    },
    /// It rebooted. Sizes of RAM blocks may have changed.
    Reset {
        /// The guest asked for it.
        by_guest: bool,
    },
    /// Somebody else, or an error, stopped it.
    Stopped,
    /// Somebody else continued it.
    Resumed,
    /// A disk failed under it, and it stands until its owner continues it.
    DiskFailed {
        /// The disk, by its device name or node.
        disk: String,
    },
    /// It crashed, says its own kernel.
    Panicked,
    /// Devices or memory were added or removed: the standby no longer fits.
    DevicesChanged,
    /// A mirror has copied everything and now takes each write with the guest.
    MirrorReady {
        /// The job's id, as given to it.
        job: String,
    },
    /// A mirror ended by itself. The guest goes on without it.
    MirrorFailed {
        /// The job's id.
        job: String,
        /// QEMU's reason.
        reason: String,
    },
}

/// A virtual machine that can be suspended, saved and continued while it runs. Another hypervisor is another implementation.
pub trait Guest: Send {
    /// Stops it, and says whether it ran. Disk writes of the guest that were under way are complete when this returns.
    fn suspend(&mut self) -> Result<Suspension, GuestError>;

    /// Continues it, if it is we who stopped it and nothing else stopped it since. Returns whether it was continued.
    /// [`GuestError::Disturbed`]: somebody else did so before, and what was captured meanwhile is void.
    fn resume(&mut self) -> Result<bool, GuestError>;

    /// Begins to save its devices, so that memory can be copied meanwhile. [`Self::device_state`] waits for the end.
    fn begin_device_state(&mut self) -> Result<(), GuestError>;

    /// Puts the state of its devices and processors into `into`, as the hypervisor writes it (32-500 KB, 1-8 ms). The VM stands
    /// still. Without [`Self::begin_device_state`], begins itself.
    fn device_state(&mut self, into: &mut Vec<u8>) -> Result<(), GuestError>;

    /// Its RAM blocks. Changes with devices and resets.
    fn layout(&mut self) -> Result<Layout, GuestError>;

    /// The process that it runs in.
    fn process(&self) -> &Process;

    /// What happened since the last call, also after its process ended. Does not wait.
    fn events(&mut self) -> Result<Vec<GuestEvent>, GuestError>;
}
