//! squid as the corporate web proxy: it wants to know who asks, and allows `CONNECT` to the hub only.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::git::listens;
use crate::{Host, Process, wait};

/// Port on which it listens.
pub const PORT: u16 = 3128;

/// A running proxy; ends when dropped.
pub struct Squid {
    process: Process,
    access: PathBuf,
}

impl Squid {
    /// Starts it on a host, for one user by Basic authentication, with one way out. Its files are in `dir`, which others must be
    /// able to enter.
    pub fn start(host: &Host, user: &str, password: &str, exit: SocketAddr, dir: &Path) -> Result<Self> {
        let hash = Command::new("openssl")
            .args(["passwd", "-apr1", "--", password])
            .output()?;
        ensure!(hash.status.success(), "openssl passwd failed");
        let users = dir.join(format!("{}-squid-users", host.name()));
        fs::write(&users, format!("{user}:{}", String::from_utf8(hash.stdout)?))?;
        let helper = format!("/usr/lib/squid/basic_ncsa_auth {}", users.display());
        Self::run(host, "basic", &helper, exit, dir)
    }

    /// The same by NTLM, for whoever speaks it: its helper goes through the whole exchange, and believes every password.
    pub fn ntlm(host: &Host, exit: SocketAddr, dir: &Path) -> Result<Self> {
        Self::run(host, "ntlm", "/usr/lib/squid/ntlm_fake_auth", exit, dir)
    }

    fn run(host: &Host, scheme: &str, helper: &str, exit: SocketAddr, dir: &Path) -> Result<Self> {
        let root = dir.join(format!("{}-squid", host.name()));
        fs::create_dir_all(&root)?;
        let realm = match scheme {
            "basic" => "auth_param basic realm corporate",
            _ => "",
        };
        let (at, access) = (host.at(PORT), root.join("access.log"));
        let config = root.join("squid.conf");
        fs::write(
            &config,
            format!(
                r"http_port {at}
auth_param {scheme} program {helper}
auth_param {scheme} children 2
{realm}
acl known proxy_auth REQUIRED
acl hub dst {hub}
acl hub_port port {port}
http_access allow CONNECT known hub hub_port
http_access deny all
access_log stdio:{access} squid
cache_log {root}/cache.log
cache deny all
cache_mem 8 MB
pid_filename {root}/squid.pid
coredump_dir {root}
shutdown_lifetime 0 seconds
netdb_filename none
pinger_enable off
visible_hostname proxy.example
dns_nameservers 127.0.0.1
",
                root = root.display(),
                hub = exit.ip(),
                port = exit.port(),
                access = access.display(),
            ),
        )?;
        let root_text = root.to_str().context("the path is no text")?;
        ensure!(
            Command::new("chown")
                .args(["-R", "proxy", root_text])
                .status()?
                .success(),
            "there is no user `proxy`: is squid installed?"
        );
        let config = config.to_str().context("the path is no text")?;
        let log = dir.join(format!("{}-squid.log", host.name()));
        let mut process = Process::start(host, "squid", &["-N", "-f", config], &log)?;
        process.wait_until(wait::SOON, "squid to listen", |_| listens(host, at))?;
        Ok(Self { process, access })
    }

    /// What went through, and what was refused.
    pub fn access_log(&self) -> String {
        fs::read_to_string(&self.access).unwrap_or_default()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
