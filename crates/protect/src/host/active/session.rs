//! A session on the active host as every thread of it sees it: events go into the state machine, its commands are carried out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use hawser_identity::Proved;
use hawser_proto::{NodeName, arbiter::VmId, protection::ToStandby};
use tokio::runtime::Handle;

use super::super::{
    ask::{self, Question},
    messages,
    stats::Window,
    status::{Held, MachineStatus, Role, Waits},
    tell_death,
    watch::{self, Watched},
};
use super::engine::End;
use crate::{
    arbiter::Arbiter,
    epoch::active::{Active, Command, Event, Outcome, Phase},
    link::{Aborter, Heart, Moment},
    net::Output,
    pipe::Outbound,
    sys::Process,
};

/// The loss of the guest's clock is that of so much time.
const CLOCK: Duration = Duration::from_secs(10);

/// What wakes the engine's thread.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something changed that it may have waited for.
    Changed,
    /// The guest's process is gone.
    Died,
    /// The machine goes on here without protection.
    Free(Outcome),
    /// The machine was destroyed here, or died, or was lost; why.
    Over(String),
}

/// A session on the active host.
pub(crate) struct Session {
    pub(super) vm: VmId,
    pub(super) peer: NodeName,
    pub(super) guest: Process,
    pub(super) outbound: Outbound,
    pub(super) aborter: Aborter,
    proved: Proved,
    pub(super) output: OnceLock<Output>,
    pub(super) heart: OnceLock<Heart>,
    pub(super) engine: mpsc::Sender<Wake>,
    closed: std::sync::atomic::AtomicBool,
    arbiter: Arc<dyn Arbiter>,
    runtime: Handle,
    machine: Mutex<Active>,
    status: Mutex<MachineStatus>,
    measured: Mutex<Measured>,
    /// When the guest was last known to run, of one that hangs.
    ran: OnceLock<Instant>,
}

impl Watched for Session {
    fn next_tick(&self) -> Option<Option<Instant>> {
        let machine = self.machine();
        (*machine.phase() != Phase::Ended).then(|| machine.next_tick())
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

/// What was measured since protection began.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) pause: Window,
    pub(super) pages: Window,
    pub(super) commit: Window,
    /// Epochs that are not acknowledged, with the time they began.
    pub(super) under_way: VecDeque<(u64, Instant)>,
    /// When the last epoch that the standby has began.
    pub(super) last_committed: Option<Instant>,
    pub(super) began: Option<Instant>,
    /// The pauses of the last [`CLOCK`], with their times.
    recent: VecDeque<(Instant, Duration)>,
}

impl Measured {
    pub(super) fn add_pause(&mut self, now: Instant, pause: Duration) {
        self.pause.add_time(pause);
        self.recent.push_back((now, pause));
        while self
            .recent
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > CLOCK)
        {
            self.recent.pop_front();
        }
    }

    /// The share of the last [`CLOCK`] in which the machine stood still. Of a protection that just began, reckoned over half of that
    /// at least: the first pauses alone tell nothing.
    fn clock_loss(&self, now: Instant) -> f64 {
        let Some(began) = self.began else {
            return 0.0;
        };
        let lately = self
            .recent
            .iter()
            .filter(|(at, _)| now.duration_since(*at) <= CLOCK);
        let paused: Duration = lately.map(|(_, pause)| *pause).sum();
        let over = now.duration_since(began).clamp(CLOCK / 2, CLOCK);
        paused.as_secs_f64() / over.as_secs_f64()
    }
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) vm: VmId,
    pub(super) name: String,
    pub(super) peer: NodeName,
    pub(super) guest: Process,
    pub(super) outbound: Outbound,
    pub(super) aborter: Aborter,
    pub(super) proved: Proved,
    pub(super) arbiter: Arc<dyn Arbiter>,
    pub(super) machine: Active,
}

impl Session {
    pub(super) fn new(parts: Parts, engine: mpsc::Sender<Wake>) -> Arc<Self> {
        let mut status = MachineStatus::new(parts.name, parts.vm, Role::Active);
        status.peer = Some(parts.peer.clone());
        Arc::new(Self {
            vm: parts.vm,
            peer: parts.peer,
            guest: parts.guest,
            outbound: parts.outbound,
            aborter: parts.aborter,
            proved: parts.proved,
            output: OnceLock::new(),
            heart: OnceLock::new(),
            engine,
            closed: false.into(),
            arbiter: parts.arbiter,
            runtime: Handle::current(),
            machine: Mutex::new(parts.machine),
            status: Mutex::new(status),
            measured: Mutex::new(Measured::default()),
            ran: OnceLock::new(),
        })
    }

    /// Takes an event and carries out what comes of it. Not to be called from within a command.
    pub(crate) fn event(self: &Arc<Self>, event: Event) {
        let now = Instant::now();
        if let Event::Acknowledged(epoch) = event {
            self.committed(now, epoch);
        }
        let mut commands = Vec::new();
        // Carried out under the lock, so that commands of two threads keep their order; none of them waits.
        let mut machine = self.machine();
        machine.handle(now, event, &mut commands);
        for command in commands {
            self.obey(command);
        }
        self.show(&machine);
        drop(machine);
        let _ = self.engine.send(Wake::Changed);
    }

    /// The state machine.
    pub(super) fn machine(&self) -> MutexGuard<'_, Active> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shown of it, to be changed.
    pub(super) fn status_mut(&self) -> MutexGuard<'_, MachineStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shown of it now.
    pub(crate) fn status(&self) -> MachineStatus {
        let mut status = self.status_mut().clone();
        let measured = self.measured();
        status.pause = measured.pause.spread();
        status.dirty_pages = measured.pages.spread();
        status.commit_latency = measured.commit.spread();
        if status.role == Role::Active {
            status.lag = measured.last_committed.map(|t| t.elapsed().as_micros() as u64);
        }
        status.clock_loss = measured.clock_loss(Instant::now());
        drop(measured);
        if let (Some(output), Role::Active) = (self.output.get(), status.role) {
            let held = output.held();
            status.held = Held {
                frames: held.frames,
                bytes: held.bytes,
            };
            status.dropped = output.dropped().frames;
        }
        let sent = self.outbound.stats();
        status.ring_waits = Waits {
            count: sent.ring.waits,
            time: sent.ring.waited.as_micros() as u64,
        };
        status
    }

    /// What the standby's certificates proved.
    pub(crate) fn proved(&self) -> &Proved {
        &self.proved
    }

    /// Whether protection is in force.
    pub(crate) fn is_protected(&self) -> bool {
        *self.machine().phase() == Phase::Protected
    }

    /// Whether the state machine is at its end; the thread of the guest may still take things off.
    pub(super) fn has_ended(&self) -> bool {
        *self.machine().phase() == Phase::Ended
    }

    /// Whether everything is over.
    pub(crate) fn has_closed(&self) -> bool {
        self.closed.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Everything is taken off, or the machine is gone.
    pub(super) fn closed(&self, end: &End) {
        // What was said last goes out before the connection goes.
        self.outbound.flush(Duration::from_secs(1));
        self.outbound.break_now("protection has ended");
        self.aborter.abort();
        let mut status = self.status_mut();
        status.held = Held::default();
        match end {
            End::Free(outcome) => {
                status.role = Role::Alone;
                status.phase = "unprotected".into();
                status.message = match outcome {
                    Outcome::Stopped => "protection was ended by its user".into(),
                    Outcome::NeverBegan(why) => format!("protection did not begin: {why}"),
                    Outcome::Alone(why) => format!("the standby is lost: {why}"),
                    Outcome::ShutDown => "the guest shut down".into(),
                };
                if *outcome == Outcome::ShutDown {
                    status.role = Role::Gone;
                    status.phase = "shut down".into();
                }
            }
            End::Over(why) => {
                status.role = Role::Gone;
                status.phase = "gone".into();
                status.message.clone_from(why);
            }
        }
        drop(status);
        self.closed.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Looks at the clock and at the guest's process until it is over.
    pub(super) fn watch(self: Arc<Self>) {
        crate::urgent::this_thread();
        let mut alive = true;
        watch::watch(&self, |wait| {
            if !alive {
                thread::sleep(wait);
            } else if self.guest.dies_within(wait).unwrap_or(false) {
                alive = false;
                let _ = self.engine.send(Wake::Died);
            }
        });
    }

    /// QEMU does not answer any more, and the guest was last known to run then.
    pub(super) fn hung(self: &Arc<Self>, ran: Instant, why: String) {
        let _ = self.ran.set(ran);
        self.event(Event::GuestHung(why));
    }

    fn committed(&self, now: Instant, epoch: u64) {
        let mut measured = self.measured();
        while let Some((number, began)) = measured.under_way.front().copied() {
            if number > epoch {
                break;
            }
            measured.under_way.pop_front();
            measured.commit.add_time(now.duration_since(began));
            measured.last_committed = Some(began);
        }
    }

    fn obey(self: &Arc<Self>, command: Command) {
        tracing::debug!(machine = %self.vm, ?command, "active");
        match command {
            Command::Release(epoch) => {
                if let Some(output) = self.output.get() {
                    output.release(epoch);
                }
            }
            Command::Read => self.ask(Question::Read),
            Command::Change { from_term, to } => self.ask(Question::Change { from_term, to }),
            Command::Break(why) => {
                tracing::warn!(machine = %self.vm, standby = %self.peer, %why, "the session with the standby is given up");
                self.outbound.break_now(&why);
                self.aborter.abort();
            }
            Command::TellDied => {
                if let Some(heart) = self.heart.get() {
                    heart.tell(tell_death(
                        self.ran.get().map_or(Duration::ZERO, Instant::elapsed),
                    ));
                }
                self.tell(&ToStandby::GuestDied);
            }
            Command::TellEnded => self.tell(&ToStandby::Ended),
            Command::Free(outcome) => {
                let _ = self.engine.send(Wake::Free(outcome));
            }
            Command::Destroy(why) => {
                if let Some(output) = self.output.get() {
                    output.mute();
                }
                tracing::error!(machine = %self.vm, %why, "the machine is destroyed here");
                if let Err(error) = self.guest.kill() {
                    tracing::error!(machine = %self.vm, %error, "its QEMU cannot be killed; its output stays held");
                }
                let _ = self.engine.send(Wake::Over(why));
            }
            Command::Announce => {
                tracing::info!(machine = %self.vm, standby = %self.peer, "protected");
            }
        }
    }

    fn tell(&self, message: &ToStandby) {
        match messages::encode(message) {
            // An error here is the connection's end, which is told by itself.
            Ok(bytes) => drop(self.outbound.control(&bytes)),
            Err(error) => tracing::error!(%error, "a message to the standby cannot be written"),
        }
    }

    fn ask(self: &Arc<Self>, question: Question) {
        let (arbiter, vm, session) = (self.arbiter.clone(), self.vm, self.clone());
        self.runtime.spawn(async move {
            let reply = ask::ask(&*arbiter, vm, question).await;
            // Carrying out what comes of it may take a moment.
            let _ = tokio::task::spawn_blocking(move || session.event(Event::Register(reply))).await;
        });
    }

    fn show(&self, machine: &Active) {
        let mut status = self.status_mut();
        status.term = machine.term();
        status.committed = machine.committed();
        match machine.phase() {
            Phase::Synchronising => {}
            Phase::First => status.phase = "first epoch".into(),
            Phase::Protected => status.phase = "protected".into(),
            Phase::Claiming | Phase::Leaving(_) => status.phase = "asking the register".into(),
            Phase::Ended => {}
        }
    }
}
