//! A hub and a gateway in one process: the form of two nodes without a hub of its own. Who starts the process speaks for both, so
//! that neither needs a token of the other, and the gateway reaches the hub on this machine, whatever name others know it by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use hawser_gateway::{
    admin,
    config::{Beside, GatewayPlan},
};
use hawser_hub::{HubConfig, HubPlan};
use hawser_identity::{Credentials, HubIdentity, IdentityError, prepare_dir};
use hawser_store::Store;

use crate::config::{Config, ConfigErrors};

/// What the gateway's table makes it do, with what it needs to know of the hub beside it. None without such a table.
pub(crate) fn gateway(config: &Config) -> anyhow::Result<Option<GatewayPlan>> {
    let Some(table) = &config.gateway else {
        return Ok(None);
    };
    let mut plan = table.check()?;
    if let Some(hub) = &config.hub {
        let hub = hub.check()?;
        plan.beside = hub.listen().first().map(|listen| Beside {
            hub: hub.public().clone(),
            at: reachable(*listen),
        });
    }
    Ok(Some(plan))
}

/// Makes the two known to each other, as `hawser token hub` and `hawser join` would; before the hub starts, and again whenever its
/// address may have changed.
pub(crate) async fn introduce(hub: &HubPlan, gateway: &GatewayPlan) -> anyhow::Result<()> {
    let own = Credentials::load(&gateway.state)?;
    let root = own.chain().last().ok_or(IdentityError::NoCertificate)?;
    prepare_dir(hub.state())?;
    let pin = HubIdentity::load_or_create(hub.state())?.pin();
    let store = Store::open(hub.state())
        .with_context(|| format!("the state in {} cannot be opened", hub.state().display()))?;
    hawser_hub::admit_own(&store, &own.id().domain, root).await?;
    admin::know_own_hub(&gateway.state, hub.public(), pin).await?;
    Ok(())
}

/// Where the two tables contradict each other.
pub(crate) fn contradictions(hub: &HubPlan, gateway: &GatewayPlan, errors: &mut ConfigErrors) {
    for listen in hub.listen() {
        for other in gateway.listeners().iter().filter(|other| overlap(listen, other)) {
            errors.add(format!(
                "hub.listen has {listen} and [gateway] listens on {other}: one port serves one of them; give the gateway another"
            ));
        }
    }
}

/// What is allowed but probably not meant: rules for others, and none for the gateway beside the hub.
pub(crate) fn warning(hub: &HubConfig, gateway: &GatewayPlan) -> Option<String> {
    if hub.allow.is_empty() {
        return None;
    }
    let domain = Credentials::load(&gateway.state).ok()?.id().domain.to_string();
    let named = hub
        .allow
        .iter()
        .any(|rule| [&rule.from, &rule.to].contains(&&domain));
    (!named).then(|| {
        format!(
            "no [[hub.allow]] rule names {domain}, the domain of the gateway beside the hub: it can neither call nor be called"
        )
    })
}

/// The address by which this machine reaches a listener of its own.
pub(crate) fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let (every, family) = (
        |a: &SocketAddr| a.ip().is_unspecified(),
        a.is_ipv4() == b.is_ipv4(),
    );
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || (family && (every(a) || every(b))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_could_not_be_bound_after_the_other() {
        for (a, b, expected) in [
            ("0.0.0.0:8443", "127.0.0.1:8443", true),
            ("10.0.0.1:8443", "0.0.0.0:8443", true),
            ("10.0.0.1:8443", "10.0.0.1:8443", true),
            ("10.0.0.1:8443", "10.0.0.2:8443", false),
            ("0.0.0.0:8443", "0.0.0.0:3128", false),
            ("0.0.0.0:8443", "[::1]:8443", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
        ] {
            assert_eq!(
                overlap(&a.parse().unwrap(), &b.parse().unwrap()),
                expected,
                "{a} {b}"
            );
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_the_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:8443", "127.0.0.1:8443"),
            ("[::]:8443", "[::1]:8443"),
            ("10.0.0.1:8443", "10.0.0.1:8443"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
