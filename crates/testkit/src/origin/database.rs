//! A PostgreSQL cluster of its own, run as the user that Debian made for it.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{Host, Process};

const USER: &str = "postgres";

/// A running cluster with trust authentication, for the domain's own network only.
pub struct Postgres {
    process: Process,
}

impl Postgres {
    /// Makes and starts a cluster on a host's port; its files are in `dir`, which others must be able to enter.
    pub fn start(host: &Host, port: u16, dir: &Path) -> Result<Self> {
        let bin = newest_bin()?;
        let root = dir.join(format!("{}-postgres", host.name()));
        fs::create_dir_all(&root)?;
        let root = root.to_str().context("the path is no text")?;
        checked(Command::new("chown").args([USER, root]))?;
        let data = format!("{root}/data");
        let initdb = format!("{bin}/initdb");
        checked(Command::new("setpriv").args(AS_USER).args([
            initdb.as_str(),
            "-D",
            data.as_str(),
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]))?;
        fs::write(format!("{data}/pg_hba.conf"), "host all all 0.0.0.0/0 trust\n")?;
        let at = host.at(port);
        let postgres = format!("{bin}/postgres");
        let listen = format!("listen_addresses={}", at.ip());
        let port = format!("port={port}");
        let sockets = format!("unix_socket_directories={root}");
        let log = dir.join(format!("{}-postgres.log", host.name()));
        let mut args: Vec<&str> = AS_USER.to_vec();
        args.extend([postgres.as_str(), "-D", data.as_str()]);
        for setting in ["fsync=off", "shared_buffers=16MB", &listen, &port, &sockets] {
            args.extend(["-c", setting]);
        }
        let mut process = Process::start(host, "setpriv", &args, &log)?;
        process.wait_for_log(Duration::from_secs(60), "ready to accept connections")?;
        Ok(Self { process })
    }

    /// The postmaster's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // "Immediate shutdown": also ends its children, which a kill would leave.
        if self.process.signal(Signal::QUIT).is_ok() {
            let _ = self.process.wait_end(Duration::from_secs(10));
        }
    }
}

// The user changes, so the death signal would be forgotten: it is set once more, after the change.
const AS_USER: &[&str] = &[
    "--reuid",
    USER,
    "--regid",
    USER,
    "--init-groups",
    "--pdeathsig",
    "KILL",
    "--reset-env",
    "--",
];

fn newest_bin() -> Result<String> {
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL server: run scripts/deps test")?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    let newest = versions
        .last()
        .context("no PostgreSQL server: run scripts/deps test")?;
    Ok(format!("/usr/lib/postgresql/{newest}/bin"))
}

fn checked(command: &mut Command) -> Result<()> {
    let out = command.output()?;
    ensure!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
