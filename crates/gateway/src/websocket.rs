//! WebSocket over HTTP/1.1 (RFC 6455) and over HTTP/2 (RFC 8441): how the two opening handshakes map onto each other.
//! Between gateways it is always extended CONNECT; the key and its answer are made afresh on each HTTP/1.1 leg.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Request, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper::ext::Protocol;

use crate::headers::{list, value};

/// The `:protocol` of RFC 8441, and the token in `Upgrade`.
pub const WEBSOCKET: &str = "websocket";

/// What a request wants its connection to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing else.
    None,
    /// A WebSocket.
    WebSocket,
    /// Something that gateways do not carry.
    Other(String),
}

impl Upgrade {
    /// What the request asks for. Offers of HTTP/2 are no demand: they are passed over, as RFC 9110 allows.
    pub fn of<B>(request: &Request<B>) -> Self {
        if request.method() == Method::CONNECT {
            return match request.extensions().get::<Protocol>().map(Protocol::as_str) {
                None => Upgrade::None,
                Some(WEBSOCKET) => Upgrade::WebSocket,
                Some(other) => Upgrade::Other(other.to_owned()),
            };
        }
        let asked = list(request.headers(), &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
        if !asked || request.version() != Version::HTTP_11 {
            return Upgrade::None;
        }
        let mut other = None;
        for token in list(request.headers(), &UPGRADE) {
            if token.eq_ignore_ascii_case(WEBSOCKET) {
                return Upgrade::WebSocket;
            }
            if !token.eq_ignore_ascii_case("h2c") && !token.to_ascii_lowercase().starts_with("http/") {
                other.get_or_insert(token);
            }
        }
        other.map_or(Upgrade::None, |t| Upgrade::Other(t.chars().take(40).collect()))
    }
}

/// A fresh `Sec-WebSocket-Key`.
pub fn key() -> HeaderValue {
    let mut nonce = [0; 16];
    // A predictable key only weakens the origin's proof that it speaks WebSocket.
    let _ = aws_lc_rs::rand::fill(&mut nonce);
    value(STANDARD.encode(nonce))
}

/// The `Sec-WebSocket-Accept` that proves a key was read.
pub fn accept(key: &HeaderValue) -> HeaderValue {
    let mut text = key.as_bytes().trim_ascii().to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    value(STANDARD.encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        &text,
    )))
}

/// Turns headers into those of an HTTP/1.1 opening handshake with this key.
pub fn ask(headers: &mut HeaderMap, key: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_KEY, key);
}

/// Turns headers into those of a 101 answer to this key.
pub fn agree(headers: &mut HeaderMap, key: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept(key));
}

/// Whether a 101 answer agrees to this key.
pub fn agreed(headers: &HeaderMap, key: &HeaderValue) -> bool {
    list(headers, &UPGRADE).any(|t| t.eq_ignore_ascii_case(WEBSOCKET))
        && headers.get(SEC_WEBSOCKET_ACCEPT) == Some(&accept(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6455() {
        assert_eq!(
            accept(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn upgrades_are_told_apart() {
        let of = |lines: &[(&str, &str)]| {
            let mut r = Request::new(());
            for (n, v) in lines {
                r.headers_mut()
                    .append(n.parse::<http::HeaderName>().unwrap(), v.parse().unwrap());
            }
            Upgrade::of(&r)
        };
        assert_eq!(
            of(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]),
            Upgrade::WebSocket
        );
        assert_eq!(
            of(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]),
            Upgrade::None
        );
        assert_eq!(of(&[("upgrade", "websocket")]), Upgrade::None);
        assert_eq!(
            of(&[("connection", "upgrade"), ("upgrade", "tcp")]),
            Upgrade::Other("tcp".into())
        );
        assert_eq!(of(&[]), Upgrade::None);
    }
}
