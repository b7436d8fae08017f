//! `hawser vm run` with a real QEMU. No guest is needed: the firmware alone is a machine that runs.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use hawser_protect::guest::{Qmp, Timeouts};
use rustix::process::{Pid, Signal, kill_process};
use support::{Machine, PATIENCE};

/// Whether there is a QEMU to run. Under `CI=true` there must be.
fn is_there() -> bool {
    let there = std::process::Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .is_ok();
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "qemu-system-x86_64 is missing: run scripts/deps test"
        );
        eprintln!("skipped: qemu-system-x86_64 is missing");
    }
    there
}

fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn pid(file: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// Whatever happens, it ends with the test.
struct Ends(Pid);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

struct Runs(Child);

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Runs {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

fn described(m: &Machine) {
    let dir = m.path("vm").display().to_string();
    let text = format!(
        "name = \"t\"\nmemory = \"16M\"\naccel = \"tcg\"\ndirectory = \"{dir}\"\nserial = \"none\"\n"
    );
    m.write("vm.toml", &text);
}

#[test]
fn the_command_line_is_printed_for_a_shell() {
    let m = Machine::new();
    m.write("a b.raw", "");
    described(&m);
    let text = fs::read_to_string(m.path("vm.toml")).unwrap();
    m.write("vm.toml", &format!("{text}[[disk]]\nfile = \"a b.raw\"\n"));
    let out = m.run(&["vm", "run", "vm.toml", "--print"]).ok();
    assert!(out.starts_with("qemu-system-x86_64 -name t -uuid "), "{out}");
    assert!(
        out.contains("-machine pc-q35-7.2,memory-backend=ram0 -accel tcg"),
        "{out}"
    );
    assert!(
        out.contains("memory-backend-memfd,id=ram0,size=16M,share=on"),
        "{out}"
    );
    assert!(out.contains("-blockdev '{"), "{out}");
    assert!(!m.path("vm").exists());

    m.write("bad.toml", "name = \"t\"\nmemory = \"1G\"\nmachine = \"q35\"\n");
    let bad = m.run(&["vm", "run", "bad.toml"]);
    assert_eq!(bad.code, 3, "{bad:?}");
    assert!(bad.err.contains("q35 has no version"), "{bad:?}");
}

#[test]
fn a_signal_presses_the_power_button_and_a_second_one_kills() {
    if !is_there() {
        return;
    }
    let m = Machine::new();
    described(&m);
    let mut own = Runs(m.command(&["vm", "run", "vm.toml"]).spawn().unwrap());
    let socket = m.path("vm/qmp.sock");
    let mut qmp = until("QMP", || Qmp::connect(&socket, Timeouts::default()).ok());
    let qemu = Ends(until("the pid file", || pid(&m.path("vm/qemu.pid"))));
    own.signal(Signal::TERM);
    qmp.wait_event("the power button", PATIENCE, |e| e.name == "POWERDOWN")
        .unwrap();
    assert!(own.0.try_wait().unwrap().is_none());
    own.signal(Signal::TERM);
    let status = until("its end", || own.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    assert!(rustix::process::test_kill_process(qemu.0).is_err());
}

#[test]
fn a_daemon_runs_on() {
    if !is_there() {
        return;
    }
    let m = Machine::new();
    described(&m);
    // QEMU would keep pipes open, so nothing waits for their end.
    let mut command = m.command(&["vm", "run", "vm.toml", "--daemonize"]);
    command
        .stdout(fs::File::create(m.path("out")).unwrap())
        .stderr(fs::File::create(m.path("err")).unwrap());
    let status = Runs(command.spawn().unwrap()).0.wait().unwrap();
    let _qemu = Ends(pid(&m.path("vm/qemu.pid")).unwrap());
    assert!(status.success(), "{}", fs::read_to_string(m.path("err")).unwrap());
    assert!(
        fs::read_to_string(m.path("out"))
            .unwrap()
            .contains("t runs; QMP at")
    );
    let mut qmp = Qmp::connect(&m.path("vm/qmp.sock"), Timeouts::default()).unwrap();
    assert_eq!(
        qmp.execute("query-status", serde_json::json!({})).unwrap()["status"],
        "running"
    );
    qmp.execute("quit", serde_json::json!({})).unwrap();

    let second = m.run(&["vm", "run", "bad.toml"]);
    assert_eq!(second.code, 1);
}
