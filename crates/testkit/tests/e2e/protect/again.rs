//! Machines that are not everybody's: one that was taken over before, one of another user, a large one.

use std::os::unix::fs::MetadataExt as _;

use hawser_testkit::{
    gate,
    hosts::{Part, Side, Spec},
};

use super::*;

#[test]
fn a_machine_that_was_taken_over_is_protected_again_and_goes_back() {
    if !gate::networks("protected machines") {
        return;
    }
    for version in versions() {
        eprintln!("{version}");
        let scene = Scene::protected(Spec::new(&version));
        let hosts = &scene.hosts;
        hosts.kill(Side::A, Part::Qemu).unwrap();
        hosts.wait_role(Side::B, "alone", SLOW).unwrap();
        hosts.wait_role(Side::A, "gone", SLOW).unwrap();
        scene.clients.wait_acknowledged(20, SLOW).unwrap();
        // Its QEMU is one that the agent started, so that its socket need not be named.
        let words = ["protect", "start", "vm1", "--to", Side::A.name(), "--yes"];
        eprintln!("{}", hosts.b.command(&words).unwrap());
        scene.clients.wait_acknowledged(50, SLOW).unwrap();
        hosts.kill(Side::B, Part::Qemu).unwrap();
        hosts.wait_role(Side::A, "alone", SLOW).unwrap();
        hosts.wait_role(Side::B, "gone", SLOW).unwrap();
        scene.moved(&[Side::A, Side::B, Side::A]);
    }
}

#[test]
fn a_qemu_of_another_user_goes_on_as_that_user() {
    if !gate::networks("protected machines") {
        return;
    }
    for version in versions() {
        eprintln!("{version}");
        // QEMU 9.1 brought the one, and 10.0 took the other away.
        let become_nobody = match version.number() {
            "7.2" => ["-runas", "nobody"],
            _ => ["-run-with", "user=nobody"],
        };
        let spec = Spec {
            extra: become_nobody.map(Into::into).into(),
            ..Spec::new(&version)
        };
        let scene = Scene::protected(spec);
        let before = user(scene.hosts.machine.pid());
        assert_ne!(before, 0);
        scene.hosts.kill(Side::A, Part::Both).unwrap();
        scene.hosts.wait_role(Side::B, "alone", SLOW).unwrap();
        let successors = scene.hosts.qemus(Side::B).unwrap();
        let users: Vec<u32> = successors.iter().map(|pid| user(*pid)).collect();
        assert_eq!(users, [before]);
        scene.goes_on_at(Side::B);
    }
}

/// Whose process it is.
fn user(pid: u32) -> u32 {
    std::fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

#[test]
fn a_machine_of_512_mib_goes_on() {
    if !gate::networks("protected machines") {
        return;
    }
    let spec = Spec {
        memory: 512,
        ..newest()
    };
    let scene = Scene::protected(spec);
    scene.hosts.power_off(Side::A).unwrap();
    scene.goes_on_at(Side::B);
}
