//! A program that runs beside the test: its log, its signals, its memory, and its certain end.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Host, wait};

/// Killed and reaped when dropped; killed by the kernel if this process dies first.
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program on a host. All it says goes to the file `log`.
    pub fn start(host: &Host, program: &str, args: &[&str], log: &Path) -> Result<Self> {
        Self::start_with(host, program, args, log, |_| {})
    }

    /// The same, with a last change to the command (environment, directory, standard input).
    pub fn start_with(
        host: &Host,
        program: &str,
        args: &[&str],
        log: &Path,
        change: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        // Both `setpriv` and `ip netns exec` become the program itself, so its id is the child's.
        let mut command = host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(args);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // Ctrl-C in a terminal is for us, who then end it, and not for it.
        command.process_group(0);
        change(&mut command);
        let what = format!("{program} on {}", host.name());
        let child = spawn(command).with_context(|| format!("cannot start {what}"))?;
        Ok(Self {
            child,
            what,
            log: log.into(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it said so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Waits until it said this; an error with its log if it ends first.
    pub fn wait_for_log(&mut self, limit: Duration, text: &str) -> Result<()> {
        let what = format!("{} to say {text:?}", self.what);
        self.wait_until(limit, &what, |own| own.log().contains(text))
    }

    /// Waits for a condition as long as it runs; an error with the end of its log if it does not come, or if it ends first.
    pub fn wait_until(&mut self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let outcome = wait::until(limit, what, || {
            if holds(self) {
                return Ok(Some(()));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before: {what}", self.what);
            }
            Ok(None)
        });
        outcome.with_context(|| format!("log of {}:\n{}", self.what, tail(&self.log())))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no such process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.what))
    }

    /// `SIGKILL`, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `SIGSTOP`: it is silent from now on, while its connections stay open. Returns when every thread of it stands still.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let what = format!("{} to stand still", self.what);
        wait::for_condition(wait::SOON, &what, || stands(self.id()))
    }

    /// `SIGCONT`.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it takes connections at this socket: between the socket's file and that there is a moment.
    pub fn listens(&self, socket: &Path) -> bool {
        let sockets = fs::read_to_string(format!("/proc/{}/net/unix", self.id())).unwrap_or_default();
        sockets.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(3);
            fields.next() == Some(LISTENING) && fields.nth(3).map(Path::new) == Some(socket)
        })
    }

    /// Waits for its end.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.what);
        wait::until(limit, &what, || Ok(self.child.try_wait()?))
    }

    /// The most memory that it ever had resident since [`Self::reset_peak`], in bytes (`VmHWM`).
    pub fn peak_memory(&self) -> Result<u64> {
        self.status_field("VmHWM:")
    }

    /// The memory that it has resident now, in bytes (`VmRSS`).
    pub fn memory(&self) -> Result<u64> {
        self.status_field("VmRSS:")
    }

    /// Makes `VmHWM` what is resident now.
    pub fn reset_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.id()), "5")?)
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    fn status_field(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .context("no memory in its status")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Flags of a socket in `/proc/net/unix` that listens (`__SO_ACCEPTCON`).
const LISTENING: &str = "00010000";

/// Whether no thread of a process runs: a stop signal reaches them one after the other.
fn stands(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .all(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't', 'Z', 'X']))
        })
}

/// The last lines of a text.
pub fn tail(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// `pdeathsig` fires when the *thread* that started a child ends, so one thread that lives as long as the process starts all.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts programs is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}
