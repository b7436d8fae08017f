//! What a device is told when something is not to be: a problem document (RFC 9457) with a stable word.

use hawser_session::{Body, full};
use http::{HeaderValue, Response, StatusCode, header};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// The stable word: member `reason`, and the fragment of `type`.
    pub(super) reason: &'static str,
    /// For people: what was expected, what came, what to do.
    pub(super) detail: String,
    /// RFC 9449's code, when the proof is at fault.
    pub(super) dpop: Option<&'static str>,
    /// Seconds after which the same may do.
    pub(super) retry_after: Option<u32>,
}

#[derive(serde::Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    reason: &'a str,
    detail: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
            dpop: None,
            retry_after: None,
        }
    }

    /// The request itself is at fault.
    pub(super) fn bad(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, detail)
    }

    /// Nobody proved to be there.
    pub(super) fn unproved(code: &'static str, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            dpop: Some(code),
            ..Self::new(StatusCode::UNAUTHORIZED, reason, detail)
        }
    }

    /// Not now.
    pub(super) fn busy(reason: &'static str, detail: impl Into<String>, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail)
        }
    }

    /// For the wire.
    pub(super) fn response(&self) -> Response<Body> {
        let document = Document {
            r#type: format!("about:blank#{}", self.reason),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            reason: self.reason,
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(full(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(code) = self.dpop
            && let Ok(value) = HeaderValue::from_str(&format!("DPoP error=\"{code}\", algs=\"ES256\""))
        {
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
