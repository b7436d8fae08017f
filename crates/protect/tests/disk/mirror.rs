//! A real guest's disk under load, mirrored by each version of QEMU to the NBD server: what was forwarded gives the source at every stop.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    os::unix::{fs::FileExt, net::UnixStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use hawser_protect::disk::{
    Broken, Buffer, Forward, Options, PIECE, Sink,
    nbd::{Export, Server},
};
use hawser_testkit::{
    gate,
    vm::{Aio, Drive, Machine, Spec, Version, here},
    wait::{self, SOON},
};
use serde_json::{Value, json};

const MIB: u64 = 64;
const SIZE: u64 = MIB << 20;
/// A part of the disk that the guest's program never comes to.
const FREE: u64 = 8 << 20;
const STOPS: u64 = 25;

/// A monitor's connection. Events are passed over.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(socket: &Path) -> Self {
        let mut own = Self(BufReader::new(UnixStream::connect(socket).unwrap()));
        own.0.get_ref().set_read_timeout(Some(SOON)).unwrap();
        own.0.read_line(&mut String::new()).unwrap();
        own.execute("qmp_capabilities", json!({}));
        own
    }

    #[track_caller]
    fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            match answer.get("return") {
                Some(value) => return value.clone(),
                None => assert!(answer.get("event").is_some(), "{command}: {answer}"),
            }
        }
    }

    /// Transfers as if the guest had asked for them.
    fn transfer(&mut self, what: &str) {
        let line = format!("qemu-io -d /machine/peripheral/vd0/virtio-backend \"{what}\"");
        let said = self
            .execute("human-monitor-command", json!({"command-line": line}))
            .to_string();
        assert!(
            !said.contains("rror") && !said.contains("failed"),
            "{what}: {said}"
        );
    }

    fn job(&mut self) -> Option<Value> {
        self.execute("query-block-jobs", json!({}))
            .as_array()
            .and_then(|jobs| jobs.first().cloned())
    }
}

/// The guest's program.
struct Guest(BufReader<TcpStream>);

impl Guest {
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.0.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer
    }

    fn number(&mut self, name: &str) -> u64 {
        let status = self.ask("STATUS");
        let found = status
            .split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        found
            .unwrap_or_else(|| panic!("{name} is not in {status}"))
            .parse()
            .unwrap()
    }

    /// Waits until the guest has done this many more transfers.
    fn work(&mut self, transfers: u64) {
        let goal = self.number("transfers") + transfers;
        wait::for_condition(SOON * 6, "the guest's disk load", || {
            self.number("transfers") >= goal
        })
        .unwrap();
    }
}

enum Forwarded {
    Data(u64, Vec<u8>),
    Zeroes(u64, u64),
    Discard(u64, u64),
}

/// Keeps what is forwarded, in order, until the test takes it.
#[derive(Default)]
struct Tape {
    writes: Mutex<Vec<Forwarded>>,
    broken: AtomicBool,
}

impl Tape {
    fn record(&self, disk: u16, write: Forwarded) -> Result<(), Broken> {
        assert_eq!(disk, 3);
        if self.broken.load(Ordering::SeqCst) {
            return Err(Broken("the link is down".into()));
        }
        self.writes.lock().unwrap().push(write);
        Ok(())
    }

    /// What was taken so far goes to the standby's buffer. Says how many data writes, zeroes and discards that were.
    fn replay(&self, buffer: &Buffer) -> [usize; 3] {
        let mut counts = [0; 3];
        for write in std::mem::take(&mut *self.writes.lock().unwrap()) {
            match write {
                Forwarded::Data(offset, data) => {
                    counts[0] += 1;
                    buffer.write(offset, &data)
                }
                Forwarded::Zeroes(offset, len) => {
                    counts[1] += 1;
                    buffer.zeroes(offset, len)
                }
                Forwarded::Discard(offset, len) => {
                    counts[2] += 1;
                    buffer.discard(offset, len)
                }
            }
            .unwrap();
        }
        counts
    }
}

impl Sink for Tape {
    fn write(&self, disk: u16, offset: u64, data: &[u8]) -> Result<(), Broken> {
        assert!(data.len() <= PIECE);
        self.record(disk, Forwarded::Data(offset, data.to_vec()))
    }
    fn zeroes(&self, disk: u16, offset: u64, len: u64) -> Result<(), Broken> {
        self.record(disk, Forwarded::Zeroes(offset, len))
    }
    fn discard(&self, disk: u16, offset: u64, len: u64) -> Result<(), Broken> {
        self.record(disk, Forwarded::Discard(offset, len))
    }
}

#[test]
fn the_forwarded_writes_are_the_source_at_every_stop() {
    if !gate::programs(
        "the_forwarded_writes_are_the_source_at_every_stop",
        &["qemu-system-x86_64"],
    ) {
        return;
    }
    for (version, aio) in Version::all().unwrap().iter().zip([Aio::Native, Aio::IoUring]) {
        mirror(version, aio);
    }
}

fn mirror(version: &Version, aio: Aio) {
    let dir = tempfile::tempdir().unwrap();
    let (source, replica, socket) = (
        dir.path().join("vm.raw"),
        dir.path().join("replica.raw"),
        dir.path().join("nbd"),
    );
    let drive = Drive::create(&source, MIB, aio).unwrap();
    let before: Vec<u8> = (0..4 << 20)
        .map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 20) as u8)
        .collect();
    fs::File::options()
        .write(true)
        .open(&source)
        .unwrap()
        .write_all_at(&before, FREE)
        .unwrap();
    // Of an earlier time: the synchronisation has to overwrite all of it.
    fs::write(&replica, vec![0xaa; SIZE as usize]).unwrap();

    let machine = Machine::start(&here(), &Spec::new(version).with_user_network().with_drive(drive)).unwrap();
    machine.wait_up().unwrap();
    let mut guest = Guest(BufReader::new(TcpStream::connect(machine.kv()).unwrap()));
    guest.ask("DISK 400");
    guest.work(200);

    let tape = Arc::new(Tape::default());
    let backend = Arc::new(Forward::new(tape.clone(), 3));
    let server = Server::start(
        &socket,
        vec![Export {
            name: "disk0".into(),
            size: SIZE,
            backend,
        }],
    )
    .unwrap();
    let buffer = Buffer::open(&replica, SIZE, Options::new(dir.path())).unwrap();
    let mut monitor = Monitor::connect(&machine.qmp());
    monitor.execute(
        "blockdev-add",
        json!({"driver": "nbd", "node-name": "replica", "export": "disk0", "discard": "unmap",
               "server": {"type": "unix", "path": socket}}),
    );
    monitor.execute(
        "blockdev-mirror",
        json!({"job-id": "mirror", "device": "disk0", "target": "replica", "sync": "full",
               "copy-mode": "write-blocking", "on-target-error": "report"}),
    );
    let begun = Instant::now();
    wait::for_condition(SOON * 6, "the mirror to be ready", || {
        tape.replay(&buffer);
        monitor.job().is_some_and(|job| job["ready"] == true)
    })
    .unwrap();
    assert!(server.in_use("disk0"));
    let synchronised = begun.elapsed();

    let (mut stops, mut counts) = (Vec::new(), [0; 3]);
    for n in 0..STOPS {
        guest.work(40);
        let at = FREE + n * 150_000;
        monitor.transfer(&format!("discard {} 64k", at.next_multiple_of(4096)));
        monitor.transfer(&format!("write -z {} 20k", (at + 80_000).next_multiple_of(512)));
        monitor.transfer(&format!(
            "write -z -u {} 20k",
            (at + 110_000).next_multiple_of(512)
        ));
        let begun = Instant::now();
        monitor.execute("stop", json!({}));
        stops.push(begun.elapsed());
        tape.replay(&buffer)
            .iter()
            .zip(&mut counts)
            .for_each(|(now, all)| *all += now);
        buffer.barrier(n + 1).unwrap();
        buffer.commit(n + 1).unwrap();
        buffer.settle(SOON).unwrap();
        same(&source, &replica, &format!("{version}, stop {n}"));
        monitor.execute("cont", json!({}));
    }
    stops.sort();
    eprintln!(
        "{version}: synchronised in {synchronised:?}, stop p50 {:?} max {:?}; forwarded {counts:?} writes, zeroes, discards",
        stops[stops.len() / 2],
        stops[stops.len() - 1]
    );
    // QEMU's mirror passes no discards of the guest on to either side.
    assert!(
        counts[0] > STOPS as usize * 10 && counts[1] >= STOPS as usize,
        "{counts:?}"
    );

    // The link dies: the mirror ends, the guest goes on.
    tape.broken.store(true, Ordering::SeqCst);
    guest.work(40);
    wait::for_condition(SOON, "the mirror's end", || monitor.job().is_none()).unwrap();
    guest.work(40);
    monitor.execute("blockdev-del", json!({"node-name": "replica"}));
    wait::for_condition(SOON, "the mirror's connection to end", || !server.in_use("disk0")).unwrap();
    assert_eq!(guest.number("errors"), 0);
    assert_eq!(buffer.take_over(SOON).unwrap().epoch, STOPS);
}

#[track_caller]
fn same(a: &Path, b: &Path, when: &str) {
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    if a != b {
        let first = a.iter().zip(&b).position(|(a, b)| a != b);
        let count = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        panic!(
            "{when}: {count} bytes differ, the first at {first:?}; lengths {} and {}",
            a.len(),
            b.len()
        );
    }
}
