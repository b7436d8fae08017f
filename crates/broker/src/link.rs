//! The connection with a mailbox, as the broker sees it: whoever runs the broker brings connections that the gateway dials, and
//! passes on what the mailbox says ([`crate::Broker::heard`]).

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        mailbox::{FetchAnswer, Outcome, Report},
    },
};

/// What a mailbox is asked for. May be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A device may collect.
    Admit {
        /// The device.
        device: DeviceHandle,
        /// RFC 7638 thumbprint (SHA-256) of its signing key.
        thumbprint: [u8; 32],
        /// Its epoch.
        epoch: u32,
    },
    /// A device is out.
    Revoke {
        /// The device.
        device: DeviceHandle,
    },
    /// An envelope to keep.
    Deposit {
        /// Its bytes.
        envelope: Vec<u8>,
    },
    /// Numbers that will not come.
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
    /// The answer to [`Said::Fetch`].
    Fetched {
        /// Of the question.
        id: u64,
        /// The answer.
        answer: FetchAnswer,
    },
    /// The answer to [`Said::Pull`]. Empty: the grant is over.
    Piece {
        /// Of the question.
        id: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// A request without an outcome. Whether it was done is not known; to repeat it does no harm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The connection is gone; [`Said::Down`] comes, or came.
    #[error("{0}")]
    Ended(String),
    /// It stands, but nothing came.
    #[error("{0}")]
    Silent(String),
    /// It cannot be sent, ever.
    #[error("{0}")]
    TooLong(String),
}

/// One connection with one hub's mailbox.
pub trait MailboxLink: Send + Sync + fmt::Debug + 'static {
    /// SHA-256 of the hub's public key.
    fn pin(&self) -> [u8; 32];
    /// Where devices reach the mailbox: `https://NAME[:PORT]`.
    fn url(&self) -> &str;
    /// Asks, and waits for what became of it. Requests reach the mailbox in the order in which their futures were first polled.
    fn request(&self, request: Request) -> BoxFuture<'_, Result<Outcome, Unanswered>>;
    /// Says something. Not cancel safe: it may have been said or not.
    fn reply(&self, reply: Reply) -> BoxFuture<'_, Result<(), Unanswered>>;
}

/// Something that a mailbox says.
#[derive(Debug, Clone)]
pub struct Heard {
    /// On which connection, where it is to be answered.
    pub link: Arc<dyn MailboxLink>,
    /// What.
    pub said: Said,
}

/// What a mailbox says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The connection is there.
    Up,
    /// It has ended, and why.
    Down(String),
    /// Reports, to be answered by [`Reply::Taken`] when they are kept.
    Reports(Vec<Report>),
    /// A device asks for content.
    Fetch {
        /// Of the question, unique on this connection.
        id: u64,
        /// Who proved to be at the mailbox's door.
        device: DeviceHandle,
        /// Its signed [`hawser_proto::broker::statement::FetchRequest`].
        request: Vec<u8>,
    },
    /// A device reads what was granted.
    Pull {
        /// Of the [`Said::Fetch`].
        id: u64,
        /// Where the piece begins, in bytes.
        offset: u64,
    },
    /// The answer to a [`Said::Fetch`] is not needed any more.
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
