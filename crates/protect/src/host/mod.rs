//! A hypervisor host: the agent that protects the machines that run here, and stands by for those of other hosts.
//!
//! [`Agent`] takes what the user asks for and what other hosts offer; [`active`] and [`standby`] are its two parts in a session,
//! each with threads of its own.

mod active;
mod ask;
pub mod config;
mod messages;
mod recover;
mod standby;
mod stats;
pub mod status;
mod taps;
mod watch;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawser_identity::{SharedCredentials, SharedTrust};
use hawser_proto::{DomainName, NodeName, Role, arbiter::VmId, protection::Plan};
use tokio::{runtime::Handle, task::AbortHandle};

pub use active::Request;
pub use config::{HostConfig, HostConfigError};
pub use stats::{Progress, Spread};

use crate::{
    arbiter::Arbiter,
    epoch::active::Event as ActiveEvent,
    guest::GuestError,
    link::{self, Hearts, Listener, Rhythm},
    vm::Finding,
};
use status::{HostStatus, MachineStatus};

/// How long a plan waits for the user's consent.
const CONSENT: Duration = Duration::from_secs(300);
/// Most plans that wait.
const PLANS: usize = 16;

/// Who this host is, and whom it trusts.
#[derive(Clone)]
pub struct Identity {
    /// Its own key and certificate, renewed by others.
    pub credentials: SharedCredentials,
    /// Roots and revocations.
    pub trust: SharedTrust,
}

impl Identity {
    /// Its name within its domain.
    pub fn name(&self) -> NodeName {
        self.credentials.load().id().name.clone()
    }

    /// Its domain.
    pub fn domain(&self) -> DomainName {
        self.credentials.load().id().domain.clone()
    }
}

/// Why a host cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] HostConfigError),
    /// The machine, or this or the other host, is not fit; nothing was changed. What to do is in the message.
    #[error("{0}")]
    Unfit(String),
    /// The machine's QEMU.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The register.
    #[error("{0}")]
    Register(String),
    /// There is no such machine, or it is in no state for this.
    #[error("{0}")]
    State(String),
    /// Something failed; a retry may help.
    #[error("{0}")]
    Failed(String),
}

/// A plan that waits for the user's consent.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Planned {
    /// The machine.
    pub machine: String,
    /// Of the register and of everything else.
    pub uuid: VmId,
    /// The standby, its command line, and what differs.
    pub host: NodeName,
    /// The twin's command line, program first.
    pub command_line: Vec<String>,
    /// What differs from the machine's own.
    pub changes: Vec<hawser_proto::protection::PlannedChange>,
    /// What the user ought to know.
    pub warnings: Vec<String>,
}

impl Planned {
    fn new(machine: String, uuid: VmId, plan: &Plan, findings: &[Finding]) -> Self {
        Self {
            machine,
            uuid,
            host: plan.host.clone(),
            command_line: plan.command_line.clone(),
            changes: plan.changes.clone(),
            warnings: findings
                .iter()
                .map(ToString::to_string)
                .chain(plan.warnings.iter().cloned())
                .collect(),
        }
    }
}

/// The agent of a host. Dropped, it listens no longer; sessions go on until they are stopped.
pub struct Agent {
    inner: Arc<Inner>,
    listening: AbortHandle,
    local: SocketAddr,
}

struct Inner {
    config: HostConfig,
    own: Identity,
    arbiter: Arc<dyn Arbiter>,
    hearts: Arc<Hearts>,
    machines: Mutex<BTreeMap<VmId, Machine>>,
    plans: Mutex<BTreeMap<VmId, (Instant, active::Offering)>>,
}

enum Machine {
    Active(Arc<active::Session>),
    Standby(Arc<standby::Session>),
    /// A session that is over, and holds nothing any more.
    Past(Box<MachineStatus>),
}

impl Machine {
    fn status(&self) -> MachineStatus {
        match self {
            Machine::Active(s) => s.status(),
            Machine::Standby(s) => s.status(),
            Machine::Past(status) => (**status).clone(),
        }
    }

    /// Lets go of a session that is over.
    fn retire(&mut self) {
        if self.has_ended() && !matches!(self, Machine::Past(_)) {
            *self = Machine::Past(Box::new(self.status()));
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Machine::Active(s) => s.has_closed(),
            Machine::Standby(s) => s.has_ended(),
            Machine::Past(_) => true,
        }
    }
}

impl Agent {
    /// Starts to listen for other hosts, and settles what a former agent left behind.
    pub async fn start(
        mut config: HostConfig,
        own: Identity,
        arbiter: Arc<dyn Arbiter>,
    ) -> Result<Self, HostError> {
        let address = config.check()?;
        // The QEMUs that are started here have a working directory of their own.
        for path in [&mut config.images, &mut config.run] {
            *path = std::path::absolute(&*path)
                .map_err(|e| HostError::State(format!("{}: {e}", path.display())))?;
        }
        let failed = |e: &dyn std::fmt::Display| HostError::Failed(e.to_string());
        if own.credentials.load().id().role != Role::Host {
            return Err(HostError::State(
                "host.state holds the identity of a gateway: join with a token of `hawser token host`".into(),
            ));
        }
        std::fs::create_dir_all(&config.run)
            .and_then(|()| std::fs::set_permissions(&config.run, std::fs::Permissions::from_mode(0o711)))
            .map_err(|e| {
                HostError::State(format!("host.run: {} cannot be made: {e}", config.run.display()))
            })?;
        let mut listener = Listener::bind(
            address,
            own.credentials.clone(),
            own.trust.clone(),
            allow(&config.accept),
        )
        .map_err(|e| failed(&e))?;
        let local = listener.local();
        let socket = UdpSocket::bind(SocketAddr::new(address.ip(), local.port())).map_err(|e| {
            HostError::State(format!("host.listen: {local} (UDP) cannot be listened on: {e}"))
        })?;
        let hearts = Arc::new(Hearts::start(socket).map_err(|e| failed(&e))?);
        let inner = Arc::new(Inner {
            config,
            own,
            arbiter,
            hearts,
            machines: Mutex::default(),
            plans: Mutex::default(),
        });
        tokio::spawn(inner.clone().settle());
        tokio::spawn(Inner::retire(Arc::downgrade(&inner)));
        let around = Arc::new(inner.surroundings());
        let listening = tokio::spawn(async move {
            while let Some(channel) = listener.accept().await {
                let around = around.clone();
                let spawned = std::thread::Builder::new()
                    .name("standby".into())
                    .spawn(move || standby::serve(&around, channel));
                if let Err(error) = spawned {
                    tracing::error!(%error, "no thread can be started for another host");
                }
            }
        });
        Ok(Self {
            inner,
            listening: listening.abort_handle(),
            local,
        })
    }

    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Looks at a machine and asks the other host for a plan. Nothing is changed; [`Agent::begin`] begins.
    pub async fn plan(&self, request: &Request) -> Result<Planned, HostError> {
        let inner = &self.inner;
        let mut request = request.clone();
        if request.qmp.is_none() {
            request.qmp = inner.socket(&request.machine);
        }
        let offering = active::prepare(&inner.config, &inner.own, &inner.arbiter, &request).await?;
        let planned = Planned::new(
            offering.name.clone(),
            offering.machine,
            &offering.plan,
            &offering.findings,
        );
        let mut plans = inner.plans();
        plans.retain(|_, (at, _)| at.elapsed() < CONSENT);
        if plans.len() >= PLANS {
            return Err(HostError::State(
                "too many plans wait for consent: begin or forget some".into(),
            ));
        }
        plans.insert(planned.uuid, (Instant::now(), offering));
        Ok(planned)
    }

    /// Protects a machine as planned. Returns at once; [`Agent::status`] tells how it goes.
    pub async fn begin(&self, machine: VmId) -> Result<(), HostError> {
        let inner = &self.inner;
        let Some((_, offering)) = inner.plans().remove(&machine) else {
            return Err(HostError::State(
                "there is no plan for this machine, or it is too old: make a new one".into(),
            ));
        };
        let mut machines = inner.machines();
        if machines.get(&machine).is_some_and(|m| !m.has_ended()) {
            return Err(HostError::State("this machine is protected already".into()));
        }
        let session = offering.begin(&inner.config, &inner.own, inner.arbiter.clone(), &inner.hearts)?;
        machines.insert(machine, Machine::Active(session));
        Ok(())
    }

    /// Ends a machine's protection; it runs on here. Returns at once.
    pub fn stop(&self, machine: &str) -> Result<(), HostError> {
        match self.inner.find(machine)? {
            Machine::Active(session) => {
                let session = session.clone();
                std::thread::spawn(move || session.event(ActiveEvent::Stop));
                Ok(())
            }
            Machine::Standby(_) => Err(HostError::State(format!(
                "{machine} does not run here: stop its protection on the host where it runs"
            ))),
            Machine::Past(_) => Err(HostError::State(format!("{machine} is not protected from here"))),
        }
    }

    /// Forces a fail-over: the standby takes over, whichever of the two hosts this is. Returns at once.
    pub fn fail(&self, machine: &str) -> Result<(), HostError> {
        match self.inner.find(machine)? {
            Machine::Active(session) => {
                if !session.is_protected() {
                    return Err(HostError::State(format!(
                        "{machine} is not protected (yet): there is nothing to fail over to"
                    )));
                }
                let session = session.clone();
                std::thread::spawn(move || session.event(ActiveEvent::FailOver));
            }
            Machine::Standby(session) => {
                if session.has_ended() {
                    return Err(HostError::State(format!("{machine} does not wait here")));
                }
                std::thread::spawn(move || session.fail_over());
            }
            Machine::Past(_) => return Err(HostError::State(format!("{machine} is not protected any more"))),
        }
        Ok(())
    }

    /// Settles what a former agent left behind: a line about each machine.
    pub async fn recover(&self) -> Vec<String> {
        self.inner.recover().await
    }

    /// What there is to say of this host and its machines.
    pub fn status(&self) -> HostStatus {
        HostStatus {
            host: self.inner.own.name().to_string(),
            listen: self.local.to_string(),
            machines: self.inner.machines().values().map(Machine::status).collect(),
        }
    }

    /// Stops protecting every machine that runs here, so that none is left mute; at most `limit` long.
    pub async fn drain(&self, limit: Duration) {
        self.listening.abort();
        let active: Vec<Arc<active::Session>> = self
            .inner
            .machines()
            .values()
            .filter_map(|m| match m {
                Machine::Active(s) if !s.has_closed() => Some(s.clone()),
                _ => None,
            })
            .collect();
        for session in &active {
            let session = session.clone();
            let _ = tokio::task::spawn_blocking(move || session.event(ActiveEvent::Stop)).await;
        }
        let until = Instant::now() + limit;
        while active.iter().any(|s| !s.has_closed()) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for session in active.iter().filter(|s| !s.has_closed()) {
            tracing::error!(
                machine = %session.status().name,
                "the register could not be asked: the machine stays mute until an agent runs here again"
            );
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Inner {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<VmId, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plans(&self) -> MutexGuard<'_, BTreeMap<VmId, (Instant, active::Offering)>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to settle what is left behind until it is: the register may not be reachable yet.
    async fn settle(self: Arc<Self>) {
        while self
            .recover()
            .await
            .iter()
            .any(|line| line.contains(recover::UNSETTLED))
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Ends sessions with hosts whose identity does not stand any more.
    fn cut_strangers(&self) {
        let trust = self.own.trust.load();
        let machines: Vec<Machine> = self.machines().values().map(Machine::share).collect();
        for machine in machines.iter().filter(|m| !m.has_ended()) {
            let (Machine::Active(_) | Machine::Standby(_)) = machine else {
                continue;
            };
            let proved = match machine {
                Machine::Active(s) => s.proved(),
                Machine::Standby(s) => s.proved(),
                Machine::Past(_) => continue,
            };
            if trust.stands(proved) {
                continue;
            }
            let why = format!("{} is revoked", proved.id);
            match machine {
                Machine::Active(s) => s.event(ActiveEvent::LinkDown(why)),
                Machine::Standby(s) => s.cut(&why),
                Machine::Past(_) => {}
            }
        }
    }

    /// Lets go of sessions that are over, for as long as there is an agent.
    async fn retire(inner: std::sync::Weak<Self>) {
        while let Some(strong) = inner.upgrade() {
            let over = move || {
                strong.cut_strangers();
                strong.machines().values_mut().for_each(Machine::retire);
            };
            let _ = tokio::task::spawn_blocking(over).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn recover(&self) -> Vec<String> {
        let known = |vm| self.machines().contains_key(&vm);
        recover::leftovers(&self.config, &self.arbiter, &self.own.name(), known).await
    }

    /// The QMP socket of a machine that this host took over, or protected before.
    fn socket(&self, text: &str) -> Option<std::path::PathBuf> {
        let status = self.find(text).ok()?.status();
        status
            .qmp
            .filter(|qmp| status.role == status::Role::Alone && qmp.exists())
    }

    /// A machine by its name or UUID.
    fn find(&self, text: &str) -> Result<Machine, HostError> {
        let machines = self.machines();
        let mut found = machines
            .values()
            .filter(|m| {
                let status = m.status();
                status.name == text || status.machine.to_string() == text
            })
            .map(Machine::share);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(HostError::State(format!(
                "no machine {text:?} is or was protected here: see `hawser protect status`"
            ))),
            _ => Err(HostError::State(format!(
                "several machines are called {text:?}: use the UUID"
            ))),
        }
    }

    fn surroundings(self: &Arc<Self>) -> standby::Surroundings {
        let (inner, begun) = (Arc::downgrade(self), Arc::downgrade(self));
        standby::Surroundings {
            config: self.config.clone(),
            own: self.own.clone(),
            arbiter: self.arbiter.clone(),
            hearts: self.hearts.clone(),
            runtime: Handle::current(),
            knows: Box::new(move |vm| {
                // Without an agent, nothing is taken on.
                inner
                    .upgrade()
                    .is_none_or(|i| i.machines().get(&vm).is_some_and(|m| !m.has_ended()))
            }),
            begun: Box::new(move |session| {
                if let Some(inner) = begun.upgrade() {
                    inner.machines().insert(session.vm(), Machine::Standby(session));
                }
            }),
            preparing: Arc::default(),
        }
    }
}

impl Machine {
    fn share(&self) -> Machine {
        match self {
            Machine::Active(s) => Machine::Active(s.clone()),
            Machine::Standby(s) => Machine::Standby(s.clone()),
            Machine::Past(s) => Machine::Past(s.clone()),
        }
    }
}

/// Whom the listener lets in.
fn allow(accept: &[NodeName]) -> link::Allow {
    let accept = accept.to_vec();
    Box::new(move |peer| accept.is_empty() || accept.contains(&peer.name))
}

/// What is told by heartbeat, beside the message, when the guest is dead here: how long before it was last known to run, in milliseconds
/// from 1.
fn tell_death(ago: Duration) -> u16 {
    u16::try_from(ago.as_millis() + 1).unwrap_or(u16::MAX)
}

/// How long before the news a dead guest was last known to run, by what the other host told.
fn told_death(status: Option<u16>) -> Option<Duration> {
    let told = status?.checked_sub(1)?;
    Some(Duration::from_millis(told.into()))
}

/// Heartbeats so often that five fit into the time after which silence counts.
fn rhythm(detect: Duration) -> Rhythm {
    Rhythm {
        every: detect / 5,
        silent_after: detect,
        frozen_after: detect / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_with_the_time_since_the_guest_was_last_known_to_run() {
        let [none, some, long] = [0, 1234, 1_000_000].map(Duration::from_millis);
        for ago in [none, some] {
            assert_eq!(told_death(Some(tell_death(ago))), Some(ago));
        }
        assert_eq!(
            told_death(Some(tell_death(long))),
            Some(Duration::from_millis(65534))
        );
        assert_eq!((told_death(None), told_death(Some(0))), (None, None));
    }
}
