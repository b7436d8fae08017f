//! The first words of a TLS client, read so that nothing of them is lost: whoever has seen what the client asks for may accept
//! it with one configuration or another, refuse it with an alert, or hand it on untouched, ClientHello included.

use std::{io, sync::Arc};

use hawser_proto::HostName;
use rustls::{ServerConfig, server::Acceptor};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use crate::record::Records;

/// Longest ClientHello in bytes, its records' headers included. With hybrid key shares and encrypted hellos clients send
/// some two or three thousand.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// Why a client is refused before a TLS configuration was chosen (RFC 8446, section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    /// Something failed here, or there is no room: `internal_error`.
    Internal = 80,
    /// Nothing of that name is here: `unrecognized_name`.
    UnknownName = 112,
    /// None of the protocols that the client offers is spoken here: `no_application_protocol`.
    NoProtocol = 120,
}

/// A connection whose ClientHello has been read, and nothing after it.
pub struct Opening<S>(StartHandshake<Records<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Opening<S> {
    /// Reads a ClientHello of at most [`MAX_CLIENT_HELLO`] bytes. What is none is answered by an alert and an error. To be
    /// bounded in time by the caller. Not cancel safe: what was read is lost with the stream.
    pub async fn read(stream: S) -> io::Result<Self> {
        let stream = Records::keeping(stream, MAX_CLIENT_HELLO);
        LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map(Self)
    }

    /// The name that the client asks for, if it is one that could be ours.
    pub fn name(&self) -> Option<HostName> {
        self.0.client_hello().server_name().and_then(HostName::of_hello)
    }

    /// Whether the client offers this protocol (ALPN).
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.0
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| offered.any(|o| o == protocol))
    }

    /// TLS with this configuration, beneath which the stream is read record by record, to be left later.
    pub async fn accept_to_leave(mut self, config: Arc<ServerConfig>) -> io::Result<TlsStream<Records<S>>> {
        self.0.io.stop_keeping();
        self.0.into_stream(config).await
    }

    /// TLS with this configuration, for as long as the connection lives.
    pub async fn accept(mut self, config: Arc<ServerConfig>) -> io::Result<TlsStream<Records<S>>> {
        self.0.io.stop_keeping();
        self.0.io.free()?;
        self.0.into_stream(config).await
    }

    /// The stream, and all that was read from it.
    pub fn untouched(self) -> io::Result<(S, Vec<u8>)> {
        let mut stream = self.0.io;
        let hello = stream.stop_keeping();
        Ok((stream.into_inner()?, hello))
    }

    /// Refuses the client. To be bounded in time by the caller.
    pub async fn refuse(mut self, alert: Alert) -> io::Result<()> {
        refuse(&mut self.0.io, alert).await
    }
}

impl<S> std::fmt::Debug for Opening<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opening")
    }
}

/// Sends a fatal alert in the clear, as is due before keys are agreed upon, and closes.
pub async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, alert: Alert) -> io::Result<()> {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    stream.write_all(&[ALERT, 3, 3, 0, 2, FATAL, alert as u8]).await?;
    stream.flush().await?;
    stream.shutdown().await
}
