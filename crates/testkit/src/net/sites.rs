//! The standard map: a public network with the hub in it, and firewalled domains around it.
//!
//! ```text
//!   app ──┐                                               ┌── app
//!   gw1 ──┼─ lan [firewall] wan ── net (router) ── wan [firewall] lan ─┼─ gw1
//!  proxy ─┘                          │                    └── proxy
//!                                   hub
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::{Exit, Firewall, Host, Network, ip};

const HUB_PORT: u16 = 8443;

/// What to build.
pub struct Plan<'a> {
    /// Names of the domains, at most nine.
    pub domains: &'a [&'a str],
    /// Gateways in each.
    pub gateways: usize,
    /// Whether only the web proxy of a domain may go out.
    pub proxy_only: bool,
}

/// One firewalled domain.
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its network, as `ADDRESS/BITS`.
    pub network: String,
    /// Where its gateways run.
    pub gateways: Vec<Host>,
    /// Where its applications and clients run.
    pub app: Host,
    /// Where its web proxy runs, if it has one.
    pub proxy: Host,
    /// Between it and the public network; none on the loopback.
    pub firewall: Option<Firewall>,
}

/// All of it. Ends when dropped.
pub struct Sites {
    /// The public network's router; here it stands for anybody out there.
    pub net: Host,
    /// The hub's host.
    pub hub: Host,
    /// The domains, in the order of the plan.
    pub domains: Vec<Site>,
    // Last, so that it goes last.
    _network: Option<Network>,
}

impl Sites {
    /// Builds it of namespaces (root) or of loopback addresses (anybody).
    pub fn build(plan: &Plan) -> Result<Self> {
        if rustix::process::geteuid().is_root() {
            Self::namespaces(plan)
        } else {
            Ok(Self::on_loopback(plan))
        }
    }

    /// Whether these are real networks; if not, everything is on the loopback and no firewall is there.
    pub fn are_namespaces(&self) -> bool {
        self.hub.namespace().is_some()
    }

    /// The hub's address and port.
    pub fn hub_at(&self) -> SocketAddr {
        self.hub.at(HUB_PORT)
    }

    fn namespaces(plan: &Plan) -> Result<Self> {
        let mut network = Network::new()?;
        let net_ns = network.namespace("net")?;
        let net_address = Ipv4Addr::new(203, 0, 113, 1);
        let net = Host::new("net", net_address, Some(net_ns.clone()));
        net.forward()?;

        let hub_address = Ipv4Addr::new(203, 0, 113, 2);
        let hub_ns = network.namespace("hub")?;
        wire(
            &hub_ns,
            "wan",
            hub_address,
            24,
            &net_ns,
            "to-hub",
            Some(net_address),
        )?;
        ip(&format!("-n {hub_ns} route add default via {net_address}"))?;
        let hub = Host::new("hub", hub_address, Some(hub_ns));

        let mut domains = Vec::new();
        for (i, name) in plan.domains.iter().enumerate() {
            domains.push(site(&mut network, plan, name, i, &net_ns, hub.at(HUB_PORT))?);
        }
        network.settled()?;
        Ok(Self {
            net,
            hub,
            domains,
            _network: Some(network),
        })
    }

    /// Builds it of loopback addresses, for anybody.
    pub fn on_loopback(plan: &Plan) -> Self {
        let host = |name: &str, net, last| Host::new(name, Ipv4Addr::new(127, 10, net, last), None);
        let domain = |(i, name): (usize, &&str)| {
            let n = number(i);
            Site {
                name: (*name).into(),
                network: format!("127.10.{n}.0/24"),
                gateways: (1..=plan.gateways)
                    .map(|g| host(&format!("{name}-gw{g}"), n, GATEWAYS + octet(g)))
                    .collect(),
                app: host(&format!("{name}-app"), n, APP),
                proxy: host(&format!("{name}-proxy"), n, PROXY),
                firewall: None,
            }
        };
        Self {
            net: host("net", 0, 1),
            hub: host("hub", 0, 2),
            domains: plan.domains.iter().enumerate().map(domain).collect(),
            _network: None,
        }
    }
}

const PROXY: u8 = 3;
const GATEWAYS: u8 = 10;
const APP: u8 = 100;

fn octet(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn number(i: usize) -> u8 {
    octet(i + 1)
}

fn site(
    network: &mut Network,
    plan: &Plan,
    name: &str,
    i: usize,
    net_ns: &str,
    hub: SocketAddr,
) -> Result<Site> {
    let n = number(i);
    let fw_ns = network.namespace(&format!("{name}-fw"))?;
    let (outer, inner) = (
        Ipv4Addr::new(198, 51, 100, 4 * n + 1),
        Ipv4Addr::new(198, 51, 100, 4 * n + 2),
    );
    wire(
        &fw_ns,
        "wan",
        inner,
        30,
        net_ns,
        &format!("to-{name}"),
        Some(outer),
    )?;
    ip(&format!("-n {fw_ns} route add default via {outer}"))?;

    let lan = Ipv4Addr::new(10, n, 0, 1);
    ip(&format!("-n {fw_ns} link add lan type bridge"))?;
    ip(&format!("-n {fw_ns} addr add {lan}/24 dev lan"))?;
    ip(&format!("-n {fw_ns} link set lan up"))?;
    ip(&format!("-n {net_ns} route add 10.{n}.0.0/24 via {inner}"))?;
    let firewall_host = Host::new(&format!("{name}-fw"), inner, Some(fw_ns.clone()));
    firewall_host.forward()?;

    let mut host = |short: &str, last: u8| -> Result<Host> {
        let full = format!("{name}-{short}");
        let ns = network.namespace(&full)?;
        let address = Ipv4Addr::new(10, n, 0, last);
        wire(&ns, "lan", address, 24, &fw_ns, short, None)?;
        ip(&format!("-n {fw_ns} link set {short} master lan"))?;
        ip(&format!("-n {ns} route add default via {lan}"))?;
        Ok(Host::new(&full, address, Some(ns)))
    };
    let gateways = (1..=plan.gateways)
        .map(|g| host(&format!("gw{g}"), GATEWAYS + octet(g)))
        .collect::<Result<_>>()?;
    let app = host("app", APP)?;
    let proxy = host("proxy", PROXY)?;

    let exit = if plan.proxy_only {
        Exit::ProxyOnly(IpAddr::from([10, n, 0, PROXY]), hub)
    } else {
        Exit::Hub(hub)
    };
    let firewall = Some(Firewall::new(firewall_host, exit)?);
    Ok(Site {
        name: name.into(),
        network: format!("10.{n}.0.0/24"),
        gateways,
        app,
        proxy,
        firewall,
    })
}

/// A cable: interface `near` with an address in one namespace, `far` in the other.
fn wire(
    ns: &str,
    near: &str,
    address: Ipv4Addr,
    bits: u8,
    far_ns: &str,
    far: &str,
    far_address: Option<Ipv4Addr>,
) -> Result<()> {
    ip(&format!(
        "-n {ns} link add {near} type veth peer name {far} netns {far_ns}"
    ))?;
    ip(&format!("-n {ns} addr add {address}/{bits} dev {near}"))?;
    if let Some(a) = far_address {
        ip(&format!("-n {far_ns} addr add {a}/{bits} dev {far}"))?;
    }
    ip(&format!("-n {ns} link set {near} up"))?;
    ip(&format!("-n {far_ns} link set {far} up"))
}
