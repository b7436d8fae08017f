//! The addresses at which applications publish.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{directory::sha256, publishing::Publishing, runtime::Settings, web};

/// Connections at one time, of all addresses; further ones are closed at once.
const CONNECTIONS: usize = 1024;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
#[error("gateway.broker.listen: {address} cannot be listened on ({source}): is something else there?")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Listeners that accept until they are dropped or drained.
pub(crate) struct Listeners {
    addresses: Vec<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Door {
    clients: Vec<IpNet>,
    tls: Option<TlsAcceptor>,
    publishing: Arc<Publishing>,
    places: Arc<Semaphore>,
    drain: CancellationToken,
    tasks: TaskTracker,
}

impl Listeners {
    pub(crate) async fn start(
        settings: &Settings,
        publishing: Arc<Publishing>,
        drain: CancellationToken,
    ) -> Result<Self, ListenError> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let door = Arc::new(Door {
            clients: settings.clients.clone(),
            tls: settings
                .tls
                .clone()
                .map(|tls: Arc<ServerConfig>| TlsAcceptor::from(tls)),
            publishing,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            drain,
            tasks: tasks.clone(),
        });
        let mut addresses = Vec::new();
        let mut bound = Vec::new();
        for &address in &settings.listen {
            let at = |source| ListenError { address, source };
            let listener = TcpListener::bind(address).await.map_err(at)?;
            addresses.push(listener.local_addr().map_err(at)?);
            bound.push(listener);
        }
        for listener in bound {
            let (door, stop) = (door.clone(), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = accept(listener, door.clone()) => {}
                    () = door.drain.cancelled() => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        tasks.close();
        info!(?addresses, "applications can publish");
        Ok(Self {
            addresses,
            tasks,
            stop,
        })
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// When all connections have ended.
    pub(crate) async fn ended(&self) {
        self.tasks.wait().await;
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => enter(&door, stream, from),
            Err(e) => {
                // Out of descriptors, most likely, which only time heals.
                warn!(error = %e, "a connection of an application could not be accepted");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Serves a client in a task of its own, if it may come.
fn enter(door: &Arc<Door>, stream: TcpStream, from: SocketAddr) {
    let address = from.ip().to_canonical();
    if !door.clients.iter().any(|net| net.contains(&address)) {
        debug!(%from, "not among gateway.broker.clients");
        return;
    }
    let Ok(place) = door.places.clone().try_acquire_owned() else {
        warn!(%from, limit = CONNECTIONS, "too many connections of applications");
        return;
    };
    let door = door.clone();
    door.tasks.clone().spawn(async move {
        let _place = place;
        // Answers are small: they are not to wait for more.
        let _ = stream.set_nodelay(true);
        door.serve(stream).await;
    });
}

impl Door {
    async fn serve(&self, stream: TcpStream) {
        let Some(tls) = &self.tls else {
            return self.connection(stream, None).await;
        };
        match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates();
                let certificate = chain.and_then(|chain| chain.first()).map(|leaf| sha256(leaf));
                self.connection(stream, certificate).await;
            }
            Ok(Err(e)) => debug!(error = %e, "no TLS with an application"),
            Err(_) => debug!("no TLS with an application within 10 s"),
        }
    }

    async fn connection<S>(&self, stream: S, certificate: Option<[u8; 32]>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let publishing = self.publishing.clone();
        let serve = move |request| publishing.clone().serve(request, certificate);
        web::connection(stream, self.drain.clone(), Arc::new(serve)).await;
    }
}
