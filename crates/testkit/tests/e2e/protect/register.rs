//! Nobody runs a machine without the register's word.

use hawser_testkit::{gate, hosts::Side};

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
    let (winner, loser) = wait::until(SLOW, "one of the two hosts to run it", || {
        let runs = [Side::A, Side::B].map(|side| award(&scene.hosts) == alone(side));
        Ok(match runs {
            [true, _] => Some((Side::A, Side::B)),
            [_, true] => Some((Side::B, Side::A)),
            _ => None,
        })
    })
    .unwrap();
    eprintln!("{} goes on", winner.name());
    wait_no_qemu(&scene.hosts, loser);
    scene.hosts.wait_role(loser, "gone", SLOW).unwrap();
    scene.goes_on_at(winner);
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
    let mut guests_clock = || Duration::from_nanos(kv.status().unwrap()["up_ns"]);
    // Of the last ten seconds: what the beginning cost is behind it then.
    const LITTLE: f64 = 0.01;
    let loses_little = |m: &serde_json::Value| m["clock_loss"].as_f64().is_some_and(|l| l < LITTLE);
    hosts
        .wait_status(Side::A, SLOW, "less than 1 % of its clock lost", loses_little)
        .unwrap();
    let (began, before) = (Instant::now(), guests_clock());
    let status = hosts
        .wait_status(Side::A, SLOW, "little lost in ten idle seconds", |m| {
            began.elapsed() > Duration::from_secs(10) && loses_little(m)
        })
        .unwrap();
    let there = guests_clock() - before;
    let lost = 1.0 - there.as_secs_f64() / began.elapsed().as_secs_f64();
    eprintln!(
        "clock loss {} after {:.1?}, by the guest's own clock {lost:.4}",
        status["clock_loss"],
        began.elapsed()
    );
    assert!(
        lost < 2.0 * LITTLE,
        "the guest's own clock says otherwise: {lost}"
    );
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
