//! A source of alarms by WS-Eventing (`alarms.wsdl`), and its subscriber, whose client and sink `wsimport` generates from the WSDL.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;

use super::{Party, java, script};
use crate::Host;

/// Where a subscriber wants alarms, without scheme and host.
pub const ALARMS_TO: &str = "/alarms?desk=7";
/// Where it wants to hear that there will be no more.
pub const ENDS_TO: &str = "/ends?desk=7";

/// Starts a source (Python) at an address of a host. With a `proxy` it notifies through that web proxy.
///
/// Told `fire TEXT` it notifies its subscribers, told `cancel` it ends all subscriptions; then it says `done` with `order` and
/// `subscriptions`, how many there were. Of each message it says `posted` with `to` and `status`, of each request `subscribe` with
/// `notify_to` and `end_to`, or `renew` or `unsubscribe` with `to`, of each subscription that ends by itself `expired` with `notify_to`.
pub fn source(host: &Host, at: SocketAddr, proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    script(host, "alarm_source.py", &[&ip, &port], proxy, dir)
}

/// Starts a subscriber (Metro) on a host, for the source at a URL without a path, with its sink at an address.
///
/// Told `subscribe EXPIRES` it says `subscribed` with `manager` and `expires`; then, told `renew EXPIRES` or `unsubscribe`, `renewed`
/// with `expires` or `unsubscribed`; or `failed` with `why`. Of its sink it says `alarm` with `text`, and `ended` with `status` and
/// `manager`, both with `to`, `host`, `target` and `desk`, a reference parameter of its own.
pub fn subscriber(
    host: &Host,
    service: &str,
    sink: SocketAddr,
    proxy: Option<SocketAddr>,
    dir: &Path,
) -> Result<Party> {
    java(
        host,
        "AlarmClient",
        &[service, &format!("http://{sink}")],
        proxy,
        dir,
    )
}
