//! Faults as answers: problem documents (RFC 9457), or for gRPC, whose clients read none, a status in the headers.

use hawser_proto::{Fault, session::RequestId};
pub use hawser_session::empty;
use hawser_session::full;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::BodyExt;

use crate::{
    headers::value,
    seam::{Body, BoxError, REQUEST_ID},
};

/// A body that breaks off before its first byte.
pub(crate) fn broken(error: BoxError) -> Body {
    let nothing = futures_util::stream::iter([Err::<http_body::Frame<bytes::Bytes>, _>(error)]);
    http_body_util::StreamBody::new(nothing).boxed_unsync()
}

/// What gateways pass on, as `Allow` lists it.
pub const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Who asks, as far as it decides the form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Reads a problem document.
    Plain,
    /// Asked with HEAD: gets no body.
    Head,
    /// A gRPC client.
    Grpc,
}

impl Asker {
    /// By method and headers of the request.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            Asker::Grpc
        } else if method == Method::HEAD {
            Asker::Head
        } else {
            Asker::Plain
        }
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// The code of the fault that an answer tells of: among its extensions, for those who note the call.
#[derive(Debug, Clone)]
pub(crate) struct Answered(pub(crate) String);

/// The answer that tells `asker` of `fault`.
pub fn answer(fault: &Fault, id: RequestId, asker: Asker) -> Response<Body> {
    let mut response = match asker {
        Asker::Grpc => grpc(fault),
        Asker::Plain | Asker::Head => document(fault, id, asker == Asker::Head),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, value(id));
    response.extensions_mut().insert(Answered(fault.code.clone()));
    response
}

fn document(fault: &Fault, id: RequestId, head: bool) -> Response<Body> {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let problem = serde_json::json!({
        "type": format!("urn:hawser:fault:{}", fault.code),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": fault.detail,
        "instance": format!("urn:hawser:request:{id}"),
        "where": fault.place.as_str(),
        "advice": fault.advice,
    });
    let body = if head {
        empty()
    } else {
        full(format!("{problem:#}\n"))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    }
    response
}

/// The "Trailers-Only" form of gRPC over HTTP/2.
fn grpc(fault: &Fault) -> Response<Body> {
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", value(grpc_status(fault.status)));
    headers.insert("grpc-message", value(percent_encoded(&fault.to_string())));
    response
}

/// The gRPC status code that says most nearly what the HTTP status says.
fn grpc_status(status: u16) -> u8 {
    const INVALID_ARGUMENT: u8 = 3;
    const NOT_FOUND: u8 = 5;
    const PERMISSION_DENIED: u8 = 7;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    match status {
        401 | 403 | 407 => PERMISSION_DENIED,
        404 => NOT_FOUND,
        405 | 501 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        400..=499 => INVALID_ARGUMENT,
        _ => INTERNAL,
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b' '..=b'~' if b != b'%' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use hawser_proto::Place;

    fn fault() -> Fault {
        Fault::new(
            Place::Origin,
            503,
            "origin-unreachable",
            "the origin refused: ä",
            "start it",
        )
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_problem_says_where_and_what_to_do() {
        let id = RequestId([7; 16]);
        let r = answer(&fault(), id, Asker::Plain);
        assert_eq!(r.status(), 503);
        assert_eq!(r.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(r.headers()[REQUEST_ID], id.to_string());
        let v: serde_json::Value = serde_json::from_str(&text(r).await).unwrap();
        assert_eq!(v["type"], "urn:hawser:fault:origin-unreachable");
        assert_eq!(v["title"], "Service Unavailable");
        assert_eq!(v["where"], "origin");
        assert_eq!(v["advice"], "start it");
        assert_eq!(v["instance"], format!("urn:hawser:request:{id}"));
    }

    #[tokio::test]
    async fn head_gets_no_body() {
        let r = answer(&fault(), RequestId([0; 16]), Asker::Head);
        assert_eq!(r.status(), 503);
        assert_eq!(text(r).await, "");
    }

    #[tokio::test]
    async fn grpc_gets_its_own_form() {
        let r = answer(&fault(), RequestId([0; 16]), Asker::Grpc);
        assert_eq!(r.status(), 200);
        assert_eq!(r.headers()["grpc-status"], "14");
        assert!(
            r.headers()["grpc-message"]
                .to_str()
                .unwrap()
                .contains("refused: %C3%A4")
        );
        assert!(
            http_body::Body::is_end_stream(r.body()),
            "the headers are the trailers"
        );
    }
}
