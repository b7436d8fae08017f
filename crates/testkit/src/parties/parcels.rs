//! A service with a callback, described by OpenAPI (`parcels.json`), and a client that `openapi-generator-cli` generates.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};

use super::{Party, build, script};
use crate::Host;

/// Where a client wants to be called back, without scheme and host.
pub const MOVES_TO: &str = "/moves?client=7";

/// Starts the service at an address of a host; its description is at `/openapi.json`. With a `proxy` it calls back through that web proxy.
///
/// It says `subscribe` with `id`, `callback_url` and `parcel`. Told `move PARCEL PLACE`, it says `posted` with `to`, `status` and `place` of
/// each callback, then `done` with `place` and `subscriptions`, how many there were.
pub fn service(host: &Host, at: SocketAddr, proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    script(host, "parcel_service.py", &[&ip, &port], proxy, dir)
}

/// Generates a client from this description and starts it on a host, with a listener of its own at an address. Where the service is, the
/// client knows from the description alone.
///
/// Told `subscribe PARCEL`, it says `subscribed` with `id`, `parcel` and `host`, the service's URL; told `unsubscribe ID`, `unsubscribed`
/// with `id`; `failed` with `why` if that failed. Called back, it says `moved` with `parcel`, `place`, `target` and `host`.
pub fn client(
    host: &Host,
    description: &[u8],
    listener: SocketAddr,
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    let generated = build::parcels(description)?;
    let generated = generated.to_str().context("the path is no text")?;
    let (ip, port) = (listener.ip().to_string(), listener.port().to_string());
    script(host, "parcel_client.py", &[generated, &ip, &port], proxy, dir)
}
