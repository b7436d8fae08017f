//! Which headers pass a gateway, and which it sets (RFC 9110, RFC 7239). Used on both sides of the tunnel.

use std::net::IpAddr;

use data_encoding::HEXLOWER_PERMISSIVE;
use hawser_proto::session::{REQUEST_ID as ID_BYTES, RequestId};
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, CONNECTION, FORWARDED, TE, VIA},
};

use crate::config::Forwarded;

/// Headers of one hop besides those that `Connection` lists (RFC 9110, 7.6.1 and 11.7).
const ONE_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// What `Connection` may not take away: it frames the message or says whom it is for.
const NEVER_ONE_HOP: [HeaderName; 2] = [header::CONTENT_LENGTH, header::HOST];
/// Headers by which intermediaries tell who the client is: believed from nobody but ourselves.
const CLAIMS: [&str; 4] = ["forwarded", "x-real-ip", "true-client-ip", "x-client-ip"];
/// The same, as beginnings of names; `hawser-` are the gateways' own.
const CLAIM_PREFIXES: [&str; 2] = ["x-forwarded-", OWN];
/// Headers by which some web servers tell applications who has logged in.
const LOGIN_CLAIMS: [&str; 4] = ["remote-user", "x-remote-user", "x-user", "x-authenticated-user"];
const OWN: &str = "hawser-";

/// Removes the headers of one hop. `TE` survives as `trailers` if it says so: every hop of ours carries trailers.
pub fn remove_one_hop(headers: &mut HeaderMap) {
    let trailers = list(headers, &TE).any(|t| {
        t.split(';')
            .next()
            .is_some_and(|t| t.trim().eq_ignore_ascii_case("trailers"))
    });
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = list(headers, &CONNECTION)
            .filter_map(|n| n.parse().ok())
            .filter(|n| !NEVER_ONE_HOP.contains(n))
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in &ONE_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what a client says about who it is or whom it speaks for, however a CGI-like origin may spell the name.
pub fn remove_claims(headers: &mut HeaderMap) {
    remove_where(headers, |name| {
        let plain;
        let name = if name.contains('_') {
            plain = name.replace('_', "-");
            plain.as_str()
        } else {
            name
        };
        CLAIMS.contains(&name) || CLAIM_PREFIXES.iter().any(|p| name.starts_with(p))
    });
}

/// Removes what a visitor from outside says about who it is: the same, and the other names by which web servers tell
/// applications who has logged in.
pub(crate) fn remove_visitor_claims(headers: &mut HeaderMap) {
    remove_claims(headers);
    remove_where(headers, |name| {
        let name = name.replace('_', "-");
        LOGIN_CLAIMS.contains(&name.as_str()) || name.starts_with("x-auth-request-")
    });
}

/// Removes the gateways' own headers.
pub fn remove_own(headers: &mut HeaderMap) {
    remove_where(headers, |name| name.starts_with(OWN));
}

fn remove_where(headers: &mut HeaderMap, gone: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|n| gone(n.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The members of a comma-separated list header, over all its lines.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|s| !s.is_empty())
}

/// A gateway's name in `Via` (RFC 9110, 7.6.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pseudonym(String);

impl Pseudonym {
    /// `name` is made of characters that a host name has.
    pub fn new(name: String) -> Self {
        Self(name)
    }

    /// Whether the message has been here before.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        list(headers, &VIA).any(|v| v.split_ascii_whitespace().nth(1) == Some(self.0.as_str()))
    }

    /// Adds this gateway, which received the message in `version`.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) {
        let number = match version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2.0",
            _ => "1.1",
        };
        if let Ok(value) = HeaderValue::try_from(format!("{number} {}", self.0)) {
            headers.append(VIA, value);
        }
    }
}

/// `Forwarded` as the gateway in the client's domain makes it.
pub fn forwarded(client: IpAddr, tell: Forwarded, host: &str) -> Option<HeaderValue> {
    let client = match (tell, client) {
        (Forwarded::Hidden, _) => "_hidden".to_owned(),
        (Forwarded::Address, IpAddr::V4(v4)) => v4.to_string(),
        (Forwarded::Address, IpAddr::V6(v6)) => format!("\"[{v6}]\""),
    };
    HeaderValue::try_from(format!("for={client};host={};proto=http", quoted(host))).ok()
}

/// Adds the exporting gateway's element to `Forwarded`: `by` this gateway, `for` the gateway that TLS proved.
pub fn add_forwarded(headers: &mut HeaderMap, from: &hawser_proto::NodeId, own: &hawser_proto::NodeId) {
    let element = format!(
        "for=_{}.{};by=_{}.{}",
        from.name, from.domain, own.name, own.domain
    );
    let before = list(headers, &FORWARDED).collect::<Vec<_>>().join(", ");
    let value = if before.is_empty() {
        element
    } else {
        format!("{before}, {element}")
    };
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(FORWARDED, value);
    }
}

/// `Forwarded` for a visitor who came by a published name; the network address is known to the hub alone.
pub(crate) fn forwarded_visit(own: &hawser_proto::NodeId, host: &str) -> Option<HeaderValue> {
    let (name, domain, host) = (&own.name, &own.domain, quoted(host));
    HeaderValue::try_from(format!("for=unknown;by=_{name}.{domain};host={host};proto=https")).ok()
}

/// A quoted-string (RFC 9110, 5.6.4).
fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A new request id.
pub fn fresh_request_id() -> RequestId {
    let mut id = [0; ID_BYTES];
    // Without randomness TLS would have failed long before; an id of zeros is no danger.
    let _ = aws_lc_rs::rand::fill(&mut id);
    RequestId(id)
}

/// A request id as it stands in a header.
pub fn parse_request_id(text: &str) -> Option<RequestId> {
    let id = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    Some(RequestId(id.try_into().ok()?))
}

/// A value that is known to be printable ASCII.
pub fn value(text: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::try_from(text.to_string()).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| {
                (
                    n.parse::<HeaderName>().unwrap(),
                    v.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn what_connection_lists_goes_and_the_rest_stays() {
        let mut h = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "content-length,host"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers;q=0.5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("content-length", "3"),
            ("host", "a"),
            ("x-other", "2"),
            ("trailer", "x-sum"),
        ]);
        remove_one_hop(&mut h);
        let mut left: Vec<_> = h
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "content-length: 3",
                "host: a",
                "te: trailers",
                "trailer: x-sum",
                "x-other: 2"
            ]
        );
    }

    #[test]
    fn claims_of_clients_go_in_every_spelling() {
        let mut h = headers(&[
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded-client-cert", "x"),
            ("hawser-service", "other"),
            ("hawser_service", "other"),
            ("x-real-ip", "1.2.3.4"),
            ("x-request-id", "kept"),
            ("authorization", "kept"),
        ]);
        remove_claims(&mut h);
        assert_eq!(h.len(), 2, "{h:?}");
    }

    #[test]
    fn no_visitor_says_who_has_logged_in() {
        let mut h = headers(&[
            ("x-forwarded-user", "root"),
            ("x_forwarded_email", "root@acme.example"),
            ("remote-user", "root"),
            ("Remote_User", "root"),
            ("x-auth-request-email", "root@acme.example"),
            ("x-user-agent", "kept"),
            ("authorization", "kept"),
        ]);
        remove_visitor_claims(&mut h);
        assert_eq!(h.len(), 2, "{h:?}");
        let own = "spiffe://acme/gateway/gw1".parse().unwrap();
        assert_eq!(
            forwarded_visit(&own, "a.example:1").unwrap(),
            "for=unknown;by=_gw1.acme;host=\"a.example:1\";proto=https"
        );
    }

    #[test]
    fn loops_are_seen_in_any_line() {
        let me = Pseudonym::new("gw1.acme".into());
        let mut h = headers(&[
            ("via", "1.0 fred, 1.1 p.example.net (x)"),
            ("via", "HTTP/2.0 other"),
        ]);
        assert!(!me.is_in(&h));
        me.add(&mut h, Version::HTTP_11);
        assert!(me.is_in(&h));
        assert!(!Pseudonym::new("gw1".into()).is_in(&h));
    }

    #[test]
    fn forwarded_names_nodes() {
        let value = forwarded(
            "10.0.0.1".parse().unwrap(),
            Forwarded::Hidden,
            "orders.beta.hawser:80",
        )
        .unwrap();
        assert_eq!(value, "for=_hidden;host=\"orders.beta.hawser:80\";proto=http");
        let value = forwarded("::1".parse().unwrap(), Forwarded::Address, "h").unwrap();
        let mut h = HeaderMap::from_iter([(FORWARDED, value)]);
        let node = |s: &str| s.parse().unwrap();
        add_forwarded(
            &mut h,
            &node("spiffe://acme/gateway/gw1"),
            &node("spiffe://beta/gateway/gw2"),
        );
        assert_eq!(
            h[FORWARDED],
            "for=\"[::1]\";host=\"h\";proto=http, for=_gw1.acme;by=_gw2.beta"
        );
    }

    #[test]
    fn request_ids_round_trip() {
        let id = fresh_request_id();
        assert_eq!(parse_request_id(&id.to_string()), Some(id));
        for bad in [
            "",
            "00",
            "zz345678901234567890123456789012",
            "+1345678901234567890123456789012",
            "ä3456789012345678901234567890",
        ] {
            assert_eq!(parse_request_id(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_one_hop_header_survives(listed in prop::collection::vec("[a-z-]{1,12}", 0..8), te in "[a-z, ;=.]{0,20}") {
            let mut h = HeaderMap::new();
            for name in &listed {
                if let Ok(name) = name.parse::<HeaderName>() { h.append(name, HeaderValue::from_static("1")); }
            }
            h.insert(CONNECTION, listed.join(", ").parse().unwrap());
            h.insert(TE, te.parse().unwrap());
            remove_one_hop(&mut h);
            prop_assert!(h.keys().all(|n| n == TE || NEVER_ONE_HOP.contains(n)), "{:?}", h);
            prop_assert!(h.get(TE).is_none_or(|v| v == "trailers"));
        }
    }
}
