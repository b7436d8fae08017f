//! The accepting side of channels: nothing unproved is waited for in the loop that accepts.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hawser_identity::{SharedCredentials, SharedTrust, tls};
use hawser_proto::NodeId;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, warn};

use super::{Channel, HANDSHAKE_TIMEOUT, LinkError, UNEXPECTED, WELCOME, fellow_host, tune};

/// Most handshakes at one time; who comes beyond that is turned away.
const MAX_HANDSHAKES: usize = 64;
/// Most handshakes with one address at one time, so that one cannot take the places of all.
const MAX_PER_ADDRESS: usize = 8;
/// Channels that wait for [`Listener::accept`].
const BACKLOG: usize = 16;
/// Pause after the system could not accept, as when there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Says whether a host of the own domain is let in.
pub type Allow = Box<dyn Fn(&NodeId) -> bool + Send + Sync>;

/// Takes in channels from hosts of the own domain. Dropped, it stops listening.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    channels: mpsc::Receiver<Channel>,
    task: AbortHandle,
}

impl Listener {
    /// Listens there. To be called within a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        own: SharedCredentials,
        trust: SharedTrust,
        allow: Allow,
    ) -> Result<Self, LinkError> {
        let socket =
            std::net::TcpListener::bind(address).map_err(|source| LinkError::Listen { address, source })?;
        Self::on(socket, own, trust, allow)
    }

    /// As [`Self::bind`], for a socket that listens already.
    pub fn on(
        socket: std::net::TcpListener,
        own: SharedCredentials,
        trust: SharedTrust,
        allow: Allow,
    ) -> Result<Self, LinkError> {
        let setup = |source| LinkError::Setup {
            what: "a listener",
            source,
        };
        let config = tls::host_server(own.clone(), trust.clone()).map_err(|source| LinkError::Identity {
            peer: "this host".into(),
            source,
        })?;
        socket.set_nonblocking(true).map_err(setup)?;
        let local = socket.local_addr().map_err(setup)?;
        let socket = TcpListener::from_std(socket).map_err(setup)?;
        let (ready, channels) = mpsc::channel(BACKLOG);
        let door = Arc::new(Door {
            config,
            own,
            trust,
            allow,
            ready,
            places: Places::default(),
        });
        let task = tokio::spawn(door.run(socket)).abort_handle();
        Ok(Self {
            local,
            channels,
            task,
        })
    }

    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next channel, from a host that was let in; none if listening has ended. Cancel safe.
    pub async fn accept(&mut self) -> Option<Channel> {
        self.channels.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Door {
    config: Arc<ServerConfig>,
    own: SharedCredentials,
    trust: SharedTrust,
    allow: Allow,
    ready: mpsc::Sender<Channel>,
    places: Places,
}

impl Door {
    async fn run(self: Arc<Self>, socket: TcpListener) {
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            match socket.accept().await {
                Ok((stream, from)) => match self.places.take(from.ip()) {
                    Some(place) => {
                        let own = self.clone();
                        handshakes.spawn(async move { own.admit(stream, from, place).await });
                    }
                    None => debug!(%from, "too many handshakes at one time; one more was turned away"),
                },
                Err(error) => {
                    warn!(%error, "cannot accept a channel; trying again");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, stream: TcpStream, from: SocketAddr, place: Place) {
        match self.channel(stream, from).await {
            Ok(channel) => {
                drop(place);
                let peer = channel.peer.clone();
                if self.ready.try_send(channel).is_err() {
                    warn!(%from, %peer, "{BACKLOG} channels wait already; one more was closed");
                }
            }
            Err(
                error @ (LinkError::Unexpected { .. }
                | LinkError::Stranger { .. }
                | LinkError::Identity { .. }),
            ) => {
                warn!(%from, %error, "no channel");
            }
            Err(error) => debug!(%from, %error, "no channel"),
        }
    }

    async fn channel(&self, stream: TcpStream, from: SocketAddr) -> Result<Channel, LinkError> {
        let peer = format!("the host at {from}");
        let late = |_| LinkError::Timeout { peer: peer.clone() };
        let stream = timeout(HANDSHAKE_TIMEOUT, self.shake(stream, &peer))
            .await
            .map_err(late)??;
        let (socket, connection) = stream.into_inner();
        let socket = socket.into_std().map_err(|source| LinkError::Setup {
            what: "a channel",
            source,
        })?;
        Channel::new(socket, connection.into(), &self.trust, &peer)
    }

    async fn shake(&self, stream: TcpStream, peer: &str) -> Result<TlsStream<TcpStream>, LinkError> {
        let tls = |source: io::Error| LinkError::Tls {
            peer: peer.into(),
            source,
        };
        tune(SockRef::from(&stream)).map_err(tls)?;
        let mut stream = TlsAcceptor::from(self.config.clone())
            .accept(stream)
            .await
            .map_err(tls)?;
        let certificates = stream.get_ref().1.peer_certificates();
        let id = tls::proved(&self.trust.load(), certificates)
            .map_err(|source| LinkError::Identity {
                peer: peer.into(),
                source,
            })?
            .id;
        fellow_host(&self.own, &id)?;
        let allowed = (self.allow)(&id);
        let answer = if allowed { WELCOME } else { UNEXPECTED };
        stream.write_u8(answer).await.map_err(tls)?;
        stream.flush().await.map_err(tls)?;
        if allowed {
            return Ok(stream);
        }
        // The peer has its answer; how the connection ends makes no difference to it.
        let _ = stream.shutdown().await;
        Err(LinkError::Unexpected { peer: id })
    }
}

/// How many handshakes there are, and with whom.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them; given back when dropped.
struct Place(Places, IpAddr);

impl Places {
    fn take(&self, from: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= MAX_HANDSHAKES {
            return None;
        }
        let one = taken.entry(from).or_default();
        if *one >= MAX_PER_ADDRESS {
            return None;
        }
        *one += 1;
        Some(Place(self.clone(), from))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = taken.get_mut(&self.1) {
            *one -= 1;
            if *one == 0 {
                taken.remove(&self.1);
            }
        }
    }
}
