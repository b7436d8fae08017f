//! One listening address: accepts, turns away whom it must, and serves each connection in a task of its own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use hawser_proto::{ServiceId, control::Protocol};
use hawser_session::{socket, tcp};
use http::{Method, StatusCode};
use ipnet::IpNet;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    admit::Door,
    opening::{ClientSocket, Opening, Prefixed, read_opening},
    serve::{self, Connection},
    socks,
};
use crate::{
    calls::{Call, Side},
    config::ImportProtocol,
    headers::fresh_request_id,
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// Pause after the system refused to accept, as when it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an address is for. May change while it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) purpose: Purpose,
    pub(super) clients: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The web proxy.
    Proxy,
    /// Calls back alone.
    Callbacks,
    /// One service.
    Import(ServiceId, ImportProtocol),
}

/// A listening address.
pub(super) struct Listening {
    /// Where it really listens (the port is chosen by the system when it was written as 0).
    pub(super) local: SocketAddr,
    pub(super) job: Arc<ArcSwap<Job>>,
    /// Closes it.
    stop: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A bound address that does not accept yet.
pub(super) struct Bound {
    listener: TcpListener,
    local: SocketAddr,
}

impl Bound {
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local })
    }

    /// Begins to accept.
    pub(super) fn start(self, shared: &Arc<Shared>, job: Job) -> Listening {
        let job = Arc::new(ArcSwap::from_pointee(job));
        let stop = shared.drain.child_token();
        let limit = Arc::new(Semaphore::new(shared.plan.load().limits.connections));
        shared.tasks.spawn(accept(
            shared.clone(),
            self.listener,
            job.clone(),
            limit,
            stop.clone(),
        ));
        Listening {
            local: self.local,
            job,
            stop,
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    job: Arc<ArcSwap<Job>>,
    limit: Arc<Semaphore>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, client) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept connections: are there enough descriptors (ulimit -n)?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let job = job.load_full();
        if !allowed(&job.clients, client.ip()) {
            turn_away(&shared, &tcp, client, "its address is not among `clients`");
            continue;
        }
        let Ok(permit) = limit.clone().try_acquire_owned() else {
            turn_away(
                &shared,
                &tcp,
                client,
                "there are too many (`connections` in [gateway.limits])",
            );
            continue;
        };
        shared
            .tasks
            .spawn(connection(shared.clone(), job, tcp, client, permit));
    }
}

fn turn_away(shared: &Shared, tcp: &TcpStream, client: SocketAddr, why: &str) {
    shared.metrics.turned_away();
    tracing::debug!(%client, why, "a connection is turned away");
    socket::reset_on_close(tcp);
}

fn allowed(clients: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    clients.iter().any(|net| net.contains(&ip))
}

async fn connection(
    shared: Arc<Shared>,
    job: Arc<Job>,
    tcp: TcpStream,
    client: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    if let Err(e) = socket::tune(&tcp) {
        return tracing::debug!(%client, error = %e, "a connection was gone before it began");
    }
    let drain = shared.drain.clone();
    let (door, service) = match &job.purpose {
        Purpose::Proxy => (Door::Proxy, None),
        Purpose::Callbacks => (Door::Callbacks, None),
        Purpose::Import(service, protocol) => {
            let known = shared.links.routes().protocol(service);
            match (protocol, known) {
                (ImportProtocol::Tcp, _) | (ImportProtocol::Auto, Some(Protocol::Tcp)) => {
                    return raw(&shared, service, tcp, client).await;
                }
                (ImportProtocol::Auto, None) => (door(service), Some(service)),
                _ => (door(service), None),
            }
        }
    };
    let abort = Arc::new(AtomicBool::new(false));
    let wait = shared.plan.load().limits.header_timeout;
    let socket = ClientSocket::new(tcp, abort.clone());
    let opening = tokio::select! {
        biased;
        opening = read_opening(socket, wait) => opening,
        // Nothing was asked yet, so nothing is lost.
        () = drain.cancelled() => return,
    };
    let Some((opening, io)) = opening else { return };
    let socks = opening == Opening::Socks && door == Door::Proxy;
    if !socks && !matches!(opening, Opening::Http1 | Opening::Http2) {
        return refuse(&shared, service, client, opening, io, &abort).await;
    }
    let cx = Arc::new(Connection {
        shared,
        client,
        door,
        abort,
        permit: Arc::new(permit),
    });
    match socks {
        true => socks::serve(cx, io).await,
        false => serve::serve(cx, opening, io).await,
    }
}

fn door(service: &ServiceId) -> Door {
    Door::Service {
        service: service.clone(),
        tunnel: false,
    }
}

/// What is no HTTP on an address for HTTP; or on an import of a service that nobody exports now, of which neither is known.
async fn refuse(
    shared: &Shared,
    unknown: Option<&ServiceId>,
    client: SocketAddr,
    opening: Opening,
    io: Prefixed<ClientSocket>,
    abort: &AtomicBool,
) {
    abort.store(true, std::sync::atomic::Ordering::Release);
    let fault = match unknown {
        Some(service) => shared.links.http(service).await.err(),
        None => None,
    };
    drop(io);
    match (fault, opening) {
        (Some(fault), _) => tracing::warn!(%client, %fault, "a connection to an import is refused"),
        (None, Opening::Tls) => tracing::warn!(
            %client,
            "a client speaks TLS to an address for clear-text HTTP: name the proxy by http://, not https://; the tunnel \
             encrypts end to end"
        ),
        (None, _) => tracing::debug!(%client, "a client speaks no HTTP to an address for HTTP"),
    }
}

/// A connection to a TCP import.
async fn raw(shared: &Arc<Shared>, service: &ServiceId, tcp: TcpStream, client: SocketAddr) {
    let id = fresh_request_id();
    let who = client.to_string();
    let mut call = Call::begin(
        &shared.metrics,
        Side::Client,
        id,
        who,
        Method::CONNECT,
        service.to_string(),
    );
    let tunnel = tokio::select! {
        tunnel = shared.links.tcp(service, id) => tunnel,
        _ = socket::died(&tcp) => return,
        () = shared.cut.cancelled() => return,
    };
    match tunnel {
        Ok(tunnel) => {
            call.service(service);
            let (end, moved) = tcp::bridge(tcp, tunnel, shared.cut.clone()).await;
            call.end_stream(
                StatusCode::OK,
                moved.sent,
                moved.received,
                end == tcp::BridgeEnd::Closed,
            );
        }
        Err(fault) => {
            // TCP has no words for why.
            tracing::warn!(request = %id, %client, %service, %fault, "a connection to an import is refused");
            socket::reset_on_close(&tcp);
            let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_GATEWAY);
            call.end_stream(status, 0, 0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_what_they_map() {
        let nets: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        for (ip, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("::1", true),
            ("11.0.0.1", false),
            ("::2", false),
        ] {
            assert_eq!(allowed(&nets, ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(!allowed(&[], "127.0.0.1".parse().unwrap()));
    }
}
