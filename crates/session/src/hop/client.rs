//! The gateway's side of the hop: dials the hub, proves itself, and holds control or data connections.

use std::sync::Arc;

use hawser_identity::{Fingerprint, HubAddress, HubToken, IdentityError, SharedCredentials, tls};
use hawser_proto::{
    ALPN_HOP, ALPN_JOIN, DomainName, VERSION,
    broker::mailbox::{FromMailbox, ToMailbox},
    control::{ToGateway, ToHub},
    frame::MAX_FRAME_UNPROVED,
    hop::{FromHub, Go, Hello, JoinHello, Ticket},
};
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ControlReceiver, ControlSender, HANDSHAKE_TIMEOUT, HopError, PAIRING_TIMEOUT, control::halves, leave,
};
use crate::{
    carrier::{BoxedCarrier, Ways},
    frame::{read_frame, write_frame},
    record::Records,
};

const HUB: &str = "hub";

/// Which side of a data session this gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Asked for the session; TLS client of what follows.
    Dialling,
    /// Was told of it; TLS server of what follows.
    Accepting,
}

/// How to reach one hub, as whom.
#[derive(Clone)]
pub struct HopClient {
    ways: Arc<Ways>,
    hub: HubAddress,
    config: Arc<ClientConfig>,
}

impl HopClient {
    /// A client that pins the hub's key and shows whatever certificate `own` holds at the moment of a handshake.
    pub fn new(
        ways: Arc<Ways>,
        hub: HubAddress,
        pin: Fingerprint,
        own: SharedCredentials,
    ) -> Result<Self, IdentityError> {
        Ok(Self {
            ways,
            hub,
            config: tls::hop_client(own, pin)?,
        })
    }

    /// The hub's address.
    pub fn hub(&self) -> &HubAddress {
        &self.hub
    }

    /// Opens the control connection: the hello is sent, the hub's welcome is the first message to receive.
    /// Cancel safe: a cancelled call leaves nothing behind.
    pub async fn control(
        &self,
        software: &str,
    ) -> Result<(ControlSender<ToHub>, ControlReceiver<ToGateway>), HopError> {
        let hello = Hello::Control {
            version: VERSION,
            software: software.into(),
        };
        let stream = self.open(&hello).await?;
        Ok(halves(stream, HUB))
    }

    /// Opens a connection with the hub's mailbox: the hello is sent, the mailbox's welcome is the first message to receive.
    /// Cancel safe: a cancelled call leaves nothing behind.
    pub async fn mailbox(
        &self,
        software: &str,
    ) -> Result<(ControlSender<ToMailbox>, ControlReceiver<FromMailbox>), HopError> {
        let hello = Hello::Mailbox {
            version: VERSION,
            software: software.into(),
        };
        let stream = self.open(&hello).await?;
        Ok(halves(stream, HUB))
    }

    /// Shows a ticket, waits for the other side, and returns the raw stream to it. Cancel safe.
    pub async fn session(&self, ticket: Ticket, side: Side) -> Result<BoxedCarrier, HopError> {
        let stream = self.open(&Hello::Session { ticket }).await?;
        timeout(PAIRING_TIMEOUT, paired(stream, side))
            .await
            .map_err(|_| HopError::timeout(HUB, PAIRING_TIMEOUT))?
    }

    async fn open(&self, hello: &Hello) -> Result<TlsStream<Records<BoxedCarrier>>, HopError> {
        let carrier = self.ways.dial(&self.hub).await?;
        handshake(carrier, self.config.clone(), ALPN_HOP, hello).await
    }
}

/// TLS with the hub on a fresh carrier, and the first message.
async fn handshake<T: minicbor::Encode<()>>(
    carrier: BoxedCarrier,
    config: Arc<ClientConfig>,
    protocol: &[u8],
    hello: &T,
) -> Result<TlsStream<Records<BoxedCarrier>>, HopError> {
    let work = async {
        let mut stream = TlsConnector::from(config)
            .connect(tls::server_name(), Records::new(carrier))
            .await
            .map_err(|source| HopError::Tls { with: HUB, source })?;
        tls::check_protocol(stream.get_ref().1, protocol).map_err(HopError::identity(HUB))?;
        write_frame(&mut stream, hello)
            .await
            .map_err(|e| HopError::frame(HUB, e))?;
        Ok(stream)
    };
    timeout(HANDSHAKE_TIMEOUT, work)
        .await
        .map_err(|_| HopError::timeout(HUB, HANDSHAKE_TIMEOUT))?
}

async fn answer(stream: &mut TlsStream<Records<BoxedCarrier>>) -> Result<(), HopError> {
    match read_frame(stream, MAX_FRAME_UNPROVED)
        .await
        .map_err(|e| HopError::frame(HUB, e))?
    {
        FromHub::Ready => Ok(()),
        FromHub::Refused(fault) => Err(HopError::Refused(fault)),
    }
}

async fn paired(mut stream: TlsStream<Records<BoxedCarrier>>, side: Side) -> Result<BoxedCarrier, HopError> {
    answer(&mut stream).await?;
    if side == Side::Accepting {
        write_frame(&mut stream, &Go)
            .await
            .map_err(|e| HopError::frame(HUB, e))?;
    }
    let (records, mut connection) = stream.into_inner();
    leave(HUB, records, &mut connection)
}

async fn join(
    carrier: BoxedCarrier,
    pin: Fingerprint,
    hello: &JoinHello,
) -> Result<TlsStream<Records<BoxedCarrier>>, HopError> {
    let config = tls::join_client(pin).map_err(HopError::identity(HUB))?;
    handshake(carrier, config, ALPN_JOIN, hello).await
}

/// Asks a hub to admit a domain. `hello` is a [`JoinHello::Admit`] made for this token.
pub async fn join_admit(ways: &Ways, token: &HubToken, hello: &JoinHello) -> Result<(), HopError> {
    let carrier = ways.dial(&token.hub).await?;
    let mut stream = join(carrier, token.pin, hello).await?;
    timeout(HANDSHAKE_TIMEOUT, answer(&mut stream))
        .await
        .map_err(|_| HopError::timeout(HUB, HANDSHAKE_TIMEOUT))?
}

/// Asks a hub to pair a joiner with an issuer of its domain; returns the raw stream to the issuer, on which the joiner is
/// the TLS client.
pub async fn join_pair(
    ways: &Ways,
    hub: &HubAddress,
    pin: Fingerprint,
    domain: &DomainName,
    hub_half: [u8; 32],
) -> Result<BoxedCarrier, HopError> {
    let carrier = ways.dial(hub).await?;
    let hello = JoinHello::Pair {
        domain: domain.clone(),
        secret: hub_half,
    };
    let stream = join(carrier, pin, &hello).await?;
    timeout(PAIRING_TIMEOUT, paired(stream, Side::Dialling))
        .await
        .map_err(|_| HopError::timeout(HUB, PAIRING_TIMEOUT))?
}
