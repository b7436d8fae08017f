//! Looks at this machine: configuration, state, identity, clock, the running process and what it keeps.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use hawser_gateway::admin::Summary;
use hawser_identity::{Credentials, Issuer, file};
use hawser_proto::UnixTime;
use serde_json::Value;

use super::Findings;
use crate::{
    admin,
    config::Config,
    daemon::{self, Which},
    failure, when,
};

/// How far a file's time may lie ahead of the clock before the clock is suspected.
const CLOCK_SLACK: Duration = Duration::from_secs(120);
/// An issuer that ends sooner wants its root's key.
const ISSUER_SOON: Duration = Duration::from_secs(14 * 86400);

pub(super) fn config(path: &Path, findings: &mut Findings) -> Option<Config> {
    match daemon::load(path, Which::All) {
        Ok(config) => {
            let tables = match (&config.hub, &config.gateway) {
                (Some(_), Some(_)) => "hub and gateway",
                (Some(_), None) => "hub",
                _ => "gateway",
            };
            findings.ok("config", format!("{}: {tables}", path.display()));
            Some(config)
        }
        Err(e) => {
            for line in e.to_string().lines() {
                findings.fail(
                    "config",
                    line,
                    "correct the file; `hawser check` reads it the same way",
                );
            }
            None
        }
    }
}

/// The state directory: there, of the right owner, closed to others. False when nothing more can be found out.
pub(super) fn state(directory: &Path, what: &str, findings: &mut Findings) -> bool {
    let check = format!("{what} state");
    let about = match std::fs::metadata(directory) {
        Ok(m) if m.is_dir() => m,
        Ok(_) => {
            findings.fail(
                check,
                format!("{} is no directory", directory.display()),
                "name another one as state",
            );
            return false;
        }
        Err(e) => {
            let advice = if what == "hub" {
                "start the hub once"
            } else {
                "run `hawser domain init` or `hawser join`"
            };
            findings.fail(check, format!("{}: {e}", directory.display()), advice);
            return false;
        }
    };
    let me = own_user();
    if about.uid() != me {
        findings.warn(
            check.clone(),
            format!(
                "{} belongs to user {}, this is user {me}",
                directory.display(),
                about.uid()
            ),
            "run hawser and its commands as one user",
        );
    }
    let mut open = Vec::new();
    if about.mode() & 0o077 != 0 {
        open.push((directory.to_path_buf(), "700"));
    }
    for name in [
        file::ROOT_KEY,
        file::ISSUER_KEY,
        file::NODE_KEY,
        file::HUB_KEY,
        "hawser.db",
    ] {
        let path = directory.join(name);
        if std::fs::metadata(&path).is_ok_and(|m| m.mode() & 0o077 != 0) {
            open.push((path, "600"));
        }
    }
    for (path, mode) in &open {
        findings.fail(
            check.clone(),
            format!("{} is open to other users", path.display()),
            format!("chmod {mode} {}", path.display()),
        );
    }
    if open.is_empty() {
        findings.ok(check, format!("{}, closed to others", directory.display()));
    }
    clock_by_files(directory, what, findings);
    true
}

/// Files that were written in the future say that the clock went back.
fn clock_by_files(directory: &Path, what: &str, findings: &mut Findings) {
    let now = SystemTime::now();
    let ahead = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok()?.modified().ok()?.duration_since(now).ok())
        .max();
    if let Some(ahead) = ahead.filter(|a| *a > CLOCK_SLACK) {
        findings.fail(
            format!("{what} clock"),
            format!(
                "files in {} are {} ahead of this machine's clock",
                directory.display(),
                when::span(ahead)
            ),
            "set the clock; run a time service",
        );
    }
}

/// The gateway's certificate and, on an issuer, the issuer's.
pub(super) fn identity(directory: &Path, findings: &mut Findings) -> Option<Credentials> {
    let own = match Credentials::load(directory) {
        Ok(own) => own,
        Err(e) => {
            findings.fail(
                "identity",
                failure::message(&e.into()),
                "run `hawser domain init` or `hawser join`",
            );
            return None;
        }
    };
    findings.ok("identity", format!("{}, root {}", own.id(), own.root()));
    let now = UnixTime::now();
    if now < own.not_before() {
        findings.fail(
            "clock",
            format!(
                "the certificate begins {}: this machine's clock is behind",
                when::relative(own.not_before())
            ),
            "set the clock; run a time service",
        );
    } else {
        findings.ok(
            "clock",
            format!("{}, within the certificate's time", when::date(now)),
        );
    }
    let (ends, half) = (own.not_after(), UnixTime::from(own.half_life()));
    let found = format!("ends {} ({})", when::relative(ends), when::date(ends));
    if ends <= now {
        findings.fail(
            "certificate",
            found,
            "it was not renewed in time: was this gateway, or every issuer of its domain, away? Issuers renew on start; \
             elsewhere join again with a token of `hawser token gateway`, under a new name",
        );
    } else if half < now {
        findings.warn(
            "certificate",
            format!("{found}, should be renewed since {}", when::date(half)),
            "renewal needs this gateway and an issuer of its domain connected to one hub; see the log",
        );
    } else {
        findings.ok(
            "certificate",
            format!("{found}, renewed {}", when::relative(half)),
        );
    }
    if directory.join(file::ISSUER_KEY).exists() {
        issuer(directory, now, findings);
    }
    Some(own)
}

fn issuer(directory: &Path, now: UnixTime, findings: &mut Findings) {
    match Issuer::load(directory) {
        Err(e) => findings.fail(
            "issuer",
            failure::message(&e.into()),
            "restore issuer.crt and issuer.key",
        ),
        Ok(issuer) => {
            let found = format!("{} ends {}", issuer.id(), when::relative(issuer.not_after()));
            if issuer.not_after() <= now {
                findings.fail(
                    "issuer",
                    found,
                    "certify a new issuer with the root's key: nothing of this domain can be renewed",
                );
            } else if now.until(issuer.not_after()) < ISSUER_SOON {
                findings.warn(
                    "issuer",
                    found,
                    "have the root's key at hand: a new issuer must be certified before then",
                );
            } else {
                findings.ok("issuer", found);
            }
        }
    }
}

/// The status of the gateway that runs here.
pub(super) async fn running(directory: &Path, findings: &mut Findings) -> Option<Value> {
    match admin::ask(directory, "/status").await {
        Ok(Some(status)) => {
            findings.ok("process", "a gateway runs here");
            Some(status)
        }
        Ok(None) => {
            findings.warn("process", "no gateway runs here", "start it with `hawser run`");
            None
        }
        Err(e) => {
            findings.fail(
                "process",
                failure::message(&e),
                "run this as the user who runs hawser",
            );
            None
        }
    }
}

pub(super) fn peers(summary: &Summary, findings: &mut Findings) {
    if summary.peers.is_empty() {
        return findings.warn(
            "peers",
            "none: this gateway talks with no other domain",
            "exchange peering tokens: `hawser domain peer token`, `hawser domain peer accept`",
        );
    }
    let names: Vec<String> = summary.peers.iter().map(|p| p.domain.to_string()).collect();
    findings.ok("peers", names.join(" "));
}

pub(super) async fn services(directory: &Path, findings: &mut Findings) {
    let services = match admin::ask(directory, "/services").await {
        Ok(services) => services.unwrap_or_default(),
        Err(e) => return findings.fail("services", failure::message(&e), "restart the gateway"),
    };
    let all: Vec<&Value> = services.as_array().into_iter().flatten().collect();
    let healthy = |s: &&&Value| {
        let gateways = s.get("gateways").and_then(Value::as_array);
        gateways.is_some_and(|g| g.iter().any(|g| g.get("healthy") == Some(&Value::Bool(true))))
    };
    let well = all.iter().filter(healthy).count();
    match (all.len(), well) {
        (0, _) => findings.warn(
            "services",
            "none can be called from here",
            "the hub needs a [[hub.allow]] rule from this domain, and a gateway of the other domain must be connected",
        ),
        (n, w) if w < n => {
            findings.warn("services", format!("{n}, {} of them unhealthy", n - w), "see `hawser services`");
        }
        (n, _) => findings.ok("services", format!("{n} can be called from here")),
    }
}

fn own_user() -> u32 {
    std::fs::metadata("/proc/self").map(|m| m.uid()).unwrap_or(0)
}
