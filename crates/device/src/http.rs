//! HTTP/1.1 to one server over pinned TLS, one request at a time on one connection, everything bounded.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;

use crate::DeviceError;

/// Longest wait for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(15);
/// Longest wait for an answer's head, and for its body.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest problem document that is read, in bytes.
const MAX_PROBLEM: usize = 16 * 1024;

/// A server.
pub(crate) struct Server {
    origin: String,
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    open: Option<Connection>,
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer that was a success.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
}

/// A body that comes as it pleases; its connection ends with it.
pub(crate) struct Streaming {
    body: Incoming,
    _connection: Connection,
    to: String,
}

/// What to send.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(serde::Deserialize, Default)]
struct Problem {
    reason: Option<String>,
    detail: Option<String>,
    title: Option<String>,
}

/// Host and port of `https://NAME[:PORT]`, with or without a slash behind.
pub(crate) fn address(origin: &str) -> Option<(String, u16)> {
    let authority = origin.strip_prefix("https://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) => {
            (host, port.parse().ok()?)
        }
        _ => (authority, 443),
    };
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (!host.is_empty() && host.bytes().all(name)).then(|| (host.to_ascii_lowercase(), port))
}

impl Server {
    /// A server at `https://NAME[:PORT]`.
    pub(crate) fn new(origin: &str, tls: Arc<ClientConfig>) -> Result<Self, DeviceError> {
        let (host, port) = address(origin).ok_or_else(|| DeviceError::Protocol {
            to: origin.into(),
            detail: "expected an address https://NAME[:PORT]".into(),
        })?;
        let origin = match port {
            443 => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        };
        Ok(Self {
            origin,
            host,
            port,
            tls,
            open: None,
        })
    }

    /// `https://NAME[:PORT]`.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Sends and reads all of the answer, at most `limit` bytes. Hands every answer's `Date` to `date`. A connection that the server
    /// closed meanwhile is made anew.
    pub(crate) async fn call(
        &mut self,
        call: Call<'_>,
        limit: usize,
        date: impl FnOnce(&str),
    ) -> Result<Answer, DeviceError> {
        let request = self.request(call)?;
        let mut connection = match self.open.take() {
            Some(mut open) => match timeout(ANSWER, open.sender.ready()).await {
                Ok(Ok(())) => open,
                _ => self.connect().await?,
            },
            None => self.connect().await?,
        };
        let response = self.send(&mut connection, request).await?;
        let response = self.checked(response, date).await?;
        let body = self.collect(response.into_body(), limit).await?;
        self.open = Some(connection);
        Ok(Answer { body })
    }

    /// Sends on a connection of its own, and gives the body as it comes.
    pub(crate) async fn stream(
        &self,
        call: Call<'_>,
        date: impl FnOnce(&str),
    ) -> Result<Streaming, DeviceError> {
        let request = self.request(call)?;
        let mut connection = self.connect().await?;
        let response = self.send(&mut connection, request).await?;
        let response = self.checked(response, date).await?;
        Ok(Streaming {
            body: response.into_body(),
            _connection: connection,
            to: self.origin.clone(),
        })
    }

    fn request(&self, call: Call<'_>) -> Result<Request<Full<Bytes>>, DeviceError> {
        let authority = self.origin.trim_start_matches("https://");
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("hawser/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(call.body))
            .map_err(|e| self.protocol(e.to_string()))?;
        request.headers_mut().extend(call.headers);
        Ok(request)
    }

    async fn connect(&self) -> Result<Connection, DeviceError> {
        let failed = |detail: String| DeviceError::Connect {
            to: self.origin.clone(),
            detail,
        };
        let name = ServerName::try_from(self.host.clone()).map_err(|e| failed(e.to_string()))?;
        let connecting = async {
            let tcp = TcpStream::connect((found_at(&self.host), self.port))
                .await
                .map_err(|e| failed(e.to_string()))?;
            // Acknowledgements are small, and wait for nothing.
            let _ = tcp.set_nodelay(true);
            let tls = TlsConnector::from(self.tls.clone())
                .connect(name, tcp)
                .await
                .map_err(|e| failed(hawser_identity::tls::explain(&e)))?;
            hawser_identity::tls::check_protocol(tls.get_ref().1, hawser_proto::ALPN_DEVICE)
                .map_err(|e| failed(e.to_string()))?;
            let (sender, connection) = http1::handshake(TokioIo::new(tls))
                .await
                .map_err(|e| failed(e.to_string()))?;
            let task = tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::debug!(error = %e, "a connection ended");
                }
            });
            Ok(Connection { sender, task })
        };
        match timeout(CONNECT, connecting).await {
            Ok(result) => result,
            Err(_) => Err(failed(format!("no connection within {} s", CONNECT.as_secs()))),
        }
    }

    async fn send(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, DeviceError> {
        let failed = |detail: String| DeviceError::Connect {
            to: self.origin.clone(),
            detail,
        };
        match timeout(ANSWER, connection.sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(failed(e.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", ANSWER.as_secs()))),
        }
    }

    /// A success, or the problem that the server tells.
    async fn checked(
        &self,
        response: Response<Incoming>,
        date: impl FnOnce(&str),
    ) -> Result<Response<Incoming>, DeviceError> {
        if let Some(at) = response.headers().get(header::DATE).and_then(|d| d.to_str().ok()) {
            date(at);
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem = match self.collect(response.into_body(), MAX_PROBLEM).await {
            Ok(body) => serde_json::from_slice::<Problem>(&body).unwrap_or_default(),
            Err(_) => Problem::default(),
        };
        let detail = problem.detail.or(problem.title);
        Err(self.refused(status, problem.reason, detail))
    }

    fn refused(&self, status: StatusCode, reason: Option<String>, detail: Option<String>) -> DeviceError {
        if reason.as_deref() == Some("revoked") {
            return DeviceError::Revoked;
        }
        let line = |text: String| -> String {
            let visible = |c: char| if c.is_control() { ' ' } else { c };
            text.chars().take(512).map(visible).collect()
        };
        DeviceError::Refused {
            to: self.origin.clone(),
            status: status.as_u16(),
            reason: reason.map(line),
            detail: line(
                detail.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").into()),
            ),
        }
    }

    async fn collect(&self, body: Incoming, limit: usize) -> Result<Bytes, DeviceError> {
        match timeout(ANSWER, Limited::new(body, limit).collect()).await {
            Ok(Ok(all)) => Ok(all.to_bytes()),
            Ok(Err(e)) => Err(self.protocol(format!("{e}; at most {limit} bytes are read"))),
            Err(_) => Err(self.protocol(format!("its answer did not end within {} s", ANSWER.as_secs()))),
        }
    }

    fn protocol(&self, detail: String) -> DeviceError {
        DeviceError::Protocol {
            to: self.origin.clone(),
            detail,
        }
    }

    /// Reads an answer's JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, DeviceError> {
        serde_json::from_slice(&answer.body).map_err(|e| self.protocol(e.to_string()))
    }
}

impl Streaming {
    /// The next bytes; `None` when the server ended it. Waits at most `longest`. Cancel safe.
    pub(crate) async fn next(&mut self, longest: Duration) -> Result<Option<Bytes>, DeviceError> {
        let failed = |detail: String| DeviceError::Connect {
            to: self.to.clone(),
            detail,
        };
        loop {
            match timeout(longest, self.body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Ok(Some(Err(e))) => return Err(failed(e.to_string())),
                Ok(None) => return Ok(None),
                Err(_) => return Err(failed(format!("nothing came for {} s", longest.as_secs()))),
            }
        }
    }
}

/// Where to look for a host: names below `localhost` are this machine, whatever its resolver knows of them (RFC 6761, 6.3).
fn found_at(host: &str) -> &str {
    match host.ends_with(".localhost") {
        true => "localhost",
        false => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_names_with_or_without_a_port() {
        assert_eq!(
            address("https://Mail.example.org"),
            Some(("mail.example.org".into(), 443))
        );
        assert_eq!(
            address("https://localhost:8443/"),
            Some(("localhost".into(), 8443))
        );
        for none in [
            "",
            "http://a",
            "https://",
            "https://a b",
            "https://u@a",
            "https://a:99999",
            "https://a/b",
            "https://a?b",
        ] {
            assert_eq!(address(none), None, "{none}");
        }
    }
}
