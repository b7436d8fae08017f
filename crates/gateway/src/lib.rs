//! The tunnel gateway: a web proxy and local listeners towards its own domain's clients, exports of its own domain's
//! services, and in between end-to-end sessions with other gateways through hubs that see ciphertext only.
//!
//! `front` takes calls from clients and gives them to [`seam::Links`]; `links` carries them to the exporting gateway; there
//! `links` hands them to [`seam::Exports`], which `export` implements. `front` and `export` know nothing of sessions, and
//! `links` knows nothing of proxies and origins. `spool` keeps what is to be delivered later. `public` serves those who come from
//! outside by a published name: it asks who they are, and gives their requests to `export`.

mod access_log;
pub mod acme;
pub mod admin;
pub mod callbacks;
pub mod calls;
pub mod carriers;
pub mod config;
pub mod export;
pub mod front;
pub mod headers;
pub mod https;
pub mod ingress;
pub mod inspect;
pub mod links;
pub mod problem;
pub mod public;
pub mod runtime;
pub mod seam;
pub mod spool;
pub mod stream;
pub mod traces;
pub mod websocket;

pub use links::{AskError, Node, NodeSettings, NodeStatus, Register};
pub use runtime::{Gateway, GatewayError, GatewayStatus};
