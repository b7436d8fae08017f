//! Figures, not proofs: how long a copy takes. Run by name with `--ignored --nocapture`, in a release build for real ones.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use super::{overlap::Slow, *};
use crate::{ring::Threshold, sys};

/// Bytes dirtied in each epoch, in runs of four pages.
const DIRTY: usize = 10 << 20;
const EPOCHS: u64 = 41;

/// Two mappings of four times [`DIRTY`], a sealed memfd and anonymous memory, in another process; prints where they are.
const GUEST: &str = "
import ctypes, fcntl, mmap, os, sys
size = int(sys.argv[1])
f = os.memfd_create('ram', os.MFD_ALLOW_SEALING)
os.ftruncate(f, size)
fcntl.fcntl(f, 1033, 2 | 4)
both = mmap.mmap(f, size), mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for m in both:
    m.write(b'\\xa5' * size)
    print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)
sys.stdin.read()
";

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn guest() -> (Guest, Arc<sys::Memory>) {
    let size = 4 * DIRTY;
    let mut child = Command::new("python3")
        .args(["-c", GUEST, &size.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(2);
    let address: Vec<u64> = lines.map(|line| line.unwrap().parse().unwrap()).collect();
    let block = |i: usize| Block {
        name: i.to_string(),
        size: size as u64,
        address: address[i],
    };
    let process = sys::Process::open(child.id()).unwrap();
    let memory = sys::Memory::open(&process, &Layout::new(vec![block(0), block(1)])).unwrap();
    (Guest(child), Arc::new(memory))
}

/// Every second run of so many pages.
fn runs(block: u16, pages: u32) -> Vec<PageRun> {
    let count = DIRTY as u32 / PAGE as u32 / pages;
    (0..count).map(|i| run(block, i * 2 * pages, pages)).collect()
}

fn median(mut all: Vec<CopyStats>) -> CopyStats {
    all.sort_by_key(CopyStats::took);
    all[all.len() / 2]
}

/// Copies epoch after epoch, each when the one before is sent, and returns the middle one without the first.
fn copy(out: &Outbound, runs: &[PageRun], memory: &Arc<sys::Memory>) -> CopyStats {
    let one = |epoch| {
        out.begin(epoch).unwrap();
        let copy = out.copy(epoch, runs, memory.clone(), Mode::Checkpoint).unwrap();
        out.end(epoch, Vec::new()).unwrap();
        assert!(out.flush(Duration::from_secs(60)));
        copy
    };
    median((1..=EPOCHS).map(one).skip(1).collect())
}

fn start(out: impl Write + Send + 'static, ring: usize, threshold: Threshold) -> Outbound {
    Outbound::start(
        Box::new(out),
        Options {
            ring: Some(ring),
            threshold,
            ..Options::default()
        },
    )
    .unwrap()
}

#[test]
#[ignore = "a measurement"]
fn copying_ten_megabytes() {
    let (_guest, memory) = guest();
    for (block, way) in [(0, "mapped memfd"), (1, "process_vm_readv")] {
        for pages in [1, 4, 16] {
            // The sender stays behind the copy, so that only the copy is measured.
            let out = start(io::sink(), 16 << 20, Threshold::Fixed(1.0));
            let copy = copy(&out, &runs(block, pages), &memory);
            println!(
                "{way}, runs of {pages}: {:?}, {} waits",
                copy.took(),
                copy.ring.waits
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn a_ring_of_an_eighth_against_a_full_one() {
    let (_guest, memory) = guest();
    let runs = runs(0, 4);
    for rate in [200e6, 400e6, 800e6] {
        let slow = || Slow {
            bytes_per_second: rate,
        };
        let full = copy(&start(slow(), 2 * DIRTY, Threshold::Adaptive), &runs, &memory);
        let eighth = start(slow(), DIRTY / 8, Threshold::Adaptive);
        let small = copy(&eighth, &runs, &memory);
        let stats = eighth.stats().ring;
        let least = (small.ring.bytes - stats.capacity) as f64 / stats.rates.send;
        let bound = full.took().as_secs_f64().max(least);
        println!(
            "{} MB/s (measured {:.0}): full {:?}, eighth {:?} = {:.2} of the bound {:.2} ms; {} waits of {:?}, first sent at {:?}, {} of {} bytes sent meanwhile",
            rate / 1e6,
            stats.rates.send / 1e6,
            full.took(),
            small.took(),
            small.took().as_secs_f64() / bound,
            bound * 1e3,
            small.ring.waits,
            small.ring.waited,
            small.ring.first_taken.unwrap_or_default(),
            small.ring.sent_meanwhile,
            small.ring.bytes,
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn receiving_and_applying() {
    let (from, to) = std::os::unix::net::UnixStream::pair().unwrap();
    let (_guest, memory) = guest();
    let out = start(to, 16 << 20, Threshold::Adaptive);
    let mut inbound = Inbound::new(Box::new(from.take(u64::MAX)), Limits::default());
    inbound.expect(memory.layout().clone(), Vec::new());
    let mut standby = Standby::new(&[4 * DIRTY / PAGE, 4 * DIRTY / PAGE]);
    let runs = runs(0, 4);
    receiving(
        &out,
        || {
            for epoch in 1..=EPOCHS {
                out.begin(epoch).unwrap();
                let began = std::time::Instant::now();
                let copy = out.copy(epoch, &runs, memory.clone(), Mode::Checkpoint).unwrap();
                out.end(epoch, vec![1; 100_000]).unwrap();
                out.flush(Duration::from_secs(60));
                if epoch % 10 == 0 {
                    println!("copied in {:?}, sent in {:?}", copy.took(), began.elapsed());
                }
            }
        },
        || {
            for epoch in 1..=EPOCHS {
                let (_, _, staged) = inbound.epoch(&mut standby);
                let began = std::time::Instant::now();
                staged.apply(standby.ram.as_ref()).unwrap();
                if epoch % 10 == 0 {
                    println!("applied in {:?}", began.elapsed());
                }
            }
        },
    );
}
