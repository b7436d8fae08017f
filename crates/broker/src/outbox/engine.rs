//! The outbox's file, `outbox.db`: SQLite in WAL mode with full sync. One thread owns the connection; calls reach it by a bounded
//! queue, and all that wait go into one transaction, so that many events share one sync. It sees ciphertext, numbers and times.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Arc, mpsc},
};

use hawser_proto::{
    UnixTime,
    broker::{DeliveryId, DeviceHandle, ItemId, statement::SkipReason},
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Gap, Inserted, OutboxError, RECORDS};

/// File in the state directory (mode 0600).
const FILE: &str = "outbox.db";
/// "HWOB" in SQLite's `application_id`.
const APPLICATION: i64 = 0x4857_4f42;
/// In SQLite's `user_version`.
const FORMAT: i64 = 1;
/// Calls that may wait for the thread; further callers wait for a place.
const MAX_QUEUED: usize = 1024;
/// Most calls in one transaction.
const MAX_GROUP: usize = 256;
/// Events that may be in the outbox and not done.
pub(super) const MAX_LIVE: u64 = 100_000;
/// Bytes of contents that may be in the outbox.
pub(super) const MAX_BYTES: u64 = 4 << 30;
/// Rows that one call of [`Engine::expire`] removes at most, so that others get their turn.
const MAX_EXPIRED: u32 = 1000;

const SCHEMA: &str = "
    CREATE TABLE event (id BLOB PRIMARY KEY, dedupe BLOB NOT NULL UNIQUE, item BLOB NOT NULL UNIQUE, expires INTEGER NOT NULL,
        live INTEGER NOT NULL, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX event_live ON event (live) WHERE live = 1;
    CREATE INDEX event_expires ON event (expires);
    CREATE TABLE content (event BLOB PRIMARY KEY, expires INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;
    CREATE INDEX content_expires ON content (expires);
    CREATE TABLE delivery (event BLOB NOT NULL, number INTEGER NOT NULL, device BLOB, sequence INTEGER NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (event, number)) STRICT, WITHOUT ROWID;
    CREATE INDEX delivery_sequence ON delivery (device, sequence) WHERE device IS NOT NULL;
    CREATE TABLE lane (device BLOB PRIMARY KEY, next INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE gap (device BLOB NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reason INTEGER NOT NULL,
        PRIMARY KEY (device, first)) STRICT, WITHOUT ROWID;
    CREATE TABLE usage (id INTEGER PRIMARY KEY CHECK (id = 1), live INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    INSERT INTO usage VALUES (1, 0, 0);
    CREATE TRIGGER content_in AFTER INSERT ON content BEGIN UPDATE usage SET bytes = bytes + length(NEW.bytes); END;
    CREATE TRIGGER content_out AFTER DELETE ON content BEGIN UPDATE usage SET bytes = bytes - length(OLD.bytes); END;
    CREATE TRIGGER live_in AFTER INSERT ON event BEGIN UPDATE usage SET live = live + NEW.live; END;
    CREATE TRIGGER live_change AFTER UPDATE OF live ON event BEGIN
        UPDATE usage SET live = live + NEW.live - OLD.live; END;
    CREATE TRIGGER live_out AFTER DELETE ON event BEGIN UPDATE usage SET live = live - OLD.live; END;
";

/// How much the outbox holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events that are not done.
    pub events: u64,
    /// Bytes of contents.
    pub bytes: u64,
}

/// A place in the queue, which a write uses up.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

pub(super) struct RawEvent {
    pub(super) id: DeliveryId,
    pub(super) dedupe: [u8; 32],
    pub(super) item: ItemId,
    pub(super) accepted: UnixTime,
    pub(super) expires: UnixTime,
    pub(super) record: Vec<u8>,
    pub(super) content: Vec<u8>,
}

pub(super) struct RawRow {
    pub(super) event: DeliveryId,
    pub(super) number: u32,
    pub(super) device: Option<DeviceHandle>,
    pub(super) sequence: u64,
    pub(super) record: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Writes {
    pub(super) rows: Vec<RawRow>,
    pub(super) lanes: Vec<(DeviceHandle, u64)>,
    pub(super) gaps: Vec<Gap>,
    pub(super) filled: Vec<(DeviceHandle, u64)>,
    pub(super) done: Vec<(DeliveryId, bool)>,
    pub(super) gone: Vec<DeviceHandle>,
}

/// An event's id, its record, and its rows: number and record.
pub(super) type RawKept = (DeliveryId, Vec<u8>, Vec<(u32, Vec<u8>)>);

/// What a call left to say once the transaction has ended, well or not.
type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;
type Work = Box<dyn FnOnce(&Transaction<'_>) -> Reply + Send>;

/// A call that has its place in the order; what remains is to wait for it.
pub(super) struct Submitted<R>(oneshot::Receiver<Result<R, OutboxError>>);

impl<R> Submitted<R> {
    pub(super) async fn wait(self) -> Result<R, OutboxError> {
        self.0.await.map_err(|_| OutboxError::Closed)?
    }
}

pub(super) struct Engine {
    queue: mpsc::Sender<(Work, Place)>,
    places: Arc<Semaphore>,
}

impl Engine {
    pub(super) fn open(dir: &Path) -> Result<Self, OutboxError> {
        let path = dir.join(FILE);
        let at = |source| OutboxError::File {
            path: path.clone(),
            source,
        };
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
            .map_err(at)?;
        let connection = connect(&path)?;
        // Bounded by the semaphore, whose permit travels with the call.
        let (queue, calls) = mpsc::channel();
        std::thread::Builder::new()
            .name("hawser-outbox".into())
            .spawn(move || run(connection, &calls))
            .map_err(at)?;
        Ok(Self {
            queue,
            places: Arc::new(Semaphore::new(MAX_QUEUED)),
        })
    }

    pub(super) async fn place(&self) -> Result<Place, OutboxError> {
        let permit = self.places.clone().acquire_owned().await;
        permit
            .map(|permit| Place { _permit: permit })
            .map_err(|_| OutboxError::Closed)
    }

    /// Puts a call into the queue. Its effects and its answer come with its group's transaction.
    fn submit<R: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&Transaction<'_>) -> Result<R, OutboxError> + Send + 'static,
    ) -> Result<Submitted<R>, OutboxError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |transaction| {
            let result = alone(transaction, work);
            Box::new(move |ended| {
                // The caller may have gone; the work is done all the same.
                let _ = reply.send(match ended {
                    Ok(()) => result,
                    Err(e) => Err(OutboxError::Engine(e)),
                });
            })
        });
        self.queue.send((work, place)).map_err(|_| OutboxError::Closed)?;
        Ok(Submitted(answer))
    }

    async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<R, OutboxError> + Send + 'static,
    ) -> Result<R, OutboxError> {
        let place = self.place().await?;
        self.submit(place, work)?.wait().await
    }

    pub(super) async fn insert(
        &self,
        place: Place,
        event: RawEvent,
        rows: Vec<RawRow>,
    ) -> Result<Inserted, OutboxError> {
        self.submit(place, move |t| insert(t, &event, &rows))?
            .wait()
            .await
    }

    pub(super) fn write(&self, place: Place, writes: Writes) -> Result<Submitted<()>, OutboxError> {
        self.submit(place, move |t| write(t, &writes))
    }

    #[allow(clippy::type_complexity, reason = "three lists, taken apart at once")]
    pub(super) async fn live(
        &self,
    ) -> Result<(Vec<RawKept>, Vec<(DeviceHandle, u64)>, Vec<Gap>), OutboxError> {
        self.call(|t| {
            let mut events = Vec::new();
            let mut query = t
                .prepare_cached("SELECT id, record FROM event WHERE live = 1")
                .map_err(engine)?;
            let found = query.query_map([], |row| Ok((DeliveryId(row.get(0)?), row.get(1)?)));
            for event in found.map_err(engine)? {
                let (id, record) = event.map_err(engine)?;
                events.push((id, record, rows(t, &id)?));
            }
            let lanes = list(t, "SELECT device, next FROM lane", |row| {
                Ok((DeviceHandle(row.get(0)?), number(row, 1)?))
            })?;
            let gaps = list(t, "SELECT device, first, last, reason FROM gap", |row| {
                Ok(Gap {
                    device: DeviceHandle(row.get(0)?),
                    from: number(row, 1)?,
                    to: number(row, 2)?,
                    reason: reason(row.get(3)?),
                })
            })?;
            Ok((events, lanes, gaps))
        })
        .await
    }

    #[allow(clippy::type_complexity, reason = "as in RawKept")]
    pub(super) async fn event(
        &self,
        id: DeliveryId,
    ) -> Result<Option<(Vec<u8>, Vec<(u32, Vec<u8>)>)>, OutboxError> {
        self.call(move |t| {
            let record = one(t, "SELECT record FROM event WHERE id = ?1", &id.0, |row| {
                row.get(0)
            })?;
            record.map(|record| Ok((record, rows(t, &id)?))).transpose()
        })
        .await
    }

    pub(super) async fn by_item(&self, item: ItemId) -> Result<Option<DeliveryId>, OutboxError> {
        self.call(move |t| {
            let found = one(t, "SELECT id FROM event WHERE item = ?1", &item.0, |row| {
                row.get(0)
            })?;
            Ok(found.map(DeliveryId))
        })
        .await
    }

    pub(super) async fn by_sequence(
        &self,
        device: DeviceHandle,
        sequence: u64,
    ) -> Result<Option<(DeliveryId, u32)>, OutboxError> {
        self.call(move |t| {
            t.prepare_cached("SELECT event, number FROM delivery WHERE device = ?1 AND sequence = ?2")
                .and_then(|mut q| {
                    q.query_row(params![device.0, sequence.cast_signed()], |row| {
                        Ok((DeliveryId(row.get(0)?), row.get(1)?))
                    })
                    .optional()
                })
                .map_err(engine)
        })
        .await
    }

    pub(super) async fn content(&self, id: DeliveryId) -> Result<Option<Vec<u8>>, OutboxError> {
        self.call(move |t| {
            one(t, "SELECT bytes FROM content WHERE event = ?1", &id.0, |row| {
                row.get(0)
            })
        })
        .await
    }

    pub(super) async fn expire(&self, now: UnixTime) -> Result<(), OutboxError> {
        self.call(move |t| {
            let over = now.0.cast_signed();
            let forgotten = now.0.saturating_sub(RECORDS.as_secs()).cast_signed();
            execute(
                t,
                "DELETE FROM content WHERE event IN (SELECT event FROM content WHERE expires <= ?1 LIMIT ?2)",
                params![over, MAX_EXPIRED],
            )?;
            let old = "SELECT id FROM event WHERE expires <= ?1 AND live = 0 ORDER BY expires LIMIT ?2";
            execute(
                t,
                &format!("DELETE FROM delivery WHERE event IN ({old})"),
                params![forgotten, MAX_EXPIRED],
            )?;
            execute(
                t,
                &format!("DELETE FROM event WHERE id IN ({old})"),
                params![forgotten, MAX_EXPIRED],
            )
        })
        .await
    }

    pub(super) async fn usage(&self) -> Result<Usage, OutboxError> {
        self.call(usage).await
    }
}

fn insert(t: &Transaction<'_>, event: &RawEvent, rows: &[RawRow]) -> Result<Inserted, OutboxError> {
    let known = one(
        t,
        "SELECT id, expires FROM event WHERE dedupe = ?1",
        &event.dedupe,
        |row| Ok((row.get(0)?, number(row, 1)?)),
    )?;
    match known {
        // Its time is over, only the record is left: the same source and id may come again.
        Some((known, expires)) if expires <= event.accepted.0 => {
            execute(t, "UPDATE event SET dedupe = id WHERE id = ?1", params![known])?;
        }
        Some((known, _)) => return Ok(Inserted::Duplicate(DeliveryId(known))),
        None => {}
    }
    let Usage { events, bytes } = usage(t)?;
    if events >= MAX_LIVE || bytes + event.content.len() as u64 > MAX_BYTES {
        return Err(OutboxError::Full { events, bytes });
    }
    let expires = event.expires.0.cast_signed();
    execute(
        t,
        "INSERT INTO event (id, dedupe, item, expires, live, record) VALUES (?1, ?2, ?3, ?4, 1, ?5)",
        params![event.id.0, event.dedupe, event.item.0, expires, event.record],
    )?;
    execute(
        t,
        "INSERT INTO content (event, expires, bytes) VALUES (?1, ?2, ?3)",
        params![event.id.0, expires, event.content],
    )?;
    rows.iter().try_for_each(|row| put_row(t, row))?;
    Ok(Inserted::New)
}

fn write(t: &Transaction<'_>, writes: &Writes) -> Result<(), OutboxError> {
    writes.rows.iter().try_for_each(|row| put_row(t, row))?;
    for (device, next) in &writes.lanes {
        execute(
            t,
            "INSERT INTO lane (device, next) VALUES (?1, ?2) ON CONFLICT (device) DO UPDATE SET next = max(next, excluded.next)",
            params![device.0, next.cast_signed()],
        )?;
    }
    for gap in &writes.gaps {
        execute(
            t,
            "INSERT OR REPLACE INTO gap (device, first, last, reason) VALUES (?1, ?2, ?3, ?4)",
            params![
                gap.device.0,
                gap.from.cast_signed(),
                gap.to.cast_signed(),
                code(gap.reason)
            ],
        )?;
    }
    for (device, first) in &writes.filled {
        execute(
            t,
            "DELETE FROM gap WHERE device = ?1 AND first = ?2",
            params![device.0, first.cast_signed()],
        )?;
    }
    for (event, forget) in &writes.done {
        execute(t, "UPDATE event SET live = 0 WHERE id = ?1", params![event.0])?;
        if *forget {
            execute(t, "DELETE FROM content WHERE event = ?1", params![event.0])?;
        }
    }
    for device in &writes.gone {
        execute(t, "DELETE FROM lane WHERE device = ?1", params![device.0])?;
        execute(t, "DELETE FROM gap WHERE device = ?1", params![device.0])?;
    }
    Ok(())
}

fn put_row(t: &Transaction<'_>, row: &RawRow) -> Result<(), OutboxError> {
    execute(
        t,
        "INSERT OR REPLACE INTO delivery (event, number, device, sequence, record) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            row.event.0,
            row.number,
            row.device.map(|d| d.0),
            row.sequence.cast_signed(),
            row.record
        ],
    )
}

fn rows(t: &Transaction<'_>, id: &DeliveryId) -> Result<Vec<(u32, Vec<u8>)>, OutboxError> {
    let mut query = t
        .prepare_cached("SELECT number, record FROM delivery WHERE event = ?1 ORDER BY number")
        .map_err(engine)?;
    let found = query.query_map([id.0], |row| Ok((row.get(0)?, row.get(1)?)));
    found.map_err(engine)?.collect::<Result<_, _>>().map_err(engine)
}

fn usage(t: &Transaction<'_>) -> Result<Usage, OutboxError> {
    t.prepare_cached("SELECT live, bytes FROM usage")
        .and_then(|mut q| {
            q.query_row([], |row| {
                Ok(Usage {
                    events: number(row, 0)?,
                    bytes: number(row, 1)?,
                })
            })
        })
        .map_err(engine)
}

fn one<R>(
    t: &Transaction<'_>,
    sql: &str,
    key: &[u8],
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<R>,
) -> Result<Option<R>, OutboxError> {
    t.prepare_cached(sql)
        .and_then(|mut q| q.query_row([key], read).optional())
        .map_err(engine)
}

fn list<R>(
    t: &Transaction<'_>,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<R>,
) -> Result<Vec<R>, OutboxError> {
    let mut query = t.prepare_cached(sql).map_err(engine)?;
    let found = query.query_map([], read).map_err(engine)?;
    found.collect::<Result<_, _>>().map_err(engine)
}

fn execute(t: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> Result<(), OutboxError> {
    t.prepare_cached(sql)
        .and_then(|mut q| q.execute(params))
        .map(|_| ())
        .map_err(engine)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(i64::cast_unsigned)
}

fn code(reason: SkipReason) -> u8 {
    match reason {
        SkipReason::Collapsed => 0,
        SkipReason::Expired => 1,
        SkipReason::Withdrawn => 2,
        SkipReason::Dropped => 3,
    }
}

fn reason(code: u8) -> SkipReason {
    match code {
        0 => SkipReason::Collapsed,
        1 => SkipReason::Expired,
        2 => SkipReason::Withdrawn,
        _ => SkipReason::Dropped,
    }
}

fn engine(error: rusqlite::Error) -> OutboxError {
    OutboxError::Engine(error.to_string())
}

/// The thread: takes what waits, does it in one transaction, and answers once that is on disk.
fn run(mut connection: Connection, calls: &mpsc::Receiver<(Work, Place)>) {
    while let Ok(first) = calls.recv() {
        let mut group = vec![first];
        while group.len() < MAX_GROUP
            && let Ok(next) = calls.try_recv()
        {
            group.push(next);
        }
        let (replies, ended) = together(&mut connection, group);
        for (reply, _place) in replies {
            reply(ended.clone());
        }
    }
}

/// Does a call's work whole or not at all, whatever becomes of the others in its group.
fn alone<R>(
    t: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<R, OutboxError>,
) -> Result<R, OutboxError> {
    execute(t, "SAVEPOINT call", [])?;
    let result = work(t);
    if result.is_err() {
        execute(t, "ROLLBACK TO call", [])?;
    }
    execute(t, "RELEASE call", [])?;
    result
}

/// One transaction for all calls of a group. If it fails, all hear of it.
fn together(
    connection: &mut Connection,
    group: Vec<(Work, Place)>,
) -> (Vec<(Reply, Place)>, Result<(), String>) {
    let mut replies = Vec::with_capacity(group.len());
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        // Dropped calls tell their callers that the outbox is closed.
        Err(e) => return (replies, Err(e.to_string())),
    };
    for (work, place) in group {
        replies.push((work(&transaction), place));
    }
    let ended = transaction.commit().map_err(|e| e.to_string());
    (replies, ended)
}

fn connect(path: &Path) -> Result<Connection, OutboxError> {
    let mut connection = Connection::open(path).map_err(engine)?;
    let pragma = |name, value: &str| connection.pragma_update(None, name, value).map_err(engine);
    pragma("journal_mode", "WAL")?;
    pragma("synchronous", "FULL")?;
    pragma("secure_delete", "ON")?;
    pragma("trusted_schema", "OFF")?;
    connection.set_prepared_statement_cache_capacity(64);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(engine)?;
    let number = |name| {
        transaction
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(engine)
    };
    match (number("application_id")?, number("user_version")?) {
        (0, 0) => {
            let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};");
            transaction.execute_batch(SCHEMA).map_err(engine)?;
            transaction.execute_batch(&marks).map_err(engine)?;
        }
        (APPLICATION, FORMAT) => {}
        (_, found) => {
            return Err(OutboxError::Format {
                path: path.into(),
                found,
                known: FORMAT,
            });
        }
    }
    transaction.commit().map_err(engine)?;
    Ok(connection)
}
