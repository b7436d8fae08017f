//! What the broker's parts say to each other: the enterprise's side (in a gateway), the mailbox (in a hub) and devices.
//!
//! [`envelope`] is what a mailbox holds and cannot open; [`statement`] what one party signs and another checks; [`mailbox`] the
//! conversation between a gateway and a hub's mailbox; [`enrolment`] how a device comes in; [`api`] the JSON that devices and applications exchange over HTTP.
//! `spec/envelope.md` and `spec/device-protocol.md` say the same in prose, with test vectors.

pub mod api;
pub mod enrolment;
pub mod envelope;
pub mod id;
pub mod mailbox;
pub mod statement;

pub use envelope::{Envelope, Header, Kind, Urgency};
pub use id::{DeliveryId, DeviceHandle, IdError, ItemId, KeyId, UserName};
