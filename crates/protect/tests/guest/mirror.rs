//! A guest's disk mirrored, and targets that die or fall silent.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hawser_protect::guest::{Disk, Guest, GuestError, GuestEvent, Output, Qemu, RunState, Timeouts};
use hawser_testkit::{
    Process,
    vm::{Aio, Drive, Machine, Spec, Version, here},
    wait,
};
use serde_json::json;
use tempfile::TempDir;

use super::{attach, on_each, patient, start};

const MIB: u64 = 32;

struct Rig {
    dir: TempDir,
    machine: Machine,
    server: Process,
    qemu: Qemu,
    disk: Disk,
    job: String,
}

impl Rig {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A guest whose mirror is ready.
    fn new(version: &Version, timeouts: Timeouts) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        let drive = Drive::create(&file("source.raw"), MIB, Aio::Threads)?;
        fs::write(file("source.raw"), vec![7; 5 << 20])?;
        fs::File::options()
            .write(true)
            .open(file("source.raw"))?
            .set_len(MIB << 20)?;
        fs::File::create(file("target.raw"))?.set_len(MIB << 20)?;
        let (socket, target) = (file("nbd"), file("target.raw"));
        let words = [
            "-t",
            "-k",
            socket.to_str().context("path")?,
            "-f",
            "raw",
            "-x",
            "disk0",
            "--discard=unmap",
        ];
        let words = [&words[..], &[target.to_str().context("path")?]].concat();
        let mut server = Process::start(&here(), "qemu-nbd", &words, &file("nbd.log"))?;
        server.wait_until(wait::SOON, "the NBD server", |server| server.listens(&socket))?;
        let machine = start(&Spec::new(version).with_drive(drive))?;
        let mut qemu = Qemu::attach(&machine.qmp(), timeouts)?;
        let disk = qemu.disks()?.remove(0);
        ensure!(
            (disk.node.as_str(), disk.device.as_str(), disk.size) == ("disk0", "vd0", MIB << 20),
            "{disk:?}"
        );
        ensure!(
            disk.file.ends_with("source.raw") && disk.driver == "raw" && !disk.read_only,
            "{disk:?}"
        );
        let job = qemu.start_mirror(&disk, &socket, "disk0")?;
        ensure!(
            qemu.disks()? == [disk.clone()],
            "the mirror's filter hides the disk: {:?}",
            qemu.disks()?
        );
        let mut rig = Self {
            dir,
            machine,
            server,
            qemu,
            disk,
            job,
        };
        rig.wait(|e| matches!(e, GuestEvent::MirrorReady { .. }))?;
        ensure!(
            rig.qemu
                .mirror_progress(&rig.job)?
                .is_some_and(|p| p.ready && p.offset == p.len)
        );
        Ok(rig)
    }

    fn wait(&mut self, wanted: impl Fn(&GuestEvent) -> bool) -> Result<GuestEvent> {
        wait::until(wait::SOON, "an event of the mirror", || {
            Ok(self.qemu.events()?.into_iter().find(|e| wanted(e)))
        })
    }

    /// Writes as the guest does: through its device.
    fn write(&mut self, byte: u8, kib: u32) -> Result<()> {
        let said = self.qemu.qmp().hmp(&write(byte, kib))?;
        ensure!(said.contains("wrote") || said.is_empty(), "{said}");
        Ok(())
    }

    fn equal(&self) -> Result<bool> {
        Ok(fs::read(self.file("source.raw"))? == fs::read(self.file("target.raw"))?)
    }
}

fn write(byte: u8, kib: u32) -> String {
    format!("qemu-io -d /machine/peripheral/vd0/virtio-backend \"write -P {byte} {kib}k 64k\"")
}

#[test]
fn a_mirrored_disk_is_equal_at_every_stop() {
    on_each(|version| {
        let mut rig = Rig::new(version, patient())?;
        for round in 0..20 {
            rig.write(round + 10, u32::from(round) * 128)?;
            rig.qemu.suspend()?;
            ensure!(rig.equal()?, "round {round}");
            rig.qemu.resume()?;
        }
        rig.qemu
            .qmp()
            .hmp("qemu-io -d /machine/peripheral/vd0/virtio-backend \"discard 0 1M\"")?;
        rig.qemu.suspend()?;
        ensure!(rig.equal()?, "after a discard");
        rig.qemu.resume()?;
        let job = rig.job.clone();
        rig.qemu.stop_mirror(&job)?;
        rig.qemu.stop_mirror(&job)?;
        ensure!(rig.qemu.leftovers()?.is_empty(), "{:?}", rig.qemu.leftovers()?);
        rig.write(99, 0)?;
        ensure!(!rig.equal()?);
        ensure!(
            !rig.qemu
                .events()?
                .iter()
                .any(|e| matches!(e, GuestEvent::MirrorFailed { .. })),
            "it was ended"
        );
        // And again, on the same QEMU.
        let job = rig
            .qemu
            .start_mirror(&rig.disk.clone(), &rig.file("nbd"), "disk0")?;
        rig.wait(|e| matches!(e, GuestEvent::MirrorReady { job: j } if *j == job))?;
        ensure!(rig.equal()?);
        drop(rig.qemu);
        rig.qemu = attach(&rig.machine)?;
        ensure!(
            rig.qemu.leftovers()?.jobs == [job],
            "a dead agent's mirror is found"
        );
        rig.qemu.clean_up(Output::Kept)?;
        ensure!(rig.qemu.leftovers()?.is_empty() && rig.qemu.disks()? == [rig.disk]);
        Ok(())
    });
}

#[test]
fn a_guest_goes_on_when_its_mirror_dies() {
    on_each(|version| {
        let mut rig = Rig::new(version, patient())?;
        rig.server.kill()?;
        let begin = Instant::now();
        rig.write(1, 0)?;
        eprintln!(
            "{version}: the write after the target's death took {:?}",
            begin.elapsed()
        );
        let failed = rig.wait(|e| matches!(e, GuestEvent::MirrorFailed { .. }))?;
        ensure!(
            matches!(&failed, GuestEvent::MirrorFailed { job, .. } if *job == rig.job),
            "{failed:?}"
        );
        ensure!(rig.qemu.run_state()? == RunState::Running && rig.qemu.mirror_progress(&rig.job)?.is_none());
        ensure!(rig.qemu.suspend()?.stopped_by_us && rig.qemu.resume()?);
        rig.qemu.clean_up(Output::Kept)?;
        ensure!(rig.qemu.leftovers()?.is_empty(), "{:?}", rig.qemu.leftovers()?);
        Ok(())
    });
}

#[test]
fn a_mirror_that_falls_silent_is_cut_off() {
    on_each(|version| {
        let quick = Timeouts {
            checkpoint: Duration::from_secs(4),
            ..patient()
        };
        let mut rig = Rig::new(version, quick)?;
        ensure!(rig.qemu.suspend()?.stopped_by_us && rig.qemu.resume()?);
        rig.server.freeze()?;
        // Hangs QEMU's main loop.
        let hung = rig
            .qemu
            .qmp()
            .send("human-monitor-command", json!({ "command-line": write(5, 64) }))?;
        let begin = Instant::now();
        let suspension = rig.qemu.suspend()?;
        eprintln!("{version}: suspended after {:?}", begin.elapsed());
        ensure!(suspension.stopped_by_us && begin.elapsed() < wait::SOON);
        ensure!(rig.qemu.resume()?);
        rig.qemu.qmp().receive(hung, wait::SOON)?;
        rig.wait(|e| matches!(e, GuestEvent::MirrorFailed { .. }))?;
        rig.qemu.clean_up(Output::Kept)?;
        // QEMU itself may keep the failed job's node, of no effect, when it fails while caches are written back.
        let mut left = rig.qemu.leftovers()?;
        let all = left.nodes.len();
        left.nodes.retain(|n| !n.starts_with("hawser-filter-"));
        let kept = left.nodes.len() < all;
        ensure!(
            left.is_empty() && rig.qemu.disks()? == [rig.disk.clone()],
            "{left:?}"
        );
        // The disk can be mirrored again, unless that node is still on top of it.
        rig.server.thaw()?;
        let job = match rig
            .qemu
            .start_mirror(&rig.disk.clone(), &rig.file("nbd"), "disk0")
        {
            Err(e) if kept && e.to_string().contains("root block node") => {
                eprintln!("{version}: the failed mirror's node is in the way of another mirror: {e}");
                return Ok(());
            }
            started => started?,
        };
        rig.wait(|e| matches!(e, GuestEvent::MirrorReady { job: j } if *j == job))?;
        ensure!(rig.equal()?);
        Ok(())
    });
}

#[test]
fn a_frozen_qemu_is_waited_for_once_though_it_has_a_mirror() {
    on_each(|version| {
        let checkpoint = Duration::from_secs(8);
        let mut rig = Rig::new(
            version,
            Timeouts {
                checkpoint,
                ..patient()
            },
        )?;
        ensure!(rig.qemu.suspend()?.stopped_by_us && rig.qemu.resume()?);
        rig.machine.freeze()?;
        let frozen = Instant::now();
        let error = rig.qemu.suspend().unwrap_err();
        ensure!(matches!(error, GuestError::Hung { .. }), "{error}");
        ensure!(frozen.elapsed() >= checkpoint, "{:?}", frozen.elapsed());
        ensure!(frozen.elapsed() < checkpoint * 2, "{:?}", frozen.elapsed());
        // What it had sent may have been read a moment later; having been waited for is no answer.
        let silent = rig.qemu.last_answer().elapsed();
        ensure!(silent > checkpoint / 2, "{silent:?}");
        // Its mirror is still there.
        rig.machine.thaw()?;
        wait::until(wait::SOON, "QEMU to be back", || Ok(rig.qemu.run_state().ok()))?;
        let mirror = rig.qemu.mirror_progress(&rig.job)?;
        ensure!(mirror.is_some_and(|m| m.ready), "the mirror was cut");
        Ok(())
    });
}
