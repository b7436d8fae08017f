//! A guest that goes on in another QEMU.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hawser_protect::{
    guest::{Guest, GuestError, Incoming, Qemu, RunState},
    memory::{Layout, PAGE},
};
use hawser_testkit::{
    vm::{Machine, Spec},
    wait,
};

use super::{
    attach, on_each, patient, running, start,
    wire::{self, Wire},
};

const LONG: Duration = Duration::from_secs(60);

fn waiting(spec: &Spec) -> Result<(Machine, Incoming)> {
    let mut spec = spec.clone();
    spec.extra
        .extend(["-incoming".into(), "defer".into(), "-S".into()]);
    let machine = start(&spec)?;
    let incoming = Incoming::attach(&machine.qmp(), patient())?;
    Ok((machine, incoming))
}

/// Copies all blocks, leaving out zero pages: the standby is new.
fn copy(from: u32, layout: &Layout, to: u32, into: &Layout) -> Result<()> {
    ensure!(layout.fits(into), "{layout:?} {into:?}");
    let source = OpenOptions::new().read(true).open(format!("/proc/{from}/mem"))?;
    let target = OpenOptions::new().write(true).open(format!("/proc/{to}/mem"))?;
    for (a, b) in layout.blocks().iter().zip(into.blocks()) {
        let mut bytes = vec![0; a.size as usize];
        source.read_exact_at(&mut bytes, a.address)?;
        let read_only = a.name.ends_with(".rom") || a.name == "pc.bios";
        for (at, page) in bytes.chunks(PAGE).enumerate() {
            if read_only || page.iter().any(|b| *b != 0) {
                target.write_all_at(page, b.address + (at * PAGE) as u64)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_guest_goes_on_in_another_qemu() {
    on_each(|version| {
        let (spec, at) = wire::spec(version)?;
        let (mut machine, mut qemu) = running(&spec)?;
        let mut wire = Wire::plug(at)?;
        wire.ask(1)?;
        wire.answer()?;
        let (other, there) = wire::spec(version)?;
        let (standby, mut incoming) = waiting(&other)?;
        ensure!(incoming.machine() == qemu.machine() && incoming.version() == qemu.version());
        ensure!(qemu.suspend()?.stopped_by_us);
        let mut state = Vec::new();
        qemu.device_state(&mut state)?;
        copy(machine.pid(), &qemu.layout()?, standby.pid(), &incoming.layout()?)?;
        let name = qemu.machine().to_owned();
        machine.kill()?;
        let mut wire = Wire::plug(there)?;
        let begin = Instant::now();
        incoming.load(&state, &name, LONG)?;
        let loaded = begin.elapsed();
        wire.ask(2)?;
        let heard = wire.count(Duration::from_secs(1))?;
        ensure!(heard == 0, "{heard} frames of a guest that was not continued");
        let begin = Instant::now();
        incoming.resume()?;
        eprintln!(
            "{version}: loaded in {loaded:?}, continued in {:?}",
            begin.elapsed()
        );
        wire.ask(3)?;
        while wire.answer()?.0 != 3 {}
        let mut guest: Qemu = incoming.into_guest()?;
        ensure!(guest.run_state()? == RunState::Running && guest.suspend()?.stopped_by_us && guest.resume()?);
        ensure!(guest.uuid()? == qemu.uuid()?);
        Ok(())
    });
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    on_each(|version| {
        let machine = start(&Spec::new(version))?;
        let mut qemu = attach(&machine)?;
        qemu.suspend()?;
        let mut state = Vec::new();
        qemu.device_state(&mut state)?;
        let refused = |machine: &str, extra: &[&str], state: &[u8]| -> Result<GuestError> {
            let mut spec = Spec::new(version);
            spec.extra.extend(extra.iter().map(|e| (*e).to_owned()));
            let (_standby, mut incoming) = waiting(&spec)?;
            Ok(incoming.load(state, machine, LONG).unwrap_err())
        };
        let error = refused("pc-q35-6.2", &[], &state)?;
        ensure!(error.to_string().contains("pc-q35-6.2"), "{error}");
        let mut more = state.clone();
        more.truncate(state.len() / 2);
        let error = refused(qemu.machine(), &[], &more)?;
        ensure!(matches!(error, GuestError::NotLoaded { .. }), "{error}");
        eprintln!("{version}: half a state: {error}");
        // The device that the state has not is no error; the device that this QEMU has not, is.
        qemu.resume()?;
        drop(qemu);
        let mut spec = Spec::new(version);
        spec.extra.extend(["-device".into(), "virtio-rng-pci".into()]);
        let machine = start(&spec)?;
        let mut qemu = attach(&machine)?;
        qemu.suspend()?;
        qemu.device_state(&mut state)?;
        let error = refused(qemu.machine(), &[], &state)?;
        ensure!(matches!(error, GuestError::NotLoaded { .. }), "{error}");
        eprintln!("{version}: a device too many: {error}");
        Ok(())
    });
}

#[test]
fn a_qemu_that_does_not_wait_is_refused() {
    on_each(|version| {
        let machine = start(&Spec::new(version))?;
        let error = Incoming::attach(&machine.qmp(), patient()).unwrap_err();
        ensure!(error.to_string().contains("-incoming defer -S"), "{error}");
        let (_standby, incoming) = waiting(&Spec::new(version))?;
        ensure!(incoming.process().is_alive());
        incoming.kill()?;
        wait::for_condition(wait::SOON, "the end", || !incoming.process().is_alive())
    });
}
