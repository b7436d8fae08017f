//! Two hosts for virtual machines, and the networks around them.
//!
//! ```text
//!  client ─────┐                              10.77.0.0/24: what the guests are on, one layer 2
//!           switch ══ uplink ══ br0 [host-a] replica ── replica [host-b] br0 ══ uplink ══ switch
//!                                   │          10.78.0.0/24           │
//!                                  hub ─────────── hub ──────────────hub
//!                                              10.79.0.0/24
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Host, Link, Network,
    wire::{address, bridge, host, join, namespace},
};

/// Name of the bridge on each hypervisor host.
pub const BRIDGE: &str = "br0";

/// A host for virtual machines. Its own address is the one on the replication network.
pub struct Hypervisor {
    /// The host.
    pub host: Host,
    /// Its address on the hub's network.
    pub management: IpAddr,
    /// Between its bridge and the switch; the switch's port has the host's name.
    pub uplink: Link,
    /// Between it and the hub.
    pub to_hub: Link,
}

/// All of it. Ends, with every process in it, when dropped.
pub struct Hypervisors {
    /// The first host.
    pub a: Hypervisor,
    /// The second host.
    pub b: Hypervisor,
    /// The replication network between the two: one cable.
    pub replication: Link,
    /// The hub's host.
    pub hub: Host,
    /// Where clients of the guests run; 10.77.0.100.
    pub client: Host,
    /// The switch between guests and clients.
    pub switch: Host,
    // Last, so that it goes last.
    _network: Network,
}

const HUB_PORT: u16 = 8443;

impl Hypervisors {
    /// An address for a guest.
    pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

    /// Builds it; needs root.
    pub fn build() -> Result<Self> {
        let mut network = Network::new()?;
        let switch = host(&mut network, "switch", Ipv4Addr::UNSPECIFIED)?;
        bridge(&switch, BRIDGE)?;
        let hub = host(&mut network, "hub", Ipv4Addr::new(10, 79, 0, 10))?;
        bridge(&hub, BRIDGE)?;
        address(&hub, BRIDGE, "10.79.0.10/24")?;
        let client = host(&mut network, "client", Ipv4Addr::new(10, 77, 0, 100))?;
        Link::lay((&client, "eth0"), (&switch, "client"))?;
        join(&switch, "client", BRIDGE)?;
        address(&client, "eth0", "10.77.0.100/24")?;
        let a = Hypervisor::build(&mut network, "host-a", 1, &switch, &hub)?;
        let b = Hypervisor::build(&mut network, "host-b", 2, &switch, &hub)?;
        let replication = Link::lay((&a.host, "replica"), (&b.host, "replica"))?;
        address(&a.host, "replica", "10.78.0.1/24")?;
        address(&b.host, "replica", "10.78.0.2/24")?;
        Ok(Self {
            a,
            b,
            replication,
            hub,
            client,
            switch,
            _network: network,
        })
    }

    /// The hub's address and port.
    pub fn hub_at(&self) -> SocketAddr {
        self.hub.at(HUB_PORT)
    }

    /// The guest's address for [`crate::vm::Spec::ip`].
    pub fn guest_ip() -> String {
        format!("{}/24", Self::GUEST)
    }

    /// Where the guest's server is, for [`Self::client`].
    pub fn guest_kv() -> SocketAddr {
        SocketAddr::new(Self::GUEST.into(), crate::vm::KV_PORT)
    }

    /// A host without a warning: every cable of it goes silent, then every process on it is killed. Nobody gets a reset.
    pub fn power_off(&self, hypervisor: &Hypervisor) -> Result<()> {
        self.isolate(hypervisor)?;
        hypervisor.signal_all(Signal::KILL)
    }

    /// Cuts every cable of a host.
    pub fn isolate(&self, hypervisor: &Hypervisor) -> Result<()> {
        hypervisor.uplink.cut()?;
        hypervisor.to_hub.cut()?;
        self.replication.cut()
    }

    /// Takes every fault off every cable.
    pub fn mend(&self) -> Result<()> {
        for one in [&self.a, &self.b] {
            one.uplink.mend()?;
            one.to_hub.mend()?;
        }
        self.replication.mend()
    }
}

impl Hypervisor {
    fn build(network: &mut Network, name: &str, number: u8, switch: &Host, hub: &Host) -> Result<Self> {
        let own = host(network, name, Ipv4Addr::new(10, 78, 0, number))?;
        bridge(&own, BRIDGE)?;
        let uplink = Link::lay((&own, "uplink"), (switch, name))?;
        join(&own, "uplink", BRIDGE)?;
        join(switch, name, BRIDGE)?;
        let to_hub = Link::lay((&own, "hub"), (hub, name))?;
        join(hub, name, BRIDGE)?;
        let management = Ipv4Addr::new(10, 79, 0, number);
        address(&own, "hub", &format!("{management}/24"))?;
        Ok(Self {
            host: own,
            management: management.into(),
            uplink,
            to_hub,
        })
    }

    /// Makes a tap on the bridge, as for a machine to come. One that is there stays.
    pub fn tap(&self, name: &str) -> Result<()> {
        tap(&self.host, name, BRIDGE)
    }

    /// Every process on this host: its id and its name, as in `qemu-system-x86`.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let out = Command::new("ip")
            .args(["netns", "pids", namespace(&self.host)?])
            .output()?;
        let own = std::process::id();
        let ids = String::from_utf8_lossy(&out.stdout).into_owned();
        let ids = ids
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .filter(|id| *id != own);
        Ok(ids
            .filter_map(|id| {
                Some((
                    id,
                    fs::read_to_string(format!("/proc/{id}/comm")).ok()?.trim().into(),
                ))
            })
            .collect())
    }

    /// The processes whose name begins with this: `qemu-system`, `hawser`.
    pub fn named(&self, name: &str) -> Result<Vec<u32>> {
        let all = self.processes()?.into_iter();
        Ok(all
            .filter(|(_, comm)| comm.starts_with(name))
            .map(|(id, _)| id)
            .collect())
    }

    /// Sends a signal to everything on this host: `KILL`, `STOP`, `CONT`.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        for (id, _) in self.processes()? {
            signal_one(id, signal)?;
        }
        Ok(())
    }
}

/// Sends a signal to a process that somebody else started. One that is gone already is no failure.
pub fn signal_one(id: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .context("no such process id")?;
    match kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other.with_context(|| format!("cannot signal process {id}")),
    }
}

/// Makes a tap on a bridge of a host. One that is there stays.
pub fn tap(host: &Host, name: &str, bridge: &str) -> Result<()> {
    if host.run("ip", &["link", "show", "dev", name]).is_err() {
        host.run("ip", &["tuntap", "add", name, "mode", "tap"])?;
    }
    host.run("ip", &["link", "set", name, "master", bridge])?;
    host.run("ip", &["link", "set", name, "up"])?;
    Ok(())
}
