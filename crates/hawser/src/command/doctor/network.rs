//! Looks at the way to each hub: names, connections, proxies, the hub's key, and whether it lets this gateway in.

use std::{sync::Arc, time::Duration};

use hawser_gateway::{
    admin::Summary,
    carriers::{self, CarrierError},
    config::{CarrierPlan, GatewayPlan},
};
use hawser_identity::{Credentials, Fingerprint, HubAddress, tls};
use hawser_proto::control::ToGateway;
use hawser_session::{
    carrier::{BoxedCarrier, Ways},
    hop::HopClient,
};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::Findings;
use crate::{daemon::SOFTWARE, failure};

/// What the looks need to know.
pub(super) struct Network<'a> {
    pub(super) plan: &'a GatewayPlan,
    pub(super) own: Credentials,
    /// Status of the gateway that runs here, if one does.
    pub(super) running: Option<&'a Value>,
    pub(super) timeout: Duration,
}

impl Network<'_> {
    /// Every hub, by every way out.
    pub(super) async fn look(self, summary: &Summary, findings: &mut Findings) {
        if summary.hubs.is_empty() {
            let advice = match self.plan.beside {
                Some(_) => "start it once with `hawser run`: it joins the hub beside it by itself",
                None => "get a token from the hub's operator (`hawser token hub`), then `hawser join`",
            };
            return findings.fail("hubs", "this gateway has joined none", advice);
        }
        let ways = self
            .plan
            .carriers
            .iter()
            .map(|c| Ok((c, carriers::ways(std::slice::from_ref(c))?)))
            .collect();
        let (ways, all): (Vec<_>, _) = match (ways, carriers::of(self.plan)) {
            (Ok(ways), Ok(all)) => (ways, Arc::new(all)),
            (Err(e), _) | (_, Err(e)) => {
                return findings.fail(
                    "ways out",
                    failure::message(&CarrierError::into(e)),
                    "correct [[gateway.carrier]]",
                );
            }
        };
        let own = self.own.shared();
        for (hub, pin) in &summary.hubs {
            let (Ok(hub), Ok(pin)) = (hub.parse(), pin.parse()) else {
                findings.fail("hubs", format!("{hub} is not understood"), "join the hub again");
                continue;
            };
            let look = Look {
                hub: &hub,
                pin,
                timeout: self.timeout,
            };
            let mut reached = false;
            if self.plan.beside.as_ref().is_some_and(|b| b.hub == hub) {
                reached = look.beside(&all, findings).await;
            } else {
                for (carrier, ways) in &ways {
                    reached |= look.way(carrier, ways, findings).await;
                }
            }
            match self.running {
                _ if !reached => {}
                Some(status) => connected(&hub, status, findings),
                None => match HopClient::new(all.clone(), hub.clone(), pin, own.clone()) {
                    Ok(client) => look.control(&client, findings).await,
                    Err(e) => {
                        let found = failure::message(&e.into());
                        findings.fail(format!("control {hub}"), found, "restore node.crt and node.key");
                    }
                },
            }
        }
    }
}

struct Look<'a> {
    hub: &'a HubAddress,
    pin: Fingerprint,
    timeout: Duration,
}

impl Look<'_> {
    /// One way to one hub, as far as it goes; true when it ends at the hub that was joined.
    async fn way(&self, carrier: &CarrierPlan, ways: &Ways, findings: &mut Findings) -> bool {
        let (host, port, whose) = match carrier {
            CarrierPlan::Direct => (self.hub.host().to_string(), self.hub.port(), "hub"),
            CarrierPlan::Connect { host, port, .. } => (host.clone(), *port, "proxy"),
        };
        if !self.name(&host, port, whose, findings).await {
            return false;
        }
        let check = match carrier {
            CarrierPlan::Direct => format!("tcp {}", self.hub),
            CarrierPlan::Connect { .. } => format!("proxy {host}:{port} to {}", self.hub),
        };
        let advice = match carrier {
            CarrierPlan::Direct => {
                "does the hub run, and do this side's firewall rules let this machine connect to its port? If only a \
                 proxy may go out: [[gateway.carrier]] with kind = \"connect\""
            }
            CarrierPlan::Connect { .. } => "ask the proxy's administrator to allow CONNECT to the hub",
        };
        self.dial(check, ways, advice, findings).await
    }

    /// The one way to a hub in the same process.
    async fn beside(&self, ways: &Ways, findings: &mut Findings) -> bool {
        let check = format!("tcp {}", self.hub);
        let advice = "does the hub run? It is in the same configuration: start both with `hawser run`";
        self.dial(check, ways, advice, findings).await
    }

    async fn dial(&self, check: String, ways: &Ways, advice: &str, findings: &mut Findings) -> bool {
        let stream = match tokio::time::timeout(self.timeout, ways.dial(self.hub)).await {
            Ok(Ok(stream)) => {
                findings.ok(check, "connected");
                stream
            }
            Ok(Err(e)) => {
                findings.fail(check, failure::message(&e.into()), advice);
                return false;
            }
            Err(_) => {
                let found = format!("no connection within {} s", self.timeout.as_secs());
                findings.fail(
                    check,
                    found,
                    "something on the way drops packets: a firewall rule, most likely",
                );
                return false;
            }
        };
        self.key(stream, findings).await
    }

    async fn name(&self, host: &str, port: u16, whose: &str, findings: &mut Findings) -> bool {
        let check = format!("dns {host}");
        if host.parse::<std::net::IpAddr>().is_ok() {
            return true;
        }
        match tokio::time::timeout(self.timeout, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(addresses)) => {
                let mut addresses: Vec<String> = addresses.map(|a| a.ip().to_string()).collect();
                addresses.dedup();
                if addresses.is_empty() {
                    findings.fail(check, "no address", format!("is that the {whose}'s name?"));
                    return false;
                }
                findings.ok(check, addresses.join(" "));
                true
            }
            Ok(Err(e)) => {
                findings.fail(
                    check,
                    e.to_string(),
                    format!("is that the {whose}'s name, and does this machine resolve names?"),
                );
                false
            }
            Err(_) => {
                findings.fail(check, "no answer", "does this machine reach its name server?");
                false
            }
        }
    }

    /// TLS as a joiner would begin it: proves the hub's key, and says nothing about this gateway.
    async fn key(&self, stream: BoxedCarrier, findings: &mut Findings) -> bool {
        let check = format!("hub key {}", self.hub);
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let handshake = async {
            anyhow::Ok(
                TlsConnector::from(tls::join_client(self.pin)?)
                    .connect(name, stream)
                    .await?,
            )
        };
        match tokio::time::timeout(self.timeout, handshake).await {
            Ok(Ok(_)) => {
                findings.ok(check, format!("{} as joined", self.pin));
                true
            }
            Ok(Err(e)) => {
                findings.fail(
                    check,
                    failure::message(&e),
                    "this is not the hub that was joined, or something on the way opens TLS (let the hub's name pass \
                     unopened). If the hub has a new key, join it again with a new token",
                );
                false
            }
            Err(_) => {
                findings.fail(
                    check,
                    "connected, then silence",
                    "is that port the hub's? Is the hub overloaded?",
                );
                false
            }
        }
    }

    /// A control connection of our own, while no gateway runs that has one.
    async fn control(&self, client: &HopClient, findings: &mut Findings) {
        let check = format!("control {}", self.hub);
        let advice =
            "does the hub admit this domain (`hawser hub admitted` there)? Is this identity revoked?";
        let welcome = async {
            let (_sender, mut receiver) = client.control(SOFTWARE).await?;
            anyhow::Ok(receiver.recv().await?)
        };
        match tokio::time::timeout(self.timeout, welcome).await {
            Ok(Ok(ToGateway::Welcome { software, .. })) => {
                findings.ok(check, format!("welcomed by {software}"))
            }
            Ok(Ok(_)) => findings.fail(
                check,
                "the hub did not begin with its welcome",
                "is the hub of a fitting version?",
            ),
            Ok(Err(e)) => findings.fail(check, failure::message(&e), advice),
            Err(_) => findings.fail(check, "no welcome", advice),
        }
    }
}

/// What the running gateway says of its connection.
fn connected(hub: &HubAddress, status: &Value, findings: &mut Findings) {
    let check = format!("control {hub}");
    let name = Value::String(hub.to_string());
    let entry = status
        .get("hubs")
        .and_then(Value::as_array)
        .and_then(|hubs| hubs.iter().find(|h| h.get("hub") == Some(&name)));
    match entry {
        Some(e) if e.get("connected") == Some(&Value::Bool(true)) => {
            findings.ok(check, "the running gateway is connected")
        }
        Some(e) => findings.fail(
            check,
            format!(
                "the running gateway is not connected: {}",
                e.get("last_error")
                    .and_then(Value::as_str)
                    .unwrap_or("no reason known yet")
            ),
            "does the hub admit this domain (`hawser hub admitted` there)? Is this identity revoked?",
        ),
        None => findings.warn(
            check,
            "the running gateway does not know this hub yet",
            "look again in a moment",
        ),
    }
}
