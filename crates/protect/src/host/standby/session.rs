//! A session on the standby as every thread of it sees it: events go into the state machine, its commands are carried out.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hawser_identity::Proved;
use hawser_proto::{
    NodeName,
    arbiter::VmId,
    protection::{EpochState, ToActive},
};
use tokio::runtime::Handle;

use super::{
    super::{
        ask::{self, Question},
        messages,
        status::{MachineStatus, Role},
        taps::Tap,
        told_death,
        watch::{self, Watched},
    },
    replica::Disks,
    twin::Twin,
};
use crate::{
    arbiter::Arbiter,
    epoch::standby::{Command, Event, Phase, Standby},
    link::{Aborter, Heart, Moment, Writer},
    pipe::Staged,
};

/// How long the active host may take to end the machine, when a fail-over is forced here.
const FAIL_OVER: Duration = Duration::from_secs(1);

/// A session on the standby.
pub(crate) struct Session {
    pub(super) vm: VmId,
    pub(super) machine_type: String,
    pub(super) heart: OnceLock<Heart>,
    pub(super) disks: Arc<Disks>,
    pub(super) waiting: Mutex<Waiting>,
    proved: Proved,
    writer: Mutex<Writer>,
    aborter: Aborter,
    arbiter: Arc<dyn Arbiter>,
    runtime: Handle,
    machine: Mutex<Standby>,
    status: Mutex<MachineStatus>,
    /// The twin's QMP socket.
    qmp: Option<PathBuf>,
    /// What the active host was last told of [`Disks::waiting`].
    told: Mutex<u64>,
    /// Whole epochs whose pages are not in the twin's memory yet, oldest first.
    pending: Mutex<VecDeque<Pending>>,
    ended: Mutex<bool>,
    /// When the guest's death on the active host was told.
    died: OnceLock<Instant>,
}

impl Watched for Session {
    fn next_tick(&self) -> Option<Option<Instant>> {
        let machine = self.machine();
        let over = matches!(machine.phase(), Phase::Running | Phase::Ended);
        (!over).then(|| machine.next_tick())
    }

    fn last_heard(&self) -> Option<Moment> {
        self.heart.get().and_then(Heart::last_heard)
    }

    fn heard(self: &Arc<Self>) {
        self.event(Event::Heard);
    }

    fn tick(self: &Arc<Self>) {
        self.event(Event::Tick);
    }
}

/// An epoch that is here.
pub(super) struct Pending {
    pub(super) epoch: u64,
    pub(super) staged: Staged,
    pub(super) state: EpochState,
}

/// What waits for a take-over.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) twin: Option<Twin>,
    pub(super) taps: Vec<Tap>,
    /// What the last applied epoch said beside memory.
    pub(super) state: Option<EpochState>,
    pub(super) made: Made,
}

/// Files that go when nothing comes of the session.
#[derive(Default)]
pub(super) struct Made {
    pub(super) replicas: Vec<PathBuf>,
    /// Sockets and logs.
    pub(super) directory: Option<PathBuf>,
}

impl Made {
    /// What a former session left is of no use.
    pub(super) fn start_anew(&self) {
        for replica in &self.replicas {
            let _ = std::fs::remove_file(replica);
        }
    }

    /// A machine runs on them.
    fn keep(&mut self) {
        self.replicas.clear();
        self.directory = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.start_anew();
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) vm: VmId,
    pub(super) name: String,
    pub(super) machine_type: String,
    pub(super) peer: NodeName,
    pub(super) proved: Proved,
    pub(super) disks: Arc<Disks>,
    pub(super) writer: Writer,
    pub(super) aborter: Aborter,
    pub(super) arbiter: Arc<dyn Arbiter>,
    pub(super) runtime: Handle,
    pub(super) machine: Standby,
}

impl Session {
    pub(super) fn new(parts: Parts, waiting: Waiting) -> Arc<Self> {
        let mut status = MachineStatus::new(parts.name, parts.vm, Role::Standby);
        status.peer = Some(parts.peer);
        status.phase = "synchronising".into();
        let qmp = waiting
            .made
            .directory
            .as_ref()
            .map(|d| d.join("twin").join("qmp"));
        Arc::new(Self {
            vm: parts.vm,
            machine_type: parts.machine_type,
            heart: OnceLock::new(),
            disks: parts.disks,
            waiting: Mutex::new(waiting),
            proved: parts.proved,
            writer: Mutex::new(parts.writer),
            aborter: parts.aborter,
            arbiter: parts.arbiter,
            runtime: parts.runtime,
            machine: Mutex::new(parts.machine),
            status: Mutex::new(status),
            qmp,
            told: Mutex::default(),
            pending: Mutex::default(),
            ended: Mutex::new(false),
            died: OnceLock::new(),
        })
    }

    /// Takes an event and carries out what comes of it. Not to be called from within a command.
    pub(crate) fn event(self: &Arc<Self>, event: Event) {
        if event == Event::GuestDied {
            let _ = self.died.set(Instant::now());
        }
        let mut commands = Vec::new();
        // Carried out under the lock, so that commands of two threads keep their order; none of them waits for another host.
        let mut machine = self.machine();
        machine.handle(Instant::now(), event, &mut commands);
        let mut failure = None;
        for command in commands {
            if let Err(why) = self.obey(command) {
                failure = Some(why);
                break;
            }
        }
        if let Some(why) = failure {
            let mut commands = Vec::new();
            machine.handle(Instant::now(), Event::Failed(why), &mut commands);
            for command in commands {
                let _ = self.obey(command);
            }
        }
        self.show(&machine);
        drop(machine);
        self.apply();
    }

    /// A whole epoch is here.
    pub(super) fn complete(self: &Arc<Self>, pending: Pending) {
        let epoch = pending.epoch;
        lock(&self.pending).push_back(pending);
        self.event(Event::Complete(epoch));
    }

    /// What is shown of it now.
    pub(crate) fn status(&self) -> MachineStatus {
        let mut status = lock(&self.status).clone();
        status.disk_buffer = self.disks.waiting();
        status
    }

    /// Whether it is over, or the machine runs here on its own.
    pub(crate) fn has_ended(&self) -> bool {
        *lock(&self.ended)
    }

    /// What the active host's certificates proved.
    pub(crate) fn proved(&self) -> &Proved {
        &self.proved
    }

    /// Ends the connection, which is not to be trusted any more.
    pub(crate) fn cut(self: &Arc<Self>, why: &str) {
        self.aborter.abort();
        self.event(Event::LinkDown(why.into()));
    }

    /// The user forces a fail-over: the active host ends the machine first, if it can be told; it is taken over in any case.
    pub(crate) fn fail_over(self: Arc<Self>) {
        if self.send(&ToActive::FailOver).is_ok() {
            let until = Instant::now() + FAIL_OVER;
            while *self.machine().phase() == Phase::Receiving && Instant::now() < until {
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        self.event(Event::TakeOver);
    }

    /// The machine.
    pub(crate) fn vm(&self) -> VmId {
        self.vm
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Standby> {
        lock(&self.machine)
    }

    pub(super) fn send(&self, message: &ToActive) -> std::io::Result<()> {
        messages::write(&mut *lock(&self.writer), message)
    }

    pub(super) fn set_phase(&self, phase: &str) {
        lock(&self.status).phase = phase.into();
    }

    /// Looks at the clock and at the heartbeats until it is over.
    pub(super) fn watch(self: Arc<Self>) {
        watch::watch(&self, |wait| {
            thread::park_timeout(wait);
            if self.told_death().is_some() {
                self.event(Event::GuestDied);
            }
        });
    }

    /// How long before the news of its death the guest was last known to run.
    fn told_death(&self) -> Option<Duration> {
        told_death(self.heart.get().and_then(Heart::peer_status))
    }

    /// For how long the guest has not run, as far as is known here. A host whose guest died still beats.
    fn outage(&self) -> Option<Duration> {
        let silent = self.last_heard().map(Moment::elapsed);
        let dead = self.died.get().map(Instant::elapsed);
        let dead = dead.map(|since| since + self.told_death().unwrap_or_default());
        silent.max(dead)
    }

    fn obey(self: &Arc<Self>, command: Command) -> Result<(), String> {
        tracing::debug!(machine = %self.vm, ?command, "standby");
        match command {
            Command::Commit(epoch) => self.disks.commit(epoch).map_err(|e| e.to_string())?,
            Command::Acknowledge(epoch) => {
                // An error here is the connection's end, which its reader tells.
                let _ = self.send(&ToActive::Acknowledged(epoch));
                let waiting = self.disks.waiting();
                if std::mem::replace(&mut *lock(&self.told), waiting) != waiting {
                    let _ = self.send(&ToActive::Buffered(waiting));
                }
            }
            Command::Load => {
                self.aborter.abort();
                let session = self.clone();
                self.spawn("take-over", move || {
                    let loaded = session.load();
                    session.event(Event::Loaded(loaded));
                })?;
            }
            Command::Read => self.ask(Question::Read),
            Command::Change { from_term, to } => self.ask(Question::Change { from_term, to }),
            Command::Run => {
                let session = self.clone();
                self.spawn("take-over", move || session.run_here())?;
            }
            Command::Discard(why) => {
                tracing::info!(machine = %self.vm, %why, "the standby's session ended");
                // Where the active host still listens, its user is told, too.
                let _ = self.send(&ToActive::Refused(why.clone()));
                lock(&self.status).message = why;
                self.aborter.abort();
                let session = self.clone();
                self.spawn("discard", move || session.discard())?;
            }
        }
        Ok(())
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
        let spawned = thread::Builder::new().name(name.into()).spawn(work);
        spawned
            .map(drop)
            .map_err(|e| format!("no thread can be started: {e}"))
    }

    fn ask(self: &Arc<Self>, question: Question) {
        let (arbiter, vm, session) = (self.arbiter.clone(), self.vm, self.clone());
        self.runtime.spawn(async move {
            let reply = ask::ask(&*arbiter, vm, question).await;
            let _ = tokio::task::spawn_blocking(move || session.event(Event::Register(reply))).await;
        });
    }

    /// Puts the pages of whole, committed epochs into the twin's memory, in order.
    fn apply(self: &Arc<Self>) {
        let committed = self.machine().committed();
        let applied = self.apply_up_to(&mut lock(&self.waiting), committed);
        if let Err(why) = applied {
            self.event(Event::Failed(why));
        }
    }

    fn apply_up_to(&self, waiting: &mut Waiting, committed: u64) -> Result<(), String> {
        loop {
            let next = {
                let mut pending = lock(&self.pending);
                if pending.front().is_none_or(|p| p.epoch > committed) {
                    return Ok(());
                }
                pending.pop_front()
            };
            let (Some(next), Some(twin)) = (next, &waiting.twin) else {
                return Ok(());
            };
            if let Err(e) = next.staged.apply(&*twin.memory) {
                waiting.state = None;
                return Err(format!(
                    "the pages of epoch {} cannot be written: {e}",
                    next.epoch
                ));
            }
            waiting.state = Some(next.state);
        }
    }

    /// Loads the last committed epoch: memory, disks, devices. Nothing runs yet.
    fn load(&self) -> Result<(), String> {
        let committed = self.machine().committed();
        let mut waiting = lock(&self.waiting);
        let began = Instant::now();
        self.apply_up_to(&mut waiting, committed)?;
        let applied = began.elapsed();
        self.disks.take_over().map_err(|e| e.to_string())?;
        let flushed = began.elapsed();
        let devices = std::mem::take(&mut waiting.state.as_mut().ok_or("no epoch was applied")?.devices);
        let twin = waiting.twin.as_mut().ok_or("no QEMU waits")?;
        twin.load(&devices, &self.machine_type)
            .map_err(|e| e.to_string())?;
        tracing::info!(
            machine = %self.vm,
            epoch = committed,
            memory_ms = applied.as_secs_f64() * 1e3,
            disks_ms = (flushed - applied).as_secs_f64() * 1e3,
            devices_ms = (began.elapsed() - flushed).as_secs_f64() * 1e3,
            "loaded"
        );
        Ok(())
    }

    /// The register says that the machine runs here.
    fn run_here(self: Arc<Self>) {
        let mut waiting = lock(&self.waiting);
        let running = waiting.state.as_ref().is_none_or(|s| s.running);
        waiting.taps.iter_mut().for_each(Tap::keep);
        waiting.made.keep();
        // Its monitor is free from here on: a QEMU serves one connection at a time, and the next one is not ours by right.
        let Some(mut twin) = waiting.twin.take() else {
            return;
        };
        let result = if running { twin.incoming.resume() } else { Ok(()) };
        let outage = self.outage();
        let why = self.machine().why().to_owned();
        let mut status = lock(&self.status);
        match result {
            Ok(()) => {
                tracing::warn!(machine = %self.vm, ?outage, %why, "the machine runs here now");
                status.role = Role::Alone;
                status.phase = "running".into();
                status.outage = outage.map(|o| o.as_micros() as u64);
                status.message = format!("taken over: {why}");
                status.qmp = self.qmp.clone();
            }
            Err(error) => {
                tracing::error!(machine = %self.vm, %error, "the machine belongs here and cannot be continued");
                status.phase = "cannot be continued".into();
                status.message = error.to_string();
            }
        }
        *lock(&self.ended) = true;
    }

    /// Ends the waiting QEMU and takes away what was made for it.
    fn discard(&self) {
        let mut waiting = lock(&self.waiting);
        if let Some(twin) = waiting.twin.take() {
            twin.kill();
        }
        waiting.taps.clear();
        waiting.made = Made::default();
        lock(&self.pending).clear();
        let mut status = lock(&self.status);
        status.role = Role::Gone;
        status.phase = "ended".into();
        *lock(&self.ended) = true;
    }

    fn show(&self, machine: &Standby) {
        let mut status = lock(&self.status);
        status.committed = machine.committed();
        status.epoch = machine.committed();
        if let Some(term) = machine.term() {
            status.term = term;
        }
        match machine.phase() {
            Phase::Receiving if machine.committed() > 0 => status.phase = "standing by".into(),
            Phase::Loading => status.phase = "loading".into(),
            Phase::Asking => status.phase = "asking the register".into(),
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
