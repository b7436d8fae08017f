//! Clients of the guest's key-value server, the history of what they saw, and the judge of that history.
//!
//! [`Clients`] keep their connections open whatever happens to the machine behind them, and note when each request was sent and
//! answered. [`check`] then says whether any acknowledged write is missing, anywhere.

pub mod check;
mod client;
mod history;
mod log;

pub use client::{Clients, Kv, Plan};
pub use history::{History, Kind, Operation, Outcome};
pub use log::Log;

/// A write as the guest's log holds it.
pub use hawser_guest::log::Record;
