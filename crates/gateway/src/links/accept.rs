//! The accepting side: dials in where a hub invites, proves who is there, and serves what the session is opened for.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hawser_identity::{SharedCredentials, SharedTrust};
use hawser_proto::{
    Fault, NodeId, Place, Role, ServiceName,
    frame::MAX_FRAME_UNPROVED,
    session::{Issued, Open, Opened, RequestId},
};
use hawser_session::{
    EndToEnd, SessionError,
    end_to_end::{Enrolment, accept, enrol_accept},
    hop::{HopError, Side},
    http::{Class, ServeControl, serve},
    tcp::bridge,
};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    sync::Semaphore,
    time::{timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    exchange::Invitation,
    hub::Hub,
    internal::{self, Here},
    issuing::{Issuing, JoinRequest},
    live::Live,
    metrics::{self, Metrics},
    sessions::admit,
    trust::Keeper,
};
use crate::{callbacks::shared::Shared, seam::Exports};

/// Most invitations that are answered at one time.
const MAX_ANSWERING: usize = 256;
/// Most sessions that others have with this gateway.
const MAX_SESSIONS: usize = 8192;
/// Most sessions that one other gateway has with this one.
const MAX_SESSIONS_PER_PEER: usize = 2048;
/// Longest wait for a joiner's request, and for writing an answer.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Accepts sessions.
pub(crate) struct Acceptor {
    pub(crate) own: SharedCredentials,
    pub(crate) trust: SharedTrust,
    pub(crate) live: Live,
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) issuing: Arc<Issuing>,
    pub(crate) keeper: Keeper,
    /// What the gateways of the domain know together.
    pub(crate) shared: Option<Shared>,
    pub(crate) metrics: Metrics,
    /// Cancelled: sessions end with their last request.
    pub(crate) drain: CancellationToken,
    pub(crate) answering: Arc<Semaphore>,
    /// Sessions that are being served now.
    pub(crate) serving: Arc<AtomicUsize>,
}

/// Why a session was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// The hub, or the way to it.
    #[error(transparent)]
    Hop(#[from] HopError),
    /// The other gateway.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It is not who the hub announced.
    #[error("the hub announced {announced}, and {proved} came")]
    Other {
        /// By the hub.
        announced: NodeId,
        /// By TLS.
        proved: NodeId,
    },
    /// It has too many.
    #[error("{0} has too many sessions with this gateway")]
    TooMany(NodeId),
    /// It opened the session with something that does not belong there.
    #[error("{0} opened the session with {1}, which does not belong there")]
    Unexpected(String, String),
    /// It said nothing.
    #[error("it said nothing in time")]
    Silent,
    /// The invitation says neither who comes nor by which token.
    #[error("the hub's invitation names nobody")]
    Nameless,
}

/// Counts a session while it is served.
pub(crate) struct Serving(Arc<AtomicUsize>);

impl Serving {
    pub(crate) fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Acceptor {
    /// Room for answering invitations.
    pub(crate) fn answering() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_ANSWERING))
    }

    /// Answers an invitation in a task of its own. Beyond [`MAX_ANSWERING`] it is passed over, and its ticket expires.
    pub(crate) fn invited(self: &Arc<Self>, hub: &Arc<Hub>, invitation: Invitation) {
        let Ok(place) = self.answering.clone().try_acquire_owned() else {
            warn!(hub = %hub.key, "too many sessions are being accepted; one more was passed over");
            return;
        };
        let (acceptor, hub) = (self.clone(), hub.clone());
        tokio::spawn(async move {
            let announced = invitation
                .peer
                .as_ref()
                .map_or_else(|| "a joiner".to_owned(), NodeId::to_string);
            let accepted = acceptor.answer(&hub, invitation).await;
            drop(place);
            let done = match accepted {
                Ok(Accepted::Gateway(session, drain_at)) => acceptor.open(session, drain_at).await,
                Ok(Accepted::Joiner(enrolment)) => acceptor.enrol(enrolment).await,
                Err(e) => Err(e),
            };
            match done {
                Ok(()) => {}
                Err(error @ AcceptError::Silent) => {
                    debug!(hub = %hub.key, %announced, %error, "session closed")
                }
                Err(error) => {
                    let label = metrics::Failure {
                        place: Place::ServerGateway.as_str(),
                    };
                    acceptor.metrics.session_failures.get_or_create(&label).inc();
                    warn!(hub = %hub.key, %announced, %error, "no session");
                }
            }
        });
    }

    async fn answer(&self, hub: &Hub, invitation: Invitation) -> Result<Accepted, AcceptError> {
        if self.live.len() >= MAX_SESSIONS {
            return Err(AcceptError::TooMany(self.own.load().id().clone()));
        }
        let carrier = hub.client.session(invitation.ticket, Side::Accepting).await?;
        let (carrier, handle) = self.live.enlist(carrier);
        let Some(announced) = invitation.peer else {
            if invitation.join.is_none() {
                return Err(AcceptError::Nameless);
            }
            let enrolment = enrol_accept(carrier, self.own.clone()).await?;
            return Ok(Accepted::Joiner(Box::new(enrolment)));
        };
        let session = accept(carrier, self.own.clone(), self.trust.clone()).await?;
        if session.peer != announced {
            return Err(AcceptError::Other {
                announced,
                proved: session.peer.clone(),
            });
        }
        if self.live.with(&session.peer) >= MAX_SESSIONS_PER_PEER {
            return Err(AcceptError::TooMany(session.peer.clone()));
        }
        let exchange = metrics::KeyExchange::of(&session, "accepted");
        self.metrics.key_exchanges.get_or_create(&exchange).inc();
        let drain_at = admit(&handle, &session, &self.own, false);
        Ok(Accepted::Gateway(Box::new(session), drain_at))
    }

    /// Waits for what the session is for; a warm one may wait for long.
    async fn open(&self, mut session: Box<EndToEnd>, drain_at: Instant) -> Result<(), AcceptError> {
        let opened = tokio::select! {
            opened = timeout_at(drain_at.into(), session.read_frame(MAX_FRAME_UNPROVED)) => opened,
            () = self.drain.cancelled() => return Ok(()),
        };
        let open = match opened {
            Err(_) => return Err(AcceptError::Silent),
            // A warm session that was not wanted in the end.
            Ok(Err(SessionError::Frame(hawser_session::frame::Error::Io(_)))) => {
                return Err(AcceptError::Silent);
            }
            Ok(open) => open?,
        };
        let peer = session.peer.clone();
        // Hosts call nothing: they come to renew their certificates.
        if peer.role != Role::Gateway && !matches!(open, Open::Renew { .. }) {
            return Err(AcceptError::Unexpected(peer.to_string(), format!("{open:?}")));
        }
        match open {
            Open::Http { bulk } => {
                self.count(if bulk { "bulk" } else { "http" });
                self.http(*session, if bulk { Class::Bulk } else { Class::Ordinary })
                    .await;
            }
            Open::Tcp { service, request } => {
                self.count("tcp");
                self.tcp(*session, &service, request).await?;
            }
            Open::Renew { request } => {
                self.count("renew");
                let answer = self.issuing.renew(&peer, &request).await;
                within(session.write_frame(&answer)).await??;
                session.close().await;
            }
            open @ Open::Join { .. } => {
                return Err(AcceptError::Unexpected(peer.to_string(), format!("{open:?}")));
            }
        }
        Ok(())
    }

    async fn http(&self, session: EndToEnd, class: Class) {
        let _serving = Serving::begin(&self.serving);
        let peer = session.peer.clone();
        let (exports, keeper, shared) = (self.exports.clone(), self.keeper.clone(), self.shared.clone());
        let own = self.own.load().id().clone();
        let (live, binding) = (self.live.clone(), session.binding);
        let from = peer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = match internal::is_internal(&request) {
                true => {
                    let here = Here {
                        own: own.clone(),
                        base: exports.base(),
                        shared: shared.clone(),
                        live: live.clone(),
                        binding,
                    };
                    internal::answer(from.clone(), keeper.clone(), here, request)
                }
                false => exports.http(&from, request),
            };
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let control = ServeControl {
            drain: self.drain.clone(),
            cut: CancellationToken::new(),
        };
        if let Err(error) = serve(session, class, service, control).await {
            debug!(%peer, %error, "an HTTP session ended");
        }
    }

    async fn tcp(
        &self,
        mut session: EndToEnd,
        service: &ServiceName,
        request: RequestId,
    ) -> Result<(), AcceptError> {
        let _serving = Serving::begin(&self.serving);
        let peer = session.peer.clone();
        let local = match self.exports.tcp(&peer, service, request).await {
            Ok(local) => local,
            Err(fault) => {
                debug!(%peer, %service, %request, %fault, "refused a TCP connection");
                within(session.write_frame(&Opened::Refused(fault))).await??;
                session.close().await;
                return Ok(());
            }
        };
        within(session.write_frame(&Opened::Accepted)).await??;
        let (end, moved) = bridge(local, session, CancellationToken::new()).await;
        debug!(
            %peer, %service, %request, end = end.as_str(), sent = moved.sent, received = moved.received,
            "a TCP connection ended"
        );
        Ok(())
    }

    async fn enrol(&self, mut enrolment: Box<Enrolment>) -> Result<(), AcceptError> {
        self.count("join");
        let open = within(enrolment.read_frame(MAX_FRAME_UNPROVED)).await??;
        let answer = match &open {
            Open::Join {
                name,
                request,
                token,
                mac,
            } => {
                let exporter = *enrolment.exporter();
                let join = JoinRequest {
                    name,
                    request,
                    token: *token,
                    mac: *mac,
                    exporter: &exporter,
                };
                self.issuing.join(join).await
            }
            other => {
                let fault = Fault::new(
                    Place::ServerGateway,
                    400,
                    "unexpected",
                    "a joiner may only join",
                    "use `hawser join` of the same version",
                );
                within(enrolment.write_frame(&Issued::Refused(fault))).await??;
                return Err(AcceptError::Unexpected("a joiner".into(), format!("{other:?}")));
            }
        };
        within(enrolment.write_frame(&answer)).await??;
        enrolment.close().await;
        Ok(())
    }

    fn count(&self, kind: &'static str) {
        self.metrics
            .sessions
            .get_or_create(&metrics::Session {
                kind,
                side: "accepted",
            })
            .inc();
    }
}

enum Accepted {
    Gateway(Box<EndToEnd>, Instant),
    Joiner(Box<Enrolment>),
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, AcceptError> {
    timeout(EXCHANGE, work).await.map_err(|_| AcceptError::Silent)
}
