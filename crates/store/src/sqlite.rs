//! The embedded engine: one SQLite file in WAL mode. One thread per store owns the connection; calls reach it by a bounded
//! queue. With `synchronous=FULL` a commit is on disk before it is acknowledged; writes that wait together share one
//! ([`crate::group`]).

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    Backend, BoxFuture, Entry, Expect, Revision, StoreError,
    group::{self, Grouped, Work},
};

/// What a database file is.
pub(crate) struct Kind {
    /// Name in the state directory.
    pub(crate) file: &'static str,
    /// SQLite's `application_id`.
    pub(crate) application: i64,
    /// SQLite's `user_version`.
    pub(crate) format: i64,
}

const KIND: Kind = Kind {
    file: "hawser.db",
    // "HWSR"
    application: 0x4857_5352,
    format: 1,
};
/// How often commits of other processes are looked for.
const POLL: Duration = Duration::from_millis(250);
/// How long a call waits for another process's write.
const BUSY: Duration = Duration::from_secs(5);
/// Calls that may wait for the thread; further callers wait for a place.
const MAX_QUEUED: usize = 256;

/// Whether a call writes, and the call.
type Job = (bool, Work<Worker>);

pub(crate) struct Sqlite {
    jobs: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    places: Arc<Semaphore>,
    commits: watch::Sender<u64>,
}

impl Sqlite {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = prepare(dir, KIND.file)?;
        let connection = connect(&path, &KIND, SCHEMA)?;
        let commits = watch::Sender::new(0);
        let mut worker = Worker {
            version: data_version(&connection)?,
            connection,
            commits: commits.clone(),
            written: false,
            deleted: false,
            truncate: false,
        };
        // Bounded by the semaphore, whose permit travels with the job.
        let (jobs, queue) = mpsc::channel::<(Job, OwnedSemaphorePermit)>();
        std::thread::Builder::new()
            .name("hawser-store".into())
            .spawn(move || worker.run(&queue))
            .map_err(|source| StoreError::Path { path, source })?;
        Ok(Self {
            jobs,
            places: Arc::new(Semaphore::new(MAX_QUEUED)),
            commits,
        })
    }

    async fn call<R: Send + 'static>(
        &self,
        writes: bool,
        call: impl FnOnce(&mut Worker) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_| StoreError::Closed)?;
        let (job, answer) = group::work(call);
        self.jobs
            .send(((writes, job), place))
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Backend for Sqlite {
    fn get<'a>(
        &'a self,
        bucket: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let key = key.to_owned();
        Box::pin(self.call(false, move |w| w.get(bucket, key)))
    }

    fn write<'a>(
        &'a self,
        bucket: &'static str,
        key: &'a str,
        value: Vec<u8>,
        expect: Expect,
    ) -> BoxFuture<'a, Result<Revision, StoreError>> {
        let key = key.to_owned();
        Box::pin(self.call(true, move |w| w.write(bucket, key, &value, expect)))
    }

    fn delete<'a>(&'a self, bucket: &'static str, key: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        let key = key.to_owned();
        Box::pin(self.call(true, move |w| w.delete(bucket, &key)))
    }

    fn entries<'a>(&'a self, bucket: &'static str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        Box::pin(self.call(false, move |w| w.entries(bucket)))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }
}

/// What the thread owns.
struct Worker {
    connection: Connection,
    commits: watch::Sender<u64>,
    /// `PRAGMA data_version` when last looked at: it changes when another connection commits.
    version: i64,
    /// Whether the group under way has changed something.
    written: bool,
    /// Whether it has deleted something: that is to be gone from the log before anybody is told.
    deleted: bool,
    /// Whether values that were deleted or replaced may still stand in the write-ahead log.
    truncate: bool,
}

impl Worker {
    fn run(&mut self, queue: &mpsc::Receiver<(Job, OwnedSemaphorePermit)>) {
        let mut poll = Instant::now() + POLL;
        loop {
            match queue.recv_timeout(poll.saturating_duration_since(Instant::now())) {
                Ok(((true, job), _place)) => self.group(job, queue),
                Ok(((false, job), _place)) => job(Ok(self)).1(Ok(())),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= poll {
                self.look();
                poll = Instant::now() + POLL;
            }
        }
    }

    /// Does a call that writes and those that wait behind it, commits, and answers. Of other processes' writes each is waited for.
    fn group(&mut self, first: Work<Self>, queue: &mpsc::Receiver<(Job, OwnedSemaphorePermit)>) {
        let next = || queue.try_recv().ok().map(|((_, job), _place)| job);
        let (done, answers) = group::commit(self, "BEGIN IMMEDIATE", first, next);
        let (written, deleted) = (
            std::mem::take(&mut self.written),
            std::mem::take(&mut self.deleted),
        );
        if done.is_ok() && written {
            self.committed();
        }
        if done.is_ok() && deleted {
            self.truncate_log();
        }
        group::tell(answers, &done);
    }

    /// Looks for commits of others. A failure shows at the next call as well, where somebody hears of it.
    fn look(&mut self) {
        if self.truncate {
            self.truncate_log();
        }
        if let Ok(version) = data_version(&self.connection)
            && version != self.version
        {
            self.version = version;
            self.committed();
        }
    }

    fn committed(&self) {
        self.commits.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn get(&mut self, bucket: &str, key: String) -> Result<Option<Entry>, StoreError> {
        let mut query = self
            .connection
            .prepare_cached("SELECT value, revision FROM entries WHERE bucket = ?1 AND key = ?2")
            .map_err(engine)?;
        let found = query.query_row(params![bucket, key], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
        });
        let found = found.optional().map_err(engine)?;
        Ok(found.map(|(value, revision)| Entry { key, value, revision }))
    }

    fn write(
        &mut self,
        bucket: &'static str,
        key: String,
        value: &[u8],
        expect: Expect,
    ) -> Result<Revision, StoreError> {
        let found: Option<i64> = self
            .connection
            .prepare_cached("SELECT revision FROM entries WHERE bucket = ?1 AND key = ?2")
            .and_then(|mut q| q.query_row(params![bucket, key], |row| row.get(0)).optional())
            .map_err(engine)?;
        let found = found.map(i64::cast_unsigned);
        match expect {
            Expect::Nothing if found.is_some() => return Err(StoreError::Exists { bucket, key }),
            Expect::Revision(expected) if found != Some(expected) => {
                return Err(StoreError::Conflict {
                    bucket,
                    key,
                    expected,
                    found,
                });
            }
            _ => {}
        }
        let revision: i64 = self
            .connection
            .prepare_cached("UPDATE counter SET revision = revision + 1 RETURNING revision")
            .and_then(|mut q| q.query_row([], |row| row.get(0)))
            .map_err(engine)?;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO entries (bucket, key, value, revision) VALUES (?1, ?2, ?3, ?4)",
            )
            .and_then(|mut q| q.execute(params![bucket, key, value, revision]))
            .map_err(engine)?;
        self.written = true;
        // What was replaced is wiped at the next look, so that many writes share one checkpoint.
        self.truncate |= found.is_some();
        Ok(revision.cast_unsigned())
    }

    fn delete(&mut self, bucket: &str, key: &str) -> Result<bool, StoreError> {
        let gone = self
            .connection
            .prepare_cached("DELETE FROM entries WHERE bucket = ?1 AND key = ?2")
            .and_then(|mut q| q.execute(params![bucket, key]))
            .map_err(engine)?;
        self.written |= gone > 0;
        self.deleted |= gone > 0;
        Ok(gone > 0)
    }

    fn entries(&mut self, bucket: &str) -> Result<Vec<Entry>, StoreError> {
        let mut query = self
            .connection
            .prepare_cached("SELECT key, value, revision FROM entries WHERE bucket = ?1 ORDER BY key")
            .map_err(engine)?;
        let rows = query.query_map([bucket], |row| {
            Ok(Entry {
                key: row.get(0)?,
                value: row.get(1)?,
                revision: row.get::<_, i64>(2)?.cast_unsigned(),
            })
        });
        rows.map_err(engine)?.collect::<Result<_, _>>().map_err(engine)
    }

    /// Empties the write-ahead log, in which a deleted value stands until then. While another process reads it cannot be
    /// emptied, and is not waited for: later, then.
    fn truncate_log(&mut self) {
        let _ = self.connection.busy_timeout(Duration::ZERO);
        let busy = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let _ = self.connection.busy_timeout(BUSY);
        self.truncate = !matches!(busy, Ok(0));
    }
}

impl Grouped for Worker {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn undone(&mut self) {}
}

/// Makes or checks the directory, and makes the file before SQLite does, so that it and its log are nobody else's to read.
pub(crate) fn prepare(dir: &Path, file: &str) -> Result<PathBuf, StoreError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Path { path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(at(dir))?;
    let mode = fs::metadata(dir).map_err(at(dir))?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::OpenToOthers {
            path: dir.into(),
            mode,
        });
    }
    let path = dir.join(file);
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .map_err(at(&path))?;
    Ok(path)
}

/// Opens the database. Changing to WAL answers "busy" at once when another process does the same, so it is tried again.
pub(crate) fn connect(path: &Path, kind: &Kind, schema: &str) -> Result<Connection, StoreError> {
    let end = Instant::now() + BUSY;
    loop {
        match try_connect(path, kind, schema) {
            Err(StoreError::Busy(_)) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

fn try_connect(path: &Path, kind: &Kind, schema: &str) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path).map_err(engine)?;
    connection.busy_timeout(BUSY).map_err(engine)?;
    let pragma = |name, value: &str| connection.pragma_update(None, name, value).map_err(engine);
    pragma("journal_mode", "WAL")?;
    pragma("synchronous", "FULL")?;
    pragma("secure_delete", "ON")?;
    pragma("trusted_schema", "OFF")?;
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
            transaction.execute_batch(schema).map_err(engine)?;
            transaction
                .pragma_update(None, "application_id", kind.application)
                .and_then(|()| transaction.pragma_update(None, "user_version", kind.format))
                .map_err(engine)?;
        }
        (application, format) if application == kind.application && format == kind.format => {}
        (application, format) => {
            let found = if application == kind.application {
                format.to_string()
            } else {
                format!("of another application ({application:#x})")
            };
            return Err(StoreError::Format {
                path: path.into(),
                found,
                known: kind.format,
            });
        }
    }
    transaction.commit().map_err(engine)?;
    Ok(connection)
}

const SCHEMA: &str = "
    CREATE TABLE entries (bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,
        PRIMARY KEY (bucket, key)) STRICT, WITHOUT ROWID;
    CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL) STRICT;
    INSERT INTO counter (id, revision) VALUES (1, 0);";

fn data_version(connection: &Connection) -> Result<i64, StoreError> {
    connection
        .pragma_query_value(None, "data_version", |row| row.get(0))
        .map_err(engine)
}

pub(crate) fn engine(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(BUSY),
        _ => StoreError::Engine(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
