//! One request of a client: judged, then forwarded, upgraded, or answered by a tunnel.

use std::sync::Arc;

use hawser_proto::{Fault, Place};
use http::{HeaderValue, Request, Response, StatusCode, Version, header::ALLOW};
use hyper::body::Incoming;

use super::{
    admit::{Admitted, Rules, Want},
    connect, forward, pac,
    serve::Connection,
    upgrade,
};
use crate::{
    callbacks::path,
    calls::{Call, Side},
    headers::fresh_request_id,
    problem::{self, Asker, empty},
    seam::{Body, REQUEST_ID},
    websocket::Upgrade,
};

/// What became of a request.
pub(super) enum Outcome {
    /// An answer, to be followed to its end.
    Answer(Response<Body>),
    /// An answer after which the connection is something else; whoever serves that has the call.
    Upgraded(Response<Body>),
}

/// Answers a request. Cancelled when the client is gone; so is everything it started.
pub(super) async fn answer(cx: &Arc<Connection>, mut request: Request<Incoming>) -> Response<Body> {
    let shared = &cx.shared;
    let id = fresh_request_id();
    let asker = Asker::of(request.method(), request.headers());
    let abort = (request.version() == Version::HTTP_10).then(|| cx.abort.clone());
    let plan = shared.plan.load_full();
    let rules = Rules {
        suffix: &plan.suffix,
        through: &plan.through,
        pseudonym: &shared.pseudonym,
        uri_bytes: plan.limits.uri_bytes,
    };
    if let Some(file) = pac::answer(&rules, &cx.door, &request) {
        return file;
    }
    let admitted = rules.admit(&cx.door, &mut request);
    let what = match &admitted {
        Ok(a) => format!("{}{}", a.service, path::shown(request.uri().path())),
        Err(_) => path::shown(request.uri().path()).into_owned(),
    };
    let who = cx.client.to_string();
    let mut call = Call::begin(
        &shared.metrics,
        Side::Client,
        id,
        who,
        request.method().clone(),
        what,
    );
    if let Ok(a) = &admitted
        && shared.links.routes().protocol(&a.service).is_some()
    {
        call.service(&a.service);
    }
    if let Ok(a) = &admitted {
        call.peer(&a.service.domain);
    }
    // What a tunnel carries says for itself of which trace it is.
    if !matches!(&admitted, Ok(a) if a.want == Want::Tunnel) {
        call.trace(&mut request);
    }
    let mut slot = Some(call);
    let outcome = match admitted {
        Ok(admitted) => dispatch(cx, admitted, request, &mut slot).await,
        Err(fault) => Err(fault),
    };
    let mut response = match outcome {
        Ok(Outcome::Upgraded(response) | Outcome::Answer(response)) => response,
        Err(fault) => {
            tracing::debug!(request = %id, fault = %fault, "refused");
            problem::answer(&fault, id, asker)
        }
    };
    response
        .headers_mut()
        .insert(REQUEST_ID, crate::headers::value(id));
    match slot {
        Some(call) => call.follow(response, abort),
        None => response,
    }
}

async fn dispatch(
    cx: &Arc<Connection>,
    admitted: Admitted,
    request: Request<Incoming>,
    call: &mut Option<Call>,
) -> Result<Outcome, Fault> {
    match admitted.want {
        Want::Options => return Ok(Outcome::Answer(options())),
        Want::Tunnel => return connect::open(cx, admitted, request, call).await,
        Want::Forward => {}
    }
    match Upgrade::of(&request) {
        Upgrade::None => forward::send(cx, admitted, request, call).await,
        Upgrade::WebSocket => upgrade::open(cx, admitted, request, call).await,
        Upgrade::Other(protocol) => Err(no_upgrade(&protocol)),
    }
}

fn options() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let all = HeaderValue::from_static(problem::METHODS);
    response.headers_mut().insert(ALLOW, all);
    response
}

fn no_upgrade(protocol: &str) -> Fault {
    Fault::new(
        Place::ClientGateway,
        501,
        "upgrade-not-supported",
        format!("a connection can be upgraded to a WebSocket, not to {protocol:?}"),
        "reach such a service as a TCP service, by CONNECT or an [[gateway.import]]",
    )
}
