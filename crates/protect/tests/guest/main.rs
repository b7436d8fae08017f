//! The guest driver against real QEMUs, of every version there is. Needs QEMU and root; `hawser_testkit::vm` says what it skips.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod basics;
mod mirror;
mod output;
mod standby;
mod tap;
mod wire;

use std::time::Duration;

use anyhow::Result;
use hawser_protect::guest::{Guest, Qemu, Timeouts};
use hawser_testkit::vm::{Machine, Spec, Version, here};

/// Runs a test on every version.
fn on_each(test: impl Fn(&Version) -> Result<()>) {
    for version in Version::all().unwrap() {
        eprintln!("on {version}");
        test(&version).unwrap_or_else(|e| panic!("{version}: {e:?}"));
    }
}

fn start(spec: &Spec) -> Result<Machine> {
    Machine::start(&here(), spec)
}

/// Patient, for a machine with many tests at once.
fn patient() -> Timeouts {
    let long = Duration::from_secs(30);
    Timeouts {
        connect: long,
        command: long,
        checkpoint: long,
    }
}

fn attach(machine: &Machine) -> Result<Qemu> {
    Ok(Qemu::attach(&machine.qmp(), patient())?)
}

/// A guest that is up, and its driver.
fn running(spec: &Spec) -> Result<(Machine, Qemu)> {
    let machine = start(spec)?;
    machine.wait_up()?;
    let qemu = attach(&machine)?;
    assert_eq!(qemu.process().pid(), machine.pid());
    Ok((machine, qemu))
}
