//! The active side of a machine: it is looked at, offered, and, with the user's consent, protected.

mod engine;
mod offer;
mod session;
mod synchronise;

pub use offer::Request;
pub(crate) use offer::{Offering, prepare};
pub(crate) use session::Session;
