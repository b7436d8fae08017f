//! The attacker has the hub: its key, its database, its address and every byte that passes. Real gateways of three domains,
//! set up by the real commands through a real hub, find it in that hub's place. It tries each way to get between two of
//! them; each fails, and the gateways say so.
//!
//! `acme` is peered with `beta` and `gamma`; those two know nothing of each other. Every test starts with a call that works
//! (the positive control) and ends with one.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod announced;
mod control;
mod forged;
mod honest;
mod origin;
mod replayed;
mod revoked;
mod spent;
mod tampered;
mod world;
