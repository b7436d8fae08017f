//! Three domains' gateways, their services, and the hub that is taken over.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hawser_hostile::{Asked, Event, HostileHub};
use hawser_proto::NodeId;
use hawser_testkit::{
    Daemon, Host,
    curl::{Answer, Curl},
    hawser::{self, admin_table},
    origin::HttpOrigin,
    pattern, wait,
};

use crate::origin::{Feed, Sink};

const HUB_PORT: u16 = 8443;
const PROXY_PORT: u16 = 3128;
const WEB_PORT: u16 = 8080;
const FEED_PORT: u16 = 7000;
const SINK_PORT: u16 = 7070;
const IMPORT_PORT: u16 = 7001;
/// Longest that a client waits: more than any time-out of a gateway.
const PATIENCE: Duration = Duration::from_secs(45);
/// Long enough for a busy machine to make keys, join and connect.
const SETUP: Duration = Duration::from_secs(60);

/// The web service of every domain, as `acme` calls beta's.
pub const ORDERS: &str = "http://orders.beta.hawser";

/// One gateway.
pub struct Gateway {
    pub id: NodeId,
    pub host: Host,
    pub state: PathBuf,
    config: PathBuf,
    log: PathBuf,
    daemon: Option<Daemon>,
}

impl Gateway {
    pub fn lay(dir: &Path, base: [u8; 2], n: u8, domain: &str, name: &str) -> Result<Self> {
        let host = host(&format!("{domain}-{name}"), base, n);
        let path = |suffix: &str| dir.join(format!("{}{suffix}", host.name()));
        let (state, config, log) = (path(""), path(".toml"), path(".log"));
        let mut text = admin_table(&host);
        text += &format!(
            "[gateway]\nstate = {state:?}\n\n[gateway.proxy]\nlisten = [\"{}\"]\nclients = [\"127.0.0.0/8\"]\n",
            host.at(PROXY_PORT)
        );
        if domain == "acme" {
            text += &format!(
                "\n[[gateway.import]]\nservice = \"feed.beta\"\nlisten = \"{}\"\nclients = [\"127.0.0.0/8\"]\n",
                host.at(IMPORT_PORT)
            );
        }
        // Of beta's and gamma's services acme may use all; of acme's, beta may, gamma may not.
        let caller = if domain == "acme" { "beta" } else { "acme" };
        let app = app(base, domain);
        text += &format!(
            "\n[[gateway.export]]\nname = \"orders\"\nhttp = \"http://{}\"\nallow = [{{ domains = [\"{caller}\"] }}]\n\
             \n[[gateway.export]]\nname = \"feed\"\ntcp = \"{}\"\nallow = [{{ domains = [\"{caller}\"] }}]\n",
            app.at(WEB_PORT),
            app.at(FEED_PORT)
        );
        if domain == "beta" {
            text += &format!(
                "\n[[gateway.export]]\nname = \"sink\"\nhttp = \"http://{}\"\nallow = [{{ domains = [\"acme\"] }}]\n",
                app.at(SINK_PORT)
            );
        }
        fs::write(&config, text)?;
        let id = NodeId::gateway(domain.parse()?, name.parse()?);
        Ok(Self {
            id,
            host,
            state,
            config,
            log,
            daemon: None,
        })
    }

    /// Starts it (again).
    pub fn start(&mut self) -> Result<()> {
        self.daemon = None;
        self.daemon = Some(Daemon::start(&self.host, &self.config, &self.state, &self.log)?);
        Ok(())
    }

    pub fn stop(&mut self) {
        self.daemon = None;
    }

    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|d| d.process.is_running())
    }

    pub fn command(&self, args: &[&str], input: &str) -> Result<String> {
        hawser::run(&self.host, &self.config, args, input)
    }

    pub fn proxy(&self) -> SocketAddr {
        self.host.at(PROXY_PORT)
    }

    /// Length of its log, for [`Self::said`].
    pub fn mark(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |m| m.len() as usize)
    }

    /// Warnings since a mark.
    pub fn warnings(&self, since: usize) -> Vec<String> {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[since.min(log.len())..]).into_owned();
        text.lines()
            .filter(|l| l.contains("WARN"))
            .map(Into::into)
            .collect()
    }

    /// Waits for a warning that names this.
    pub fn warned(&self, since: usize, of: &str) -> Result<()> {
        let what = format!("{} to warn of {of:?}", self.host.name());
        wait::for_condition(wait::SOON, &what, || {
            self.warnings(since).iter().any(|w| w.contains(of))
        })
        .with_context(|| format!("it warned of: {:#?}", self.warnings(since)))
    }
}

/// Everything. It lives as long as the test process; the programs in it die with that.
pub struct World {
    pub hub: HostileHub,
    pub acme: Gateway,
    pub beta: Gateway,
    pub beta2: Gateway,
    pub gamma: Gateway,
    /// The services of acme, beta and gamma.
    pub web: [HttpOrigin; 3],
    pub feeds: [Feed; 3],
    /// Another of beta's.
    pub sink: Sink,
    pub client: Host,
    /// What the hub left behind: all that the attacker has.
    pub hub_state: PathBuf,
}

/// The world, for one test at a time; nothing is under way in it, and a call from acme to beta works.
pub fn world() -> MutexGuard<'static, World> {
    static WORLD: OnceLock<Result<Mutex<World>, String>> = OnceLock::new();
    let world = WORLD.get_or_init(|| World::build().map(Mutex::new).map_err(|e| format!("{e:#}")));
    let world = world
        .as_ref()
        .unwrap_or_else(|e| panic!("the world was not built: {e}"));
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    world.restore().unwrap();
    world
}

/// A directory of this process, which is not cleaned up when the process ends but when the next one begins.
pub fn scratch() -> Result<PathBuf> {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    for old in fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    let own = all.join(std::process::id().to_string());
    fs::create_dir_all(&own)?;
    Ok(own)
}

/// Two octets of the loopback range for this process.
pub fn base() -> [u8; 2] {
    let id = std::process::id();
    [64 + (id % 64) as u8, (id / 64 % 250) as u8]
}

/// A host on the loopback.
pub fn host(name: &str, base: [u8; 2], n: u8) -> Host {
    Host::on_loopback(name, Ipv4Addr::new(127, base[0], base[1], n))
}

fn app(base: [u8; 2], domain: &str) -> Host {
    let n = match domain {
        "acme" => 101,
        "beta" => 102,
        _ => 103,
    };
    host(&format!("{domain}-app"), base, n)
}

/// A real hub: its configuration, ready to start.
pub struct RealHub {
    pub host: Host,
    pub state: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl RealHub {
    pub fn lay(dir: &Path, base: [u8; 2], n: u8) -> Result<Self> {
        let host = host(&format!("hub{n}"), base, n);
        let path = |suffix: &str| dir.join(format!("hub{n}{suffix}"));
        let (state, config, log) = (path(""), path(".toml"), path(".log"));
        let at = host.at(HUB_PORT);
        let mut text = admin_table(&host);
        text += &format!("[hub]\nlisten = [\"{at}\"]\npublic = \"{at}\"\nstate = {state:?}\n");
        for (from, to) in [
            ("acme", "beta"),
            ("beta", "acme"),
            ("acme", "gamma"),
            ("gamma", "acme"),
        ] {
            text += &format!("\n[[hub.allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nservices = [\"*\"]\n");
        }
        fs::write(&config, text)?;
        Ok(Self {
            host,
            state,
            config,
            log,
        })
    }

    pub fn start(&self) -> Result<Daemon> {
        Daemon::start(&self.host, &self.config, &self.state, &self.log)
    }

    pub fn address(&self) -> SocketAddr {
        self.host.at(HUB_PORT)
    }
}

/// Makes a domain with its first gateway, admitted by a hub.
pub fn found(hub: &Daemon, gateway: &Gateway) -> Result<()> {
    let domain = gateway.id.domain.as_str();
    gateway.command(&["domain", "init", domain, gateway.id.name.as_str()], "")?;
    let token = hub.command(&["token", "hub", domain], "")?;
    gateway.command(&["join"], &token)?;
    Ok(())
}

impl World {
    fn build() -> Result<Self> {
        let (dir, base) = (scratch()?, base());
        let real = RealHub::lay(&dir, base, 2)?;
        let mut hub = real.start()?;
        let lay = |n, domain, name| Gateway::lay(&dir, base, n, domain, name);
        let mut acme = lay(11, "acme", "gw1")?;
        let mut beta = lay(12, "beta", "gw1")?;
        let mut gamma = lay(13, "gamma", "gw1")?;
        let beta2 = lay(14, "beta", "gw2")?;
        for gateway in [&mut acme, &mut beta, &mut gamma] {
            found(&hub, gateway)?;
            gateway.start()?;
        }
        for (to, from) in [(&acme, &beta), (&beta, &acme), (&acme, &gamma), (&gamma, &acme)] {
            let token = from.command(&["domain", "peer", "token"], "")?;
            to.command(&["domain", "peer", "accept", "--yes"], &token)?;
        }
        beta.daemon.as_mut().context("beta is down")?.wait_ready(SETUP)?;
        let token = beta.command(&["token", "gateway"], "")?;
        // The issuer's gateway sees within a second what a command wrote.
        wait::until(SETUP, "beta's second gateway to join", || {
            Ok(beta2.command(&["join", "gw2"], &token).ok())
        })?;
        let token = acme.command(&["domain", "peer", "token"], "")?;
        beta2.command(&["domain", "peer", "accept", "--yes"], &token)?;
        hub.process.kill()?;
        drop(hub);
        let hub = HostileHub::take_over(&real.state, real.address())?;
        let domains = ["acme", "beta", "gamma"].map(|d| app(base, d));
        let [a, b, c] = &domains;
        let web = |h: &Host| HttpOrigin::start(h, WEB_PORT);
        let feed = |h: &Host| Feed::start(h.at(FEED_PORT));
        Ok(Self {
            web: [web(a)?, web(b)?, web(c)?],
            feeds: [feed(a)?, feed(b)?, feed(c)?],
            sink: Sink::start(b.at(SINK_PORT))?,
            client: host("client", base, 201),
            hub,
            acme,
            beta,
            beta2,
            gamma,
            hub_state: real.state,
        })
    }

    fn restore(&mut self) -> Result<()> {
        self.hub.spoil_controls(None);
        self.hub.behave();
        self.beta2.stop();
        for gateway in [&mut self.acme, &mut self.beta, &mut self.gamma] {
            if !gateway.is_running() {
                gateway.start()?;
            }
        }
        self.hub
            .await_connected(SETUP, &[&self.acme.id, &self.beta.id, &self.gamma.id])?;
        self.hub.cut_sessions()?;
        self.works()
    }

    /// Waits until calls from acme to beta work: the web service and the TCP service, each bringing what it should.
    pub fn works(&self) -> Result<()> {
        let mut last = String::new();
        let outcome = wait::until(SETUP, "a call from acme to beta to work", || {
            let answer = self.get("/bytes/1000")?;
            if answer.status != 200 {
                last = format!("{} {}", answer.status, answer.text());
                return Ok(None);
            }
            ensure!(
                answer.exit == 0 && pattern::hash_of(&answer.body) == pattern::hash(1000),
                "altered bytes"
            );
            let download = self.download(1000);
            last = format!("{:?}", download.end);
            Ok(download.is_whole(1000).then_some(()))
        });
        outcome.with_context(|| last)
    }

    /// Tells the hub what to do, ends all sessions, so that it is done to the next, and writes down where everything stands.
    pub fn attack(&self, order: impl FnOnce(&HostileHub)) -> Attack<'_> {
        order(&self.hub);
        self.hub.cut_sessions().unwrap();
        Attack {
            world: self,
            hub: self.hub.mark(),
            acme: self.acme.mark(),
            beta: self.beta.mark(),
            gamma: self.gamma.mark(),
            served: self.served(),
        }
    }

    /// What the client of acme's web proxy gets from beta's web service.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.call_from_acme(&format!("{ORDERS}{path}")).call()
    }

    /// A call through acme's web proxy, to be made.
    pub fn call_from_acme(&self, url: &str) -> Curl {
        Curl::new(&self.client, url)
            .proxy(self.acme.proxy())
            .limit(PATIENCE)
    }

    /// The same through beta's.
    pub fn call_from_beta(&self, url: &str) -> Curl {
        Curl::new(&self.client, url)
            .proxy(self.beta.proxy())
            .limit(PATIENCE)
    }

    /// What a client of acme's imported port gets from beta's TCP service.
    pub fn download(&self, wanted: u64) -> Download {
        match self.begin(wanted) {
            Ok(stream) => Download::read(stream),
            Err(e) => Download {
                bytes: Vec::new(),
                end: Err(e),
            },
        }
    }

    /// A connection to beta's TCP service on which a number was sent.
    pub fn begin(&self, wanted: u64) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.acme.host.at(IMPORT_PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&wanted.to_be_bytes())?;
        Ok(stream)
    }

    fn served(&self) -> [u64; 6] {
        let [a, b, c] = &self.web;
        let [d, e, f] = &self.feeds;
        [
            a.served(),
            b.served(),
            c.served(),
            d.served(),
            e.served(),
            f.served(),
        ]
    }
}

/// What came over TCP.
#[derive(Debug)]
pub struct Download {
    pub bytes: Vec<u8>,
    /// Ok: a clean end.
    pub end: io::Result<()>,
}

impl Download {
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).map(drop);
        Self { bytes, end }
    }

    pub fn is_whole(&self, wanted: u64) -> bool {
        self.end.is_ok() && self.bytes.len() as u64 == wanted && self.is_true()
    }

    /// Whether all that came is what the service sends.
    pub fn is_true(&self) -> bool {
        let len = self.bytes.len() as u64;
        pattern::hash_of(&self.bytes) == pattern::hash(len)
    }

    /// What came is true as far as it goes, and then it was reset; never a clean end.
    #[track_caller]
    pub fn was_reset(&self) {
        assert!(self.is_true(), "{} bytes, not all of them true", self.bytes.len());
        let error = self
            .end
            .as_ref()
            .expect_err("a clean end of a connection that was cut");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
}

/// An attack that has begun.
pub struct Attack<'a> {
    pub world: &'a World,
    /// Marks: what the hub saw, and the lengths of the logs.
    pub hub: usize,
    pub acme: usize,
    pub beta: usize,
    pub gamma: usize,
    served: [u64; 6],
}

impl Attack<'_> {
    /// The client's call, made until it needed a new session, so that the attack was met.
    pub fn get(&self, path: &str) -> Answer {
        let what = "a call that asks for a session";
        wait::until(SETUP, what, || {
            let mark = self.world.hub.mark();
            let answer = self.world.get(path)?;
            Ok(self.asked(mark).then_some(answer))
        })
        .unwrap()
    }

    /// The same over TCP, where every session is new: warm ones are ended when the attack begins.
    pub fn download(&self, wanted: u64) -> Download {
        self.world.download(wanted)
    }

    fn asked(&self, since: usize) -> bool {
        let (from, target) = (self.world.acme.id.clone(), self.world.beta.id.clone());
        let asked = Event::Asked(Asked { from, target });
        self.world.hub.events().iter().skip(since).any(|e| *e == asked)
    }

    /// Both ways of calling fail, clearly, at this place; no service saw anything.
    #[track_caller]
    pub fn calls_fail(&self, place: &str, status: u16) {
        let answer = self.get("/bytes/1000");
        problem(&answer, place, status);
        let download = self.download(1000);
        assert!(download.bytes.is_empty(), "{download:?}");
        download.was_reset();
        self.nobody_was_served();
    }

    /// No service saw anything.
    #[track_caller]
    pub fn nobody_was_served(&self) {
        assert_eq!(self.world.served(), self.served, "a service saw a call");
    }

    /// acme said so.
    #[track_caller]
    pub fn acme_warned(&self, of: &str) {
        self.world.acme.warned(self.acme, of).unwrap();
    }

    /// beta said so.
    #[track_caller]
    pub fn beta_warned(&self, of: &str) {
        self.world.beta.warned(self.beta, of).unwrap();
    }

    /// The forger got nowhere, this many times.
    #[track_caller]
    pub fn forger_failed(&self, times: usize) {
        let failed = |e: &&Event| matches!(e, Event::Forger(Err(_)));
        let what = "the forger to fail";
        wait::for_condition(wait::SOON, what, || {
            self.world
                .hub
                .events()
                .iter()
                .skip(self.hub)
                .filter(failed)
                .count()
                >= times
        })
        .unwrap();
        let events = self.world.hub.events();
        let success = events
            .iter()
            .skip(self.hub)
            .find(|e| matches!(e, Event::Forger(Ok(_))));
        assert_eq!(success, None);
    }

    /// Behaving well again, the hub carries calls as before.
    #[track_caller]
    pub fn end(self) {
        self.world.hub.behave();
        self.world.works().unwrap();
    }
}

/// An answer that says clearly where it failed.
#[track_caller]
pub fn problem(answer: &Answer, place: &str, status: u16) {
    let text = answer.text();
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{} {text}",
        answer.status
    );
    let said = answer.json().unwrap();
    assert_eq!(said["where"], place, "{text}");
    assert_eq!(answer.status, status, "{text}");
    for part in ["detail", "advice", "instance"] {
        assert!(said[part].as_str().is_some_and(|s| !s.is_empty()), "{text}");
    }
}
