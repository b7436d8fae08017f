//! Real guests under stock QEMU: a Debian kernel with our own program in it, on every version of QEMU that matters.
//!
//! ```no_run
//! use hawser_testkit::vm::{Machine, Spec, Version, here};
//! for version in Version::all()? {
//!     let machine = Machine::start(&here(), &Spec::new(&version))?;
//!     machine.wait_up()?;
//! }
//! # anyhow::Ok(())
//! ```

mod cpio;
mod image;
mod machine;
mod spec;
mod version;

pub use image::Image;
pub use machine::{BOOT, Machine};
pub use spec::{Aio, Drive, MACHINE, Nic, Ram, Spec};
pub use version::Version;

use std::net::Ipv4Addr;

use crate::Host;

/// The port of the guest's server.
pub const KV_PORT: u16 = 7000;

/// This machine itself, for guests that need no network of hosts.
pub fn here() -> Host {
    Host::on_loopback("here", Ipv4Addr::LOCALHOST)
}
