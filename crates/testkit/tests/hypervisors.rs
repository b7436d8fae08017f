//! The hosts for virtual machines: what goes wrong with their cables is what was asked for, and two machines that answer for one
//! are seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, time::Duration};

use hawser_testkit::{
    Host, gate,
    kv::{Clients, Plan, check},
    net::{BRIDGE, Hypervisors, Watch},
    vm::{Machine, Nic, Spec, Version},
    wait,
};
use rustix::process::Signal;

const SLOW: Duration = Duration::from_secs(120);
const PORT: u16 = 9000;
const MAC: &str = "52:54:00:12:34:56";

fn spec(version: &Version) -> Spec {
    Spec {
        nics: vec![Nic::Tap {
            tap: "vm1".into(),
            bridge: BRIDGE.into(),
            mac: MAC.into(),
        }],
        ip: Some(Hypervisors::guest_ip()),
        ..Spec::new(version)
    }
}

#[test]
fn a_guests_connections_outlive_a_cut_and_a_second_machine_with_its_address_is_seen() {
    if !gate::networks("guests on hosts of their own") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hosts = Hypervisors::build().unwrap();
    let watch = Watch::start(&hosts.switch, &["host-a", "host-b"], MAC, dir.path()).unwrap();
    let spec = spec(&Version::newest().unwrap());
    let machine = Machine::start(&hosts.a.host, &spec).unwrap();
    machine.wait_up().unwrap();
    let clients = Clients::start(&hosts.client, Hypervisors::guest_kv(), Plan::default()).unwrap();
    clients.wait_acknowledged(20, SLOW).unwrap();

    // A cut in both directions, in each alone, and a frozen QEMU: nothing is answered, nothing breaks, all goes on after.
    type Fault<'a> = (
        &'a str,
        &'a dyn Fn() -> anyhow::Result<()>,
        &'a dyn Fn() -> anyhow::Result<()>,
    );
    let uplink = &hosts.a.uplink;
    let faults: [Fault; 4] = [
        ("cut", &|| uplink.cut(), &|| uplink.mend()),
        ("deaf", &|| uplink.lose_toward(&hosts.a.host, 100), &|| {
            uplink.mend()
        }),
        ("mute", &|| uplink.lose_toward(&hosts.switch, 100), &|| {
            uplink.mend()
        }),
        ("frozen", &|| hosts.a.signal_all(Signal::STOP), &|| {
            hosts.a.signal_all(Signal::CONT)
        }),
    ];
    for (what, begin, end) in faults {
        begin().unwrap();
        // What was on its way is over when two looks, half a second apart, see the same.
        let mut before = usize::MAX;
        let mut since = std::time::Instant::now();
        wait::for_condition(SLOW, "silence", || {
            let now = clients.history().operations.len();
            if now != before {
                (before, since) = (now, std::time::Instant::now());
            }
            since.elapsed() > Duration::from_millis(500)
        })
        .unwrap();
        end().unwrap();
        clients
            .wait_acknowledged(5, SLOW)
            .unwrap_or_else(|e| panic!("after {what}: {e:#}"));
    }
    let history = clients.stop();
    assert_eq!(history.broken, [""; 0]);
    assert!(
        history.longest_gap().0 >= Duration::from_millis(500),
        "{:?}",
        history.longest_gap()
    );
    check::linearizable(&history).unwrap();
    watch.moved(&["host-a"]).unwrap();

    // The same machine again, elsewhere, while the first one runs.
    assert_eq!(hosts.a.named("qemu-system").unwrap(), [machine.pid()]);
    let second = Machine::start(&hosts.b.host, &spec).unwrap();
    second.wait_up().unwrap();
    wait::for_condition(SLOW, "frames of the second machine", || {
        watch.counts().unwrap()["host-b"] > 0
    })
    .unwrap();
    watch.moved(&["host-a"]).unwrap_err();
}

#[test]
fn a_host_that_is_powered_off_is_silent_and_its_cables_are_its_own() {
    if !gate::networks("hypervisor hosts without power") {
        return;
    }
    let hosts = Hypervisors::build().unwrap();
    let (a, b) = (&hosts.a, &hosts.b);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], PORT));
    let _listeners = [&a.host, &b.host, &hosts.hub].map(|host| host.listen(everywhere).unwrap());
    // An expected success may wait long, an expected failure need not.
    let reach = |from: &Host, to: &str, within: Duration| {
        from.connects(SocketAddr::new(to.parse().unwrap(), PORT), within)
            .unwrap()
    };
    let yes = |from: &Host, to: &str| reach(from, to, wait::SOON);
    let no = |from: &Host, to: &str| !reach(from, to, Duration::from_secs(1));
    assert!(yes(&a.host, "10.78.0.2") && yes(&a.host, "10.79.0.10") && yes(&b.host, "10.79.0.10"));
    hosts.replication.cut().unwrap();
    assert!(no(&a.host, "10.78.0.2") && yes(&a.host, "10.79.0.10") && yes(&b.host, "10.79.0.10"));
    hosts.mend().unwrap();
    assert!(yes(&b.host, "10.78.0.1"));
    let mut sleeper = std::process::Command::new("ip");
    sleeper.args(["netns", "exec", a.host.namespace().unwrap(), "sleep", "600"]);
    let mut sleeper = sleeper.spawn().unwrap();
    wait::for_condition(wait::SOON, "a process on the host", || {
        !a.named("sleep").unwrap().is_empty()
    })
    .unwrap();
    hosts.power_off(a).unwrap();
    assert!(!sleeper.wait().unwrap().success());
    assert!(no(&b.host, "10.78.0.1") && no(&hosts.hub, "10.79.0.1") && yes(&b.host, "10.79.0.10"));
}
