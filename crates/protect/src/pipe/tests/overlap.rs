//! What the ring is for: sending while copying, in much less room than what is copied; and waits that end.

use std::{
    io::{self, Write},
    sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::*;
use crate::{disk, ring::Threshold};

const DIRTY: usize = 8 << 20;
/// Long enough for a wait that should have ended at once, also on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Takes bytes at a rate.
pub(super) struct Slow {
    pub(super) bytes_per_second: f64,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_secs_f64(
            bytes.len() as f64 / self.bytes_per_second,
        ));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A channel whose other host is silent: a write hangs until the gate is opened, and then fails.
#[derive(Clone, Default)]
struct Hung {
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Hung {
    fn abort(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }

    fn wait(&self) {
        let mut open = self.open.0.lock().unwrap();
        while !*open {
            open = self.open.1.wait(open).unwrap();
        }
    }
}

impl Write for Hung {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.wait();
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One whose other host reads nothing until the gate is opened, and then everything.
struct Late(Hung);

impl Write for Late {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.wait();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every second run of four pages, in all as much as [`DIRTY`].
fn scattered() -> (Arc<Ram>, Vec<PageRun>) {
    let pages = DIRTY / PAGE;
    let ram = Ram::new(&[2 * pages]);
    ram.dirty(run(0, 0, 2 * pages as u32), 5);
    (ram, (0..pages as u32 / 4).map(|i| run(0, i * 8, 4)).collect())
}

fn options(ring: usize, threshold: Threshold) -> Options {
    Options {
        ring: Some(ring),
        threshold,
        ..Options::default()
    }
}

#[test]
fn a_ring_of_an_eighth_sends_during_the_copy_and_makes_the_copier_wait() {
    for threshold in [Threshold::Adaptive, Threshold::Fixed(0.5), Threshold::Fixed(1.0)] {
        let (ram, runs) = scattered();
        let rate = 200e6;
        let slow = Slow {
            bytes_per_second: rate,
        };
        let out = Outbound::start(Box::new(slow), options(DIRTY / 8, threshold)).unwrap();
        for epoch in 1..=3 {
            out.begin(epoch).unwrap();
            let copy = out.copy(epoch, &runs, ram.clone(), Mode::Checkpoint).unwrap();
            out.end(epoch, vec![1]).unwrap();
            assert_eq!(copy.pages as usize, DIRTY / PAGE);
            assert!(copy.ring.bytes as usize > DIRTY);
            // Never more in the ring than fits in it, and that is an eighth.
            let stats = out.stats().ring;
            assert!(copy.ring.peak <= stats.capacity && stats.capacity as usize <= DIRTY / 8);
            assert!(
                copy.ring.first_taken.is_some_and(|first| first < copy.took()),
                "{copy:?}"
            );
            assert!(copy.ring.sent_meanwhile as usize >= DIRTY / 2, "{copy:?}");
            assert!(
                copy.ring.waits > 0 && copy.ring.waited > Duration::ZERO,
                "{copy:?}"
            );
            assert!(copy.ring.threshold <= stats.capacity);
        }
        assert!(out.flush(SOON));
        assert_eq!(out.stats().ring.used, 0);
    }
}

#[test]
fn a_ring_with_room_for_all_ends_the_copy_long_before_the_sending() {
    let (ram, runs) = scattered();
    let hung = Hung::default();
    let late = Box::new(Late(hung.clone()));
    let out = Outbound::start(late, options(2 * DIRTY, Threshold::Adaptive)).unwrap();
    out.begin(1).unwrap();
    let copy = out.copy(1, &runs, ram, Mode::Checkpoint).unwrap();
    out.end(1, Vec::new()).unwrap();
    // The pause ends here; most is still to be sent.
    let stats = out.stats();
    hung.abort();
    assert_eq!(copy.ring.waits, 0);
    assert!(stats.ring.used as usize > DIRTY / 2, "{stats:?}");
    assert!(out.flush(SOON));
}

#[test]
fn a_copier_that_waits_for_a_silent_host_is_let_go() {
    let (ram, runs) = scattered();
    let hung = Hung::default();
    let aborts = Arc::new(AtomicUsize::new(0));
    let abort = {
        let (hung, aborts) = (hung.clone(), aborts.clone());
        Box::new(move || {
            aborts.fetch_add(1, Ordering::SeqCst);
            hung.abort();
        })
    };
    let options = Options {
        abort: Some(abort),
        ..options(DIRTY / 8, Threshold::Adaptive)
    };
    let out = Outbound::start(Box::new(hung), options).unwrap();
    out.begin(1).unwrap();
    let copying = out.start_copy(1, &runs, ram.clone(), Mode::Checkpoint).unwrap();
    let full = || out.stats().ring.used as usize > DIRTY / 8 * 3 / 4;
    hawser_testkit::wait::for_condition(SOON, "the ring to fill", full).unwrap();
    assert_eq!(out.wait_broken(Duration::ZERO), None);

    let began = Instant::now();
    out.break_now("the standby is silent");
    out.break_now("another reason, too late");
    let Err(OutboundError::Broken(why)) = copying.wait() else {
        panic!("the copy went on")
    };
    assert!(began.elapsed() < SOON);
    assert_eq!(&*why.0, "the standby is silent");
    assert_eq!(out.wait_broken(SOON), Some(why.clone()));
    assert_eq!(aborts.load(Ordering::SeqCst), 1);
    // Nothing is taken any more, and nothing waits.
    assert!(out.disks().write(0, 0, &[1]).is_err_and(|e| *e.0 == *why.0));
    assert!(out.end(1, Vec::new()).is_err());
    assert!(out.control(b"hello").is_err());
    assert!(!out.flush(Duration::ZERO));
    assert!(out.copy(1, &runs, ram, Mode::Checkpoint).is_err());
}

#[test]
fn a_dead_link_ends_the_wait_of_disk_writes_by_itself() {
    let hung = Hung::default();
    let options = Options {
        disk_queue: Some(1 << 20),
        ..Options::default()
    };
    let out = Outbound::start(Box::new(hung.clone()), options).unwrap();
    let sink = out.disks();
    let writers: Vec<_> = (0..4u16)
        .map(|disk| {
            let sink = sink.clone();
            std::thread::spawn(move || {
                let mut offset = 0;
                loop {
                    if let Err(broken) = sink.write(disk, offset, &[0xa5; 100_000]) {
                        return broken;
                    }
                    offset += 100_000;
                }
            })
        })
        .collect();
    let waits = || out.stats().disk_waits > 0;
    hawser_testkit::wait::for_condition(SOON, "the writers to wait", waits).unwrap();
    assert!(out.stats().disk_queue <= 1 << 20, "{:?}", out.stats());
    // A barrier waits for no room: it stands in the pause.
    out.begin(1).unwrap();
    // Only the link knows that it is dead.
    hung.abort();
    for writer in writers {
        let disk::Broken(why) = writer.join().unwrap();
        assert!(why.contains("cannot be written to"), "{why}");
    }
    assert!(out.wait_broken(SOON).is_some());
}

#[test]
fn a_write_larger_than_the_queue_is_taken_when_it_is_empty() {
    let out = Outbound::start(
        Box::new(io::sink()),
        Options {
            disk_queue: Some(10),
            ..Options::default()
        },
    )
    .unwrap();
    for _ in 0..10 {
        out.disks().write(0, 0, &vec![1; disk::PIECE]).unwrap();
    }
    assert!(out.flush(SOON));
    assert_eq!(out.stats().disk_queue, 0);
}

#[test]
fn memory_that_cannot_be_read_ends_the_channel() {
    struct Dead;
    impl Source for Dead {
        fn read(&self, _: PageRun, _: &mut [u8]) -> Result<(), Fault> {
            Err("it died".into())
        }
    }
    let out = Outbound::start(Box::new(io::sink()), Options::default()).unwrap();
    out.begin(1).unwrap();
    let outcome = out.copy(1, &[run(0, 0, 3)], Arc::new(Dead), Mode::Checkpoint);
    assert!(
        matches!(outcome, Err(OutboundError::Memory { .. })),
        "{outcome:?}"
    );
    assert!(out.broken().is_some_and(|why| why.0.contains("it died")));
}

#[test]
fn a_channel_that_nobody_holds_any_more_is_closed() {
    let (from, to) = io::pipe().unwrap();
    let out = Outbound::start(Box::new(to), Options::default()).unwrap();
    let sink = out.disks();
    let other = out.clone();
    drop(out);
    sink.write(0, 0, &[1]).unwrap();
    assert!(other.flush(SOON));
    drop(other);
    assert!(sink.write(0, 0, &[1]).is_err());
    let mut all = Vec::new();
    io::Read::read_to_end(&mut { from }, &mut all).unwrap();
    assert_eq!(all.len(), 8 + 32 + 1);
}
