//! The guests that other tests stand on: they boot on every version of QEMU, and keep what they acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use hawser_testkit::vm::{Aio, Drive, Machine, Spec, Version, here};

#[test]
fn boots_on_every_version() {
    for version in Version::all().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Drive::create(&dir.path().join("vm1.raw"), 64, Aio::Native).unwrap();
        let spec = Spec::new(&version).with_user_network().with_drive(disk);
        let machine = Machine::start(&here(), &spec).unwrap();
        let begin = std::time::Instant::now();
        machine.wait_up().unwrap();
        eprintln!("{version} up after {:?}", begin.elapsed());
        let mut s = TcpStream::connect(machine.kv()).unwrap();
        let mut r = BufReader::new(s.try_clone().unwrap()).lines();
        for line in [
            "SET a 1",
            "ADD a 4",
            "GET a",
            "DISK 100",
            "DIRTY 100 64",
            "STATUS",
            "CHECK",
            "DUMP",
        ] {
            let at = std::time::Instant::now();
            writeln!(s, "{line}").unwrap();
            eprintln!("{line}: {} {:?}", r.next().unwrap().unwrap(), at.elapsed());
        }
    }
}
