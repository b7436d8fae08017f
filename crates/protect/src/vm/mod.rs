//! Command lines of QEMU: described, read from a process, judged, and derived for a standby. The rules here are without I/O;
//! only [`CommandLine::of_process`], the gathering of facts and the accelerator's trial touch the machine.
//!
//! The syntax follows QEMU's `util/qemu-option.c` and `util/keyval.c`.

mod accelerator;
mod command_line;
mod derive;
mod description;
mod facts;
mod finding;
mod fitness;
mod preflight;
mod syntax;

pub use accelerator::{Accelerator, LONGEST as LONGEST_TRIAL, Verdict, choose as choose_accelerator};
pub use command_line::{Argument, CommandLine, CommandLineError};
pub use derive::{Change, Derived, Need, Replica, Substitutions, TapSubstitution, derive};
pub use description::{
    Accel, Aio, Description, DescriptionError, DiskDescription, ImageFormat, NicDescription, Plan,
};
pub use facts::{
    BlockFacts, CpuFacts, DeviceFacts, DiskFacts, Facts, HostFacts, MemoryFacts, ProcessFacts, QemuFacts,
    ReplicaFacts, StandbyFacts,
};
pub use finding::{Finding, Severity, Unfit};
pub use preflight::{LARGEST_HASHED, preflight};
pub use syntax::{Options, SyntaxError, escape};
