//! A cable between two hosts, and what can go wrong with it.

use std::{io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};

use super::{Host, Network, ip};

/// A cable. Faults are put on it and taken off again; frames that it loses are lost without a trace, as on a real one.
#[derive(Clone)]
pub struct Link {
    ends: [End; 2],
}

#[derive(Clone)]
struct End {
    host: Host,
    interface: String,
}

impl Link {
    /// Lays a cable: an interface on each of two hosts, both up.
    pub(super) fn lay(near: (&Host, &str), far: (&Host, &str)) -> Result<Self> {
        let end = |(host, interface): (&Host, &str)| End {
            host: host.clone(),
            interface: interface.into(),
        };
        let (from, to) = (namespace(near.0)?, namespace(far.0)?);
        ip(&format!(
            "-n {from} link add {} type veth peer name {} netns {to}",
            near.1, far.1
        ))?;
        ip(&format!("-n {from} link set {} up", near.1))?;
        ip(&format!("-n {to} link set {} up", far.1))?;
        Ok(Self {
            ends: [end(near), end(far)],
        })
    }

    /// Loses every frame, in both directions.
    pub fn cut(&self) -> Result<()> {
        self.ends.iter().try_for_each(|end| end.lose(100))
    }

    /// Loses this share of the frames that go to one of the two hosts, in percent. The other direction stays as it is.
    pub fn lose_toward(&self, host: &Host, percent: u32) -> Result<()> {
        let end = self.ends.iter().find(|end| end.host.name() == host.name());
        end.with_context(|| format!("{} is not at this cable", host.name()))?
            .lose(percent)
    }

    /// Pulls the plug: both hosts see that there is no carrier.
    pub fn unplug(&self) -> Result<()> {
        self.ends[0].set("down")
    }

    /// Takes every fault off.
    pub fn mend(&self) -> Result<()> {
        self.ends[0].set("up")?;
        self.ends.iter().try_for_each(|end| end.lose(0))
    }
}

impl End {
    fn set(&self, state: &str) -> Result<()> {
        ip(&format!(
            "-n {} link set {} {state}",
            namespace(&self.host)?,
            self.interface
        ))
    }

    /// What arrives here is dropped before anything else sees it: an address, a bridge, a capture of the host's own.
    fn lose(&self, percent: u32) -> Result<()> {
        let (name, table) = (
            &self.interface,
            format!("netdev fault_{}", self.interface.replace('-', "_")),
        );
        let mut rules = format!("add table {table}\ndelete table {table}\n");
        if percent > 0 {
            let which = if percent < 100 {
                format!("numgen random mod 100 < {percent} ")
            } else {
                String::new()
            };
            rules += &format!(
                "table {table} {{\nchain in {{\ntype filter hook ingress device \"{name}\" priority 0\n{which}drop\n}}\n}}\n"
            );
        }
        let mut nft = self
            .host
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        nft.stdin
            .take()
            .context("nft has no standard input")?
            .write_all(rules.as_bytes())?;
        let out = nft.wait_with_output()?;
        ensure!(
            out.status.success(),
            "nft on {}: {}",
            self.host.name(),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }
}

/// Makes a bridge on a host that has nothing to do with spanning trees or multicast groups.
pub(super) fn bridge(host: &Host, name: &str) -> Result<()> {
    let ns = namespace(host)?;
    ip(&format!(
        "-n {ns} link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    ))?;
    ip(&format!("-n {ns} link set {name} up"))
}

/// Puts an interface on a bridge.
pub(super) fn join(host: &Host, interface: &str, bridge: &str) -> Result<()> {
    ip(&format!(
        "-n {} link set {interface} master {bridge}",
        namespace(host)?
    ))
}

/// Gives an interface an address, as in `10.0.0.1/24`.
pub(super) fn address(host: &Host, interface: &str, address: &str) -> Result<()> {
    ip(&format!(
        "-n {} addr add {address} dev {interface}",
        namespace(host)?
    ))
}

/// A host in a namespace of its own.
pub(super) fn host(network: &mut Network, name: &str, address: std::net::Ipv4Addr) -> Result<Host> {
    let namespace = network.namespace(name)?;
    Ok(Host::new(name, address, Some(namespace)))
}

pub(super) fn namespace(host: &Host) -> Result<&str> {
    host.namespace()
        .with_context(|| format!("{} has no network of its own", host.name()))
}
