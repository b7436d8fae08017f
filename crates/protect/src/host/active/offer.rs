//! Before anything is changed: the machine is found and judged, the standby asked for a plan, and the register for its say.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use hawser_identity::Proved;
use hawser_proto::{
    NodeId, NodeName, Role,
    arbiter::{Award, SessionId, VmId},
    protection::{Offer, OfferedDisk, OfferedInterface, Plan, ToActive, ToStandby, VERSION},
};

use super::{
    super::{HostConfig, HostError, Identity, messages, rhythm, taps},
    engine::Engine,
    session::{Parts, Session, Wake},
};
use crate::{
    arbiter::{Arbiter, ArbiterError},
    epoch::{
        active::{Active, Event},
        pace::Pace,
    },
    guest::{Disk, Guest as _, Nic, Output as Leftover, Qemu, Timeouts},
    link::{self, Channel, HeartKeys, HeartPeer, Hearts, Life, Reader},
    pipe::{Options, Outbound},
    vm::{self, CommandLine, Facts, Finding, HostFacts, ProcessFacts, QemuFacts, Severity},
};

/// Longest wait for the standby's plan.
const PLAN: Duration = Duration::from_secs(30);

/// What the user asks for.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Request {
    /// The machine's name.
    pub machine: String,
    /// Its QMP socket; none: that by which the host knows it already, else where `hawser vm run` puts it, else `NAME.qmp` in the
    /// directory of sockets.
    pub qmp: Option<PathBuf>,
    /// The host that is to stand by.
    pub to: NodeName,
    /// Where that host listens; none: its name as the resolver knows it, with the usual port.
    pub address: Option<String>,
}

/// A machine for which the standby has a plan, and nothing is changed yet. Dropped, nothing comes of it.
pub(crate) struct Offering {
    pub(crate) plan: Plan,
    pub(crate) findings: Vec<Finding>,
    pub(crate) machine: VmId,
    pub(crate) name: String,
    qmp: PathBuf,
    qemu: Qemu,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    session: SessionId,
    term: u64,
    peer: NodeName,
    address: SocketAddr,
    outbound: Outbound,
    aborter: link::Aborter,
    proved: Proved,
    replies: mpsc::Receiver<ToActive>,
    router: Router,
    heart: Option<(HeartKeys, Life)>,
}

/// Where the standby's messages go: acknowledgements to the session once there is one, all else to whoever waits for it.
#[derive(Clone)]
struct Router(Arc<Mutex<Option<Arc<Session>>>>);

impl Router {
    fn session(&self) -> Option<Arc<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is known of a machine before it is offered.
struct Looked {
    qmp: PathBuf,
    qemu: Qemu,
    offer: Offer,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    findings: Vec<Finding>,
}

/// Looks at the machine, asks the register, and gets the standby's plan.
pub(crate) async fn prepare(
    config: &HostConfig,
    own: &Identity,
    arbiter: &Arc<dyn Arbiter>,
    request: &Request,
) -> Result<Offering, HostError> {
    let peer_id = NodeId {
        domain: own.domain(),
        role: Role::Host,
        name: request.to.clone(),
    };
    if request.to == own.name() {
        return Err(HostError::Unfit(
            "a host cannot stand by for itself: name another one with --to".into(),
        ));
    }
    let address = resolve(config, request).await?;
    let (config_, name, qmp) = (config.clone(), request.machine.clone(), request.qmp.clone());
    let mut looked = tokio::task::spawn_blocking(move || look(&config_, &name, qmp))
        .await
        .map_err(|e| HostError::Failed(e.to_string()))??;
    looked.offer.register = arbiter.identity();
    let term = claim(&**arbiter, looked.offer.machine, &own.name()).await?;
    let channel = link::dial(address, &peer_id, own.credentials.clone(), own.trust.clone())
        .await
        .map_err(|e| HostError::Failed(e.to_string()))?;
    let ring = usize::try_from(config.ring).unwrap_or(usize::MAX);
    tokio::task::spawn_blocking(move || offer(looked, channel, term, address, ring))
        .await
        .map_err(|e| HostError::Failed(e.to_string()))?
}

/// The register must say that the machine is this host's; it is told so when it knows nothing. Returns the term.
async fn claim(arbiter: &dyn Arbiter, machine: VmId, own: &NodeName) -> Result<u64, HostError> {
    let alone = Award::Alone { host: own.clone() };
    let register = |e: ArbiterError| HostError::Register(e.to_string());
    let current = arbiter.read(machine).await.map_err(register)?;
    let from = match &current {
        Some(record) if record.award == alone => return Ok(record.term),
        None => 0,
        Some(record) => match &record.award {
            Award::Stopped { host } if host == own => record.term,
            Award::Protected { active, .. } if active == own => record.term,
            other => {
                return Err(HostError::Unfit(format!(
                    "the register says {other}: the machine that runs here has an old disk, and must not be protected or used; \
                     end it, and protect the machine from where it runs"
                )));
            }
        },
    };
    Ok(arbiter.change(machine, from, alone).await.map_err(register)?.term)
}

async fn resolve(config: &HostConfig, request: &Request) -> Result<SocketAddr, HostError> {
    let port = config.check().map_or(8444, |a| a.port());
    let text = match &request.address {
        Some(address) => address.clone(),
        None => match config.peers.get(&request.to) {
            Some(address) => address.clone(),
            None => request.to.to_string(),
        },
    };
    let text = if text.parse::<SocketAddr>().is_ok()
        || text
            .rsplit_once(':')
            .is_some_and(|(_, p)| p.parse::<u16>().is_ok())
    {
        text
    } else {
        format!("{text}:{port}")
    };
    let found = tokio::net::lookup_host(&text).await.map_err(|e| {
        HostError::Unfit(format!(
            "{text} is not found ({e}): say where {} listens with --address or in host.peers",
            request.to
        ))
    })?;
    let mut found = found;
    found.next().ok_or_else(|| {
        HostError::Unfit(format!(
            "{text} has no address: say where {} listens with --address",
            request.to
        ))
    })
}

/// Where a machine's QMP socket is.
fn socket(config: &HostConfig, name: &str, given: Option<PathBuf>) -> Result<PathBuf, HostError> {
    if let Some(path) = given {
        return Ok(path);
    }
    let places = [
        PathBuf::from("/run/hawser/vm").join(name).join("qmp.sock"),
        config.run.join(format!("{name}.qmp")),
    ];
    places.iter().find(|p| p.exists()).cloned().ok_or_else(|| {
        let tried: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        HostError::Unfit(format!(
            "no QMP socket of a machine {name:?} at {}: name it with --qmp (QEMU's option is `-qmp unix:PATH,server=on,wait=off`)",
            tried.join(" or ")
        ))
    })
}

fn look(config: &HostConfig, name: &str, qmp: Option<PathBuf>) -> Result<Looked, HostError> {
    let socket = socket(config, name, qmp)?;
    let timeouts = Timeouts {
        checkpoint: config.qmp_timeout,
        ..Timeouts::default()
    };
    let mut qemu = Qemu::attach(&socket, timeouts)?;
    let line = CommandLine::of_process(qemu.process().pid()).map_err(|e| HostError::Unfit(e.to_string()))?;
    let said = QemuFacts::gather(|command, arguments| qemu.qmp().execute(command, arguments))?;
    let facts = Facts {
        process: ProcessFacts::gather(qemu.process().pid(), &said.disks),
        qemu: said,
        host: HostFacts::gather(&config.run),
        command_line: line.clone(),
        standby: None,
    };
    let findings = vm::preflight(&facts);
    let refused: Vec<String> = findings
        .iter()
        .filter(|f| f.severity == Severity::Refuse)
        .map(ToString::to_string)
        .collect();
    if !refused.is_empty() {
        return Err(HostError::Unfit(refused.join("\n")));
    }
    let disks = qemu.disks()?;
    let nics = qemu.nics()?;
    let [major, minor, micro] = qemu.version();
    let offer = Offer {
        version: VERSION,
        machine: VmId(qemu.uuid()?),
        name: name.into(),
        session: SessionId(*uuid::Uuid::new_v4().as_bytes()),
        qemu: format!("{major}.{minor}.{micro}"),
        machine_type: qemu.machine().into(),
        command_line: std::iter::once(line.program.display().to_string())
            .chain(line.args.iter().cloned())
            .collect(),
        directory: line.directory.display().to_string(),
        register: String::new(),
        facts: serde_json::to_string(&facts).map_err(|e| HostError::Failed(e.to_string()))?,
        disks: disks.iter().map(offered_disk).collect(),
        interfaces: nics.iter().map(offered_interface).collect(),
        detect: config.detect.as_millis() as u32,
    };
    Ok(Looked {
        qmp: socket,
        qemu,
        offer,
        disks,
        nics,
        findings,
    })
}

fn offered_disk(disk: &Disk) -> OfferedDisk {
    OfferedDisk {
        name: if disk.file.is_empty() {
            disk.node.clone()
        } else {
            disk.file.clone()
        },
        file: disk.file.clone(),
        size: disk.size,
        read_only: disk.read_only,
    }
}

fn offered_interface(nic: &Nic) -> OfferedInterface {
    let tap = nic.ifname.clone().unwrap_or_default();
    OfferedInterface {
        name: nic.netdev.clone(),
        bridge: taps::bridge_of(&tap),
        tap,
    }
}

/// Offers a machine on a channel, and waits for the plan.
fn offer(
    mut looked: Looked,
    channel: Channel,
    term: u64,
    address: SocketAddr,
    ring: usize,
) -> Result<Offering, HostError> {
    // What a session before this one left behind; the register says by now that the machine is this host's.
    looked.qemu.clean_up(Leftover::Freed)?;
    looked.qemu.resume()?;
    let aborter = channel.aborter.clone();
    let abort = aborter.clone();
    let options = Options {
        ring: Some(ring),
        abort: Some(Box::new(move || abort.abort())),
        ..Options::default()
    };
    let failed = |e: &dyn std::fmt::Display| HostError::Failed(e.to_string());
    let outbound = Outbound::start(Box::new(channel.writer), options).map_err(|e| failed(&e))?;
    let router = Router(Arc::default());
    let (sender, replies) = mpsc::channel();
    let routed = router.clone();
    let mut reader = channel.reader;
    thread::Builder::new()
        .name("active-replies".into())
        .spawn(move || route(&mut reader, &sender, &routed))
        .map_err(|e| failed(&e))?;
    let message =
        messages::encode(&ToStandby::Offer(Box::new(looked.offer.clone()))).map_err(|e| failed(&e))?;
    outbound.control(&message).map_err(|e| failed(&e))?;
    let plan = match replies.recv_timeout(PLAN) {
        Ok(ToActive::Planned(plan)) => plan,
        Ok(ToActive::Refused(why)) => return Err(HostError::Unfit(format!("{}: {why}", channel.peer.name))),
        Ok(_) => {
            return Err(HostError::Failed(format!(
                "{} answered out of turn",
                channel.peer.name
            )));
        }
        Err(_) => {
            return Err(HostError::Failed(format!(
                "{} did not answer with a plan; look at its log",
                channel.peer.name
            )));
        }
    };
    Ok(Offering {
        plan,
        findings: looked.findings,
        machine: looked.offer.machine,
        name: looked.offer.name,
        qmp: looked.qmp,
        qemu: looked.qemu,
        disks: looked.disks,
        nics: looked.nics,
        session: looked.offer.session,
        term,
        peer: channel.peer.name.clone(),
        address,
        outbound,
        aborter,
        proved: channel.proved,
        replies,
        router,
        heart: Some((channel.heart, channel.life)),
    })
}

/// Reads what the standby says, until the connection ends.
fn route(reader: &mut Reader, waiting: &mpsc::Sender<ToActive>, router: &Router) {
    let why: io::Error = loop {
        match messages::read::<ToActive>(reader) {
            Ok(ToActive::Acknowledged(epoch)) => {
                if let Some(session) = router.session() {
                    session.event(Event::Acknowledged(epoch));
                }
            }
            Ok(ToActive::Buffered(bytes)) => {
                if let Some(session) = router.session() {
                    session.status_mut().disk_buffer = bytes;
                }
            }
            Ok(ToActive::FailOver) => {
                if let Some(session) = router.session() {
                    session.event(Event::FailOver);
                }
            }
            Ok(ToActive::Refused(why)) => {
                if let Some(session) = router.session() {
                    session.event(Event::LinkDown(format!("the standby refused: {why}")));
                }
                let _ = waiting.send(ToActive::Refused(why));
            }
            Ok(other) => {
                let _ = waiting.send(other);
            }
            Err(e) => break e,
        }
    };
    if let Some(session) = router.session() {
        session.event(Event::LinkDown(format!(
            "the connection to the standby ended: {why}"
        )));
    }
}

impl Offering {
    /// The user agrees: protection begins, in threads of its own.
    pub(crate) fn begin(
        mut self,
        config: &HostConfig,
        own: &Identity,
        arbiter: Arc<dyn Arbiter>,
        hearts: &Hearts,
    ) -> Result<Arc<Session>, HostError> {
        let failed = |e: io::Error| HostError::Failed(format!("no thread can be started: {e}"));
        let (engine, wakes) = mpsc::channel::<Wake>();
        let now = Instant::now();
        let session = Session::new(
            Parts {
                vm: self.machine,
                name: self.name.clone(),
                peer: self.peer.clone(),
                guest: self.qemu.process().clone(),
                outbound: self.outbound.clone(),
                aborter: self.aborter.clone(),
                proved: self.proved,
                arbiter,
                machine: Active::new(
                    own.name(),
                    self.peer.clone(),
                    self.session,
                    self.term,
                    config.detect,
                    now,
                ),
            },
            engine,
        );
        session.status_mut().qmp = Some(self.qmp.clone());
        if let Some((keys, life)) = self.heart.take() {
            // The standby's heartbeats come from the port that it listens on.
            let peer = HeartPeer::At(self.address);
            let heart = hearts.begin(keys, peer, life, rhythm(config.detect), Box::new(|_| {}));
            let _ = session.heart.set(heart);
        }
        *self.router.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        let run = config.run.join(self.machine.to_string()).join("active");
        let _ = std::fs::remove_dir_all(&run);
        std::fs::create_dir_all(&run)
            .and_then(|()| {
                std::fs::write(
                    run.join(super::super::recover::QMP),
                    self.qmp.as_os_str().as_encoded_bytes(),
                )
            })
            .map_err(|e| HostError::Failed(format!("{} cannot be made: {e}", run.display())))?;
        let engine = Engine {
            session: session.clone(),
            qemu: self.qemu,
            wakes,
            replies: self.replies,
            disks: self.disks,
            nics: self.nics,
            mirrors: Vec::new(),
            run,
            pace: Pace::new(config.interval),
            memory: None,
            tracker: None,
            layout: Default::default(),
            server: None,
            runs: Vec::new(),
            epoch: 0,
            end: None,
        };
        let watched = session.clone();
        thread::Builder::new()
            .name("active-watch".into())
            .spawn(move || watched.watch())
            .map_err(failed)?;
        thread::Builder::new()
            .name("engine".into())
            .spawn(move || engine.run())
            .map_err(failed)?;
        Ok(session)
    }
}
