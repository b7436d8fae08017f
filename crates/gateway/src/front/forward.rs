//! Passing a client's request into the tunnel, and the answer back.

use std::sync::Arc;

use hawser_proto::{Fault, Place, ServiceId, session::RequestId};
use http::{
    HeaderName, HeaderValue, Request, Response, Uri, Version,
    header::{FORWARDED, HOST},
    request,
    uri::{PathAndQuery, Scheme},
};
use hyper::body::Incoming;

use super::{admit::Admitted, call::Outcome, serve::Connection};
use crate::{
    callbacks::leaving::Leaving,
    calls::{Call, Side},
    headers::{forwarded, remove_claims, remove_one_hop, remove_own, value},
    seam::{Body, OPEN, REQUEST_ID, SERVICE, SendError},
};

/// How often a request is given to a gateway at most, the first time included. Only a request of which nothing was sent is
/// given to another.
const ATTEMPTS: usize = 3;

/// Forwards a request.
pub(super) async fn send(
    cx: &Arc<Connection>,
    admitted: Admitted,
    request: Request<Incoming>,
    call: &mut Option<Call>,
) -> Result<Outcome, Fault> {
    let id = call.as_ref().map_or(RequestId([0; 16]), Call::id);
    let (mut parts, body) = request.into_parts();
    prepare(cx, &admitted, &mut parts, id)?;
    parts.extensions.clear();
    let body = cx.shared.metrics.request_body(Side::Client, body);
    let leaving = Leaving {
        service: &admitted.service,
        client: cx.client.ip(),
        suffix: &cx.shared.plan.load().suffix.clone(),
    };
    let request = Request::from_parts(parts, body);
    let callbacks = &cx.shared.callbacks;
    let left = callbacks.leaving(&cx.shared.links, leaving, request).await?;
    if let Some(call) = call {
        call.seen(&left.report);
    }
    let mut response = through(cx, &admitted.service, left.request).await?;
    if let Some(watched) = &left.watched {
        response = callbacks.subscribed(watched, response).await;
    }
    pass(cx, &mut response);
    Ok(Outcome::Answer(response))
}

/// Sends a prepared request to a gateway that exports the service; to another one if it certainly never arrived.
pub(super) async fn through(
    cx: &Connection,
    service: &ServiceId,
    mut request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut attempt = 1;
    loop {
        let lease = cx.shared.links.http(service).await?;
        let peer = lease.peer.clone();
        match lease.send(request).await {
            Ok(response) => return Ok(response),
            Err(SendError {
                fault,
                request: Some(unsent),
            }) if attempt < ATTEMPTS => {
                tracing::debug!(%peer, %fault, "the request was not sent: another way is tried");
                request = *unsent;
                attempt += 1;
            }
            Err(SendError { fault, .. }) => return Err(fault),
        }
    }
}

/// What the tunnel gets of the request's head.
pub(super) fn prepare(
    cx: &Connection,
    admitted: &Admitted,
    parts: &mut request::Parts,
    id: RequestId,
) -> Result<(), Fault> {
    let headers = &mut parts.headers;
    remove_one_hop(headers);
    remove_claims(headers);
    headers.remove(HOST);
    let tell = cx.shared.plan.load().forwarded;
    if let Some(forwarded) = forwarded(cx.client.ip(), tell, admitted.authority.as_str()) {
        headers.insert(FORWARDED, forwarded);
    }
    cx.shared.pseudonym.add(headers, parts.version);
    headers.insert(HeaderName::from_static(SERVICE), value(&admitted.service.name));
    headers.insert(HeaderName::from_static(REQUEST_ID), value(id));
    if admitted.open {
        headers.insert(HeaderName::from_static(OPEN), HeaderValue::from_static("1"));
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(admitted.authority.clone());
    uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri).map_err(|e| odd(&e))?;
    parts.version = Version::HTTP_2;
    Ok(())
}

/// What the client gets of the answer's head.
pub(super) fn pass(cx: &Connection, response: &mut Response<Body>) {
    let version = response.version();
    let headers = response.headers_mut();
    remove_one_hop(headers);
    remove_own(headers);
    cx.shared.pseudonym.add(headers, version);
    // Whatever version the client speaks, hyper writes it.
    *response.version_mut() = Version::HTTP_11;
}

fn odd(why: &http::uri::InvalidUriParts) -> Fault {
    Fault::new(
        Place::ClientGateway,
        400,
        "uri-malformed",
        format!("the request's target cannot be passed on: {why}"),
        "send a path, or a whole http:// URL",
    )
}
