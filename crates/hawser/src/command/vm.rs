//! `hawser vm run`: a machine from its description, started so that it can be protected.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, bail};
use hawser_protect::{
    guest::{Qmp, Timeouts},
    vm::{Accel, Accelerator, CommandLine, Description, NicDescription, Plan, choose_accelerator},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::machines::{VmCommand, VmRunArgs},
    failure, terminal,
};

pub(super) fn run(command: VmCommand) -> anyhow::Result<()> {
    match command {
        VmCommand::Run(args) => start(&args),
    }
}

fn start(args: &VmRunArgs) -> anyhow::Result<()> {
    let file = &args.file;
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let plan = Description::parse(&text)?.check()?;
    let directory = env::current_dir().context("there is no working directory")?;
    let line = plan.command_line(accelerator(&plan), &directory);
    if args.print {
        return terminal::print(&format!("{}\n", shown(&line)));
    }
    let on_terminal = plan.description().serial.as_deref() == Some("stdio");
    if args.daemonize && on_terminal {
        bail!(
            "serial = \"stdio\" needs a terminal, and --daemonize gives it up: use \"file:PATH\" or \"unix:PATH\""
        );
    }
    let mut make = fs::DirBuilder::new();
    let made = make.recursive(true).mode(0o700).create(plan.directory());
    made.with_context(|| format!("{} cannot be made", plan.directory().display()))?;
    let taps = Taps::prepare(&plan)?;
    if args.daemonize {
        daemonize(&plan, &line)?;
        taps.leave();
        return Ok(());
    }
    super::small(foreground(&plan, &line, on_terminal))
}

fn accelerator(plan: &Plan) -> Accelerator {
    let description = plan.description();
    match description.accel {
        Accel::Kvm => Accelerator::Kvm,
        Accel::Tcg => Accelerator::Tcg,
        Accel::Auto => {
            let mut firmware = Vec::new();
            let mut words = description.arguments.iter();
            while let Some(word) = words.next() {
                if matches!(word.as_str(), "-L" | "--L") {
                    firmware.extend([Some(word), words.next()].into_iter().flatten().cloned());
                }
            }
            let verdict = choose_accelerator(&program(&description.qemu), &firmware, &runtime());
            eprintln!("hawser: accelerator {}: {}", verdict.accelerator, verdict.reason);
            verdict.accelerator
        }
    }
}

/// The program as the shell would find it.
fn program(name: &Path) -> PathBuf {
    let paths = env::var_os("PATH").filter(|_| name.components().count() == 1);
    let found = paths.and_then(|p| env::split_paths(&p).map(|d| d.join(name)).find(|f| f.is_file()));
    found.unwrap_or_else(|| name.into())
}

/// A directory that is emptied when the machine restarts.
fn runtime() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/run/hawser".into();
    }
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    own.unwrap_or_else(env::temp_dir).join("hawser")
}

/// The command line as a shell would read it.
fn shown(line: &CommandLine) -> String {
    let quoted = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.to_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let program = line.program.display().to_string();
    let words = std::iter::once(&program).chain(&line.args);
    words.map(|w| quoted(w)).collect::<Vec<_>>().join(" ")
}

fn daemonize(plan: &Plan, line: &CommandLine) -> anyhow::Result<()> {
    let mut command = Command::new(&line.program);
    command.args(&line.args).arg("-daemonize").stdin(Stdio::null());
    let status = command
        .status()
        .with_context(|| format!("{} cannot be started", line.program.display()))?;
    ended(status)?;
    terminal::print(&format!(
        "{} runs; QMP at {}\n",
        plan.description().name,
        plan.qmp().display()
    ))
}

/// Runs until QEMU ends. Signals press the power button first; a second one kills.
async fn foreground(plan: &Plan, line: &CommandLine, on_terminal: bool) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("signals cannot be received");
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let mut hup = listen(SignalKind::hangup())?;
    let mut command = tokio::process::Command::new(&line.program);
    command.args(&line.args);
    if !on_terminal {
        // Ctrl-C is for us, who then ask the guest to end.
        command.stdin(Stdio::null()).process_group(0);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("{} cannot be started", line.program.display()))?;
    eprintln!(
        "hawser: {} runs; QMP at {}",
        plan.description().name,
        plan.qmp().display()
    );
    let mut asked = false;
    loop {
        tokio::select! {
            status = child.wait() => return ended(status.context("QEMU cannot be waited for")?),
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hup.recv() => {}
        }
        if asked {
            eprintln!("hawser: killing {}", plan.description().name);
            child.start_kill().context("QEMU cannot be killed")?;
        } else {
            asked = true;
            press_power_button(plan).await;
        }
    }
}

async fn press_power_button(plan: &Plan) {
    let (path, name) = (plan.control(), &plan.description().name);
    let press = move || -> anyhow::Result<()> {
        let mut qmp = Qmp::connect(&path, Timeouts::default())?;
        qmp.execute("system_powerdown", serde_json::json!({}))?;
        Ok(())
    };
    let pressed = tokio::task::spawn_blocking(press).await;
    match pressed.map_err(anyhow::Error::from).and_then(|p| p) {
        Ok(()) => eprintln!("hawser: pressed the power button of {name}; another signal kills it"),
        Err(e) => eprintln!(
            "hawser: {name} cannot be asked to end ({}); another signal kills it",
            failure::message(&e)
        ),
    }
}

fn ended(status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("QEMU ended with {status}; what it said stands above");
    }
    Ok(())
}

/// Tap interfaces that were made for a machine; gone when dropped.
struct Taps(Vec<String>);

impl Taps {
    fn prepare(plan: &Plan) -> anyhow::Result<Self> {
        let mut taps = Self(Vec::new());
        for nic in &plan.description().nic {
            let NicDescription::Tap { ifname, bridge, .. } = nic else {
                continue;
            };
            if !Path::new("/sys/class/net").join(ifname).exists() {
                ip(&["tuntap", "add", "dev", ifname, "mode", "tap"])?;
                taps.0.push(ifname.clone());
            }
            if let Some(bridge) = bridge {
                ip(&["link", "set", "dev", ifname, "master", bridge])?;
            }
            ip(&["link", "set", "dev", ifname, "up"])?;
        }
        Ok(taps)
    }

    /// They stay, for a machine that goes on.
    fn leave(mut self) {
        self.0.clear();
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        for tap in &self.0 {
            if let Err(e) = ip(&["link", "del", "dev", tap]) {
                eprintln!("hawser: {e}");
            }
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let line = format!("ip {}", args.join(" "));
    let output = Command::new("ip")
        .args(args)
        .output()
        .with_context(|| format!("{line} cannot be run (iproute2)"))?;
    if !output.status.success() {
        bail!(
            "{line} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
