//! Signed webhooks as GitHub sends them, and a receiver that verifies the signature over the very bytes.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;

use super::{Party, script};
use crate::Host;

/// Starts a sender at an address of a host. With a `proxy` it sends through that web proxy.
///
/// It says `hook` with `id` and `url`, which it took from `/config/url` of a JSON body, and pings it. Told `push BRANCH`, it sends to every
/// hook. Of what it sent it says `delivered` with `kind` (`ping`, `push`), `delivery`, `status` and `sha256`.
pub fn forge(host: &Host, at: SocketAddr, proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    script(host, "forge.py", &[&ip, &port], proxy, dir)
}

/// Starts a receiver on a host, for the sender at a URL without a path, with a listener of its own at an address.
///
/// Told `hook KIND` (`json` or `form`), it makes a hook and says `hooked` with `kind` and `status`. Of what comes it says `delivery` with
/// `kind`, `delivery`, `valid` (`yes` or `no`), `sha256`, `target`, `host` and `content_type`.
pub fn receiver(
    host: &Host,
    service: &str,
    listener: SocketAddr,
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    let (ip, port) = (listener.ip().to_string(), listener.port().to_string());
    script(host, "hook_client.py", &[service, &ip, &port], proxy, dir)
}

/// Where a receiver wants deliveries of a kind, without scheme and host.
pub fn hooks_to(kind: &str) -> String {
    format!("/hooks/{kind}?client=7")
}
