//! A guest's output held, released and freed, and a guest whose agent dies.

use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hawser_protect::guest::{Guest, Held, Leftovers, Output, Qemu, RunState};

use super::{
    attach, on_each, patient, running,
    wire::{self, Wire},
};

/// How long a guest is listened to that must say nothing.
const SILENCE: Duration = Duration::from_secs(2);

struct Ends {
    capture: Wire<UnixStream>,
    release: Wire<UnixStream>,
}

fn ends(held: Held) -> Result<Ends> {
    held.capture.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(Ends {
        capture: Wire::over(held.capture),
        release: Wire::over(held.release),
    })
}

#[test]
fn frames_are_held_and_released_in_order() {
    on_each(|version| {
        let (spec, at) = wire::spec(version)?;
        let (_machine, mut qemu) = running(&spec)?;
        let mut wire = Wire::plug(at)?;
        wire.ask(1)?;
        ensure!(wire.answer()?.0 == 1, "the guest answers while nothing is held");
        let nics = qemu.nics()?;
        let [nic] = &nics[..] else {
            anyhow::bail!("{nics:?}")
        };
        ensure!(
            (nic.netdev.as_str(), nic.kind.as_str(), nic.device.as_str()) == ("net0", "socket", "nic0"),
            "{nic:?}"
        );
        let mut held = ends(qemu.hold_output(nic)?)?;
        let mut frames = Vec::new();
        for who in [11, 12, 13] {
            wire.ask(who)?;
            let (answered, frame) = held.capture.answer()?;
            ensure!(answered == who);
            frames.push(frame);
        }
        ensure!(wire.count(SILENCE)? == 0, "a held frame was on the wire");
        for frame in &frames {
            held.release.send(frame)?;
        }
        for who in [11, 12, 13] {
            let (answered, frame) = wire.answer()?;
            ensure!(answered == who && frame == frames[usize::from(who) - 11]);
        }
        // While the VM stands, QEMU keeps what is released.
        ensure!(qemu.suspend()?.stopped_by_us);
        held.release.send(&frames[0])?;
        ensure!(wire.count(SILENCE)? == 0, "a suspended VM sent");
        ensure!(qemu.resume()?);
        ensure!(wire.answer()?.0 == 11);
        // What was released before the output is freed goes out before it.
        for _ in 0..500 {
            held.release.send(&frames[1])?;
        }
        qemu.free_output(nic)?;
        wire.ask(20)?;
        for _ in 0..500 {
            ensure!(wire.answer()?.0 == 12);
        }
        ensure!(wire.answer()?.0 == 20, "the output is free");
        ensure!(
            qemu.leftovers()? == Leftovers::default(),
            "{:?}",
            qemu.leftovers()?
        );
        Ok(())
    });
}

#[test]
fn a_second_hold_replaces_the_first_without_a_gap() {
    on_each(|version| {
        let (spec, at) = wire::spec(version)?;
        let (_machine, mut qemu) = running(&spec)?;
        let mut wire = Wire::plug(at)?;
        let nic = qemu.nics()?.remove(0);
        let _first = qemu.hold_output(&nic)?;
        for round in 1..10 {
            wire.ask(round)?;
            let mut held = ends(qemu.hold_output(&nic)?)?;
            wire.ask(100 + round)?;
            while held.capture.answer()?.0 != 100 + round {}
            ensure!(qemu.leftovers()?.filters.len() == 2, "{:?}", qemu.leftovers()?);
        }
        ensure!(wire.count(SILENCE)? == 0);
        qemu.clean_up(Output::Freed)?;
        wire.ask(9)?;
        while wire.answer()?.0 != 9 {}
        ensure!(qemu.leftovers()?.is_empty());
        Ok(())
    });
}

/// Not a test by itself: an agent in a process of its own, for [`agent`] to start and kill.
#[test]
fn is_an_agent() {
    let Ok(order) = std::env::var("HAWSER_TEST_AGENT") else {
        return;
    };
    let (what, socket) = order.split_once(' ').unwrap();
    let mut qemu = Qemu::attach(Path::new(socket), patient()).unwrap();
    let nic = qemu.nics().unwrap().remove(0);
    let _held = qemu.hold_output(&nic).unwrap();
    if what == "suspend" {
        assert!(qemu.suspend().unwrap().stopped_by_us);
    }
    println!("\nready");
    loop {
        std::thread::park();
    }
}

struct Agent(Child);

impl Drop for Agent {
    /// As with `kill -9`.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(what: &str, socket: PathBuf) -> Result<Agent> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "output::is_an_agent", "--nocapture"])
        .env("HAWSER_TEST_AGENT", format!("{what} {}", socket.display()))
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("no output")?;
    let agent = Agent(child);
    let ready = BufReader::new(out)
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "ready");
    ensure!(ready, "the agent failed");
    Ok(agent)
}

#[test]
fn a_guest_whose_agent_died_is_mute_until_another_takes_over() {
    on_each(|version| {
        let (spec, at) = wire::spec(version)?;
        let (machine, qemu) = running(&spec)?;
        drop(qemu);
        let mut wire = Wire::plug(at)?;
        wire.ask(1)?;
        wire.answer()?;
        drop(agent("hold", machine.qmp())?);
        wire.count(Duration::from_millis(100))?;
        for who in 2..40 {
            wire.ask(who)?;
        }
        let heard = wire.count(SILENCE)?;
        ensure!(heard == 0, "{heard} frames of a guest without an agent");
        let mut qemu = attach(&machine)?;
        let left = qemu.leftovers()?;
        ensure!(
            left.filters.len() == 2 && left.chardevs.len() == 2 && !left.suspended,
            "{left:?}"
        );
        ensure!(qemu.run_state()? == RunState::Running);
        // The next agent takes over; nothing gets out meanwhile.
        qemu.clean_up(Output::Kept)?;
        let nic = qemu.nics()?.remove(0);
        let mut held = ends(qemu.hold_output(&nic)?)?;
        wire.ask(50)?;
        let frame = loop {
            let (who, frame) = held.capture.answer()?;
            if who == 50 {
                break frame;
            }
        };
        ensure!(wire.count(Duration::from_millis(300))? == 0);
        held.release.send(&frame)?;
        ensure!(wire.answer()?.0 == 50);
        qemu.clean_up(Output::Freed)?;
        qemu.clean_up(Output::Freed)?;
        wire.ask(60)?;
        while wire.answer()?.0 != 60 {}
        ensure!(qemu.leftovers()?.is_empty(), "{:?}", qemu.leftovers()?);
        Ok(())
    });
}

#[test]
fn a_guest_that_a_dead_agent_left_suspended_is_told_from_a_paused_one() {
    on_each(|version| {
        let (spec, at) = wire::spec(version)?;
        let (machine, qemu) = running(&spec)?;
        drop(qemu);
        let mut wire = Wire::plug(at)?;
        drop(agent("suspend", machine.qmp())?);
        let mut qemu = attach(&machine)?;
        ensure!(qemu.run_state()? == RunState::Paused);
        ensure!(qemu.leftovers()?.suspended, "{:?}", qemu.leftovers()?);
        qemu.clean_up(Output::Kept)?;
        ensure!(qemu.resume()? && qemu.run_state()? == RunState::Running);
        wire.ask(3)?;
        ensure!(wire.count(Duration::from_millis(300))? == 0, "kept is kept");
        qemu.clean_up(Output::Freed)?;
        wire.ask(4)?;
        while wire.answer()?.0 != 4 {}
        drop(qemu);
        // The owner's pause, after an agent died while the guest ran.
        drop(agent("hold", machine.qmp())?);
        let mut qemu = attach(&machine)?;
        qemu.qmp().execute("stop", serde_json::json!({}))?;
        ensure!(!qemu.leftovers()?.suspended);
        qemu.clean_up(Output::Freed)?;
        ensure!(!qemu.resume()? && qemu.run_state()? == RunState::Paused);
        Ok(())
    });
}
