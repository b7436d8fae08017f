//! Where the two halves of a gateway meet: what clients' calls need from the tunnel ([`Links`]), and what the tunnel needs
//! from the services that this gateway exports ([`Exports`]). Types only; each half is tested against a fake of the other.
//!
//! Between gateways a call is HTTP/2 whose `:authority` is the host the client used, with [`SERVICE`] and [`REQUEST_ID`]
//! set by the calling gateway. An answer made by the exporting gateway itself carries [`FAULT`].

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use hawser_proto::{Fault, NodeId, ServiceId, ServiceName, control::Registration, session::RequestId};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{net::TcpStream, sync::watch};

pub use hawser_session::{Body, BoxError, EndToEnd};

pub use crate::links::routes::Routes;

/// Request header naming the service of the exporting gateway; never taken from clients, never passed to origins.
pub const SERVICE: &str = "hawser-service";
/// Request header with the call's id (32 hex digits); never taken from clients, never passed to origins.
pub const REQUEST_ID: &str = "hawser-request-id";
/// Request header with the place where services of the calling domain call back, `http://HOST:PORT`; never taken from clients,
/// never passed to origins.
pub const BASE: &str = "hawser-callbacks";
/// Request header (`1`) of calls to an address that is the called domain's own and stands in `:authority`; never taken from clients,
/// never passed to origins.
pub const OPEN: &str = "hawser-open";
/// Response header (`1`) of answers that the exporting gateway made itself; never taken from origins, never passed to clients.
pub const FAULT: &str = "hawser-fault";

/// The tunnel, as the clients' side sees it. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<dyn Calls>);

impl Links {
    /// The links behind `calls`.
    pub fn new(calls: Arc<dyn Calls>) -> Self {
        Self(calls)
    }

    /// Room for one request to a gateway that exports the HTTP service `service`. Waits at most a bounded time for a session.
    /// Cancel safe.
    pub async fn http(&self, service: &ServiceId) -> Result<HttpLease, Fault> {
        self.0.http(service).await
    }

    /// A connection to the TCP service `service`: the far origin is connected, raw bytes may flow. Waits at most a bounded
    /// time. Cancel safe: the connection is cut.
    pub async fn tcp(&self, service: &ServiceId, request: RequestId) -> Result<EndToEnd, Fault> {
        self.0.tcp(service, request).await
    }

    /// Where services of the domain of `service` call back, as a gateway says that exports it: `http://HOST:PORT`. Asked of the
    /// gateway itself, since a hub could name a place of its own. Waits at most a bounded time for a session. Cancel safe.
    pub async fn base(&self, service: &ServiceId) -> Result<Option<Arc<str>>, Fault> {
        self.0.base(service).await
    }

    /// What can be called now.
    pub fn routes(&self) -> Arc<Routes> {
        self.0.routes()
    }
}

/// What stands behind [`Links`].
pub trait Calls: Send + Sync + 'static {
    /// See [`Links::http`].
    fn http<'a>(&'a self, service: &'a ServiceId) -> BoxFuture<'a, Result<HttpLease, Fault>>;
    /// See [`Links::tcp`].
    fn tcp<'a>(
        &'a self,
        service: &'a ServiceId,
        request: RequestId,
    ) -> BoxFuture<'a, Result<EndToEnd, Fault>>;
    /// See [`Links::routes`].
    fn routes(&self) -> Arc<Routes>;
    /// See [`Links::base`].
    fn base<'a>(&'a self, _service: &'a ServiceId) -> BoxFuture<'a, Result<Option<Arc<str>>, Fault>> {
        Box::pin(async { Ok(None) })
    }
}

/// Room for one request on a session with a peer gateway. Dropped unused, the room is free again.
pub struct HttpLease {
    /// The gateway that will serve it.
    pub peer: NodeId,
    send: Box<SendOnce>,
}

type SendOnce = dyn FnOnce(Request<Body>) -> BoxFuture<'static, Result<Response<Body>, SendError>> + Send;

impl HttpLease {
    /// A lease whose request goes out by `send`.
    pub fn new<F>(peer: NodeId, send: F) -> Self
    where
        F: FnOnce(Request<Body>) -> BoxFuture<'static, Result<Response<Body>, SendError>> + Send + 'static,
    {
        Self {
            peer,
            send: Box::new(send),
        }
    }

    /// Sends the request, and resolves at the head of its answer. The room is held until the answer's body has ended.
    /// Dropping the future resets the request.
    pub async fn send(self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        (self.send)(request).await
    }
}

impl fmt::Debug for HttpLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpLease({})", self.peer)
    }
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct SendError {
    /// Why.
    pub fault: Fault,
    /// The request, when it certainly never reached the peer, so that any method may be tried again elsewhere.
    pub request: Option<Box<Request<Body>>>,
}

/// What this gateway exports, as the tunnel sees it.
pub trait Exports: Send + Sync + 'static {
    /// Serves one request that the proved gateway `peer` sent. Faults are answers, too (with [`FAULT`]).
    fn http(&self, peer: &NodeId, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>>;
    /// Connects to the origin of a TCP service on behalf of the proved gateway `peer`.
    fn tcp(
        &self,
        peer: &NodeId,
        service: &ServiceName,
        request: RequestId,
    ) -> BoxFuture<'static, Result<TcpStream, Fault>>;
    /// Where services of this domain call back, if they can: `http://HOST:PORT`.
    fn base(&self) -> Option<String> {
        None
    }
    /// What is exported, with its health now.
    fn registrations(&self) -> watch::Receiver<Vec<Registration>>;
}
