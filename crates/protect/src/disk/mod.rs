//! Disk writes: taken from the guest by NBD on the active host, kept behind barriers on the standby (US 8,417,885).
//!
//! On the active host the guest's QEMU mirrors each disk to [`nbd::Server`], whose [`Forward`] passes every write to a [`Sink`],
//! which is the replication channel, and answers at once. On the standby a [`Buffer`] for each disk takes the writes in that same order,
//! and lets them into the replica's file only up to the last barrier that was committed. Imports nothing of ours.

mod backend;
mod buffer;
mod image;
pub mod nbd;

use std::sync::Arc;

pub use backend::{Backend, Forward, Memory};
pub use buffer::{Buffer, DiskError, Options, Stats, TakenOver};
pub use image::Image;

/// Most bytes that one [`Sink::write`] carries. Larger writes of the guest come in pieces, in order.
pub const PIECE: usize = 1 << 20;

/// Takes a guest's disk writes on the active host, in the order in which they are to reach the replica.
///
/// A call returns as soon as the write is queued; it may wait for room in a bounded queue, and must end that wait with [`Broken`] as soon
/// as nobody will make room any more. A write that was taken before the machine was stopped is in front of the barrier that follows.
pub trait Sink: Send + Sync {
    /// Data, at most [`PIECE`] bytes of it, at `offset` bytes of the disk of that number.
    fn write(&self, disk: u16, offset: u64, data: &[u8]) -> Result<(), Broken>;

    /// Zeroes on `len` bytes from `offset`.
    fn zeroes(&self, disk: u16, offset: u64, len: u64) -> Result<(), Broken>;

    /// The guest needs `len` bytes from `offset` no more. The replica reads as zeroes there.
    fn discard(&self, disk: u16, offset: u64, len: u64) -> Result<(), Broken>;
}

/// The channel behind a [`Sink`] is gone: what was not taken will not reach the standby, and the disk's mirror must end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("disk writes cannot be forwarded any more: {0}; the replica needs a new synchronisation")]
pub struct Broken(pub Arc<str>);
