//! The hubs that this gateway has joined, as the store has them: one [`Hub`] each, and their routes as one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use hawser_identity::{Fingerprint, HubAddress, SharedCredentials};
use hawser_proto::{DomainName, control::Route};
use hawser_session::{carrier::Ways, hop::HopClient};
use hawser_store::{Bucket, Store, StoreError};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    chance::Chance,
    hub::{Hub, HubState, Terms},
    records::{self, HubRecord},
    routes::{HubView, Routes},
};

/// Most hubs at one time.
const MAX_HUBS: usize = 16;

/// Hubs by `host:port`, with their pins.
type Known = BTreeMap<Arc<str>, (Fingerprint, Arc<Hub>)>;

/// The hubs, and what they show.
pub(crate) struct Hubs {
    bucket: Bucket<HubRecord>,
    ways: ArcSwap<Ways>,
    own: SharedCredentials,
    hubs: ArcSwap<Known>,
    views: Mutex<BTreeMap<Arc<str>, HubView>>,
    routes: watch::Sender<Arc<Routes>>,
    joined: watch::Sender<Vec<(Fingerprint, Arc<Hub>)>>,
    chance: Chance,
}

impl Hubs {
    /// No hubs yet.
    pub(crate) fn new(store: &Store, ways: Ways, own: SharedCredentials) -> Self {
        Self {
            bucket: store.bucket(records::HUBS),
            ways: ArcSwap::from_pointee(ways),
            own,
            hubs: ArcSwap::default(),
            views: Mutex::default(),
            routes: watch::Sender::default(),
            joined: watch::Sender::default(),
            chance: Chance::new(),
        }
    }

    /// Starts and stops hubs so that they are those in the store.
    pub(crate) async fn follow(&self, terms: &Terms) -> Result<(), StoreError> {
        let mut wanted = BTreeMap::new();
        for (key, record, _) in self.bucket.entries().await?.into_iter().take(MAX_HUBS) {
            match key.parse::<HubAddress>() {
                Ok(address) => {
                    wanted.insert(Arc::<str>::from(key), (address, Fingerprint(record.pin)));
                }
                Err(error) => warn!(hub = %key, %error, "this hub's address cannot be read; join it again"),
            }
        }
        let mut hubs = BTreeMap::clone(&self.hubs.load());
        hubs.retain(|key, (pin, hub)| {
            let stays = wanted.get(key).is_some_and(|(_, wanted)| wanted == pin);
            if !stays {
                info!(hub = %key, "leaving the hub");
                hub.stop();
                self.views
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(key);
            }
            stays
        });
        for (key, (address, pin)) in wanted {
            if !hubs.contains_key(&key) {
                info!(hub = %key, "connecting to the hub");
                let why = "still connecting".into();
                self.view(&key, |view| view.why = why);
                match HopClient::new(self.ways.load_full(), address, pin, self.own.clone()) {
                    Ok(client) => {
                        hubs.insert(key.clone(), (pin, Hub::start(key, client, terms.clone())));
                    }
                    Err(error) => warn!(hub = %key, %error, "cannot connect to the hub"),
                }
            }
        }
        self.joined.send_replace(hubs.values().cloned().collect());
        self.hubs.store(Arc::new(hubs));
        self.merge();
        Ok(())
    }

    /// Takes other ways out: every hub is connected anew.
    pub(crate) async fn rewire(&self, ways: Ways, terms: &Terms) -> Result<(), StoreError> {
        self.ways.store(Arc::new(ways));
        for (_, hub) in self.hubs.swap(Arc::default()).values() {
            hub.stop();
        }
        self.follow(terms).await
    }

    /// Ends all control connections.
    pub(crate) fn stop(&self) {
        for (_, hub) in self.hubs.load().values() {
            hub.stop();
        }
    }

    /// The hub at `key` (`host:port`).
    pub(crate) fn by_key(&self, key: &str) -> Option<Arc<Hub>> {
        self.hubs.load().get(key).map(|(_, hub)| hub.clone())
    }

    /// The hub at `key`, or the only one; else what is wrong.
    pub(crate) fn only(&self, key: Option<&str>) -> Result<(Fingerprint, Arc<Hub>), String> {
        let hubs = self.hubs.load();
        let found = match key {
            Some(key) => hubs.get(key),
            None if hubs.len() > 1 => {
                return Err(
                    "several hubs are joined here: name the one with the register in host.register".into(),
                );
            }
            None => hubs.values().next(),
        };
        let missing = || match key {
            Some(key) => format!("the hub {key}, named in host.register, is not joined here"),
            None => "no hub is joined here: use `hawser join`".into(),
        };
        found.map(|(pin, hub)| (*pin, hub.clone())).ok_or_else(missing)
    }

    /// All hubs, beginning anywhere.
    pub(crate) fn all(&self) -> Vec<Arc<Hub>> {
        let mut all: Vec<_> = self.hubs.load().values().map(|(_, hub)| hub.clone()).collect();
        let first = self.chance.below(all.len());
        all.rotate_left(first);
        all
    }

    /// The hubs, with their keys, and every change of them.
    pub(crate) fn joined(&self) -> watch::Receiver<Vec<(Fingerprint, Arc<Hub>)>> {
        self.joined.subscribe()
    }

    /// Each hub's state, for people's eyes.
    pub(crate) fn states(&self) -> Vec<(Arc<str>, HubState)> {
        self.hubs
            .load()
            .iter()
            .map(|(key, (_, hub))| (key.clone(), hub.state()))
            .collect()
    }

    /// The way out that worked last.
    pub(crate) fn way(&self) -> String {
        self.ways.load().current()
    }

    /// What can be called now.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.borrow().clone()
    }

    /// A hub shows other routes.
    pub(crate) fn shows(&self, hub: &Hub, routes: Vec<Route>, domains: Vec<DomainName>) {
        self.view(&hub.key, |view| {
            view.routes = routes;
            view.domains = domains;
        });
        self.merge();
    }

    /// A hub takes new sessions, or does not any more.
    pub(crate) fn usable(&self, hub: &Hub, usable: bool, why: &str) {
        self.view(&hub.key, |view| {
            view.usable = usable;
            why.clone_into(&mut view.why);
        });
        self.merge();
    }

    fn view(&self, key: &Arc<str>, change: impl FnOnce(&mut HubView)) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        change(views.entry(key.clone()).or_default());
    }

    fn merge(&self) {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        // Sent under the lock, so that of two merges the later one stays.
        self.routes.send_replace(Arc::new(Routes::merge(&views)));
    }
}
