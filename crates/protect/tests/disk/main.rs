//! Disks: the NBD server with real clients, and the standby's buffer against a model, against full disks and against sudden death.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod buffer;
mod crash;
mod faults;
mod mirror;
mod nbd;
