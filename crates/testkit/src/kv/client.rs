//! Connections to the guest's server.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{History, Kind, Operation, Outcome, Record};
use crate::{Host, wait};

/// How long an answer may take: longer than any outage that a test means to survive.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection, for a test's own questions and orders.
pub struct Kv {
    stream: BufReader<TcpStream>,
}

impl Kv {
    /// Connects from a host; waits for a server that is not there yet.
    pub fn connect(from: &Host, to: SocketAddr) -> Result<Self> {
        let stream = from.enter(|| {
            wait::until(PATIENCE, &format!("the guest's server at {to}"), || {
                Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok())
            })
        })??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a line and returns the answer's line; an `ERROR` is an error.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        let answer = self.line()?;
        if let Some(why) = answer.strip_prefix("ERROR ") {
            bail!("{request}: the guest says: {why}");
        }
        Ok(answer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.stream.read_line(&mut line)? > 0,
            "the guest closed the connection"
        );
        Ok(line.trim_end_matches('\n').to_owned())
    }

    /// Sets a key; returns the write's number.
    pub fn set(&mut self, key: &str, value: &str) -> Result<u64> {
        Ok(written(&self.ask(&format!("SET {key} {value}"))?)?.0)
    }

    /// Adds to a number; returns the sum.
    pub fn add(&mut self, key: &str, number: i64) -> Result<i64> {
        Ok(written(&self.ask(&format!("ADD {key} {number}"))?)?.1.parse()?)
    }

    /// What a key holds, and the number of the write that set it.
    pub fn get(&mut self, key: &str) -> Result<Option<(u64, String)>> {
        let answer = self.ask(&format!("GET {key}"))?;
        let Some(rest) = answer.strip_prefix("IS ") else {
            ensure!(answer == "NONE", "no answer to GET: {answer:?}");
            return Ok(None);
        };
        let (number, value) = rest.split_once(' ').context("no value in the answer")?;
        Ok(Some((number.parse()?, value.into())))
    }

    /// Everything in the guest's memory.
    pub fn dump(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut line = self.ask("DUMP")?;
        while line != "END" {
            let mut words = line.strip_prefix("KEY ").context("no DUMP")?.splitn(3, ' ');
            let mut word = || words.next().context("a short line in DUMP");
            records.push(Record {
                key: word()?.into(),
                sequence: word()?.parse()?,
                value: word()?.into(),
            });
            line = self.line()?;
        }
        Ok(records)
    }

    /// The guest's counters: `writes`, `connections`, `pages`, `transfers`, `packets`, `errors`, `up_ns`, `clock_ns`.
    pub fn status(&mut self) -> Result<HashMap<String, u64>> {
        let answer = self.ask("STATUS")?;
        let pairs = answer.split(' ').skip(1).filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| Ok((name.to_owned(), value.parse()?)))
            .collect()
    }

    /// Writes memory, in turn through a field of `pages` pages; 0 a second ends it.
    pub fn load_memory(&mut self, pages_per_second: u64, pages: usize) -> Result<()> {
        self.ask(&format!("DIRTY {pages_per_second} {pages}")).map(drop)
    }

    /// Random direct writes of 4 KiB, each followed by a direct read, to the disk's second half; 0 a second ends it.
    pub fn load_disk(&mut self, pairs_per_second: u64) -> Result<()> {
        self.ask(&format!("DISK {pairs_per_second}")).map(drop)
    }

    /// UDP packets; 0 a second ends it.
    pub fn load_network(&mut self, packets_per_second: u64, to: SocketAddr, bytes: usize) -> Result<()> {
        self.ask(&format!("FLOOD {packets_per_second} {to} {bytes}"))
            .map(drop)
    }

    /// Ends every load: the guest then changes almost no memory.
    pub fn idle(&mut self) -> Result<()> {
        self.load_memory(0, 1)?;
        self.load_network(0, SocketAddr::from(([127, 0, 0, 1], 9)), 1)?;
        match self.load_disk(0) {
            Err(e) if e.to_string().contains("no disk") => Ok(()),
            other => other,
        }
    }

    /// That the guest's memory and disk are as its loads left them: pages of one moment, blocks that hold what memory says.
    pub fn check(&mut self) -> Result<()> {
        self.ask("CHECK")?;
        let errors = self
            .status()?
            .get("errors")
            .copied()
            .context("no count of errors")?;
        ensure!(
            errors == 0,
            "the guest found {errors} blocks on its disk that do not fit its memory"
        );
        Ok(())
    }

    /// Powers the guest off.
    pub fn shut_down(mut self) -> Result<()> {
        self.ask("SHUTDOWN").map(drop)
    }

    /// Reboots the guest.
    pub fn reboot(mut self) -> Result<()> {
        self.ask("REBOOT").map(drop)
    }
}

fn written(answer: &str) -> Result<(u64, &str)> {
    let rest = answer
        .strip_prefix("OK ")
        .with_context(|| format!("no OK: {answer:?}"))?;
    let (number, value) = rest.split_once(' ').context("no value in the answer")?;
    Ok((number.parse()?, value))
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Connections, each with one request under way.
    pub connections: usize,
    /// Keys that they share.
    pub keys: usize,
    /// Writes among 100 requests; the others read.
    pub writes: u32,
    /// Rest between an answer and the next request of a connection.
    pub rest: Duration,
}

impl Default for Plan {
    /// Four connections, eight keys, half of the requests writes, a rest of 5 ms.
    fn default() -> Self {
        Self {
            connections: 4,
            keys: 8,
            writes: 50,
            rest: Duration::from_millis(5),
        }
    }
}

/// Clients at work. Dropped, they end.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    started: Instant,
    end: AtomicBool,
    history: Mutex<History>,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    /// Opens all connections from a host, then works through them until [`Self::stop`].
    pub fn start(from: &Host, to: SocketAddr, plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            end: AtomicBool::new(false),
            history: Mutex::default(),
        });
        let connections: Vec<_> = (0..plan.connections)
            .map(|_| Kv::connect(from, to))
            .collect::<Result<_>>()?;
        let run = |(number, kv): (usize, Kv)| {
            let shared = shared.clone();
            thread::spawn(move || {
                Worker {
                    number,
                    kv,
                    plan,
                    shared,
                }
                .run()
            })
        };
        let threads = connections.into_iter().enumerate().map(run).collect();
        Ok(Self { shared, threads })
    }

    /// What happened so far.
    pub fn history(&self) -> History {
        self.shared.history().clone()
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.history().acknowledged().count()
    }

    /// Waits for this many more acknowledged writes.
    pub fn wait_acknowledged(&self, more: usize, limit: Duration) -> Result<()> {
        let wanted = self.acknowledged() + more;
        wait::until(limit, &format!("{more} more acknowledged writes"), || {
            let history = self.shared.history();
            ensure!(
                history.broken.is_empty(),
                "connections broke: {:?}",
                history.broken
            );
            Ok((history.acknowledged().count() >= wanted).then_some(()))
        })
    }

    /// Lets every connection finish its request, and returns all that happened. Where the guest does not answer this lasts as
    /// long as the patience of a connection.
    pub fn stop(mut self) -> History {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.shared.history().clone()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Not joined: a test that failed must not wait for answers that never come.
        self.shared.end.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    number: usize,
    kv: Kv,
    plan: Plan,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(self.number as u64 + 1);
        for n in 0_u64.. {
            if self.shared.end.load(Ordering::Relaxed) {
                return;
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = format!("key{}", (random >> 8) % self.plan.keys.max(1) as u64);
            let write = (random >> 40) % 100 < u64::from(self.plan.writes);
            let kind = if write {
                Kind::Write(format!("c{}-{n}", self.number))
            } else {
                Kind::Read
            };
            let invoked = self.shared.started.elapsed();
            let outcome = match &kind {
                Kind::Write(value) => self.kv.set(&key, value).map(Outcome::Written),
                Kind::Read => self.kv.get(&key).map(Outcome::Read),
            };
            let mut history = self.shared.history();
            let broken = outcome
                .as_ref()
                .err()
                .map(|e| format!("connection {}: {e:#}", self.number));
            history.operations.push(Operation {
                connection: self.number,
                key,
                kind,
                invoked,
                returned: self.shared.started.elapsed(),
                outcome: outcome.unwrap_or(Outcome::Unknown),
            });
            if let Some(why) = broken {
                history.broken.push(why);
                return;
            }
            drop(history);
            thread::sleep(self.plan.rest);
        }
    }
}
