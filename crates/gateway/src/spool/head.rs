//! The head of a message as it is kept: a request without its body, and who sent it.

use bytes::Bytes;
use hawser_proto::{NodeId, session::RequestId};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};
use minicbor::{Decode, Encode};

/// What is kept of a request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Head {
    /// Under which the call that brought it is logged, and each attempt.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) request: [u8; 16],
    /// The gateway that passed it on.
    #[n(1)]
    peer: String,
    #[n(2)]
    method: String,
    /// Authority and path as the tunnel brought them.
    #[n(3)]
    uri: String,
    #[n(4)]
    headers: Vec<Line>,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Line {
    #[n(0)]
    name: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    value: Vec<u8>,
}

/// A head that cannot be read: the file is damaged, or another version wrote it.
#[derive(Debug, thiserror::Error)]
#[error("what is kept of the request cannot be read ({0}): was it written by another version of Hawser?")]
pub(crate) struct HeadError(String);

impl Head {
    /// The head of a request that `peer` passed on.
    pub(crate) fn of(request: RequestId, peer: &NodeId, parts: &request::Parts) -> Self {
        let line = |(name, value): (&HeaderName, &HeaderValue)| Line {
            name: name.to_string(),
            value: value.as_bytes().to_vec(),
        };
        Self {
            request: request.0,
            peer: peer.to_string(),
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: parts.headers.iter().map(line).collect(),
        }
    }

    /// As it is kept.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // Writing to memory does not fail.
        minicbor::to_vec(self).unwrap_or_default()
    }

    /// As it was kept.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, HeadError> {
        minicbor::decode(bytes).map_err(bad)
    }

    /// The gateway that passed it on.
    pub(crate) fn peer(&self) -> Result<NodeId, HeadError> {
        self.peer.parse().map_err(bad)
    }

    /// The request, with its body.
    pub(crate) fn with(&self, body: Bytes) -> Result<Request<http_body_util::Full<Bytes>>, HeadError> {
        let mut request = Request::new(http_body_util::Full::new(body));
        *request.method_mut() = self.method.parse::<Method>().map_err(bad)?;
        *request.uri_mut() = self.uri.parse::<Uri>().map_err(bad)?;
        *request.headers_mut() = self.headers()?;
        *request.version_mut() = http::Version::HTTP_2;
        Ok(request)
    }

    /// `POST /path` and the headers, for people: what authenticates a caller is masked.
    pub(crate) fn shown(&self) -> (String, String, Vec<(String, String)>) {
        let headers = self.headers.iter().map(|line| {
            let value = match SECRET.contains(&line.name.as_str()) {
                true => "***".to_owned(),
                false => String::from_utf8_lossy(&line.value).into_owned(),
            };
            (line.name.clone(), value)
        });
        (self.method.clone(), self.uri.clone(), headers.collect())
    }

    fn headers(&self) -> Result<HeaderMap, HeadError> {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for line in &self.headers {
            let name = line.name.parse::<HeaderName>().map_err(bad)?;
            headers.append(name, HeaderValue::from_bytes(&line.value).map_err(bad)?);
        }
        Ok(headers)
    }
}

/// Headers whose values people are not shown.
const SECRET: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

fn bad(error: impl std::fmt::Display) -> HeadError {
    HeadError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was() {
        let request = Request::post("http://orders.beta.hawser/in?x=%20")
            .header("x-twice", "a")
            .header("x-twice", "b")
            .header("x-odd", HeaderValue::from_bytes(b"\xe4\xff").unwrap())
            .header("authorization", "Bearer geheim")
            .body(())
            .unwrap();
        let peer: NodeId = "spiffe://acme/gateway/gw1".parse().unwrap();
        let (parts, ()) = request.into_parts();
        let head = Head::read(&Head::of(RequestId([7; 16]), &peer, &parts).bytes()).unwrap();
        assert_eq!(head.peer().unwrap(), peer);
        let back = head.with(Bytes::from_static(b"x")).unwrap();
        assert_eq!((back.method(), back.uri()), (&parts.method, &parts.uri));
        assert_eq!(back.headers(), &parts.headers);
        let (method, uri, headers) = head.shown();
        assert_eq!(
            (method.as_str(), uri.as_str()),
            ("POST", "http://orders.beta.hawser/in?x=%20")
        );
        assert!(!format!("{headers:?}").contains("geheim"));
    }

    #[test]
    fn what_is_no_head_is_told() {
        assert!(Head::read(b"").is_err() && Head::read(&[0xff; 40]).is_err());
    }
}
