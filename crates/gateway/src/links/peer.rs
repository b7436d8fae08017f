//! One peer gateway: the sessions with it, how busy it is, and whether it failed lately.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hawser_proto::{
    Fault, NodeId, ServiceName,
    frame::MAX_FRAME_UNPROVED,
    session::{Open, Opened, RequestId},
};
use hawser_session::{
    EndToEnd, SessionError,
    http::{Class, HttpSession, Slot},
};
use tokio::time::timeout;
use tracing::debug;

use super::{
    faults,
    http_pool::HttpPool,
    internal,
    live::Handle,
    sessions::{Dialler, Kind},
    trust::Keeper,
    warm::Warm,
};

/// Longest wait for the exporting gateway's answer to [`Open::Tcp`]; it may be connecting to its origin.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer that failed is asked only when there is no other.
const AVOID: Duration = Duration::from_secs(2);
/// How long its word is taken for where services of its domain call back.
const BASE_LIFE: Duration = Duration::from_secs(30);
/// Added to the load of a peer that failed lately.
const PENALTY: usize = 1 << 20;

/// A peer gateway.
pub(crate) struct Peer {
    node: NodeId,
    dialler: Arc<Dialler>,
    ordinary: HttpPool,
    bulk: HttpPool,
    warm: Mutex<Warm<WarmSession>>,
    /// TCP connections under way.
    connections: Arc<AtomicUsize>,
    born: Instant,
    /// Milliseconds after `born` until which it is avoided.
    avoid: AtomicU64,
    /// Which state of the own domain's revocation lists it was told.
    told: AtomicU64,
    /// Entity tag of the revocation lists that it was last heard of.
    heard: Mutex<Option<String>>,
    /// Where services of its domain call back, and when it said so.
    base: Mutex<Option<(Instant, Option<Arc<str>>)>>,
}

struct WarmSession {
    session: EndToEnd,
    handle: Handle,
}

impl WarmSession {
    /// A warm session is silent; one on which anything stirs has ended, or is broken.
    fn is_alive(&mut self) -> bool {
        self.session.stirred().now_or_never().is_none()
    }
}

/// Why a TCP session was not opened.
enum NotOpened {
    /// It had died before; nothing reached the peer.
    Stale,
    /// For this reason.
    Fault(Fault),
}

impl Peer {
    /// A peer without sessions.
    pub(crate) fn new(node: NodeId, dialler: Arc<Dialler>) -> Self {
        Self {
            ordinary: HttpPool::new(node.clone(), Class::Ordinary, dialler.clone()),
            bulk: HttpPool::new(node.clone(), Class::Bulk, dialler.clone()),
            node,
            dialler,
            warm: Mutex::default(),
            connections: Arc::default(),
            born: Instant::now(),
            avoid: AtomicU64::new(0),
            told: AtomicU64::new(0),
            heard: Mutex::default(),
            base: Mutex::default(),
        }
    }

    /// Its identity.
    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    /// The pool for requests of a class.
    pub(crate) fn http(&self, class: Class) -> &HttpPool {
        match class {
            Class::Ordinary => &self.ordinary,
            Class::Bulk => &self.bulk,
        }
    }

    /// Requests and connections under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.ordinary.in_flight() + self.bulk.in_flight() + self.connections.load(Ordering::Relaxed)
    }

    /// How busy it is, for the choice between peers: more when it failed lately.
    pub(crate) fn load(&self) -> usize {
        let busy = self.in_flight();
        if self.now() < self.avoid.load(Ordering::Relaxed) {
            busy + PENALTY
        } else {
            busy
        }
    }

    /// It failed: for a moment others are preferred.
    pub(crate) fn failed(&self) {
        self.avoid
            .store(self.now() + AVOID.as_millis() as u64, Ordering::Relaxed);
    }

    /// Tells it the own domain's revocation lists, unless it knows their state number `state`, on a session that is open.
    pub(crate) async fn tell(&self, state: u64, lists: &[Vec<u8>]) {
        let Some(session) = self.ordinary.any().or_else(|| self.bulk.any()) else {
            return;
        };
        if self.told.swap(state, Ordering::Relaxed) == state {
            return;
        }
        for list in lists {
            if !internal::tell(&session, list.clone()).await {
                self.told.store(0, Ordering::Relaxed);
                return;
            }
        }
    }

    /// A session for requests, made if only other sessions are open with it; none if there is no session at all.
    pub(crate) async fn session(&self, hubs: &[Arc<str>]) -> Option<HttpSession> {
        let open = self.ordinary.any().or_else(|| self.bulk.any());
        if open.is_some() || (self.sessions() == (0, 0) && self.in_flight() == 0) {
            return open;
        }
        let slot = self.ordinary.slot(hubs).await.ok()?;
        Some(slot.session().clone())
    }

    /// Asks it for its domain's revocation lists, and hands new ones to `keeper`.
    pub(crate) async fn ask(&self, session: HttpSession, keeper: &Keeper) {
        let known = self.heard().clone();
        let Some((tag, lists)) = internal::ask(session, known).await else {
            return;
        };
        for list in lists {
            let accepted = keeper.accept(list).await;
            if let Err(error) = accepted {
                debug!(peer = %self.node, %error, "it gave a revocation list that is of no use");
                return;
            }
        }
        *self.heard() = Some(tag);
    }

    /// Where services of its domain call back, if it said so lately.
    pub(crate) fn known_base(&self) -> Option<Option<Arc<str>>> {
        let base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        base.as_ref()
            .filter(|(when, _)| when.elapsed() < BASE_LIFE)
            .map(|(_, base)| base.clone())
    }

    /// Asks it where services of its domain call back.
    pub(crate) async fn base(&self, slot: Slot) -> Option<Arc<str>> {
        // No answer is no knowledge, and so not kept.
        let base = internal::base(slot).await?.map(Arc::from);
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), base.clone()));
        base
    }

    /// Open sessions: for requests, and warm ones.
    pub(crate) fn sessions(&self) -> (usize, usize) {
        (self.ordinary.len() + self.bulk.len(), self.warm().len())
    }

    /// A connection to a TCP service of the peer, which has accepted it. Cancel safe.
    pub(crate) async fn tcp(
        self: &Arc<Self>,
        hubs: &[Arc<str>],
        service: &ServiceName,
        request: RequestId,
    ) -> Result<EndToEnd, Fault> {
        let warm = self.warm().take(Instant::now());
        self.refill(hubs);
        if let Some(mut warm) = warm
            && warm.is_alive()
        {
            match self.open(warm, service, request).await {
                Ok(session) => return Ok(session),
                Err(NotOpened::Fault(fault)) => return Err(fault),
                Err(NotOpened::Stale) => debug!(peer = %self.node, "a warm session was stale"),
            }
        }
        let made = self.dialler.to(&self.node, hubs, Kind::Tcp).await?;
        let fresh = WarmSession {
            session: made.session,
            handle: made.handle,
        };
        self.open(fresh, service, request).await.map_err(|e| match e {
            NotOpened::Fault(fault) => fault,
            NotOpened::Stale => faults::session_failed(&self.node, "it broke before it was used"),
        })
    }

    /// Closes what is idle, due or dead.
    pub(crate) fn sweep(&self, now: Instant) {
        self.ordinary.sweep(now);
        self.bulk.sweep(now);
        self.warm().sweep(now, WarmSession::is_alive);
    }

    /// Whether nothing is known of it that is worth keeping.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions() == (0, 0) && self.in_flight() == 0
    }

    async fn open(
        &self,
        mut warm: WarmSession,
        service: &ServiceName,
        request: RequestId,
    ) -> Result<EndToEnd, NotOpened> {
        warm.handle.count_in(self.connections.clone());
        let ask = Open::Tcp {
            service: service.clone(),
            request,
        };
        let exchange = async {
            warm.session.write_frame(&ask).await?;
            warm.session.read_frame(MAX_FRAME_UNPROVED).await
        };
        match timeout(OPEN_TIMEOUT, exchange).await {
            Ok(Ok(Opened::Accepted)) => Ok(warm.session),
            Ok(Ok(Opened::Refused(fault))) => Err(NotOpened::Fault(fault)),
            // No byte of the client's has been sent, so it can be tried again.
            Ok(Err(SessionError::Frame(hawser_session::frame::Error::Io(_)))) => Err(NotOpened::Stale),
            Ok(Err(e)) => Err(NotOpened::Fault(faults::session_failed(
                &self.node,
                &e.to_string(),
            ))),
            Err(_) => Err(NotOpened::Fault(faults::open_timeout(&self.node, OPEN_TIMEOUT))),
        }
    }

    fn refill(self: &Arc<Self>, hubs: &[Arc<str>]) {
        let missing = self.warm().refill(Instant::now());
        for _ in 0..missing {
            let (peer, hubs) = (self.clone(), hubs.to_vec());
            tokio::spawn(async move {
                match peer.dialler.to(&peer.node, &hubs, Kind::Tcp).await {
                    Ok(made) => {
                        let session = WarmSession {
                            session: made.session,
                            handle: made.handle,
                        };
                        peer.warm().made(session, made.drain_at);
                    }
                    Err(fault) => {
                        debug!(peer = %peer.node, %fault, "no warm session");
                        peer.warm().not_made();
                    }
                }
            });
        }
    }

    fn warm(&self) -> MutexGuard<'_, Warm<WarmSession>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Option<String>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }
}
