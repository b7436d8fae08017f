//! The standby, or the agent on the active host, is gone: the machine goes on, or waits mute for the register's word.

use hawser_testkit::{
    gate,
    hosts::{Part, Side, Spec},
};

use super::{whole::Monitor, *};

/// Slack on "a second after the register said so": less than a connection takes to be given up by the kernel.
const AT_ONCE: Duration = Duration::from_secs(8);

/// The standby does not answer any more and nobody tells. The machine is mute until the register says that it is alone.
fn standby_lost(spec: Spec, lose: impl Fn(&Hosts), come_back: impl Fn(&Hosts)) {
    let scene = Scene::protected(spec);
    let hosts = &scene.hosts;
    lose(hosts);
    wait::for_condition(SLOW, "the register's word", || award(hosts) == alone(Side::A)).unwrap();
    let told = Instant::now();
    scene.clients.wait_acknowledged(1, AT_ONCE).unwrap();
    eprintln!(
        "acknowledged again {:.1?} after the register said so",
        told.elapsed()
    );
    hosts.wait_role(Side::A, "alone", SLOW).unwrap();
    let mut monitor = Monitor::connect(&hosts.machine.qmp()).unwrap();
    let asked = Instant::now();
    assert_eq!(
        monitor.ask("query-status", Value::Null).unwrap()["status"],
        "running"
    );
    assert!(asked.elapsed() < AT_ONCE, "QMP hung for {:?}", asked.elapsed());
    drop(monitor);
    come_back(hosts);
    wait_no_qemu(hosts, Side::B);
    hosts.wait_role(Side::B, "gone", SLOW).unwrap();
    scene.goes_on_at(Side::A);
}

#[test]
fn a_machine_goes_on_when_its_standby_freezes_and_the_standby_gives_up_when_it_wakes_up() {
    if !gate::networks("protected machines") {
        return;
    }
    standby_lost(
        newest(),
        |hosts| hosts.freeze(Side::B, Part::Both).unwrap(),
        |hosts| hosts.thaw(Side::B, Part::Both).unwrap(),
    );
}

#[test]
fn a_machine_goes_on_when_its_standby_is_cut_off_and_the_standby_gives_up_when_it_is_back() {
    if !gate::networks("protected machines") {
        return;
    }
    standby_lost(
        oldest(),
        |hosts| hosts.net.isolate(&hosts.net.b).unwrap(),
        |hosts| hosts.net.mend().unwrap(),
    );
}

/// Between the hosts, what is said to one of the two is lost, and what it says arrives: also that it gives the connection up.
fn deaf(side: Side, spec: Spec) {
    let scene = Scene::protected(spec);
    let host = &scene.hosts.node(side).host;
    scene.hosts.net.replication.lose_toward(host, 100).unwrap();
    scene.one_goes_on();
}

#[test]
fn a_machine_goes_on_when_nothing_of_its_standby_arrives() {
    if gate::networks("protected machines") {
        deaf(Side::A, newest());
    }
}

#[test]
fn a_machine_goes_on_when_nothing_of_it_arrives_at_its_standby() {
    if gate::networks("protected machines") {
        deaf(Side::B, oldest());
    }
}

#[test]
fn a_machine_whose_agent_died_is_mute_and_is_destroyed_after_the_other_host_took_over() {
    if !gate::networks("protected machines") {
        return;
    }
    let mut scene = Scene::protected(newest());
    scene.hosts.kill(Side::A, Part::Agent).unwrap();
    scene.hosts.wait_role(Side::B, "alone", SLOW).unwrap();
    scene.clients.wait_acknowledged(20, SLOW).unwrap();
    assert_eq!(scene.hosts.qemus(Side::A).unwrap().len(), 1);
    let before = scene.frames();
    scene.hosts.start_agent(Side::A).unwrap();
    wait_no_qemu(&scene.hosts, Side::A);
    assert_eq!(scene.frames()[Side::A.name()], before[Side::A.name()]);
    scene.goes_on_at(Side::B);
}

#[test]
fn a_machine_whose_agent_died_goes_on_when_another_agent_comes_before_the_standby_is_sure() {
    if !gate::networks("protected machines") {
        return;
    }
    let spec = Spec {
        detect: Duration::from_secs(50),
        ..oldest()
    };
    let mut scene = Scene::protected(spec);
    scene.hosts.kill(Side::A, Part::Agent).unwrap();
    let mute = scene.wait_silent();
    assert_eq!(mute[Side::B.name()], 0);
    scene.hosts.start_agent(Side::A).unwrap();
    wait::for_condition(SLOW, "the register's word", || {
        award(&scene.hosts) == alone(Side::A)
    })
    .unwrap();
    scene.clients.wait_acknowledged(20, SLOW).unwrap();
    wait_no_qemu(&scene.hosts, Side::B);
    scene.lives_at(Side::A);
}
