//! The firewall between a domain's network and the public one: no connection comes in, and only one leads out.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::Host;

/// Who may go out, and where to.
#[derive(Debug, Clone, Copy)]
pub enum Exit {
    /// Every host of the domain, to the hub's port and nowhere else.
    Hub(SocketAddr),
    /// Only this host (the web proxy), to the hub's port and nowhere else.
    ProxyOnly(IpAddr, SocketAddr),
}

/// nftables on the router of a domain. Its rules can be taken away, for the control that shows what they do.
pub struct Firewall {
    host: Host,
    exit: Exit,
}

impl Firewall {
    /// Puts the rules in force. Interfaces of the router: `lan` inside, `wan` outside.
    pub fn new(host: Host, exit: Exit) -> Result<Self> {
        let own = Self { host, exit };
        own.on()?;
        Ok(own)
    }

    /// The router on which it is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Puts the rules in force; counters start at zero.
    pub fn on(&self) -> Result<()> {
        let out = match self.exit {
            Exit::Hub(hub) => format!("ip daddr {} tcp dport {}", hub.ip(), hub.port()),
            Exit::ProxyOnly(proxy, hub) => {
                format!("ip saddr {proxy} ip daddr {} tcp dport {}", hub.ip(), hub.port())
            }
        };
        self.load(&format!(
            r#"flush ruleset
table inet hawser {{
    counter inbound {{ }}
    counter refused_out {{ }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "wan" ct state new counter name "inbound" drop
        iifname "lan" oifname "wan" {out} accept
        iifname "lan" oifname "lan" accept
        counter name "refused_out"
    }}
    chain input {{
        type filter hook input priority 0; policy drop;
        iifname "lo" accept
        iifname "lan" accept
        ct state established,related accept
        ct state new counter name "inbound" drop
    }}
}}
"#
        ))
    }

    /// Takes all rules away: everything may pass, in both directions.
    pub fn off(&self) -> Result<()> {
        self.load("flush ruleset\n")
    }

    /// Packets of inbound connections that were dropped since the rules came on.
    pub fn inbound_dropped(&self) -> Result<u64> {
        self.counter("inbound")
    }

    /// Packets from inside to anywhere but the allowed way out that were dropped since the rules came on.
    pub fn outbound_dropped(&self) -> Result<u64> {
        self.counter("refused_out")
    }

    fn counter(&self, name: &str) -> Result<u64> {
        let text = self
            .host
            .run("nft", &["-j", "list", "counter", "inet", "hawser", name])?;
        let json: serde_json::Value = serde_json::from_str(&text).context("nft -j printed no JSON")?;
        json["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|o| o["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter {name} in {text}"))
    }

    fn load(&self, rules: &str) -> Result<()> {
        let mut nft: Command = self.host.command("nft");
        let mut child = nft
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("nft has no standard input")?
            .write_all(rules.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(
            out.status.success(),
            "nft refused the rules: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }
}
