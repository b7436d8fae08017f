//! WebSocket calls of clients: an HTTP/1.1 upgrade or HTTP/2 extended CONNECT on the client's side, extended CONNECT in the
//! tunnel.

use std::sync::{Arc, atomic::Ordering};

use hawser_proto::{Fault, Place, session::RequestId};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_KEY},
};
use hyper::{body::Incoming, ext::Protocol};
use hyper_util::rt::TokioIo;

use super::{admit::Admitted, call::Outcome, forward, serve::Connection};
use crate::{
    calls::Call,
    problem::empty,
    stream,
    websocket::{self, WEBSOCKET},
};

/// Opens a WebSocket.
pub(super) async fn open(
    cx: &Arc<Connection>,
    admitted: Admitted,
    mut request: Request<Incoming>,
    call: &mut Option<Call>,
) -> Result<Outcome, Fault> {
    let over_two = *request.method() == Method::CONNECT;
    let key = match (over_two, request.headers_mut().remove(SEC_WEBSOCKET_KEY)) {
        (true, _) => None,
        (false, Some(key)) if *request.method() == Method::GET => Some(key),
        (false, _) => return Err(malformed()),
    };
    let near = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    let id = call.as_ref().map_or(RequestId([0; 16]), Call::id);
    forward::prepare(cx, &admitted, &mut parts, id)?;
    parts.method = Method::CONNECT;
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(EXPECT);
    parts.extensions.clear();
    parts.extensions.insert(Protocol::from_static(WEBSOCKET));
    let mut answer = forward::through(cx, &admitted.service, Request::from_parts(parts, empty())).await?;
    if !answer.status().is_success() {
        forward::pass(cx, &mut answer);
        return Ok(Outcome::Answer(answer));
    }
    let far = hyper::upgrade::on(&mut answer);
    forward::pass(cx, &mut answer);
    let (head, body) = answer.into_parts();
    let mut response = Response::new(empty());
    *response.headers_mut() = head.headers;
    response.headers_mut().remove(CONTENT_LENGTH);
    if let Some(key) = &key {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        websocket::agree(response.headers_mut(), key);
    }
    let (call, status, connection) = (call.take(), response.status(), cx.clone());
    // The session's slot lives in the answer's extensions and body: kept until the stream has ended.
    let slot = (head.extensions, body);
    cx.shared.tasks.spawn(async move {
        let _slot = slot;
        let (near, far) = match tokio::try_join!(near, far) {
            Ok(both) => both,
            Err(e) => return tracing::debug!(error = %e, "a WebSocket ended before it began"),
        };
        let joined = stream::join(TokioIo::new(near), TokioIo::new(far), &connection.shared.cut).await;
        if !joined.complete && !over_two {
            connection.abort.store(true, Ordering::Release);
        }
        if let Some(call) = call {
            call.end_stream(status, joined.there, joined.back, joined.complete);
        }
    });
    Ok(Outcome::Upgraded(response))
}

fn malformed() -> Fault {
    Fault::new(
        Place::ClientGateway,
        400,
        "websocket-malformed",
        "an opening of a WebSocket is a GET with Sec-WebSocket-Key (RFC 6455, 4.1)",
        "use a WebSocket client",
    )
}
