//! The standard setup: a hub, domains `acme` and `beta` behind firewalls, peered, with the same services in both, so that
//! every proof can be made in both directions.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    Daemon, Host,
    curl::Curl,
    hawser::{self, admin_table},
    net::{Plan, Site, Sites},
    origin::{Cntlm, Squid, cntlm, squid},
    wait,
};

/// Names of the two domains.
pub const DOMAINS: [&str; 2] = ["acme", "beta"];
/// Port of each gateway's web proxy.
pub const PROXY_PORT: u16 = 3128;
/// What the corporate proxy asks for.
pub const SQUID_USER: &str = "gateway";
/// What the corporate proxy asks for. Tests look for it where it must not be.
pub const SQUID_PASSWORD: &str = "correct-horse-battery-staple";

/// Long enough for a busy machine to make keys, join and connect.
const SETUP: Duration = Duration::from_secs(60);

/// How connections leave a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Free,
    /// Through squid alone, which wants a password.
    Basic,
    /// Through squid alone, which wants NTLM.
    Ntlm,
}

/// One service, in each domain.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    tcp: bool,
    port: u16,
    import: Option<u16>,
    allow: Option<String>,
    more: String,
}

impl Service {
    /// A web service at a port of the domain's application host.
    pub fn http(name: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            tcp: false,
            port,
            import: None,
            allow: None,
            more: String::new(),
        }
    }

    /// A TCP service there.
    pub fn tcp(name: &str, port: u16) -> Self {
        Self {
            tcp: true,
            ..Self::http(name, port)
        }
    }

    /// The other domain's gateways listen on this port for it.
    pub fn imported(mut self, port: u16) -> Self {
        self.import = Some(port);
        self
    }

    /// Rules in place of "the other domain may do everything": the TOML value of `allow`.
    pub fn allow(mut self, rules: &str) -> Self {
        self.allow = Some(rules.into());
        self
    }

    /// More lines for its table.
    pub fn more(mut self, lines: &str) -> Self {
        self.more += lines;
        self.more.push('\n');
        self
    }
}

/// What to set up.
pub struct Spec {
    services: Vec<Service>,
    gateways: usize,
    exit: Exit,
    hub_services: Vec<String>,
    gateway_lines: String,
    gateway_tables: String,
    hub_lines: String,
}

impl Spec {
    /// These services, one gateway in each domain, and all of it allowed at the hub.
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        Self {
            services: services.into_iter().collect(),
            gateways: 1,
            exit: Exit::Free,
            hub_services: vec!["*".into()],
            gateway_lines: String::new(),
            gateway_tables: String::new(),
            hub_lines: String::new(),
        }
    }

    /// Several gateways in each domain.
    pub fn gateways(mut self, n: usize) -> Self {
        self.gateways = n;
        self
    }

    /// squid with Basic authentication is each domain's only way out.
    pub fn squid(mut self) -> Self {
        self.exit = Exit::Basic;
        self
    }

    /// squid with NTLM is each domain's only way out, and cntlm on each gateway's host speaks it.
    pub fn ntlm(mut self) -> Self {
        self.exit = Exit::Ntlm;
        self
    }

    /// The hub lets the domains see these services only.
    pub fn hub_allows(mut self, services: &[&str]) -> Self {
        self.hub_services = services.iter().map(|s| (*s).to_owned()).collect();
        self
    }

    /// More lines for every `[gateway]` table.
    pub fn gateway_lines(mut self, lines: &str) -> Self {
        self.gateway_lines += lines;
        self.gateway_lines.push('\n');
        self
    }

    /// More tables for every gateway.
    pub fn gateway_tables(mut self, text: &str) -> Self {
        self.gateway_tables += text;
        self.gateway_tables.push('\n');
        self
    }

    /// More lines for the `[hub]` table.
    pub fn hub_lines(mut self, lines: &str) -> Self {
        self.hub_lines += lines;
        self.hub_lines.push('\n');
        self
    }

    /// Sets it up and waits until every gateway sees every service.
    pub fn start(self) -> Result<World> {
        World::start(self)
    }

    /// The hub's configuration.
    pub fn hub_config(&self, sites: &Sites, state: &Path) -> String {
        let mut text = admin_table(&sites.hub);
        text += &format!(
            "[hub]\nlisten = [\"{at}\"]\npublic = \"{at}\"\nstate = \"{}\"\n{}",
            state.display(),
            self.hub_lines,
            at = sites.hub_at(),
        );
        for (from, to) in [(DOMAINS[0], DOMAINS[1]), (DOMAINS[1], DOMAINS[0])] {
            text += &format!(
                "\n[[hub.allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nservices = {:?}\n",
                self.hub_services
            );
        }
        text
    }

    /// The configuration of a domain's gateway on this host.
    pub fn gateway_config(&self, sites: &Sites, domain: usize, host: &Host, state: &Path) -> String {
        let site = &sites.domains[domain];
        let other = DOMAINS[1 - domain];
        // On the loopback every client comes from 127.0.0.1, whichever host it stands for.
        let network = if sites.are_namespaces() {
            site.network.as_str()
        } else {
            "127.0.0.0/8"
        };
        let clients = format!("clients = [\"{network}\"]");
        let mut text = admin_table(host);
        text += &format!(
            "[gateway]\nstate = \"{}\"\n{}",
            state.display(),
            self.gateway_lines
        );
        let carrier = "\n[[gateway.carrier]]\nkind = \"connect\"\nproxy";
        match self.exit {
            Exit::Free => {}
            Exit::Basic => {
                text += &format!(
                    "{carrier} = \"{}\"\nuser = \"{SQUID_USER}\"\npassword_file = \"{}\"\n",
                    site.proxy.at(squid::PORT),
                    password_file(state).display()
                );
            }
            Exit::Ntlm => text += &format!("{carrier} = \"{}\"\n", host.at(cntlm::PORT)),
        }
        text += &format!(
            "\n[gateway.proxy]\nlisten = [\"{}\"]\n{clients}\n",
            host.at(PROXY_PORT)
        );
        for s in &self.services {
            if let Some(port) = s.import {
                text += &format!(
                    "\n[[gateway.import]]\nservice = \"{}.{other}\"\nlisten = \"{}\"\n{clients}\n",
                    s.name,
                    host.at(port)
                );
            }
            let origin = site.app.at(s.port);
            let origin = if s.tcp {
                format!("tcp = \"{origin}\"")
            } else {
                format!("http = \"http://{origin}\"")
            };
            let all = format!("[{{ domains = [\"{other}\"] }}]");
            text += &format!(
                "\n[[gateway.export]]\nname = \"{}\"\n{origin}\nallow = {}\n{}",
                s.name,
                s.allow.as_ref().unwrap_or(&all),
                s.more
            );
        }
        text + &self.gateway_tables
    }
}

/// One gateway: what it takes to start it again.
pub struct Gateway {
    /// Its process; none while it is down.
    pub daemon: Option<Daemon>,
    /// Where it runs.
    pub host: Host,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    log: PathBuf,
}

impl Gateway {
    /// Starts it (again).
    pub fn start(&mut self) -> Result<()> {
        self.daemon = None;
        self.daemon = Some(Daemon::start(&self.host, &self.config, &self.state, &self.log)?);
        Ok(())
    }

    /// The process; an error if it is down.
    pub fn running(&mut self) -> Result<&mut Daemon> {
        self.daemon
            .as_mut()
            .with_context(|| format!("{} is down", self.host.name()))
    }

    /// Runs a command of the binary with its configuration.
    pub fn command(&self, args: &[&str], input: &str) -> Result<String> {
        hawser::run(&self.host, &self.config, args, input)
    }

    /// Services of other domains that it sees, as `name.domain`.
    pub fn sees(&self) -> Vec<String> {
        let Some(Ok(seen)) = self.daemon.as_ref().map(|d| d.ask("/services")) else {
            return Vec::new();
        };
        let mut names = Vec::new();
        collect(&seen, &mut names);
        names
    }
}

/// Everything runs. Fields are dropped in this order.
pub struct World {
    /// The hub; none while it is down.
    pub hub: Option<Daemon>,
    /// Gateways of each domain.
    pub gateways: [Vec<Gateway>; 2],
    /// The corporate proxies, if there are any.
    pub squids: Vec<Squid>,
    _cntlms: Vec<Cntlm>,
    /// The networks.
    pub sites: Sites,
    /// What was asked for.
    pub spec: Spec,
    dir: TempDir,
    hub_paths: [PathBuf; 3],
}

impl World {
    fn start(spec: Spec) -> Result<Self> {
        let plan = Plan {
            domains: &DOMAINS,
            gateways: spec.gateways,
            proxy_only: spec.exit != Exit::Free,
        };
        let sites = Sites::build(&plan)?;
        let dir = tempfile::Builder::new().prefix("hawser-test-").tempdir()?;
        if std::env::var_os("HAWSER_TEST_KEEP").is_some() {
            eprintln!("kept: {}", dir.path().display());
        }
        // Servers that run as users of their own have their files in here.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let path = |name: &str| dir.path().join(name);
        let hub_paths = [path("hub.toml"), path("hub"), path("hub.log")];
        fs::write(&hub_paths[0], spec.hub_config(&sites, &hub_paths[1]))?;
        let mut world = Self {
            hub: None,
            gateways: [Vec::new(), Vec::new()],
            squids: Vec::new(),
            _cntlms: Vec::new(),
            sites,
            spec,
            dir,
            hub_paths,
        };
        world.start_hub()?;
        let (dir, exit) = (world.dir.path(), world.sites.hub_at());
        for site in &world.sites.domains {
            world.squids.push(match world.spec.exit {
                Exit::Free => continue,
                Exit::Basic => Squid::start(&site.proxy, SQUID_USER, SQUID_PASSWORD, exit, dir)?,
                Exit::Ntlm => Squid::ntlm(&site.proxy, exit, dir)?,
            });
            let proxy = site.proxy.at(squid::PORT);
            for host in site.gateways.iter().filter(|_| world.spec.exit == Exit::Ntlm) {
                let cntlm = Cntlm::start(host, SQUID_USER, SQUID_PASSWORD, proxy, dir)?;
                world._cntlms.push(cntlm);
            }
        }
        for domain in 0..DOMAINS.len() {
            world.found(domain)?;
        }
        world.peer()?;
        for domain in 0..DOMAINS.len() {
            world.admit(domain)?;
        }
        for domain in 0..DOMAINS.len() {
            for n in 1..world.spec.gateways {
                world.join(domain, n)?;
            }
        }
        world.wait_connected(SETUP)?;
        Ok(world)
    }

    /// Starts the hub (again).
    pub fn start_hub(&mut self) -> Result<()> {
        self.hub = None;
        let [config, state, log] = &self.hub_paths;
        self.hub = Some(Daemon::start(&self.sites.hub, config, state, log)?);
        Ok(())
    }

    /// The hub's process; an error if it is down.
    pub fn hub(&mut self) -> Result<&mut Daemon> {
        self.hub.as_mut().context("the hub is down")
    }

    /// A directory for files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Both directions: each domain as caller of the other.
    pub fn ways(&self) -> [Way<'_>; 2] {
        [
            Way {
                world: self,
                from: 0,
                to: 1,
            },
            Way {
                world: self,
                from: 1,
                to: 0,
            },
        ]
    }

    /// A domain's hosts and firewall.
    pub fn site(&self, domain: usize) -> &Site {
        &self.sites.domains[domain]
    }

    /// Waits until every gateway that runs is connected and sees the services of the other domain that the hub lets it see.
    pub fn wait_connected(&mut self, limit: Duration) -> Result<()> {
        let hub = &self.spec.hub_services;
        let seen = |s: &&Service| hub.iter().any(|h| h == "*" || *h == s.name);
        let names: Vec<_> = self
            .spec
            .services
            .iter()
            .filter(seen)
            .map(|s| s.name.clone())
            .collect();
        for (domain, gateways) in self.gateways.iter_mut().enumerate() {
            let other = DOMAINS[1 - domain];
            for gateway in gateways.iter_mut().filter(|g| g.daemon.is_some()) {
                gateway.running()?.wait_ready(limit)?;
                let what = format!("{} to see the services of {other}", gateway.host.name());
                let outcome = wait::for_condition(limit, &what, || {
                    let sees = gateway.sees();
                    names
                        .iter()
                        .all(|n| sees.iter().any(|s| *s == format!("{n}.{other}")))
                });
                outcome.with_context(|| {
                    crate::proc::tail(&fs::read_to_string(&gateway.log).unwrap_or_default())
                })?;
            }
        }
        Ok(())
    }

    /// Everything that the programs wrote to their logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut paths = vec![&self.hub_paths[2]];
        paths.extend(self.gateways.iter().flatten().map(|g| &g.log));
        for path in paths {
            text += &format!(
                "== {}\n{}\n",
                path.display(),
                fs::read_to_string(path).unwrap_or_default()
            );
        }
        text
    }

    /// The first gateway of a domain: root, issuer, identity.
    fn found(&mut self, domain: usize) -> Result<()> {
        let gateway = self.lay(domain, 0)?;
        gateway.command(&["domain", "init", DOMAINS[domain], "gw1"], "")?;
        self.gateways[domain].push(gateway);
        Ok(())
    }

    /// The hub admits a domain, and its first gateway starts.
    fn admit(&mut self, domain: usize) -> Result<()> {
        let token = self.hub()?.command(&["token", "hub", DOMAINS[domain]], "")?;
        let gateway = self.gateways[domain].first_mut().context("no gateway")?;
        gateway.command(&["join"], &token)?;
        gateway.start()
    }

    /// Each domain accepts the other's root.
    fn peer(&self) -> Result<()> {
        let first = |d: usize| self.gateways[d].first().context("no gateway");
        for (to, from) in [(0, 1), (1, 0)] {
            let token = first(from)?.command(&["domain", "peer", "token"], "")?;
            first(to)?.command(&["domain", "peer", "accept", "--yes"], &token)?;
        }
        Ok(())
    }

    /// A further gateway of a domain, by the domain's token.
    fn join(&mut self, domain: usize, n: usize) -> Result<()> {
        let mut gateway = self.lay(domain, n)?;
        let first = self.gateways[domain].first_mut().context("no gateway")?;
        first.running()?.wait_ready(SETUP)?;
        let token = first.command(&["token", "gateway"], "")?;
        // The running issuer takes notice of a new token within a second.
        let name = format!("gw{}", n + 1);
        wait::until(wait::SOON, &format!("{name} to join"), || {
            let (_, why, joined) = hawser::try_run(&gateway.host, &gateway.config, &["join", &name], &token)?;
            ensure!(
                joined || why.contains("no connected issuer"),
                "hawser join {name}: {why}"
            );
            Ok(joined.then_some(()))
        })?;
        // Whom a gateway trusts is its own to know: each accepts the peers of its domain.
        let peer = self.gateways[1 - domain].first().context("no gateway")?;
        let peering = peer.command(&["domain", "peer", "token"], "")?;
        gateway.command(&["domain", "peer", "accept", "--yes"], &peering)?;
        gateway.start()?;
        self.gateways[domain].push(gateway);
        Ok(())
    }

    fn lay(&self, domain: usize, n: usize) -> Result<Gateway> {
        let host = self.sites.domains[domain]
            .gateways
            .get(n)
            .context("no such host")?
            .clone();
        let path = |suffix: &str| self.dir.path().join(format!("{}{suffix}", host.name()));
        let (config, state, log) = (path(".toml"), path(""), path(".log"));
        if self.spec.exit == Exit::Basic {
            fs::write(password_file(&state), SQUID_PASSWORD)?;
        }
        fs::write(
            &config,
            self.spec.gateway_config(&self.sites, domain, &host, &state),
        )?;
        Ok(Gateway {
            daemon: None,
            host,
            config,
            state,
            log,
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                self.gateways
                    .iter()
                    .flatten()
                    .map(|g| &g.log)
                    .chain([&self.hub_paths[2]])
                    .fold(String::new(), |text, path| {
                        let log = fs::read_to_string(path).unwrap_or_default();
                        text + &format!("== end of {}\n{}\n", path.display(), crate::proc::tail(&log))
                    })
            );
        }
        if std::env::var_os("HAWSER_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
        }
    }
}

/// One direction of calls.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// Where it all is.
    pub world: &'a World,
    /// Index of the calling domain.
    pub from: usize,
    /// Index of the called domain.
    pub to: usize,
}

impl<'a> Way<'a> {
    /// The host of the caller.
    pub fn client(&self) -> &'a Host {
        &self.world.site(self.from).app
    }

    /// The host of the called service.
    pub fn server(&self) -> &'a Host {
        &self.world.site(self.to).app
    }

    /// The caller's gateway's web proxy.
    pub fn proxy(&self) -> SocketAddr {
        self.world.site(self.from).gateways[0].at(PROXY_PORT)
    }

    /// The caller's gateway's listener for an imported service.
    pub fn import(&self, port: u16) -> SocketAddr {
        self.world.site(self.from).gateways[0].at(port)
    }

    /// A service's host name.
    pub fn host(&self, service: &str) -> String {
        format!("{service}.{}.hawser", DOMAINS[self.to])
    }

    /// A service's URL.
    pub fn url(&self, service: &str, path: &str) -> String {
        format!("http://{}{path}", self.host(service))
    }

    /// A call by curl through the web proxy.
    pub fn curl(&self, service: &str, path: &str) -> Curl {
        Curl::new(self.client(), self.url(service, path)).proxy(self.proxy())
    }

    /// A call by curl to the listener of an imported service.
    pub fn curl_import(&self, port: u16, path: &str) -> Curl {
        Curl::new(self.client(), format!("http://{}{path}", self.import(port)))
    }

    /// The direction in words.
    pub fn words(&self) -> String {
        format!("{} -> {}", DOMAINS[self.from], DOMAINS[self.to])
    }
}

impl World {
    /// An error unless these are real networks.
    pub fn require_namespaces(&self) -> Result<()> {
        ensure!(self.sites.are_namespaces(), "needs root, for network namespaces");
        Ok(())
    }
}

fn password_file(state: &Path) -> PathBuf {
    state.with_extension("squid-password")
}

/// Every text in a JSON value.
fn collect(value: &serde_json::Value, names: &mut Vec<String>) {
    match value {
        serde_json::Value::String(s) => names.push(s.clone()),
        serde_json::Value::Array(all) => all.iter().for_each(|v| collect(v, names)),
        serde_json::Value::Object(fields) => fields.values().for_each(|v| collect(v, names)),
        _ => {}
    }
}
