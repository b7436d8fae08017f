//! The hub: lets gateways of admitted domains find each other, decides by policy who may pair, and moves their bytes without
//! reading them.
//!
//! The decisions are sans-I/O ([`registry`], [`policy`], [`publish`], [`tickets`], [`pairing`], and `switch` over them); the shell around
//! them accepts connections, serves control connections, pairs data sessions and relays. It holds no key that opens what it
//! relays. Imports `proto`, `identity`, `store` and `session`.

mod admission;
mod arbiter;
mod config;
mod control;
mod data;
mod door;
mod front;
mod hub;
mod join;
mod ledger;
mod listen;
mod lives;
mod mailbox;
mod metrics;
pub mod pairing;
pub mod policy;
pub mod publish;
mod refusal;
pub mod registry;
mod shared;
mod status;
mod switch;
pub mod tickets;
mod visit;

pub use arbiter::{ForgetError, RegisteredMachine, forget_registered, registered};
pub use config::{Allow, ConfigError, HubConfig, HubPlan, Limits, Publish};
pub use hub::{Hub, HubError};
pub use ledger::{
    Admitted, LedgerError, MAX_TOKEN_LIFE, Subject, admit_own, admitted, forget, make_token, revoke, revoked,
};
pub use mailbox::{MailboxConfig, MailboxLimits, MailboxPlan};
pub use status::{DomainStatus, GatewayStatus, HubStatus, MailboxStatus};
