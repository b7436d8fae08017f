//! The gateway's connections with the mailboxes of its hubs, one to each: what the enterprise's side of the broker speaks through.
//!
//! The gateway dials; a hub can say nothing to it but what its devices ask for. A connection that is up is a [`MailboxLink`]: it is
//! announced by [`What::Up`], and good for nothing any more after [`What::Down`], when another one comes by itself. What was not
//! answered then is to be asked again on the next one (everything that can be asked may be repeated). The conversation without
//! the connection is in [`talk`].

mod keep;
mod talk;

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use hawser_identity::Fingerprint;
use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        mailbox::{FetchAnswer, Outcome, Report},
    },
};

pub(super) use keep::Keeping;

/// Events that wait to be taken, of all hubs. While so many wait, nothing more is read from the mailboxes.
pub const EVENTS: usize = 256;

/// What a mailbox is asked for. May be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// See [`hawser_proto::broker::mailbox::ToMailbox::Admit`].
    Admit {
        /// The device.
        device: DeviceHandle,
        /// RFC 7638 thumbprint (SHA-256) of its signing key.
        thumbprint: [u8; 32],
        /// Its epoch.
        epoch: u32,
    },
    /// See [`hawser_proto::broker::mailbox::ToMailbox::Revoke`].
    Revoke {
        /// The device.
        device: DeviceHandle,
    },
    /// See [`hawser_proto::broker::mailbox::ToMailbox::Deposit`].
    Deposit {
        /// A whole [`hawser_proto::broker::Envelope`].
        envelope: Vec<u8>,
    },
    /// See [`hawser_proto::broker::mailbox::ToMailbox::Skip`].
    Skip {
        /// The device.
        device: DeviceHandle,
        /// First number.
        from: u64,
        /// Last number.
        to: u64,
        /// The signed skip record.
        record: Vec<u8>,
    },
}

/// What is said to a mailbox without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// All reports up to this number are kept here.
    Taken(u64),
    /// The answer to [`What::Fetch`].
    Fetched {
        /// Of the question.
        id: u64,
        /// The answer.
        answer: FetchAnswer,
    },
    /// The answer to [`What::Pull`]: at most [`hawser_proto::broker::mailbox::MAX_PIECE`] bytes. Empty: the grant is over.
    Piece {
        /// Of the question.
        id: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// Why a mailbox did not answer. Whether it did what it was asked for is not known; to repeat it does no harm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The connection has ended.
    #[error("the connection with the mailbox at {0} has ended: ask again on the next one")]
    Ended(Arc<str>),
    /// It answers nothing, though it is there.
    #[error("the mailbox at {0} did not answer within {after} s: ask again", after = talk::ANSWER.as_secs())]
    Silent(Arc<str>),
    /// The message is over what a frame may hold.
    #[error("a message of {0} bytes is over what the mailbox takes ({most})", most = hawser_proto::frame::MAX_FRAME)]
    TooLong(usize),
}

/// One connection with one hub's mailbox.
pub trait MailboxLink: Send + Sync + fmt::Debug + 'static {
    /// `host:port` of the hub, as it was joined.
    fn hub(&self) -> &str;
    /// The hub's key, for devices that pin it.
    fn pin(&self) -> Fingerprint;
    /// Where devices reach the mailbox: `https://NAME[:PORT]`.
    fn url(&self) -> &str;
    /// Asks, and waits for what became of it. Requests go out in the order in which their futures were first polled. Waits while too much is under way on this connection. Dropped, it may have been
    /// asked or not.
    fn request(&self, request: Request) -> BoxFuture<'_, Result<Outcome, LinkError>>;
    /// Says something. Completes when it waits for the socket. Dropped, it may have been said or not.
    fn reply(&self, reply: Reply) -> BoxFuture<'_, Result<(), LinkError>>;
    /// Whether the connection has not ended.
    fn is_up(&self) -> bool;
}

/// Something that a mailbox says, and the connection that it says it on.
#[derive(Debug, Clone)]
pub struct MailboxEvent {
    /// Where it was said, and where it is to be answered.
    pub link: Arc<dyn MailboxLink>,
    /// What.
    pub what: What,
}

/// What a mailbox says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The connection is there. Every device is to be admitted on it, and what had no outcome to be deposited again.
    Up,
    /// It has ended, and why. Nothing more comes of it.
    Down(String),
    /// See [`hawser_proto::broker::mailbox::FromMailbox::Reports`]. To be answered by [`Reply::Taken`] when they are kept.
    Reports(Vec<Report>),
    /// A device asks for content. To be answered by [`Reply::Fetched`].
    Fetch {
        /// Of the question, unique on this connection.
        id: u64,
        /// Who proved to be at the mailbox's door.
        device: DeviceHandle,
        /// Its signed [`hawser_proto::broker::statement::FetchRequest`].
        request: Vec<u8>,
    },
    /// A device reads what was granted. To be answered by [`Reply::Piece`].
    Pull {
        /// Of the [`What::Fetch`].
        id: u64,
        /// Where the piece begins, in bytes.
        offset: u64,
    },
    /// The answer to a [`What::Fetch`] is not needed any more.
    Over(u64),
    /// A device's streams began or ended.
    Contact {
        /// Which one.
        device: DeviceHandle,
        /// Whether it has a stream now.
        connected: bool,
        /// When.
        at: UnixTime,
    },
}
