//! Mutual TLS between two hosts, and the authenticated heartbeats beside it.
//!
//! A [`Channel`] is one ordered stream each way, for threads with blocking I/O: [`dial`] makes one, [`Listener`] takes them
//! in. Both ends are hosts of the same domain and prove it. [`Hearts`] tell each other that they live by datagrams of their
//! own, because over TCP one lost packet costs a retransmission time-out of 200 ms; their keys come from the channel's TLS
//! (exporter, RFC 8446, 7.5). Imports `identity` and `proto` only.

mod clock;
mod dial;
mod halves;
mod heart;
mod listen;

pub use clock::Moment;
pub use dial::dial;
pub use halves::{Aborter, Reader, Writer};
pub use heart::{Gap, Heart, HeartEvent, HeartKeys, HeartNotify, HeartPeer, HeartStats, Hearts, Rhythm};
pub use listen::{Allow, Listener};

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hawser_identity::{IdentityError, Proved, SharedCredentials, SharedTrust, tls};
use hawser_proto::{DomainName, NodeId, Role};
use socket2::{SockRef, TcpKeepalive};

/// Longest wait for a connection and its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Unacknowledged bytes, or a closed window, that last this long end the channel (`TCP_USER_TIMEOUT`, RFC 5482). Heartbeats
/// notice much sooner; this is for those who wait for nothing else.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// Idle time before the kernel probes a silent peer.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(4);
/// Time between probes.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);

/// What the accepting host says first: the other one is let in.
const WELCOME: u8 = 1;
/// Or it is not, although it is a host of the domain.
const UNEXPECTED: u8 = 0;

/// An ordered, authenticated stream to another host and one back, for threads that block.
#[derive(Debug)]
pub struct Channel {
    /// What comes. A clean end is `Ok(0)`, a cut an error.
    pub reader: Reader,
    /// What goes. Bytes are with the kernel when a write returns. Dropped, it ends the stream cleanly.
    pub writer: Writer,
    /// Ends both at once, from any thread.
    pub aborter: Aborter,
    /// When bytes last came, for [`Hearts::begin`]: any byte counts as life.
    pub life: Life,
    /// For the heartbeats of this channel, and no other's.
    pub heart: HeartKeys,
    /// Who is at the other end.
    pub peer: NodeId,
    /// All that its certificates have proved, to be asked of a later trust whether it stands.
    pub proved: Proved,
    /// The other end of the TCP connection.
    pub address: SocketAddr,
    /// This end of it.
    pub local: SocketAddr,
}

/// When bytes last came from a peer, by any way. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Life(Arc<AtomicU64>);

impl Life {
    /// Nothing came yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something came now.
    pub fn touch(&self) {
        self.0.fetch_max(Moment::now().0, Relaxed);
    }

    /// When something last came.
    pub fn last(&self) -> Option<Moment> {
        Some(Moment(self.0.load(Relaxed))).filter(|m| m.0 > 0)
    }
}

/// Why there is no channel, or no heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there.
    #[error(
        "cannot connect to {peer} at {address}: {source}: is hawser host running there, and is its port open?"
    )]
    Connect {
        /// Whom we want.
        peer: NodeId,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The other side does not go on.
    #[error("{peer} did not complete the handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout {
        /// Whom we meant to talk to.
        peer: String,
    },
    /// A certificate was refused, by us or by the peer, or what came is no TLS of ours.
    #[error("TLS with {peer}: {}", tls::explain(.source))]
    Tls {
        /// Whom we meant to talk to.
        peer: String,
        /// What rustls says.
        source: io::Error,
    },
    /// The peer is not who it should be, or our own identity cannot be used.
    #[error("{peer}: {source}")]
    Identity {
        /// Whom we meant to talk to.
        peer: String,
        /// What is wrong.
        source: IdentityError,
    },
    /// It is a host of our domain, and not let in.
    #[error("{peer} does not expect a channel from this host: is this host's name in its configuration?")]
    NotExpected {
        /// Who refuses.
        peer: NodeId,
    },
    /// A host of our domain that is not let in here.
    #[error("{peer} wants a channel, and no machine is protected with it")]
    Unexpected {
        /// Who came.
        peer: NodeId,
    },
    /// Channels are between hosts of one domain.
    #[error("{peer} is no host of domain {domain}: a machine is protected between hosts of one domain")]
    Stranger {
        /// Who came, or was to be dialled.
        peer: NodeId,
        /// Our own domain.
        domain: DomainName,
    },
    /// The port cannot be used.
    #[error("cannot listen on {address}: {source}: does another program use this port?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A thread or its sockets could not be set up.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What for.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl Channel {
    /// Of a finished handshake.
    fn new(
        socket: TcpStream,
        tls: rustls::Connection,
        trust: &SharedTrust,
        peer: &str,
    ) -> Result<Self, LinkError> {
        let identity = |source| LinkError::Identity {
            peer: peer.into(),
            source,
        };
        let setup = |source| LinkError::Setup {
            what: "a channel",
            source,
        };
        tls::check_protocol(&tls, hawser_proto::ALPN_REPLICATION).map_err(identity)?;
        let proved = tls::proved(&trust.load(), tls.peer_certificates()).map_err(identity)?;
        let heart = HeartKeys::of(&tls).map_err(|e| LinkError::Tls {
            peer: peer.into(),
            source: io::Error::other(e),
        })?;
        socket.set_nonblocking(false).map_err(setup)?;
        let address = socket.peer_addr().map_err(setup)?;
        let local = socket.local_addr().map_err(setup)?;
        let life = Life::new();
        let (reader, writer, aborter) = halves::split(socket, tls, life.clone());
        Ok(Self {
            reader,
            writer,
            aborter,
            life,
            heart,
            peer: proved.id.clone(),
            proved,
            address,
            local,
        })
    }
}

/// Whether a channel with this peer is thinkable at all.
fn fellow_host(own: &SharedCredentials, peer: &NodeId) -> Result<(), LinkError> {
    let domain = own.load().id().domain.clone();
    if peer.role == Role::Host && peer.domain == domain {
        return Ok(());
    }
    let peer = peer.clone();
    Err(LinkError::Stranger { peer, domain })
}

/// Small writes leave at once, and a peer that is gone is noticed.
fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))
}

#[cfg(test)]
mod tests;
