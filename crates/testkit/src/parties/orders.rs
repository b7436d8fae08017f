//! A service that takes orders (`orders.wsdl`), and its clients: the answer goes to the client's own listener, by WS-Addressing.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::Path,
};

use anyhow::Result;

use super::{Party, build};
use crate::{Host, origin::python};

/// Who made the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// Metro, the reference implementation of JAX-WS, at both ends.
    Metro,
    /// gSOAP with its plugin for WS-Addressing, at both ends.
    Gsoap,
    /// zeep as client, spyne as server.
    Python,
}

impl Stack {
    /// What its service speaks, each at a path of this name: `soap11` and `soap12` with WS-Addressing 2005/08, `member` with
    /// 2004/08 over SOAP 1.1.
    pub fn variants(self) -> &'static [&'static str] {
        match self {
            Self::Metro => &["soap11", "soap12", "member"],
            Self::Gsoap | Self::Python => &["soap11"],
        }
    }
}

/// A running service. It says `request` with `message_id`, `to`, `reply_to`, `fault_to` and `host`.
pub struct OrdersServer(Party);

impl OrdersServer {
    /// Starts it at a port of a host. With a `proxy` it calls back through that web proxy.
    pub fn start(
        stack: Stack,
        host: &Host,
        at: SocketAddr,
        proxy: Option<SocketAddr>,
        dir: &Path,
    ) -> Result<Self> {
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let party = match stack {
            Stack::Metro => java(host, "OrdersServer", &[&format!("http://{at}")], proxy, dir),
            Stack::Gsoap => gsoap(host, "orders_server", &[&ip, &port], proxy, dir),
            Stack::Python => script(host, "orders_server.py", &[&ip, &port], proxy, dir),
        };
        party.map(Self)
    }
}

/// A running client with a listener of its own.
///
/// Told `place VARIANT ITEM COUNT`, it has the answer sent to the listener, and says `sent` with `message_id` and `status`, later
/// `answer` with `relates_to`, `action`, `to`, `host`, `target` and `said`, or `fault` (a COUNT of 0). Told `call VARIANT ITEM COUNT`,
/// it waits for the answer on the connection, and says `called` with `order`.
pub struct OrdersClient(Party);

impl OrdersClient {
    /// Starts it on a host, for the service at a URL (without the variant), with its listener at an address.
    pub fn start(
        stack: Stack,
        host: &Host,
        service: &str,
        listener: SocketAddr,
        proxy: Option<SocketAddr>,
        dir: &Path,
    ) -> Result<Self> {
        let (ip, port) = (listener.ip().to_string(), listener.port().to_string());
        let party = match stack {
            Stack::Metro => {
                let own = format!("http://{listener}");
                java(host, "OrdersClient", &[service, &own], proxy, dir)
            }
            Stack::Gsoap => gsoap(host, "orders_client", &[service, &ip, &port], proxy, dir),
            Stack::Python => script(host, "orders_client.py", &[service, &ip, &port], proxy, dir),
        };
        party.map(Self)
    }

    /// Where answers to `place VARIANT ITEM …` are to go, without scheme and host.
    pub fn answers_to(variant: &str, item: &str) -> String {
        format!("/answers/{variant}?client=7&for={item}")
    }

    /// Where faults are to go.
    pub fn faults_to(variant: &str, item: &str) -> String {
        format!("/faults/{variant}?client=7&for={item}")
    }
}

/// Starts a Java program.
pub(super) fn java(
    host: &Host,
    class: &str,
    args: &[&str],
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    let path = build::java()?;
    let mut all: Vec<String> = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m"]
        .map(Into::into)
        .into();
    if let Some(at) = proxy {
        all.push(format!("-Dhttp.proxyHost={}", at.ip()));
        all.push(format!("-Dhttp.proxyPort={}", at.port()));
    }
    all.extend(["-cp".into(), path, class.into()]);
    let all: Vec<_> = all
        .iter()
        .map(String::as_str)
        .chain(args.iter().copied())
        .collect();
    Party::start(host, Path::new("java"), &all, dir)
}

/// Starts a Python program.
pub(super) fn script(
    host: &Host,
    name: &str,
    args: &[&str],
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    let path = build::sources().join("python").join(name).display().to_string();
    let proxy = proxy.map(|at| at.to_string());
    let mut all = vec![path.as_str()];
    all.extend(args.iter().copied().chain(proxy.as_deref()));
    Party::start(host, Path::new(&python::interpreter()?), &all, dir)
}

fn gsoap(host: &Host, name: &str, args: &[&str], proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let proxy = proxy.map(|at| at.to_string());
    let all: Vec<_> = args.iter().copied().chain(proxy.as_deref()).collect();
    Party::start(host, &build::gsoap()?.join(name), &all, dir)
}

impl Deref for OrdersServer {
    type Target = Party;

    fn deref(&self) -> &Party {
        &self.0
    }
}

impl DerefMut for OrdersServer {
    fn deref_mut(&mut self) -> &mut Party {
        &mut self.0
    }
}

impl Deref for OrdersClient {
    type Target = Party;

    fn deref(&self) -> &Party {
        &self.0
    }
}

impl DerefMut for OrdersClient {
    fn deref_mut(&mut self) -> &mut Party {
        &mut self.0
    }
}
