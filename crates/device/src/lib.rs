//! A device: it enrols with a domain, holds its keys under a passphrase, takes its envelopes from the mailbox, believes and
//! opens them, acknowledges, and asks for content.
//!
//! `spec/device-protocol.md` says what it speaks; the cryptography is `hawser-seal`'s. Both servers are verified by pins out of
//! the enrolment link and its answer, never by public certificates. Imports `hawser-proto`, `hawser-identity`, `hawser-seal`.

mod clock;
mod device;
mod enrol;
mod error;
mod home;
mod http;
mod listen;
mod sse;
mod wrap;

pub use device::{Device, Fetched};
pub use enrol::{Enrolment, enrol};
pub use error::DeviceError;
pub use home::{Home, Identity};
pub use listen::{Arrived, Handled, Message, Receiver};
pub use wrap::Cost;
