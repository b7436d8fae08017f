//! cntlm: a local proxy that speaks NTLM to the corporate one for programs that do not.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};

use super::git::listens;
use crate::{Host, Process, wait};

/// Port on which it listens.
pub const PORT: u16 = 3129;

/// A running cntlm; ends when dropped.
pub struct Cntlm {
    _process: Process,
}

impl Cntlm {
    /// Starts it on a host, as a user of the proxy at `proxy`. Its files are in `dir`.
    pub fn start(host: &Host, user: &str, password: &str, proxy: SocketAddr, dir: &Path) -> Result<Self> {
        let at = host.at(PORT);
        let config = dir.join(format!("{}-cntlm.conf", host.name()));
        // NTLMv2 needs a block in the challenge that squid's own helper leaves out.
        fs::write(
            &config,
            format!(
                "Username {user}\nDomain ACME\nPassword {password}\nAuth NTLM\nProxy {proxy}\nListen {at}\n"
            ),
        )?;
        let config = config.to_str().context("the path is no text")?;
        let log = dir.join(format!("{}-cntlm.log", host.name()));
        let mut process = Process::start(host, "cntlm", &["-f", "-c", config], &log)?;
        process.wait_until(wait::SOON, "cntlm to listen", |_| listens(host, at))?;
        Ok(Self { _process: process })
    }
}
