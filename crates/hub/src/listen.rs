//! Accepts connections and finds out what they are for. An accept loop never waits for a peer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hawser_proto::{
    Fault,
    broker::mailbox::{FromMailbox, ToMailbox},
    hop::JoinHello,
};
use hawser_session::{
    hop::{Arrival, ControlReceiver, ControlSender, HANDSHAKE_TIMEOUT, HopError},
    socket,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Application,
    control, data,
    door::{Full, Place},
    join,
    mailbox::Mailbox,
    shared::{Party, Shared},
    visit,
};

/// Connections that the kernel holds for us.
const BACKLOG: u32 = 4096;
/// Pause after the kernel refused to hand over a connection (no descriptors left, for one).
const PAUSE: Duration = Duration::from_millis(100);

/// Binds an address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until stopped.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, from)) => match shared.door.enter(from.ip()) {
                Ok(place) => {
                    tokio::spawn(arrive(shared.clone(), tcp, from, place));
                }
                Err(full) => turn_away(&shared, &tcp, full),
            },
            Err(error) if of_the_peer(&error) => {}
            Err(error) => {
                if shared.crowd.now() {
                    tracing::warn!(%error, "cannot accept connections: raise the limit of open files (ulimit -n), or lower hub.limits");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Proves a connection, and hands it to whom it is for. What follows runs as a task of its own, so that the room which a
/// handshake takes is given back.
async fn arrive(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr, place: Place) {
    let limit = shared.limits.load().handshake;
    let arrival = tokio::select! {
        () = shared.stop.cancelled() => return,
        arrival = timeout(limit, shared.hop.accept(tcp, &*shared)) => arrival,
    };
    let arrival = match arrival {
        Ok(Ok(arrival)) => arrival,
        Ok(Err(error)) => {
            shared.metrics.handshake(word(&error));
            tracing::debug!(%from, %error, "a connection came to nothing");
            return;
        }
        Err(_) => {
            shared.metrics.handshake("timeout");
            tracing::debug!(%from, "a connection did not prove itself in time");
            return;
        }
    };
    match arrival {
        Arrival::Control {
            proved,
            version,
            software,
            sender,
            receiver,
        } => {
            shared.metrics.handshake("control");
            tracing::debug!(%from, id = %proved.id, version, "a control connection");
            let party = Party::new(proved);
            tokio::spawn(control::run(shared, party, software.into(), sender, receiver));
        }
        Arrival::Mailbox {
            proved,
            sender,
            receiver,
            ..
        } => {
            shared.metrics.handshake("mailbox");
            match shared.mailbox.clone() {
                Some(mailbox) => {
                    tokio::spawn(converse(shared, mailbox, Party::new(proved), sender, receiver));
                }
                None => {
                    tracing::debug!(%from, id = %proved.id, "a mailbox connection, and there is no mailbox");
                    no_mailbox(sender).await;
                }
            }
        }
        Arrival::Device(device) => {
            shared.metrics.handshake("device");
            if let Some(mailbox) = shared.mailbox.clone() {
                tokio::spawn(mailbox.serve(*device.stream, from, place));
            }
        }
        Arrival::Visitor(visitor) => {
            shared.metrics.handshake("visitor");
            visit::run(shared, from, visitor, place).await;
        }
        Arrival::Session { proved, ticket, half } => {
            shared.metrics.handshake("session");
            let sessions = shared.sessions.clone();
            sessions.spawn(data::show(shared, Party::new(proved), ticket, half));
        }
        Arrival::Admit {
            hello:
                JoinHello::Admit {
                    domain,
                    secret,
                    root,
                    signature,
                    issuer,
                },
            reply,
        } => {
            shared.metrics.handshake("admit");
            let application = Application {
                domain,
                secret,
                root,
                signature,
                issuer,
            };
            join::admit(shared, from, application, reply).await;
        }
        Arrival::Admit { .. } => {}
        Arrival::Pair { domain, secret, half } => {
            shared.metrics.handshake("pair");
            join::pair(shared, from, domain, secret, half, place).await;
        }
    }
}

/// Serves a gateway's connection with the mailbox while its identity stands.
async fn converse(
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    party: Arc<Party>,
    sender: ControlSender<FromMailbox>,
    receiver: ControlReceiver<ToMailbox>,
) {
    let parties = [Some(party.clone()), None];
    let living = shared.lives.enter(parties.clone());
    if shared.judge(&parties).is_none() {
        mailbox
            .converse(party, living.life().clone(), sender, receiver)
            .await;
    }
}

/// Tells a gateway that there is no mailbox here.
async fn no_mailbox(mut sender: ControlSender<FromMailbox>) {
    let fault = Fault::new(
        hawser_proto::Place::Hub,
        404,
        "no-mailbox",
        "this hub has no mailbox",
        "ask its operator for a [hub.mailbox] table, or use a hub that has one",
    );
    if timeout(HANDSHAKE_TIMEOUT, sender.send(&FromMailbox::Refused(fault)))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        // It may have gone already.
        let _ = timeout(HANDSHAKE_TIMEOUT, sender.close()).await;
    }
}

fn turn_away(shared: &Shared, tcp: &TcpStream, full: Full) {
    // A reset costs no state here and tells the peer at once.
    socket::reset_on_close(tcp);
    let bound = match full {
        Full::Total => "total",
        Full::Source => "source",
    };
    shared.metrics.turned_away(bound);
    if shared.crowd.now() {
        tracing::warn!(
            bound,
            "turning connections away: {full}; see hub.limits.unproved and unproved_per_source"
        );
    }
}

/// Errors of one connection that died before it was handed over.
fn of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn word(error: &HopError) -> &'static str {
    match error {
        HopError::Timeout { .. } => "timeout",
        HopError::Tls { .. } | HopError::Identity { .. } => "tls-failed",
        HopError::Frame(_) | HopError::Protocol { .. } => "malformed",
        HopError::UnknownName(_) => "unknown-name",
        _ => "broken",
    }
}
