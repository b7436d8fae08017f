//! A steady load of small calls that notices every one that is lost.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::Host;

/// Calls made so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Answered with 200 and the whole body.
    pub good: u64,
    /// What was wrong with each of the others, at most the first hundred.
    pub lost: Vec<String>,
    /// The longest time that a good one took.
    pub slowest: Duration,
}

/// Workers that call until told to stop. Each call is a connection of its own, since with keep-alive a server that ends one
/// between two requests loses a request by HTTP/1.1's own rules.
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts workers on a host that send `GET target` with this `Host` to an address.
    pub fn start(host: &Host, to: SocketAddr, target: &str, authority: &str, workers: usize) -> Self {
        let mut own = Self {
            stop: Arc::default(),
            good: Arc::default(),
            tally: Arc::default(),
            workers: Vec::new(),
        };
        let request = format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        let spawn = |_| {
            let (host, request) = (host.clone(), request.clone());
            let (stop, good, tally) = (own.stop.clone(), own.good.clone(), own.tally.clone());
            thread::spawn(move || {
                if let Err(e) = host.move_thread() {
                    note(&tally, Err(e));
                }
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let outcome = call(to, &request).map(|()| begun.elapsed());
                    good.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
                    note(&tally, outcome);
                }
            })
        };
        own.workers = (0..workers).map(spawn).collect();
        own
    }

    /// Good calls so far.
    pub fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    /// Waits until so many more calls went well.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.good() + more;
        crate::wait::for_condition(Duration::from_secs(60), "calls to go on under load", || {
            self.good() >= goal
        })
        .with_context(|| format!("lost so far: {:?}", self.so_far().lost))
    }

    /// What came of them so far.
    pub fn so_far(&self) -> Tally {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tally.good = self.good();
        tally
    }

    /// Ends it, once the calls under way have ended.
    pub fn stop(mut self) -> Tally {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn note(tally: &Mutex<Tally>, outcome: Result<Duration>) {
    const KEPT: usize = 100;
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(time) => tally.slowest = tally.slowest.max(time),
        Err(e) if tally.lost.len() < KEPT => tally.lost.push(format!("{e:#}")),
        Err(_) => {}
    }
}

fn call(to: SocketAddr, request: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("receive, after {} bytes", answer.len()))?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("no whole head: {answer:?}")
    };
    ensure!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    let head = head.to_lowercase();
    if let Some((_, rest)) = head.split_once("content-length:") {
        let len: usize = rest.lines().next().unwrap_or_default().trim().parse()?;
        ensure!(body.len() == len, "{} of {len} bytes", body.len());
    } else {
        ensure!(body.ends_with("0\r\n\r\n"), "the body broke off: {body:?}");
    }
    Ok(())
}
