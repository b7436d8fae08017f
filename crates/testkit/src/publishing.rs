//! A hub, and a domain whose gateway publishes services under host names; visitors are outside.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    Daemon,
    authority::Authority,
    curl::Curl,
    hawser::{admin_table, run},
    net::{Plan, Site, Sites},
};

/// The domain.
pub const DOMAIN: &str = "acme";
/// Long enough for a busy machine to make keys, join and connect.
pub const SETUP: Duration = Duration::from_secs(60);

/// Everything runs. Fields are dropped in this order.
pub struct Publishing {
    /// Publishes.
    pub gateway: Daemon,
    _hub: Daemon,
    /// Vouches for the names.
    pub authority: Authority,
    /// The networks.
    pub sites: Sites,
    names: &'static [&'static str],
    dir: TempDir,
}

impl Publishing {
    /// Starts it, and waits until every name is published. `tables` gives what the gateway's configuration holds besides its
    /// state and its access log: exports, and the names under which they are published.
    pub fn start(
        names: &'static [&'static str],
        tables: impl FnOnce(&Sites, &Authority, &Path) -> Result<String>,
    ) -> Result<Self> {
        let sites = Sites::build(&Plan {
            domains: &[DOMAIN],
            gateways: 1,
            proxy_only: false,
        })?;
        let dir = tempfile::Builder::new().prefix("hawser-publish-").tempdir()?;
        let authority = Authority::new(dir.path())?;
        let at = |name: &str| dir.path().join(name);
        let host = sites.domains[0].gateways[0].clone();
        let hub_config = format!(
            "{}[hub]\nlisten = [\"{hub}\"]\npublic = \"{hub}\"\nstate = \"{}\"\n\n[[hub.publish]]\ndomain = \"{DOMAIN}\"\nnames = {names:?}\n",
            admin_table(&sites.hub),
            at("hub").display(),
            hub = sites.hub_at(),
        );
        let config = format!(
            "{}[gateway]\nstate = \"{}\"\naccess_log = \"{}\"\n{}",
            admin_table(&host),
            at("gw1").display(),
            at("access.log").display(),
            tables(&sites, &authority, dir.path())?,
        );
        fs::write(at("hub.toml"), hub_config)?;
        fs::write(at("acme.toml"), config)?;
        let hub = Daemon::start(&sites.hub, &at("hub.toml"), &at("hub"), &at("hub.log"))?;
        let admin = |args: &[&str], input: &str| run(&host, &at("acme.toml"), args, input);
        admin(&["domain", "init", DOMAIN, "gw1"], "")?;
        admin(&["join"], &hub.command(&["token", "hub", DOMAIN], "")?)?;
        let mut gateway = Daemon::start(&host, &at("acme.toml"), &at("gw1"), &at("acme.log"))?;
        gateway.wait_ready(SETUP)?;
        gateway.wait_published(SETUP, names.len())?;
        Ok(Self {
            gateway,
            _hub: hub,
            authority,
            sites,
            names,
            dir,
        })
    }

    /// The domain's network.
    pub fn site(&self) -> &Site {
        &self.sites.domains[0]
    }

    /// A file of this run: `acme.log`, `hub.log`, `access.log`, and whatever the test keeps there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A published name, as it stands in URLs.
    pub fn host(&self, name: &str) -> String {
        format!("{name}:{}", self.sites.hub_at().port())
    }

    /// A page of a published name.
    pub fn url(&self, name: &str, path: &str) -> String {
        format!("https://{}{path}", self.host(name))
    }

    /// curl, from outside.
    pub fn curl(&self, url: &str) -> Curl {
        let curl = Curl::new(&self.sites.net, url).trusting(&self.authority.certificate());
        let hub = self.sites.hub_at();
        self.names.iter().fold(curl, |curl, name| curl.resolve(name, hub))
    }
}
