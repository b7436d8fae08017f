//! The durable outbox: accepted events, encrypted under a local key ([`crypt`]), until their time is over. What
//! [`Outbox::insert`] has returned for is on disk; a `202` to a publisher says no less.
//!
//! [`engine`] holds the bytes: one SQLite file, one thread, many calls in one transaction. Here they get their meaning.

pub mod crypt;
mod engine;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hawser_identity::IdentityError;
use hawser_proto::{
    UnixTime,
    broker::{
        DeliveryId, DeviceHandle, ItemId,
        envelope::{encoded, whole},
        statement::SkipReason,
    },
};
use zeroize::Zeroizing;

pub use crypt::LocalKey;
use engine::{Engine, RawEvent, RawRow, Writes};
pub use engine::{Place, Usage};

use crate::delivery::{Event, Row};

/// How long what became of an event can be asked for after its end.
pub const RECORDS: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Why the outbox did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The file of the key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key is no key.
    #[error(
        "{path} has {length} bytes: expected 32 random ones; restore it from a backup, or remove it and outbox.db together"
    )]
    Key {
        /// Its file.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The file of the database.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Of another version.
    #[error("{path} is of format {found}, this software knows {known}: update it")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: i64,
        /// What is known.
        known: i64,
    },
    /// The database engine.
    #[error("the outbox's database: {0}")]
    Engine(String),
    /// The thread that owns the database is gone.
    #[error("the outbox is closed")]
    Closed,
    /// A record that does not open.
    #[error("what the outbox holds of {0} is damaged, or was written under another outbox.key")]
    Damaged(DeliveryId),
    /// The cryptography library.
    #[error("the cryptography library would not {0}; try again")]
    Library(&'static str),
    /// No room.
    #[error("the outbox is full ({events} events, {bytes} bytes): publish again later")]
    Full {
        /// Events that are not done.
        events: u64,
        /// Bytes of their contents.
        bytes: u64,
    },
}

/// What became of an event that was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is on disk.
    New,
    /// The same was there before, as this delivery.
    Duplicate(DeliveryId),
}

/// An event with its rows, as they lie in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The event.
    pub event: Event,
    /// Its rows, in the order of their numbers.
    pub rows: Vec<Row>,
}

/// Sequence numbers of a device that need a skip record which the mailbox has not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Whose.
    pub device: DeviceHandle,
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
    /// Why.
    pub reason: SkipReason,
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows: event, number, content.
    pub rows: Vec<(DeliveryId, u32, Row)>,
    /// The next sequence number of devices.
    pub lanes: Vec<(DeviceHandle, u64)>,
    /// Gaps that need a skip record from now on.
    pub gaps: Vec<Gap>,
    /// Gaps that need none any more.
    pub filled: Vec<(DeviceHandle, u64)>,
    /// Events of which every row is final; `true`: nobody can ask for the content any more.
    pub done: Vec<(DeliveryId, bool)>,
    /// Devices that are out for good: their numbers and gaps are forgotten.
    pub gone: Vec<DeviceHandle>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and then those.
    pub fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.lanes.append(&mut other.lanes);
        self.gaps.append(&mut other.gaps);
        self.filled.append(&mut other.filled);
        self.done.append(&mut other.done);
        self.gone.append(&mut other.gone);
    }
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Restored {
    /// Events with rows that are not final.
    pub live: Vec<Kept>,
    /// The next sequence number of each device.
    pub lanes: Vec<(DeviceHandle, u64)>,
    /// Gaps without a confirmed skip record.
    pub gaps: Vec<Gap>,
}

/// The outbox of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    key: Arc<LocalKey>,
    engine: Arc<Engine>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbox")
    }
}

impl Outbox {
    /// Opens the outbox in a gateway's state directory. Blocks.
    pub fn open(dir: &Path) -> Result<Self, OutboxError> {
        Ok(Self {
            key: Arc::new(LocalKey::load_or_create(dir)?),
            engine: Arc::new(Engine::open(dir)?),
        })
    }

    /// The key, for what else rests on it.
    pub fn key(&self) -> &LocalKey {
        &self.key
    }

    /// A place in the queue of writes. Waits until there is one. Cancel safe.
    pub async fn place(&self) -> Result<Place, OutboxError> {
        self.engine.place().await
    }

    /// Keeps an event, its content (any bytes) and its rows, unless the same is there. Durable when it returns.
    pub async fn insert(&self, kept: &Kept, content: Zeroizing<Vec<u8>>) -> Result<Inserted, OutboxError> {
        let event = &kept.event;
        let key = self.key.of(&event.delivery)?;
        let mut rows = Vec::with_capacity(kept.rows.len());
        for (number, row) in (0..).zip(&kept.rows) {
            rows.push(self.close_row(&event.delivery, number, row)?);
        }
        let raw = RawEvent {
            id: event.delivery,
            dedupe: self.key.dedupe(&event.application, &event.source, &event.id),
            item: event.item,
            accepted: event.accepted,
            expires: event.expires,
            record: key.close(b"event", Zeroizing::new(encoded(event)))?,
            content: key.close(b"content", content)?,
        };
        let place = self.place().await?;
        self.engine.insert(place, raw, rows).await
    }

    /// Makes changes in the order in which they were submitted: the returned future only waits until they are on disk.
    pub fn write(
        &self,
        place: Place,
        changes: Changes,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send + use<> {
        let writes = self.close_changes(changes);
        let engine = self.engine.clone();
        let submitted = writes.and_then(|writes| engine.write(place, writes));
        async move { submitted?.wait().await }
    }

    fn close_changes(&self, changes: Changes) -> Result<Writes, OutboxError> {
        let mut rows = Vec::with_capacity(changes.rows.len());
        for (event, number, row) in &changes.rows {
            rows.push(self.close_row(event, *number, row)?);
        }
        Ok(Writes {
            rows,
            lanes: changes.lanes,
            gaps: changes.gaps,
            filled: changes.filled,
            done: changes.done,
            gone: changes.gone,
        })
    }

    /// What a start needs: all that is not done.
    pub async fn restore(&self) -> Result<Restored, OutboxError> {
        let (live, lanes, gaps) = self.engine.live().await?;
        let live = live
            .into_iter()
            .map(|(id, record, rows)| self.open_kept(id, &record, rows));
        Ok(Restored {
            live: live.collect::<Result<_, _>>()?,
            lanes,
            gaps,
        })
    }

    /// An event and its rows, done or not. `None`: unknown, or long over.
    pub async fn kept(&self, id: DeliveryId) -> Result<Option<Kept>, OutboxError> {
        match self.engine.event(id).await? {
            Some((record, rows)) => self.open_kept(id, &record, rows).map(Some),
            None => Ok(None),
        }
    }

    /// The event whose content is this item.
    pub async fn by_item(&self, item: ItemId) -> Result<Option<DeliveryId>, OutboxError> {
        self.engine.by_item(item).await
    }

    /// The row that has this sequence number of a device: event and number.
    pub async fn by_sequence(
        &self,
        device: DeviceHandle,
        sequence: u64,
    ) -> Result<Option<(DeliveryId, u32)>, OutboxError> {
        self.engine.by_sequence(device, sequence).await
    }

    /// An event's content. `None`: it is there no longer.
    pub async fn content(&self, id: DeliveryId) -> Result<Option<Zeroizing<Vec<u8>>>, OutboxError> {
        match self.engine.content(id).await? {
            Some(closed) => self.key.of(&id)?.open(b"content", &closed).map(Some),
            None => Ok(None),
        }
    }

    /// Forgets contents of events whose time is over, and [`RECORDS`] later what became of them.
    pub async fn expire(&self, now: UnixTime) -> Result<(), OutboxError> {
        self.engine.expire(now).await
    }

    /// How much there is.
    pub async fn usage(&self) -> Result<Usage, OutboxError> {
        self.engine.usage().await
    }

    fn close_row(&self, event: &DeliveryId, number: u32, row: &Row) -> Result<RawRow, OutboxError> {
        let key = self.key.of(event)?;
        Ok(RawRow {
            event: *event,
            number,
            device: row.device.filter(|_| row.sequence > 0),
            sequence: row.sequence,
            record: key.close(&row_place(number), Zeroizing::new(encoded(row)))?,
        })
    }

    fn open_kept(
        &self,
        id: DeliveryId,
        record: &[u8],
        rows: Vec<(u32, Vec<u8>)>,
    ) -> Result<Kept, OutboxError> {
        let key = self.key.of(&id)?;
        let damaged = |_| OutboxError::Damaged(id);
        let event = whole(&key.open(b"event", record)?).map_err(damaged)?;
        let open = |(number, record): (u32, Vec<u8>)| {
            whole(&key.open(&row_place(number), &record)?).map_err(damaged)
        };
        Ok(Kept {
            event,
            rows: rows.into_iter().map(open).collect::<Result<_, _>>()?,
        })
    }
}

fn row_place(number: u32) -> [u8; 7] {
    let mut place = *b"row\0\0\0\0";
    place[3..].copy_from_slice(&number.to_be_bytes());
    place
}
