//! Sessions: dialling out to a hub, being paired there, the hub's blind relay, and the end-to-end sessions of two gateways.
//!
//! The layers, from the wire up: a [`carrier`] is a byte stream to the hub; a [`hop`] is mutual TLS with the hub on it, over
//! which tickets are shown and control messages run; after pairing the hub [`relay`]s raw bytes, through which two gateways
//! run their own TLS, an [`end_to_end`] session; on that ride [`http`] (HTTP/2) or one [`tcp`] connection.
//! Who comes from outside for a published name is told from gateways by its ClientHello ([`hello`]).
//! Imports `proto` and `identity` only.

pub mod carrier;
pub mod end_to_end;
pub mod frame;
pub mod hello;
pub mod hop;
pub mod http;
pub mod record;
pub mod relay;
pub mod socket;
pub mod tcp;

mod body;
mod notice;
mod slots;

pub use body::{Body, BoxError, collect, empty, full};
pub use carrier::{BoxedCarrier, Carrier};
pub use end_to_end::{EndToEnd, SessionError};
