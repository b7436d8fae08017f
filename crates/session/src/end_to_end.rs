//! End-to-end sessions: two gateways' own mutual TLS 1.3 through the raw bytes that a hub relays.
//!
//! The dialling gateway names the peer it expects and refuses any other; the accepting gateway takes any gateway that its
//! trust vouches for and leaves the rest to policy. A joiner has no certificate yet: [`enrol_connect`] checks the issuer's
//! root alone, and the joiner proves itself by its token inside.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hawser_identity::{Fingerprint, IdentityError, Proved, SharedCredentials, SharedTrust, tls};
use hawser_proto::{ALPN_END_TO_END, DomainName, NodeId, UnixTime};
use minicbor::{Decode, Encode};
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{
    carrier::{BoxedCarrier, Carrier},
    frame,
    notice::Noticing,
};

/// Longest wait for the end-to-end handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Read buffer in bytes: one system call brings several TLS records.
const READ_BUFFER: usize = 64 * 1024;
/// Label of the exporter value (RFC 8446, 7.5) that a joiner's proof is bound to.
const JOIN_EXPORTER: &[u8] = b"EXPORTER-hawser-join";

/// Label of the exporter value by which two gateways name a session that they have (RFC 9266).
const BINDING_EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";

type Stream = TlsStream<Wire>;

/// A value that only the two ends of one session know.
pub type Binding = [u8; 32];

/// Why an end-to-end session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A certificate was refused, by us or by the peer, or what came is no TLS of ours: a hub that meddles looks so too.
    #[error("end-to-end TLS with {peer}: {}", tls::explain(.source))]
    Tls {
        /// Whom we meant to talk to.
        peer: String,
        /// What rustls says.
        source: io::Error,
    },
    /// The peer's certificate is not that of an accepted gateway, or our own cannot be used.
    #[error("end-to-end session with {peer}: {source}")]
    Identity {
        /// Whom we meant to talk to.
        peer: String,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The peer was silent.
    #[error("{peer} did not complete the end-to-end handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout {
        /// Whom we meant to talk to.
        peer: String,
    },
    /// A frame could not be read or written.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// HTTP/2 could not be set up.
    #[error("HTTP/2 with {peer}: {source}")]
    Http {
        /// The peer.
        peer: String,
        /// What hyper says.
        source: hyper::Error,
    },
}

/// A session with a gateway that TLS has proved.
pub struct EndToEnd {
    /// Who it is.
    pub peer: NodeId,
    /// When its certificate ends.
    pub peer_not_after: UnixTime,
    /// All that its certificates have proved, to be asked of a later trust whether it stands.
    pub proved: Proved,
    /// The negotiated key exchange.
    pub group: Option<NamedGroup>,
    /// By which its two ends can speak of it in another session.
    pub binding: Binding,
    stream: Noticing<Stream>,
}

impl std::fmt::Debug for EndToEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EndToEnd({})", self.peer)
    }
}

/// Dials: TLS client, `expect` and nobody else at the other end. Cancel safe.
pub async fn connect(
    carrier: BoxedCarrier,
    own: SharedCredentials,
    trust: SharedTrust,
    expect: &NodeId,
) -> Result<EndToEnd, SessionError> {
    let peer = expect.to_string();
    let config = tls::end_to_end_client(own, trust.clone(), expect.clone()).map_err(identity(&peer))?;
    let stream = client(carrier, config, &peer).await?;
    EndToEnd::new(stream, &trust, &peer)
}

/// Accepts: TLS server, any gateway that `trust` vouches for. Cancel safe.
pub async fn accept(
    carrier: BoxedCarrier,
    own: SharedCredentials,
    trust: SharedTrust,
) -> Result<EndToEnd, SessionError> {
    let peer = "the dialling gateway";
    let config = tls::end_to_end_server(own, trust.clone()).map_err(identity(peer))?;
    let stream = server(carrier, config, peer).await?;
    EndToEnd::new(stream, &trust, peer)
}

async fn client(
    carrier: BoxedCarrier,
    config: Arc<ClientConfig>,
    peer: &str,
) -> Result<Stream, SessionError> {
    let connecting = TlsConnector::from(config).connect(tls::server_name(), buffered(carrier));
    handshake(peer, async { connecting.await.map(TlsStream::Client) }).await
}

async fn server(
    carrier: BoxedCarrier,
    config: Arc<ServerConfig>,
    peer: &str,
) -> Result<Stream, SessionError> {
    let accepting = TlsAcceptor::from(config).accept(buffered(carrier));
    handshake(peer, async { accepting.await.map(TlsStream::Server) }).await
}

async fn handshake(
    peer: &str,
    work: impl Future<Output = io::Result<Stream>>,
) -> Result<Stream, SessionError> {
    timeout(HANDSHAKE_TIMEOUT, work)
        .await
        .map_err(|_| SessionError::Timeout { peer: peer.into() })?
        .map_err(|source| SessionError::Tls {
            peer: peer.into(),
            source,
        })
}

fn identity(peer: &str) -> impl Fn(IdentityError) -> SessionError {
    let peer = peer.to_owned();
    move |source| SessionError::Identity {
        peer: peer.clone(),
        source,
    }
}

/// An exporter value (RFC 8446, 7.5): the same at both ends, and known to nobody else.
fn exported(stream: &Stream, label: &[u8], peer: &str) -> Result<Binding, SessionError> {
    let value = match stream {
        TlsStream::Client(s) => s.get_ref().1.export_keying_material([0; 32], label, None),
        TlsStream::Server(s) => s.get_ref().1.export_keying_material([0; 32], label, None),
    };
    value.map_err(|e| SessionError::Tls {
        peer: peer.into(),
        source: io::Error::other(e),
    })
}

fn buffered(carrier: BoxedCarrier) -> Wire {
    Wire(BufReader::with_capacity(READ_BUFFER, carrier))
}

/// The carrier under the end-to-end TLS. The end of one direction is said by TLS (close_notify) and by nothing else: the
/// carrier stays whole until it is dropped, because proxies on the way take a TCP half-close for the end of everything.
pub(crate) struct Wire(BufReader<BoxedCarrier>);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, out)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl EndToEnd {
    fn new(stream: Stream, trust: &SharedTrust, peer: &str) -> Result<Self, SessionError> {
        let tls = stream.get_ref().1;
        tls::check_protocol(tls, ALPN_END_TO_END).map_err(identity(peer))?;
        let proved = tls::proved(&trust.load(), tls.peer_certificates()).map_err(identity(peer))?;
        let group = tls.negotiated_key_exchange_group().map(|g| g.name());
        let binding = exported(&stream, BINDING_EXPORTER, peer)?;
        Ok(Self {
            peer: proved.id.clone(),
            peer_not_after: proved.not_after,
            group,
            binding,
            stream: Noticing::new(stream, proved.id.clone()),
            proved,
        })
    }

    /// Reads one frame of at most `limit` bytes. Not cancel safe.
    pub async fn read_frame<T: for<'b> Decode<'b, ()>>(&mut self, limit: usize) -> Result<T, SessionError> {
        Ok(frame::read_frame(&mut self.stream, limit).await?)
    }

    /// Writes one frame and flushes it. Not cancel safe.
    pub async fn write_frame<T: Encode<()>>(&mut self, message: &T) -> Result<(), SessionError> {
        Ok(frame::write_frame(&mut self.stream, message).await?)
    }

    /// Sends raw bytes that a local side had sent before the [`crate::tcp`] bridge stood. Not cancel safe.
    pub async fn send_early(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Completes when anything comes, or the session ends: of a session that should be silent, that it is of no use.
    /// Cancel safe, but nothing can be read afterwards once it has completed.
    pub async fn stirred(&mut self) {
        use tokio::io::AsyncReadExt;
        let _ = self.stream.read_u8().await;
    }

    /// Says goodbye (close_notify) and closes.
    pub async fn close(mut self) {
        // A peer that is gone already needs no goodbye.
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }

    pub(crate) fn carrier(&self) -> &dyn Carrier {
        self.stream.inner().get_ref().0.0.get_ref().as_ref()
    }

    pub(crate) fn stream_mut(&mut self) -> &mut (impl AsyncRead + AsyncWrite + Send + Unpin + use<>) {
        &mut self.stream
    }

    pub(crate) fn into_stream(self) -> Noticing<Stream> {
        self.stream
    }
}

/// An enrolment session: the joiner has no certificate, the issuer has.
pub struct Enrolment {
    stream: Stream,
    exporter: [u8; 32],
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Enrolment(..)")
    }
}

/// The joiner's side: TLS client without a certificate; the issuer must be a gateway of `domain` under this `root`.
pub async fn enrol_connect(
    carrier: BoxedCarrier,
    domain: DomainName,
    root: Fingerprint,
) -> Result<Enrolment, SessionError> {
    let peer = format!("an issuer of {domain}");
    let config = tls::enrol_client(domain, root).map_err(identity(&peer))?;
    let stream = client(carrier, config, &peer).await?;
    Enrolment::new(stream, &peer)
}

/// The issuer's side.
pub async fn enrol_accept(carrier: BoxedCarrier, own: SharedCredentials) -> Result<Enrolment, SessionError> {
    let peer = "a joiner";
    let stream = server(carrier, tls::enrol_server(own).map_err(identity(peer))?, peer).await?;
    Enrolment::new(stream, peer)
}

impl Enrolment {
    fn new(stream: Stream, peer: &str) -> Result<Self, SessionError> {
        tls::check_protocol(stream.get_ref().1, tls::ALPN_ENROL).map_err(identity(peer))?;
        let exporter = exported(&stream, JOIN_EXPORTER, peer)?;
        Ok(Self { stream, exporter })
    }

    /// A value that only the two ends of this very session know.
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// Reads one frame of at most `limit` bytes. Not cancel safe.
    pub async fn read_frame<T: for<'b> Decode<'b, ()>>(&mut self, limit: usize) -> Result<T, SessionError> {
        Ok(frame::read_frame(&mut self.stream, limit).await?)
    }

    /// Writes one frame and flushes it. Not cancel safe.
    pub async fn write_frame<T: Encode<()>>(&mut self, message: &T) -> Result<(), SessionError> {
        Ok(frame::write_frame(&mut self.stream, message).await?)
    }

    /// Says goodbye (close_notify) and closes.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}
