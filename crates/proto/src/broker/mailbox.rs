//! The conversation between a gateway and a hub's mailbox, on a connection that the gateway dials
//! (`Hello::Mailbox`): length-prefixed frames in both directions.
//!
//! A mailbox belongs to the domain of the gateway that proved itself: handles are looked up within it. The hub asks for nothing
//! but what devices ask for ([`FromMailbox::Fetch`]), and only here.

use minicbor::{Decode, Encode};

use super::{DeviceHandle, statement::SkipReason};
use crate::{Fault, UnixTime};

/// Bytes of an answer that one [`ToMailbox::Piece`] carries at most.
pub const MAX_PIECE: usize = 128 * 1024;
/// Most acknowledgements in one [`FromMailbox::Reports`].
pub const MAX_REPORTS: usize = 256;
/// Life of a granted answer's handle.
pub const GRANT_LIFE: std::time::Duration = std::time::Duration::from_secs(300);

/// From a gateway to a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToMailbox {
    /// A device may collect envelopes from now on, or still; answered by [`FromMailbox::Done`]. Sent for every device after
    /// connecting, too: it changes nothing then.
    #[n(0)]
    Admit {
        /// Chosen by the gateway, unique on this connection.
        #[n(0)]
        id: u64,
        /// The device.
        #[n(1)]
        device: DeviceHandle,
        /// RFC 7638 thumbprint (SHA-256) of its signing key.
        #[cbor(n(2), with = "minicbor::bytes")]
        thumbprint: [u8; 32],
        /// Its epoch. A lower one than is known is refused.
        #[n(3)]
        epoch: u32,
    },
    /// A device is out: its queue and everything of it goes in one transaction, its streams are cut. Answered by
    /// [`FromMailbox::Done`]. A revoked handle stays revoked.
    #[n(1)]
    Revoke {
        /// Chosen by the gateway.
        #[n(0)]
        id: u64,
        /// The device.
        #[n(1)]
        device: DeviceHandle,
    },
    /// An envelope to keep, answered by [`FromMailbox::Done`] when it is on disk. One that the mailbox has already (same device
    /// and sequence) counts as kept.
    #[n(2)]
    Deposit {
        /// Chosen by the gateway.
        #[n(0)]
        id: u64,
        /// [`super::Envelope`].
        #[cbor(n(1), with = "minicbor::bytes")]
        envelope: Vec<u8>,
    },
    /// Numbers that will not come: a [`super::statement::Signed`] [`super::statement::Skip`] takes the place of whatever is
    /// queued for them. Answered by [`FromMailbox::Done`].
    #[n(3)]
    Skip {
        /// Chosen by the gateway.
        #[n(0)]
        id: u64,
        /// The device.
        #[n(1)]
        device: DeviceHandle,
        /// First number.
        #[n(2)]
        from: u64,
        /// Last number.
        #[n(3)]
        to: u64,
        /// The signed skip record.
        #[cbor(n(4), with = "minicbor::bytes")]
        record: Vec<u8>,
    },
    /// All reports up to this number are in the gateway's own store: the mailbox may forget them.
    #[n(4)]
    Taken(#[n(0)] u64),
    /// The answer to a [`FromMailbox::Fetch`].
    #[n(5)]
    Fetched {
        /// Of the question.
        #[n(0)]
        id: u64,
        /// How it was decided.
        #[n(1)]
        answer: FetchAnswer,
    },
    /// A piece of a granted answer that the mailbox asked for. Empty: the grant is over.
    #[n(6)]
    Piece {
        /// Of the question.
        #[n(0)]
        id: u64,
        /// At most [`MAX_PIECE`] bytes.
        #[cbor(n(1), with = "minicbor::bytes")]
        bytes: Vec<u8>,
    },
    /// Are you there? Answered by [`FromMailbox::Pong`].
    #[n(7)]
    Ping(#[n(0)] u64),
    /// Yes.
    #[n(8)]
    Pong(#[n(0)] u64),
}

/// Whether a device gets what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FetchAnswer {
    /// A sealed answer lies ready for [`GRANT_LIFE`], to be read once, by this device.
    #[n(0)]
    Granted {
        /// Random; the mailbox gives it to the device.
        #[cbor(n(0), with = "minicbor::bytes")]
        grant: [u8; 16],
        /// Bytes of the sealed answer.
        #[n(1)]
        size: u64,
    },
    /// No, and why.
    #[n(1)]
    Refused {
        /// HTTP status.
        #[n(0)]
        status: u16,
        /// For the device's user.
        #[cbor(n(1), decode_with = "crate::line::decode")]
        reason: String,
    },
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// Done, and on disk.
    #[n(0)]
    Kept,
    /// The mailbox knows no such device of this domain: admit it first.
    #[n(1)]
    UnknownDevice,
    /// The device is revoked.
    #[n(2)]
    Revoked,
    /// The device's queue, or the domain's, is full; later it may not be.
    #[n(3)]
    Full,
    /// Not now (disk, load): to be repeated.
    #[n(4)]
    Busy,
    /// It makes no sense, and never will.
    #[n(5)]
    Refused(#[cbor(n(0), decode_with = "crate::line::decode")] String),
}

/// Something that happened to a device's queue, kept by the mailbox until the gateway has it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Report {
    /// Ascending over all reports of a domain.
    #[n(0)]
    pub number: u64,
    /// Whose queue.
    #[n(1)]
    pub device: DeviceHandle,
    /// What happened.
    #[n(2)]
    pub what: Happening,
}

/// What a [`Report`] tells.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Happening {
    /// The device acknowledged: the [`super::statement::Signed`] [`super::statement::Acknowledgement`], not verified by the mailbox.
    #[n(0)]
    Acknowledged(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The envelope was first written to a connection of the device.
    #[n(1)]
    Sent {
        /// Which one.
        #[n(0)]
        sequence: u64,
    },
    /// The mailbox gave an envelope up; the gateway explains that to the device by a skip record.
    #[n(2)]
    GivenUp {
        /// Which one.
        #[n(0)]
        sequence: u64,
        /// Why.
        #[n(1)]
        reason: SkipReason,
    },
}

/// From a mailbox to a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromMailbox {
    /// First message.
    #[n(0)]
    Welcome {
        /// [`crate::VERSION`] of the hub.
        #[n(0)]
        version: u16,
        /// Where devices reach the mailbox: `https://NAME[:PORT]`, told to devices at enrolment.
        #[cbor(n(1), decode_with = "crate::line::decode")]
        url: String,
    },
    /// Not here: the hub has no mailbox for this domain. The connection closes.
    #[n(1)]
    Refused(#[n(0)] Fault),
    /// What became of a request with this id. Answers may come in another order.
    #[n(2)]
    Done {
        /// Of the request.
        #[n(0)]
        id: u64,
        /// What became of it.
        #[n(1)]
        outcome: Outcome,
    },
    /// Up to [`MAX_REPORTS`] reports in order, repeated on every new connection until [`ToMailbox::Taken`].
    #[n(3)]
    Reports(#[n(0)] Vec<Report>),
    /// A device asks for content; answered by [`ToMailbox::Fetched`].
    #[n(4)]
    Fetch {
        /// Chosen by the mailbox, unique on this connection.
        #[n(0)]
        id: u64,
        /// Who proved to be at the mailbox's door.
        #[n(1)]
        device: DeviceHandle,
        /// Its [`super::statement::Signed`] [`super::statement::FetchRequest`].
        #[cbor(n(2), with = "minicbor::bytes")]
        request: Vec<u8>,
    },
    /// The device reads its granted answer, and wants the next bytes; answered by [`ToMailbox::Piece`].
    #[n(5)]
    Pull {
        /// Of the [`FromMailbox::Fetch`].
        #[n(0)]
        id: u64,
        /// Where to begin, in bytes: always where the last piece ended.
        #[n(1)]
        offset: u64,
    },
    /// The device has all, has gone, or was too late: the answer can be forgotten.
    #[n(6)]
    Over(#[n(0)] u64),
    /// A device's streams began or ended: for people's eyes, not kept.
    #[n(7)]
    Contact {
        /// Which one.
        #[n(0)]
        device: DeviceHandle,
        /// Whether it has a stream now.
        #[n(1)]
        connected: bool,
        /// When.
        #[n(2)]
        at: UnixTime,
    },
    /// Are you there? Answered by [`ToMailbox::Pong`].
    #[n(8)]
    Ping(#[n(0)] u64),
    /// Yes.
    #[n(9)]
    Pong(#[n(0)] u64),
}
