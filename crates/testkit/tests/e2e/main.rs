//! End-to-end tests: real networks, the real binary, real clients and servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ground;
mod talk;
