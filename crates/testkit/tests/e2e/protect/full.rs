//! The standby has no room for what it is to keep.

use hawser_testkit::{
    gate,
    hosts::{Side, Spec},
};

use super::*;

/// What an administrator must find in a message about it.
fn tells_of_room(message: &str) -> bool {
    message.contains("-disk0.raw") && message.contains("make room")
}

#[test]
fn a_machine_whose_replica_has_no_room_is_not_protected_and_goes_on() {
    if !gate::networks("protected machines") {
        return;
    }
    let spec = Spec {
        room: Some(64),
        ..newest()
    };
    let scene = Scene::busy(spec);
    let refused = scene.hosts.protect().unwrap_err().to_string();
    assert!(tells_of_room(&refused), "{refused}");
    wait_no_qemu(&scene.hosts, Side::B);
    assert_eq!(award(&scene.hosts), alone(Side::A));
    scene.clients.wait_acknowledged(50, SLOW).unwrap();
    // With room for it, the same machine is protected, and outlives its host.
    scene.hosts.small.as_ref().unwrap().resize(1 << 20).unwrap();
    scene.hosts.protect().unwrap();
    scene.hosts.power_off(Side::A).unwrap();
    scene.goes_on_at(Side::B);
}

#[test]
fn a_protected_machine_goes_on_when_its_replica_finds_no_more_room() {
    if !gate::networks("protected machines") {
        return;
    }
    let spec = Spec {
        room: Some(1 << 20),
        ..oldest()
    };
    let scene = Scene::protected(spec);
    let hosts = &scene.hosts;
    hosts.small.as_ref().unwrap().fill().unwrap();
    // What it goes on to write is new to the replica.
    hosts.kv().unwrap().load_disk(200).unwrap();
    let status = hosts.wait_role(Side::A, "alone", SLOW).unwrap();
    let message = status["message"].as_str().unwrap();
    assert!(tells_of_room(message), "{message}");
    wait_no_qemu(hosts, Side::B);
    let status = hosts.wait_role(Side::B, "gone", SLOW).unwrap();
    let message = status["message"].as_str().unwrap();
    assert!(tells_of_room(message), "{message}");
    scene.goes_on_at(Side::A);
}
