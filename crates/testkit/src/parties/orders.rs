//! A service that takes orders (`orders.wsdl`), and its clients: the answer goes to the client's own listener, by WS-Addressing.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};

use super::{Happening, Party, build, gsoap, java, java_proxy, script};
use crate::{Host, curl::Curl};

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

/// Starts the service at an address of a host. With a `proxy` it calls back through that web proxy.
///
/// It says `request` with `message_id`, `to`, `reply_to`, `fault_to` and `host`.
pub fn server(
    stack: Stack,
    host: &Host,
    at: SocketAddr,
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    match stack {
        Stack::Metro => java(host, "OrdersServer", &[&format!("http://{at}")], proxy, dir),
        Stack::Gsoap => gsoap(host, "orders_server", &[&ip, &port], proxy, dir),
        Stack::Python => script(host, "orders_server.py", &[&ip, &port], proxy, dir),
    }
}

/// Starts a client on a host, for the service at a URL (without the variant), with a listener of its own at an address.
///
/// Told `place VARIANT ITEM COUNT`, it has the answer sent to the listener, and says `sent` with `message_id` and `status`, later
/// `answer` with `relates_to`, `action`, `to`, `host`, `target` and `said`, or `fault` with the same (a COUNT of 0). Told
/// `call VARIANT ITEM COUNT`, it waits for the answer on the connection, and says `called` with `order`.
pub fn client(
    stack: Stack,
    host: &Host,
    service: &str,
    listener: SocketAddr,
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    let (ip, port) = (listener.ip().to_string(), listener.port().to_string());
    match stack {
        Stack::Metro => {
            let own = format!("http://{listener}");
            java(host, "OrdersClient", &[service, &own], proxy, dir)
        }
        Stack::Gsoap => gsoap(host, "orders_client", &[service, &ip, &port], proxy, dir),
        Stack::Python => script(host, "orders_client.py", &[service, &ip, &port], proxy, dir),
    }
}

/// Has `wsimport` on a host generate a client from the WSDL that a service serves at a URL, and that client place an order: `called` with
/// `order`. Where the service is, the generated code knows from the WSDL alone.
pub fn generated(host: &Host, wsdl: &str, proxy: Option<SocketAddr>) -> Result<Happening> {
    let mut fetch = Curl::new(host, wsdl);
    if let Some(proxy) = proxy {
        fetch = fetch.proxy(proxy);
    }
    let text = fetch.expect(200)?.body;
    let options = java_proxy(proxy).join(" ");
    let path = build::generated(host, wsdl, &text, &options)?;
    let mut java = host.command("java");
    let out = build::with_options(&mut java, &options)
        .args(["-cp", &path, "OrderOnce"])
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(
        out.status.success(),
        "{}: {said}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Happening::parse(said.trim()).with_context(|| format!("not one line of JSON: {said}"))
}

/// Where a client wants the answer to `place VARIANT ITEM …`, without scheme and host.
pub fn answers_to(variant: &str, item: &str) -> String {
    format!("/answers/{variant}?client=7&for={item}")
}

/// Where it wants a fault.
pub fn faults_to(variant: &str, item: &str) -> String {
    format!("/faults/{variant}?client=7&for={item}")
}
