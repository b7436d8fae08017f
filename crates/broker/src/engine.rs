//! The sealing loop: takes what the machine has ready, has it sealed ([`Chains`]), writes that down, and deposits it, many at a
//! time; what the mailbox answers goes back into the machine.

mod chains;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, mailbox::Outcome},
};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use self::chains::{Chains, Made, Sealed};
use crate::{
    core::{Core, Rest},
    delivery::{Effects, Machine, Work},
    link::{MailboxLink, Request, Unanswered},
    metrics::count,
    outbox::{Gap, OutboxError},
    sealing::SealingError,
};

/// Envelopes taken from the machine, or written down, at a time.
const BATCH: usize = 128;
/// Requests to the mailbox that may wait for their answers.
const PENDING: usize = 512;
/// Bytes of sealed envelopes that are held until the mailbox has them.
const HELD: usize = 32 * 1024 * 1024;
/// Wait before what failed in this process (outbox, adaptation) is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often times are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often the outbox is cleaned, in ticks.
const CLEAN: u32 = 60;

/// A request that was answered, or not.
enum Answered {
    Deposit(DeviceHandle, u64, Result<Outcome, Unanswered>),
    Skip(DeviceHandle, u64, Result<Outcome, Unanswered>),
    Admit,
}

type Pending = FuturesUnordered<BoxFuture<'static, Answered>>;

/// See the module page.
pub(crate) struct Engine {
    core: Arc<Core>,
    chains: Chains,
    pending: Pending,
    /// Sealed envelopes that the mailbox has not confirmed, to be repeated as they are.
    held: HashMap<(DeviceHandle, u64), Arc<Vec<u8>>>,
    bytes: usize,
    link: Option<Arc<dyn MailboxLink>>,
}

impl Engine {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            chains: Chains::new(core.clone()),
            core,
            pending: FuturesUnordered::new(),
            held: HashMap::new(),
            bytes: 0,
            link: None,
        }
    }

    /// Runs until it is dropped. What is under way then goes again after the next start.
    pub(crate) async fn run(mut self) {
        let mut links = self.core.link.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u32;
        let core = self.core.clone();
        loop {
            tokio::select! {
                () = core.work.notified() => {}
                changed = links.changed() => if changed.is_err() { return },
                Some(answered) = self.pending.next() => self.answered(answered).await,
                made = self.chains.next(BATCH) => self.made(made).await,
                _ = tick.tick() => {
                    ticks += 1;
                    self.tick(ticks).await;
                }
            }
            self.follow(links.borrow_and_update().clone());
            if core.is_broken() {
                self.recover().await;
            } else {
                self.go_on().await;
            }
        }
    }

    /// Notices that there is another connection, or none.
    fn follow(&mut self, link: Option<Arc<dyn MailboxLink>>) {
        let same = match (&self.link, &link) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.pending.clear();
            self.chains.clear();
            self.core.machine().disconnected();
            self.link = link;
        }
    }

    async fn recover(&mut self) {
        sleep(PAUSE).await;
        match self.core.recover().await {
            Ok(()) => {
                self.pending.clear();
                self.chains.clear();
                self.held.clear();
                self.bytes = 0;
                info!("the outbox works again");
                self.core.work.notify_one();
            }
            Err(e) => debug!(error = %e, "the outbox still fails"),
        }
    }

    async fn tick(&mut self, ticks: u32) {
        let now = UnixTime::now();
        self.change(|m| m.tick(now)).await;
        if ticks.is_multiple_of(CLEAN) {
            if let Err(e) = self.core.outbox.expire(now).await {
                warn!(error = %e, "the outbox could not be cleaned");
            }
            if let Ok(usage) = self.core.outbox.usage().await {
                self.core.metrics.stored.set(usage.bytes.cast_signed());
            }
        }
        self.core.metrics.live.set(self.core.machine().len() as i64);
    }

    /// Tells gaps, then has sealed what is ready, as far as there is room.
    async fn go_on(&mut self) {
        let Some(link) = self.link.clone() else {
            return;
        };
        let room = PENDING.saturating_sub(self.pending.len());
        let gaps = self.core.machine().take_gaps(room);
        for gap in gaps {
            self.skip(&link, gap);
        }
        while self.bytes < HELD {
            let room = PENDING.saturating_sub(self.pending.len() + self.chains.len());
            match self.take(room.min(self.chains.room()).min(BATCH)).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    debug!(error = %e, "a batch waits for the outbox");
                    break;
                }
            }
        }
    }

    fn skip(&mut self, link: &Arc<dyn MailboxLink>, gap: Gap) {
        let record = match self.core.sealer.skip(&gap) {
            Ok(record) => record,
            Err(e) => {
                error!(error = %e, device = %gap.device, "a skip record cannot be signed");
                return;
            }
        };
        let request = Request::Skip {
            device: gap.device,
            from: gap.from,
            to: gap.to,
            record,
        };
        let link = link.clone();
        self.push(Box::pin(async move {
            Answered::Skip(gap.device, gap.from, link.request(request).await)
        }));
    }

    /// Polls a request once, so that requests leave in the order in which they are pushed.
    fn push(&mut self, mut request: BoxFuture<'static, Answered>) {
        let waker = futures_util::task::noop_waker();
        match request.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(answered) => self.pending.push(Box::pin(async move { answered })),
            std::task::Poll::Pending => self.pending.push(request),
        }
    }

    /// Takes what is ready, to be sealed: false if there was nothing, or no room.
    async fn take(&mut self, limit: usize) -> Result<bool, OutboxError> {
        if limit == 0 {
            return Ok(false);
        }
        let now = UnixTime::now();
        let (work, rest) = self.core.change(|m| m.take(now, limit)).await?;
        self.rest(rest);
        let some = !work.is_empty();
        for work in work {
            let held = self.held.contains_key(&(work.device, work.sequence));
            self.chains.push(work, held);
        }
        self.chains.start();
        Ok(some)
    }

    /// Writes down what was sealed, and deposits it.
    async fn made(&mut self, made: Vec<Made>) {
        let now = UnixTime::now();
        let mut sealed = Vec::with_capacity(made.len());
        for (work, result) in made {
            match result {
                Ok(envelope) => sealed.push((work, envelope)),
                Err(SealingError::Outbox(e)) if !matches!(e, OutboxError::Damaged(_)) => {
                    self.core.fail(&e);
                    return;
                }
                Err(e) => {
                    warn!(error = %e, event = %work.event.delivery, device = %work.device, "an event cannot be sealed");
                    self.change(|m| m.unsealable(&work, &e.to_string(), now)).await;
                }
            }
        }
        let wanted = match self.core.change(|m| note(m, &sealed, now)).await {
            Ok((wanted, rest)) => {
                self.rest(rest);
                wanted
            }
            Err(e) => {
                debug!(error = %e, "what was sealed waits for the outbox");
                return;
            }
        };
        let Some(link) = self.link.clone() else {
            return;
        };
        for ((work, envelope), wanted) in sealed.into_iter().zip(wanted) {
            if wanted {
                self.deposit(&link, &work, envelope.map(|e| e.bytes));
            }
        }
    }

    fn deposit(&mut self, link: &Arc<dyn MailboxLink>, work: &Work, new: Option<Vec<u8>>) {
        let place = (work.device, work.sequence);
        if let Some(bytes) = new {
            self.bytes += bytes.len();
            self.held.insert(place, Arc::new(bytes));
        }
        let Some(bytes) = self.held.get(&place).cloned() else {
            return;
        };
        let link = link.clone();
        self.push(Box::pin(async move {
            let envelope = bytes.to_vec();
            let outcome = link.request(Request::Deposit { envelope }).await;
            Answered::Deposit(place.0, place.1, outcome)
        }));
    }

    /// Takes an answer, and all others that are there: they go to disk together.
    async fn answered(&mut self, first: Answered) {
        let mut all = vec![first];
        while let Some(Some(next)) = self.pending.next().now_or_never() {
            all.push(next);
        }
        let now = UnixTime::now();
        let outcomes = all.into_iter().filter_map(|answered| self.settled(answered));
        let outcomes: Vec<(bool, DeviceHandle, u64, Outcome)> = outcomes.collect();
        self.change(|machine| {
            let mut effects = Effects::default();
            for (deposit, device, number, outcome) in &outcomes {
                effects.append(match deposit {
                    true => machine.deposited(*device, *number, outcome, now),
                    false => machine.skipped(*device, *number, outcome),
                });
            }
            effects
        })
        .await;
    }

    /// What there is to act on: whether it is about a deposit, whose, which number, what. `None`: nothing, or the connection is
    /// gone, and all goes again on the next.
    fn settled(&self, answered: Answered) -> Option<(bool, DeviceHandle, u64, Outcome)> {
        let (deposit, device, number, outcome) = match answered {
            Answered::Deposit(device, number, outcome) => (true, device, number, outcome),
            Answered::Skip(device, number, outcome) => (false, device, number, outcome),
            Answered::Admit => return None,
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Unanswered::Ended(_)) => return None,
            Err(Unanswered::Silent(_)) => Outcome::Busy,
            Err(Unanswered::TooLong(why)) => Outcome::Refused(why),
        };
        if deposit {
            count(&self.core.metrics.deposits, word(&outcome));
        }
        match &outcome {
            Outcome::Refused(reason) => {
                warn!(%device, number, reason, "the mailbox refused what it was given")
            }
            Outcome::Revoked => {
                if self.core.snapshot.load().good(&device).is_some() {
                    warn!(%device, "the mailbox has this device as revoked, and the directory has not: enrol it anew");
                }
                self.core.again.notify_one();
            }
            _ => {}
        }
        Some((deposit, device, number, outcome))
    }

    async fn change(&mut self, change: impl FnOnce(&mut Machine) -> Effects) {
        match self.core.change(|m| ((), change(m))).await {
            Ok(((), rest)) => self.rest(rest),
            Err(e) => debug!(error = %e, "a change waits for the outbox"),
        }
    }

    fn rest(&mut self, rest: Rest) {
        for place in rest.forget {
            if let Some(bytes) = self.held.remove(&place) {
                self.bytes -= bytes.len();
            }
        }
        let devices: BTreeSet<DeviceHandle> = rest.admit.into_iter().collect();
        for handle in devices {
            let snapshot = self.core.snapshot.load();
            if let (Some(device), Some(link)) = (snapshot.good(&handle), self.link.clone()) {
                let request = Request::Admit {
                    device: handle,
                    thumbprint: device.thumbprint,
                    epoch: device.epoch,
                };
                self.push(Box::pin(async move {
                    // What comes of it shows at the next deposit.
                    let _ = link.request(request).await;
                    Answered::Admit
                }));
            }
        }
    }
}

/// Tells the machine what was sealed; returns which of it is to be deposited.
fn note(machine: &mut Machine, sealed: &[(Work, Option<Sealed>)], now: UnixTime) -> (Vec<bool>, Effects) {
    let mut all = Effects::default();
    let mut wanted = Vec::with_capacity(sealed.len());
    for (work, new) in sealed {
        let Some(new) = new else {
            let deposit = machine.by_number(work.device, work.sequence).is_some();
            if !deposit {
                machine.unsent(work.device, work.sequence);
            }
            wanted.push(deposit);
            continue;
        };
        let (deposit, effects) = machine.sealed(work, new.hash, &new.variant, new.fetchable, now);
        wanted.push(deposit);
        all.append(effects);
    }
    (wanted, all)
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Kept => "kept",
        Outcome::UnknownDevice => "unknown_device",
        Outcome::Revoked => "revoked",
        Outcome::Full => "full",
        Outcome::Busy => "busy",
        Outcome::Refused(_) => "refused",
    }
}
