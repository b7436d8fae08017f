//! Network output of a guest: read at once, held until its epoch is committed, then let go in order, byte for byte.
//!
//! QEMU writes the frames of a network device into one socket (`filter-redirector` with `outdev`) and puts those that it
//! reads from another on the wire (`indev`). [`Output`] sits between: a thread that never stops reading, because QEMU's main
//! loop blocks when the socket is full; [`Output::boundary`] draws the line of an epoch in the caller's thread while the
//! machine stands still; [`Output::release`] lets go what lies before it. Imports nothing of ours.

mod frames;
mod hold;
mod output;
mod port;

pub use hold::{Boundary, Dropped, Held, Limits};
pub use output::{Notify, Output, Signal, Wish};
pub use port::{Ended, PortStatus};

use std::os::unix::net::UnixStream;

/// Largest frame in bytes, as in QEMU (`NET_BUFSIZE`): 64 KiB of payload and 4 KiB for headers.
pub const MAX_FRAME: usize = 64 * 1024 + 4096;

/// One network device of the machine, with the two ends of its redirectors.
#[derive(Debug)]
pub struct Wire {
    /// What it is called in messages: the id of its netdev.
    pub name: String,
    /// Where QEMU writes the guest's frames.
    pub capture: UnixStream,
    /// Where QEMU reads the frames that may leave.
    pub release: UnixStream,
    /// Whether the redirectors run with `vnet_hdr_support=on`: a second length then precedes each frame.
    pub vnet_header: bool,
}

/// Why output cannot be held, or an epoch cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Epochs go up.
    #[error("epoch {epoch} cannot begin after epoch {last}: expected a higher number")]
    Epoch {
        /// What was asked for.
        epoch: u64,
        /// The last boundary.
        last: u64,
    },
    /// A boundary needs a machine that stands still.
    #[error("network device {name} goes on sending: stop the machine before the line of an epoch is drawn")]
    Running {
        /// The device.
        name: String,
    },
    /// The thread could not be set up.
    #[error("cannot start the thread that holds network output: {0}")]
    Start(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
