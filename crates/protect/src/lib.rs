//! Keeps a running, stock QEMU/KVM machine alive when its host dies: checkpoints of memory, devices and disks to a standby,
//! network output held until its checkpoint is there, and one register that says who may run.
//!
//! Dedicated threads with blocking I/O carry what is timed in microseconds (suspend, copy, send, capture); everything else is
//! asynchronous. The decisions are in [`epoch`], without I/O.

pub mod arbiter;
pub mod disk;
pub mod epoch;
pub mod guest;
pub mod host;
pub mod link;
pub mod memory;
pub mod net;
pub mod pipe;
pub mod ring;
pub mod sys;
pub mod tracker;
mod urgent;
pub mod vm;
