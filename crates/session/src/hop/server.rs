//! The hub's side of the hop: accepts a connection, learns who it is and what it wants, and hands it on.

use std::{future::Future, sync::Arc};

use hawser_identity::{Proved, SharedTrust, tls};
use hawser_proto::{
    ALPN_DEVICE, ALPN_HOP, ALPN_JOIN, DomainName, Fault, HostName,
    broker::mailbox::{FromMailbox, ToMailbox},
    control::{ToGateway, ToHub},
    frame::MAX_FRAME_UNPROVED,
    hop::{FromHub, Go, Hello, JoinHello, Ticket},
};
use minicbor::Encode;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use super::{ControlReceiver, ControlSender, HANDSHAKE_TIMEOUT, HopError, control::halves, leave};
use crate::{
    frame::{read_frame, write_frame},
    hello::{self, Alert, Opening},
    record::Records,
    socket,
};

const GATEWAY: &str = "gateway";
const DEVICE: &str = "device";
const VISITOR: &str = "visitor";

type Stream = TlsStream<Records<TcpStream>>;

/// What stands behind a name that clients outside ask for.
#[derive(Debug, Clone)]
pub enum Site {
    /// The hub's own mailbox, over TLS that ends here.
    Mailbox {
        /// With a certificate that everybody trusts, if there is one.
        given: Option<Arc<ServerConfig>>,
        /// With the hub's own key, for devices that pin it ([`ALPN_DEVICE`]).
        pinned: Arc<ServerConfig>,
    },
    /// A gateway publishes it: TLS ends there.
    Published,
}

/// The names that clients outside may ask a hub for.
pub trait Names: Send + Sync {
    /// What stands behind a name now; none if nothing does.
    fn site(&self, name: &HostName) -> Option<Site>;
}

/// No names: nobody but gateways and joiners is let in.
impl Names for () {
    fn site(&self, _: &HostName) -> Option<Site> {
        None
    }
}

/// Accepts everybody on one port: gateways, joiners, devices, and visitors of published names.
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
    /// The connection of a gateway with the mailbox.
    Mailbox {
        /// Who it is.
        proved: Proved,
        /// Version of its messages.
        version: u16,
        /// Its software, as it says.
        software: String,
        /// To it.
        sender: ControlSender<FromMailbox>,
        /// From it.
        receiver: ControlReceiver<ToMailbox>,
    },
    /// A device, or anybody else, that asks for the mailbox. It has proved nothing yet.
    Device(Device),
    /// Somebody that asks for a published name.
    Visitor(Visitor),
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

    /// The ClientHello, TLS and the first message, as far as they are the hub's, within [`HANDSHAKE_TIMEOUT`]. Who asks for a
    /// name that `names` does not know gets the alert for that. Never await this in an accept loop. Cancel safe.
    pub async fn accept(&self, tcp: TcpStream, names: &dyn Names) -> Result<Arrival, HopError> {
        timeout(HANDSHAKE_TIMEOUT, self.arrival(tcp, names))
            .await
            .map_err(|_| HopError::timeout(GATEWAY, HANDSHAKE_TIMEOUT))?
    }

    async fn arrival(&self, tcp: TcpStream, names: &dyn Names) -> Result<Arrival, HopError> {
        let tls = |with| move |source| HopError::Tls { with, source };
        socket::tune(&tcp).map_err(|source| HopError::Io {
            with: GATEWAY,
            source,
        })?;
        let opening = Opening::read(tcp).await.map_err(tls(GATEWAY))?;
        if opening.offers(ALPN_HOP) {
            let stream = opening.accept_to_leave(self.hop.clone()).await;
            return self.hop(stream.map_err(tls(GATEWAY))?).await;
        }
        if opening.offers(ALPN_JOIN) {
            let stream = opening.accept_to_leave(self.join.clone()).await;
            return self.join(stream.map_err(tls(GATEWAY))?).await;
        }
        let Some(name) = opening.name() else {
            return refuse(
                opening,
                Alert::NoProtocol,
                HopError::Protocol {
                    with: VISITOR,
                    what: "it offers no protocol of ours (ALPN), and asks for no name (SNI)",
                },
            )
            .await;
        };
        let (config, pinned) = match names.site(&name) {
            None => return refuse(opening, Alert::UnknownName, HopError::UnknownName(name)).await,
            Some(Site::Published) => {
                let (stream, hello) = opening.untouched().map_err(tls(VISITOR))?;
                return Ok(Arrival::Visitor(Visitor { name, stream, hello }));
            }
            Some(Site::Mailbox { pinned, .. }) if opening.offers(ALPN_DEVICE) => (pinned, true),
            Some(Site::Mailbox {
                given: Some(given), ..
            }) => (given, false),
            Some(Site::Mailbox { given: None, .. }) => {
                return refuse(
                    opening,
                    Alert::NoProtocol,
                    HopError::Protocol {
                        with: DEVICE,
                        what: "it does not pin the hub's key, and the mailbox has no other certificate",
                    },
                )
                .await;
            }
        };
        let stream = opening.accept(config).await.map_err(tls(DEVICE))?;
        Ok(Arrival::Device(Device {
            stream: Box::new(stream),
            pinned,
        }))
    }

    async fn hop(&self, mut stream: Stream) -> Result<Arrival, HopError> {
        let proved = tls::proved(&self.trust.load(), stream.get_ref().1.peer_certificates())
            .map_err(HopError::identity(GATEWAY))?;
        let hello = read_frame(&mut stream, MAX_FRAME_UNPROVED).await;
        match hello.map_err(|e| HopError::frame(GATEWAY, e))? {
            Hello::Control { version, software } => {
                let (sender, receiver) = halves(stream, GATEWAY);
                Ok(Arrival::Control {
                    proved,
                    version,
                    software: printable(&software),
                    sender,
                    receiver,
                })
            }
            Hello::Mailbox { version, software } => {
                let (sender, receiver) = halves(stream, GATEWAY);
                Ok(Arrival::Mailbox {
                    proved,
                    version,
                    software: printable(&software),
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

/// What a gateway calls itself, fit for a log.
fn printable(software: &str) -> String {
    software.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Tells a client why it is not let in, as far as TLS has words for it.
async fn refuse(opening: Opening<TcpStream>, alert: Alert, error: HopError) -> Result<Arrival, HopError> {
    // It may have gone already; why it was refused counts more.
    let _ = opening.refuse(alert).await;
    Err(error)
}

/// TLS with a device, whose reads are those of the socket.
pub type DeviceStream = TlsStream<Records<TcpStream>>;

/// A connection to the mailbox, TLS done. What follows is HTTP/1.1.
pub struct Device {
    /// The connection.
    pub stream: Box<DeviceStream>,
    /// Whether the client pins the hub's key, rather than trusting a public certificate.
    pub pinned: bool,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device(pinned: {})", self.pinned)
    }
}

/// A client that asks for a published name. Its TLS ends at the gateway that publishes it.
pub struct Visitor {
    /// The name.
    pub name: HostName,
    /// All that came from the client so far: its ClientHello.
    pub hello: Vec<u8>,
    /// The connection.
    pub stream: TcpStream,
}

impl std::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Visitor({})", self.name)
    }
}

impl Visitor {
    /// Refuses it and closes, within [`HANDSHAKE_TIMEOUT`].
    pub async fn refuse(mut self, alert: Alert) -> Result<(), HopError> {
        within(async {
            hello::refuse(&mut self.stream, alert)
                .await
                .map_err(|source| HopError::Io {
                    with: VISITOR,
                    source,
                })
        })
        .await
    }

    /// Completes when the client has died. (That it says more before it is answered is its right.) Cancel safe.
    pub async fn closed(&self) {
        socket::died(&self.stream).await;
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
