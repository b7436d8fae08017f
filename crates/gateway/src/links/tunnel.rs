//! The tunnel as a whole: routes calls to peers, retries what may be retried, and passes on what hubs say.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures_util::future::BoxFuture;
use hawser_proto::{
    DomainName, Fault, HostName, NodeId, Place, ServiceId,
    control::{Protocol, Publishing, Route},
    hop::Ticket,
    session::RequestId,
};
use hawser_session::{EndToEnd, http::Class, http::Slot};
use http::{Method, Request, Response, header::CONTENT_LENGTH};
use http_body::Body as _;

use super::{
    accept::Acceptor,
    chance::Chance,
    exchange::Invitation,
    faults,
    hub::{Hub, Sink},
    hubs::Hubs,
    metrics::{Hub as HubLabel, Metrics},
    peer::Peer,
    routes::{self, Candidate, Routes},
    sessions::Dialler,
    trust::Keeper,
    visits::Visits,
};
use crate::seam::{Body, Calls, HttpLease, SendError};

/// Requests with a body of more bytes than this go on bulk sessions.
const BULK_FROM: u64 = 1 << 20;
/// Tries of one request or connection before it fails.
const MAX_TRIES: usize = 3;

/// Everything between the clients' side and the other gateways.
pub(crate) struct Tunnel {
    pub(crate) hubs: Arc<Hubs>,
    pub(crate) dialler: Arc<Dialler>,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) visits: Arc<Visits>,
    pub(crate) keeper: Keeper,
    pub(crate) metrics: Metrics,
    pub(crate) draining: AtomicBool,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    chance: Chance,
}

/// A request's place on a session.
struct Placed {
    peer: Arc<Peer>,
    hubs: Vec<Arc<str>>,
    slot: Slot,
}

impl Tunnel {
    /// A tunnel that knows no peers yet.
    pub(crate) fn new(
        hubs: Arc<Hubs>,
        dialler: Arc<Dialler>,
        (acceptor, visits): (Arc<Acceptor>, Arc<Visits>),
        keeper: Keeper,
        metrics: Metrics,
    ) -> Self {
        Self {
            hubs,
            dialler,
            acceptor,
            visits,
            keeper,
            metrics,
            draining: AtomicBool::new(false),
            peers: Mutex::default(),
            chance: Chance::new(),
        }
    }

    /// The peer, known or new.
    pub(crate) fn peer(&self, node: &NodeId) -> Arc<Peer> {
        let mut peers = self.peers();
        match peers.get(node) {
            Some(peer) => peer.clone(),
            None => {
                let peer = Arc::new(Peer::new(node.clone(), self.dialler.clone()));
                peers.insert(node.clone(), peer.clone());
                peer
            }
        }
    }

    /// All peers with whom something was going on lately.
    pub(crate) fn known(&self) -> Vec<Arc<Peer>> {
        self.peers().values().cloned().collect()
    }

    /// What is under way to other gateways.
    pub(crate) fn load(&self) -> usize {
        self.known().iter().map(|peer| peer.in_flight()).sum()
    }

    /// Closes idle, due and dead sessions; forgets peers that have none.
    pub(crate) fn sweep(&self, now: Instant) {
        let known = self.known();
        for peer in &known {
            peer.sweep(now);
        }
        drop(known);
        self.peers()
            .retain(|_, peer| Arc::strong_count(peer) > 1 || !peer.is_idle());
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of `candidates` to ask, taken out of them.
    fn choose(&self, candidates: &mut Vec<&Candidate>) -> Option<(Arc<Peer>, Vec<Arc<str>>)> {
        let peers: Vec<_> = candidates.iter().map(|c| self.peer(&c.node)).collect();
        let loads: Vec<_> = peers.iter().map(|p| p.load()).collect();
        let chosen = routes::pick(&loads, &self.chance)?;
        let candidate = candidates.swap_remove(chosen);
        Some((peers[chosen].clone(), candidate.hubs.clone()))
    }

    /// A place for a request; not with `avoid` where there is another.
    async fn place(&self, service: &ServiceId, avoid: Option<&NodeId>) -> Result<Placed, Fault> {
        let routes = self.hubs.routes();
        let mut candidates = self.candidates(&routes, service, Protocol::Http)?;
        if candidates.len() > 1 {
            candidates.retain(|c| Some(&c.node) != avoid);
        }
        let mut last = faults::no_gateway(service);
        for _ in 0..MAX_TRIES {
            let Some((peer, hubs)) = self.choose(&mut candidates) else {
                break;
            };
            match peer.http(Class::Ordinary).slot(&hubs).await {
                Ok(slot) => return Ok(Placed { peer, hubs, slot }),
                Err(fault) if is_final(&fault) => return Err(fault),
                Err(fault) => {
                    peer.failed();
                    last = fault;
                }
            }
        }
        Err(last)
    }

    /// Where services of the domain of `service` call back.
    async fn base(&self, service: &ServiceId) -> Result<Option<Arc<str>>, Fault> {
        let routes = self.hubs.routes();
        let known = self.candidates(&routes, service, Protocol::Http)?;
        for candidate in known {
            if let Some(base) = self.peer(&candidate.node).known_base() {
                return Ok(base);
            }
        }
        let Placed { peer, slot, .. } = self.place(service, None).await?;
        Ok(peer.base(slot).await)
    }

    fn candidates<'a>(
        &self,
        routes: &'a Routes,
        service: &ServiceId,
        protocol: Protocol,
    ) -> Result<Vec<&'a Candidate>, Fault> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(faults::draining());
        }
        routes.candidates(service, protocol)
    }

    async fn send(
        self: Arc<Self>,
        service: ServiceId,
        placed: Placed,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        self.metrics.requests.inc();
        let (mut placed, mut request) = (placed, request);
        // Whether some peer may have seen it: then nobody else may take it for unsent.
        let mut seen = false;
        let mut tries = 1;
        loop {
            let replay = replayable(&request);
            let peer = placed.peer.clone();
            let failed = match self.once(placed, request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            seen |= failed.request.is_none();
            let again = match (failed.request, replay) {
                (Some(unsent), _) => Some(*unsent),
                (None, replay) if failed.broken => replay,
                (None, _) => None,
            };
            let unsent = |request| (!seen).then(|| Box::new(request));
            match again {
                None => {
                    return Err(SendError {
                        fault: failed.fault,
                        request: None,
                    });
                }
                Some(last) if tries >= MAX_TRIES => {
                    return Err(SendError {
                        fault: failed.fault,
                        request: unsent(last),
                    });
                }
                Some(again) => request = again,
            }
            tries += 1;
            self.metrics.retries.inc();
            peer.failed();
            placed = match self.place(&service, Some(peer.node())).await {
                Ok(placed) => placed,
                Err(fault) => {
                    return Err(SendError {
                        fault,
                        request: unsent(request),
                    });
                }
            };
        }
    }

    /// One try.
    async fn once(&self, placed: Placed, request: Request<Body>) -> Result<Response<Body>, Failed> {
        let Placed { peer, hubs, mut slot } = placed;
        let class = if is_bulk(&request) {
            Class::Bulk
        } else {
            Class::Ordinary
        };
        if class == Class::Bulk {
            drop(slot);
            slot = match peer.http(Class::Bulk).slot(&hubs).await {
                Ok(slot) => slot,
                Err(fault) => {
                    return Err(Failed {
                        fault,
                        request: Some(Box::new(request)),
                        broken: true,
                    });
                }
            };
        }
        let session = slot.session().clone();
        slot.send(request).await.map_err(|e| {
            let broken = is_broken(&e.error);
            if broken {
                peer.http(class).broke(&session);
            }
            Failed {
                fault: faults::request_lost(peer.node(), &deepest(&e.error)),
                broken,
                request: e.request.map(Box::new),
            }
        })
    }

    async fn open(&self, service: &ServiceId, request: RequestId) -> Result<EndToEnd, Fault> {
        let routes = self.hubs.routes();
        let mut candidates = self.candidates(&routes, service, Protocol::Tcp)?;
        let mut last = faults::no_gateway(service);
        for _ in 0..MAX_TRIES {
            let Some((peer, hubs)) = self.choose(&mut candidates) else {
                break;
            };
            match peer.tcp(&hubs, &service.name, request).await {
                Ok(session) => {
                    self.metrics.connections.inc();
                    return Ok(session);
                }
                Err(fault) if is_final(&fault) => return Err(fault),
                Err(fault) => {
                    peer.failed();
                    last = fault;
                }
            }
        }
        Err(last)
    }
}

/// A try that brought no answer.
struct Failed {
    fault: Fault,
    /// Given back when nothing of it was sent.
    request: Option<Box<Request<Body>>>,
    /// The session is broken, not the request.
    broken: bool,
}

/// The clients' side's hold on the tunnel.
pub(crate) struct Caller(pub(crate) Arc<Tunnel>);

impl Calls for Caller {
    fn http<'a>(&'a self, service: &'a ServiceId) -> BoxFuture<'a, Result<HttpLease, Fault>> {
        Box::pin(async move {
            let placed = self.0.place(service, None).await?;
            let (tunnel, service) = (self.0.clone(), service.clone());
            let node = placed.peer.node().clone();
            Ok(HttpLease::new(node, move |request| {
                Box::pin(tunnel.send(service, placed, request))
            }))
        })
    }

    fn tcp<'a>(
        &'a self,
        service: &'a ServiceId,
        request: RequestId,
    ) -> BoxFuture<'a, Result<EndToEnd, Fault>> {
        Box::pin(self.0.open(service, request))
    }

    fn routes(&self) -> Arc<Routes> {
        self.0.hubs.routes()
    }

    fn base<'a>(&'a self, service: &'a ServiceId) -> BoxFuture<'a, Result<Option<Arc<str>>, Fault>> {
        Box::pin(self.0.base(service))
    }
}

impl Sink for Tunnel {
    fn routes(&self, hub: &Arc<Hub>, routes: Vec<Route>, domains: Vec<DomainName>) {
        self.hubs.shows(hub, routes, domains);
    }

    fn usable(&self, hub: &Arc<Hub>, usable: bool, why: &str) {
        let label = HubLabel {
            hub: hub.key.to_string(),
        };
        self.metrics
            .hub_connected
            .get_or_create(&label)
            .set(usable.into());
        if !usable {
            self.visits.ingress.lost(&hub.key);
        }
        if usable {
            self.metrics.hub_connections.get_or_create(&label).inc();
        }
        self.hubs.usable(hub, usable, why);
    }

    fn invited(&self, hub: &Arc<Hub>, invitation: Invitation) {
        self.acceptor.invited(hub, invitation);
    }

    fn visited(&self, hub: &Arc<Hub>, ticket: Ticket, name: HostName) {
        self.visits.come(hub, ticket, name);
    }

    fn publishing(&self, hub: &Arc<Hub>, said: Vec<Publishing>) {
        self.visits.ingress.heard(&hub.key, said);
    }

    fn revocations(&self, bytes: Vec<u8>) {
        self.keeper.offer(bytes);
    }

    fn own_revocations(&self) -> Vec<Vec<u8>> {
        self.keeper.own_lists()
    }

    fn counted(&self) {
        self.metrics.control_messages.inc();
    }
}

/// Whether another gateway would say the same: a refusal by rule, not a failure.
fn is_final(fault: &Fault) -> bool {
    fault.place == Place::Policy || fault.status < 500
}

fn is_bulk(request: &Request<Body>) -> bool {
    let length = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length > BULK_FROM)
}

/// The request again, if it may be repeated although it may have been carried out (RFC 9110, 9.2.2) and has no body.
fn replayable(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ];
    if !idempotent.contains(request.method()) || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(hawser_session::empty());
    request.method().clone_into(again.method_mut());
    request.uri().clone_into(again.uri_mut());
    request.headers().clone_into(again.headers_mut());
    *again.version_mut() = request.version();
    request.extensions().clone_into(again.extensions_mut());
    Some(again)
}

/// Whether the session went away under the request, rather than the peer having ended it.
fn is_broken(error: &hyper::Error) -> bool {
    let by_io = std::error::Error::source(error).is_some_and(|e| e.is::<std::io::Error>());
    by_io || error.is_canceled() || error.is_closed() || error.is_timeout()
}

/// The first cause, which says most.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, body: Body) -> Request<Body> {
        Request::builder()
            .method(method)
            .uri("http://x/")
            .body(body)
            .unwrap()
    }

    #[test]
    fn only_what_does_no_harm_is_replayed() {
        assert!(replayable(&request(Method::GET, hawser_session::empty())).is_some());
        assert!(replayable(&request(Method::DELETE, hawser_session::empty())).is_some());
        assert!(replayable(&request(Method::POST, hawser_session::empty())).is_none());
        assert!(replayable(&request(Method::PUT, hawser_session::full("body"))).is_none());
    }

    #[test]
    fn large_uploads_go_on_bulk_sessions() {
        let mut upload = request(Method::PUT, hawser_session::empty());
        assert!(!is_bulk(&upload));
        upload
            .headers_mut()
            .insert(CONTENT_LENGTH, "1048577".parse().unwrap());
        assert!(is_bulk(&upload));
        upload
            .headers_mut()
            .insert(CONTENT_LENGTH, "1048576".parse().unwrap());
        assert!(!is_bulk(&upload));
    }
}
