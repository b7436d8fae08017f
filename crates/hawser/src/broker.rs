//! The broker in a gateway's process: the gateway's connections and published name on one side, `hawser-broker` on the other.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use hawser_broker::{
    Broker, BrokerStatus, Settings,
    link::{Heard, MailboxLink, Reply, Request, Said, Unanswered},
};
use hawser_gateway::{
    Gateway,
    config::{BrokerPlan, GatewayPlan},
    ingress::{Handler, Visit},
    links::mailbox::{self, LinkError, MailboxEvent, What},
};
use hawser_identity::{Credentials, tls};
use hawser_proto::broker::mailbox::Outcome;
use hawser_store::Store;
use prometheus_client::registry::Registry;
use tokio::{sync::mpsc, task::JoinHandle};

/// A broker that runs beside its gateway until it is dropped.
pub(crate) struct Running {
    broker: Arc<Broker>,
    hearing: JoinHandle<()>,
}

impl Running {
    /// Starts the broker of a gateway that runs, and has the gateway publish its name.
    pub(crate) async fn start(
        plan: &GatewayPlan,
        broker: &BrokerPlan,
        gateway: &Gateway,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let own = Credentials::load(&plan.state)?;
        let store = Store::open(&plan.state)?;
        let tls = match &broker.tls {
            Some(tls) => {
                Some(tls::publishing_server(&tls.certificate, &tls.key).context("gateway.broker.tls")?)
            }
            None => None,
        };
        let settings = Settings {
            state: plan.state.clone(),
            domain: own.id().domain.clone(),
            control: origin(&broker.name, broker.port),
            listen: broker.listen.clone(),
            clients: broker.clients.clone(),
            tls,
            ttl: broker.ttl,
            inline_max: broker.inline_max,
        };
        let broker = Arc::new(Broker::start(settings, &store, registry).await?);
        let hearing = tokio::spawn(hear(broker.clone(), gateway.mailboxes()));
        gateway.publish(Arc::new(Published(broker.clone())));
        Ok(Self { broker, hearing })
    }

    /// For people's eyes.
    pub(crate) fn status(&self) -> BrokerStatus {
        self.broker.status()
    }

    /// Takes no new events, and lets what is under way end.
    pub(crate) async fn drain(&self, within: Duration) {
        self.broker.drain(within).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

/// Where devices reach control: `https://NAME[:PORT]`.
pub(crate) fn origin(name: &impl fmt::Display, port: u16) -> String {
    match port {
        443 => format!("https://{name}"),
        port => format!("https://{name}:{port}"),
    }
}

async fn hear(broker: Arc<Broker>, mut events: mpsc::Receiver<MailboxEvent>) {
    // An event names its connection; the broker is to see the same one as the same.
    let mut links: Vec<Arc<Link>> = Vec::new();
    while let Some(MailboxEvent { link, what }) = events.recv().await {
        let down = matches!(what, What::Down(_));
        let known = links.iter().position(|l| Arc::ptr_eq(&l.0, &link));
        let adapted = match known {
            Some(place) => links[place].clone(),
            None => {
                let new = Arc::new(Link(link));
                links.push(new.clone());
                new
            }
        };
        if down {
            links.retain(|l| !Arc::ptr_eq(l, &adapted));
        }
        let heard = Heard {
            link: adapted,
            said: said(what),
        };
        broker.heard(heard).await;
    }
}

fn said(what: What) -> Said {
    match what {
        What::Up => Said::Up,
        What::Down(why) => Said::Down(why),
        What::Reports(reports) => Said::Reports(reports),
        What::Fetch { id, device, request } => Said::Fetch { id, device, request },
        What::Pull { id, offset } => Said::Pull { id, offset },
        What::Over(id) => Said::Over(id),
        What::Contact {
            device,
            connected,
            at,
        } => Said::Contact {
            device,
            connected,
            at,
        },
    }
}

/// The gateway's connection as the broker's.
#[derive(Debug)]
struct Link(Arc<dyn mailbox::MailboxLink>);

impl MailboxLink for Link {
    fn pin(&self) -> [u8; 32] {
        self.0.pin().0
    }

    fn url(&self) -> &str {
        self.0.url()
    }

    fn request(&self, request: Request) -> BoxFuture<'_, Result<Outcome, Unanswered>> {
        use mailbox::Request as R;
        let request = match request {
            Request::Admit {
                device,
                thumbprint,
                epoch,
            } => R::Admit {
                device,
                thumbprint,
                epoch,
            },
            Request::Revoke { device } => R::Revoke { device },
            Request::Deposit { envelope } => R::Deposit { envelope },
            Request::Skip {
                device,
                from,
                to,
                record,
            } => R::Skip {
                device,
                from,
                to,
                record,
            },
        };
        Box::pin(async move { self.0.request(request).await.map_err(unanswered) })
    }

    fn reply(&self, reply: Reply) -> BoxFuture<'_, Result<(), Unanswered>> {
        let reply = match reply {
            Reply::Taken(number) => mailbox::Reply::Taken(number),
            Reply::Fetched { id, answer } => mailbox::Reply::Fetched { id, answer },
            Reply::Piece { id, bytes } => mailbox::Reply::Piece { id, bytes },
        };
        Box::pin(async move { self.0.reply(reply).await.map_err(unanswered) })
    }
}

fn unanswered(e: LinkError) -> Unanswered {
    match e {
        LinkError::Ended(_) => Unanswered::Ended(e.to_string()),
        LinkError::Silent(_) => Unanswered::Silent(e.to_string()),
        LinkError::TooLong(_) => Unanswered::TooLong(e.to_string()),
    }
}

/// Who comes under the published name.
struct Published(Arc<Broker>);

impl Handler for Published {
    fn visit(&self, visit: Visit) -> BoxFuture<'static, ()> {
        let broker = self.0.clone();
        Box::pin(async move { broker.visit(visit.stream, visit.drain).await })
    }
}
