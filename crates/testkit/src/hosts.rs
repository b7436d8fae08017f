//! Two hypervisor hosts that protect each other's machines by the real binary: a hub with the register, a gateway that lets
//! hosts join, an agent on each host, and a guest on the first of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Daemon, Host, Small,
    hawser::{self, ADMIN_PORT, admin_table, admin_table_at},
    kv::{Clients, Kv, Plan},
    net::{BRIDGE, Hypervisor, Hypervisors, Watch, signal_one, sweep},
    proc::tail,
    vm::{Aio, Drive, Machine, Nic, Ram, Spec as MachineSpec, Version},
    wait,
};

/// The domain of the hosts.
pub const DOMAIN: &str = "dc";
/// The guest's name.
pub const GUEST: &str = "vm1";
/// The address of the guest's network card.
pub const MAC: &str = "52:54:00:12:34:56";
/// Where each host's agent listens, on the network between the two.
const AGENT_PORT: u16 = 8444;
/// The gateway's admin listener: it shares its host with the hub.
const GATEWAY_ADMIN: u16 = ADMIN_PORT + 1;
/// Long enough for a busy machine to make keys, join and connect.
const SETUP: Duration = Duration::from_secs(60);
/// Slack for protection to begin on a busy machine without hardware virtualisation.
pub const PROTECTED: Duration = Duration::from_secs(120);

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `host-a`, where the guest starts.
    A,
    /// `host-b`, which stands by.
    B,
}

impl Side {
    /// Its name in the domain, and of its port of the switch.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "host-a",
            Self::B => "host-b",
        }
    }
}

/// What a fault hits on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every QEMU.
    Qemu,
    /// The agent.
    Agent,
    /// Both, as near to at once as signals are.
    Both,
}

/// What to set up. Change the fields that matter.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The QEMU on both hosts.
    pub version: Version,
    /// `host.detect`.
    pub detect: Duration,
    /// `host.qmp_timeout`.
    pub qmp_timeout: Duration,
    /// More lines of the `[host]` tables.
    pub host_lines: String,
    /// The guest's memory in MiB.
    pub memory: u32,
    /// What backs it.
    pub ram: Ram,
    /// Size of its disk in MiB.
    pub disk: u64,
    /// How QEMU does the disk's transfers.
    pub aio: Aio,
    /// More arguments of QEMU.
    pub extra: Vec<String>,
    /// Room for replicas on the second host, in KiB; none: what there is.
    pub room: Option<u64>,
}

impl Spec {
    /// A guest of 256 MiB with a disk of 64 MiB, under this version; a host counts as dead after 800 ms of silence, which a busy
    /// machine does not reach by itself, and a QEMU after five seconds, as it writes back its disk's caches when it stops.
    pub fn new(version: &Version) -> Self {
        Self {
            version: version.clone(),
            detect: Duration::from_millis(800),
            qmp_timeout: Duration::from_secs(5),
            host_lines: String::new(),
            memory: 256,
            ram: Ram::Shared,
            disk: 64,
            aio: Aio::Threads,
            extra: Vec::new(),
            room: None,
        }
    }

    /// Sets everything up, and waits until the agents are connected and the guest's server answers.
    pub fn start(self) -> Result<Hosts> {
        Hosts::start(self)
    }

    fn host_config(&self, node: &Node) -> String {
        let mut text = admin_table(&node.host);
        text += &format!(
            "[host]\nstate = {:?}\nlisten = \"{}\"\nimages = {:?}\nrun = {:?}\ndetect = \"{}ms\"\nqmp_timeout = \"{}ms\"\n{}\n",
            node.state,
            node.host.at(AGENT_PORT),
            node.images,
            node.run,
            self.detect.as_millis(),
            self.qmp_timeout.as_millis(),
            self.host_lines,
        );
        text += "[host.peers]\n";
        for (side, address) in [(Side::A, "10.78.0.1"), (Side::B, "10.78.0.2")] {
            text += &format!("{} = \"{address}:{AGENT_PORT}\"\n", side.name());
        }
        text
    }
}

/// A host's agent, and what it takes to start it again.
pub struct Node {
    /// `hawser host`; none while it is down.
    pub agent: Option<Daemon>,
    /// Where it runs.
    pub host: Host,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    /// Where it keeps replicas.
    pub images: PathBuf,
    /// Where it keeps its sockets.
    pub run: PathBuf,
    log: PathBuf,
}

impl Node {
    fn new(hypervisor: &Hypervisor, dir: &Path, run: &Path) -> Self {
        let host = hypervisor.host.clone();
        let path = |suffix: &str| dir.join(format!("{}{suffix}", host.name()));
        Self {
            agent: None,
            config: path(".toml"),
            state: path(""),
            images: path("-images"),
            run: run.join(host.name()),
            log: path(".log"),
            host,
        }
    }

    /// Starts its agent (again), and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.agent = None;
        let words = ["host"];
        self.agent = Some(Daemon::start_as(
            &self.host,
            &self.config,
            &self.state,
            &self.log,
            &words,
            ADMIN_PORT,
        )?);
        Ok(())
    }

    /// The agent; an error if it is down.
    pub fn running(&mut self) -> Result<&mut Daemon> {
        let name = self.host.name();
        self.agent
            .as_mut()
            .with_context(|| format!("the agent of {name} is down"))
    }

    /// Runs a command of the binary with its configuration.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        hawser::run(&self.host, &self.config, args, "")
    }

    /// What the agent says of the guest, as in the JSON of `hawser protect status`; none if it has nothing to do with it, or
    /// does not answer.
    pub fn status(&self) -> Option<Value> {
        let mut status = self.agent.as_ref()?.ask("/status").ok()?;
        let machines = status["machines"].as_array_mut()?;
        machines
            .iter()
            .position(|m| m["name"] == GUEST)
            .map(|n| machines.swap_remove(n))
    }

    /// Files of replicas.
    pub fn replicas(&self) -> Result<Vec<PathBuf>> {
        let Ok(entries) = fs::read_dir(&self.images) else {
            return Ok(Vec::new());
        };
        entries.map(|e| Ok(e?.path())).collect()
    }

    /// Everything its agents said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn join(&self, gateway: &Daemon) -> Result<()> {
        let token = gateway.command(&["token", "host"], "")?;
        let name = self.host.name();
        // The running issuer takes notice of a new token within a second.
        wait::until(wait::SOON, &format!("{name} to join"), || {
            let (_, why, joined) = hawser::try_run(&self.host, &self.config, &["join", name], &token)?;
            ensure!(
                joined || why.contains("no connected issuer"),
                "hawser join {name}: {why}"
            );
            Ok(joined.then_some(()))
        })
    }
}

/// Everything runs. Fields are dropped in this order.
pub struct Hosts {
    /// The first host's agent.
    pub a: Node,
    /// The second host's agent.
    pub b: Node,
    /// The guest where it was started; it may be dead, and live on as another process.
    pub machine: Machine,
    /// The hub; none while it is down.
    pub hub: Option<Daemon>,
    /// Lets hosts join; it runs on the hub's host.
    pub gateway: Daemon,
    /// The networks.
    pub net: Hypervisors,
    /// What was asked for.
    pub spec: Spec,
    /// What the second host's replicas are on, where their room is bounded.
    pub small: Option<Small>,
    hub_paths: [PathBuf; 3],
    /// Sockets are on a memory file system, as they are everywhere.
    _run: TempDir,
    dir: TempDir,
}

impl Hosts {
    fn start(spec: Spec) -> Result<Self> {
        let net = Hypervisors::build()?;
        let prefix = format!("{}-hosts-", sweep::owner());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        let run = tempfile::Builder::new().prefix(&prefix).tempdir_in("/run")?;
        let machine = Machine::start(&net.a.host, &guest(&spec, dir.path())?)?;
        let path = |name: &str| dir.path().join(name);
        let hub_paths = [path("hub.toml"), path("hub"), path("hub.log")];
        fs::write(&hub_paths[0], hub_config(&net, &hub_paths[1]))?;
        let hub = start_hub(&net.hub, &hub_paths)?;
        let gateway = start_gateway(&net.hub, &hub, dir.path())?;
        let mut own = Self {
            a: Node::new(&net.a, dir.path(), run.path()),
            b: Node::new(&net.b, dir.path(), run.path()),
            machine,
            hub: Some(hub),
            gateway,
            net,
            spec,
            small: None,
            hub_paths,
            _run: run,
            dir,
        };
        if let Some(room) = own.spec.room {
            own.small = Some(Small::mount(&own.b.images, room)?);
        }
        for side in [Side::A, Side::B] {
            let node = own.node(side);
            fs::write(&node.config, own.spec.host_config(node))?;
            node.join(&own.gateway)?;
            own.start_agent(side)?;
        }
        own.machine.wait_up()?;
        Ok(own)
    }

    /// A host's agent.
    pub fn node(&self, side: Side) -> &Node {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// A host's agent, to be changed.
    pub fn node_mut(&mut self, side: Side) -> &mut Node {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// A host's cables and processes.
    pub fn hypervisor(&self, side: Side) -> &Hypervisor {
        match side {
            Side::A => &self.net.a,
            Side::B => &self.net.b,
        }
    }

    /// A directory for files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Protects the guest by `hawser protect start`, and waits until it is protected. Returns what the command printed.
    pub fn protect(&self) -> Result<String> {
        let socket = self.machine.qmp();
        let socket = socket.to_str().context("the socket's path is no text")?;
        let words = [
            "protect",
            "start",
            GUEST,
            "--to",
            Side::B.name(),
            "--qmp",
            socket,
            "--yes",
        ];
        self.a.command(&words)
    }

    /// [`Node::status`] of a host.
    pub fn status(&self, side: Side) -> Option<Value> {
        self.node(side).status()
    }

    /// Waits until what a host's agent says of the guest is so; returns it.
    pub fn wait_status(
        &self,
        side: Side,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = None;
        let what = format!("{} to say of the guest: {what}", side.name());
        let found = wait::until(limit, &what, || {
            last = self.status(side);
            Ok(last.clone().filter(&holds))
        });
        found.with_context(|| format!("it said last: {last:#?}"))
    }

    /// Waits until a host is this to the guest: `active`, `standby`, `alone`, `gone`.
    pub fn wait_role(&self, side: Side, role: &str, limit: Duration) -> Result<Value> {
        self.wait_status(side, limit, role, |m| m["role"] == role)
    }

    /// Waits until a host is in this phase with the guest, as in `protected`.
    pub fn wait_phase(&self, side: Side, phase: &str, limit: Duration) -> Result<Value> {
        self.wait_status(side, limit, phase, |m| m["phase"] == phase)
    }

    /// Sends a signal to what runs on a host.
    pub fn signal(&self, side: Side, part: Part, signal: Signal) -> Result<()> {
        let agents: Vec<_> = self.node(side).agent.iter().map(|a| a.process.id()).collect();
        let qemus = self.qemus(side)?;
        let ids = match part {
            Part::Qemu => qemus,
            Part::Agent => agents,
            Part::Both => [agents, qemus].concat(),
        };
        ensure!(
            !ids.is_empty(),
            "nothing on {} to send {signal:?} to",
            side.name()
        );
        ids.into_iter().try_for_each(|id| signal_one(id, signal))
    }

    /// `SIGKILL`.
    pub fn kill(&self, side: Side, part: Part) -> Result<()> {
        self.signal(side, part, Signal::KILL)
    }

    /// `SIGSTOP`: silent from now on, while connections stay open.
    pub fn freeze(&self, side: Side, part: Part) -> Result<()> {
        self.signal(side, part, Signal::STOP)
    }

    /// `SIGCONT`.
    pub fn thaw(&self, side: Side, part: Part) -> Result<()> {
        self.signal(side, part, Signal::CONT)
    }

    /// A host without a warning: its cables go silent, then everything on it is killed.
    pub fn power_off(&self, side: Side) -> Result<()> {
        self.net.power_off(self.hypervisor(side))
    }

    /// The QEMU processes on a host.
    pub fn qemus(&self, side: Side) -> Result<Vec<u32>> {
        self.hypervisor(side).named("qemu-system")
    }

    /// Starts a host's agent (again), and waits until it can ask the hub.
    pub fn start_agent(&mut self, side: Side) -> Result<()> {
        let node = self.node_mut(side);
        node.start()?;
        node.running()?.wait_ready(SETUP)
    }

    /// Freezes the hub: it takes questions, and answers none.
    pub fn freeze_hub(&self) -> Result<()> {
        self.hub.as_ref().context("the hub is down")?.process.freeze()
    }

    /// Stops the hub: `SIGKILL`.
    pub fn stop_hub(&mut self) {
        self.hub = None;
    }

    /// Starts the hub (again).
    pub fn start_hub(&mut self) -> Result<()> {
        self.hub = None;
        self.hub = Some(start_hub(&self.net.hub, &self.hub_paths)?);
        Ok(())
    }

    /// What the hub's register says of the machines (`hawser hub register --json`).
    pub fn register(&self) -> Result<Value> {
        let words = ["hub", "register", "--json"];
        let text = hawser::run(&self.net.hub, &self.hub_paths[0], &words, "")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Clients at work on the guest, from the clients' host.
    pub fn clients(&self, plan: Plan) -> Result<Clients> {
        Clients::start(&self.net.client, Hypervisors::guest_kv(), plan)
    }

    /// A connection to the guest, for orders.
    pub fn kv(&self) -> Result<Kv> {
        Kv::connect(&self.net.client, Hypervisors::guest_kv())
    }

    /// Watches on the switch where the guest's frames come from.
    pub fn watch(&self) -> Result<Watch> {
        let ports = [Side::A.name(), Side::B.name()];
        Watch::start(&self.net.switch, &ports, MAC, self.dir.path())
    }

    /// The image of the guest's disk on a host: the replica, or the disk that it began with.
    pub fn disk(&self, side: Side) -> Result<PathBuf> {
        match (side, self.node(side).replicas()?.as_slice()) {
            (Side::A, []) => Ok(self.dir.path().join("disk.raw")),
            (_, [one]) => Ok(one.clone()),
            (_, other) => bail!("expected one replica on {}, there are {other:?}", side.name()),
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in [&self.a, &self.b] {
                eprintln!("== end of {}\n{}", node.log.display(), tail(&node.log()));
            }
        }
        if std::env::var_os("HAWSER_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
        }
    }
}

fn guest(spec: &Spec, dir: &Path) -> Result<MachineSpec> {
    let drive = Drive::create(&dir.join("disk.raw"), spec.disk, spec.aio)?;
    let mut machine = MachineSpec::new(&spec.version).with_drive(drive);
    machine.name = GUEST.into();
    machine.memory = spec.memory;
    machine.ram = spec.ram;
    machine.extra.clone_from(&spec.extra);
    machine.ip = Some(Hypervisors::guest_ip());
    machine.nics.push(Nic::Tap {
        tap: "tap0".into(),
        bridge: BRIDGE.into(),
        mac: MAC.into(),
    });
    Ok(machine)
}

fn hub_config(net: &Hypervisors, state: &Path) -> String {
    let at = net.hub_at();
    admin_table(&net.hub) + &format!("[hub]\nlisten = [\"{at}\"]\npublic = \"{at}\"\nstate = {state:?}\n")
}

fn start_hub(host: &Host, [config, state, log]: &[PathBuf; 3]) -> Result<Daemon> {
    Daemon::start_as(host, config, state, log, &["hub"], ADMIN_PORT)
}

/// The domain's first gateway: root, issuer, admitted by the hub.
fn start_gateway(host: &Host, hub: &Daemon, dir: &Path) -> Result<Daemon> {
    let (config, state) = (dir.join("gateway.toml"), dir.join("gateway"));
    let text = admin_table_at(host, GATEWAY_ADMIN) + &format!("[gateway]\nstate = {state:?}\n");
    fs::write(&config, text)?;
    hawser::run(host, &config, &["domain", "init", DOMAIN, "gw1"], "")?;
    let token = hub.command(&["token", "hub", DOMAIN], "")?;
    hawser::run(host, &config, &["join"], &token)?;
    let log = dir.join("gateway.log");
    let mut gateway = Daemon::start_as(host, &config, &state, &log, &["gateway"], GATEWAY_ADMIN)?;
    gateway.wait_ready(SETUP)?;
    Ok(gateway)
}
