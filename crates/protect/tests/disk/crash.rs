//! Sudden death of the standby's process at random moments during the flush: the file is at a state that an ordered flush passes through,
//! and flushing again gives the same file.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use hawser_protect::disk::{Buffer, Options};
use hawser_testkit::wait::{self, SOON};
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};

const SIZE: usize = 256 << 10;
const EPOCHS: usize = 600;
const PER_EPOCH: usize = 8;
/// Writes of the synchronisation, before the first barrier.
const BEFORE: usize = 20;
const ROUNDS: u8 = 16;

struct Write {
    at: usize,
    len: usize,
    /// Zero: zeroes or a discard.
    fill: u8,
}

/// The same writes for the same seed.
fn writes(seed: u8) -> Vec<Write> {
    let mut random = random(seed);
    let write = |_| {
        let at = random.next_u32() as usize % SIZE;
        let len = 1 + random.next_u32() as usize
            % if random.next_u32().is_multiple_of(4) {
                60_000
            } else {
                5_000
            };
        Write {
            at,
            len: len.min(SIZE - at),
            fill: (random.next_u32() % 256) as u8,
        }
    };
    (0..BEFORE + EPOCHS * PER_EPOCH).map(write).collect()
}

fn random(seed: u8) -> TestRng {
    TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])
}

fn open(dir: &Path) -> Buffer {
    let options = Options {
        memory: 100_000,
        unsynced: 200_000,
        ..Options::new(dir)
    };
    // A process that another test is just starting has an open image, and its lock, too, until it is another program.
    wait::until(SOON, "the image to be free", || {
        Ok(Buffer::open(&dir.join("replica.raw"), SIZE as u64, options.clone()).ok())
    })
    .unwrap()
}

fn give(buffer: &Buffer, write: &Write, n: usize) {
    let (at, len) = (write.at as u64, write.len as u64);
    let given = match write.fill {
        0 if n.is_multiple_of(2) => buffer.zeroes(at, len),
        0 => buffer.discard(at, len),
        fill => buffer.write(at, &vec![fill; write.len]),
    };
    given.unwrap();
}

/// Gives writes to the buffer, with a barrier and a commit after each few. Calls `before` ahead of every commit.
fn replicate(buffer: &Buffer, writes: &[Write], mut before: impl FnMut(usize)) {
    for (n, write) in writes.iter().enumerate() {
        give(buffer, write, n);
        let done = n + 1;
        if done >= BEFORE && (done - BEFORE).is_multiple_of(PER_EPOCH) {
            let epoch = 1 + (done - BEFORE) / PER_EPOCH;
            buffer.barrier(epoch as u64).unwrap();
            before(done);
            buffer.commit(epoch as u64).unwrap();
        }
    }
}

/// Where the helper works, and with which seed. Only set for the helper.
const HELPER: &str = "HAWSER_TEST_DISK_CRASH";

/// Not a test of its own: the process that is killed by the one below.
#[test]
fn helper() {
    let Ok(task) = env::var(HELPER) else { return };
    let (seed, dir) = task.split_once(':').unwrap();
    let buffer = open(Path::new(dir));
    let mut out = std::io::stdout();
    replicate(&buffer, &writes(seed.parse().unwrap()), |n| {
        writeln!(out, "commits {n}").unwrap();
        out.flush().unwrap();
    });
    loop {
        thread::park();
    }
}

/// Lets a helper work, kills it after some of its commits, and says how many writes it may have flushed at most.
fn run_and_kill(dir: &Path, seed: u8) -> usize {
    let mut helper = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::helper", "--nocapture"])
        .env(HELPER, format!("{seed}:{}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let kill_after = random(seed ^ 0xff).next_u32() as usize % EPOCHS;
    let mut lines = BufReader::new(helper.stdout.take().unwrap()).lines();
    let mut seen = BEFORE;
    let committed = |line: String| {
        line.split_once("commits ")
            .map(|(_, n)| n.parse::<usize>().unwrap())
    };
    let mut commits = lines.by_ref().map_while(Result::ok).filter_map(committed);
    seen = commits.by_ref().take(1 + kill_after).last().unwrap_or(seen);
    helper.kill().unwrap();
    helper.wait().unwrap();
    commits.last().unwrap_or(seen)
}

/// How many whole writes the file holds, if an ordered flush passes through what it holds: the next one may have been cut.
fn reached(file: &[u8], writes: &[Write]) -> Option<usize> {
    let mut model = vec![0; SIZE];
    for (n, write) in writes.iter().enumerate() {
        let range = write.at..write.at + write.len;
        let outside = file[..range.start] == model[..range.start] && file[range.end..] == model[range.end..];
        let torn = |(now, old): (&u8, &u8)| now == old || *now == write.fill;
        if outside && file[range.clone()].iter().zip(&model[range.clone()]).all(torn) {
            return Some(n);
        }
        model[range].fill(write.fill);
    }
    (file == model).then_some(writes.len())
}

#[test]
fn a_killed_flush_leaves_a_state_on_its_way_and_can_be_done_again() {
    let mut cut_short = 0;
    for seed in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.raw");
        let writes = writes(seed);
        let most = run_and_kill(dir.path(), seed);
        let file = fs::read(&path).unwrap();
        let reached = reached(&file, &writes[..most]);
        let reached = reached.unwrap_or_else(|| {
            panic!("seed {seed}: no ordered flush of {most} writes passes through this file")
        });
        cut_short += usize::from(reached < most);

        // Once more from the start, over what is there, and from where it was cut.
        let mut whole = vec![0; SIZE];
        writes[..most]
            .iter()
            .for_each(|w| whole[w.at..w.at + w.len].fill(w.fill));
        let buffer = open(dir.path());
        replicate(&buffer, &writes[..most], |_| ());
        buffer.settle(SOON * 6).unwrap();
        assert!(
            fs::read(&path).unwrap() == whole,
            "seed {seed}: flushed anew, the file differs"
        );
        drop(buffer);
        fs::write(&path, &file).unwrap();
        let buffer = open(dir.path());
        writes[reached..most]
            .iter()
            .enumerate()
            .for_each(|(n, w)| give(&buffer, w, n));
        buffer.settle(SOON * 6).unwrap();
        assert!(
            fs::read(&path).unwrap() == whole,
            "seed {seed}: continued, the file differs"
        );
    }
    assert!(cut_short > 0, "no round killed a flush on its way");
}
