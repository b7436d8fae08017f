//! A hub in the hands of an attacker, for the tests that show what it cannot do.
//!
//! [`HostileHub`] has everything a real hub has: its key, its database, the control connections of its gateways, the
//! tickets, and the raw bytes of both sides of every session. Behaving well it is a hub like any other (the positive
//! control); told otherwise it swaps peers, replays, cuts, alters and forges ([`deal`], [`middle`], [`forge`]).
//! Test only: no other crate depends on it.

pub mod deal;
pub mod forge;
pub mod hub;
pub mod middle;

mod control;
mod sessions;

pub use deal::{Answer, Asked, Deal};
pub use forge::Mask;
pub use hub::{Event, HostileHub};
pub use middle::{Ends, Middle, Record, Step, Transcript, Way};
