//! What can be called, merged over all hubs. Pure data: who may be asked for which service.

use std::{collections::BTreeMap, sync::Arc};

use hawser_proto::{NodeId, ServiceId, control::Protocol};

/// Every service that some hub shows to this gateway. An immutable snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// By name.
    pub services: BTreeMap<ServiceId, Service>,
}

impl Routes {
    /// How `service` is called; none when no hub shows it.
    pub fn protocol(&self, service: &ServiceId) -> Option<Protocol> {
        self.services.get(service).map(|s| s.protocol)
    }
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
