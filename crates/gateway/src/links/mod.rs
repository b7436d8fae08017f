//! The tunnel's side of a gateway: control connections to hubs, sessions with other gateways, renewal, joining, revocation.
//!
//! Outward, a call goes [`tunnel`] (which peer) -> [`peer`] (which session: [`http_pool`], [`warm`]) -> [`sessions`] (make one)
//! -> [`hub`] (ask for it). Inward, a hub's invitation goes [`hub`] -> [`accept`] -> [`crate::seam::Exports`], and for a client
//! from outside [`hub`] -> [`visits`] -> [`crate::ingress`]. [`trust`] decides
//! who may take part, and [`live`] cuts those who no longer may. [`node`] is what of all this a host needs. [`mailbox`] keeps the
//! broker's connections. Decisions are made in files without I/O: [`routes`],
//! [`exchange`], [`book`], [`warm`], [`backoff`].

mod accept;
mod asking;
pub(crate) mod assembly;
mod backoff;
mod book;
pub(crate) mod chance;
mod exchange;
mod faults;
mod http_pool;
mod hub;
mod hubs;
mod internal;
mod issuing;
mod live;
pub mod mailbox;
mod metrics;
mod node;
mod peer;
pub(crate) mod records;
mod renewal;
pub mod routes;
mod sessions;
mod siblings;
pub mod status;
mod trust;
mod tunnel;
mod visits;
mod warm;

pub use asking::AskError;
pub use assembly::LinksError;
pub use node::{Node, NodeSettings, NodeStatus, Register};
