//! What the HTTP interfaces share: bodies that are read to a limit, answers as JSON, refusals as problem documents (RFC 9457),
//! and connections that are served until they end.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longest wait for a request's head, and for the next request on an idle connection.
const HEAD: Duration = Duration::from_secs(30);
/// Longest wait for a request's body.
const BODY: Duration = Duration::from_secs(60);
/// Bytes of a connection's read buffer, which bounds a request's head.
const BUFFER: usize = 64 * 1024;
/// Most headers of a request.
const HEADERS: usize = 100;

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a request is not done. It is the answer, too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A stable word for programs.
    pub(crate) reason: &'static str,
    /// For people: what was expected, what came, what to do.
    pub(crate) detail: String,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, String)>,
}

impl Problem {
    pub(crate) fn new(status: u16, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            reason,
            detail: detail.into(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Not now, but later.
    pub(crate) fn later(status: u16, reason: &'static str, detail: impl Into<String>, seconds: u32) -> Self {
        Self::new(status, reason, detail).with(RETRY_AFTER, seconds.to_string())
    }

    pub(crate) fn not_found() -> Self {
        Self::new(404, "not-found", "there is nothing at this path")
    }

    pub(crate) fn method(allowed: &'static str) -> Self {
        Self::new(405, "method", format!("this path knows {allowed} only")).with(ALLOW, allowed)
    }

    pub(crate) fn answer(&self) -> Answer {
        let document = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        let mut answer = Response::new(Full::from(format!("{document:#}\n")));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(name, value);
            }
        }
        answer
    }
}

/// An answer as JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Answer, Problem> {
    let text = serde_json::to_vec(value)
        .map_err(|_| Problem::new(500, "internal", "the answer could not be written as JSON"))?;
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(answer)
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn body(body: Incoming, limit: usize) -> Result<Bytes, Problem> {
    let collected = timeout(BODY, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the body is over the limit of {limit} bytes");
            Err(Problem::new(413, "too-large", detail))
        }
        Ok(Err(_)) => Err(Problem::new(400, "body", "the body broke off")),
        Err(_) => Err(Problem::new(408, "timeout", "the body did not come within 60 s")),
    }
}

/// A JSON body of at most `limit` bytes.
pub(crate) async fn read<T: DeserializeOwned>(incoming: Incoming, limit: usize) -> Result<T, Problem> {
    let bytes = body(incoming, limit).await?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Problem::new(400, "json", format!("the body is not as expected: {e}")))
}

/// Serves one connection (HTTP/1.1) until it ends. A panic of `serve` ends this connection only.
pub(crate) async fn connection<S, F>(
    stream: S,
    drain: CancellationToken,
    serve: Arc<dyn Fn(Request<Incoming>) -> F + Send + Sync>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<Answer, Problem>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let head = *request.method() == Method::HEAD;
        let answer = serve(request);
        async move {
            let mut answer = answer.await.unwrap_or_else(|problem| problem.answer());
            let headers = answer.headers_mut();
            headers
                .entry(CACHE_CONTROL)
                .or_insert(HeaderValue::from_static("no-store"));
            headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
            if head {
                *answer.body_mut() = Full::default();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client that goes away in the middle is its own affair.
        _ = connection.as_mut() => {}
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
