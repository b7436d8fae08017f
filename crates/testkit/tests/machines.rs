//! The guests that other tests stand on: they boot on every version of QEMU, and keep what they acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use hawser_testkit::{
    kv::{Clients, Kv, Log, Plan, check},
    vm::{Aio, Drive, Machine, Ram, Spec, Version, here},
    wait,
};

const SLOW: Duration = Duration::from_secs(120);

#[test]
fn what_a_guest_acknowledged_is_in_its_memory_and_on_its_disk_when_its_qemu_is_killed() {
    for version in Version::all().unwrap() {
        for (aio, ram) in [(Aio::Native, Ram::Shared), (Aio::IoUring, Ram::Anonymous)] {
            eprintln!("{version}, {aio:?}, {ram:?}");
            killed_under_load(&version, aio, ram);
        }
    }
}

fn killed_under_load(version: &Version, aio: Aio, ram: Ram) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("vm1.raw");
    let disk = Drive::create(&image, 64, aio).unwrap();
    let spec = Spec {
        ram,
        ..Spec::new(version).with_user_network().with_drive(disk)
    };
    let mut machine = Machine::start(&here(), &spec).unwrap();
    machine.wait_up().unwrap();

    let mut kv = Kv::connect(&here(), machine.kv()).unwrap();
    kv.load_memory(200, 64).unwrap();
    kv.load_disk(20).unwrap();
    let clients = Clients::start(&here(), machine.kv(), Plan::default()).unwrap();
    clients.wait_acknowledged(50, SLOW).unwrap();
    let before = clients.history();
    let dump = kv.dump().unwrap();
    let status = kv.status().unwrap();
    kv.check().unwrap();
    machine.kill().unwrap();
    let history = clients.stop();

    check::linearizable(&history).unwrap();
    check::in_memory(&before, &dump).unwrap();
    let log = Log::read(&image).unwrap();
    check::in_log(&history, &log).unwrap();
    assert!(status["pages"] > 0 && status["transfers"] > 0, "{status:?}");

    // The same disk goes on where it was; one record is enough to show that the judge can find one missing.
    let mut short = log.clone();
    short
        .records
        .truncate(history.acknowledged().map(|(n, ..)| n).max().unwrap() as usize - 1);
    check::in_log(&history, &short).unwrap_err();
}

#[test]
fn a_guest_goes_on_behind_its_log_and_shuts_down_when_asked() {
    let version = Version::oldest().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("vm1.raw");
    let disk = Drive::create(&image, 16, Aio::Threads).unwrap();
    let spec = Spec::new(&version).with_user_network().with_drive(disk);
    for sum in 1..=2 {
        let mut machine = Machine::start(&here(), &spec).unwrap();
        machine.wait_up().unwrap();
        let mut kv = Kv::connect(&here(), machine.kv()).unwrap();
        assert_eq!(kv.add("starts", 1).unwrap(), sum);
        kv.idle().unwrap();
        kv.shut_down().unwrap();
        assert!(machine.wait_end(SLOW).unwrap().success(), "{}", machine.log());
    }
    assert_eq!(Log::read(&image).unwrap().records.len(), 2);
}

#[test]
fn nothing_is_left_of_a_machine_whose_test_panicked() {
    let version = Version::newest().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let machine = Machine::start(&here(), &Spec::new(&version)).unwrap();
        tell.send((machine.pid(), machine.dir().to_owned())).unwrap();
        panic!("as a failing test does");
    });
    let (pid, dir) = told.recv().unwrap();
    test.join().unwrap_err();
    wait::for_condition(wait::SOON, "the end of QEMU", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    })
    .unwrap();
    assert!(!dir.exists());
}
