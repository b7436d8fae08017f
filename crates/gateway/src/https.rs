//! Requests to servers that the gateway itself depends on, providers of logins and certificate authorities: HTTPS by its ways out, one
//! connection each, bounded in time and size, no redirect followed.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use hawser_identity::HubAddress;
use hawser_proto::UnixTime;
use hawser_session::carrier::{DialError, Ways};
use http::{
    HeaderMap, Method, Request, Uri,
    header::{ACCEPT, DATE, HOST, USER_AGENT},
    response::Parts,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{
    carriers::{self, CarrierError},
    config::CarrierPlan,
    export::dial::{ConnectorError, tls_config},
    headers::value,
};

/// Longest wait for one answer, connection and all, where somebody waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Largest head of an answer in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Largest body of an answer in bytes.
const MAX_BODY: usize = 512 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is no URL that is asked.
    #[error("{0:?} is no address of a server: expected https://HOST[:PORT]/...")]
    Url(String),
    /// No connection.
    #[error("{0}")]
    Dial(Box<DialError>),
    /// TLS failed.
    #[error("TLS with {host}: {source}; `ca` names who may vouch for it")]
    Tls {
        /// Whose.
        host: String,
        /// What TLS says.
        source: std::io::Error,
    },
    /// It broke off, or spoke no HTTP.
    #[error("{url}: {why}")]
    Broken {
        /// What was asked for.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// Nothing in time.
    #[error("{url}: no answer within {} s", patience.as_secs())]
    Timeout {
        /// What was asked for.
        url: String,
        /// How long was waited.
        patience: Duration,
    },
}

/// Why a server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// A way out is not usable.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// Nobody to vouch for it.
    #[error(transparent)]
    Trust(#[from] ConnectorError),
}

/// Makes the requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Https {
    ways: Arc<Ways>,
    tls: Arc<ClientConfig>,
    patience: Duration,
}

/// What came.
pub(crate) struct Reply {
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The server's clock.
    pub(crate) fn date(&self) -> Option<UnixTime> {
        let date = self.head.headers.get(DATE)?.to_str().ok()?;
        httpdate::parse_http_date(date).ok().map(UnixTime::from)
    }
}

impl Https {
    /// By these ways, to servers that the authorities in `ca` vouch for, or those of the system; waits for an answer this long.
    pub(crate) fn new(
        carriers: &[CarrierPlan],
        ca: Option<&Path>,
        patience: Duration,
    ) -> Result<Self, HttpsError> {
        Ok(Self {
            ways: Arc::new(carriers::ways(carriers)?),
            tls: Arc::new(tls_config(ca, b"http/1.1")?),
            patience,
        })
    }

    /// One request and its answer. Cancel safe.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, FetchError> {
        // What follows a '?' is nobody's business in a log.
        let shown = url.split('?').next().unwrap_or_default().to_owned();
        let wrong = || FetchError::Url(shown.clone());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri
            .authority()
            .filter(|a| !a.as_str().contains('@'))
            .ok_or_else(wrong)?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let at = HubAddress::new(&host, authority.port_u16().unwrap_or(443)).map_err(|_| wrong())?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri
            .path_and_query()
            .map_or("/", |p| p.as_str())
            .parse()
            .map_err(|_| wrong())?;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(HOST, value(authority));
        headers.entry(ACCEPT).or_insert_with(|| value("application/json"));
        headers.insert(USER_AGENT, value("hawser"));
        timeout(self.patience, self.exchange(&at, host, request, &shown))
            .await
            .map_err(|_| FetchError::Timeout {
                url: shown.clone(),
                patience: self.patience,
            })?
    }

    async fn exchange(
        &self,
        at: &HubAddress,
        host: String,
        request: Request<Full<Bytes>>,
        shown: &str,
    ) -> Result<Reply, FetchError> {
        let broken = |e: &dyn std::fmt::Display| FetchError::Broken {
            url: shown.to_owned(),
            why: e.to_string(),
        };
        let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::Url(shown.to_owned()))?;
        let carrier = self
            .ways
            .dial(at)
            .await
            .map_err(|e| FetchError::Dial(Box::new(e)))?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, carrier)
            .await
            .map_err(|source| FetchError::Tls { host, source })?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        let ask = async {
            let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_BODY)
                .collect()
                .await
                .map_err(|e| broken(&e))?;
            Ok(Reply {
                head,
                body: body.to_bytes(),
            })
        };
        // The connection lives in this call, and ends with it.
        tokio::pin!(ask);
        tokio::pin!(connection);
        tokio::select! {
            biased;
            reply = &mut ask => reply,
            ended = &mut connection => match ended {
                Ok(()) => ask.await,
                Err(e) => Err(broken(&e)),
            },
        }
    }
}
