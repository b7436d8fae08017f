//! Nobody runs a machine without the register's word.

use anyhow::Context as _;
use hawser_testkit::{
    gate, hawser,
    hosts::{Part, Side, Spec},
    kv::Kv,
};

use super::*;

#[test]
fn without_the_register_a_machine_stays_protected_and_nobody_takes_over() {
    if !gate::networks("protected machines") {
        return;
    }
    let mut scene = Scene::protected(newest());
    scene.hosts.stop_hub();
    scene.clients.wait_acknowledged(50, SLOW).unwrap();
    scene.hosts.power_off(Side::A).unwrap();
    scene
        .hosts
        .wait_phase(Side::B, "asking the register", SLOW)
        .unwrap();
    let mute = scene.wait_silent();
    assert_eq!(mute[Side::B.name()], 0);
    assert_eq!(scene.hosts.status(Side::B).unwrap()["role"], "standby");
    scene.hosts.start_hub().unwrap();
    scene.goes_on_at(Side::B);
}

#[test]
fn two_hosts_that_lost_each_other_and_the_register_wait_and_one_goes_on_when_it_is_back() {
    if !gate::networks("protected machines") {
        return;
    }
    let mut scene = Scene::protected(oldest());
    scene.hosts.stop_hub();
    scene.hosts.net.replication.cut().unwrap();
    for side in [Side::A, Side::B] {
        scene.hosts.wait_phase(side, "asking the register", SLOW).unwrap();
    }
    let before = scene.wait_silent();
    assert_eq!(before[Side::B.name()], 0);
    let role = |side| scene.hosts.status(side).unwrap()["role"].clone();
    assert_eq!([role(Side::A), role(Side::B)], ["active", "standby"]);
    // What it says to its clients is held, not lost, and not said.
    let held = scene.hosts.status(Side::A).unwrap()["held"]["frames"].clone();
    assert!(held.as_u64().unwrap() > 0, "{held}");
    scene.hosts.start_hub().unwrap();
    scene.one_goes_on();
}

/// The hub is killed when it was asked for a change and has not decided, and is started again. `ask` waits until the change is asked for.
fn killed_within_a_change(hosts: &mut Hosts, ask: impl FnOnce(&Hosts)) {
    hosts.freeze_hub().unwrap();
    ask(hosts);
    hosts.stop_hub();
    hosts.start_hub().unwrap();
}

#[test]
fn a_change_that_the_hub_dies_with_is_settled_when_it_is_back() {
    if !gate::networks("protected machines") {
        return;
    }
    let spec = Spec {
        // No doubts of the hosts' own come in between, which are questions, too.
        detect: Duration::from_secs(50),
        ..newest()
    };
    let mut scene = Scene::busy(spec);
    let hosts = &mut scene.hosts;
    let (host, config) = (hosts.a.host.clone(), hosts.a.config.clone());
    let command = |words: &[&str]| {
        let (host, config) = (host.clone(), config.clone());
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        std::thread::spawn(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            hawser::run(&host, &config, &words, "").unwrap()
        })
    };
    let asking = |hosts: &Hosts, side| drop(hosts.wait_phase(side, "asking the register", SLOW).unwrap());

    let socket = hosts.machine.qmp().display().to_string();
    let began = command(&[
        "protect", "start", "vm1", "--to", "host-b", "--qmp", &socket, "--yes",
    ]);
    // Both hosts have asked what they ask at the beginning.
    hosts.wait_phase(Side::A, "trial", SLOW).unwrap();
    killed_within_a_change(hosts, |hosts| asking(hosts, Side::A));
    hosts.wait_phase(Side::A, "protected", SLOW).unwrap();
    began.join().unwrap();
    assert!(award(hosts)["protected"].is_object(), "{}", award(hosts));
    scene.clients.wait_acknowledged(20, SLOW).unwrap();

    let mut ended = None;
    killed_within_a_change(hosts, |hosts| {
        ended = Some(command(&["protect", "stop", "vm1"]));
        asking(hosts, Side::A);
    });
    hosts.wait_role(Side::A, "alone", SLOW).unwrap();
    ended.unwrap().join().unwrap();
    assert_eq!(award(hosts), alone(Side::A));
    wait_no_qemu(hosts, Side::B);
    hosts.wait_role(Side::B, "gone", SLOW).unwrap();
    scene.clients.wait_acknowledged(20, SLOW).unwrap();

    hosts.protect().unwrap();
    scene.clients.wait_acknowledged(20, SLOW).unwrap();
    killed_within_a_change(hosts, |hosts| {
        hosts.kill(Side::A, Part::Qemu).unwrap();
        asking(hosts, Side::B);
    });
    scene.goes_on_at(Side::B);
}

/// The shares of ten seconds that an idle guest's clock loses: as the agent says, and by the guest's own clock.
fn lost_while_idle(hosts: &Hosts, kv: &mut Kv) -> anyhow::Result<[f64; 2]> {
    // What the guest says is held for a while, what it is asked is not: it answers about as soon as it is asked.
    let mut clocks =
        || -> anyhow::Result<_> { Ok((Instant::now(), Duration::from_nanos(kv.status()?["up_ns"]))) };
    let (began, before) = clocks()?;
    let status = hosts.wait_status(Side::A, SLOW, "ten seconds later", |_| {
        began.elapsed() > Duration::from_secs(10)
    })?;
    let (ended, after) = clocks()?;
    let passed = (after - before).as_secs_f64() / (ended - began).as_secs_f64();
    let said = status["clock_loss"].as_f64().context("no clock loss")?;
    Ok([said, 1.0 - passed])
}

#[test]
fn an_idle_machine_loses_little_of_its_clock_and_one_that_shut_down_stays_down() {
    if !gate::networks("protected machines") {
        return;
    }
    let _turn = turn();
    let hosts = newest().start().unwrap();
    let watch = hosts.watch().unwrap();
    let mut kv = hosts.kv().unwrap();
    hosts.protect().unwrap();
    // A busy machine's other work may stretch pauses for a while: ten idle seconds on end must be found.
    wait::until(
        SLOW * 5,
        "less than 1 % of its clock lost in ten idle seconds",
        || {
            let [by_status, by_guest] = lost_while_idle(&hosts, &mut kv)?;
            eprintln!("clock loss {by_status:.4}, by the guest's own clock {by_guest:.4}");
            Ok((by_status.max(by_guest) < 0.01).then_some(()))
        },
    )
    .unwrap();
    report(&hosts, Side::A);

    // Its answer is output, too: it may be held when the guest is gone.
    std::thread::spawn(move || kv.shut_down());
    let status = hosts.wait_role(Side::A, "gone", SLOW).unwrap();
    assert_eq!(status["phase"], "shut down");
    hosts.wait_role(Side::B, "gone", SLOW).unwrap();
    for side in [Side::A, Side::B] {
        wait_no_qemu(&hosts, side);
    }
    assert_eq!(
        award(&hosts),
        serde_json::json!({ "stopped": { "host": "host-a" } })
    );
    assert_eq!(watch.counts().unwrap()[Side::B.name()], 0);
}
