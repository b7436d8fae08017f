//! Suspending, saving, continuing; what happens meanwhile; and QEMUs that do not answer.

use std::{
    io::Read,
    os::unix::fs::FileExt,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hawser_protect::{
    guest::{Guest, GuestError, GuestEvent, Qemu, Qmp, RunState, Timeouts, compose},
    memory::{Layout, PAGE},
};
use hawser_testkit::{
    vm::{Machine, Spec},
    wait,
};
use serde_json::json;

use super::{attach, on_each, patient, running, start};

/// For a QEMU that is known not to answer.
fn impatient() -> Timeouts {
    Timeouts {
        connect: Duration::from_millis(600),
        command: Duration::from_millis(600),
        checkpoint: Duration::from_millis(300),
    }
}

/// Another client of the same VM: its owner.
fn with_owner(spec: &Spec) -> (Spec, std::path::PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("owner.qmp");
    let mut spec = spec.clone();
    spec.extra.extend([
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", socket.display()),
    ]);
    (spec, socket, dir)
}

fn wait_event(qemu: &mut Qemu, wanted: impl Fn(&GuestEvent) -> bool) -> Result<GuestEvent> {
    let mut seen = Vec::new();
    let found = wait::until(wait::SOON, "an event of the guest", || {
        seen.extend(qemu.events()?);
        Ok(seen.iter().find(|e| wanted(e)).cloned())
    });
    found.with_context(|| format!("seen: {seen:?}"))
}

#[test]
fn a_guest_is_suspended_saved_and_goes_on() {
    on_each(|version| {
        let (machine, mut qemu) = running(&Spec::new(version))?;
        assert_eq!(
            format!("{}.{}", qemu.version()[0], qemu.version()[1]),
            version.number()
        );
        assert_eq!((qemu.name(), qemu.machine()), ("vm1", "pc-q35-7.2"));
        assert_eq!(qemu.uuid()?[0], 0x6b);
        qemu.events()?;
        let (mut state, mut pauses) = (Vec::new(), Vec::new());
        for round in 0..40 {
            let start = Instant::now();
            let suspension = qemu.suspend()?;
            ensure!(
                suspension.stopped_by_us && suspension.found == RunState::Running,
                "{suspension:?}"
            );
            let stopped = start.elapsed();
            if round % 2 == 0 {
                qemu.begin_device_state()?;
            }
            qemu.device_state(&mut state)?;
            let saved = start.elapsed();
            ensure!(qemu.resume()?, "it was we who stopped it");
            pauses.push((start.elapsed(), stopped, saved - stopped));
            let stream = compose(&state, qemu.machine())?;
            ensure!(
                stream.len() == state.len() + 5 + 10 + 7,
                "{} of {}",
                stream.len(),
                state.len()
            );
        }
        ensure!(!qemu.resume()?, "nothing to continue");
        ensure!(qemu.events()?.is_empty(), "our own doing is no event");
        ensure!(qemu.run_state()? == RunState::Running);
        pauses.sort();
        eprintln!(
            "{version}: {} bytes; pause, stop, state: {:?}, best {:?}",
            state.len(),
            pauses[20],
            pauses[0]
        );
        drop(qemu);
        let mut left = attach(&machine)?;
        ensure!(
            left.qmp().execute("query-fdsets", json!({}))? == json!([]),
            "the state file stayed"
        );
        Ok(())
    });
}

/// What the guest's physical memory shows at an address, as QEMU sees it.
fn physical(qemu: &mut Qemu, address: u64) -> Result<[u8; 16]> {
    let text = qemu.qmp().hmp(&format!("xp /16xb {address:#x}"))?;
    let bytes = text
        .split_whitespace()
        .filter_map(|w| u8::from_str_radix(w.strip_prefix("0x")?, 16).ok());
    Ok(bytes.collect::<Vec<_>>()[..].try_into()?)
}

fn own(machine: &Machine, layout: &Layout, block: &str, offset: u64) -> Result<[u8; 16]> {
    let block = layout
        .blocks()
        .iter()
        .find(|b| b.name == block)
        .with_context(|| format!("no {block}"))?;
    let mut bytes = [0; 16];
    std::fs::File::open(format!("/proc/{}/mem", machine.pid()))?
        .read_exact_at(&mut bytes, block.address + offset)?;
    Ok(bytes)
}

#[test]
fn all_ram_blocks_are_found() {
    on_each(|version| {
        let mut spec = Spec::new(version);
        spec.extra.extend([
            "-device".into(),
            "VGA".into(),
            "-device".into(),
            "virtio-rng-pci".into(),
        ]);
        let (machine, mut qemu) = running(&spec)?;
        let start = Instant::now();
        let layout = qemu.layout()?;
        eprintln!(
            "{version}: {} blocks in {:?}: {layout:?}",
            layout.blocks().len(),
            start.elapsed()
        );
        for name in ["ram0", "pc.bios", "/rom@etc/acpi/tables", "/rom@etc/table-loader"] {
            ensure!(
                layout.blocks().iter().any(|b| b.name == name),
                "{name} is missing"
            );
        }
        ensure!(
            layout
                .blocks()
                .iter()
                .any(|b| b.name.ends_with("vga.vram") && b.size == 16 << 20)
        );
        let mut addresses: Vec<_> = layout.blocks().iter().map(|b| (b.address, b.size)).collect();
        addresses.sort();
        ensure!(
            addresses.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0),
            "blocks overlap"
        );
        qemu.suspend()?;
        for page in [0, 1, 0x100, 0x1000, 0x4321, 0xfffe] {
            let at = page * PAGE as u64;
            ensure!(
                own(&machine, &layout, "ram0", at)? == physical(&mut qemu, at)?,
                "page {page:#x}"
            );
        }
        let bios = 256 << 10;
        let reset = physical(&mut qemu, (4 << 30) - 16)?;
        ensure!(
            reset != [0; 16] && own(&machine, &layout, "pc.bios", bios - 16)? == reset,
            "the firmware is elsewhere"
        );
        // The table that names the others begins with a command, `allocate`, and a file's name.
        ensure!(own(&machine, &layout, "/rom@etc/table-loader", 0)?[..8] == *b"\x01\0\0\0etc/");
        Ok(())
    });
}

#[test]
fn a_pause_by_the_owner_survives() {
    on_each(|version| {
        let (spec, socket, _dir) = with_owner(&Spec::new(version));
        let (_machine, mut qemu) = running(&spec)?;
        let mut owner = Qmp::connect(&socket, patient())?;
        owner.execute("stop", json!({}))?;
        let suspension = qemu.suspend()?;
        ensure!(
            !suspension.stopped_by_us && suspension.found == RunState::Paused,
            "{suspension:?}"
        );
        ensure!(!qemu.resume()?);
        ensure!(qemu.run_state()? == RunState::Paused);
        ensure!(qemu.events()? == [GuestEvent::Stopped]);
        owner.execute("cont", json!({}))?;
        ensure!(wait_event(&mut qemu, |_| true)? == GuestEvent::Resumed);
        // And while we hold it.
        ensure!(qemu.suspend()?.stopped_by_us);
        owner.execute("cont", json!({}))?;
        owner.execute("query-status", json!({}))?;
        ensure!(matches!(qemu.resume(), Err(GuestError::Disturbed)));
        ensure!(qemu.run_state()? == RunState::Running && qemu.suspend()?.stopped_by_us && qemu.resume()?);
        Ok(())
    });
}

#[test]
fn the_end_of_a_guest_is_seen() {
    on_each(|version| {
        let (spec, socket, _dir) = with_owner(&Spec::new(version));
        let (mut machine, mut qemu) = running(&spec)?;
        let mut owner = Qmp::connect(&socket, patient())?;
        owner.execute("system_reset", json!({}))?;
        wait_event(&mut qemu, |e| *e == GuestEvent::Reset { by_guest: false })?;
        ensure!(qemu.suspend()?.stopped_by_us);
        owner.execute("quit", json!({}))?;
        wait::for_condition(wait::SOON, "QEMU to end", || !qemu.process().is_alive())?;
        // Nobody read since: the event came before the end, and is not lost with it.
        let events = qemu.events()?;
        ensure!(
            events
                .iter()
                .any(|e| matches!(e, GuestEvent::Shutdown { by_guest: false, .. })),
            "{events:?}"
        );
        ensure!(qemu.is_gone() && !qemu.resume()?);
        ensure!(matches!(qemu.suspend(), Err(GuestError::Gone { .. })));
        machine.kill()?;
        Ok(())
    });
}

/// Whether the server at a socket has a client (proc_pid_net(5), `unix`: state 03).
fn is_connected(socket: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let socket = socket.to_string_lossy();
    Ok(table
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .any(|f| f.get(5) == Some(&"03") && f.get(7).is_some_and(|name| *name == socket)))
}

#[test]
fn a_qemu_that_hangs_is_told_within_the_time() {
    on_each(|version| {
        let machine = start(&Spec::new(version))?;
        // Time for one that lives on a busy machine, and less than other commands have.
        let checkpoint = Duration::from_secs(5);
        let timeouts = Timeouts {
            checkpoint,
            ..patient()
        };
        let mut qemu = Qemu::attach(&machine.qmp(), timeouts)?;
        ensure!(qemu.suspend()?.stopped_by_us && qemu.resume()?);
        machine.freeze()?;
        let start = Instant::now();
        let error = qemu.suspend().unwrap_err();
        ensure!(
            matches!(error, GuestError::Hung { .. }) && error.is_fatal(),
            "{error}"
        );
        ensure!(
            (checkpoint..patient().command).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
        machine.thaw()?;
        // The late reply is not taken for another's.
        wait::until(wait::SOON, "QEMU to be back", || Ok(qemu.run_state().ok()))?;
        drop(qemu);
        wait::until(wait::SOON, "QEMU to notice that its client is gone", || {
            Ok((!is_connected(&machine.qmp())?).then_some(()))
        })?;
        machine.freeze()?;
        let error = Qemu::attach(&machine.qmp(), impatient()).unwrap_err();
        ensure!(matches!(error, GuestError::Hung { .. }), "{error}");
        machine.thaw()?;
        Ok(())
    });
}

#[test]
fn an_occupied_socket_is_told() {
    on_each(|version| {
        let machine = start(&Spec::new(version))?;
        // The socket is in its place a moment before QEMU listens on it.
        let mut other = wait::until(wait::SOON, "QEMU to listen", || {
            Ok(UnixStream::connect(machine.qmp()).ok())
        })?;
        // It has a client once it greets, not before.
        other.set_read_timeout(Some(wait::SOON))?;
        other.read_exact(&mut [0])?;
        let error = Qemu::attach(&machine.qmp(), impatient()).unwrap_err();
        ensure!(matches!(error, GuestError::Occupied { .. }), "{error}");
        drop(other);
        wait::until(wait::SOON, "the socket to be free", || {
            Ok(Qemu::attach(&machine.qmp(), patient()).ok())
        })?;
        Ok(())
    });
}

#[test]
fn devices_that_come_and_go_are_noticed() {
    on_each(|version| {
        let mut spec = Spec::new(version);
        spec.extra
            .extend(["-device".into(), "pcie-root-port,id=port1,chassis=1".into()]);
        let (_machine, mut qemu) = running(&spec)?;
        let mut state = Vec::new();
        let mut epoch = |qemu: &mut Qemu| -> Result<Vec<GuestEvent>> {
            qemu.suspend()?;
            qemu.device_state(&mut state)?;
            qemu.resume()?;
            Ok(qemu.events()?)
        };
        for _ in 0..5 {
            ensure!(epoch(&mut qemu)?.is_empty());
        }
        let device = json!({ "driver": "virtio-rng-pci", "id": "late", "bus": "port1" });
        qemu.qmp().execute("device_add", device)?;
        ensure!(
            epoch(&mut qemu)? == [GuestEvent::DevicesChanged],
            "the next epoch's state has one more device"
        );
        ensure!(epoch(&mut qemu)?.is_empty());
        Ok(())
    });
}
