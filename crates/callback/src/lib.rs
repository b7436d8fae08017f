//! The way back for callbacks: addresses in messages, and the capabilities that stand in for them.
//!
//! A client names an address by which a service shall call back. Beyond two firewalls that address means nothing, so the client's
//! gateway puts another one in its place, which the server's network can reach and which holds a [`capability`]: the original address,
//! sealed. [`message`] finds such addresses in bodies as they stream by and changes their bytes and no others; [`headers`](headers())
//! and [`query`](query()) do the same for the head. What becomes of an address is not decided here: whoever calls gives a
//! [`Replace`]. [`recorded`] shows what would become of a message in a file.
//!
//! No I/O and no clock. Of the project it imports `proto` alone. What it reads is hostile until shown otherwise: memory is bounded by
//! [`Rules::window`] and a constant, whatever comes.

mod address;
pub mod capability;
mod fields;
pub mod message;
pub mod recorded;
mod replace;
mod rules;

pub use address::{Address, AddressError, MAX_ADDRESS};
pub use capability::{CapabilityError, Grant, Secret, Secrets};
pub use fields::{DIGESTS, headers, query};
pub use message::{Direction, Editor, Plan, Step, decoded};
pub use replace::{
    Left, MAX_ENTRIES, MAX_TEXT, Place, Refusal, Replace, Replaced, Report, Soap, SoapVersion, Subscription,
    SubscriptionStep, Verdict, Why,
};
pub use rules::{DEFAULT_WINDOW, JsonPointer, MAX_POINTER, MAX_SEGMENTS, Overflow, PointerError, Rules};
