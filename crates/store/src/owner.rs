//! A thread that owns a database which others read, too: calls by group commit ([`crate::group`]), and the write-ahead log
//! emptied soon after something was deleted.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Reply, StoreError,
    group::{self, Grouped, Work},
};

/// Calls that may wait for the threads of one database; further ones are answered that it is busy.
const MAX_QUEUED: usize = 8192;
/// How long what was deleted may stand in the write-ahead log while there is nothing to do, and while there is.
const WIPE_IDLE: Duration = Duration::from_millis(250);
const WIPE_BUSY: Duration = Duration::from_secs(5);
/// How long a call waits for another process that reads or writes; there should be none.
const BUSY: Duration = Duration::from_secs(5);
/// How long the emptying of the log waits for one.
const WIPE_WAIT: Duration = Duration::from_millis(100);

/// A call with its place in the line.
type Placed<J> = (J, OwnedSemaphorePermit);

/// What the thread owns.
pub(crate) trait Owned: Grouped + Send + 'static {
    /// Whether something was deleted since this was last asked, whose bytes stand in the log yet.
    fn deleted(&mut self) -> bool;
    /// Whether somebody waits for them to go.
    fn wipe(&mut self) -> bool;
}

/// Places in line, for calls and for looks.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_QUEUED)))
    }

    fn send<J, R: Send + 'static>(
        &self,
        line: &mpsc::Sender<Placed<J>>,
        job: J,
        answer: oneshot::Receiver<Result<R, StoreError>>,
    ) -> Reply<R> {
        let queued = match self.0.clone().try_acquire_owned() {
            Ok(place) => line.send((job, place)).map_err(|_| StoreError::Closed),
            Err(_) => Err(StoreError::Busy(Duration::ZERO)),
        };
        Box::pin(async move {
            queued?;
            answer.await.map_err(|_| StoreError::Closed)?
        })
    }
}

/// The thread that writes.
pub(crate) struct Owner<T> {
    jobs: mpsc::Sender<Placed<Work<T>>>,
    places: Places,
    quiet: Quiet,
}

/// Held by whoever reads on a connection of its own, and alone by whoever wipes: what is read keeps the log from being emptied.
type Quiet = Arc<RwLock<()>>;

impl<T: Owned> Owner<T> {
    /// Starts the thread; `path` is the database, for errors.
    pub(crate) fn start(name: &str, path: &Path, tables: T, places: Places) -> Result<Self, StoreError> {
        // Bounded by the semaphore, whose permits travel with the calls.
        let (jobs, line) = mpsc::channel();
        let quiet = Quiet::default();
        let mut worker = Worker {
            tables,
            deleted: None,
            quiet: quiet.clone(),
        };
        spawn(name, path, move || worker.run(&line))?;
        Ok(Self { jobs, places, quiet })
    }

    /// Calls take effect in the order in which they were made.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut T) -> Result<R, StoreError> + Send + 'static,
    ) -> Reply<R> {
        let (job, answer) = group::work(call);
        self.places.send(&self.jobs, job, answer)
    }
}

/// A thread that reads beside the one that writes, on a connection of its own.
pub(crate) struct Reader {
    looks: mpsc::Sender<Placed<Look>>,
    places: Places,
}

/// Reads what is committed.
type Look = Box<dyn FnOnce(&rusqlite::Connection) + Send>;

impl Reader {
    /// Starts the thread beside `owner`.
    pub(crate) fn start<T>(
        name: &str,
        path: &Path,
        connection: rusqlite::Connection,
        owner: &Owner<T>,
    ) -> Result<Self, StoreError> {
        let (looks, line) = mpsc::channel::<Placed<Look>>();
        let quiet = owner.quiet.clone();
        spawn(name, path, move || {
            while let Ok((look, _place)) = line.recv() {
                let _reading = quiet.read().unwrap_or_else(PoisonError::into_inner);
                look(&connection);
            }
        })?;
        Ok(Self {
            looks,
            places: owner.places.clone(),
        })
    }

    /// Reads beside the thread that writes, which whoever reads would wait for otherwise.
    pub(crate) fn look<R: Send + 'static>(
        &self,
        look: impl FnOnce(&rusqlite::Connection) -> Result<R, StoreError> + Send + 'static,
    ) -> Reply<R> {
        let (reply, answer) = oneshot::channel();
        let look: Look = Box::new(move |connection| drop(reply.send(look(connection))));
        self.places.send(&self.looks, look, answer)
    }
}

fn spawn(name: &str, path: &Path, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let started = std::thread::Builder::new().name(name.into()).spawn(run);
    started.map(drop).map_err(|source| StoreError::Path {
        path: path.to_owned(),
        source,
    })
}

struct Worker<T> {
    tables: T,
    /// Since when deleted bytes stand in the write-ahead log.
    deleted: Option<Instant>,
    quiet: Quiet,
}

impl<T: Owned> Worker<T> {
    fn run(&mut self, line: &mpsc::Receiver<Placed<Work<T>>>) {
        loop {
            match line.recv_timeout(WIPE_IDLE) {
                Ok((job, _place)) => self.group(job, line),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if self.tables.deleted() || self.deleted.is_some() {
                        self.wipe();
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if self.deleted.is_some_and(|since| since.elapsed() > WIPE_BUSY) {
                self.wipe();
            }
        }
    }

    /// Does a job and those that wait behind it, commits, and answers.
    fn group(&mut self, first: Work<T>, line: &mpsc::Receiver<Placed<Work<T>>>) {
        let next = || line.try_recv().ok().map(|(job, _place)| job);
        let (done, answers) = group::commit(&mut self.tables, "BEGIN", first, next);
        if done.is_ok() && self.tables.deleted() {
            self.deleted.get_or_insert_with(Instant::now);
        }
        if self.tables.wipe() {
            self.deleted.get_or_insert_with(Instant::now);
            self.wipe();
        }
        group::tell(answers, &done);
    }

    /// Moves the write-ahead log into the database, which holds zeros where something was deleted, and empties it. What
    /// cannot be emptied because another process reads is tried again later.
    fn wipe(&mut self) {
        let _alone = self.quiet.write().unwrap_or_else(PoisonError::into_inner);
        let connection = self.tables.connection();
        let _ = connection.busy_timeout(WIPE_WAIT);
        let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let _ = connection.busy_timeout(BUSY);
        self.deleted = match busy {
            Ok(0) => None,
            _ => Some(Instant::now()),
        };
    }
}
