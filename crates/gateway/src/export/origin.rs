//! One web origin and the connections to it, shared by all callers: a pool for HTTP/1.1, one multiplexed connection for
//! HTTP/2, and single-use connections for what must not share one (upgrades, NTLM and Negotiate).
//!
//! NTLM authenticates a connection over several requests; since each such request goes on a connection of its own here, it
//! cannot succeed through a gateway. Negotiate with Kerberos takes one request and works.

use std::{error::Error as _, io, net::IpAddr, time::Duration};

use hawser_proto::{Fault, Place};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{AUTHORIZATION, HOST},
    uri::{PathAndQuery, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::sync::Mutex;

use super::dial::{Connector, ConnectorError, DialError};
use crate::{
    config::{HostHeader, OriginUrl, OriginVersion},
    problem::{empty, is_grpc},
    seam::Body,
};

/// Idle pooled connections are closed after this: sooner than most origins close them, so that few requests meet a
/// connection that is just closing.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Idle pooled connections per origin.
const POOL_SIZE: usize = 256;
/// Largest head of an answer in bytes.
const MAX_HEAD: usize = 128 * 1024;
/// Receive window of one HTTP/2 stream in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// Receive window of the HTTP/2 connection in bytes: that of 64 streams.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// An HTTP/2 PING goes to a busy origin after this silence.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A web origin.
pub struct Origin {
    url: OriginUrl,
    version: OriginVersion,
    host: HostHeader,
    one: Connector,
    two: Connector,
    pool: Client<Connector, Body>,
    multiplexed: Mutex<Option<http2::SendRequest<Body>>>,
}

/// Why an origin gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The caller's body broke off.
    #[error("the request's body broke off")]
    Caller,
    /// The origin broke off before the head of its answer was complete, or it was no HTTP.
    #[error("{0}")]
    Broken(String),
}

impl OriginError {
    /// The fault that callers see.
    pub fn fault(&self) -> Fault {
        match self {
            OriginError::Dial(e) => e.fault(),
            OriginError::Caller => Fault::new(
                Place::ClientGateway,
                400,
                "request-broken",
                "the request's body broke off before its end",
                "send it again",
            ),
            OriginError::Broken(why) => Fault::new(
                Place::Origin,
                502,
                "origin-broken",
                format!("the service broke off before it had answered: {why}"),
                "see the service's log; the request may have been executed",
            ),
        }
    }
}

impl Origin {
    /// The origin at `url`, its host at the address `at` or wherever its name leads; connects to nothing yet.
    pub fn new(
        url: &OriginUrl,
        at: Option<IpAddr>,
        version: OriginVersion,
        host: HostHeader,
        ca: Option<&std::path::Path>,
        connect_timeout: Duration,
    ) -> Result<Self, ConnectorError> {
        let one = Connector::new(url, at, connect_timeout, ca, b"http/1.1")?;
        let two = Connector::new(url, at, connect_timeout, ca, b"h2")?;
        let pool = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_SIZE)
            .http1_max_buf_size(MAX_HEAD)
            .set_host(false)
            .build(one.clone());
        Ok(Self {
            url: url.clone(),
            version,
            host,
            one,
            two,
            pool,
            multiplexed: Mutex::default(),
        })
    }

    /// Sends a request whose URI is `http://HOST/PATH` with the host that the client used. Headers of one hop are gone
    /// already. An idempotent request without a body is sent again, once, if its connection broke.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, OriginError> {
        if self.version == OriginVersion::Two
            || (self.version == OriginVersion::Auto && is_grpc(request.headers()))
        {
            return self.send_two(request).await;
        }
        if authenticates_connection(request.headers()) {
            return self.send_alone(request).await;
        }
        let request = self.for_one(request)?;
        let again = repeatable(&request).then(|| {
            let mut copy = Request::new(empty());
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.headers_mut() = request.headers().clone();
            copy
        });
        match (self.pool.request(request).await, again) {
            (Err(e), Some(again)) if !e.is_connect() => {
                Ok(self.pool.request(again).await.map_err(pool_error)?)
            }
            (answer, _) => answer.map_err(pool_error),
        }
    }

    /// Sends a request in HTTP/1.1 on a connection of its own, which may be upgraded.
    pub async fn send_alone(&self, request: Request<Body>) -> Result<Response<Incoming>, OriginError> {
        let mut request = self.for_one(request)?;
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        *request.uri_mut() = target
            .parse()
            .map_err(|_| OriginError::Broken("an odd path".into()))?;
        let stream = self.one.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(hyper_error)?;
        // It ends with the answer's body, or lives on as the upgraded stream.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(hyper_error)
    }

    /// Asks for the origin's health, in the version that it is spoken to, as if it were called by its own name. In HTTP/1.1
    /// the connection is a fresh one: a pooled one would say nothing of whether the origin takes connections.
    pub async fn check(&self, mut request: Request<Body>) -> Result<Response<Incoming>, OriginError> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.url.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| OriginError::Broken(e.to_string()))?;
        if self.version == OriginVersion::Two {
            self.send_two(request).await
        } else {
            self.send_alone(request).await
        }
    }

    async fn send_two(&self, mut request: Request<Body>) -> Result<Response<Incoming>, OriginError> {
        *request.version_mut() = Version::HTTP_2;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.url.scheme());
        if self.host == HostHeader::Origin {
            parts.authority = Some(self.url.authority.clone());
        }
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| OriginError::Broken(e.to_string()))?;
        request.headers_mut().remove(HOST);
        // A connection that said goodbye gives the request back, once.
        let mut failed = None;
        for _ in 0..2 {
            let mut sender = self.multiplexed(failed.is_some()).await?;
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer),
                Err(mut e) => match e.take_message() {
                    Some(back) => {
                        request = back;
                        failed = Some(e.into_error());
                    }
                    None => return Err(hyper_error(e.into_error())),
                },
            }
        }
        Err(failed.map_or_else(|| OriginError::Broken("no connection".into()), hyper_error))
    }

    async fn multiplexed(&self, afresh: bool) -> Result<http2::SendRequest<Body>, OriginError> {
        let mut current = self.multiplexed.lock().await;
        match &*current {
            Some(sender) if !afresh && !sender.is_closed() => return Ok(sender.clone()),
            _ => {}
        }
        let stream = self.two.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(PING_EVERY)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(hyper_error)?;
        tokio::spawn(connection);
        *current = Some(sender.clone());
        Ok(sender)
    }

    /// Host header and URI as HTTP/1.1 wants them: the URI names the origin, for the pool.
    fn for_one(&self, mut request: Request<Body>) -> Result<Request<Body>, OriginError> {
        *request.version_mut() = Version::HTTP_11;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        let host = match (self.host, parts.authority) {
            (HostHeader::Preserve, Some(client)) => client,
            _ => self.url.authority.clone(),
        };
        let host = HeaderValue::try_from(host.as_str()).map_err(|e| OriginError::Broken(e.to_string()))?;
        request.headers_mut().insert(HOST, host);
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.url.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| OriginError::Broken(e.to_string()))?;
        Ok(request)
    }
}

/// Whether the request authenticates its connection rather than itself (NTLM, and Negotiate, which may carry it).
fn authenticates_connection(headers: &HeaderMap) -> bool {
    headers.get_all(AUTHORIZATION).iter().any(|v| {
        let scheme = v.as_bytes().split(|&b| b == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

/// Whether a request may be sent twice (RFC 9110, 9.2.2) and can be: it has no body.
fn repeatable(request: &Request<Body>) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method())
        && http_body::Body::is_end_stream(request.body())
}

fn pool_error(e: hyper_util::client::legacy::Error) -> OriginError {
    let mut source = e.source();
    while let Some(s) = source {
        if let Some(dial) = s.downcast_ref::<DialError>() {
            return OriginError::Dial(dial.again());
        }
        if let Some(hyper) = s.downcast_ref::<hyper::Error>() {
            return classify(hyper);
        }
        source = s.source();
    }
    OriginError::Broken(e.to_string())
}

fn hyper_error(e: hyper::Error) -> OriginError {
    classify(&e)
}

fn classify(e: &hyper::Error) -> OriginError {
    if e.is_user() {
        return OriginError::Caller;
    }
    if e.is_incomplete_message() {
        return OriginError::Broken("it closed the connection".into());
    }
    let io = e.source().and_then(|s| s.downcast_ref::<io::Error>());
    OriginError::Broken(io.map_or_else(|| e.to_string(), |io| io.kind().to_string()))
}
