//! What the README tells a newcomer to type works as it stands.

use std::{fs, time::Duration};

use hawser_testkit::{
    Process, gate, hawser,
    net::{Plan, Sites},
    origin::python::workspace,
    proc::tail,
};

#[test]
fn the_readme_can_be_typed() {
    type_in(
        "join acme",
        "token hub acme",
        "",
        &["two entries", "three orders", "ledger.beta"],
    );
}

#[test]
fn the_readmes_machine_survives() {
    if !gate::root("the README's machine") {
        return;
    }
    // What the example keeps under /run is in a file system of its own, which ends with the shell's mount namespace.
    let before = "mount -t tmpfs none /run\n";
    type_in(
        "the machine",
        "vm run",
        before,
        &[
            "vm1 is protected: host-2 stands by",
            "taken over",
            "alone (host-2)",
        ],
    );
}

#[test]
fn the_readmes_event_arrives() {
    type_in("the event", "device enrol", "", &["There is soup", "alice"]);
}

/// Runs the README's example that contains `contains`, after `before`, and looks for what it is to print.
fn type_in(what: &str, contains: &str, before: &str, wanted: &[&str]) {
    // In a namespace, since its ports are fixed; its processes end with the namespace.
    if !gate::networks("the README's example") {
        return;
    }
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let script = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|b| b.split("```").next())
        .find(|b| b.contains(contains));
    let script = script.unwrap_or_else(|| panic!("the README has no example in ```sh for {what}"));
    // A person looks whether it is there; a busy machine takes longer.
    let script = format!("{before}{script}").replace("sleep 1", "sleep 6");
    let sites = Sites::build(&Plan {
        domains: &["acme"],
        gateways: 1,
        proxy_only: false,
    })
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let programs = hawser::binary().unwrap().parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut shell = Process::start_with(
        &sites.hub,
        "bash",
        &["-euo", "pipefail", "-c", &script],
        &log,
        |c| {
            c.current_dir(dir.path()).env("PATH", path);
        },
    )
    .unwrap();
    let end = shell.wait_end(Duration::from_secs(300));
    let said = shell.log();
    assert!(
        end.unwrap_or_else(|e| panic!("{e}\n{}", tail(&said))).success(),
        "{}",
        tail(&said)
    );
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted} is not in\n{}", tail(&said));
    }
}
