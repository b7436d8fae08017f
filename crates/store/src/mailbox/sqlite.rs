//! The embedded engine: one SQLite file in WAL mode with `synchronous=FULL`, owned by one thread. Calls that wait for it
//! share one transaction, and so one wait for the disk (group commit); each is a savepoint of its own in it. Answers go out
//! after the commit, so that nothing rests on what may be lost.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Ack, Acked, Admission, Backend, Deposit, Deposited, Device, Expired, Handle, Item, Limits, Page, Reply,
    Report, Revocation, Skip, Skipped, Totals,
    books::Books,
    queue::{SCHEMA, Tables},
};
use crate::{
    StoreError,
    sqlite::{Kind, connect, engine, prepare},
};

/// Calls that may wait for the thread; further ones are answered that it is busy.
const MAX_QUEUED: usize = 8192;
/// Calls in one transaction.
const GROUP: usize = 512;
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

/// Takes the outcome of the commit.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Job = Box<dyn FnOnce(&mut Tables) -> (bool, Answer) + Send>;

pub(super) struct Sqlite {
    jobs: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    places: Arc<Semaphore>,
}

impl Sqlite {
    pub(super) fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let path: PathBuf = prepare(dir, KIND.file)?;
        let connection = connect(&path, &KIND, SCHEMA)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", CHECKPOINT)
            .and_then(|()| connection.pragma_update(None, "temp_store", "MEMORY"))
            .map_err(engine)?;
        connection.set_prepared_statement_cache_capacity(64);
        let tables = Tables {
            books: Books::read(&connection)?,
            connection,
            limits,
            // What an earlier process could not wipe any more.
            deleted: true,
            wipe: false,
        };
        let mut worker = Worker {
            tables,
            deleted: None,
        };
        // Bounded by the semaphore, whose permit travels with the job.
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("hawser-mailbox".into())
            .spawn(move || worker.run(&queue))
            .map_err(|source| StoreError::Path { path, source })?;
        Ok(Self {
            jobs,
            places: Arc::new(Semaphore::new(MAX_QUEUED)),
        })
    }

    fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables) -> Result<R, StoreError> + Send + 'static,
    ) -> Reply<R> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |tables| {
            let done = work(tables);
            let good = done.is_ok();
            // The caller may have gone; the work is done all the same.
            let answer: Answer = Box::new(move |commit| {
                let _ = reply.send(done.and_then(|done| commit.map(|()| done)));
            });
            (good, answer)
        });
        let queued = match self.places.clone().try_acquire_owned() {
            Ok(place) => self.jobs.send((job, place)).map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Busy(Duration::ZERO)),
        };
        Box::pin(async move {
            queued?;
            answer.await.map_err(|_| StoreError::Closed)?
        })
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
        self.call(move |t| t.read(&device, &page))
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
}

impl Worker {
    fn run(&mut self, queue: &mpsc::Receiver<(Job, OwnedSemaphorePermit)>) {
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
    fn group(&mut self, first: Job, queue: &mpsc::Receiver<(Job, OwnedSemaphorePermit)>) {
        let mut answers = Vec::new();
        let begun = self.execute("BEGIN");
        if begun.is_ok() {
            answers.push(self.job(first));
            while answers.len() < GROUP
                && let Ok((job, _place)) = queue.try_recv()
            {
                answers.push(self.job(job));
            }
        } else {
            answers.push(first(&mut self.tables).1);
        }
        let done = begun.and_then(|()| self.execute("COMMIT"));
        if done.is_err() {
            let _ = self.execute("ROLLBACK");
            self.read_again();
        }
        if done.is_ok() && std::mem::take(&mut self.tables.deleted) {
            self.deleted.get_or_insert_with(Instant::now);
        }
        if std::mem::take(&mut self.tables.wipe) {
            self.deleted.get_or_insert_with(Instant::now);
            self.wipe();
        }
        for answer in answers {
            answer(match &done {
                Ok(()) => Ok(()),
                Err(error) => Err(again(error)),
            });
        }
    }

    fn job(&mut self, job: Job) -> Answer {
        let saved = self.execute("SAVEPOINT call");
        let (good, answer) = job(&mut self.tables);
        let ended = match good && saved.is_ok() {
            true => self.execute("RELEASE call"),
            false => {
                let undone = self
                    .execute("ROLLBACK TO call")
                    .and_then(|()| self.execute("RELEASE call"));
                self.read_again();
                undone
            }
        };
        match saved.and(ended) {
            Ok(()) => answer,
            Err(error) => Box::new(move |_| answer(Err(error))),
        }
    }

    /// After something went wrong: what is known by heart may be more than there is.
    fn read_again(&mut self) {
        let position = self.tables.books.position;
        // A disk that cannot be read answers all that follows with errors, too.
        if let Ok(books) = Books::read(&self.tables.connection) {
            self.tables.books = books;
            // Positions are not used again while streams remember them.
            self.tables.books.position = self.tables.books.position.max(position);
        }
    }

    /// Moves the write-ahead log into the database, which holds zeros where something was deleted, and empties it. What
    /// cannot be emptied because another process reads is tried again later.
    fn wipe(&mut self) {
        self.tables.deleted = false;
        let connection = &self.tables.connection;
        let _ = connection.busy_timeout(Duration::from_millis(100));
        let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let _ = connection.busy_timeout(BUSY);
        self.deleted = match busy {
            Ok(0) => None,
            _ => Some(Instant::now()),
        };
    }

    fn execute(&self, statement: &str) -> Result<(), StoreError> {
        self.tables
            .connection
            .prepare_cached(statement)
            .and_then(|mut s| s.execute([]))
            .map(|_| ())
            .map_err(engine)
    }
}

/// The same error for one more caller.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Busy(after) => StoreError::Busy(*after),
        other => StoreError::Engine(other.to_string()),
    }
}
