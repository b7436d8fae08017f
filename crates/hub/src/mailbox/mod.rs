//! The mailbox: keeps sealed envelopes for devices outside, and hands each to the device that proves the registered key. It can
//! open none of them, and begins nothing towards the enterprise: a gateway of the domain keeps a connection up, over which it
//! deposits, and answers what devices ask for.
//!
//! [`conversation`] is what is said with the gateway, without the connection ([`link`] is the shell); [`devices`] and [`feed`]
//! know who may come and what is on its way to whom; [`serve`], [`api`] and [`stream`] are the devices' HTTPS. What must
//! survive is in `store::mailbox`. Follows the types of `hawser_proto::broker`.

mod api;
mod config;
mod conversation;
mod devices;
mod feed;
mod fetch;
mod link;
mod metrics;
mod problem;
mod serve;
mod stream;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use hawser_proto::{DomainName, UnixTime, broker::DeviceHandle};
use hawser_seal::Replays;
use hawser_store::{
    StoreError,
    mailbox::{self, Backend, Handle, Item},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use config::{MailboxConfig, MailboxLimits, MailboxPlan};
pub(crate) use metrics::Metrics;

use devices::{Devices, NoStream};
use feed::{End, Feed};
use fetch::Grants;
use link::{Link, Order};

use crate::status::MailboxStatus;

/// How often what was sent is put down, and what is over is looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Envelopes sent that are put down at once when there are so many.
const MAX_SENT: usize = 4096;
/// Envelopes that are given up in one go.
const EXPIRE: usize = 512;

/// A hub's mailbox.
pub(crate) struct Mailbox {
    url: String,
    store: Arc<dyn Backend>,
    devices: Mutex<Devices>,
    replays: Mutex<Replays>,
    links: Mutex<HashMap<Arc<str>, Link>>,
    grants: Mutex<Grants>,
    /// Envelopes that were written to a connection, and neither put down nor acknowledged yet.
    sent: Mutex<HashSet<(Handle, u64)>>,
    limits: ArcSwap<MailboxLimits>,
    metrics: Metrics,
    /// Ends everything.
    stop: CancellationToken,
}

impl Mailbox {
    /// Opens the mailbox in the hub's state directory; lets nobody in before [`Self::domains`] was called. It works until `stop`.
    pub(crate) async fn open(
        plan: &MailboxPlan,
        state: &Path,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let store = mailbox::open(state, plan.limits.store())?;
        let mut devices = Devices::default();
        for device in store.devices().await? {
            devices.put(&device);
        }
        let mailbox = Arc::new(Self {
            url: plan.url.clone(),
            store,
            devices: Mutex::new(devices),
            replays: Mutex::new(Replays::new(UnixTime::now(), plan.limits.devices)),
            links: Mutex::default(),
            grants: Mutex::default(),
            sent: Mutex::default(),
            limits: ArcSwap::from_pointee(plan.limits.clone()),
            metrics,
            stop,
        });
        tokio::spawn(keep_house(mailbox.clone()));
        Ok(mailbox)
    }

    /// Other bounds from now on; what is there stays.
    pub(crate) fn limit(&self, limits: &MailboxLimits) {
        self.limits.store(Arc::new(limits.clone()));
        // In line with everything else; nobody waits for it.
        drop(self.store.limit(limits.store()));
    }

    /// Only devices of `admitted` domains may come from now on; what is there of domains that are not even `known` any more is
    /// forgotten, in the files as well.
    pub(crate) async fn domains(
        &self,
        admitted: impl Iterator<Item = &DomainName>,
        known: impl Iterator<Item = &DomainName>,
    ) -> Result<(), StoreError> {
        let name = |domain: &DomainName| Arc::<str>::from(domain.as_str());
        let admitted: BTreeSet<_> = admitted.map(name).collect();
        let mut known: Vec<_> = known.map(name).collect();
        known.extend(admitted.iter().cloned());
        let forget = {
            let mut devices = self.devices();
            devices.admit_domains(admitted);
            devices.retain(&known)
        };
        if forget {
            let domains = self.store.retain(known).await?;
            tracing::info!(domains, "forgot the mailboxes of domains that were forgotten");
        }
        Ok(())
    }

    /// What it holds now.
    pub(crate) fn status(&self) -> MailboxStatus {
        MailboxStatus {
            url: self.url.clone(),
            devices: self.metrics.devices.get().unsigned_abs(),
            streams: self.devices().streams(),
            envelopes: self.metrics.envelopes.get().unsigned_abs(),
            bytes: self.metrics.bytes.get().unsigned_abs(),
            reports: self.metrics.reports.get().unsigned_abs(),
            domains: self.links().keys().map(ToString::to_string).collect(),
        }
    }

    /// A device is out: its streams and grants end, and its requests are refused, from now on.
    fn cut(&self, domain: &str, device: &DeviceHandle) {
        let key = self.devices().revoke(domain, device);
        if let Some(thumbprint) = key {
            self.replays().remove(&thumbprint);
            let gone = self.grants().revoke(device);
            drop(gone);
        }
    }

    /// A stream, or a request that waits, begins.
    fn arrive(self: &Arc<Self>, device: DeviceHandle, thumbprint: &[u8; 32]) -> Result<Presence, NoStream> {
        let limits = self.limits.load();
        let feed = Arc::new(Feed::default());
        let mut devices = self.devices();
        let first = devices.begin(
            &device,
            thumbprint,
            &feed,
            (limits.streams, limits.streams_per_device),
        )?;
        self.metrics.streams.set(devices.streams() as i64);
        drop(devices);
        if first {
            self.contact(device, thumbprint, true);
        }
        Ok(Presence {
            mailbox: self.clone(),
            device,
            thumbprint: *thumbprint,
            feed,
        })
    }

    /// Tells the domain's gateway, if it is there and has time.
    fn contact(&self, device: DeviceHandle, thumbprint: &[u8; 32], connected: bool) {
        let Ok(domain) = self.devices().let_in(&device, thumbprint) else {
            return;
        };
        if let Some(link) = self.links().get(&domain) {
            let _ = link.orders.try_send(Order::Contact { device, connected });
        }
    }

    /// An item was written to a connection of the device.
    fn written(&self, device: &DeviceHandle, item: &Item) {
        if item.skip {
            return;
        }
        self.metrics.written.inc();
        let full = {
            let mut sent = self.sent();
            sent.insert((device.0, item.sequence));
            (sent.len() >= MAX_SENT).then(|| std::mem::take(&mut *sent))
        };
        if let Some(sent) = full {
            // In line with everything else; its reports are told with the next ones.
            drop(self.store.sent(sent.into_iter().collect()));
        }
    }

    /// Puts down what was sent, and tells of it.
    async fn put_down_sent(&self) -> Result<(), StoreError> {
        let sent = std::mem::take(&mut *self.sent());
        if sent.is_empty() {
            return Ok(());
        }
        for domain in self.store.sent(sent.into_iter().collect()).await? {
            self.tell(&domain);
        }
        Ok(())
    }

    /// Gives up what is over.
    async fn expire(&self) -> Result<(), StoreError> {
        loop {
            let expired = self.store.expire(UnixTime::now().0, EXPIRE).await?;
            let domains: BTreeSet<_> = expired.iter().map(|e| &e.domain).collect();
            domains.into_iter().for_each(|domain| self.tell(domain));
            self.metrics.expired.inc_by(expired.len() as u64);
            if expired.len() < EXPIRE {
                return Ok(());
            }
        }
    }

    async fn count(&self) -> Result<(), StoreError> {
        let totals = self.store.totals().await?;
        self.metrics.devices.set(totals.devices as i64);
        self.metrics.envelopes.set(totals.envelopes as i64);
        self.metrics.bytes.set(totals.bytes as i64);
        self.metrics.reports.set(totals.reports as i64);
        Ok(())
    }

    /// There are new reports for this domain.
    fn tell(&self, domain: &str) {
        if let Some(link) = self.links().get(domain) {
            link.reports.notify_one();
        }
    }

    // Locks, none of which is held across an await, nor while another one is taken.

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replays(&self) -> MutexGuard<'_, Replays> {
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, HashMap<Arc<str>, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self) -> MutexGuard<'_, HashSet<(Handle, u64)>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", self.url)
    }
}

/// A stream, or a request that waits, among the device's. It leaves when this is dropped.
struct Presence {
    mailbox: Arc<Mailbox>,
    device: DeviceHandle,
    thumbprint: [u8; 32],
    feed: Arc<Feed>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let last = {
            let mut devices = self.mailbox.devices();
            let last = devices.leave(&self.device, &self.feed);
            self.mailbox.metrics.streams.set(devices.streams() as i64);
            last
        };
        if last {
            self.mailbox.contact(self.device, &self.thumbprint, false);
        }
    }
}

/// What is done without anybody's asking.
async fn keep_house(mailbox: Arc<Mailbox>) {
    let mut tick = interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = mailbox.stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let over = mailbox.grants().purge(std::time::Instant::now());
        drop(over);
        let done = async {
            mailbox.put_down_sent().await?;
            mailbox.expire().await?;
            mailbox.count().await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the mailbox could not be tidied: trying again");
        }
    }
    mailbox.devices().end(End::Stopped);
    // What was sent is put down for the next start; if not, it is told of once more.
    let _ = mailbox.put_down_sent().await;
}

#[cfg(test)]
mod tests;
