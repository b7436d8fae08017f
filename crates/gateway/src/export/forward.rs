//! One HTTP call to an export: policy, headers, origin, answer.

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Fault, NodeId, Place};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{COOKIE, HOST},
    request,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    Caller, Context, Export, Kind, interface,
    origin::{Origin, OriginError},
    patience::{Progress, steady},
    upgrade, visit,
};
use crate::{
    callbacks::Callbacks,
    calls::Side,
    config::{HostHeader, OriginPlan},
    headers::{add_forwarded, remove_one_hop, remove_own},
    seam::{Body, BoxError},
    websocket::Upgrade,
};

/// Serves a call of `caller`. `Err` is answered as a fault.
pub(super) async fn serve<B>(
    cx: &Context,
    callbacks: &Callbacks,
    export: &Arc<Export>,
    caller: Caller<'_>,
    mut request: Request<B>,
    answered: upgrade::Answered,
) -> Result<Response<Body>, Fault>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (origin, response_timeout) = match &export.kind {
        Kind::Http {
            origin,
            response_timeout,
        } => (origin, response_timeout),
        Kind::Clients => return clients(export, caller, request).await,
        Kind::Tcp { .. } => return Err(not_http(export)),
    };
    let wanted = Upgrade::of(&request);
    let method = match &wanted {
        Upgrade::WebSocket => Method::GET,
        Upgrade::Other(protocol) => return Err(no_upgrade(protocol)),
        Upgrade::None if request.method() == Method::CONNECT => return Err(no_upgrade("CONNECT")),
        Upgrade::None => request.method().clone(),
    };
    caller.may(export, &method, request.uri().path(), request.headers())?;
    if request.uri().path() == interface::PATH {
        return described(export, Some(origin), request.method(), request.uri()).await;
    }
    let near = (wanted == Upgrade::WebSocket).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let side = match caller {
        Caller::Gateway(peer) => {
            prepare(cx, peer, &mut parts);
            Side::Export
        }
        Caller::Visitor(visitor) => {
            visit::prepare(cx, visitor, &mut parts);
            Side::Visit
        }
    };
    if interface::may_ask_for_one(&parts.method, &parts.uri) {
        interface::ask_in_plain(&mut parts.headers);
    }
    if let Some(near) = near {
        return upgrade::serve(cx, origin, *response_timeout, near, parts, answered).await;
    }
    let progress = Progress::default();
    let body = cx.metrics.request_body(side, body);
    let body = match caller {
        Caller::Gateway(_) => body,
        Caller::Visitor(_) => steady(body, visit::BODY_SILENCE),
    };
    let body = progress.follow(body);
    let mut request = Request::from_parts(parts, body);
    if let Some(interface) = &export.interface {
        request = interface.admit(origin, request).await?;
    }
    if let OriginPlan::Http {
        url,
        host: HostHeader::Origin,
        ..
    } = &export.plan.origin
    {
        request = callbacks.arriving(&export.plan.name, url, request).await?;
    }
    let sent = origin.send(request);
    let response = head(progress.wait(sent, *response_timeout).await, *response_timeout)?;
    Ok(pass(cx, response))
}

impl Caller<'_> {
    fn may(self, export: &Export, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Fault> {
        match self {
            Caller::Gateway(peer) => export.plan.policy.request(&peer.domain, method, path, headers),
            Caller::Visitor(visitor) => visitor.policy.visitor(method, path, headers),
        }
    }
}

/// What can be had of clients: how they are called back.
async fn clients<B>(
    export: &Export,
    caller: Caller<'_>,
    request: Request<B>,
) -> Result<Response<Body>, Fault> {
    // The body is not read, and could not be lent across an await.
    let (parts, _) = request.into_parts();
    let (method, path) = (&parts.method, parts.uri.path());
    caller.may(export, method, path, &parts.headers)?;
    match path {
        interface::PATH => described(export, None, method, &parts.uri).await,
        _ => Err(not_called(export)),
    }
}

/// The service's registered description.
async fn described(
    export: &Export,
    origin: Option<&Origin>,
    method: &Method,
    uri: &Uri,
) -> Result<Response<Body>, Fault> {
    match (&export.interface, uri.authority()) {
        (Some(interface), Some(authority)) if *method == Method::GET => {
            interface.serve(origin, authority).await
        }
        _ => Err(interface::none()),
    }
}

/// What the origin sees of the request's headers.
pub(crate) fn prepare(cx: &Context, peer: &NodeId, parts: &mut request::Parts) {
    let host = parts
        .uri
        .authority()
        .and_then(|a| HeaderValue::try_from(a.as_str()).ok());
    let headers = &mut parts.headers;
    remove_one_hop(headers);
    remove_own(headers);
    headers.remove(HOST);
    join_cookies(headers);
    add_forwarded(headers, peer, &cx.own);
    cx.pseudonym.add(headers, Version::HTTP_2);
    // For the many origins that do not read `Forwarded`.
    headers.insert(
        HeaderName::from_static("x-forwarded-proto"),
        HeaderValue::from_static("http"),
    );
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    parts.extensions.clear();
}

/// HTTP/2 may split the cookies over several lines; HTTP/1.1 may not (RFC 9113, 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The head of the origin's answer, or the fault that stands for it.
pub(crate) fn head(
    answer: Option<Result<Response<Incoming>, OriginError>>,
    waited: std::time::Duration,
) -> Result<Response<Incoming>, Fault> {
    match answer {
        Some(answer) => answer.map_err(|e| {
            tracing::debug!(error = %e, "the origin gave no answer");
            e.fault()
        }),
        None => Err(Fault::new(
            Place::Origin,
            504,
            "origin-timeout",
            format!("the service sent no answer within {waited:?}"),
            "see the service's log; raise response_timeout of the export if it needs longer",
        )),
    }
}

/// The origin's answer, fit for the tunnel.
pub(crate) fn pass(cx: &Context, response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    remove_one_hop(&mut parts.headers);
    remove_own(&mut parts.headers);
    cx.pseudonym.add(&mut parts.headers, parts.version);
    parts.extensions.clear();
    Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
}

fn not_called(export: &Export) -> Fault {
    Fault::new(
        Place::ServerGateway,
        404,
        "clients-interface",
        format!(
            "{} says how clients are called back: nothing is called there",
            export.plan.name
        ),
        "call the addresses that they name in their messages; `hawser services describe` shows how",
    )
}

fn not_http(export: &Export) -> Fault {
    Fault::new(
        Place::ServerGateway,
        400,
        "service-is-tcp",
        format!("{} is a TCP service", export.plan.name),
        "reach it by CONNECT, or by an [[gateway.import]] of the calling gateway",
    )
}

fn no_upgrade(protocol: &str) -> Fault {
    Fault::new(
        Place::ServerGateway,
        501,
        "upgrade-not-supported",
        format!("an HTTP service cannot be upgraded to {protocol:?}: WebSocket is all"),
        "export the service as a TCP service beside this one",
    )
}
