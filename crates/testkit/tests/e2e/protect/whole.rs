//! Protection begins and ends on a busy machine, and leaves no trace; while the standby does not acknowledge, nothing leaves.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context, Result, bail};
use hawser_testkit::{
    gate,
    hosts::{Part, Side, Spec},
    net::Hypervisors,
};
use serde_json::json;

use super::*;

/// A QMP connection of the test's own.
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// Waits until the agent, if one has it, gives the socket back.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(wait::SOON))?;
        let mut own = Self(BufReader::new(stream));
        own.line().context("no greeting: is the socket in use?")?;
        own.ask("qmp_capabilities", Value::Null)?;
        Ok(own)
    }

    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        writeln!(self.0.get_mut(), "{request}")?;
        loop {
            let mut answer = self.line()?;
            if !answer["error"].is_null() {
                bail!("{command}: {answer}");
            }
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Everything in this QEMU that could have been added to it, by name.
    fn inventory(&mut self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for (command, arguments, key) in [
            ("query-block-jobs", Value::Null, "device"),
            ("query-named-block-nodes", Value::Null, "node-name"),
            ("query-chardev", Value::Null, "label"),
            ("query-fdsets", Value::Null, "fdset-id"),
            ("qom-list", json!({ "path": "/objects" }), "name"),
        ] {
            let list = self.ask(command, arguments)?;
            let items = list.as_array().context("no list")?.iter();
            all.extend(items.map(|i| format!("{command}: {}", i[key])));
        }
        // QEMU numbers the sockets of monitors and nodes without a name anew.
        all.retain(|line| !line.contains("compat_monitor") && !line.contains("#block"));
        all.sort();
        Ok(all)
    }
}

/// Interfaces of a host.
fn interfaces(hosts: &Hosts, side: Side) -> Vec<String> {
    let said = hosts
        .node(side)
        .host
        .run("ip", &["-json", "link", "show"])
        .unwrap();
    let links: Value = serde_json::from_str(&said).unwrap();
    let name = |l: &Value| l["ifname"].as_str().unwrap().to_owned();
    links.as_array().unwrap().iter().map(name).collect()
}

/// Files below a directory.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        found.extend(files(&path));
    }
    found
}

#[test]
fn protection_begins_and_ends_on_a_busy_machine_without_a_trace() {
    if !gate::networks("protected machines") {
        return;
    }
    for version in versions() {
        eprintln!("{version}");
        let spec = Spec {
            // The standby will be silent for a while, and that is to be no death.
            detect: Duration::from_secs(50),
            ..Spec::new(&version)
        };
        let scene = Scene::busy(spec);
        let hosts = &scene.hosts;
        let inventory = || {
            Monitor::connect(&hosts.machine.qmp())
                .unwrap()
                .inventory()
                .unwrap()
        };
        let descriptors = || {
            std::fs::read_dir(format!("/proc/{}/fd", hosts.machine.pid()))
                .unwrap()
                .count()
        };
        let before = (
            inventory(),
            interfaces(hosts, Side::A),
            interfaces(hosts, Side::B),
        );
        let open = descriptors();
        for round in 0..2 {
            eprintln!("{}", hosts.protect().unwrap());
            scene.clients.wait_acknowledged(100, SLOW).unwrap();
            report(hosts, Side::A);
            if round == 0 {
                nothing_leaves_unacknowledged(&scene);
            }
            hosts.a.command(&["protect", "stop", "vm1"]).unwrap();
            assert_eq!(award(hosts), alone(Side::A));
            hosts.wait_role(Side::B, "gone", SLOW).unwrap();
            wait_no_qemu(hosts, Side::B);
            scene.clients.wait_acknowledged(50, SLOW).unwrap();
            let after = (
                inventory(),
                interfaces(hosts, Side::A),
                interfaces(hosts, Side::B),
            );
            assert_eq!(after, before);
            for node in [&hosts.a, &hosts.b] {
                for directory in [&node.run, &node.images] {
                    wait::for_condition(SLOW, "the end of all files", || files(directory).is_empty())
                        .unwrap_or_else(|e| panic!("{e}: {:?}", files(directory)));
                }
            }
        }
        wait::for_condition(SLOW, "QEMU's descriptors to be those of before", || {
            descriptors() <= open
        })
        .unwrap_or_else(|e| panic!("{e}: {} for {open}", descriptors()));
        scene.goes_on_at(Side::A);
    }
}

/// The standby's agent holds its acknowledgements back: not one frame comes from the guest, neither on its connections nor for
/// ARP. When it goes on, all of them come.
fn nothing_leaves_unacknowledged(scene: &Scene) {
    let hosts = &scene.hosts;
    hosts.freeze(Side::B, Part::Agent).unwrap();
    let mute = scene.wait_silent();
    hosts
        .net
        .client
        .run("ip", &["neigh", "flush", "dev", "eth0"])
        .unwrap();
    // The client asks for the guest's address first, then for a connection.
    let connects = |within| {
        hosts
            .net
            .client
            .connects(Hypervisors::guest_kv(), within)
            .unwrap()
    };
    assert!(!connects(Duration::from_secs(2)));
    assert_eq!(scene.frames(), mute);
    let held = hosts.status(Side::A).unwrap()["held"]["frames"].as_u64().unwrap();
    assert!(held > 0, "held: {held}");
    hosts.thaw(Side::B, Part::Agent).unwrap();
    scene.clients.wait_acknowledged(20, SLOW).unwrap();
    assert!(connects(SLOW));
    assert!(scene.frames()[Side::A.name()] > mute[Side::A.name()]);
}
