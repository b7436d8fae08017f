//! The embedded engine: one SQLite file in WAL mode with `synchronous=FULL`, which one thread writes, by group commit
//! ([`crate::group`]). Queues are read by another one, on a connection of its own.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, mpsc},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Ack, Acked, Admission, Backend, Deposit, Deposited, Device, Expired, Handle, Item, Limits, Page, Reply,
    Report, Revocation, Skip, Skipped, Totals,
    books::Books,
    queue::{self, SCHEMA, Tables},
};
use crate::{
    StoreError,
    group::{self, Grouped, Work},
    sqlite::{Kind, connect, engine, prepare},
};

/// Calls that may wait for the thread; further ones are answered that it is busy.
const MAX_QUEUED: usize = 8192;
/// How long what was deleted may stand in the write-ahead log while there is nothing to do, and while there is.
const WIPE_IDLE: Duration = Duration::from_millis(250);
const WIPE_BUSY: Duration = Duration::from_secs(5);
/// How long a call waits for another process that reads or writes; there should be none.
const BUSY: Duration = Duration::from_secs(5);
/// Pages of the write-ahead log after which they are moved into the database.
const CHECKPOINT: i64 = 4096;

const KIND: Kind = Kind {
    file: "mailbox.db",
    // "HWMB"
    application: 0x4857_4d42,
    format: 1,
};

pub(super) struct Sqlite {
    jobs: mpsc::Sender<(Work<Tables>, OwnedSemaphorePermit)>,
    looks: mpsc::Sender<(Look, OwnedSemaphorePermit)>,
    places: Arc<Semaphore>,
}

/// Reads what is committed.
type Look = Box<dyn FnOnce(&Connection) + Send>;

impl Sqlite {
    pub(super) fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let path: PathBuf = prepare(dir, KIND.file)?;
        let connection = connect(&path, &KIND, SCHEMA)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", CHECKPOINT)
            .and_then(|()| connection.pragma_update(None, "temp_store", "MEMORY"))
            .map_err(engine)?;
        connection.set_prepared_statement_cache_capacity(64);
        let reading = connect(&path, &KIND, SCHEMA)?;
        reading.pragma_update(None, "query_only", "ON").map_err(engine)?;
        let tables = Tables {
            books: Books::read(&connection)?,
            connection,
            limits,
            // What an earlier process could not wipe any more.
            deleted: true,
            wipe: false,
        };
        let quiet = Arc::new(RwLock::new(()));
        let mut worker = Worker {
            tables,
            deleted: None,
            quiet: quiet.clone(),
        };
        // Bounded by the semaphore, whose permits travel with the calls.
        let (jobs, queue) = mpsc::channel();
        let (looks, looking) = mpsc::channel();
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let failed = |source| StoreError::Path {
            path: path.clone(),
            source,
        };
        thread("hawser-mailbox")
            .spawn(move || worker.run(&queue))
            .map_err(failed)?;
        thread("hawser-reader")
            .spawn(move || look(&reading, &looking, &quiet))
            .map_err(failed)?;
        Ok(Self {
            jobs,
            looks,
            places: Arc::new(Semaphore::new(MAX_QUEUED)),
        })
    }

    fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Tables) -> Result<R, StoreError> + Send + 'static,
    ) -> Reply<R> {
        let (job, answer) = group::work(call);
        self.queued(&self.jobs, job, answer)
    }

    /// Reads beside the thread that writes, which a stream would wait for otherwise.
    fn look<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
    ) -> Reply<R> {
        let (reply, answer) = oneshot::channel();
        let look: Look = Box::new(move |connection| drop(reply.send(look(connection))));
        self.queued(&self.looks, look, answer)
    }

    fn queued<J, R: Send + 'static>(
        &self,
        line: &mpsc::Sender<(J, OwnedSemaphorePermit)>,
        job: J,
        answer: oneshot::Receiver<Result<R, StoreError>>,
    ) -> Reply<R> {
        let queued = match self.places.clone().try_acquire_owned() {
            Ok(place) => line.send((job, place)).map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Busy(Duration::ZERO)),
        };
        Box::pin(async move {
            queued?;
            answer.await.map_err(|_| StoreError::Closed)?
        })
    }
}

/// What the reading thread does. While the log is wiped nobody reads, since what is read keeps it from being emptied.
fn look(connection: &Connection, looks: &mpsc::Receiver<(Look, OwnedSemaphorePermit)>, quiet: &RwLock<()>) {
    while let Ok((look, _place)) = looks.recv() {
        let _reading = quiet.read().unwrap_or_else(PoisonError::into_inner);
        look(connection);
    }
}

impl Backend for Sqlite {
    fn limit(&self, limits: Limits) -> Reply<()> {
        self.call(move |t| {
            t.limits = limits;
            Ok(())
        })
    }

    fn devices(&self) -> Reply<Vec<Device>> {
        self.call(|t| Ok(t.books.devices.values().map(|b| b.device.clone()).collect()))
    }

    fn admit(&self, device: Device) -> Reply<Admission> {
        self.call(move |t| t.admit(device))
    }

    fn revoke(&self, domain: Arc<str>, device: Handle) -> Reply<Revocation> {
        self.call(move |t| t.revoke(&domain, &device))
    }

    fn deposit(&self, deposit: Deposit) -> Reply<Deposited> {
        self.call(move |t| t.deposit(&deposit))
    }

    fn skip(&self, skip: Skip) -> Reply<Skipped> {
        self.call(move |t| t.skip(&skip))
    }

    fn read(&self, device: Handle, page: Page) -> Reply<Vec<Item>> {
        self.look(move |connection| queue::read(connection, &device, &page))
    }

    fn explained(&self, device: Handle, sequence: u64) -> Reply<()> {
        self.call(move |t| t.explained(&device, sequence))
    }

    fn acknowledge(&self, device: Handle, acks: Vec<Ack>) -> Reply<Acked> {
        self.call(move |t| t.acknowledge(&device, acks))
    }

    fn sent(&self, envelopes: Vec<(Handle, u64)>) -> Reply<Vec<Arc<str>>> {
        self.call(move |t| t.sent(&envelopes))
    }

    fn expire(&self, now: u64, most: usize) -> Reply<Vec<Expired>> {
        self.call(move |t| t.expire(now, most))
    }

    fn reports(&self, domain: Arc<str>, after: u64, most: usize) -> Reply<Vec<Report>> {
        self.call(move |t| t.reports(&domain, after, most))
    }

    fn taken(&self, domain: Arc<str>, number: u64) -> Reply<()> {
        self.call(move |t| t.taken(&domain, number))
    }

    fn retain(&self, domains: Vec<Arc<str>>) -> Reply<usize> {
        self.call(move |t| t.retain(&domains))
    }

    fn totals(&self) -> Reply<Totals> {
        self.call(|t| Ok(t.books.totals()))
    }
}

/// What the thread owns.
struct Worker {
    tables: Tables,
    /// Since when deleted bytes stand in the write-ahead log.
    deleted: Option<Instant>,
    /// Held by whoever reads, and alone by whoever wipes.
    quiet: Arc<RwLock<()>>,
}

impl Worker {
    fn run(&mut self, queue: &mpsc::Receiver<(Work<Tables>, OwnedSemaphorePermit)>) {
        loop {
            match queue.recv_timeout(WIPE_IDLE) {
                Ok((job, _place)) => self.group(job, queue),
                Err(mpsc::RecvTimeoutError::Timeout) if self.deleted.is_some() || self.tables.deleted => {
                    self.wipe();
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if self.deleted.is_some_and(|since| since.elapsed() > WIPE_BUSY) {
                self.wipe();
            }
        }
    }

    /// Does a job and those that wait behind it, commits, and answers.
    fn group(&mut self, first: Work<Tables>, queue: &mpsc::Receiver<(Work<Tables>, OwnedSemaphorePermit)>) {
        let next = || queue.try_recv().ok().map(|(job, _place)| job);
        let (done, answers) = group::commit(&mut self.tables, "BEGIN", first, next);
        if done.is_ok() && std::mem::take(&mut self.tables.deleted) {
            self.deleted.get_or_insert_with(Instant::now);
        }
        if std::mem::take(&mut self.tables.wipe) {
            self.deleted.get_or_insert_with(Instant::now);
            self.wipe();
        }
        group::tell(answers, &done);
    }

    /// Moves the write-ahead log into the database, which holds zeros where something was deleted, and empties it. What
    /// cannot be emptied because another process reads is tried again later.
    fn wipe(&mut self) {
        self.tables.deleted = false;
        let _alone = self.quiet.write().unwrap_or_else(PoisonError::into_inner);
        let connection = &self.tables.connection;
        let _ = connection.busy_timeout(Duration::from_millis(100));
        let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let _ = connection.busy_timeout(BUSY);
        self.deleted = match busy {
            Ok(0) => None,
            _ => Some(Instant::now()),
        };
    }
}

impl Grouped for Tables {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn undone(&mut self) {
        let position = self.books.position;
        // A disk that cannot be read answers all that follows with errors, too.
        if let Ok(books) = Books::read(&self.connection) {
            self.books = books;
            // Positions are not used again while streams remember them.
            self.books.position = self.books.position.max(position);
        }
    }
}
