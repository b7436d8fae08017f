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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), work).await.unwrap() })
    }

    /// A handshake message in records of this many bytes each.
    fn records(message: &[u8], each: usize) -> Vec<u8> {
        message
            .chunks(each)
            .flat_map(|piece| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat())
            .collect()
    }

    proptest! {
        #[test]
        fn any_bytes_end_as_a_hello_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            each in 1usize..600,
            framed in any::<bool>(),
        ) {
            let sent = if framed { records(&bytes, each) } else { bytes };
            run(async {
                let (mut client, server) = tokio::io::duplex(64);
                let said = sent.clone();
                let talk = async move {
                    let _ = client.write_all(&said).await;
                    let _ = client.shutdown().await;
                    let _ = client.read_to_end(&mut Vec::new()).await;
                };
                let (opening, ()) = tokio::join!(
                    async { Opening::read(server).await.and_then(Opening::untouched).map(|(_, hello)| hello) },
                    talk,
                );
                if let Ok(hello) = opening {
                    assert!(sent.starts_with(&hello));
                }
            });
        }
    }

    #[test]
    fn a_hello_that_is_too_long_is_refused_when_it_is() {
        run(async {
            let (mut client, server) = tokio::io::duplex(1024);
            let message: Vec<u8> = [1, 0, 0xff, 0xf0]
                .into_iter()
                .chain(std::iter::repeat_n(0, 0xfff0))
                .collect();
            let talk = async move {
                let _ = client.write_all(&records(&message, 1000)).await;
            };
            let (opening, ()) = tokio::join!(Opening::read(server), talk);
            let error = opening.unwrap_err().to_string();
            assert!(error.contains("over 16384 bytes"), "{error}");
        });
    }
}
