//! Calls of visitors, who come from outside by a published name: the same way to the origin as other domains' calls, under rules
//! of the name's own, and with headers that say who has logged in.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hawser_proto::{Fault, Place, ServiceName};
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{FORWARDED, HOST, SEC_WEBSOCKET_KEY},
    request,
    uri::Authority,
};
use hyper::body::Incoming;

use super::{Caller, Context, Exporter, faulty, forward, policy::Policy, unknown};
use crate::{
    calls::Call,
    headers::{forwarded_visit, remove_one_hop, remove_visitor_claims},
    problem::Asker,
    seam::Body,
    websocket::{self, Upgrade},
};

/// A visitor's body breaks off when nothing of it comes for this long.
pub(super) const BODY_SILENCE: Duration = Duration::from_secs(60);
/// Who has logged in. Set by gateways, never taken from visitors.
const FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");
/// The user's mail address, if it is known.
const FORWARDED_EMAIL: HeaderName = HeaderName::from_static("x-forwarded-email");

/// Somebody outside, who has been let in.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// What visitors may do.
    pub(crate) policy: Arc<Policy>,
    /// The published name, as visitors write it.
    pub(crate) authority: Authority,
    /// Who it is, where a login is asked for.
    pub(crate) user: Option<User>,
}

/// Who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) email: Option<String>,
}

impl Exporter {
    /// Serves one request of a visitor. Its URI names the host, its headers are as they came, without those of the login.
    pub(crate) async fn visit(
        &self,
        service: &ServiceName,
        visitor: &Visitor,
        mut request: Request<Incoming>,
        call: Call,
    ) -> Response<Body> {
        let inner = &self.0;
        let asker = Asker::of(request.method(), request.headers());
        let id = call.id();
        let opening = match opening(&mut request) {
            Ok(opening) => opening,
            Err(fault) => return call.follow(faulty(&fault, id, asker), None),
        };
        let call = Arc::new(Mutex::new(Some(call)));
        let served = match inner.export(service) {
            Some(export) => {
                let caller = Caller::Visitor(visitor);
                forward::serve(
                    &inner.cx,
                    &inner.callbacks,
                    &export,
                    caller,
                    request,
                    call.clone(),
                )
                .await
            }
            None => Err(unknown(service)),
        };
        let mut response = served.unwrap_or_else(|fault| faulty(&fault, id, asker));
        let call = call.lock().ok().and_then(|mut call| call.take());
        match (call, opening) {
            (Some(call), _) => call.follow(response, None),
            // The stream took the call: it is open.
            (None, Some(key)) => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                websocket::agree(response.headers_mut(), &key);
                response
            }
            (None, None) => response,
        }
    }
}

/// The key of a WebSocket's opening over HTTP/1.1, if the request is one.
fn opening(request: &mut Request<Incoming>) -> Result<Option<HeaderValue>, Fault> {
    if Upgrade::of(request) != Upgrade::WebSocket || *request.method() == Method::CONNECT {
        return Ok(None);
    }
    let key = request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    match key.filter(|_| *request.method() == Method::GET) {
        Some(key) => Ok(Some(key)),
        None => Err(Fault::new(
            Place::ServerGateway,
            400,
            "websocket-malformed",
            "an opening of a WebSocket is a GET with Sec-WebSocket-Key (RFC 6455, 4.1)",
            "use a WebSocket client",
        )),
    }
}

/// What the origin sees of the request's headers.
pub(super) fn prepare(cx: &Context, visitor: &Visitor, parts: &mut request::Parts) {
    let version = parts.version;
    let headers = &mut parts.headers;
    remove_one_hop(headers);
    remove_visitor_claims(headers);
    headers.remove(HOST);
    forward::join_cookies(headers);
    let host = visitor.authority.as_str();
    if let Some(forwarded) = forwarded_visit(&cx.own, host) {
        headers.insert(FORWARDED, forwarded);
    }
    cx.pseudonym.add(headers, version);
    headers.insert(
        HeaderName::from_static("x-forwarded-proto"),
        HeaderValue::from_static("https"),
    );
    if let Ok(host) = HeaderValue::try_from(host) {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    if let Some(user) = &visitor.user {
        // A name that is no header's value is nobody's: login has refused it.
        if let Ok(name) = HeaderValue::from_str(&user.name) {
            headers.insert(FORWARDED_USER, name);
        }
        if let Some(Ok(email)) = user.email.as_deref().map(HeaderValue::from_str) {
            headers.insert(FORWARDED_EMAIL, email);
        }
    }
    parts.version = Version::HTTP_2;
    parts.extensions.clear();
}
