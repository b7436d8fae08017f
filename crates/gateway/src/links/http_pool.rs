//! Pooled HTTP sessions with one peer gateway: the async shell around [`Book`].

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hawser_proto::{Fault, NodeId};
use hawser_session::http::{ASK_AFTER, Class, HttpSession, Slot};
use tokio::{
    sync::Notify,
    time::{timeout, timeout_at},
};
use tracing::debug;

use super::{
    book::{Book, Job, Member, Placed},
    faults,
    sessions::{Dialler, Kind},
};

/// Most requests that wait for a session with one peer.
const MAX_WAITING: usize = 1024;
/// Longest wait for a session.
pub(crate) const WAIT: Duration = Duration::from_secs(15);
/// How often a full pool is looked at again: slots are freed by the ends of bodies, which tell nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Longest wait for a sign of life.
const PING_WAIT: Duration = Duration::from_secs(2);

impl Member for HttpSession {
    type Slot = Slot;

    fn reserve(&self) -> Option<Slot> {
        HttpSession::reserve(self)
    }

    fn is_closed(&self) -> bool {
        HttpSession::is_closed(self)
    }

    fn in_flight(&self) -> usize {
        HttpSession::in_flight(self)
    }

    fn is_doubtful(&self) -> bool {
        HttpSession::in_flight(self) == 0 && HttpSession::idle_for(self) >= ASK_AFTER
    }

    fn idle_for(&self) -> Duration {
        HttpSession::idle_for(self)
    }
}

/// The sessions of one class with one peer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpPool(Arc<Shared>);

struct Shared {
    peer: NodeId,
    class: Class,
    dialler: Arc<Dialler>,
    book: Mutex<Book<HttpSession>>,
    changed: Notify,
    waiting: AtomicUsize,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpPool {
    /// An empty pool.
    pub(crate) fn new(peer: NodeId, class: Class, dialler: Arc<Dialler>) -> Self {
        Self(Arc::new(Shared {
            peer,
            class,
            dialler,
            book: Mutex::default(),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Room for one request, on a session through one of `hubs` where one must be made. Waits at most [`WAIT`]. Cancel safe.
    pub(crate) async fn slot(&self, hubs: &[Arc<str>]) -> Result<Slot, Fault> {
        if let Some(slot) = self.place(hubs) {
            return Ok(slot);
        }
        let shared = &*self.0;
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(faults::sessions_busy(&shared.peer));
        }
        let _waiting = Waiting(&shared.waiting);
        let since = shared.book().awaited();
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(slot) = self.place(hubs) {
                return Ok(slot);
            }
            let full = {
                let book = shared.book();
                if let Some(fault) = book.failure(since) {
                    return Err(fault.clone());
                }
                book.is_full()
            };
            let wake = if full {
                deadline.min(tokio::time::Instant::now() + LOOK_AGAIN)
            } else {
                deadline
            };
            // A time-out only means to look again, or that it is too late.
            let _ = timeout_at(wake, changed).await;
            if tokio::time::Instant::now() >= deadline {
                return Err(if full {
                    faults::sessions_busy(&shared.peer)
                } else {
                    faults::session_timeout(&shared.peer, WAIT)
                });
            }
        }
    }

    /// A session broke under a request: it is ended, and the others prove that they live before they are used.
    pub(crate) fn broke(&self, session: &HttpSession) {
        session.cut();
        self.0.book().doubt();
    }

    /// A session that is open now, if there is one.
    pub(crate) fn any(&self) -> Option<HttpSession> {
        self.0.book().any()
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.book().in_flight()
    }

    /// Open sessions.
    pub(crate) fn len(&self) -> usize {
        self.0.book().len()
    }

    /// Closes what is idle or due to drain.
    pub(crate) fn sweep(&self, now: Instant) {
        self.0.book().sweep(now);
    }

    fn place(&self, hubs: &[Arc<str>]) -> Option<Slot> {
        let placed = self.0.book().place(Instant::now());
        let (slot, jobs) = match placed {
            Placed::Slot(slot, job) => (Some(slot), job.into_iter().collect()),
            Placed::Wait(jobs) => (None, jobs),
        };
        for job in jobs {
            match job {
                Job::Dial => drop(tokio::spawn(self.clone().dial(hubs.to_vec()))),
                Job::Ask(id, session) => drop(tokio::spawn(self.clone().ask(id, session))),
            }
        }
        slot
    }

    async fn dial(self, hubs: Vec<Arc<str>>) {
        let shared = &*self.0;
        let kind = match shared.class {
            Class::Ordinary => Kind::Http,
            Class::Bulk => Kind::Bulk,
        };
        let dialled = match timeout(WAIT, shared.session(&hubs, kind)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(faults::session_timeout(&shared.peer, WAIT)),
        };
        match dialled {
            Ok((session, drain_at)) => shared.book().dialled(session, drain_at),
            Err(fault) => {
                debug!(peer = %shared.peer, %fault, "no HTTP session");
                shared.book().not_dialled(fault);
            }
        }
        shared.changed.notify_waiters();
    }

    async fn ask(self, id: u64, session: HttpSession) {
        let alive = session.ping(PING_WAIT).await;
        if !alive {
            debug!(peer = %self.0.peer, "an idle session is dead");
            session.cut();
        }
        self.0.book().answered(id, alive);
        self.0.changed.notify_waiters();
    }
}

impl Shared {
    async fn session(&self, hubs: &[Arc<str>], kind: Kind) -> Result<(HttpSession, Instant), Fault> {
        let made = self.dialler.to(&self.peer, hubs, kind).await?;
        let session = HttpSession::connect(made.session, self.class)
            .await
            .map_err(|e| faults::session_failed(&self.peer, &e.to_string()))?;
        Ok((session, made.drain_at))
    }

    fn book(&self) -> MutexGuard<'_, Book<HttpSession>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
