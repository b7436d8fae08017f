//! Messages that were accepted and are to be delivered later: store and forward.
//!
//! A message is on disk before [`Backend::accept`] answers, and stays until it was delivered or given up; what became of it is
//! known for a while longer. [`open`] is the embedded engine; another one stands behind the same [`Backend`] once it passes the
//! suite `conformance` (feature `testing`). When and where to is not decided here.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod sqlite;
mod tables;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

pub use crate::Reply;
use crate::StoreError;

/// By which a message is known outside: random.
pub type Id = [u8; 16];

/// Opens the database `spool.db` in `dir`, which is made (mode 0700) if it is missing. Blocks.
pub fn open(dir: &Path) -> Result<Arc<dyn Backend>, StoreError> {
    Ok(Arc::new(sqlite::Sqlite::open(dir)?))
}

/// A message to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: Id,
    /// The queue that it is in.
    pub queue: Arc<str>,
    /// Where it goes, within the queue: what is away is away for all messages of a lane.
    pub lane: Arc<str>,
    /// Messages of a lane with the same are delivered in the order in which they were accepted; none: in any.
    pub key: Option<Arc<str>>,
    /// Who sent it.
    pub from: Arc<str>,
    /// By which it is known when it is sent again.
    pub twin: Option<Twin>,
    /// When it was accepted, in milliseconds since 1970.
    pub accepted: u64,
    /// When it is given up, in milliseconds since 1970.
    pub expires: u64,
    /// What is said before the content.
    pub head: Vec<u8>,
    /// The content.
    pub body: Vec<u8>,
}

/// By which a message that is sent again is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twin {
    /// Hash of who sent it and what they call it, unique within the queue.
    pub name: [u8; 32],
    /// Hash of what it says.
    pub content: [u8; 32],
}

/// Bounds on what one queue holds, dead messages included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages.
    pub messages: u64,
    /// Bytes of heads and bodies.
    pub bytes: u64,
}

/// What became of [`Backend::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is kept.
    Kept {
        /// Ascending over all messages, and never used again.
        number: u64,
    },
    /// It was accepted before, under this id.
    Already(Id),
    /// What came before under its name said something else.
    Differs,
    /// The queue is full.
    Full,
}

/// What is known of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Ascending by when messages were accepted.
    pub number: u64,
    /// See [`Message::id`].
    pub id: Id,
    /// See [`Message::queue`].
    pub queue: Arc<str>,
    /// See [`Message::lane`].
    pub lane: Arc<str>,
    /// See [`Message::key`].
    pub key: Option<Arc<str>>,
    /// See [`Message::from`].
    pub from: Arc<str>,
    /// See [`Message::accepted`].
    pub accepted: u64,
    /// See [`Message::expires`].
    pub expires: u64,
    /// Bytes of head and body; 0 once they are gone.
    pub bytes: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// What became of it.
    pub state: State,
    /// What went wrong at the last attempt.
    pub why: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for its delivery.
    Waiting {
        /// Not tried before this time, in milliseconds since 1970.
        next: u64,
    },
    /// It was delivered. Head and body are gone.
    Delivered {
        /// What the target answered.
        status: u16,
        /// When, in milliseconds since 1970.
        at: u64,
    },
    /// It was given up, and waits to be looked at.
    Dead {
        /// When, in milliseconds since 1970.
        at: u64,
    },
}

/// Something that happens to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A waiting one was tried in vain, and will be again.
    Failed {
        /// Not before this time, in milliseconds since 1970.
        next: u64,
        /// What went wrong.
        why: String,
    },
    /// A waiting one was delivered.
    Delivered {
        /// What the target answered.
        status: u16,
        /// When, in milliseconds since 1970.
        at: u64,
    },
    /// A waiting one is given up.
    GivenUp {
        /// When, in milliseconds since 1970.
        at: u64,
        /// Whether it was tried just now.
        tried: bool,
        /// Why.
        why: String,
    },
    /// A dead one waits again, in its old place.
    Replayed {
        /// Tried from then on, in milliseconds since 1970.
        next: u64,
        /// Given up then, in milliseconds since 1970.
        expires: u64,
    },
    /// A waiting or dead one is thrown away.
    Discarded,
}

/// Head and body of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// See [`Message::head`].
    pub head: Vec<u8>,
    /// See [`Message::body`].
    pub body: Vec<u8>,
}

/// Which entries to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of one queue.
    pub queue: Option<Arc<str>>,
    /// Those that wait, were delivered or are dead.
    pub state: Option<Kind>,
    /// Those with a higher number.
    pub after: u64,
}

/// A [`State`] without its particulars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`State::Waiting`].
    Waiting,
    /// [`State::Delivered`].
    Delivered,
    /// [`State::Dead`].
    Dead,
}

impl State {
    /// Which one.
    pub fn kind(&self) -> Kind {
        match self {
            State::Waiting { .. } => Kind::Waiting,
            State::Delivered { .. } => Kind::Delivered,
            State::Dead { .. } => Kind::Dead,
        }
    }
}

/// How much is in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// The queue.
    pub queue: Arc<str>,
    /// Messages that wait.
    pub waiting: u64,
    /// When the oldest of these was accepted, in milliseconds since 1970.
    pub oldest: Option<u64>,
    /// Dead ones.
    pub dead: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// An engine. Calls that change something take effect in the order in which they were made, each as a whole or not at all; an
/// answer comes when the effect is on disk. An engine that has too much to do answers [`StoreError::Busy`].
pub trait Backend: Send + Sync + 'static {
    /// Keeps a message, if its queue is within bounds with it.
    fn accept(&self, message: Message, bounds: Bounds) -> Reply<Accepted>;

    /// Changes what becomes of a message; none when there is no such message in a state that the change is for.
    fn change(&self, id: Id, change: Change) -> Reply<Option<Entry>>;

    /// What is known of a message.
    fn find(&self, id: Id) -> Reply<Option<Entry>>;

    /// Its head and body; none once they are gone.
    fn content(&self, id: Id) -> Reply<Option<Content>>;

    /// Entries in the order of their numbers, `most` at a time.
    fn list(&self, filter: Filter, most: usize) -> Reply<Vec<Entry>>;

    /// Forgets what was delivered, and what was given up, before these times (in milliseconds since 1970): `most` at a time, how
    /// many were forgotten.
    fn sweep(&self, delivered_before: u64, dead_before: u64, most: usize) -> Reply<usize>;

    /// How much there is, by queue.
    fn totals(&self) -> Reply<Vec<Totals>>;
}
