//! The broker's side inside the enterprise: who there is ([`directory`]), and how an event that an application publishes
//! reaches the right person's right device. Plaintext exists here and on that device only.
//!
//! ```text
//! application ─► publishing ─► outbox ─► delivery (the machine) ─► engine: sealing ─► link ─► the hub's mailbox ─► device
//!                                            ▲                                         │
//!                 conversation: reports, receipts, fetching ◄──────────────────────────┘
//! device ─► control: enrolment, tokens, profile, own revocation; the device page ([`page`])
//! ```
//! [`delivery`] decides, without I/O; [`outbox`] keeps; [`core::Core::change`] is the one way in which both change together.
//! Imports `proto`, `identity`, `store`, `seal` and `content`; the connection with the mailbox and the TLS of the published name
//! are brought by whoever runs it ([`Broker`]).

mod control;
mod conversation;
mod core;
pub mod delivery;
pub mod directory;
mod engine;
mod fetching;
pub mod link;
mod listening;
mod metrics;
pub mod outbox;
pub mod page;
mod publishing;
mod reconcile;
mod runtime;
mod sealing;
mod web;

pub use directory::{Directory, DirectoryError};
pub use listening::ListenError;
pub use runtime::{Broker, BrokerError, BrokerStatus, SENDER_KEY, Settings};
pub use sealing::CERTIFICATE_LIFE;
