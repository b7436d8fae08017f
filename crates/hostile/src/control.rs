//! The hub's side of control connections.

use std::sync::Arc;

use anyhow::{Context, Result};
use hawser_identity::tls;
use hawser_proto::{
    NodeId, ServiceId, VERSION,
    control::{Registration, Route, RouteGateway, Target, ToGateway, ToHub},
    frame::MAX_FRAME_UNPROVED,
    hop::Hello,
};
use hawser_session::{
    frame::read_frame,
    hop::{ControlReceiver, ControlSender},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{
    deal::{Answer, Asked},
    hub::{Event, Shared},
    sessions::bring_together,
};

/// Most messages that wait for one gateway.
const QUEUE: usize = 1024;
/// What the hub calls itself.
const SOFTWARE: &str = "hawser hub";

/// A connected gateway.
pub(crate) struct Gateway {
    out: mpsc::Sender<ToGateway>,
    services: Vec<Registration>,
    connection: u64,
}

/// Speaks with one gateway to the end of its connection.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    id: NodeId,
    sender: ControlSender<ToGateway>,
    receiver: ControlReceiver<ToHub>,
) -> Result<()> {
    let connection = shared.next_number();
    let (out, queue) = mpsc::channel(QUEUE);
    out.try_send(ToGateway::Welcome {
        version: VERSION,
        software: SOFTWARE.into(),
    })?;
    let ended = tokio::select! {
        ended = write(sender, queue) => ended,
        ended = read(shared, &id, connection, receiver, out) => ended,
        () = shared.cut_controls().cancelled_owned() => Ok(()),
    };
    let mut gateways = shared.gateways();
    if gateways.get(&id).is_some_and(|g| g.connection == connection) {
        gateways.remove(&id);
    }
    drop(gateways);
    shared.note(Event::Left(id));
    shared.publish();
    ended
}

/// Lets a gateway in, and answers its hello with bytes that make no sense.
pub(crate) async fn spoil(shared: &Arc<Shared>, tcp: TcpStream, bytes: Vec<u8>) -> Result<()> {
    let mut stream = tokio_rustls::TlsAcceptor::from(shared.hop.clone())
        .accept(tcp)
        .await?;
    let proved = tls::proved(&shared.trust.load(), stream.get_ref().1.peer_certificates())?;
    let Hello::Control { .. } = read_frame(&mut stream, MAX_FRAME_UNPROVED).await? else {
        return Ok(());
    };
    shared.note(Event::Spoilt(proved.id));
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

impl Shared {
    pub(crate) fn tell(&self, to: &NodeId, message: ToGateway) -> Result<()> {
        let gateways = self.gateways();
        let gateway = gateways
            .get(to)
            .with_context(|| format!("{to} is not connected"))?;
        gateway
            .out
            .try_send(message)
            .map_err(|e| anyhow::anyhow!("{to} reads nothing: {e}"))
    }

    /// Shows every gateway what it is to see.
    pub(crate) fn publish(&self) {
        let gateways = self.gateways();
        for (eyes, gateway) in gateways.iter() {
            let mut routes: Vec<Route> = Vec::new();
            for (id, other) in gateways.iter().filter(|(id, _)| *id != eyes) {
                for service in &other.services {
                    add(&mut routes, id, service);
                }
            }
            let routes = self.announcement(eyes, routes);
            let mut domains: Vec<_> = routes.iter().map(|r| r.service.domain.clone()).collect();
            domains.sort();
            domains.dedup();
            // A gateway whose queue is full is beyond help.
            let _ = gateway.out.try_send(ToGateway::Routes {
                routes,
                domains,
                number: self.next_number(),
            });
        }
    }
}

fn add(routes: &mut Vec<Route>, id: &NodeId, service: &Registration) {
    let name = ServiceId {
        name: service.name.clone(),
        domain: id.domain.clone(),
    };
    let gateway = RouteGateway {
        name: id.name.clone(),
        healthy: service.healthy,
    };
    match routes.iter_mut().find(|r| r.service == name) {
        Some(route) => route.gateways.push(gateway),
        None => routes.push(Route {
            service: name,
            protocol: service.protocol,
            description: service.description.clone(),
            gateways: vec![gateway],
        }),
    }
}

async fn write(mut sender: ControlSender<ToGateway>, mut queue: mpsc::Receiver<ToGateway>) -> Result<()> {
    while let Some(message) = queue.recv().await {
        sender.send(&message).await?;
    }
    Ok(())
}

async fn read(
    shared: &Arc<Shared>,
    id: &NodeId,
    connection: u64,
    mut receiver: ControlReceiver<ToHub>,
    out: mpsc::Sender<ToGateway>,
) -> Result<()> {
    loop {
        match receiver.recv().await? {
            ToHub::Register { services, .. } => {
                let gateway = Gateway {
                    out: out.clone(),
                    services,
                    connection,
                };
                shared.gateways().insert(id.clone(), gateway);
                shared.publish();
                shared.note(Event::Registered(id.clone()));
            }
            ToHub::Request { id: number, target } => request(shared, id, number, target, &out)?,
            ToHub::Revocations(bytes) => {
                let passed = !shared.withholds();
                let gateways = shared.gateways();
                for (_, gateway) in gateways.iter().filter(|(other, _)| passed && *other != id) {
                    let _ = gateway.out.try_send(ToGateway::Revocations(bytes.clone()));
                }
                drop(gateways);
                shared.note(Event::Revocations {
                    from: id.clone(),
                    passed,
                });
            }
            ToHub::Ping(n) => out.try_send(ToGateway::Pong(n))?,
            ToHub::Pong(_) | ToHub::Arbiter { .. } => {}
        }
    }
}

fn request(
    shared: &Arc<Shared>,
    from: &NodeId,
    id: u64,
    target: Target,
    out: &mpsc::Sender<ToGateway>,
) -> Result<()> {
    let Target::Gateway(target) = target else {
        // Certificates outlive any test, so nobody renews.
        return Ok(());
    };
    let asked = Asked {
        from: from.clone(),
        target,
    };
    shared.note(Event::Asked(asked.clone()));
    let policy = shared.policy();
    match policy(&asked) {
        Answer::Silence => {}
        Answer::Refuse(fault) => out.try_send(ToGateway::Refused { id, fault })?,
        Answer::Deal(deal) => {
            let shared = shared.clone();
            tokio::spawn(async move {
                if let Err(e) = bring_together(&shared, asked, id, deal).await {
                    shared.note(Event::Failed(format!("{e:#}")));
                }
            });
        }
    }
    Ok(())
}
