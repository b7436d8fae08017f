//! Makes end-to-end sessions: asks a hub, shows the ticket, proves who is at the other end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawser_identity::{SharedCredentials, SharedTrust};
use hawser_proto::{Fault, NodeId, Role, UnixTime, control::Target};
use hawser_session::{
    EndToEnd, SessionError,
    end_to_end::connect,
    hop::{HopError, Side},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{debug, warn};

use super::{
    faults,
    hub::Hub,
    hubs::Hubs,
    live::{Handle, Live, Peer, half},
    metrics::{self, Metrics},
};

/// Most sessions in the making at one time.
const MAX_DIALLING: usize = 256;
/// Longest wait for a place among them.
const PLACE_WAIT: Duration = Duration::from_secs(5);

/// What a session is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests.
    Http,
    /// Requests with large bodies.
    Bulk,
    /// One TCP connection.
    Tcp,
    /// A fresh certificate.
    Renew,
}

impl Kind {
    /// The word in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Bulk => "bulk",
            Kind::Tcp => "tcp",
            Kind::Renew => "renew",
        }
    }
}

/// A session just made.
pub(crate) struct Made {
    /// The session; who is at its end is proved.
    pub(crate) session: EndToEnd,
    /// The hold on it.
    pub(crate) handle: Handle,
    /// When half of what was left of the certificates' lives is over: nothing new goes on it then.
    pub(crate) drain_at: Instant,
}

/// Makes sessions with other gateways.
pub(crate) struct Dialler {
    hubs: Arc<Hubs>,
    own: SharedCredentials,
    trust: SharedTrust,
    live: Live,
    metrics: Metrics,
    places: Semaphore,
}

impl Dialler {
    /// A dialler that uses the hubs that are connected when it is asked.
    pub(crate) fn new(
        hubs: Arc<Hubs>,
        own: SharedCredentials,
        trust: SharedTrust,
        live: Live,
        metrics: Metrics,
    ) -> Self {
        Self {
            hubs,
            own,
            trust,
            live,
            metrics,
            places: Semaphore::new(MAX_DIALLING),
        }
    }

    /// A session with `peer` through the first of `hubs` (`host:port`) by which it works. Cancel safe.
    pub(crate) async fn to(&self, peer: &NodeId, hubs: &[Arc<str>], kind: Kind) -> Result<Made, Fault> {
        let mut last = None;
        for hub in hubs.iter().filter_map(|key| self.hubs.by_key(key)) {
            match self
                .through(&hub, Target::Gateway(peer.clone()), Some(peer), kind)
                .await
            {
                Ok(made) => return Ok(made),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(faults::no_hub))
    }

    /// A session with any issuer of the own domain, through any hub. Cancel safe.
    pub(crate) async fn to_issuer(&self) -> Result<Made, Fault> {
        let mut last = None;
        for hub in self.hubs.all() {
            match self.through(&hub, Target::Issuer, None, Kind::Renew).await {
                Ok(made) => return Ok(made),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(faults::no_hub))
    }

    async fn through(
        &self,
        hub: &Arc<Hub>,
        target: Target,
        expect: Option<&NodeId>,
        kind: Kind,
    ) -> Result<Made, Fault> {
        let made = self.make(hub, target, expect).await;
        match &made {
            Ok(made) => {
                debug!(peer = %made.session.peer, hub = %hub.key, kind = kind.as_str(), "session made");
                let label = metrics::Session {
                    kind: kind.as_str(),
                    side: "dialled",
                };
                self.metrics.sessions.get_or_create(&label).inc();
                let exchange = metrics::KeyExchange::of(&made.session, "dialled");
                self.metrics.key_exchanges.get_or_create(&exchange).inc();
            }
            Err(fault) => {
                let label = metrics::Failure {
                    place: fault.place.as_str(),
                };
                self.metrics.session_failures.get_or_create(&label).inc();
            }
        }
        made
    }

    async fn make(&self, hub: &Arc<Hub>, target: Target, expect: Option<&NodeId>) -> Result<Made, Fault> {
        let _place = match timeout(PLACE_WAIT, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            _ => return Err(faults::hub_busy(&hub.key)),
        };
        let grant = hub.request(target).await?;
        let own_domain = self.own.load().id().domain.clone();
        let peer = grant.peer;
        // The hub only suggests; whom we take is decided here, and proved below.
        let acceptable = match expect {
            Some(expect) => peer == *expect,
            None => peer.domain == own_domain && peer.role == Role::Gateway,
        };
        if !acceptable {
            warn!(hub = %hub.key, %peer, "the hub granted a session with somebody else than was asked for");
            return Err(faults::session_failed(&peer, "the hub offered somebody else"));
        }
        let carrier = hub
            .client
            .session(grant.ticket, Side::Dialling)
            .await
            .map_err(|e| hop_fault(&hub.key, &peer, e))?;
        let (carrier, handle) = self.live.enlist(carrier);
        let session = connect(carrier, self.own.clone(), self.trust.clone(), &peer)
            .await
            .map_err(|e| session_fault(&peer, &e))?;
        let drain_at = admit(&handle, &session, &self.own, true);
        Ok(Made {
            session,
            handle,
            drain_at,
        })
    }
}

/// Enters who was proved into the list of live sessions; returns when the session is to be drained.
pub(crate) fn admit(handle: &Handle, session: &EndToEnd, own: &SharedCredentials, dialled: bool) -> Instant {
    let expires = session.peer_not_after.min(own.load().not_after());
    let peer = Peer {
        proved: session.proved.clone(),
        expires,
    };
    handle.proved(peer, session.binding, dialled);
    half(UnixTime::now(), expires)
}

fn hop_fault(hub: &str, peer: &NodeId, error: HopError) -> Fault {
    if !matches!(error, HopError::Refused(_)) {
        warn!(%hub, %peer, %error, "the hub granted a session, but did not bring it about");
    }
    match error {
        HopError::Refused(fault) => fault,
        HopError::Dial(e) => faults::hub_not_connected(hub, &e.to_string()),
        HopError::Timeout { seconds, .. } => faults::session_timeout(peer, Duration::from_secs(seconds)),
        e => faults::session_failed(peer, &e.to_string()),
    }
}

fn session_fault(peer: &NodeId, error: &SessionError) -> Fault {
    match error {
        SessionError::Timeout { .. } => {
            warn!(%peer, %error, "a session came to nothing");
            faults::session_timeout(peer, hawser_session::end_to_end::HANDSHAKE_TIMEOUT)
        }
        SessionError::Tls { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
            warn!(%peer, %error, "the other side did not prove that it is this gateway");
            faults::peer_refused(peer, &source.to_string())
        }
        SessionError::Identity { source, .. } => {
            warn!(%peer, %error, "the other side did not prove that it is this gateway");
            faults::peer_refused(peer, &source.to_string())
        }
        e => {
            warn!(%peer, error = %e, "a session came to nothing");
            faults::session_failed(peer, &e.to_string())
        }
    }
}
