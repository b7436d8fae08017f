//! The thread that owns the guest on the active host: it synchronises, takes epochs, and takes everything off again.
//!
//! One epoch: suspend, network boundary, disk boundary, dirty pages; then pages into the ring and device state at the same time;
//! then resume. Sending goes on behind the guest's back (US 8,413,145); what makes the epoch count is the standby's
//! acknowledgement.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use hawser_proto::protection::{EpochState, ToActive};

use super::session::{Session, Wake};
use crate::guest::Output as Leftover;
use crate::{
    disk::nbd,
    epoch::{
        active::{Event, Outcome, Phase},
        pace::Pace,
    },
    guest::{Disk, Guest as _, GuestError, GuestEvent, Nic, Qemu},
    memory::{Layout, PageRun},
    net::{Output, Wish},
    pipe::Mode,
    sys::{Memory, MemoryError},
    tracker::{Tracker, TrackerError},
};

/// The epoch that is loaded for trial.
pub(super) const TRIAL: u64 = 1;
/// How often the guest's events are looked at, and its written pages counted, between epochs.
const LOOK: Duration = Duration::from_millis(50);
/// The median of all pauses moves slowly, and takes sorting: so many epochs are between two looks at it.
const MEDIAN_EVERY: u64 = 32;
/// How long a process whose memory or monitor is gone may take to be gone itself.
const DYING: Duration = Duration::from_millis(300);
/// The same for one whose memory is gone: it is dying for certain, however busy the machine is.
const UNMAPPED: Duration = Duration::from_secs(10);
/// Longest wait for what waits in QEMU's sockets when protection ends.
const DRAIN: Duration = Duration::from_secs(1);

/// What the thread owns.
pub(super) struct Engine {
    pub(super) session: Arc<Session>,
    pub(super) qemu: Qemu,
    pub(super) wakes: mpsc::Receiver<Wake>,
    pub(super) replies: mpsc::Receiver<ToActive>,
    pub(super) disks: Vec<Disk>,
    pub(super) nics: Vec<Nic>,
    /// Jobs that mirror the disks.
    pub(super) mirrors: Vec<String>,
    /// For sockets of this session.
    pub(super) run: PathBuf,
    pub(super) pace: Pace,
    pub(super) memory: Option<Arc<Memory>>,
    pub(super) tracker: Option<Box<dyn Tracker>>,
    pub(super) layout: Layout,
    pub(super) server: Option<nbd::Server>,
    pub(super) runs: Vec<PageRun>,
    pub(super) epoch: u64,
    /// How the end was told, once it was.
    pub(super) end: Option<End>,
}

/// How the machine's protection ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    Free(Outcome),
    Over(String),
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// The end was told meanwhile.
    #[error("protection ended")]
    Ended,
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the guest's memory: {0}")]
    Memory(#[from] MemoryError),
    #[error("the guest's written pages: {0}")]
    Tracker(#[from] TrackerError),
    #[error("the channel to the standby: {0}")]
    Pipe(#[from] crate::pipe::OutboundError),
    #[error("network output: {0}")]
    Net(#[from] crate::net::NetError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Other(String),
}

/// How long a guest may take to die whose loss an error may be.
fn patience(error: &EngineError) -> Duration {
    match error {
        EngineError::Memory(MemoryError::Gone { .. })
        | EngineError::Tracker(TrackerError::Memory(MemoryError::Gone { .. })) => UNMAPPED,
        error if is_loss_of_memory(error) => UNMAPPED,
        _ => DYING,
    }
}

/// Whether the memory of a process has gone, which happens before its death is told (exit(2) takes the memory down first).
fn is_loss_of_memory(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error);
        if io == Some(rustix::io::Errno::SRCH.raw_os_error()) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Engine {
    /// Runs until the machine is free or gone.
    pub(super) fn run(mut self) {
        crate::urgent::this_thread();
        let done = self.synchronise().and_then(|()| {
            self.session.event(Event::Holding);
            self.measure_from_now();
            self.epochs(&mut |_| Ok(false))
        });
        if let Err(error) = done {
            self.failed(error);
        }
        let end = self.wait_end();
        self.finish(end);
    }

    /// An error ends the session; how the machine goes on is for the state machine to say. What fails on a guest that dies is told
    /// as its death, after its last events.
    fn failed(&mut self, error: EngineError) {
        match error {
            EngineError::Ended => {}
            // It was waited for long enough.
            EngineError::Guest(e @ GuestError::Hung { .. }) if self.session.guest.is_alive() => {
                self.session.hung(self.qemu.last_answer(), e.to_string());
            }
            ref e if self.session.guest.dies_within(patience(e)).unwrap_or(false) => {
                let _ = self.look();
                self.session.event(Event::GuestDied);
            }
            EngineError::Guest(e @ GuestError::Protocol { .. }) => {
                self.session.hung(self.qemu.last_answer(), e.to_string());
            }
            other => {
                tracing::warn!(machine = %self.session.vm, error = %other, "protection cannot go on");
                self.session.event(Event::LinkDown(other.to_string()));
            }
        }
    }

    fn measure_from_now(&self) {
        let mut measured = self.session.measured();
        measured.began = Some(Instant::now());
        let mut status = self.session.status_mut();
        status.disk_sync = None;
        status.memory_sync = None;
    }

    /// Epoch after epoch, until `done` says so or the end is told.
    pub(super) fn epochs(
        &mut self,
        done: &mut dyn FnMut(&mut Self) -> Result<bool, EngineError>,
    ) -> Result<(), EngineError> {
        let mut last = Instant::now() - self.pace.interval;
        let mut written = 0;
        loop {
            self.look()?;
            self.check()?;
            if done(self)? {
                return Ok(());
            }
            let now = Instant::now();
            let committed = self.session.machine().committed().max(TRIAL);
            let wish = self.session.output.get().map_or(Wish::None, Output::wish);
            let (takes, begins) = {
                let machine = self.session.machine();
                (
                    machine.takes_epochs(),
                    matches!(machine.phase(), Phase::Synchronising | Phase::First),
                )
            };
            let waits = wish > Wish::None || begins;
            match self.pace.due(last, self.epoch - committed, waits, written) {
                Some(due) if takes && (due <= now || wish >= Wish::Soon) => {
                    last = now;
                    self.take()?;
                    written = 0;
                }
                due => {
                    // Where no epoch is taken, one that is due is no reason to hurry.
                    let due = due.filter(|_| takes);
                    let wait = due.map_or(LOOK, |t| t.saturating_duration_since(now)).min(LOOK);
                    self.sleep(wait)?;
                    if !waits && self.tracker.is_some() && last.elapsed() >= self.pace.interval {
                        written = self.tracker()?.peek()?;
                    }
                }
            }
        }
    }

    /// Takes one epoch. The pause ends with this call; sending does not.
    fn take(&mut self) -> Result<(), EngineError> {
        let begin = Instant::now();
        let running = self.qemu.suspend()?.stopped_by_us;
        let taken = self.capture(begin, running);
        let hangs = matches!(taken, Err(EngineError::Guest(GuestError::Hung { .. })));
        if hangs && self.session.is_protected() {
            // The standby takes over: it is not waited for once more.
            return taken.map(drop);
        }
        // Whatever else failed: the guest goes on, what it sends stays held.
        self.qemu.resume()?;
        let pause = begin.elapsed();
        let (devices, pages) = taken?;
        self.session.outbound.end(self.epoch, devices)?;
        let mut measured = self.session.measured();
        measured.add_pause(Instant::now(), pause);
        if (self.epoch < MEDIAN_EVERY || self.epoch.is_multiple_of(MEDIAN_EVERY))
            && let Some(spread) = measured.pause.spread()
        {
            self.pace.keep_clock(Duration::from_micros(spread.p50));
        }
        measured.pages.add(pages);
        drop(measured);
        self.session.status_mut().epoch = self.epoch;
        Ok(())
    }

    fn capture(&mut self, begin: Instant, running: bool) -> Result<(Vec<u8>, u64), EngineError> {
        self.epoch += 1;
        let epoch = self.epoch;
        if let Some(output) = self.session.output.get() {
            output.boundary(epoch)?;
        }
        self.session.outbound.begin(epoch)?;
        self.session.measured().under_way.push_back((epoch, begin));
        self.collect()?;
        let memory = self.memory.clone().ok_or_else(no_memory)?;
        self.qemu.begin_device_state()?;
        let copying = self
            .session
            .outbound
            .start_copy(epoch, &self.runs, memory, Mode::Checkpoint)?;
        let mut devices = Vec::new();
        let state = self.qemu.device_state(&mut devices);
        copying.wait()?;
        state?;
        let state = EpochState { running, devices };
        Ok((super::super::messages::encode(&state)?, self.pages()))
    }

    /// Pages of the last epoch.
    pub(super) fn pages(&self) -> u64 {
        self.runs.iter().map(|r| u64::from(r.count)).sum()
    }

    /// The pages written since the last time. The guest stands still.
    pub(super) fn collect(&mut self) -> Result<(), EngineError> {
        self.runs.clear();
        let tracker = self.tracker.as_mut().ok_or_else(no_memory)?;
        tracker.take(&mut self.runs)?;
        Ok(())
    }

    pub(super) fn tracker(&mut self) -> Result<&mut Box<dyn Tracker>, EngineError> {
        self.tracker.as_mut().ok_or_else(no_memory)
    }

    /// What the guest did by itself.
    pub(super) fn look(&mut self) -> Result<(), EngineError> {
        for event in self.qemu.events()? {
            match event {
                GuestEvent::Shutdown { .. } => self.session.event(Event::GuestShutDown),
                GuestEvent::MirrorFailed { job, reason } => {
                    return Err(EngineError::Other(format!("the mirror {job} failed: {reason}")));
                }
                GuestEvent::Reset { .. } if self.tracker.is_some() && self.qemu.layout()? != self.layout => {
                    return Err(EngineError::Other(
                        "the guest rebooted, and its RAM blocks changed with that; protect it again".into(),
                    ));
                }
                GuestEvent::DevicesChanged => {
                    return Err(EngineError::Other(
                        "a device was added or removed: the standby's machine has other devices now; protect it again".into(),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits at most so long, less when something changes.
    pub(super) fn sleep(&mut self, wait: Duration) -> Result<(), EngineError> {
        match self.wakes.recv_timeout(wait) {
            Ok(wake) => self.woken(wake),
            Err(_) => Ok(()),
        }
    }

    /// Takes what woke it, without waiting.
    pub(super) fn check(&mut self) -> Result<(), EngineError> {
        while let Ok(wake) = self.wakes.try_recv() {
            self.woken(wake)?;
        }
        Ok(())
    }

    fn woken(&mut self, wake: Wake) -> Result<(), EngineError> {
        match wake {
            Wake::Changed => return Ok(()),
            Wake::Died => {
                // Its last words come first: a guest that shut down is not resurrected.
                let _ = self.look();
                self.session.event(Event::GuestDied);
                // One that shut down is still to be told so by the register.
                if !self.session.has_ended() {
                    return Ok(());
                }
            }
            Wake::Free(outcome) => self.end = Some(End::Free(outcome)),
            Wake::Over(why) => self.end = Some(End::Over(why)),
        }
        Err(EngineError::Ended)
    }

    fn wait_end(&mut self) -> End {
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            if self.session.has_ended() && !self.session.guest.is_alive() {
                // Died, and told: nothing else will come.
                let _ = self.check();
                return self
                    .end
                    .take()
                    .unwrap_or_else(|| End::Over("its QEMU died here".into()));
            }
            let _ = self.look();
            let _ = self.sleep(LOOK);
        }
    }

    /// Takes off what was added: output first flows in order, then the filters go.
    fn finish(mut self, end: End) {
        let session = self.session.clone();
        if let End::Free(outcome) = &end {
            tracing::info!(machine = %session.vm, ?outcome, "the machine goes on unprotected");
            if let Err(error) = self.take_off() {
                tracing::error!(machine = %session.vm, %error, "what was added for protection cannot be taken off; protecting it again tries once more");
                // It may stand still for an epoch that failed.
                let _ = self.qemu.resume();
            }
        }
        self.tracker = None;
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.run);
        // The machine's own directory goes with the last session in it.
        let _ = self.run.parent().map(std::fs::remove_dir);
        session.closed(&end);
    }

    fn take_off(&mut self) -> Result<(), EngineError> {
        if let Some(output) = self.session.output.get() {
            output.open_gate();
            self.drain_output();
        }
        if !self.session.guest.is_alive() {
            return Ok(());
        }
        for job in &self.mirrors {
            self.qemu.stop_mirror(job)?;
        }
        // Suspended, so that no frame overtakes those that still pass through here.
        self.qemu.suspend()?;
        let freed = self.free_output();
        self.qemu.resume()?;
        freed?;
        Ok(self.qemu.clean_up(Leftover::Freed)?)
    }

    fn free_output(&mut self) -> Result<(), EngineError> {
        if let Some(output) = self.session.output.get() {
            self.epoch += 1;
            output.boundary(self.epoch)?;
            self.drain_output();
            for nic in &self.nics {
                self.qemu.free_output(nic)?;
            }
        }
        Ok(())
    }

    /// Waits, not for long, until nothing is held; the gate is open.
    fn drain_output(&self) {
        let until = Instant::now() + DRAIN;
        let holds = || self.session.output.get().is_some_and(|o| o.held().frames > 0);
        while holds() && Instant::now() < until && self.session.guest.is_alive() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

pub(super) fn no_memory() -> EngineError {
    EngineError::Other("the guest's memory is not tracked".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_memory_is_given_time_to_die() {
        let lost = || std::io::Error::from(rustix::io::Errno::SRCH);
        let closed = MemoryError::Closed {
            pid: 1,
            source: lost(),
        };
        for error in [
            EngineError::Io(lost()),
            EngineError::Memory(MemoryError::Gone { pid: 1 }),
            EngineError::Tracker(TrackerError::Memory(MemoryError::Gone { pid: 1 })),
            EngineError::Tracker(TrackerError::Memory(closed)),
        ] {
            assert_eq!(patience(&error), UNMAPPED, "{error}");
        }
        let other = EngineError::Io(std::io::ErrorKind::TimedOut.into());
        assert_eq!(patience(&other), DYING);
    }
}
