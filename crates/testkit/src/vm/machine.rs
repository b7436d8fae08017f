//! A running guest.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{Image, Nic, Spec};
use crate::{
    Host, Process,
    net::{self, sweep},
    proc::tail,
    wait,
};

/// Slack for a guest's start on a busy machine without hardware virtualisation.
pub const BOOT: Duration = Duration::from_secs(240);

/// Killed, and its files removed, when dropped.
pub struct Machine {
    process: Process,
    spec: Spec,
    kv: SocketAddr,
    args: Vec<String>,
    dir: TempDir,
}

impl Machine {
    /// Starts QEMU on a host. The guest boots meanwhile: see [`Self::wait_up`]. With `-incoming` or `-S` among
    /// [`Spec::extra`] it waits for what is to come.
    pub fn start(host: &Host, spec: &Spec) -> Result<Self> {
        sweep::once();
        for nic in &spec.nics {
            if let Nic::Tap { tap, bridge, .. } = nic {
                net::tap(host, tap, bridge)?;
            }
        }
        // Between the choice of a port and its use somebody else may take it.
        const TRIES: usize = 3;
        let taken = |e: &anyhow::Error| format!("{e:#}").contains("host forwarding");
        for _ in 1..TRIES {
            match Self::try_start(host, spec) {
                Err(e) if taken(&e) => {}
                outcome => return outcome,
            }
        }
        Self::try_start(host, spec)
    }

    fn try_start(host: &Host, spec: &Spec) -> Result<Self> {
        let image = Image::get()?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", sweep::owner()))
            .tempdir()?;
        let kv = free_port(host)?;
        let args = spec.args(dir.path(), &image, kv);
        let program = spec
            .version
            .program()
            .to_str()
            .context("QEMU's path is no text")?;
        let words: Vec<_> = args.iter().map(String::as_str).collect();
        let log = dir.path().join(format!("{}.log", spec.name));
        let process = Process::start(host, program, &words, &log)?;
        let mut own = Self {
            process,
            spec: spec.clone(),
            kv,
            args,
            dir,
        };
        let qmp = own.qmp();
        own.process
            .wait_until(wait::SOON, "its QMP socket", |process| process.listens(&qmp))?;
        Ok(own)
    }

    /// Waits until the guest's server takes connections.
    pub fn wait_up(&self) -> Result<()> {
        self.wait_serial(BOOT, "guest: up")
    }

    /// Waits until the guest's serial line showed this.
    pub fn wait_serial(&self, limit: Duration, text: &str) -> Result<()> {
        wait::until(limit, &format!("{} to say {text:?}", self.spec.name), || {
            if self.serial().contains(text) {
                return Ok(Some(()));
            }
            if !self.is_alive() {
                bail!(
                    "{} ended; it said:\n{}\n{}",
                    self.spec.version,
                    tail(&self.log()),
                    tail(&self.serial())
                );
            }
            Ok(None)
        })
        .with_context(|| format!("the guest's serial line: {}", tail(&self.serial())))
    }

    /// What it was made of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The arguments that QEMU was started with.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Where its files are: `NAME.qmp`, `NAME.serial`, `NAME.log`. Gone when this is dropped.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The socket of its QMP monitor, which serves one connection at a time.
    pub fn qmp(&self) -> PathBuf {
        self.dir.path().join(format!("{}.qmp", self.spec.name))
    }

    /// The id of the QEMU process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where the guest's server is reached from this host if its network is [`Nic::User`].
    pub fn kv(&self) -> SocketAddr {
        self.kv
    }

    /// All that the guest said on its serial line.
    pub fn serial(&self) -> String {
        let file = self.dir.path().join(format!("{}.serial", self.spec.name));
        fs::read(file)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// All that QEMU itself said.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Whether QEMU runs; a frozen one does.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    }

    /// `SIGKILL` to QEMU; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// `SIGSTOP` to QEMU.
    pub fn freeze(&self) -> Result<()> {
        self.process.freeze()
    }

    /// `SIGCONT` to QEMU.
    pub fn thaw(&self) -> Result<()> {
        self.process.thaw()
    }

    /// Waits for QEMU's end.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait_end(limit)
    }
}

/// A port of the host's loopback that nobody has now, and at that address nobody else looks for one.
fn free_port(host: &Host) -> Result<SocketAddr> {
    let at = SocketAddr::from((net::own_loopback(), 0));
    let listener = host.enter(|| TcpListener::bind(at))??;
    Ok(listener.local_addr()?)
}
