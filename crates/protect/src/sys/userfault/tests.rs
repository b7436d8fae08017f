use std::{
    ffi::c_void,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr,
};

use hawser_testkit::wait::{self, SOON};
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous},
};

use super::*;
use crate::{memory::PAGE, sys::maps};

const PAGES: u64 = 64;
const VICTIM: &str = "HAWSER_TEST_WATCHED";
const NOBODY: u32 = 65534;

/// A process with memory of each kind, which does with it what it is told.
struct Watched {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    process: Process,
    anonymous: u64,
    shared: u64,
}

impl Watched {
    fn start(uid: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child
            .args(["--exact", "sys::userfault::tests::watched", "--nocapture"])
            .env(VICTIM, "1");
        let mut child = child
            .uid(uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let process = Process::open(child.id()).unwrap();
        let mut own = Self {
            child,
            orders,
            answers: BufReader::new(answers),
            process,
            anonymous: 0,
            shared: 0,
        };
        // What the test harness says comes first.
        let places = loop {
            let line = own.answer();
            if let Some((_, places)) = line.split_once("places ") {
                break places.to_owned();
            }
        };
        let (anonymous, shared) = places.split_once(' ').unwrap();
        (own.anonymous, own.shared) = (anonymous.parse().unwrap(), shared.parse().unwrap());
        own
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "it died");
        line.trim_end().to_owned()
    }

    /// Has it do something with page `page` of the memory at `base`.
    fn does(&mut self, what: &str, base: u64, page: u64) {
        writeln!(self.orders, "{what} {}", base + page * PAGE as u64).unwrap();
        assert_eq!(self.answer(), "done");
    }

    fn maps(&self) -> Vec<maps::Mapping> {
        maps::of(&self.process).unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn range(base: u64) -> Range<u64> {
    base..base + PAGES * PAGE as u64
}

/// Numbers of the pages written.
fn pages(watch: &mut WriteWatch, base: u64, anew: bool) -> Vec<u64> {
    let mut found = Vec::new();
    let number = |address: u64| (address - base) / PAGE as u64;
    watch
        .written(range(base), anew, |r| {
            found.extend(number(r.start)..number(r.end))
        })
        .unwrap();
    found
}

/// Watches what somebody has just ceased to watch. A process that another test is just starting has the old descriptor, too, until
/// it is another program.
fn watch_again(watch: &WriteWatch, base: u64) {
    wait::until(SOON, "the end of the other watch", || {
        match watch.watch(range(base)) {
            Ok(()) => Ok(Some(())),
            Err(WatchError::Region { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    })
    .unwrap();
}

#[test]
fn every_write_is_noted_once_and_nothing_else_is() {
    let mut it = Watched::start(0);
    for base in [it.anonymous, it.shared] {
        it.does("write", base, 3);
        let mut watch = WriteWatch::attach(&it.process).unwrap();
        watch.watch(range(base)).unwrap();
        assert!(pages(&mut watch, base, true).is_empty(), "what was there before");
        for page in [3, 4, 5, 63] {
            it.does("write", base, page); // 3 exists, the others do not
        }
        it.does("receive", base, 10); // the kernel writes
        it.does("read", base, 20);
        it.does("read", base, 3);
        let written = [3, 4, 5, 10, 63];
        assert_eq!(pages(&mut watch, base, false), written);
        assert_eq!(pages(&mut watch, base, true), written, "looking changes nothing");
        assert!(pages(&mut watch, base, true).is_empty(), "taking does");
        it.does("write", base, 20); // was read before: the shared zero page
        it.does("write", base, 4);
        assert_eq!(pages(&mut watch, base, true), [4, 20]);
    }
}

#[test]
fn an_unprivileged_process_is_watched_also_where_the_kernel_writes() {
    if !hawser_testkit::gate::root("watching an unprivileged process") {
        return;
    }
    let mut it = Watched::start(NOBODY);
    for base in [it.anonymous, it.shared] {
        let mut watch = WriteWatch::attach(&it.process).unwrap();
        watch.watch(range(base)).unwrap();
        it.does("receive", base, 7);
        it.does("write", base, 8);
        assert_eq!(pages(&mut watch, base, true), [7, 8]);
        it.does("receive", base, 7);
        assert_eq!(pages(&mut watch, base, true), [7]);
    }
}

#[test]
fn it_is_as_before_afterwards_and_may_be_watched_again() {
    let mut it = Watched::start(0);
    let descriptors = |it: &Watched| -> Vec<std::path::PathBuf> {
        let mut open: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", it.process.pid()))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .collect();
        open.sort();
        open
    };
    let (maps, open) = (it.maps(), descriptors(&it));
    for round in 0..20 {
        let mut watch = WriteWatch::attach(&it.process).unwrap();
        assert_eq!(descriptors(&it), open);
        for base in [it.anonymous, it.shared] {
            watch_again(&watch, base);
            it.does("write", base, round);
            assert_eq!(pages(&mut watch, base, true), [round]);
        }
        let second = WriteWatch::attach(&it.process).unwrap();
        match second.watch(range(it.shared)) {
            Err(WatchError::Region { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::ResourceBusy),
            other => panic!("{other:?}"),
        }
        drop(watch);
        watch_again(&second, it.shared);
    }
    wait::for_condition(SOON, "memory as before", || it.maps() == maps).unwrap();
    assert_eq!(descriptors(&it), open);
}

#[test]
fn memory_that_was_replaced_is_an_error() {
    let mut it = Watched::start(0);
    let base = it.anonymous;
    let mut watch = WriteWatch::attach(&it.process).unwrap();
    watch.watch(range(base)).unwrap();
    it.does("replace", base, 5);
    let seen = watch.written(range(base), true, |_| {});
    assert!(
        matches!(seen, Err(WatchError::Region { what: "scan", .. })),
        "{seen:?}"
    );
}

/// Private memory that was given back counts as written; shared memory need not (see `tracker`).
#[test]
fn discarded_private_memory_is_noted() {
    let mut it = Watched::start(0);
    let base = it.anonymous;
    for page in 0..PAGES {
        it.does("write", base, page);
    }
    let mut watch = WriteWatch::attach(&it.process).unwrap();
    watch.watch(range(base)).unwrap();
    it.does("discard", base, 9);
    assert_eq!(pages(&mut watch, base, true), [9]);
    it.does("write", base, 9);
    assert_eq!(pages(&mut watch, base, true), [9]);
}

#[test]
fn the_dead_and_the_missing_are_told_apart() {
    let mut it = Watched::start(0);
    it.process.kill().unwrap();
    it.child.wait().unwrap();
    let error = WriteWatch::attach(&it.process).unwrap_err();
    assert!(matches!(error, WatchError::Inject(_)), "{error}");
}

/// Not a test of its own: the process that the others watch.
#[test]
fn watched() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let (length, rights) = (PAGES as usize * PAGE, ProtFlags::READ | ProtFlags::WRITE);
    let file = memfd_create("watched", MemfdFlags::empty()).unwrap();
    ftruncate(&file, length as u64).unwrap();
    // SAFETY: the kernel chooses the addresses.
    let (anonymous, shared) = unsafe {
        (
            mmap_anonymous(ptr::null_mut(), length, rights, MapFlags::PRIVATE).unwrap(),
            mmap(ptr::null_mut(), length, rights, MapFlags::SHARED, &file, 0).unwrap(),
        )
    };
    let source = File::open("/dev/urandom").unwrap();
    println!("places {} {}", anonymous as u64, shared as u64);
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let (what, address) = order.split_once(' ').unwrap();
        let page = address.parse::<usize>().unwrap() as *mut c_void;
        // SAFETY: the test names pages of these two mappings, to which nothing refers.
        unsafe {
            match what {
                "write" => page.cast::<u8>().write_volatile(1),
                "read" => drop(page.cast::<u8>().read_volatile()),
                "receive" => assert_eq!(libc::read(source.as_raw_fd(), page, 16), 16),
                "discard" => madvise(page, PAGE, Advice::LinuxDontNeed).unwrap(),
                "replace" => {
                    mmap_anonymous(page, PAGE, rights, MapFlags::PRIVATE | MapFlags::FIXED).unwrap();
                }
                _ => panic!("{order}"),
            }
        }
        println!("done");
    }
}
