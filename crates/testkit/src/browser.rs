//! A browser as a device: Debian's Chromium on a host, with passkeys of a virtual authenticator, driven by `browser/device.js`.
//! It trusts the certificate authorities in its own store and ignores no certificate.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{Host, Process, gate, origin::python::workspace};

/// The oldest Node.js that drives it.
const NODE_AT_LEAST: u32 = 20;
const START: Duration = Duration::from_secs(120);
/// Longer than any command waits in the browser.
const ANSWER: Duration = Duration::from_secs(180);

/// Whether this machine has what a browser needs; if not, a skip (a failure under `CI=true`).
pub fn possible(what: &str) -> bool {
    let modules = workspace().join("target/browser/node_modules/playwright-core");
    gate::programs(what, &["chromium", "certutil", "node"])
        && gate::need(
            node().is_some_and(|major| major >= NODE_AT_LEAST),
            what,
            "Node.js 20 or later",
        )
        && gate::need(modules.exists(), what, "playwright-core (run scripts/deps)")
}

fn node() -> Option<u32> {
    let out = Command::new("node").arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Which browser.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    /// Certificate authorities that it trusts, as PEM files.
    pub authorities: &'a [&'a Path],
    /// Host names and where they are.
    pub names: &'a [(&'a str, IpAddr)],
    /// Whether its passkeys can derive keys (WebAuthn's PRF).
    pub prf: bool,
}

/// A browser that runs, with one page. Its profile, keys included, is gone with its directory.
pub struct Browser {
    process: Process,
    answers: BufReader<UnixStream>,
}

impl Browser {
    /// Starts it on a host, with everything of its own below `dir`, which must not exist.
    pub fn start(host: &Host, dir: &Path, spec: &Spec) -> Result<Self> {
        let home = dir.join("home");
        trust(&home, spec.authorities)?;
        let names: BTreeMap<_, _> = spec
            .names
            .iter()
            .map(|(name, at)| (*name, at.to_string()))
            .collect();
        let options =
            json!({ "home": home, "profile": dir.join("profile"), "names": names, "prf": spec.prf });
        let script = workspace().join("crates/testkit/browser/device.js");
        let socket = dir.join("socket");
        let (script, at) = (script.to_string_lossy(), socket.to_string_lossy());
        let log = dir.join("log");
        let mut process = Process::start(host, "node", &[&script, &at, &options.to_string()], &log)?;
        process.wait_for_log(START, "ready\n")?;
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self {
            process,
            answers: BufReader::new(stream),
        })
    }

    /// Gives a command of `browser/device.js` and waits for its answer.
    pub fn tell(&mut self, command: &str, mut with: Value) -> Result<Value> {
        with["do"] = command.into();
        let failed = || format!("the browser was told {with}");
        writeln!(self.answers.get_mut(), "{with}").with_context(failed)?;
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).with_context(failed)?;
        ensure!(read > 0, "{}: it ended\n{}", failed(), self.log());
        let answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{}: {error}\n{}", failed(), self.log());
        }
        Ok(answer)
    }

    /// Goes to an address; gives the view that the page shows (`welcome`, `enrol`, `locked`, `messages`...).
    pub fn open(&mut self, url: &str) -> Result<String> {
        let answer = self.tell("open", json!({ "url": url }))?;
        text(&answer, "view")
    }

    /// Enrols by the link that was opened, with a passkey or without; gives the check number.
    pub fn enrol(&mut self, name: &str, passkey: bool) -> Result<String> {
        let answer = self.tell("enrol", json!({ "name": name, "passkey": passkey }))?;
        text(&answer, "check")
    }

    /// Waits for a state of the connection: `live`, `offline`, `revoked`, `locked`...
    pub fn wait_state(&mut self, state: &str) -> Result<()> {
        self.tell("state", json!({ "is": state })).map(drop)
    }

    /// Unlocks the keys with the passkey, and waits for this state.
    pub fn unlock(&mut self, state: &str) -> Result<()> {
        self.tell("unlock", json!({ "is": state })).map(drop)
    }

    /// Loads the page anew; gives the view that it shows.
    pub fn reload(&mut self) -> Result<String> {
        let answer = self.tell("reload", json!({}))?;
        text(&answer, "view")
    }

    /// Takes its network away, or gives it back.
    pub fn network(&mut self, on: bool) -> Result<()> {
        self.tell("network", json!({ "on": on })).map(drop)
    }

    /// Whether the authenticator can verify its user from now on.
    pub fn verify_user(&mut self, can: bool) -> Result<()> {
        self.tell("verify", json!({ "user": can })).map(drop)
    }

    /// Waits for a message, opens it, and gives what it shows: `kind` (`text`, `html`, `image`) and `text`.
    pub fn read(&mut self, subject: &str) -> Result<Value> {
        self.tell("read", json!({ "subject": subject }))
    }

    /// A picture of the page, as a PNG file.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        self.tell("screenshot", json!({ "path": path })).map(drop)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// A member of an answer.
fn text(answer: &Value, member: &str) -> Result<String> {
    let text = answer[member]
        .as_str()
        .with_context(|| format!("no {member} in {answer}"))?;
    Ok(text.to_owned())
}

/// A certificate store of its own, as Chromium reads it.
fn trust(home: &Path, authorities: &[&Path]) -> Result<()> {
    let store = home.join(".pki/nssdb");
    fs::create_dir_all(&store)?;
    let store = format!("sql:{}", store.display());
    certutil(&["-d", &store, "-N", "--empty-password"])?;
    for (i, file) in authorities.iter().enumerate() {
        let (name, file) = (format!("authority {i}"), file.to_string_lossy());
        certutil(&["-d", &store, "-A", "-n", &name, "-t", "C,,", "-i", &file])?;
    }
    Ok(())
}

fn certutil(args: &[&str]) -> Result<()> {
    let out = Command::new("certutil")
        .args(args)
        .output()
        .context("cannot run certutil")?;
    ensure!(
        out.status.success(),
        "certutil {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
