//! Two-way services of other makers. A scenario is a function over a [`Stage`], so that it is the same on a plain network, which is
//! what the tests here show, and through gateways.

mod alarms;
mod direct;
mod hostile;
mod orders;
mod parcels;
mod redirects;
mod shared;
mod tunnel;
mod webhooks;

use std::{net::SocketAddr, path::Path};

use hawser_testkit::Host;

/// Where a scenario takes place.
pub(crate) struct Stage<'a> {
    /// Where the server runs.
    pub(crate) server: &'a Host,
    /// Where it listens there.
    pub(crate) origin: SocketAddr,
    /// Where the client finds it: a URL without a path.
    pub(crate) service: String,
    /// Where the client runs.
    pub(crate) client: &'a Host,
    /// Where the client's own listener is.
    pub(crate) listener: SocketAddr,
    /// The web proxy by which the server calls back, if it knows one.
    pub(crate) server_proxy: Option<SocketAddr>,
    /// The web proxy by which the client calls, if it knows one.
    pub(crate) client_proxy: Option<SocketAddr>,
    /// For files.
    pub(crate) dir: &'a Path,
}
