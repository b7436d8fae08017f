//! The host of a protected machine dies, in whole or in part: the machine goes on at the other one.

use hawser_testkit::{
    gate,
    hosts::{Part, Side, Spec},
};

use super::*;

#[test]
fn a_killed_qemu() {
    if !gate::networks("protected machines") {
        return;
    }
    for version in versions() {
        eprintln!("{version}");
        let scene = Scene::protected(Spec::new(&version));
        report(&scene.hosts, Side::A);
        scene.hosts.kill(Side::A, Part::Qemu).unwrap();
        scene.goes_on_at(Side::B);
    }
}

/// The agent learns in one moment that the process has ended, that its sockets are closed and that output waits, in any order.
#[test]
fn a_qemu_that_dies_while_its_agent_stands_still_for_a_moment() {
    if !gate::networks("protected machines") {
        return;
    }
    let scene = Scene::protected(oldest());
    let hosts = &scene.hosts;
    hosts.freeze(Side::A, Part::Agent).unwrap();
    hosts.kill(Side::A, Part::Qemu).unwrap();
    wait_no_qemu(hosts, Side::A);
    hosts.thaw(Side::A, Part::Agent).unwrap();
    hosts.wait_role(Side::B, "alone", SLOW).unwrap();
    hosts.wait_role(Side::A, "gone", SLOW).unwrap();
    scene.goes_on_at(Side::B);
}

#[test]
fn agent_and_qemu_killed_together() {
    if !gate::networks("protected machines") {
        return;
    }
    for version in versions() {
        eprintln!("{version}");
        let scene = Scene::protected(Spec::new(&version));
        scene.hosts.kill(Side::A, Part::Both).unwrap();
        scene.goes_on_at(Side::B);
    }
}

#[test]
fn a_host_without_power() {
    if !gate::networks("protected machines") {
        return;
    }
    let scene = Scene::protected(newest());
    scene.hosts.power_off(Side::A).unwrap();
    scene.goes_on_at(Side::B);
}

#[test]
fn a_fail_over_that_its_administrator_asks_for() {
    if !gate::networks("protected machines") {
        return;
    }
    let scene = Scene::protected(oldest());
    let told = scene
        .hosts
        .a
        .command(&["protect", "fail", "vm1", "--yes"])
        .unwrap();
    eprintln!("{told}");
    wait_no_qemu(&scene.hosts, Side::A);
    scene.goes_on_at(Side::B);
}

/// Its QEMU alone, its agent alone, both.
fn frozen_and_woken(part: Part, spec: Spec) {
    let scene = Scene::protected(spec);
    let hosts = &scene.hosts;
    hosts.freeze(Side::A, part).unwrap();
    hosts.wait_role(Side::B, "alone", SLOW).unwrap();
    scene.clients.wait_acknowledged(20, SLOW).unwrap();
    let before = scene.frames();
    if part != Part::Qemu {
        assert_eq!(hosts.qemus(Side::A).unwrap().len(), 1, "it is frozen, or mute");
        hosts.thaw(Side::A, part).unwrap();
    }
    wait_no_qemu(hosts, Side::A);
    scene.clients.wait_acknowledged(20, SLOW).unwrap();
    assert_eq!(scene.frames()[Side::A.name()], before[Side::A.name()]);
    hosts.wait_role(Side::A, "gone", SLOW).unwrap();
    scene.goes_on_at(Side::B);
}

#[test]
fn a_frozen_qemu_is_destroyed() {
    if gate::networks("protected machines") {
        frozen_and_woken(Part::Qemu, newest());
    }
}

#[test]
fn a_frozen_agent_destroys_its_machine_when_it_wakes_up() {
    if gate::networks("protected machines") {
        frozen_and_woken(Part::Agent, oldest());
    }
}

#[test]
fn a_frozen_host_destroys_its_machine_when_it_wakes_up() {
    if gate::networks("protected machines") {
        frozen_and_woken(Part::Both, newest());
    }
}
