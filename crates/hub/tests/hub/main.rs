//! A real hub on loopback, with real identities, spoken to by the gateways' own hop client.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admission;
mod door;
mod life;
mod revocation;
mod rig;
mod sessions;
mod visits;
