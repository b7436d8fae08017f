//! Hosts as network namespaces, or, without root, as addresses of the loopback range.

mod firewall;
mod host;
mod hypervisors;
mod sites;
pub(crate) mod sweep;
mod watch;
mod wire;

pub use firewall::{Exit, Firewall};
pub use host::Host;
pub use hypervisors::{BRIDGE, Hypervisor, Hypervisors, signal_one, tap};
pub use sites::{Plan, Site, Sites};
pub use watch::{Sighting, Stretch, Watch};
pub use wire::Link;

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

use crate::wait;

/// The namespaces of one run. Deleted, with every process in them, when dropped.
pub struct Network {
    prefix: String,
    namespaces: Vec<String>,
}

impl Network {
    /// An empty one. The first of a process sweeps what dead runs left behind.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep::once();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            prefix: format!("{}-{n}", sweep::owner()),
            namespaces: Vec::new(),
        })
    }

    /// A new namespace, with its loopback up. Interfaces that it gets speak IPv4 only: a kernel's own IPv6 would be noise in
    /// captures, and the addresses that it gives itself after seconds a change of network, for which browsers break off what they load.
    fn namespace(&mut self, short: &str) -> Result<String> {
        let name = format!("{}-{short}", self.prefix);
        ip(&format!("netns add {name}"))?;
        self.namespaces.push(name.clone());
        ip(&format!("-n {name} link set lo up"))?;
        Host::new(short, Ipv4Addr::UNSPECIFIED, Some(name.clone()))
            .enter(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"))?
            .ok();
        Ok(name)
    }

    /// Waits until the kernel has told every namespace that its cables carry: it does so later than they do.
    fn settled(&self) -> Result<()> {
        self.namespaces.iter().try_for_each(|name| {
            let what = format!("the interfaces of {name} to be up");
            wait::until(wait::SOON, &what, || {
                let links = said(&format!("-brief -n {name} link show up"))?;
                let mut states = links.lines().map(|line| line.split_ascii_whitespace());
                let settled = states.all(|mut link| link.next() == Some("lo") || link.next() == Some("UP"));
                Ok(settled.then_some(()))
            })
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.namespaces.drain(..) {
            sweep::remove(&name);
        }
    }
}

/// An address of the loopback range for one use: whoever takes a free port of 127.0.0.1 takes none of its.
pub fn own_loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., number] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + number % 128, high, low)
}

/// A loopback port that is free now, and below those that the system gives out by itself: nobody takes it before it is used.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const MANY: u32 = 10_000;
    loop {
        let n = std::process::id()
            .wrapping_mul(41)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + n % MANY) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<()> {
    said(words).map(drop)
}

/// The same; gives what it says.
fn said(words: &str) -> Result<String> {
    let out = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .context("ip (Debian: iproute2) cannot be run")?;
    ensure!(
        out.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(String::from_utf8(out.stdout)?)
}
