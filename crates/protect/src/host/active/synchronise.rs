//! How protection begins on a machine that runs: a twin at the standby, memory once, a trial, disks, memory again, and only
//! then is output held (US 8,417,885). The guest stands still for moments only.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawser_proto::protection::{EpochState, OfferedBlock, ToActive, ToStandby};

use super::{
    super::{
        messages,
        stats::{Progress, Rate},
    },
    engine::{Engine, EngineError, TRIAL, no_memory},
};
use crate::{
    disk::{Forward, nbd},
    guest::{Disk, Guest as _},
    memory::{Block, Layout, PAGE, PageRun},
    net::{Limits, Output, Wire},
    pipe::Mode,
    sys::Memory,
    tracker,
};

/// Longest wait for the twin to start, or for the trial.
const TWIN: Duration = Duration::from_secs(60);
/// Pages copied between two looks at the clock and the user.
const SLICE: u64 = 16 * 1024;
/// Rounds of copying what was written meanwhile end when so little is left, in pages,
const FEW: u64 = 2048;
/// or when there were so many.
const ROUNDS: u64 = 12;
/// How often the mirrors are asked how far they are.
const ASK: Duration = Duration::from_millis(100);

impl Engine {
    /// Everything up to the moment where output is held and epochs may begin.
    pub(super) fn synchronise(&mut self) -> Result<(), EngineError> {
        self.phase("starting the twin");
        self.tell(&ToStandby::Begin)?;
        let blocks = self.await_twin()?;
        self.attach_tracker(&blocks)?;
        self.phase("memory");
        self.copy_everything()?;
        self.copy_what_changes()?;
        self.phase("trial");
        self.trial()?;
        if self.disks.iter().any(|d| !d.read_only) {
            self.phase("disks");
            self.mirror()?;
        }
        self.phase("settling");
        self.settle()?;
        self.hold_output()
    }

    fn phase(&self, phase: &str) {
        tracing::info!(machine = %self.session.vm, phase, "protection begins");
        self.session.status_mut().phase = phase.into();
    }

    fn tell(&self, message: &ToStandby) -> Result<(), EngineError> {
        self.session.outbound.control(&messages::encode(message)?)?;
        Ok(())
    }

    /// The next message of the standby.
    fn reply(&mut self, limit: Duration) -> Result<ToActive, EngineError> {
        let until = Instant::now() + limit;
        loop {
            self.check()?;
            self.look()?;
            match self.replies.recv_timeout(Duration::from_millis(50)) {
                Ok(ToActive::Refused(why)) => {
                    return Err(EngineError::Other(format!("the standby refused: {why}")));
                }
                Ok(message) => return Ok(message),
                Err(_) if Instant::now() >= until => {
                    return Err(EngineError::Other(format!(
                        "the standby did not answer within {} s; look at its log",
                        limit.as_secs()
                    )));
                }
                Err(_) => {}
            }
        }
    }

    fn await_twin(&mut self) -> Result<Vec<OfferedBlock>, EngineError> {
        match self.reply(TWIN)? {
            ToActive::Ready(blocks) => Ok(blocks),
            other => Err(unexpected(&other)),
        }
    }

    fn attach_tracker(&mut self, twin: &[OfferedBlock]) -> Result<(), EngineError> {
        self.qemu.suspend()?;
        let attached = self.attach_stopped(twin);
        self.qemu.resume()?;
        attached
    }

    fn attach_stopped(&mut self, twin: &[OfferedBlock]) -> Result<(), EngineError> {
        let layout = self.qemu.layout()?;
        let there = twin.iter().map(|b| Block {
            name: b.name.clone(),
            size: b.size,
            address: 0,
        });
        let there = Layout::new(there.collect());
        if !layout.fits(&there) {
            return Err(EngineError::Other(format!(
                "the twin's RAM blocks differ: {} here, {} there; both hosts need the same QEMU, firmware and option ROMs",
                describe(&layout),
                describe(&there)
            )));
        }
        let memory = Memory::open(&self.session.guest, &layout)?;
        let choice = tracker::choose(&self.session.guest, &layout)?;
        if let Some(why) = choice.instead {
            tracing::warn!(machine = %self.session.vm, %why, "written pages are found by hashing all memory, which is slow");
        }
        self.tracker = Some(choice.tracker);
        // What is written from now on; everything that was written before is copied whole.
        self.collect()?;
        self.memory = Some(Arc::new(memory));
        self.layout = layout;
        Ok(())
    }

    /// All pages that exist, once, while the guest runs.
    fn copy_everything(&mut self) -> Result<(), EngineError> {
        let memory = self.memory.clone().ok_or_else(no_memory)?;
        let runs = memory.populated()?;
        let total = runs.iter().map(|r| r.bytes() as u64).sum();
        let mut progress = Progress {
            total,
            ..Progress::default()
        };
        let mut rate = Rate::new(Instant::now(), 0);
        for slice in slices(&runs) {
            self.check()?;
            self.session
                .outbound
                .copy(0, &slice, memory.clone(), Mode::Sync)?;
            progress.done += slice.iter().map(|r| r.bytes() as u64).sum::<u64>();
            progress.rate = rate.at(Instant::now(), progress.done);
            self.session.status_mut().memory_sync = Some(progress);
        }
        Ok(())
    }

    /// Rounds of what was written meanwhile, until little is left or it does not get less.
    fn copy_what_changes(&mut self) -> Result<(), EngineError> {
        let memory = self.memory.clone().ok_or_else(no_memory)?;
        for _ in 0..ROUNDS {
            self.check()?;
            self.look()?;
            self.qemu.suspend()?;
            let collected = self.collect();
            self.qemu.resume()?;
            collected?;
            let runs = std::mem::take(&mut self.runs);
            let pages: u64 = runs.iter().map(|r| u64::from(r.count)).sum();
            for slice in slices(&runs) {
                self.check()?;
                self.session
                    .outbound
                    .copy(0, &slice, memory.clone(), Mode::Sync)?;
            }
            self.runs = runs;
            if pages <= FEW {
                break;
            }
        }
        Ok(())
    }

    /// A whole epoch, loaded by the standby into a QEMU that is then thrown away: what cannot be restored is found now.
    fn trial(&mut self) -> Result<(), EngineError> {
        self.tell(&ToStandby::Trial)?;
        self.qemu.suspend()?;
        let state = self.trial_stopped();
        self.qemu.resume()?;
        self.session.outbound.end(TRIAL, state?)?;
        self.epoch = TRIAL;
        match self.reply(TWIN)? {
            ToActive::Tried(time) => {
                tracing::info!(machine = %self.session.vm, microseconds = time, "the twin loaded the trial epoch");
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    fn trial_stopped(&mut self) -> Result<Vec<u8>, EngineError> {
        self.session.outbound.begin(TRIAL)?;
        self.collect()?;
        let memory = self.memory.clone().ok_or_else(no_memory)?;
        let mut devices = Vec::new();
        self.qemu.begin_device_state()?;
        let copying = self
            .session
            .outbound
            .start_copy(TRIAL, &self.runs, memory, Mode::Checkpoint)?;
        let state = self.qemu.device_state(&mut devices);
        copying.wait()?;
        state?;
        Ok(messages::encode(&EpochState {
            running: false,
            devices,
        })?)
    }

    /// Every writable disk is mirrored to the NBD server of this process, whole, and kept so.
    fn mirror(&mut self) -> Result<(), EngineError> {
        let numbered = self.disks.iter().cloned().enumerate();
        let disks: Vec<(u16, Disk)> = numbered
            .filter(|(_, d)| !d.read_only)
            .map(|(n, d)| (n as u16, d))
            .collect();
        let socket = self.run.join("nbd");
        let sink = self.session.outbound.disks();
        let exports = disks.iter().map(|(number, disk)| nbd::Export {
            name: format!("disk{number}"),
            size: disk.size,
            backend: Arc::new(Forward::new(sink.clone(), *number)),
        });
        self.server = Some(nbd::Server::start(&socket, exports.collect())?);
        for (number, disk) in &disks {
            let job = self.qemu.start_mirror(disk, &socket, &format!("disk{number}"))?;
            self.mirrors.push(job);
        }
        let mut rate = Rate::new(Instant::now(), 0);
        let mut asked = Instant::now();
        // Epochs go on meanwhile, so that the disk buffer and what is left to copy stay small.
        self.epochs(&mut |engine| {
            if asked.elapsed() < ASK {
                return Ok(false);
            }
            asked = Instant::now();
            let mut progress = Progress::default();
            let mut ready = true;
            for job in &engine.mirrors.clone() {
                let mirror = engine.qemu.mirror_progress(job)?;
                let mirror =
                    mirror.ok_or_else(|| EngineError::Other(format!("the mirror {job} ended by itself")))?;
                progress.done += mirror.offset;
                progress.total += mirror.len;
                ready &= mirror.ready;
            }
            progress.rate = rate.at(Instant::now(), progress.done);
            engine.session.status_mut().disk_sync = Some(progress);
            Ok(ready)
        })
    }

    /// Epochs whose output is not held, until one of them is small.
    fn settle(&mut self) -> Result<(), EngineError> {
        let begin = self.epoch;
        self.epochs(&mut |engine| {
            let taken = engine.epoch - begin;
            Ok(taken >= ROUNDS || (taken > 0 && engine.pages() <= FEW))
        })
    }

    fn hold_output(&mut self) -> Result<(), EngineError> {
        let mut wires = Vec::new();
        for nic in &self.nics {
            let held = self.qemu.hold_output(nic)?;
            wires.push(Wire {
                name: nic.netdev.clone(),
                capture: held.capture,
                release: held.release,
                vnet_header: false,
            });
        }
        let engine = self.session.engine.clone();
        let notify = Box::new(move |_| {
            let _ = engine.send(super::session::Wake::Changed);
        });
        let output = Output::start(wires, Limits::default(), notify)?;
        let _ = self.session.output.set(output);
        Ok(())
    }
}

/// Runs in portions of at most [`SLICE`] pages.
fn slices(runs: &[PageRun]) -> Vec<Vec<PageRun>> {
    let mut slices = vec![Vec::new()];
    let mut room = SLICE;
    for run in runs {
        let mut rest = *run;
        while rest.count > 0 {
            if room == 0 {
                slices.push(Vec::new());
                room = SLICE;
            }
            let count = u64::from(rest.count).min(room) as u32;
            if let Some(slice) = slices.last_mut() {
                slice.push(PageRun { count, ..rest });
            }
            room -= u64::from(count);
            rest.first += count;
            rest.count -= count;
        }
    }
    slices
}

fn describe(layout: &Layout) -> String {
    let blocks = layout.blocks().iter();
    let text: Vec<String> = blocks
        .map(|b| format!("{} of {} pages", b.name, b.size / PAGE as u64))
        .collect();
    text.join(", ")
}

fn unexpected(message: &ToActive) -> EngineError {
    EngineError::Other(format!("the standby answered out of turn: {message:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_keep_every_page_and_their_order() {
        let run = |first, count| PageRun {
            block: 0,
            first,
            count,
        };
        let runs = [run(0, 10), run(20, 3 * SLICE as u32), run(900_000, 1)];
        let slices = slices(&runs);
        assert!(
            slices
                .iter()
                .all(|s| s.iter().map(|r| u64::from(r.count)).sum::<u64>() <= SLICE)
        );
        let pages =
            |runs: &[PageRun]| -> Vec<u32> { runs.iter().flat_map(|r| r.first..r.first + r.count).collect() };
        assert_eq!(pages(&slices.concat()), pages(&runs));
    }
}
