//! Which gateways are connected, what they export, and what each domain may see of it.
//!
//! Sans-I/O, in memory only: it is rebuilt from the gateways that connect. `H` is the shell's handle to a connection. Every
//! change of what anybody could see raises [`Registry::generation`]. Imports names, messages and the policy.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hawser_proto::{
    DomainName, HostName, NodeId, ServiceId, ServiceName, UnixTime,
    control::{JoinOffer, MAX_DESCRIPTION, MAX_PUBLISHED, MAX_SERVICES, Registration, Route, RouteGateway},
};

use crate::policy::Policy;

/// Most join offers that a gateway may have outstanding.
pub const MAX_JOINS: usize = 64;
/// Most bytes of routes in one message (estimated): well under the limit of a frame.
const MAX_ROUTES_BYTES: usize = hawser_proto::frame::MAX_FRAME / 2;

/// How many gateways may be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Of all domains.
    pub gateways: usize,
    /// Of one domain.
    pub per_domain: usize,
}

/// Tells one control connection from a later one of the same gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(u64);

/// What a gateway registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// What it exports.
    pub services: Vec<Registration>,
    /// Whether it issues certificates for its domain.
    pub issuer: bool,
    /// Whether it wants no new sessions.
    pub draining: bool,
    /// Whom it lets join.
    pub joins: Vec<JoinOffer>,
    /// Names under which it wants to be reached from outside.
    pub publishes: Vec<HostName>,
}

/// A connected gateway.
#[derive(Debug)]
pub struct Gateway<H> {
    /// Its identity.
    pub id: Arc<NodeId>,
    /// The shell's handle.
    pub handle: H,
    /// What it registered; none until it has.
    pub registered: Option<Registered>,
    connection: ConnectionId,
}

impl<H> Gateway<H> {
    /// Whether it may be asked for sessions.
    pub fn is_open(&self) -> bool {
        self.registered.as_ref().is_some_and(|r| !r.draining)
    }

    fn issues(&self) -> bool {
        self.registered.as_ref().is_some_and(|r| r.issuer && !r.draining)
    }
}

/// Why a connection or registration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The hub is full.
    #[error("{0} gateways are connected, and hub.limits.gateways allows no more")]
    Full(usize),
    /// The domain has its share.
    #[error("{0} gateways of the domain are connected, and hub.limits.gateways_per_domain allows no more")]
    DomainFull(usize),
    /// Another control connection of the same gateway has taken over.
    #[error("a newer control connection of the same gateway has taken over")]
    Replaced,
    /// Too many services.
    #[error("{0} services are registered, and a gateway may register {MAX_SERVICES}")]
    Services(usize),
    /// Too many join offers.
    #[error("{0} join offers are registered, and a gateway may register {MAX_JOINS}")]
    Joins(usize),
    /// Too many published names.
    #[error("{0} names are published, and a gateway may publish {MAX_PUBLISHED}")]
    Published(usize),
    /// A long description.
    #[error("the description of service {0} is over {MAX_DESCRIPTION} bytes")]
    Description(ServiceName),
    /// The same name twice.
    #[error("service {0} is registered twice by one gateway")]
    Twice(ServiceName),
}

/// What a domain may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Services that it may call, in order.
    pub routes: Vec<Route>,
    /// Domains that it may ask for sessions, in order.
    pub domains: Vec<DomainName>,
    /// Services left out because one message does not hold them all.
    pub left_out: usize,
}

/// All connected gateways.
#[derive(Debug)]
pub struct Registry<H> {
    limits: RegistryLimits,
    domains: BTreeMap<DomainName, BTreeMap<Arc<NodeId>, Gateway<H>>>,
    snapshots: HashMap<DomainName, Arc<Snapshot>>,
    generation: u64,
    connections: u64,
}

impl<H> Registry<H> {
    /// Nobody is connected.
    pub fn new(limits: RegistryLimits) -> Self {
        Self {
            limits,
            domains: BTreeMap::new(),
            snapshots: HashMap::new(),
            generation: 0,
            connections: 0,
        }
    }

    /// Other limits from now on; who is connected stays so.
    pub fn limit(&mut self, limits: RegistryLimits) {
        self.limits = limits;
    }

    /// A control connection is there. It replaces an earlier one of the same gateway, whose handle is given back; what that
    /// one registered stands until the new one registers.
    pub fn connect(
        &mut self,
        id: &Arc<NodeId>,
        handle: H,
    ) -> Result<(ConnectionId, Option<H>), RegistryError> {
        let total = self.len();
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let domain = self.domains.entry(id.domain.clone()).or_default();
        if let Some(gateway) = domain.get_mut(id) {
            gateway.connection = connection;
            return Ok((connection, Some(std::mem::replace(&mut gateway.handle, handle))));
        }
        let count = domain.len();
        let refused = if total >= self.limits.gateways {
            Some(RegistryError::Full(total))
        } else if count >= self.limits.per_domain {
            Some(RegistryError::DomainFull(count))
        } else {
            None
        };
        if let Some(error) = refused {
            if count == 0 {
                self.domains.remove(&id.domain);
            }
            return Err(error);
        }
        let gateway = Gateway {
            id: id.clone(),
            handle,
            registered: None,
            connection,
        };
        domain.insert(id.clone(), gateway);
        Ok((connection, None))
    }

    /// A gateway says all that it exports. Gives the services whose protocol another gateway of its domain registered
    /// otherwise: those are routed to one of the two kinds only.
    pub fn register(
        &mut self,
        id: &NodeId,
        connection: ConnectionId,
        registered: Registered,
    ) -> Result<Vec<ServiceName>, RegistryError> {
        check(&registered)?;
        let domain = self.domains.get_mut(&id.domain).ok_or(RegistryError::Replaced)?;
        let conflicts = conflicts(domain, id, &registered);
        let gateway = domain.get_mut(id).ok_or(RegistryError::Replaced)?;
        if gateway.connection != connection {
            return Err(RegistryError::Replaced);
        }
        if gateway.registered.as_ref() != Some(&registered) {
            gateway.registered = Some(registered);
            self.changed();
        }
        Ok(conflicts)
    }

    /// A control connection is gone. False when another has replaced it before.
    pub fn disconnect(&mut self, id: &NodeId, connection: ConnectionId) -> bool {
        let Some(domain) = self.domains.get_mut(&id.domain) else {
            return false;
        };
        if domain.get(id).is_none_or(|g| g.connection != connection) {
            return false;
        }
        let was_seen = domain.remove(id).is_some_and(|g| g.registered.is_some());
        if domain.is_empty() {
            self.domains.remove(&id.domain);
        }
        if was_seen {
            self.changed();
        }
        true
    }

    /// The gateway of this identity.
    pub fn gateway(&self, id: &NodeId) -> Option<&Gateway<H>> {
        self.domains.get(&id.domain)?.get(id)
    }

    /// A gateway of the domain that issues certificates, other than `but`. They take turns by `turn`.
    pub fn issuer(&self, domain: &DomainName, but: Option<&NodeId>, turn: u64) -> Option<&Gateway<H>> {
        let issuers: Vec<_> = self
            .domains
            .get(domain)?
            .values()
            .filter(|g| g.issues() && but != Some(&*g.id))
            .collect();
        let turn = (turn % issuers.len().max(1) as u64) as usize;
        issuers.get(turn).copied()
    }

    /// The issuer that offers to let the holder of a token join.
    pub fn joinable(&self, domain: &DomainName, hash: &[u8; 32], now: UnixTime) -> Option<&Gateway<H>> {
        self.domains
            .get(domain)?
            .values()
            .filter(|g| g.issues())
            .find(|g| {
                g.registered
                    .iter()
                    .flat_map(|r| &r.joins)
                    .any(|offer| &offer.hash == hash && offer.expires > now)
            })
    }

    /// A gateway of the domain that publishes the name and takes sessions. They take turns by `turn`.
    pub fn publisher(&self, domain: &DomainName, name: &HostName, turn: u64) -> Option<&Gateway<H>> {
        let publishers: Vec<_> = self
            .domains
            .get(domain)?
            .values()
            .filter(|g| g.is_open())
            .filter(|g| g.registered.iter().any(|r| r.publishes.contains(name)))
            .collect();
        let turn = (turn % publishers.len().max(1) as u64) as usize;
        publishers.get(turn).copied()
    }

    /// All gateways, by domain and name.
    pub fn gateways(&self) -> impl Iterator<Item = &Gateway<H>> {
        self.domains.values().flat_map(BTreeMap::values)
    }

    /// How many gateways are connected.
    pub fn len(&self) -> usize {
        self.domains.values().map(BTreeMap::len).sum()
    }

    /// Whether no gateway is connected.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Rises with every change of what somebody might see.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The policy is another, so everybody may see something else.
    pub fn changed(&mut self) {
        self.generation += 1;
        self.snapshots.clear();
    }

    /// What gateways of `viewer` may see. The same until the generation rises, so it is kept.
    pub fn snapshot(&mut self, viewer: &DomainName, policy: &Policy) -> Arc<Snapshot> {
        if let Some(snapshot) = self.snapshots.get(viewer) {
            return snapshot.clone();
        }
        let snapshot = Arc::new(self.see(viewer, policy));
        self.snapshots.insert(viewer.clone(), snapshot.clone());
        snapshot
    }

    fn see(&self, viewer: &DomainName, policy: &Policy) -> Snapshot {
        let domains: Vec<DomainName> = policy.callable(viewer).cloned().collect();
        let mut routes = Vec::new();
        // A domain's gateways always see how to reach each other.
        let own = (!domains.contains(viewer)).then_some(viewer);
        for name in domains.iter().chain(own) {
            if let Some(gateways) = self.domains.get(name) {
                routes.extend(of_domain(name, gateways, |s| policy.may_see(viewer, name, s)));
            }
        }
        let left_out = fit(&mut routes);
        Snapshot {
            routes,
            domains,
            left_out,
        }
    }
}

/// The services of one domain that pass the filter, in order of their names.
fn of_domain<H>(
    name: &DomainName,
    gateways: &BTreeMap<Arc<NodeId>, Gateway<H>>,
    may_see: impl Fn(&ServiceName) -> bool,
) -> Vec<Route> {
    let mut routes: BTreeMap<&ServiceName, Route> = BTreeMap::new();
    for gateway in gateways.values().filter(|g| g.is_open()) {
        for service in gateway.registered.iter().flat_map(|r| &r.services) {
            if !may_see(&service.name) {
                continue;
            }
            let route = routes.entry(&service.name).or_insert_with(|| Route {
                service: ServiceId {
                    name: service.name.clone(),
                    domain: name.clone(),
                },
                protocol: service.protocol,
                description: service.description.clone(),
                gateways: Vec::new(),
            });
            if route.protocol == service.protocol {
                route.gateways.push(RouteGateway {
                    name: gateway.id.name.clone(),
                    healthy: service.healthy,
                });
            }
        }
    }
    routes.into_values().collect()
}

/// Makes routes fit one message: first the descriptions go, then the last routes. Gives how many were left out.
fn fit(routes: &mut Vec<Route>) -> usize {
    if routes.iter().map(size).sum::<usize>() <= MAX_ROUTES_BYTES {
        return 0;
    }
    routes.iter_mut().for_each(|r| r.description.clear());
    let mut total = 0;
    let fitting = routes
        .iter()
        .take_while(|r| {
            total += size(r);
            total <= MAX_ROUTES_BYTES
        })
        .count();
    let left_out = routes.len() - fitting;
    routes.truncate(fitting);
    left_out
}

/// Bytes of a route in a message, with room for the framing of its parts.
fn size(route: &Route) -> usize {
    let names: usize = route.gateways.iter().map(|g| g.name.as_str().len() + 6).sum();
    route.service.name.as_str().len()
        + route.service.domain.as_str().len()
        + route.description.len()
        + names
        + 16
}

fn check(registered: &Registered) -> Result<(), RegistryError> {
    if registered.services.len() > MAX_SERVICES {
        return Err(RegistryError::Services(registered.services.len()));
    }
    if registered.publishes.len() > MAX_PUBLISHED {
        return Err(RegistryError::Published(registered.publishes.len()));
    }
    if registered.joins.len() > MAX_JOINS {
        return Err(RegistryError::Joins(registered.joins.len()));
    }
    let mut names = HashSet::new();
    for service in &registered.services {
        if service.description.len() > MAX_DESCRIPTION {
            return Err(RegistryError::Description(service.name.clone()));
        }
        if !names.insert(&service.name) {
            return Err(RegistryError::Twice(service.name.clone()));
        }
    }
    Ok(())
}

fn conflicts<H>(
    domain: &BTreeMap<Arc<NodeId>, Gateway<H>>,
    id: &NodeId,
    registered: &Registered,
) -> Vec<ServiceName> {
    let others: HashMap<_, _> = domain
        .values()
        .filter(|g| &*g.id != id)
        .flat_map(|g| g.registered.iter().flat_map(|r| &r.services))
        .map(|s| (&s.name, s.protocol))
        .collect();
    registered
        .services
        .iter()
        .filter(|s| others.get(&s.name).is_some_and(|p| *p != s.protocol))
        .map(|s| s.name.clone())
        .collect()
}

#[cfg(test)]
mod tests;
