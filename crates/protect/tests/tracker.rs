//! The test that matters most: over hundreds of checkpoints of busy guests, a copy of memory built from nothing but the pages that
//! the tracker named equals all of every guest's RAM.
//!
//! `HAWSER_EPOCHS` is the number of checkpoints for each of the four machines, 60 unless told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Lines, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hawser_protect::{
    guest::{Guest, Qemu, Timeouts},
    memory::{Layout, PAGE, PageRun},
    sys::{Memory, is_zero},
    tracker::{Hashed, Tracker, TrackerError, Written, choose},
};
use hawser_testkit::{
    gate,
    vm::{Aio, Drive, Machine, Ram, Spec, Version, here},
    wait::{self, SOON},
};

/// A guest with work for its processor, its disk and its network card, in both directions, until dropped.
struct Busy {
    machine: Machine,
    guest: Client,
    end: Arc<AtomicBool>,
    helpers: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

struct Client(TcpStream, Lines<BufReader<TcpStream>>);

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        Self(stream.try_clone().unwrap(), BufReader::new(stream).lines())
    }

    fn ask(&mut self, request: &str) -> String {
        writeln!(self.0, "{request}").unwrap();
        self.1.next().unwrap().unwrap()
    }
}

impl Busy {
    fn start(version: &Version, ram: Ram, aio: Aio) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Drive::create(&dir.path().join("vm1.raw"), 64, aio).unwrap();
        let mut spec = Spec::new(version).with_user_network().with_drive(disk);
        (spec.ram, spec.memory) = (ram, 128);
        // One more RAM block that the guest writes; and system calls filtered as libvirt has it.
        let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        spec.extra = ["-device", "VGA", "-sandbox", sandbox].map(String::from).into();
        let machine = Machine::start(&here(), &spec).unwrap();
        machine.wait_up().unwrap();
        let mut guest = Client::connect(machine.kv());
        let end = Arc::new(AtomicBool::new(false));
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = format!("10.0.2.2:{}", echo.local_addr().unwrap().port());
        let writer = Client::connect(machine.kv());
        let helpers = vec![until(&end, send_back(echo)), until(&end, keep_setting(writer))];
        for load in ["DIRTY 1500 1000", "DISK 300", &format!("FLOOD 300 {to} 1200")] {
            assert_eq!(guest.ask(load), "OK");
        }
        Self {
            machine,
            guest,
            end,
            helpers,
            _dir: dir,
        }
    }

    /// Attaches to it as the agent does.
    fn attach(&self) -> (Qemu, Layout) {
        let long = Duration::from_secs(30);
        let timeouts = Timeouts {
            connect: long,
            command: long,
            checkpoint: long,
        };
        let mut qemu = Qemu::attach(&self.machine.qmp(), timeouts).unwrap();
        let layout = qemu.layout().unwrap();
        (qemu, layout)
    }

    /// Whether QEMU's memory is as if nobody had ever watched it.
    fn is_untouched(&self) -> bool {
        let proc = format!("/proc/{}", self.machine.pid());
        let maps = std::fs::read_to_string(format!("{proc}/smaps")).unwrap();
        let mut flags = maps.lines().filter_map(|l| l.strip_prefix("VmFlags:"));
        let watched = flags.any(|f| f.split_whitespace().any(|flag| flag == "uw"));
        let mut open = std::fs::read_dir(format!("{proc}/fd")).unwrap();
        let ours = open.any(|fd| {
            std::fs::read_link(fd.unwrap().path())
                .is_ok_and(|to| to.to_string_lossy().contains("userfaultfd"))
        });
        !watched && !ours
    }

    /// Waits until it is so. A process that is just being started has our descriptors, too, until it is another program.
    fn wait_untouched(&self) {
        wait::for_condition(SOON, "the end of the watch", || self.is_untouched()).unwrap();
    }

    /// The guest itself finds that its memory and disk are right.
    fn check(&mut self) {
        assert!(self.guest.ask("CHECK").starts_with("OK"));
        let status = self.guest.ask("STATUS");
        assert!(status.contains(" errors=0 "), "{status}");
        eprintln!("  {status}");
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        let _ = self.machine.kill();
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

/// Repeats something on a thread of its own until it fails, or the end.
fn until(end: &Arc<AtomicBool>, mut work: impl FnMut() -> bool + Send + 'static) -> JoinHandle<()> {
    let end = end.clone();
    thread::spawn(move || while !end.load(Ordering::SeqCst) && work() {})
}

/// Sends back to the guest what it floods us with.
fn send_back(echo: UdpSocket) -> impl FnMut() -> bool {
    echo.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut packet = [0; 2000];
    move || {
        if let Ok((length, from)) = echo.recv_from(&mut packet) {
            let _ = echo.send_to(&packet[..length], from);
        }
        true
    }
}

/// Writes that the guest logs on its disk.
fn keep_setting(mut guest: Client) -> impl FnMut() -> bool {
    let (mut number, value) = (0, "v".repeat(100));
    move || {
        number += 1;
        let sent = writeln!(guest.0, "SET key{} {value}", number % 50);
        sent.is_ok()
            && guest
                .1
                .next()
                .is_some_and(|answer| answer.is_ok_and(|a| a.starts_with("OK")))
    }
}

/// A copy of a guest's memory, from the pages that a tracker named.
struct Replica {
    memory: Memory,
    blocks: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

const BATCH: u32 = 256;

impl Replica {
    /// Of the pages that exist; the guest is stopped.
    fn new(memory: Memory) -> Self {
        let blocks = memory
            .layout()
            .blocks()
            .iter()
            .map(|b| vec![0; b.size as usize])
            .collect();
        let mut own = Self {
            memory,
            blocks,
            buffer: vec![0; BATCH as usize * PAGE],
        };
        let there = own.memory.populated().unwrap();
        own.copy(&there);
        own
    }

    fn copy(&mut self, runs: &[PageRun]) {
        for run in runs {
            let start = run.offset() as usize;
            let into = &mut self.blocks[usize::from(run.block)][start..][..run.bytes()];
            self.memory.read(*run, into).unwrap();
        }
    }

    /// The pages in which it differs from the guest, which is stopped.
    fn differs(&mut self) -> Vec<PageRun> {
        let mut wrong = Vec::new();
        let mut seen: Vec<u32> = vec![0; self.blocks.len()];
        let there = self.memory.populated().unwrap();
        let ends = self.memory.layout().everything();
        let ends = ends.iter().map(|all| PageRun {
            first: all.count,
            count: 0,
            ..*all
        });
        let mut all: Vec<_> = there.iter().copied().chain(ends).collect();
        all.sort_unstable();
        for run in all {
            let block = usize::from(run.block);
            let hole = &self.blocks[block][seen[block] as usize * PAGE..run.offset() as usize];
            if !is_zero(hole) {
                wrong.push(PageRun {
                    first: seen[block],
                    count: run.first - seen[block],
                    ..run
                });
            }
            seen[block] = run.first + run.count;
            for at in (0..run.count).step_by(BATCH as usize) {
                let part = PageRun {
                    first: run.first + at,
                    count: BATCH.min(run.count - at),
                    ..run
                };
                let now = &mut self.buffer[..part.bytes()];
                self.memory.read(part, now).unwrap();
                let ours = &self.blocks[block][part.offset() as usize..][..part.bytes()];
                if now != ours {
                    let pages = now.chunks(PAGE).zip(ours.chunks(PAGE)).enumerate();
                    let differ = pages.filter(|(_, (a, b))| a != b);
                    wrong.extend(differ.map(|(i, _)| PageRun {
                        first: part.first + i as u32,
                        count: 1,
                        ..part
                    }));
                }
            }
        }
        wrong
    }
}

fn pages(runs: &[PageRun]) -> impl Iterator<Item = (u16, u32)> {
    runs.iter()
        .flat_map(|r| (r.first..r.first + r.count).map(|page| (r.block, page)))
}

/// Times of one kind of step.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn of<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = step();
        self.0.push(start.elapsed());
        done
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        write!(
            f,
            "{:?} (worst {:?})",
            sorted[sorted.len() / 2],
            sorted[sorted.len() - 1]
        )
    }
}

fn conforms(version: &Version, ram: Ram, aio: Aio) {
    let epochs = std::env::var("HAWSER_EPOCHS").map_or(60, |n| n.parse().unwrap());
    let begin = Instant::now();
    let mut busy = Busy::start(version, ram, aio);
    let booted = begin.elapsed();
    let (mut qemu, layout) = busy.attach();
    let names: Vec<_> = layout.blocks().iter().map(|b| b.name.as_str()).collect();
    let open = |qemu: &Qemu| Memory::open(qemu.process(), &layout).unwrap();
    let [
        mut stops,
        mut attaches,
        mut scans,
        mut copies,
        mut saves,
        mut compares,
    ] = [(); 6].map(|()| Times::default());
    let mut tracker = attaches.of(|| Written::attach(qemu.process(), &layout).unwrap());
    let mut judge = Hashed::new(open(&qemu));
    let (mut runs, mut state) = (Vec::new(), Vec::new());
    assert!(qemu.suspend().unwrap().stopped_by_us);
    tracker.take(&mut runs).unwrap();
    assert_eq!(runs, layout.everything(), "the first time everything counts");
    judge.take(&mut Vec::new()).unwrap();
    let mut replica = Replica::new(open(&qemu));
    assert_eq!(replica.differs(), []);
    qemu.resume().unwrap();
    let (mut since_judged, mut dirty) = (BTreeSet::new(), Vec::new());
    for epoch in 1..=epochs {
        // The length of an epoch, not a wait for anything.
        thread::sleep(Duration::from_millis(5 + epoch * 37 % 60));
        let peeked = tracker.peek().unwrap();
        assert!(stops.of(|| qemu.suspend()).unwrap().stopped_by_us);
        runs.clear();
        scans.of(|| tracker.take(&mut runs)).unwrap();
        assert!(
            runs.is_sorted() && runs.iter().all(|r| layout.holds(*r)),
            "{runs:?}"
        );
        // What saving the devices writes would be missed, so it must write nothing.
        saves.of(|| qemu.device_state(&mut state)).unwrap();
        copies.of(|| replica.copy(&runs));
        let wrong = compares.of(|| replica.differs());
        assert!(
            wrong.is_empty(),
            "{version}, {ram:?}, {aio:?}, epoch {epoch}: not named were {wrong:?} of {names:?}"
        );
        dirty.push(pages(&runs).count());
        assert!(
            peeked <= dirty[dirty.len() - 1] as u64,
            "pages do not become clean by themselves"
        );
        since_judged.extend(pages(&runs));
        if epoch % 10 == 0 {
            let mut changed = Vec::new();
            judge.take(&mut changed).unwrap();
            let missed: Vec<_> = pages(&changed)
                .filter(|page| !since_judged.contains(page))
                .collect();
            assert!(missed.is_empty(), "{missed:?}");
            assert!(
                pages(&changed).count() > 20,
                "a busy guest changes memory: {changed:?}"
            );
            since_judged.clear();
        }
        assert!(qemu.resume().unwrap());
    }
    assert!(!busy.is_untouched());
    drop(tracker);
    busy.wait_untouched();
    busy.check();
    dirty.sort_unstable();
    eprintln!(
        "{version}, {ram:?}, {aio:?}: {epochs} epochs right, {} pages each in the median; attached in {attaches}, stopped in \
         {stops}, scanned in {scans}, copied in {copies}, devices saved in {saves}, \
         all compared in {compares}; up after {booted:?}, done after {:?}",
        dirty[dirty.len() / 2],
        begin.elapsed()
    );
}

#[test]
fn a_replica_from_written_pages_alone_equals_all_memory() {
    if !gate::root("that tracked memory is complete") {
        return;
    }
    for version in Version::all().unwrap() {
        conforms(&version, Ram::Shared, Aio::Native);
        conforms(&version, Ram::Anonymous, Aio::IoUring);
    }
}

/// The one that costs nothing is chosen, or the other with the reason; that works too.
fn chooses(qemu: &mut Qemu, layout: &Layout) {
    let first = choose(qemu.process(), layout).unwrap();
    assert!(first.instead.is_none());
    let mut second = choose(qemu.process(), layout).unwrap();
    assert!(matches!(second.instead, Some(TrackerError::Taken { .. })));
    let take = |tracker: &mut dyn Tracker| {
        let mut runs = Vec::new();
        tracker.take(&mut runs).unwrap();
        runs
    };
    assert_eq!(second.tracker.peek().unwrap(), layout.bytes() / PAGE as u64);
    qemu.suspend().unwrap();
    assert_eq!(take(&mut *second.tracker), layout.everything());
    assert_eq!(take(&mut *second.tracker), []);
    qemu.resume().unwrap();
    // Epochs, until the guest had the processor in one.
    let seen = wait::until(SOON, "a page that the guest wrote", || {
        thread::sleep(Duration::from_millis(100));
        qemu.suspend().unwrap();
        let seen = second.tracker.peek().unwrap();
        if seen == 0 {
            qemu.resume().unwrap();
        }
        Ok((seen > 0).then_some(seen))
    })
    .unwrap();
    let runs = take(&mut *second.tracker);
    assert!(runs.is_sorted() && !runs.is_empty());
    assert_eq!(pages(&runs).count() as u64, seen);
    qemu.resume().unwrap();
}

#[test]
fn watching_begins_and_ends_many_times_and_leaves_nothing_behind() {
    if !gate::root("that tracking leaves nothing behind") {
        return;
    }
    let mut busy = Busy::start(&Version::oldest().unwrap(), Ram::Shared, Aio::Threads);
    let (mut qemu, layout) = busy.attach();
    assert!(busy.is_untouched());
    for round in 0..100 {
        let mut tracker = Written::attach(qemu.process(), &layout).unwrap();
        let second = Written::attach(qemu.process(), &layout);
        assert!(matches!(second, Err(TrackerError::Taken { .. })), "{second:?}");
        if round % 10 == 0 {
            qemu.suspend().unwrap();
            let mut runs = Vec::new();
            tracker.take(&mut runs).unwrap();
            runs.clear();
            tracker.take(&mut runs).unwrap();
            assert_eq!(runs, [], "a guest that stands still writes nothing");
            assert_eq!(tracker.peek().unwrap(), 0);
            qemu.resume().unwrap();
        }
        drop(tracker);
        busy.wait_untouched();
    }
    busy.check();
    chooses(&mut qemu, &layout);
    // A dead QEMU is no reason to read its memory instead.
    busy.machine.kill().unwrap();
    let gone = choose(qemu.process(), &layout).err().expect("it is dead");
    assert!(gone.to_string().contains("has died"), "{gone}");
}
