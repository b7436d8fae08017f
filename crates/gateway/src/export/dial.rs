//! Connections to origins: TCP with a time-out, TLS where the URL says so.

use std::{
    future::Future,
    io,
    net::IpAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hawser_proto::{Fault, Place};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::config::OriginUrl;

/// Why there is no connection to an origin.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The system says no: refused, unreachable, no such host.
    #[error("{to}: {source}")]
    Connect {
        /// Host and port.
        to: String,
        /// What the system says.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{to}: no connection within {wait:?}")]
    Timeout {
        /// Host and port.
        to: String,
        /// How long was waited.
        wait: Duration,
    },
    /// TLS failed.
    #[error("{to}: TLS: {source}")]
    Tls {
        /// Host and port.
        to: String,
        /// What TLS says.
        source: io::Error,
    },
}

impl DialError {
    /// The same error once more, out of somebody else's hands.
    pub(super) fn again(&self) -> Self {
        let copy = |e: &io::Error| io::Error::new(e.kind(), e.to_string());
        match self {
            DialError::Connect { to, source } => DialError::Connect {
                to: to.clone(),
                source: copy(source),
            },
            DialError::Timeout { to, wait } => DialError::Timeout {
                to: to.clone(),
                wait: *wait,
            },
            DialError::Tls { to, source } => DialError::Tls {
                to: to.clone(),
                source: copy(source),
            },
        }
    }

    /// The fault that callers see: without the origin's address, which is nobody's business outside.
    pub fn fault(&self) -> Fault {
        let (status, code, detail, advice) = match self {
            DialError::Connect { source, .. } => (
                503,
                "origin-unreachable",
                format!("the gateway could not connect to the service: {}", source.kind()),
                "start the service, or correct its address in the [[gateway.export]] of its gateway",
            ),
            DialError::Timeout { wait, .. } => (
                504,
                "origin-connect-timeout",
                format!("the service took no connection within {wait:?}"),
                "is a firewall between the service and its gateway? Else raise connect_timeout of the export",
            ),
            DialError::Tls { source, .. } => (
                502,
                "origin-tls",
                format!("TLS between the gateway and the service failed: {source}"),
                "check the service's certificate; name its authority by `ca` in the [[gateway.export]]",
            ),
        };
        Fault::new(Place::Origin, status, code, detail, advice)
    }
}

/// Connects to `host:port` within `wait`. Cancel safe.
pub async fn dial(host: &str, port: u16, wait: Duration) -> Result<TcpStream, DialError> {
    let to = || format!("{host}:{port}");
    let failed = |source| DialError::Connect { to: to(), source };
    let tcp = timeout(wait, TcpStream::connect((host, port)))
        .await
        .map_err(|_| DialError::Timeout { to: to(), wait })?
        .map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    Ok(tcp)
}

/// Makes connections to one web origin. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    url: OriginUrl,
    /// Where the URL's host is, if it is not to be looked up.
    at: Option<IpAddr>,
    wait: Duration,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Why a web origin cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The file cannot be read.
    #[error("{path}: {reason}; expected a PEM file with certificates")]
    Ca {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The system has no certificate authorities.
    #[error(
        "this system has no certificate authorities ({0}): install ca-certificates, or name a file by `ca`"
    )]
    NoRoots(String),
    /// The host is no name that TLS could check.
    #[error("{0:?} is neither a host name nor an address that a certificate could name")]
    Name(String),
    /// rustls refuses.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Connector {
    /// Connections to `url`, in TLS offering `alpn`; to its host at the address `at`, or wherever its name leads.
    pub fn new(
        url: &OriginUrl,
        at: Option<IpAddr>,
        wait: Duration,
        ca: Option<&Path>,
        alpn: &[u8],
    ) -> Result<Self, ConnectorError> {
        let tls = if url.tls {
            let name = ServerName::try_from(url.host().to_owned())
                .map_err(|_| ConnectorError::Name(url.host().to_owned()))?;
            Some((Arc::new(tls_config(ca, alpn)?), name))
        } else {
            None
        };
        Ok(Self {
            url: url.clone(),
            at,
            wait,
            tls,
        })
    }

    /// One connection, TLS and all, within the time-out. Cancel safe.
    pub async fn connect(&self) -> Result<OriginStream, DialError> {
        let tcp = match self.at {
            Some(at) => dial(&at.to_string(), self.url.port(), self.wait).await?,
            None => dial(self.url.host(), self.url.port(), self.wait).await?,
        };
        let Some((config, name)) = &self.tls else {
            return Ok(OriginStream::Plain(tcp));
        };
        let to = || self.url.to_string();
        let tls = timeout(
            self.wait,
            TlsConnector::from(config.clone()).connect(name.clone(), tcp),
        )
        .await
        .map_err(|_| DialError::Timeout {
            to: to(),
            wait: self.wait,
        })?
        .map_err(|source| DialError::Tls { to: to(), source })?;
        Ok(OriginStream::Tls(Box::new(tls)))
    }
}

/// TLS as a client of whom a file's authorities vouch for, or those of the system.
pub(crate) fn tls_config(ca: Option<&Path>, alpn: &[u8]) -> Result<ClientConfig, ConnectorError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let wrong = |reason: String| ConnectorError::Ca {
                path: path.display().to_string(),
                reason,
            };
            for cert in CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))? {
                roots
                    .add(cert.map_err(|e| wrong(e.to_string()))?)
                    .map_err(|e| wrong(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it holds no certificate".into()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found
                    .errors
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ");
                return Err(ConnectorError::NoRoots(why));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// A connection to an origin.
pub enum OriginStream {
    /// Clear text.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! either {
    ($self:ident, $s:ident => $call:expr) => {
        match $self.get_mut() {
            OriginStream::Plain($s) => {
                let $s = Pin::new($s);
                $call
            }
            OriginStream::Tls($s) => {
                let $s = Pin::new($s);
                $call
            }
        }
    };
}

impl AsyncRead for OriginStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for OriginStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, s => s.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            OriginStream::Plain(s) => s.is_write_vectored(),
            OriginStream::Tls(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_shutdown(cx))
    }
}

/// An [`OriginStream`] as hyper's pool wants it.
pub struct Pooled(TokioIo<OriginStream>);

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Pooled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Pooled;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Pooled, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(Pooled(TokioIo::new(connector.connect().await?))) })
    }
}
