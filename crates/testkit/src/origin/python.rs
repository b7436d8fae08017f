//! Servers and clients of other makers, in Python: they prove that real stacks work, not only ours.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{Host, Process};

/// A running Python server; ends when dropped.
pub struct Python {
    _process: Process,
}

impl Python {
    /// Starts `python/SCRIPT` and waits until it says that it is ready.
    pub fn start(host: &Host, script: &str, args: &[&str], dir: &Path) -> Result<Self> {
        let path = script_path(script)?;
        let log = dir.join(format!("{}-{script}.log", host.name()));
        let mut all = vec!["-u", path.as_str()];
        all.extend(args);
        let mut process = Process::start(host, &interpreter()?, &all, &log)?;
        process.wait_for_log(Duration::from_secs(60), "ready")?;
        Ok(Self { _process: process })
    }

    /// A client, to be started by its caller.
    pub fn command(host: &Host, script: &str, args: &[&str]) -> Result<std::process::Command> {
        let mut command = host.command(interpreter()?);
        command.arg(script_path(script)?).args(args);
        Ok(command)
    }

    /// Runs a client to its end; its output, or an error with it.
    pub fn run(host: &Host, script: &str, args: &[&str]) -> Result<String> {
        let path = script_path(script)?;
        let python = interpreter()?;
        let mut all = vec!["90", python.as_str(), path.as_str()];
        all.extend(args);
        let mut command = host.command("timeout");
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        let out = command.args(all).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "{script} on {}: {}\n{text}{}",
            host.name(),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(text)
    }
}

/// The interpreter that has the packages of `scripts/packages/test.pip`.
pub fn interpreter() -> Result<String> {
    let venv = workspace().join("target/venv/bin/python");
    ensure!(
        venv.exists(),
        "{} is missing: run scripts/deps test",
        venv.display()
    );
    venv.to_str().map(Into::into).context("the path is no text")
}

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).into()
}

fn script_path(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    path.to_str().map(Into::into).context("the path is no text")
}
