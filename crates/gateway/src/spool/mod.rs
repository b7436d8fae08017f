//! Store and forward: messages that are accepted now, kept on disk, and delivered when their target is there.
//!
//! [`Spool::accept`] answers 202 once a message is on disk. [`schedule`] says when which one is tried; an attempt is a call like any
//! other, by whoever accepted it ([`Deliver`]). A message that was delivered just before the gateway died is delivered again: it has an
//! `Idempotency-Key` by which its receiver can tell.

pub(crate) mod accept;
pub(crate) mod admin;
pub(crate) mod attempt;
mod head;
mod metrics;
pub mod schedule;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use hawser_store::{
    StoreError,
    spool::{self, Backend, Change, Entry, Filter, Id, Kind, State, Totals},
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, interval, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub(crate) use metrics::Metrics;

use self::{
    attempt::{Outcome, Stored},
    schedule::{Next, Schedule, Waiting},
};
use crate::{config::QueuePlan, inspect::now};

/// Attempts under way at once, over all targets.
const MOST_ATTEMPTS: usize = 64;
/// How long it is known what became of a message that was delivered.
const KEEP_DELIVERED: Duration = Duration::from_secs(24 * 3600);
/// How often what is old is forgotten, and what there is is counted.
const SWEEP: Duration = Duration::from_secs(2);
/// Entries read, and forgotten, at a time.
const PAGE: usize = 1000;
/// How long dead messages are kept.
const KEEP_DEAD: Duration = Duration::from_secs(30 * 86_400);
/// Bytes of bodies that are being received at once.
const RECEIVING: usize = 256 << 20;

/// Who can deliver what was accepted.
pub(crate) trait Deliver: Send + Sync + 'static {
    /// One attempt.
    fn deliver(self: Arc<Self>, stored: Stored) -> BoxFuture<'static, Outcome>;
}

/// The messages that wait at this gateway. Cheap to clone.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    schedule: Mutex<Schedule>,
    plans: ArcSwap<HashMap<Arc<str>, QueuePlan>>,
    /// There may be something to do sooner than was thought.
    wake: Notify,
    places: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: Metrics,
    totals: ArcSwap<Vec<Totals>>,
}

impl Spool {
    /// Opens what is kept in `dir`. Nothing is delivered until [`Spool::run`].
    pub(crate) async fn open(dir: &Path, metrics: Metrics) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || spool::open(&dir)).await;
        let backend = opened.map_err(|_| StoreError::Closed)??;
        let mut schedule = Schedule::default();
        let mut filter = Filter {
            state: Some(Kind::Waiting),
            ..Filter::default()
        };
        loop {
            let page = backend.list(filter.clone(), PAGE).await?;
            let Some(last) = page.last() else { break };
            filter.after = last.number;
            page.iter().filter_map(waiting).for_each(|w| schedule.add(w));
        }
        let totals = backend.totals().await?;
        let waiting: u64 = totals.iter().map(|t| t.waiting).sum();
        if waiting > 0 {
            info!(waiting, "messages wait to be delivered");
        }
        Ok(Self(Arc::new(Inner {
            backend,
            schedule: Mutex::new(schedule),
            plans: ArcSwap::default(),
            wake: Notify::new(),
            places: Arc::new(Semaphore::new(MOST_ATTEMPTS)),
            receiving: Arc::new(Semaphore::new(RECEIVING)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            metrics,
            totals: ArcSwap::from_pointee(totals),
        })))
    }

    /// The queues that there are from now on.
    pub(crate) fn reload(&self, plans: HashMap<Arc<str>, QueuePlan>) {
        let paces = plans.iter().map(|(name, plan)| (name.clone(), plan.pace));
        self.schedule().pace(paces.collect());
        self.0.plans.store(Arc::new(plans));
        self.0.wake.notify_one();
    }

    /// Delivers from now on. Ends with [`Spool::drain`], or with the one who delivers.
    pub(crate) fn run(&self, by: Weak<dyn Deliver>) {
        self.0.tasks.spawn(deliver(self.clone(), by));
        self.0.tasks.spawn(tend(self.clone()));
    }

    /// Begins no attempt any more, and waits at most `wait` for those under way. Those that are cut are made again by the next start.
    pub(crate) async fn drain(&self, wait: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(wait, self.0.tasks.wait()).await.is_err() {
            warn!(
                "some messages were still being delivered at the end of the draining time; they are delivered again"
            );
        }
    }

    /// How much there is, by queue, as it was counted last.
    pub(crate) fn totals(&self) -> Arc<Vec<Totals>> {
        self.0.totals.load_full()
    }

    fn plan(&self, queue: &str) -> Option<QueuePlan> {
        self.0.plans.load().get(queue).cloned()
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a waiting message into the schedule.
    fn add(&self, entry: &Entry) {
        if let Some(waiting) = waiting(entry) {
            self.schedule().add(waiting);
            self.0.wake.notify_one();
        }
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spool")
    }
}

/// Does what the schedule says.
async fn deliver(spool: Spool, by: Weak<dyn Deliver>) {
    loop {
        let place = tokio::select! {
            place = spool.0.places.clone().acquire_owned() => place,
            () = spool.0.stop.cancelled() => return,
        };
        let Ok(place) = place else { return };
        if spool.0.stop.is_cancelled() {
            return;
        }
        let next = spool.schedule().next(now());
        match next {
            Next::Try(number, id) => {
                let Some(by) = by.upgrade() else { return };
                let attempt = attempt::one(spool.clone(), by, number, id);
                spool.0.tasks.spawn(async move {
                    attempt.await;
                    drop(place);
                });
            }
            Next::Expired(id) => {
                let change = Change::GivenUp {
                    at: now(),
                    tried: false,
                    why: "its time was over before it could be delivered".into(),
                };
                // After a failure the next start finds it over its time, too.
                spool.change(id, change).await;
            }
            Next::Idle(until) => {
                drop(place);
                let far = Duration::from_secs(3600);
                let wait = until.map_or(far, |at| Duration::from_millis(at.saturating_sub(now())).min(far));
                tokio::select! {
                    () = spool.0.wake.notified() => {}
                    () = sleep_until(Instant::now() + wait) => {}
                    () = spool.0.stop.cancelled() => return,
                }
            }
        }
    }
}

/// Forgets what is old, and counts what there is.
async fn tend(spool: Spool) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = spool.0.stop.cancelled() => return,
        }
        let before = |age: Duration| now().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let swept = spool
            .0
            .backend
            .sweep(before(KEEP_DELIVERED), before(KEEP_DEAD), PAGE)
            .await;
        if let Err(error) = swept {
            warn!(%error, "cannot forget old messages; will try again");
        }
        match spool.0.backend.totals().await {
            Ok(totals) => {
                spool.0.metrics.count(&totals, now());
                spool.0.totals.store(Arc::new(totals));
            }
            Err(error) => warn!(%error, "cannot count the messages that wait"),
        }
    }
}

impl Spool {
    /// Notes what became of a message; what it is then, if it was in a state for it.
    async fn change(&self, id: Id, change: Change) -> Option<Entry> {
        let dead = matches!(change, Change::GivenUp { .. });
        match self.0.backend.change(id, change).await {
            Ok(entry) => {
                if let Some(entry) = entry.as_ref().filter(|_| dead) {
                    self.0.metrics.dead(&entry.queue);
                    let why = entry.why.as_deref().unwrap_or_default();
                    warn!(message = %HEXLOWER.encode(&entry.id), queue = %entry.queue, why, "gave up a message; see `hawser queue`");
                }
                entry
            }
            Err(error) => {
                warn!(message = %HEXLOWER.encode(&id), %error, "cannot note what became of a message; it is delivered again");
                None
            }
        }
    }
}

fn waiting(entry: &Entry) -> Option<Waiting> {
    let State::Waiting { next } = entry.state else {
        return None;
    };
    Some(Waiting {
        number: entry.number,
        id: entry.id,
        queue: entry.queue.clone(),
        lane: entry.lane.clone(),
        key: entry.key.clone(),
        attempts: entry.attempts,
        next,
        expires: entry.expires,
    })
}

/// Anything up to 1000.
fn chance() -> u32 {
    let mut bytes = [0; 2];
    // Without randomness all wait alike.
    let _ = rand::fill(&mut bytes);
    u32::from(u16::from_le_bytes(bytes)) % 1001
}
