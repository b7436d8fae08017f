//! WebSocket calls to an export: extended CONNECT from the tunnel, an HTTP/1.1 upgrade at the origin.

use std::time::Duration;

use hawser_proto::{Fault, Place};
use http::{Method, Request, Response, StatusCode, header::SEC_WEBSOCKET_ACCEPT, request};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{Context, forward, origin::Origin};
use crate::{calls::Call, headers::remove_one_hop, problem::empty, seam::Body, stream, websocket};

/// Where the [`Call`] goes that outlives its answer's head: taken by the task that joins the streams.
pub(super) type Answered = std::sync::Arc<std::sync::Mutex<Option<Call>>>;

/// Opens the WebSocket at the origin, and joins it to the tunnel's stream.
pub(super) async fn serve(
    cx: &Context,
    origin: &Origin,
    wait: Duration,
    near: OnUpgrade,
    mut parts: request::Parts,
    answered: Answered,
) -> Result<Response<Body>, Fault> {
    let key = websocket::key();
    parts.method = Method::GET;
    websocket::ask(&mut parts.headers, key.clone());
    let sent = origin.send_alone(Request::from_parts(parts, empty()));
    let mut response = forward::head(tokio::time::timeout(wait, sent).await.ok(), wait)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS if websocket::agreed(response.headers(), &key) => {}
        StatusCode::SWITCHING_PROTOCOLS => {
            return Err(not_agreed(
                "it switched protocols without the proof that it speaks WebSocket",
            ));
        }
        s if s.is_success() => return Err(not_agreed("it answered as if it were an ordinary request")),
        _ => return Ok(forward::pass(cx, response)),
    }
    let far = hyper::upgrade::on(&mut response);
    let mut headers = std::mem::take(response.headers_mut());
    remove_one_hop(&mut headers);
    crate::headers::remove_own(&mut headers);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    let call = answered.lock().ok().and_then(|mut call| call.take());
    let cut = cx.cut.clone();
    cx.tasks.spawn(async move {
        let (near, far) = match tokio::try_join!(near, far) {
            Ok(both) => both,
            Err(e) => return tracing::debug!(error = %e, "a WebSocket ended before it began"),
        };
        let joined = stream::join(TokioIo::new(near), TokioIo::new(far), &cut).await;
        if let Some(call) = call {
            call.end_stream(StatusCode::OK, joined.there, joined.back, joined.complete);
        }
    });
    let mut response = Response::new(empty());
    *response.headers_mut() = headers;
    cx.pseudonym.add(response.headers_mut(), http::Version::HTTP_11);
    Ok(response)
}

fn not_agreed(why: &str) -> Fault {
    Fault::new(
        Place::Origin,
        502,
        "websocket-refused",
        format!("the service did not open the WebSocket: {why}"),
        "does the service speak WebSocket on this path?",
    )
}
