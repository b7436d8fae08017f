//! Load by command: memory that changes, disk transfers, packets. What it writes it can check: memory and disk that are not of
//! the same moment show as errors. Without load no thread here ever wakes.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use hawser_guest::log::scratch;

use crate::{
    disk::{Aligned, Disk},
    store::locked,
};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// How often a load does its share of a second's work.
const BEAT: Duration = Duration::from_millis(10);

/// What the loads did so far.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) pages: AtomicU64,
    pub(crate) transfers: AtomicU64,
    pub(crate) packets: AtomicU64,
    /// Blocks on the disk that did not hold what memory says they hold.
    pub(crate) errors: AtomicU64,
}

/// The three loads.
pub(crate) struct Loads {
    pub(crate) done: Arc<Done>,
    field: Arc<Mutex<Field>>,
    dirty: Sender<(u64, usize)>,
    disk: Option<Sender<u64>>,
    flood: Sender<(u64, SocketAddr, usize)>,
}

impl Loads {
    pub(crate) fn new(disk: Option<Arc<Disk>>) -> Self {
        let done = Arc::new(Done::default());
        let field = Arc::new(Mutex::new(Field::default()));
        let (dirty, orders) = channel();
        let (own, count) = (field.clone(), done.clone());
        thread::spawn(move || dirty_memory(&orders, &own, &count));
        let disk = disk.map(|disk| {
            let (orders, receiver) = channel();
            let count = done.clone();
            thread::spawn(move || use_disk(&receiver, &disk, &count));
            orders
        });
        let (flood, orders) = channel();
        let count = done.clone();
        thread::spawn(move || send_packets(&orders, &count));
        Self {
            done,
            field,
            dirty,
            disk,
            flood,
        }
    }

    /// Writes this many pages a second, in turn, of a field of `pages` pages. 0 a second: stops.
    pub(crate) fn dirty(&self, per_second: u64, pages: usize) {
        let _ = self.dirty.send((per_second, pages.max(1)));
    }

    /// Does this many direct writes, each with a read, a second. False if there is no disk.
    pub(crate) fn disk(&self, per_second: u64) -> bool {
        self.disk
            .as_ref()
            .is_some_and(|orders| orders.send(per_second).is_ok())
    }

    /// Sends this many UDP packets a second.
    pub(crate) fn flood(&self, per_second: u64, to: SocketAddr, bytes: usize) {
        let _ = self.flood.send((per_second, to, bytes.min(1400)));
    }

    /// Whether the field of [`Self::dirty`] is as it was written.
    pub(crate) fn check(&self) -> Result<(u64, usize), String> {
        let field = locked(&self.field);
        field.check()?;
        Ok((field.round, field.next))
    }
}

/// Runs `work` at a rate, and waits without waking while the rate is 0. The order's first part is the rate.
fn at_rate<O>(orders: &Receiver<O>, rate: impl Fn(&O) -> u64, mut work: impl FnMut(&O)) {
    let Ok(mut order) = orders.recv() else { return };
    let (mut since, mut count) = (Instant::now(), 0);
    loop {
        let per_second = rate(&order);
        let next = if per_second == 0 {
            orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            orders.recv_timeout(BEAT)
        };
        match next {
            Ok(new) => {
                order = new;
                (since, count) = (Instant::now(), 0);
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let due = (since.elapsed().as_secs_f64() * per_second as f64) as u64;
                // A load that cannot keep up does at most a tenth of a second's work at once, and forgets the rest.
                let work_now = (due - count).min(per_second / 10 + 1);
                count = due;
                for _ in 0..work_now {
                    work(&order);
                }
            }
        }
    }
}

/// Pages that are written in turn: those before `next` are of this round, the others of the one before.
#[derive(Default)]
struct Field {
    words: Vec<u64>,
    round: u64,
    next: usize,
}

impl Field {
    fn write_one(&mut self) {
        let first = word(self.round, self.next);
        for (i, w) in self.words[self.next * WORDS..][..WORDS].iter_mut().enumerate() {
            *w = first.wrapping_add(i as u64);
        }
        self.next += 1;
        if self.next * WORDS == self.words.len() {
            (self.next, self.round) = (0, self.round + 1);
        }
    }

    fn check(&self) -> Result<(), String> {
        for (page, words) in self.words.chunks(WORDS).enumerate() {
            let round = if page < self.next {
                self.round
            } else {
                self.round - 1
            };
            let first = if round == 0 { None } else { Some(word(round, page)) };
            for (i, w) in words.iter().enumerate() {
                let wanted = first.map_or(0, |f| f.wrapping_add(i as u64));
                if *w != wanted {
                    return Err(format!(
                        "page {page}, word {i}, round {round}: {w:x} is not {wanted:x}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn word(round: u64, page: usize) -> u64 {
    (round << 32 | page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn dirty_memory(orders: &Receiver<(u64, usize)>, field: &Mutex<Field>, done: &Done) {
    at_rate(
        orders,
        |order| order.0,
        |order| {
            let mut field = locked(field);
            if field.words.len() != order.1 * WORDS {
                *field = Field {
                    words: vec![0; order.1 * WORDS],
                    round: 1,
                    next: 0,
                };
            }
            field.write_one();
            done.pages.fetch_add(1, Relaxed);
        },
    );
}

fn use_disk(orders: &Receiver<u64>, disk: &Disk, done: &Done) {
    let (start, blocks) = (
        scratch(disk.size()),
        (disk.size() - scratch(disk.size())) / PAGE as u64,
    );
    if blocks == 0 {
        return;
    }
    // What each block holds, 0 where we did not write it yet.
    let mut held = vec![0_u64; blocks as usize];
    let (mut random, mut page) = (0x2545_f491_4f6c_dd1d_u64, Aligned::new(PAGE));
    let mut turn = |held: &mut Vec<u64>| -> io::Result<()> {
        let mut pick = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random, (random >> 16) % blocks)
        };
        let (stamp, block) = pick();
        for chunk in page.bytes_mut().chunks_mut(8) {
            chunk.copy_from_slice(&stamp.to_le_bytes());
        }
        disk.write(page.bytes(), start + block * PAGE as u64)?;
        held[block as usize] = stamp;
        let (_, other) = pick();
        disk.read(page.bytes_mut(), start + other * PAGE as u64)?;
        let wanted = held[other as usize];
        if wanted != 0 && page.bytes().chunks(8).any(|c| c != wanted.to_le_bytes()) {
            println!("guest: block {other} of the disk does not hold {wanted:x}");
            done.errors.fetch_add(1, Relaxed);
        }
        done.transfers.fetch_add(2, Relaxed);
        Ok(())
    };
    at_rate(
        orders,
        |rate| *rate,
        |_| {
            if let Err(e) = turn(&mut held) {
                println!("guest: the disk failed: {e}");
                done.errors.fetch_add(1, Relaxed);
            }
        },
    );
}

fn send_packets(orders: &Receiver<(u64, SocketAddr, usize)>, done: &Done) {
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else {
        return;
    };
    let data = [0x5a; 1400];
    at_rate(
        orders,
        |order| order.0,
        |(_, to, bytes)| {
            // Full queues drop; that is the point of a flood.
            if socket.send_to(&data[..*bytes], to).is_ok() {
                done.packets.fetch_add(1, Relaxed);
            }
        },
    );
}
