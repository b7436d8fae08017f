//! A certificate authority that speaks ACME (Let's Encrypt's Pebble), and an authoritative DNS server that it believes (Knot).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{Host, Process, authority::Authority, curl::Curl, wait};

/// The zone that the DNS server has.
pub const ZONE: &str = "acme.example";
/// Name of the TSIG key that may change it.
pub const KEY_NAME: &str = "hawser";
/// The TSIG key, in base64.
pub const KEY: &str = "Wm9uZXMgYXJlIGNoYW5nZWQgYnkgdGhpcyBrZXkgb25seQ==";

/// Name and key (in base64url) of an account at the authority's shop.
pub const CUSTOMER: (&str, &str) = (
    "kid-1",
    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
);

const ACME_PORT: u16 = 14_000;
const MANAGEMENT_PORT: u16 = 15_000;

/// A running authoritative DNS server; ends when dropped.
pub struct Dns {
    _process: Process,
    at: SocketAddr,
    socket: PathBuf,
}

impl Dns {
    /// Starts one for [`ZONE`] with these further records (zone file syntax). Files go to `dir`.
    pub fn start(host: &Host, records: &str, dir: &Path) -> Result<Self> {
        let at = host.at(53);
        let dir = dir.join("dns");
        fs::create_dir(&dir)?;
        let socket = dir.join("knot.sock");
        let d = dir.display();
        fs::write(
            dir.join("zone"),
            format!(
                "$ORIGIN {ZONE}.\n$TTL 60\n@ SOA ns1 admin 1 3600 600 86400 60\n@ NS ns1\nns1 A {}\n{records}\n",
                at.ip()
            ),
        )?;
        fs::write(
            dir.join("knot.conf"),
            format!(
                "server:\n  listen: {}@53\n  rundir: {d}\n  pidfile: {d}/pid\ncontrol:\n  listen: {}\nlog:\n- target: stderr\n  \
                 any: info\ndatabase:\n  storage: {d}\n  journal-db-max-size: 64M\nkey:\n- id: {KEY_NAME}\n  algorithm: \
                 hmac-sha256\n  secret: {KEY}\nacl:\n- id: change\n  key: {KEY_NAME}\n  action: update\nzone:\n- domain: {ZONE}\n  \
                 file: {d}/zone\n  acl: change\n  zonefile-sync: -1\n",
                at.ip(),
                socket.display(),
            ),
        )?;
        let config = dir.join("knot.conf").display().to_string();
        let mut process = Process::start(host, "knotd", &["-c", &config], &dir.join("log"))?;
        let (own, to) = (host.clone(), at);
        process.wait_until(wait::SOON, "the DNS server to listen", |p| {
            let listens = own.enter(|| std::net::TcpStream::connect(to).is_ok());
            p.log().contains("loaded, serial") && listens.unwrap_or(false)
        })?;
        Ok(Self {
            _process: process,
            at,
            socket,
        })
    }

    /// Where it answers.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Lines of a shell script that do to a TXT record what the words `add|remove NAME VALUE` say.
    pub fn script(&self) -> String {
        format!(
            "k='knotc -s {}'\n$k zone-begin {ZONE} || exit 1\ncase $1 in\nadd) $k zone-set {ZONE} \"$2.\" 60 TXT \"\\\"$3\\\"\" ;;\n\
             remove) $k zone-unset {ZONE} \"$2.\" TXT \"\\\"$3\\\"\" ;;\nesac || {{ $k zone-abort {ZONE}; exit 1; }}\n\
             $k zone-commit {ZONE}\n",
            self.socket.display()
        )
    }

    /// The zone's records as the server has them now.
    pub fn zone(&self) -> Result<String> {
        self.control(&["zone-read", ZONE])
    }

    /// Has these be all the records of a name and type, with data as in a zone file.
    pub fn set(&self, name: &str, kind: &str, values: &[&str]) -> Result<()> {
        let owner = format!("{name}.");
        self.control(&["zone-begin", ZONE])?;
        // There may be none.
        let _ = self.control(&["zone-unset", ZONE, &owner, kind]);
        for value in values {
            self.control(&["zone-set", ZONE, &owner, "60", kind, value])?;
        }
        self.control(&["zone-commit", ZONE])?;
        Ok(())
    }

    fn control(&self, words: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new("knotc");
        let out = command.arg("-s").arg(&self.socket).args(words).output()?;
        anyhow::ensure!(out.status.success(), "knotc {words:?}: {out:?}");
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// A running Pebble; ends when dropped. It rejects a share of good nonces on purpose, and uses no authorization twice.
pub struct Pebble {
    process: Process,
    at: SocketAddr,
    roots: PathBuf,
}

impl Pebble {
    /// Starts one that asks `dns`, and issues certificates with a life of `seconds`. `authority` vouches for its own server.
    pub fn start(host: &Host, dns: &Dns, authority: &Authority, seconds: u64, dir: &Path) -> Result<Self> {
        Self::start_for(host, dns, authority, seconds, dir, false)
    }

    /// The same; with `customers`, accounts must be bound to [`CUSTOMER`].
    pub fn start_for(
        host: &Host,
        dns: &Dns,
        authority: &Authority,
        seconds: u64,
        dir: &Path,
        customers: bool,
    ) -> Result<Self> {
        let (at, management) = (host.at(ACME_PORT), host.at(MANAGEMENT_PORT));
        let (certificate, key) = authority.issue(&at.ip().to_string())?;
        let config = dir.join("pebble.json");
        let settings = json!({ "pebble": {
            "listenAddress": at.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": 5002,
            "tlsPort": 5001,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": customers,
            "externalAccountMACKeys": { CUSTOMER.0: CUSTOMER.1 },
            "certificateValidityPeriod": seconds,
        }});
        fs::write(&config, settings.to_string())?;
        let config = config.to_str().context("the path is no text")?;
        let dns = dns.at().to_string();
        let args = ["-config", config, "-dnsserver", &dns];
        let mut process = Process::start_with(host, "pebble", &args, &dir.join("pebble.log"), |command| {
            command
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_WFE_NONCEREJECT", "15")
                .env("PEBBLE_AUTHZREUSE", "0");
        })?;
        let ask = |path: &str| {
            Curl::new(host, format!("https://{management}{path}")).args([
                "--cacert".to_owned(),
                authority.certificate().display().to_string(),
            ])
        };
        process.wait_until(wait::SOON, "the authority to answer", |_| {
            ask("/roots/0").expect(200).is_ok()
        })?;
        let roots = dir.join("pebble-root.pem");
        fs::write(&roots, ask("/roots/0").expect(200)?.body)?;
        Ok(Self { process, at, roots })
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.at)
    }

    /// File with the root of the certificates that it issues.
    pub fn roots(&self) -> &Path {
        &self.roots
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
