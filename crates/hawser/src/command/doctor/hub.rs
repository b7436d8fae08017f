//! Looks at a hub from inside: does it answer at its own address, with its own key, and has it anybody to serve?

use std::time::Duration;

use hawser_hub::HubConfig;
use hawser_identity::{Fingerprint, HubIdentity, file, tls};
use hawser_store::Store;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{Findings, local};
use crate::{admin, beside, failure};

pub(super) async fn look(config: &HubConfig, timeout: Duration, findings: &mut Findings) {
    if !local::state(&config.state, "hub", findings) {
        return;
    }
    if !config.state.join(file::HUB_KEY).exists() {
        return findings.fail(
            "hub key",
            "there is none yet",
            "start the hub once, with `hawser run`",
        );
    }
    let pin = match HubIdentity::load_or_create(&config.state) {
        Ok(identity) => identity.pin(),
        Err(e) => {
            return findings.fail(
                "hub key",
                failure::message(&e.into()),
                "restore hub.crt and hub.key",
            );
        }
    };
    match admin::ask(&config.state, "/status").await {
        Ok(Some(_)) => {
            findings.ok("hub process", "a hub runs here");
            listening(config, pin, timeout, findings).await;
        }
        Ok(None) => findings.fail("hub process", "no hub runs here", "start it with `hawser run`"),
        Err(e) => findings.fail(
            "hub process",
            failure::message(&e),
            "run this as the user who runs hawser",
        ),
    }
    admitted(config, findings).await;
}

/// Connects to the hub's own listeners, as a joiner would.
async fn listening(config: &HubConfig, pin: Fingerprint, timeout: Duration, findings: &mut Findings) {
    let Ok(plan) = config.check() else {
        return;
    };
    for address in plan.listen() {
        let check = format!("hub listens on {address}");
        let exchange = async {
            let stream = tokio::net::TcpStream::connect(beside::reachable(*address)).await?;
            let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
            TlsConnector::from(tls::join_client(pin)?)
                .connect(name, stream)
                .await?;
            anyhow::Ok(())
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(())) => findings.ok(check, format!("answers as {pin}")),
            Ok(Err(e)) => findings.fail(
                check,
                failure::message(&e),
                "did the configuration change since the hub started? Restart it",
            ),
            Err(_) => findings.fail(
                check,
                "no answer",
                "is a local firewall rule in the way, or the hub overloaded?",
            ),
        }
    }
}

async fn admitted(config: &HubConfig, findings: &mut Findings) {
    let domains = match Store::open(&config.state) {
        Ok(store) => hawser_hub::admitted(&store).await.map_err(anyhow::Error::from),
        Err(e) => Err(e.into()),
    };
    let names: Vec<String> = match domains {
        Ok(domains) => domains.iter().map(|d| d.domain.to_string()).collect(),
        Err(e) => {
            return findings.fail(
                "admitted",
                failure::message(&e),
                "is the disk full, or the database of a newer version?",
            );
        }
    };
    if names.is_empty() {
        findings.warn(
            "admitted",
            "no domain",
            "make each a token: `hawser token hub DOMAIN`",
        );
    } else {
        findings.ok("admitted", names.join(" "));
    }
    if config.allow.is_empty() {
        findings.warn(
            "hub policy",
            "no [[hub.allow]] rule: no domain may call another",
            "add rules, then reload",
        );
        return;
    }
    let mut unknown: Vec<&str> = config
        .allow
        .iter()
        .flat_map(|rule| [rule.from.as_str(), rule.to.as_str()])
        .filter(|name| !names.iter().any(|n| n == name))
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    if unknown.is_empty() {
        findings.ok(
            "hub policy",
            format!("{} rules, all for domains that are admitted", config.allow.len()),
        );
    } else {
        findings.warn(
            "hub policy",
            format!("rules name domains that are not admitted: {}", unknown.join(" ")),
            "make each a token: `hawser token hub DOMAIN`; or is a name mistyped?",
        );
    }
}
