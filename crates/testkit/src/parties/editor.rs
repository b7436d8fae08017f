//! A web application that edits documents where they lie: on a WebDAV server, which may be in its users' network rather than its own.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;

use super::{Party, script};
use crate::Host;

/// Starts it at an address of a host, for the collection of documents at the URL `files`, which it reaches by a web proxy.
///
/// What was refused by a problem document it tells its user, and says `problem` with `status` and `detail`.
pub fn editor(host: &Host, at: SocketAddr, files: &str, proxy: SocketAddr, dir: &Path) -> Result<Party> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    script(host, "editor.py", &[&ip, &port, files], Some(proxy), dir)
}
