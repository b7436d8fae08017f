//! The hub's side of the hop: accepts a connection, learns who it is and what it wants, and hands it on.

use std::{future::Future, sync::Arc};

use hawser_identity::{Proved, SharedTrust, tls};
use hawser_proto::{
    ALPN_HOP, ALPN_JOIN, DomainName, Fault,
    control::{ToGateway, ToHub},
    frame::MAX_FRAME_UNPROVED,
    hop::{FromHub, Go, Hello, JoinHello, Ticket},
};
use minicbor::Encode;
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{ControlReceiver, ControlSender, HANDSHAKE_TIMEOUT, HopError, control::halves, leave};
use crate::{
    frame::{read_frame, write_frame},
    record::Records,
    socket,
};

const GATEWAY: &str = "gateway";

type Stream = TlsStream<Records<TcpStream>>;

/// Accepts hop and join connections on one port.
#[derive(Clone)]
pub struct HopServer {
    hop: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    trust: SharedTrust,
}

/// An accepted connection, and what it is for.
#[derive(Debug)]
pub enum Arrival {
    /// The control connection of a gateway.
    Control {
        /// Who it is.
        proved: Proved,
        /// Version of its messages.
        version: u16,
        /// Its software, as it says.
        software: String,
        /// To it.
        sender: ControlSender<ToGateway>,
        /// From it.
        receiver: ControlReceiver<ToHub>,
    },
    /// One side of a data session.
    Session {
        /// Who it is.
        proved: Proved,
        /// The ticket it shows.
        ticket: Ticket,
        /// The connection, still under TLS.
        half: Half,
    },
    /// A domain that asks to be admitted.
    Admit {
        /// Always [`JoinHello::Admit`].
        hello: JoinHello,
        /// Where to answer.
        reply: JoinReply,
    },
    /// A joiner that asks for an issuer of its domain.
    Pair {
        /// Of which domain.
        domain: DomainName,
        /// The hub half of its token.
        secret: [u8; 32],
        /// The connection, still under TLS; the joiner is the dialling side.
        half: Half,
    },
}

impl HopServer {
    /// With the configurations of [`tls::hub_hop`] and [`tls::hub_join`].
    pub fn new(hop: Arc<ServerConfig>, join: Arc<ServerConfig>, trust: SharedTrust) -> Self {
        Self { hop, join, trust }
    }

    /// TLS and the first message, within [`HANDSHAKE_TIMEOUT`]. Never await this in an accept loop. Cancel safe.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Arrival, HopError> {
        timeout(HANDSHAKE_TIMEOUT, self.arrival(tcp))
            .await
            .map_err(|_| HopError::timeout(GATEWAY, HANDSHAKE_TIMEOUT))?
    }

    async fn arrival(&self, tcp: TcpStream) -> Result<Arrival, HopError> {
        let tls = |source| HopError::Tls {
            with: GATEWAY,
            source,
        };
        socket::tune(&tcp).map_err(|source| HopError::Io {
            with: GATEWAY,
            source,
        })?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), Records::new(tcp))
            .await
            .map_err(tls)?;
        let offers = |alpn: &[u8]| {
            start
                .client_hello()
                .alpn()
                .is_some_and(|mut offered| offered.any(|protocol| protocol == alpn))
        };
        if offers(ALPN_HOP) {
            self.hop(start.into_stream(self.hop.clone()).await.map_err(tls)?)
                .await
        } else if offers(ALPN_JOIN) {
            self.join(start.into_stream(self.join.clone()).await.map_err(tls)?)
                .await
        } else {
            Err(HopError::Protocol {
                with: GATEWAY,
                what: "it offers no protocol of ours (ALPN)",
            })
        }
    }

    async fn hop(&self, mut stream: Stream) -> Result<Arrival, HopError> {
        let proved = tls::proved(&self.trust.load(), stream.get_ref().1.peer_certificates())
            .map_err(HopError::identity(GATEWAY))?;
        let hello = read_frame(&mut stream, MAX_FRAME_UNPROVED).await;
        match hello.map_err(|e| HopError::frame(GATEWAY, e))? {
            Hello::Control { version, software } => {
                let (sender, receiver) = halves(stream, GATEWAY);
                let software = software.chars().filter(|c| !c.is_control()).take(80).collect();
                Ok(Arrival::Control {
                    proved,
                    version,
                    software,
                    sender,
                    receiver,
                })
            }
            Hello::Session { ticket } => Ok(Arrival::Session {
                proved,
                ticket,
                half: Half {
                    stream: Box::new(stream),
                },
            }),
        }
    }

    async fn join(&self, mut stream: Stream) -> Result<Arrival, HopError> {
        let hello = read_frame(&mut stream, MAX_FRAME_UNPROVED).await;
        match hello.map_err(|e| HopError::frame(GATEWAY, e))? {
            hello @ JoinHello::Admit { .. } => Ok(Arrival::Admit {
                hello,
                reply: JoinReply {
                    stream: Box::new(stream),
                },
            }),
            JoinHello::Pair { domain, secret } => Ok(Arrival::Pair {
                domain,
                secret,
                half: Half {
                    stream: Box::new(stream),
                },
            }),
        }
    }
}

/// Where a join request is answered.
pub struct JoinReply {
    stream: Box<Stream>,
}

impl std::fmt::Debug for JoinReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinReply")
    }
}

impl JoinReply {
    /// Grants the request.
    pub async fn ready(self) -> Result<(), HopError> {
        last_word(*self.stream, &FromHub::Ready).await
    }

    /// Refuses it.
    pub async fn refuse(self, fault: Fault) -> Result<(), HopError> {
        last_word(*self.stream, &FromHub::Refused(fault)).await
    }
}

/// Says one thing and closes.
async fn last_word(mut stream: Stream, word: &FromHub) -> Result<(), HopError> {
    send(&mut stream, word).await?;
    let close = async {
        stream.shutdown().await.map_err(|source| HopError::Io {
            with: GATEWAY,
            source,
        })
    };
    within(close).await
}

async fn send<T: Encode<()>>(stream: &mut Stream, message: &T) -> Result<(), HopError> {
    within(async {
        write_frame(stream, message)
            .await
            .map_err(|e| HopError::frame(GATEWAY, e))
    })
    .await
}

async fn within<T>(work: impl Future<Output = Result<T, HopError>>) -> Result<T, HopError> {
    timeout(HANDSHAKE_TIMEOUT, work)
        .await
        .map_err(|_| HopError::timeout(GATEWAY, HANDSHAKE_TIMEOUT))?
}

/// One side of a future pair: a data connection still under hop TLS.
pub struct Half {
    stream: Box<Stream>,
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Half")
    }
}

impl Half {
    /// For the accepting side: says READY, waits for GO, and leaves TLS.
    pub async fn ready_go(mut self) -> Result<TcpStream, HopError> {
        send(&mut self.stream, &FromHub::Ready).await?;
        let Go = within(async {
            read_frame(&mut self.stream, MAX_FRAME_UNPROVED)
                .await
                .map_err(|e| HopError::frame(GATEWAY, e))
        })
        .await?;
        self.raw()
    }

    /// For the dialling side: says READY and leaves TLS.
    pub async fn ready(mut self) -> Result<TcpStream, HopError> {
        send(&mut self.stream, &FromHub::Ready).await?;
        self.raw()
    }

    /// Refuses it and closes.
    pub async fn refuse(self, fault: Fault) -> Result<(), HopError> {
        last_word(*self.stream, &FromHub::Refused(fault)).await
    }

    /// Completes when this side has gone away, or has spoken out of turn. Cancel safe.
    pub async fn closed(&mut self) {
        // Nothing may come before READY was said, so anything that comes, an end or an error is the end of it.
        let _ = self.stream.read_u8().await;
    }

    fn raw(self) -> Result<TcpStream, HopError> {
        let (records, mut connection) = self.stream.into_inner();
        leave(GATEWAY, records, &mut connection)
    }
}
