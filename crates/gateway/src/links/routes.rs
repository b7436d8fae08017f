//! What can be called, merged over all hubs, and who is asked for it. Pure data: no I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hawser_proto::{
    DomainName, Fault, NodeId, ServiceId,
    control::{Protocol, Route},
};

use super::{chance::Chance, faults};

/// What one hub shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct HubView {
    /// Whether its control connection is up and it takes new sessions.
    pub(crate) usable: bool,
    /// Why not, for people.
    pub(crate) why: String,
    /// The last that it showed; kept while it is away, since sessions through it may live on.
    pub(crate) routes: Vec<Route>,
    /// The domains it lets this gateway pair with.
    pub(crate) domains: Vec<DomainName>,
}

/// Every service that some hub shows to this gateway. An immutable snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// By name.
    pub services: BTreeMap<ServiceId, Service>,
    /// The domains that some hub lets this gateway pair with.
    pub domains: BTreeSet<DomainName>,
    /// Hubs that are known but not usable, and why.
    away: BTreeMap<Arc<str>, String>,
    /// Hubs that are usable.
    usable: BTreeSet<Arc<str>>,
}

/// One service and who exports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// How it is called.
    pub protocol: Protocol,
    /// For people.
    pub description: String,
    /// Who exports it.
    pub gateways: Vec<Candidate>,
}

/// A gateway that exports a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity.
    pub node: NodeId,
    /// Whether the service's health check passes there.
    pub healthy: bool,
    /// The hubs (`host:port`) through which it can be reached.
    pub hubs: Vec<Arc<str>>,
}

/// A service for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ServiceView {
    /// `name.domain`.
    pub service: ServiceId,
    /// How it is called.
    pub protocol: Protocol,
    /// For people.
    pub description: String,
    /// Who exports it.
    pub gateways: Vec<GatewayView>,
}

/// A gateway of a [`ServiceView`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GatewayView {
    /// Its name within the service's domain.
    pub name: String,
    /// Whether the service's health check passes there.
    pub healthy: bool,
    /// The hubs (`host:port`) through which it can be reached.
    pub hubs: Vec<String>,
}

impl Routes {
    /// The routes of all hubs as one. Usable hubs come first in each candidate's list.
    pub(crate) fn merge(hubs: &BTreeMap<Arc<str>, HubView>) -> Self {
        let mut merged = Self::default();
        let (usable, away): (Vec<_>, Vec<_>) = hubs.iter().partition(|(_, view)| view.usable);
        for (hub, view) in usable.into_iter().chain(away) {
            if view.usable {
                merged.usable.insert(hub.clone());
            } else {
                merged.away.insert(hub.clone(), view.why.clone());
            }
            merged.domains.extend(view.domains.iter().cloned());
            for route in &view.routes {
                merged.add(hub, view.usable, route);
            }
        }
        merged
    }

    fn add(&mut self, hub: &Arc<str>, usable: bool, route: &Route) {
        self.domains.insert(route.service.domain.clone());
        let service = self
            .services
            .entry(route.service.clone())
            .or_insert_with(|| Service {
                protocol: route.protocol,
                description: route.description.clone(),
                gateways: Vec::new(),
            });
        // Usable hubs come first and win where two disagree.
        if service.protocol != route.protocol {
            return;
        }
        for gateway in &route.gateways {
            let node = NodeId::gateway(route.service.domain.clone(), gateway.name.clone());
            match service.gateways.iter_mut().find(|c| c.node == node) {
                Some(known) => {
                    if usable {
                        known.healthy |= gateway.healthy;
                    }
                    known.hubs.push(hub.clone());
                }
                None => {
                    let healthy = gateway.healthy;
                    service.gateways.push(Candidate {
                        node,
                        healthy,
                        hubs: vec![hub.clone()],
                    });
                }
            }
        }
    }

    /// How `service` is called; none when no hub shows it.
    pub fn protocol(&self, service: &ServiceId) -> Option<Protocol> {
        self.services.get(service).map(|s| s.protocol)
    }

    /// The healthy gateways that export `service`, at least one.
    pub(crate) fn candidates(
        &self,
        service: &ServiceId,
        protocol: Protocol,
    ) -> Result<Vec<&Candidate>, Fault> {
        let Some(known) = self.services.get(service) else {
            return Err(self.unknown(service));
        };
        if known.protocol != protocol {
            return Err(faults::other_protocol(service, known.protocol));
        }
        if known.gateways.is_empty() {
            return Err(self.away_fault().unwrap_or_else(|| faults::no_gateway(service)));
        }
        let healthy: Vec<_> = known.gateways.iter().filter(|c| c.healthy).collect();
        if healthy.is_empty() {
            return Err(faults::no_healthy_gateway(service));
        }
        Ok(healthy)
    }

    fn unknown(&self, service: &ServiceId) -> Fault {
        if self.usable.is_empty() {
            return self.away_fault().unwrap_or_else(faults::no_hub);
        }
        if self.domains.contains(&service.domain) {
            faults::unknown_service(service)
        } else {
            faults::unknown_domain(&service.domain)
        }
    }

    /// The fault of having no usable hub; none when there is one, or none is known.
    pub(crate) fn away_fault(&self) -> Option<Fault> {
        if !self.usable.is_empty() {
            return None;
        }
        self.away
            .first_key_value()
            .map(|(hub, why)| faults::hub_not_connected(hub, why))
    }

    /// All services, for people's eyes.
    pub fn view(&self) -> Vec<ServiceView> {
        let called = self.services.iter().filter(|(id, _)| !id.name.is_callbacks());
        called
            .map(|(id, service)| ServiceView {
                service: id.clone(),
                protocol: service.protocol,
                description: service.description.clone(),
                gateways: service
                    .gateways
                    .iter()
                    .map(|c| GatewayView {
                        name: c.node.name.to_string(),
                        healthy: c.healthy,
                        hubs: c.hubs.iter().map(ToString::to_string).collect(),
                    })
                    .collect(),
            })
            .collect()
    }
}

/// The index of the one to ask: of two taken by chance, the one with less in flight (power of two choices). None when there
/// are none.
pub(crate) fn pick(loads: &[usize], chance: &Chance) -> Option<usize> {
    match loads.len() {
        0 => None,
        1 => Some(0),
        n => {
            let a = chance.below(n);
            let b = (a + 1 + chance.below(n - 1)) % n;
            Some(if loads[b] < loads[a] { b } else { a })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::control::RouteGateway;

    fn route(service: &str, protocol: Protocol, gateways: &[(&str, bool)]) -> Route {
        Route {
            service: service.parse().unwrap(),
            protocol,
            description: String::new(),
            gateways: gateways
                .iter()
                .map(|(name, healthy)| RouteGateway {
                    name: name.parse().unwrap(),
                    healthy: *healthy,
                })
                .collect(),
        }
    }

    fn view(usable: bool, routes: Vec<Route>, domains: &[&str]) -> HubView {
        let domains = domains.iter().map(|d| d.parse().unwrap()).collect();
        HubView {
            usable,
            why: "refused".into(),
            routes,
            domains,
        }
    }

    fn merged(hubs: Vec<(&str, HubView)>) -> Routes {
        Routes::merge(&hubs.into_iter().map(|(hub, view)| (hub.into(), view)).collect())
    }

    #[test]
    fn the_same_gateway_behind_two_hubs_is_one_candidate_usable_hub_first() {
        let routes = merged(vec![
            (
                "a:1",
                view(
                    false,
                    vec![route("orders.beta", Protocol::Http, &[("gw1", true)])],
                    &[],
                ),
            ),
            (
                "b:1",
                view(
                    true,
                    vec![route(
                        "orders.beta",
                        Protocol::Http,
                        &[("gw1", true), ("gw2", true)],
                    )],
                    &[],
                ),
            ),
        ]);
        let service: ServiceId = "orders.beta".parse().unwrap();
        let candidates = routes.candidates(&service, Protocol::Http).unwrap();
        assert_eq!(candidates.len(), 2);
        assert_eq!(candidates[0].hubs, vec![Arc::from("b:1"), Arc::from("a:1")]);
    }

    #[test]
    fn each_way_of_not_being_callable_has_its_own_fault() {
        let some = vec![
            route("orders.beta", Protocol::Http, &[("gw1", true)]),
            route("sick.beta", Protocol::Http, &[("gw1", false)]),
            route("db.beta", Protocol::Tcp, &[("gw1", true)]),
            route("gone.beta", Protocol::Http, &[]),
        ];
        let up = merged(vec![("a:1", view(true, some.clone(), &["beta"]))]);
        let down = merged(vec![("a:1", view(false, vec![], &[]))]);
        let code = |routes: &Routes, service: &str| {
            let fault = routes
                .candidates(&service.parse().unwrap(), Protocol::Http)
                .unwrap_err();
            (fault.code, fault.status, fault.place.as_str())
        };
        assert_eq!(
            code(&up, "other.beta"),
            ("unknown-service".into(), 404, "client-gateway")
        );
        assert_eq!(
            code(&up, "orders.gamma"),
            ("unknown-domain".into(), 404, "client-gateway")
        );
        assert_eq!(
            code(&up, "db.beta"),
            ("other-protocol".into(), 404, "client-gateway")
        );
        assert_eq!(
            code(&up, "sick.beta"),
            ("no-healthy-gateway".into(), 503, "origin")
        );
        assert_eq!(
            code(&up, "gone.beta"),
            ("no-gateway".into(), 503, "server-gateway")
        );
        assert_eq!(
            code(&down, "orders.beta"),
            ("hub-not-connected".into(), 503, "hub")
        );
        assert_eq!(
            code(&merged(vec![]), "orders.beta"),
            ("no-hub".into(), 503, "client-gateway")
        );
    }

    #[test]
    fn the_less_loaded_of_two_is_picked() {
        let chance = Chance::seeded(3);
        assert_eq!(pick(&[], &chance), None);
        assert_eq!(pick(&[9], &chance), Some(0));
        for _ in 0..100 {
            assert_eq!(pick(&[5, 1], &chance), Some(1));
        }
        let mut counts = [0; 3];
        for _ in 0..3000 {
            counts[pick(&[0, 0, 9], &chance).unwrap()] += 1;
        }
        assert_eq!(
            counts[2], 0,
            "the most loaded of three is never the better of two"
        );
        assert!(counts[0] > 1000 && counts[1] > 1000, "{counts:?}");
    }
}
