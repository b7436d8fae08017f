//! Command lines of QEMU: described, read from a process, judged, and derived for a standby. The rules here are without I/O;
//! only [`CommandLine::of_process`], the gathering of facts and the accelerator's trial touch the machine.
//!
//! The syntax follows QEMU's `util/qemu-option.c` and `util/keyval.c`.

mod command_line;
mod derive;
mod finding;
mod fitness;
mod syntax;

pub use command_line::{Argument, CommandLine, CommandLineError};
pub use derive::{Change, Derived, Need, Replica, Substitutions, TapSubstitution, derive};
pub use finding::{Finding, Severity, Unfit};
pub use syntax::{Options, SyntaxError, escape};
