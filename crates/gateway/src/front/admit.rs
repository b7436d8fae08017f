//! What a client's request is for, and whether it is fit to be passed on. Everything odd is refused here, before anything
//! is sent into the tunnel.

use hawser_proto::{DomainName, Fault, Place, ServiceId, ServiceName};
use http::{
    HeaderValue, Method, Request, Version,
    header::{CONTENT_LENGTH, HOST, MAX_FORWARDS, TRANSFER_ENCODING},
    uri::{Authority, Scheme},
};
use hyper::ext::Protocol;

use super::target::{Destination, Elsewhere, Suffix};
use crate::{
    callbacks::{path, targets::Targets},
    headers::Pseudonym,
};

/// By which door a request came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// The web proxy: the request names its service, or is a call back.
    Proxy,
    /// An address for calls back alone.
    Callbacks,
    /// An import, or a tunnel that CONNECT opened: the service is known.
    Service {
        /// Which.
        service: ServiceId,
        /// Inside a tunnel: then names of other services are refused.
        tunnel: bool,
    },
}

/// A request that may be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admitted {
    /// The service.
    pub(super) service: ServiceId,
    /// The host that the client used.
    pub(super) authority: Authority,
    /// The service is called by the address of one of its domain's hosts.
    pub(super) open: bool,
    /// What is wanted.
    pub(super) want: Want,
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// An answer from the service.
    Forward,
    /// A tunnel to it (plain CONNECT).
    Tunnel,
    /// An answer from this proxy itself: OPTIONS that may go no further.
    Options,
}

/// What the rules depend on.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) suffix: &'a Suffix,
    pub(super) through: &'a [(Targets, DomainName)],
    pub(super) pseudonym: &'a Pseudonym,
    pub(super) uri_bytes: usize,
}

impl Rules<'_> {
    /// Judges a request. Its `Max-Forwards` is counted down.
    pub(super) fn admit<B>(&self, door: &Door, request: &mut Request<B>) -> Result<Admitted, Fault> {
        form(request, self.uri_bytes)?;
        let tunnel = *request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
        let authority = authority(request, door)?;
        let (service, open) = self.service(door, &authority, request.uri().path())?;
        if self.pseudonym.is_in(request.headers()) {
            return Err(looped());
        }
        let want = match (tunnel, door) {
            (true, Door::Proxy) if open => return Err(no_open_tunnel()),
            (true, Door::Proxy) => Want::Tunnel,
            (true, Door::Service { .. } | Door::Callbacks) => return Err(no_tunnel()),
            (false, _) => forwards(request)?,
        };
        Ok(Admitted {
            service,
            authority,
            open,
            want,
        })
    }

    fn service(&self, door: &Door, authority: &Authority, path: &str) -> Result<(ServiceId, bool), Fault> {
        let named = self.suffix.destination(authority);
        match (door, named) {
            (
                Door::Service {
                    service,
                    tunnel: true,
                },
                Destination::Service(other),
            ) if other != *service => Err(refuse(
                421,
                "misdirected",
                format!("the tunnel leads to {service}, the request is for {other}"),
                "open a tunnel (CONNECT) of its own for it",
            )),
            (Door::Service { service, .. }, _) => Ok((service.clone(), false)),
            // Whatever name this gateway is called by; a service's own paths are its own.
            (Door::Proxy | Door::Callbacks, Destination::Elsewhere(_)) if path::is_one(path) => {
                path::service(path).map(|s| (s, false)).ok_or_else(no_callback)
            }
            (Door::Callbacks, _) => Err(no_callback()),
            (Door::Proxy, Destination::Service(service)) => Ok((service, false)),
            (Door::Proxy, Destination::NoService(name)) => Err(self.no_service(&name)),
            (Door::Proxy, Destination::Elsewhere(host)) => self.elsewhere(&host, Elsewhere::default()),
        }
    }

    fn elsewhere(&self, host: &Authority, what: Elsewhere) -> Result<(ServiceId, bool), Fault> {
        let port = host.port_u16().unwrap_or(80);
        let bare = host.host().trim_start_matches('[').trim_end_matches(']');
        if let Some((_, domain)) = self.through.iter().find(|(hosts, _)| hosts.lists(bare, port)) {
            let domain = domain.clone();
            let name = ServiceName::callbacks();
            return Ok((ServiceId { name, domain }, true));
        }
        match what {
            Elsewhere::Refuse => Err(refuse(
                403,
                "name-elsewhere",
                format!(
                    "this proxy serves names that end in .{}; {} does not",
                    self.suffix,
                    shown(host.host())
                ),
                "exempt it from the proxy in the client (no_proxy), or use SERVICE.DOMAIN under the suffix",
            )),
        }
    }

    fn no_service(&self, name: &str) -> Fault {
        let name = shown(name);
        refuse(
            404,
            "name-malformed",
            format!(
                "{name:?} before .{} is no service: expected SERVICE.DOMAIN",
                self.suffix
            ),
            format!(
                "use a name such as orders.acme.{}; `hawser services` lists them",
                self.suffix
            ),
        )
    }
}

/// Whether the message itself is sound.
pub(crate) fn form<B>(request: &Request<B>, uri_bytes: usize) -> Result<(), Fault> {
    let uri = request.uri();
    let length = uri.path_and_query().map_or(0, |p| p.as_str().len())
        + uri.authority().map_or(0, |a| a.as_str().len());
    if length > uri_bytes {
        return Err(refuse(
            414,
            "uri-too-long",
            format!("the target has {length} bytes, over {}", uri_bytes),
            "shorten it, or raise uri_bytes in [gateway.limits]",
        ));
    }
    if *request.method() == Method::TRACE {
        return Err(refuse(
            405,
            "trace-refused",
            "TRACE would show the gateways' own headers",
            "look at the gateway's debug log instead",
        ));
    }
    let headers = request.headers();
    if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
        return Err(bad(
            "length-ambiguous",
            "the request has both Content-Length and Transfer-Encoding",
        ));
    }
    let mut codings = crate::headers::list(headers, &TRANSFER_ENCODING);
    if codings.next().is_some_and(|c| !c.eq_ignore_ascii_case("chunked")) || codings.next().is_some() {
        return Err(bad(
            "coding-unknown",
            "the request has a Transfer-Encoding other than \"chunked\"",
        ));
    }
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(bad("host-ambiguous", "the request has more than one Host header"));
    }
    Ok(())
}

/// The host that the request is for: that of an absolute target wins over `Host` (RFC 9112, 3.2.2).
fn authority<B>(request: &Request<B>, door: &Door) -> Result<Authority, Fault> {
    let uri = request.uri();
    let host = request.headers().get(HOST);
    if let Some(authority) = uri.authority() {
        if uri.scheme().is_some_and(|s| *s != Scheme::HTTP) {
            return Err(refuse(
                400,
                "scheme-not-supported",
                format!(
                    "the request is for {}, and only http is",
                    shown(uri.scheme_str().unwrap_or_default())
                ),
                "use http:// (the tunnel encrypts end to end), or CONNECT",
            ));
        }
        if request.version() == Version::HTTP_2 && host.is_some_and(|h| !same(h, authority)) {
            return Err(bad("host-ambiguous", "the request's :authority and Host differ"));
        }
        return checked(authority.clone());
    }
    let Some(host) = host else {
        return match door {
            // HTTP/1.0 clients may say no host, and where there is one service none is needed.
            Door::Service { service, .. } if request.version() == Version::HTTP_10 => {
                service.to_string().parse().map_err(|_| no_host())
            }
            _ => Err(no_host()),
        };
    };
    let host = host.to_str().ok().and_then(|h| h.parse::<Authority>().ok());
    checked(host.ok_or_else(|| bad("host-malformed", "the Host header holds no host"))?)
}

fn checked(authority: Authority) -> Result<Authority, Fault> {
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(bad(
            "host-malformed",
            "the request's host holds a user or nothing at all",
        ));
    }
    Ok(authority)
}

fn same(host: &HeaderValue, authority: &Authority) -> bool {
    host.as_bytes()
        .eq_ignore_ascii_case(authority.as_str().as_bytes())
}

/// `Max-Forwards` is for OPTIONS (RFC 9110, 7.6.2), TRACE being refused.
fn forwards<B>(request: &mut Request<B>) -> Result<Want, Fault> {
    if *request.method() != Method::OPTIONS {
        return Ok(Want::Forward);
    }
    let Some(left) = request.headers().get(MAX_FORWARDS) else {
        return Ok(Want::Forward);
    };
    let left: u64 = left
        .to_str()
        .ok()
        .filter(|s| s.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| bad("max-forwards-malformed", "Max-Forwards holds no number"))?;
    match left.checked_sub(1) {
        None => Ok(Want::Options),
        Some(left) => {
            request
                .headers_mut()
                .insert(MAX_FORWARDS, HeaderValue::from(left));
            Ok(Want::Forward)
        }
    }
}

fn refuse(status: u16, code: &str, detail: impl Into<String>, advice: impl Into<String>) -> Fault {
    Fault::new(Place::ClientGateway, status, code, detail, advice)
}

fn bad(code: &str, detail: &str) -> Fault {
    refuse(
        400,
        code,
        detail,
        "send a request that can be read in one way only (RFC 9112)",
    )
}

fn no_host() -> Fault {
    refuse(
        400,
        "host-missing",
        "the request names no host: this is a proxy, and got a path alone",
        "give the client this address as its HTTP proxy (http_proxy), or send a Host under the suffix",
    )
}

fn no_open_tunnel() -> Fault {
    refuse(
        405,
        "connect-refused",
        "hosts of other domains are called by http:// through this proxy, not by CONNECT",
        "call the host by http://; the tunnel encrypts end to end",
    )
}

fn no_callback() -> Fault {
    refuse(
        404,
        "callback-unknown",
        "the path is no address for calls back",
        "call the address as it stood in the message, and append to it only",
    )
}

fn no_tunnel() -> Fault {
    refuse(
        405,
        "connect-refused",
        "CONNECT is for the proxy's own address",
        "send CONNECT to an address of [gateway.proxy]",
    )
}

fn looped() -> Fault {
    refuse(
        508,
        "loop",
        "the request has passed this gateway before (Via)",
        "does an export's address lead back to a gateway's proxy or import?",
    )
}

/// Enough of a name to know it by.
fn shown(s: &str) -> String {
    s.chars().take(100).collect()
}
