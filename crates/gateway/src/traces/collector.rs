//! Where spans go: OTLP over HTTP with binary protobuf, one request for each batch.

use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use crate::{
    config::TracesPlan,
    export::dial::{Connector, ConnectorError},
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 * 1024;
/// An idle connection is closed after this, sooner than collectors close theirs.
const IDLE: Duration = Duration::from_secs(10);
/// Bytes of a file with headers.
const FILE_BYTES: u64 = 64 * 1024;

/// A collector.
pub(super) struct Collector {
    client: Client<Connector, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
}

/// Why a collector cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Its address or its authorities.
    #[error("gateway.traces: {0}")]
    Connector(#[from] ConnectorError),
    /// The file cannot be read.
    #[error("gateway.traces.headers_file: {path} cannot be read: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds something else. The message holds nothing of it.
    #[error("gateway.traces.headers_file: {path}, line {line}: expected \"Name: value\"", path = path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The file is no file of headers.
    #[error("gateway.traces.headers_file: {path} is too large: expected a few lines \"Name: value\"", path = path.display())]
    Large {
        /// Which.
        path: PathBuf,
    },
}

/// Why a collector takes no spans.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be used at all.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// It does not answer, or refuses.
    #[error("{0}")]
    Answer(String),
}

/// What a collector did not take.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It may take it later, when it wishes.
    Later(String, Option<Duration>),
    /// It never will.
    Never(String),
}

impl Collector {
    /// The collector of a plan, with these headers.
    pub(super) fn new(plan: &TracesPlan, headers: HeaderMap) -> Result<Self, CollectorError> {
        let connector = Connector::new(&plan.collector, None, CONNECT, plan.ca.as_deref(), b"http/1.1")?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(plan.collector.scheme());
        uri.authority = Some(plan.collector.authority.clone());
        uri.path_and_query = Some(plan.path.clone());
        Ok(Self {
            client,
            // All three parts are there, which is all that could be wrong.
            uri: Uri::from_parts(uri).unwrap_or_default(),
            headers,
        })
    }

    /// Sends an encoded batch; resolves to the number of its spans that the collector took no liking to. Cancel safe: it may have arrived.
    pub(super) async fn send(&self, batch: Bytes) -> Result<u64, Refused> {
        match tokio::time::timeout(ANSWER, self.ask(batch)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refused::Later(
                format!("it gave no answer within {ANSWER:?}"),
                None,
            )),
        }
    }

    async fn ask(&self, batch: Bytes) -> Result<u64, Refused> {
        let mut request = Request::new(Full::new(batch));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        let agent = concat!("hawser-gateway/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|e| Refused::Later(why(&e), None))?;
        let (head, body) = answer.into_parts();
        // Read, so that the connection serves again.
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        match head.status {
            status if status.is_success() => Ok(body.map_or(0, |body| rejected(body.to_bytes()))),
            status if may_be_repeated(status) => Err(Refused::Later(
                format!("it answered {status}"),
                wish(&head.headers),
            )),
            status => Err(Refused::Never(format!("it answered {status}"))),
        }
    }
}

/// Asks a plan's collector to take no spans at all, which tells whether it would take some.
pub async fn probe(plan: &TracesPlan) -> Result<(), ProbeError> {
    let collector = Collector::new(plan, headers(plan)?)?;
    match collector.send(Bytes::new()).await {
        Ok(_) => Ok(()),
        Err(Refused::Later(why, _) | Refused::Never(why)) => Err(ProbeError::Answer(why)),
    }
}

/// The headers of a plan's file.
pub(super) fn headers(plan: &TracesPlan) -> Result<HeaderMap, CollectorError> {
    let Some(path) = &plan.headers_file else {
        return Ok(HeaderMap::new());
    };
    let unread = |source| CollectorError::File {
        path: path.clone(),
        source,
    };
    if fs::metadata(path).map_err(unread)?.len() > FILE_BYTES {
        return Err(CollectorError::Large { path: path.clone() });
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(unread)?);
    parse(&text).map_err(|line| CollectorError::Line {
        path: path.clone(),
        line,
    })
}

/// Lines `Name: value`; empty ones and those that begin with `#` say nothing. The error is the number of a line.
fn parse(text: &str) -> Result<HeaderMap, usize> {
    let mut headers = HeaderMap::new();
    for (i, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(i + 1)?;
        let name = name.trim().parse::<HeaderName>().map_err(|_| i + 1)?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| i + 1)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Those that the protocol says may be sent again.
fn may_be_repeated(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// How long it asks to be left alone.
fn wish(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>();
    seconds.ok().map(|s| Duration::from_secs(s.into()))
}

fn rejected(answer: Bytes) -> u64 {
    let partial = ExportTraceServiceResponse::decode(answer)
        .ok()
        .and_then(|a| a.partial_success);
    partial
        .and_then(|p| u64::try_from(p.rejected_spans).ok())
        .unwrap_or(0)
}

/// The innermost cause, which says most.
fn why(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The path and query of an endpoint; that which collectors have by default, if there is none.
pub(crate) fn path(given: Option<PathAndQuery>) -> PathAndQuery {
    match given {
        Some(path) if path.as_str() != "/" => path,
        _ => PathAndQuery::from_static("/v1/traces"),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn a_file_of_headers_is_read_line_by_line() {
        let headers =
            parse("# for the collector\n\nAuthorization: Bearer geheim\r\nX-Tenant:acme\n").unwrap();
        assert_eq!(headers["authorization"], "Bearer geheim");
        assert_eq!(headers["x-tenant"], "acme");
        assert!(!format!("{headers:?}").contains("geheim"));
        assert_eq!(parse("a: b\nBearer geheim\n"), Err(2));
        assert_eq!(parse("a b: c"), Err(1));
    }

    #[test]
    fn what_the_collector_threw_away_is_read() {
        let partial_success = Some(ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: String::new(),
        });
        let answer = ExportTraceServiceResponse { partial_success };
        assert_eq!(rejected(answer.encode_to_vec().into()), 3);
        assert_eq!(rejected(Bytes::new()), 0);
        assert_eq!(rejected(Bytes::from_static(b"no protobuf")), 0);
    }
}
