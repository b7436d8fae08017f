//! Protection: a virtual machine goes on, connections and all, when the host under it dies.

use std::{
    io::{BufRead, BufReader, Read},
    process::{ChildStderr, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hawser_testkit::{
    hawser,
    hosts::{GUEST, Hosts, Side, Spec},
    kv::{Clients, History, Kv, Log, Plan, check},
    net::{Hypervisors, Watch},
    vm::Version,
    wait,
};

use crate::{claims::Claims, need, tunnel::enter};

/// A host that was silent for so long counts as dead here.
const DETECT: Duration = Duration::from_millis(300);
/// For what a busy machine without hardware virtualisation does in a second or two.
const SOON: Duration = Duration::from_secs(60);
/// Acknowledged writes that are waited for where the machine is to show that it is at work.
const SOME: usize = 60;
/// The guest's load beside its clients: pages written a second, and over how many pages.
const PAGES_A_SECOND: u64 = 4000;
const PAGES: usize = 2000;
/// The rest of the counter's connection between two steps.
const STEP: Duration = Duration::from_millis(20);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(30);

/// What runs while the visitor tries it.
pub(crate) struct Protection {
    hosts: Hosts,
}

/// Builds it and proves its claims; nothing without root.
pub(crate) fn show(claims: &mut Claims) -> Result<Option<Protection>> {
    claims.section("Protection: a running machine survives the death of its host")?;
    if !rustix::process::geteuid().is_root() {
        claims.note("machines on hosts of their own need root (namespaces, QEMU's memory): sudo make demo");
        return Ok(None);
    }
    need(&["ip", "tcpdump", "qemu-system-x86_64", "busybox"])?;
    let mut spec = Spec::new(&Version::newest()?);
    spec.detect = DETECT;
    let hosts = spec.start().context("the setup")?;
    map(&hosts);
    let watch = hosts.watch()?;
    hosts.kv()?.load_memory(PAGES_A_SECOND, PAGES)?;
    let clients = hosts.clients(Plan::default())?;
    let counter = Counter::start(&hosts)?;
    let mut scene = Scene {
        hosts,
        watch,
        clients,
        counter,
    };
    if !scene.protect(claims)? {
        claims.note("the rest of this part needs what failed above");
        return Ok(None);
    }
    let Some(killed) = scene.kill(claims)? else {
        claims.note("the rest of this part needs what failed above");
        return Ok(None);
    };
    let hosts = scene.judge(claims, &killed)?;
    Ok(Some(Protection { hosts }))
}

fn map(hosts: &Hosts) {
    let spec = &hosts.spec;
    println!(
        "  host-a  runs {GUEST}: Linux in stock {} ({} MiB, a disk of {} MiB) with a key-value server on {}",
        spec.version,
        spec.memory,
        spec.disk,
        Hypervisors::guest_kv()
    );
    println!(
        "  host-b  stands by; each host has an agent (hawser host), and silence of {DETECT:?} counts as death"
    );
    println!("  hub     keeps the register that says who may run {GUEST}");
    println!(
        "  client  {} connections read and write, one more counts; the guest writes {PAGES_A_SECOND} pages a second besides",
        Plan::default().connections
    );
}

/// Everything at work.
struct Scene {
    hosts: Hosts,
    watch: Watch,
    clients: Clients,
    counter: Counter,
}

/// What was so when the host died.
struct Killed {
    at: Instant,
    /// Operations that had ended.
    operations: usize,
    counted: i64,
}

impl Scene {
    /// Whether it is protected now.
    fn protect(&mut self, claims: &mut Claims) -> Result<bool> {
        let mut protected = false;
        self.clients.wait_acknowledged(SOME, SOON)?;
        claims.claim("it is protected while it runs: no restart, no lost connection", || {
            let (before, begun) = (self.clients.acknowledged(), Instant::now());
            protect(&self.hosts)?;
            let took = begun.elapsed();
            self.clients.wait_acknowledged(SOME, SOON)?;
            let writes = self.clients.acknowledged() - before;
            let history = self.clients.history();
            ensure!(history.broken.is_empty(), "connections broke: {:?}", history.broken);
            self.counter.alive()?;
                protected = true;
            Ok(vec![format!(
                "protected after {:.1} s, in which no client waited longer than {} ms; {writes} writes acknowledged from its begin until now",
                took.as_secs_f64(),
                history.longest_wait().as_millis()
            )])
        })?;
        status(&self.hosts, Side::A)?;
        Ok(protected)
    }

    /// None if it did not go on.
    fn kill(&mut self, claims: &mut Claims) -> Result<Option<Killed>> {
        let mut goes_on = false;
        println!("  host-a loses its power: its cables go silent, and everything on it is killed");
        let killed = Killed {
            operations: self.clients.history().operations.len(),
            counted: self.counter.now(),
            at: Instant::now(),
        };
        self.hosts.power_off(Side::A)?;
        claims.claim(
            &format!("{GUEST} goes on at host-b, and so does every TCP connection"),
            || {
                let there = self.hosts.wait_role(Side::B, "alone", SOON)?;
                let outage = there["outage"].as_u64().context("host-b tells no outage")?;
                self.clients.wait_acknowledged(SOME, SOON)?;
                self.counter.wait_beyond(killed.counted + SOME as i64)?;
                let history = self.clients.history();
                let since = History {
                    operations: history.operations[killed.operations.saturating_sub(1)..].to_vec(),
                    broken: history.broken,
                };
                ensure!(since.broken.is_empty(), "connections broke: {:?}", since.broken);
                goes_on = true;
                Ok(vec![
                    format!(
                        "outage: {} ms, from the last sign of life of host-a until {GUEST} ran at host-b",
                        outage / 1000
                    ),
                    format!(
                        "the longest time in which the clients got no answer: {} ms; {} connections, none broke",
                        since.longest_gap().0.as_millis(),
                        Plan::default().connections + 1
                    ),
                    format!(
                        "the counter was at {} when the power went, and {:.1} s later at {}",
                        killed.counted,
                        killed.at.elapsed().as_secs_f64(),
                        self.counter.now()
                    ),
                ])
            },
        )?;
        status(&self.hosts, Side::B)?;
        Ok(goes_on.then_some(killed))
    }

    fn judge(self, claims: &mut Claims, killed: &Killed) -> Result<Hosts> {
        let Self {
            mut hosts,
            watch,
            clients,
            counter,
        } = self;
        let history = clients.stop();
        let acknowledged = history.acknowledged().count();
        claims.claim("everything that was acknowledged is there", || {
            let counted = counter.stop()?;
            let mut kv = hosts.kv()?;
            check::in_memory(&history, &kv.dump()?)?;
            let (_, held) = kv.get(Counter::KEY)?.context("the counter is gone")?;
            ensure!(held == counted.to_string(), "counted to {counted}, the guest holds {held}");
            kv.check()?;
            let log = Log::read(&hosts.disk(Side::B)?)?;
            check::in_log(&history, &log)?;
            Ok(vec![
                format!("{acknowledged} writes acknowledged; in the guest's memory, or overwritten by a later one: {acknowledged}"),
                format!("in the log on the disk's replica at host-b, each at its place: {acknowledged}"),
                format!("the counter: {counted} steps acknowledged, each one more than the last; the guest holds {held}"),
            ])
        })?;
        claims.claim("no client ever saw an older state: the history is linearizable", || {
            check::linearizable(&history)?;
            let after = history.operations.len() - killed.operations;
            Ok(vec![format!(
                "{} reads and writes, {} before the power went and {after} after, checked against real time",
                history.operations.len(),
                killed.operations
            )])
        })?;
        comes_back(claims, &mut hosts, &watch)?;
        Ok(hosts)
    }
}

/// The old host gets its power and its cables back.
fn comes_back(claims: &mut Claims, hosts: &mut Hosts, watch: &Watch) -> Result<()> {
    claims.claim(
        &format!("host-a comes back, and {GUEST} does not answer there"),
        || {
            hosts.net.mend()?;
            hosts.start_agent(Side::A)?;
            let recovered = hosts.a.command(&["protect", "recover"])?;
            let there = hosts.status(Side::A);
            ensure!(
                there.as_ref().is_none_or(|m| m["role"] == "gone"),
                "host-a says of {GUEST}: {there:#?}"
            );
            ensure!(hosts.qemus(Side::A)?.is_empty(), "a QEMU runs on host-a");
            hosts.kv()?.add(Counter::KEY, 1)?;
            watch.moved(&["host-a", "host-b"])?;
            let counts = watch.counts()?;
            Ok(vec![
                format!("host-a# hawser protect recover: {}", recovered.trim()),
                format!(
                    "at the switch: {} frames of {GUEST} from host-a, then {} from host-b, never from both",
                    counts["host-a"], counts["host-b"]
                ),
            ])
        },
    )
}

/// Runs `hawser protect start`, and shows what it says as it says it.
fn protect(hosts: &Hosts) -> Result<()> {
    let socket = hosts.machine.qmp();
    let mut command = hosts.a.host.command(hawser::binary()?);
    command.arg("-c").arg(&hosts.a.config);
    command.args([
        "protect",
        "start",
        GUEST,
        "--to",
        Side::B.name(),
        "--yes",
        "--qmp",
    ]);
    command.arg(&socket);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    println!("  host-a# hawser protect start {GUEST} --to host-b");
    let mut child = command.spawn()?;
    let mut seen = [("memory", None), ("disk", None)];
    let said = thread::scope(|s| {
        let reader = child.stderr.take().map(|pipe| s.spawn(move || relay(pipe)))?;
        while !reader.is_finished() {
            let status = hosts.status(Side::A).unwrap_or_default();
            for (what, how) in &mut seen {
                if let Some(now) = synchronised(&status[format!("{what}_sync")]) {
                    *how = Some(now);
                }
            }
            thread::sleep(LOOK);
        }
        reader.join().ok()
    })
    .unwrap_or_default();
    for (what, how) in seen {
        if let Some(how) = how {
            indented(&format!("({what} copied while the guest ran: {how})"));
        }
    }
    let mut out = String::new();
    child
        .stdout
        .take()
        .context("no standard output")?
        .read_to_string(&mut out)?;
    let ended = child.wait()?;
    ensure!(ended.success(), "hawser protect start: {said}{out}");
    indented(&out);
    Ok(())
}

/// Bytes that went to the other host so far, and how fast.
fn synchronised(progress: &serde_json::Value) -> Option<String> {
    let mib = |name: &str| Some(progress[name].as_f64()? / f64::from(1 << 20));
    let (done, rate) = (mib("done")?, mib("rate")?);
    Some(format!("{done:.1} MiB at {rate:.0} MiB/s"))
}

/// Prints what comes as it comes, of the plan only which options differ; returns all of it.
fn relay(pipe: ChildStderr) -> String {
    const PLAN: &str = "Its command line there differs in this:";
    let (mut all, mut planned, mut differs) = (String::new(), false, Vec::new());
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        all += &line;
        all.push('\n');
        let inside = line.starts_with("  ");
        match line.split_whitespace().next() {
            _ if line == PLAN => planned = true,
            Some(option) if planned && inside => {
                if option != "->" {
                    differs.push(option.to_owned());
                }
            }
            _ => {
                if std::mem::take(&mut planned) {
                    indented(&format!(
                        "Its command line there differs in: {}",
                        differs.join(" ")
                    ));
                }
                indented(&line);
            }
        }
    }
    all
}

/// Shows `hawser protect status` of a host.
fn status(hosts: &Hosts, side: Side) -> Result<()> {
    println!("  {}# hawser protect status", side.name());
    indented(&hosts.node(side).command(&["protect", "status"])?);
    Ok(())
}

fn indented(text: &str) {
    const WIDTH: usize = 110;
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let short: String = line.chars().take(WIDTH).collect();
        let more = if short.len() < line.len() { "..." } else { "" };
        println!("    {short}{more}");
    }
}

/// A connection that counts: each answer must be one more than the last.
struct Counter {
    at: Arc<Mutex<i64>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Counter {
    const KEY: &str = "counter";

    fn start(hosts: &Hosts) -> Result<Self> {
        let kv = hosts.kv()?;
        let (at, end) = (Arc::default(), Arc::default());
        let (its_at, its_end) = (Arc::clone(&at), Arc::clone(&end));
        let thread = Some(thread::spawn(move || count(kv, &its_at, &its_end)));
        Ok(Self { at, end, thread })
    }

    fn now(&self) -> i64 {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error if the connection broke or counted wrongly.
    fn alive(&self) -> Result<()> {
        let over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ensure!(!over, "the counter's connection ended at {}", self.now());
        Ok(())
    }

    fn wait_beyond(&self, number: i64) -> Result<()> {
        wait::until(SOON, &format!("the counter to come to {number}"), || {
            self.alive()?;
            Ok((self.now() >= number).then_some(()))
        })
    }

    /// Ends it; returns how far it came.
    fn stop(mut self) -> Result<i64> {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(outcome)) => outcome.map(|()| self.now()),
            _ => anyhow::bail!("the counter's thread died"),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn count(mut kv: Kv, at: &Mutex<i64>, end: &AtomicBool) -> Result<()> {
    let mut last = 0;
    while !end.load(Ordering::Relaxed) {
        let now = kv.add(Counter::KEY, 1)?;
        ensure!(now == last + 1, "the counter went from {last} to {now}");
        last = now;
        *at.lock().unwrap_or_else(PoisonError::into_inner) = now;
        thread::sleep(STEP);
    }
    Ok(())
}

impl Protection {
    /// Prints what to try.
    pub(crate) fn invite(&self) -> Result<()> {
        let hawser = hawser::binary()?.display();
        for node in [&self.hosts.b, &self.hosts.a] {
            println!("  {hawser} protect status -c {}", node.config.display());
        }
        let shell = enter(self.hosts.dir(), &self.hosts.net.client, "client")?;
        let at = Hypervisors::guest_kv();
        println!(
            "  echo ADD {} 1 | {shell}busybox nc {} {}        {GUEST} at host-b answers",
            Counter::KEY,
            at.ip(),
            at.port()
        );
        Ok(())
    }
}
