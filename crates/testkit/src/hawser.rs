//! The real binary: built once, run as an operator runs it.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::{Host, Process, origin::python::workspace, wait, web};

/// Port of the admin listener, on each host's own loopback.
pub const ADMIN_PORT: u16 = 9180;

/// The binary: `HAWSER_BIN`, or what cargo builds of this workspace.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| find().map_err(|e| format!("{e:#}"))) {
        Ok(path) => Ok(path),
        Err(why) => bail!("{why}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("HAWSER_BIN") {
        return Ok(given.into());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "hawser"])
        .current_dir(workspace())
        .status()?;
    ensure!(built.success(), "the binary does not build");
    let own = std::env::current_exe()?;
    let found = own
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("hawser"))
        .find(|p| p.is_file());
    found.context("no hawser binary beside this program's: set HAWSER_BIN")
}

/// Runs a command of the binary on a host, with this text on its standard input, to its end.
pub fn run(host: &Host, config: &Path, args: &[&str], input: &str) -> Result<String> {
    let (out, err, ok) = try_run(host, config, args, input)?;
    ensure!(ok, "hawser {} on {}: {err}{out}", args.join(" "), host.name());
    Ok(out)
}

/// The same whatever its end: standard output, standard error, whether it succeeded.
pub fn try_run(host: &Host, config: &Path, args: &[&str], input: &str) -> Result<(String, String, bool)> {
    let mut command = host.command(binary()?);
    command.arg("-c").arg(config).args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // It may end without reading.
    let _ = child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(input.as_bytes());
    let out = child.wait_with_output()?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ok((text(&out.stdout), text(&out.stderr), out.status.success()))
}

/// `hawser run` on a host. Killed when dropped.
pub struct Daemon {
    /// The process.
    pub process: Process,
    host: Host,
    config: PathBuf,
    state: PathBuf,
    admin: SocketAddr,
}

impl Daemon {
    /// Starts it, and waits until its admin listener answers. State directory and configuration are its own; what the
    /// configuration says of `[admin]` must be [`admin_table`].
    pub fn start(host: &Host, config: &Path, state: &Path, log: &Path) -> Result<Self> {
        Self::start_as(host, config, state, log, &["run"], ADMIN_PORT)
    }

    /// The same for another command than `run`, as in `hub`, and another port of the admin listener ([`admin_table_at`]).
    pub fn start_as(
        host: &Host,
        config: &Path,
        state: &Path,
        log: &Path,
        words: &[&str],
        admin_port: u16,
    ) -> Result<Self> {
        let program = binary()?.to_str().context("the binary's path is no text")?;
        let config_text = config.to_str().context("the configuration's path is no text")?;
        let words = [&["-c", config_text], words].concat();
        let process = Process::start(host, program, &words, log)?;
        let admin = host.local(admin_port);
        let mut own = Self {
            process,
            host: host.clone(),
            config: config.into(),
            state: state.into(),
            admin,
        };
        let at = own.host.clone();
        own.process
            .wait_until(wait::SOON, "its admin listener to answer", |_| {
                web::fetch(&at, admin, "/healthz").is_ok_and(|(status, _)| status == 200)
            })?;
        Ok(own)
    }

    /// Waits until it says that it can do its job: a gateway is connected, a hub listens.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let (host, admin) = (self.host.clone(), self.admin);
        self.process
            .wait_until(limit, "/readyz to say that it is ready", |_| {
                web::fetch(&host, admin, "/readyz").is_ok_and(|(status, _)| status == 200)
            })
    }

    /// Waits until the hub lets so many names be published: a gateway is ready once it is connected, and hears of that a moment
    /// later.
    pub fn wait_published(&self, limit: Duration, names: usize) -> Result<()> {
        wait::for_condition(limit, "the hub to let the names be published", || {
            let said = self.ask("/status").unwrap_or_default();
            let all = said["published"].as_array().cloned().unwrap_or_default();
            all.iter().filter(|n| n["allowed"] == true).count() == names
        })
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Runs another command of the binary with the same configuration.
    pub fn command(&self, args: &[&str], input: &str) -> Result<String> {
        run(&self.host, &self.config, args, input)
    }

    /// The row of `hawser doctor` for this check.
    pub fn doctor(&self, check: &str) -> Result<serde_json::Value> {
        let (out, err, _) = try_run(&self.host, &self.config, &["doctor", "--json"], "")?;
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&out).with_context(|| format!("doctor: {err}{out}"))?;
        let found = rows.into_iter().find(|row| row["check"] == check);
        found.with_context(|| format!("doctor has no row {check:?}: {out}"))
    }

    /// Its status, or another page of its socket.
    pub fn ask(&self, path: &str) -> Result<serde_json::Value> {
        let (status, body) = web::fetch_unix(&self.state.join("admin.sock"), path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Its metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = web::fetch(&self.host, self.admin, "/metrics")?;
        ensure!(status == 200, "/metrics: {status} {body}");
        Ok(Metrics(body))
    }

    /// Writes a new configuration and asks for it to be taken (`SIGHUP`).
    pub fn reload(&self, config: &str) -> Result<()> {
        std::fs::write(&self.config, config)?;
        self.process.signal(Signal::HUP)
    }
}

/// The part of every configuration that this module needs.
pub fn admin_table(host: &Host) -> String {
    admin_table_at(host, ADMIN_PORT)
}

/// The same with another port, for a second process on a host.
pub fn admin_table_at(host: &Host, port: u16) -> String {
    format!(
        "[log]\nlevel = \"debug\"\n\n[admin]\nlisten = \"{}\"\n\n",
        host.local(port)
    )
}

/// What `/metrics` said.
pub struct Metrics(String);

impl Metrics {
    /// The sum of a metric's samples whose labels contain all of these texts, as in `dir="up"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.0
            .lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|l| {
                let (series, value) = l.rsplit_once(' ')?;
                let (own, with) = series.split_once('{').unwrap_or((series, ""));
                (own == name && labels.iter().all(|w| with.contains(w))).then(|| value.parse::<f64>().ok())?
            })
            .fold(0.0, |sum, value| sum + value)
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let m =
            Metrics("# TYPE b counter\nb_total{dir=\"up\",x=\"1\"} 3\nb_total{dir=\"down\"} 4\nb 9\n".into());
        assert_eq!(m.sum("b_total", &[]), 7.0);
        assert_eq!(m.sum("b_total", &["dir=\"up\""]), 3.0);
        assert_eq!(m.sum("c", &[]), 0.0);
    }
}
