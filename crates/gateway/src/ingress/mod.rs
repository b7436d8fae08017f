//! Public ingress: host names under which this gateway is reached from outside, through the hubs that let its domain publish
//! them. A hub passes on what it reads from a client, ClientHello included; TLS ends here, and what is inside is given to a
//! [`Handler`]. Knows nothing of what is served, nor of how the bytes get here.

mod names;

use std::fmt;

use futures_util::future::BoxFuture;
use hawser_proto::{HostName, UnixTime};
use hawser_session::{BoxedCarrier, record::Records};
use serde::Serialize;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) use names::{By, Ingress, VisitError, Wanted};

/// What the client says and hears, beneath TLS. A web protocol was agreed upon, or nothing was.
pub type VisitStream = TlsStream<Records<BoxedCarrier>>;

/// A client from outside. Its network address is known to the hub alone.
pub struct Visit {
    /// The name that it asked for.
    pub name: HostName,
    /// Whether it verifies this gateway by the domain's root (ALPN `hawser-device/1`), rather than by a public certificate.
    pub by_root: bool,
    /// The connection.
    pub stream: VisitStream,
    /// Cancelled when the gateway is draining: what is under way may end, nothing more is to begin.
    pub drain: CancellationToken,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Visit({})", self.name)
    }
}

/// Serves what is published.
pub trait Handler: Send + Sync + 'static {
    /// Serves one client until its connection ends. Runs as a task of its own. When the gateway stops, the connection is cut.
    fn visit(&self, visit: Visit) -> BoxFuture<'static, ()>;
}

/// The certificate of a published name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicCertificate {
    /// The name.
    pub name: HostName,
    /// `files` or `acme`.
    pub source: &'static str,
    /// When it ends; none while there is none.
    pub ends: Option<UnixTime>,
    /// When the next attempt to get another is made; none where that is somebody else's business.
    pub next_attempt: Option<UnixTime>,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
}

/// What a hub says of a name that this gateway publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedStatus {
    /// The name.
    pub name: HostName,
    /// `host:port` of the hub.
    pub hub: String,
    /// Whether the hub lets this domain publish it.
    pub allowed: bool,
}
