//! Both parties of two-way services, made of other makers' stacks: they know nothing of Hawser.
//!
//! Each is a small program in `parties/` around a stack that is used as its makers mean it to be. It says on standard output what
//! happens, one JSON object a line, carries out the lines that it reads from standard input, and ends by SIGTERM.

pub mod alarms;
mod build;
pub mod editor;
pub mod orders;
pub mod parcels;
pub mod webhooks;

pub use build::are_installed;

use std::{
    fs::{self, File},
    io::{PipeWriter, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{Host, Process, origin::python};

/// A Java program starts slowly, and more so beside other tests.
const LIMIT: Duration = Duration::from_secs(90);

/// A running party; ends when dropped.
pub struct Party {
    process: Process,
    said: PathBuf,
    input: PipeWriter,
}

impl Party {
    /// Starts a program on a host and waits until it says that it is ready. Its files go to `dir`.
    fn start(host: &Host, program: &Path, args: &[&str], dir: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let program = program.to_str().context("the path is no text")?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = |end: &str| dir.join(format!("{}-party{n}.{end}", host.name()));
        let said = path("jsonl");
        let out = File::create(&said)?;
        let (reader, input) = std::io::pipe()?;
        let process = Process::start_with(host, program, args, &path("log"), |command| {
            command.stdin(reader).stdout(out);
            for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
                command.env_remove(name).env_remove(name.to_uppercase());
            }
        })?;
        let mut party = Self { process, said, input };
        party.wait_for("ready", |_| true)?;
        Ok(party)
    }

    /// Gives it a line to carry out.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("nobody reads {line:?}"))
    }

    /// All that happened so far.
    pub fn happenings(&self) -> Vec<Happening> {
        happenings(&self.said)
    }

    /// Waits until something happens, and returns the first such; if it does not, an error with all that did.
    pub fn wait_for(&mut self, kind: &str, is_it: impl Fn(&Happening) -> bool) -> Result<Happening> {
        let said = self.said.clone();
        let find = || {
            happenings(&said)
                .into_iter()
                .find(|h| h.kind() == kind && is_it(h))
        };
        self.process
            .wait_until(LIMIT, &format!("{kind:?} to happen"), |_| find().is_some())
            .with_context(|| {
                format!(
                    "what happened:\n{}",
                    fs::read_to_string(&said).unwrap_or_default()
                )
            })?;
        find().context("it happened, and is gone")
    }

    /// Ends it by SIGTERM; an error if that is no clean end.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait_end(LIMIT)?;
        ensure!(status.success(), "{} ended with {status}", self.said.display());
        Ok(())
    }
}

/// What happened at a party: a kind, and texts by name.
#[derive(Debug, Clone)]
pub struct Happening(Value);

impl Happening {
    fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().map(Self)
    }

    /// Its kind, as in `answer`.
    pub fn kind(&self) -> &str {
        self.text("event")
    }

    /// One of its texts; empty if it has none of that name.
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }
}

fn happenings(said: &Path) -> Vec<Happening> {
    let text = fs::read_to_string(said).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().filter_map(Happening::parse).collect()
}

/// Starts a Java program.
fn java(host: &Host, class: &str, args: &[&str], proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let path = build::java()?;
    let mut all: Vec<String> = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m"]
        .map(Into::into)
        .into();
    all.extend(java_proxy(proxy));
    all.extend(["-cp".into(), path, class.into()]);
    let all: Vec<_> = all
        .iter()
        .map(String::as_str)
        .chain(args.iter().copied())
        .collect();
    Party::start(host, Path::new("java"), &all, dir)
}

/// Options by which a Java machine uses a web proxy.
fn java_proxy(proxy: Option<SocketAddr>) -> Vec<String> {
    let options = |at: SocketAddr| {
        [
            format!("-Dhttp.proxyHost={}", at.ip()),
            format!("-Dhttp.proxyPort={}", at.port()),
        ]
    };
    proxy.map_or_else(Vec::new, |at| options(at).into())
}

/// Starts a Python program.
fn script(host: &Host, name: &str, args: &[&str], proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let path = build::sources().join("python").join(name).display().to_string();
    let proxy = proxy.map(|at| at.to_string());
    let mut all = vec![path.as_str()];
    all.extend(args.iter().copied().chain(proxy.as_deref()));
    Party::start(host, Path::new(&python::interpreter()?), &all, dir)
}

fn gsoap(host: &Host, name: &str, args: &[&str], proxy: Option<SocketAddr>, dir: &Path) -> Result<Party> {
    let proxy = proxy.map(|at| at.to_string());
    let all: Vec<_> = args.iter().copied().chain(proxy.as_deref()).collect();
    Party::start(host, &build::gsoap()?.join(name), &all, dir)
}
