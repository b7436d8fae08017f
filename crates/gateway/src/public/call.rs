//! One request of a visitor: judged, its login looked at, and given to the export.

use std::sync::Arc;

use hawser_proto::{Fault, Place};
use http::{
    HeaderValue, Request, Response, Uri, Version,
    header::{CONNECTION, COOKIE, HOST},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;

use super::{
    Site,
    login::{Admitted, Outcome},
    serve::Connection,
};
use crate::{
    calls::{Call, Side},
    export::Visitor,
    front::form,
    headers::{fresh_request_id, value},
    problem::{self, Asker},
    seam::{Body, FAULT, REQUEST_ID},
};

/// Paths below this are the gateway's own, on every published name.
pub(super) const OWN: &str = "/.hawser/";

/// Answers a request. Cancelled when the visitor is gone; so is everything it started.
pub(super) async fn answer(cx: &Arc<Connection>, mut request: Request<Incoming>) -> Response<Body> {
    let id = fresh_request_id();
    let version = request.version();
    let asker = Asker::of(request.method(), request.headers());
    let table = cx.public.0.table.load_full();
    let what = format!("{}{}", cx.name, request.uri().path());
    let (metrics, who) = (&cx.public.0.metrics, cx.name.to_string());
    let method = request.method().clone();
    let mut call = Call::begin(metrics, Side::Visit, id, who, method, what);
    call.trace(&mut request);
    let refused = |call: Call, fault: Fault| {
        let fault = Fault {
            place: match fault.place {
                Place::ClientGateway => Place::ServerGateway,
                place => place,
            },
            ..fault
        };
        tracing::debug!(request = %id, %fault, "refused a visitor");
        call.follow(problem::answer(&fault, id, asker), None)
    };
    let mut response = match table.sites.get(&cx.name) {
        None => refused(call, misdirected()),
        Some(site) => {
            call.service(&site.export);
            match admit(site, table.limits.uri_bytes, request) {
                Err(fault) => refused(call, fault),
                Ok(request) => match cx.login(site, &request).await {
                    Outcome::Answer(response) => call.follow(response, None),
                    Outcome::Refuse(fault) => refused(call, fault),
                    Outcome::In(admitted) => inside(cx, site, admitted, request, call).await,
                },
            }
        }
    };
    let headers = response.headers_mut();
    headers.remove(FAULT);
    headers.insert(REQUEST_ID, value(id));
    // RFC 9113, 8.2.2: HTTP/2 has no such header.
    if cx.close.is_cancelled() && version < Version::HTTP_2 && !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    *response.version_mut() = Version::HTTP_11;
    response
}

async fn inside(
    cx: &Connection,
    site: &Site,
    admitted: Admitted,
    mut request: Request<Incoming>,
    mut call: Call,
) -> Response<Body> {
    if let Some(user) = &admitted.user {
        call.user(&user.name);
    }
    site.login.strip(request.headers_mut());
    if request.headers().get(COOKIE).is_some_and(HeaderValue::is_empty) {
        request.headers_mut().remove(COOKIE);
    }
    let visitor = Visitor {
        policy: site.policy.clone(),
        authority: site.authority.clone(),
        user: admitted.user,
    };
    let exporter = &cx.public.0.exporter;
    let mut response = exporter.visit(&site.export, &visitor, request, call).await;
    site.login.strip_answer(response.headers_mut());
    response
}

/// Whether a request can be read in one way only, and is for this name; it leaves with a whole URI.
fn admit<B>(site: &Site, uri_bytes: usize, mut request: Request<B>) -> Result<Request<B>, Fault> {
    form(&request, uri_bytes)?;
    let host = match request.headers().get(HOST) {
        Some(host) => Some(
            host.to_str()
                .ok()
                .and_then(|h| h.parse::<Authority>().ok())
                .ok_or_else(misdirected)?,
        ),
        None => None,
    };
    let named = request.uri().authority().cloned();
    if let (Some(named), Some(host)) = (&named, &host)
        && !named.as_str().eq_ignore_ascii_case(host.as_str())
    {
        return Err(Fault::new(
            Place::ServerGateway,
            400,
            "host-ambiguous",
            "the request's target and its Host header name different hosts",
            "send a request that can be read in one way only (RFC 9112)",
        ));
    }
    let asked = named.or(host).ok_or_else(misdirected)?;
    if asked.as_str().contains('@') || !asked.host().eq_ignore_ascii_case(site.plan.name.as_str()) {
        return Err(misdirected());
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(site.authority.clone());
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    if !parts
        .path_and_query
        .as_ref()
        .is_some_and(|p| p.as_str().starts_with('/'))
    {
        return Err(misdirected());
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| misdirected())?;
    Ok(request)
}

fn misdirected() -> Fault {
    Fault::new(
        Place::ServerGateway,
        421,
        "misdirected",
        "the request is for another host than the connection was made to, or for none that is published here",
        "connect anew, and ask for a path of the name that was connected to",
    )
}

#[cfg(test)]
mod tests {
    use http::{Method, header::TRANSFER_ENCODING};

    use super::*;
    use crate::{
        config::{CertificatePlan, LoginPlan, PublishPlan, VisitorsConfig},
        export::policy::Policy,
        public::login::Login,
    };

    fn site() -> Site {
        let plan = PublishPlan {
            name: "wiki.acme.example".parse().unwrap(),
            authority: "wiki.acme.example:8443".parse().unwrap(),
            export: "wiki".parse().unwrap(),
            certificate: CertificatePlan::None,
            policy: Policy::visitors(&[VisitorsConfig::default()]).unwrap(),
            login: LoginPlan::None,
        };
        Site {
            authority: plan.authority.clone(),
            export: plan.export.clone(),
            policy: Arc::new(plan.policy.clone()),
            login: Login::None,
            plan,
        }
    }

    fn code(method: Method, uri: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let admitted = admit(&site(), 1024, request.body(()).unwrap());
        admitted.map(|r| r.uri().to_string()).map_err(|f| f.code)
    }

    #[test]
    fn a_request_leaves_with_the_name_as_it_is_published() {
        let whole = "http://wiki.acme.example:8443/a?b".to_owned();
        for (uri, host) in [
            ("/a?b", Some("wiki.acme.example:8443")),
            ("/a?b", Some("WIKI.acme.example")),
            ("https://wiki.acme.example/a?b", None),
        ] {
            let headers: Vec<_> = host.map(|h| ("host", h)).into_iter().collect();
            assert_eq!(
                code(Method::GET, uri, &headers),
                Ok(whole.clone()),
                "{uri} {host:?}"
            );
        }
    }

    #[test]
    fn what_could_be_for_somebody_else_is_refused() {
        let own = ("host", "wiki.acme.example");
        for (uri, headers, expected) in [
            ("/", vec![], "misdirected"),
            ("/", vec![("host", "other.acme.example")], "misdirected"),
            ("/", vec![("host", "a@wiki.acme.example")], "misdirected"),
            ("/", vec![own, own], "host-ambiguous"),
            ("http://other.acme.example/", vec![own], "host-ambiguous"),
            ("http://other.acme.example/", vec![], "misdirected"),
            (
                "/",
                vec![own, (TRANSFER_ENCODING.as_str(), "gzip")],
                "coding-unknown",
            ),
            (
                "/",
                vec![own, ("content-length", "1"), ("transfer-encoding", "chunked")],
                "length-ambiguous",
            ),
        ] {
            assert_eq!(
                code(Method::GET, uri, &headers),
                Err(expected.into()),
                "{uri} {headers:?}"
            );
        }
        assert_eq!(code(Method::TRACE, "/", &[own]), Err("trace-refused".into()));
        let long = format!("/{}", "a".repeat(2000));
        assert_eq!(code(Method::GET, &long, &[own]), Err("uri-too-long".into()));
    }
}
