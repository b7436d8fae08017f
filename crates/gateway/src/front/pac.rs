//! `/proxy.pac` at the web proxy: what tells a browser which hosts to ask this proxy for (proxy auto-configuration).

use hawser_proto::DomainName;
use http::{
    HeaderValue, Method, Request, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST},
    uri::Authority,
};

use super::{
    admit::{Door, Rules},
    target::Destination,
};
use crate::{callbacks::targets::Targets, problem::empty, seam::Body};

const PATH: &str = "/proxy.pac";

/// The file, if the request is for it and not for a service.
pub(super) fn answer<B>(rules: &Rules<'_>, door: &Door, request: &Request<B>) -> Option<Response<Body>> {
    let asks = *door == Door::Proxy
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && request.uri().path() == PATH;
    if !asks {
        return None;
    }
    let host = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    let own: Authority = request.uri().authority().cloned().or_else(host)?;
    let elsewhere = matches!(rules.suffix.destination(&own), Destination::Elsewhere(_));
    if !elsewhere || own.as_str().contains('@') || own.host().is_empty() {
        return None;
    }
    let text = file(&rules.suffix.to_string(), rules.through, &own);
    let length = text.len();
    let mut response = Response::new(match *request.method() {
        Method::HEAD => empty(),
        _ => hawser_session::full(text),
    });
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ns-proxy-autoconfig"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_LENGTH, length.into());
    Some(response)
}

/// Names under the suffix, and names that are called through other gateways, go to the proxy at `own`; all else goes its way.
/// Networks are left out: to know whether a host is in one, the browser would have to resolve it.
fn file(suffix: &str, through: &[(Targets, DomainName)], own: &Authority) -> String {
    let mut tests = vec![format!("dnsDomainIs(host, \".{suffix}\")")];
    for name in through.iter().flat_map(|(hosts, _)| hosts.names()) {
        tests.push(match name.strip_prefix('.') {
            Some(_) => format!("dnsDomainIs(host, \"{name}\")"),
            None => format!("host == \"{name}\""),
        });
    }
    // Names hold letters, digits, dots, hyphens and underscores alone; an authority holds no quotes.
    let proxy = own.as_str().replace(['"', '\\', '\''], "");
    format!(
        "function FindProxyForURL(url, host) {{\n  host = host.toLowerCase();\n  if ({})\n    return \"PROXY {proxy}\";\n  \
         return \"DIRECT\";\n}}\n",
        tests.join(" ||\n      ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_and_what_is_called_through_others_go_to_the_proxy() {
        let hosts = ["*.acme.example", "erp.example:9000", "10.1.0.0/16"];
        let hosts = Targets::new(hosts.iter().map(|t| t.parse().unwrap()).collect());
        let through = [(hosts, "acme".parse().unwrap())];
        let own = "gw.beta.example:3128".parse().unwrap();
        assert_eq!(
            file("hawser", &through, &own),
            "function FindProxyForURL(url, host) {\n  host = host.toLowerCase();\n  if (dnsDomainIs(host, \".hawser\") ||\n      \
             dnsDomainIs(host, \".acme.example\") ||\n      host == \"erp.example\")\n    return \"PROXY gw.beta.example:3128\";\n  \
             return \"DIRECT\";\n}\n"
        );
    }
}
