//! What is kept of an event, and of its delivery to one device.

use hawser_proto::{
    UnixTime,
    broker::{
        DeliveryId, DeviceHandle, ItemId, UserName,
        api::State,
        envelope::{Mode, Urgency},
    },
};
use minicbor::{Decode, Encode};

/// Most sealings of a row's present sequence number whose hashes are kept: one for each start of the process while the mailbox
/// has not answered. After that the row takes a new number.
pub const MAX_HASHES: usize = 8;

/// When an event counts as done with a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum AckPolicy {
    /// Every device gets it.
    #[n(0)]
    #[default]
    Each,
    /// One device's acknowledgement withdraws it from the user's others.
    #[n(1)]
    Any,
}

/// An accepted event without its content.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// Its delivery.
    #[n(0)]
    pub delivery: DeliveryId,
    /// Who published it.
    #[n(1)]
    pub application: UserName,
    /// CloudEvents `source`.
    #[n(2)]
    pub source: String,
    /// CloudEvents `id`.
    #[n(3)]
    pub id: String,
    /// CloudEvents `type`.
    #[n(4)]
    pub event_type: String,
    /// When it was accepted.
    #[n(5)]
    pub accepted: UnixTime,
    /// When it ends.
    #[n(6)]
    pub expires: UnixTime,
    /// How urgent.
    #[n(7)]
    pub urgency: Urgency,
    /// How its content comes. `None`: by its size.
    #[n(8)]
    pub mode: Option<Mode>,
    /// When it is done.
    #[n(9)]
    pub ack: AckPolicy,
    /// A later event of the application with the same key takes its place.
    #[n(10)]
    pub collapse: Option<String>,
    /// By which devices ask for its content.
    #[n(11)]
    pub item: ItemId,
}

/// A row: one user's one device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Row {
    /// Whose.
    #[n(0)]
    pub user: UserName,
    /// Which device; none while the user has none.
    #[n(1)]
    pub device: Option<DeviceHandle>,
    /// How far it is.
    #[n(2)]
    pub state: State,
    /// Since when.
    #[n(3)]
    pub since: UnixTime,
    /// The envelope's sequence number; 0 before it is sealed.
    #[n(4)]
    pub sequence: u64,
    /// SHA-256 of each envelope sealed with that number.
    #[n(5)]
    pub hashes: Vec<Hash>,
    /// How often a device could not open it.
    #[n(6)]
    pub failures: u32,
    /// Which variant was chosen.
    #[n(7)]
    pub variant: Option<String>,
    /// Why, where that says more.
    #[n(8)]
    pub reason: Option<String>,
    /// JWS over what the device signed.
    #[n(9)]
    pub receipt: Option<String>,
    /// The device may ask for the content.
    #[n(10)]
    pub fetchable: bool,
}

/// SHA-256 of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Hash(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl Row {
    /// A row at its beginning. Without a device it is held.
    pub fn new(user: UserName, device: Option<DeviceHandle>, now: UnixTime) -> Self {
        let mut row = Self {
            user,
            device,
            state: State::Accepted,
            since: now,
            sequence: 0,
            hashes: Vec::new(),
            failures: 0,
            variant: None,
            reason: None,
            receipt: None,
            fetchable: false,
        };
        if device.is_none() {
            row.hold(now);
        }
        row
    }

    /// Goes to another state.
    pub fn set(&mut self, state: State, now: UnixTime, reason: Option<&str>) {
        if self.state != state {
            self.since = now;
        }
        self.state = state;
        self.reason = reason.map(str::to_owned);
    }

    /// Waits for the user to have a device.
    pub fn hold(&mut self, now: UnixTime) {
        self.set(State::Held, now, Some("the user has no device yet"));
    }

    /// Forgets the number that it was sealed with.
    pub fn unseal(&mut self, now: UnixTime, reason: Option<&str>) {
        self.sequence = 0;
        self.hashes.clear();
        self.set(State::Accepted, now, reason);
    }

    /// Whether its number may stand in the mailbox's queue.
    pub fn is_out(&self) -> bool {
        matches!(self.state, State::Sealed | State::Queued | State::Sent)
    }
}
