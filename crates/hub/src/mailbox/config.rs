//! The `[hub.mailbox]` table, and what a checked one makes the hub do.

use std::path::PathBuf;

use hawser_identity::HubAddress;
use hawser_proto::{HostName, broker::envelope::MAX_ENVELOPE};
use hawser_store::mailbox;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// A mailbox for devices outside: domains leave sealed envelopes in it, which only the device opens that they are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailboxConfig {
    /// Host name by which devices reach the mailbox, on the hub's own port: "mail.example.org". It must lead to this hub.
    pub name: String,
    /// Certificate chain for that name, a PEM file. Without one, only devices that pin the hub's key can connect, and no browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Port that devices are told. Default: that of hub.public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Bounds on what domains and devices can make the mailbox hold.
    #[serde(default)]
    pub limits: MailboxLimits,
}

/// Bounds on what domains and devices can make the mailbox hold. Over a bound the newcomer is refused, never what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxLimits {
    /// Devices of all domains.
    pub devices: usize,
    /// Devices of one domain.
    pub devices_per_domain: usize,
    /// Envelopes that wait for one device.
    pub envelopes_per_device: usize,
    /// Bytes of the envelopes that wait for one device; at least 196608.
    pub bytes_per_device: u64,
    /// Bytes of the envelopes that wait for all devices of one domain.
    pub bytes_per_domain: u64,
    /// Streams and waiting requests of all devices. Each takes a file descriptor.
    pub streams: usize,
    /// Streams and waiting requests of one device.
    pub streams_per_device: usize,
    /// Acknowledgements that wait for a domain's gateway; at least 256.
    pub reports: usize,
}

impl Default for MailboxLimits {
    fn default() -> Self {
        Self {
            devices: 100_000,
            devices_per_domain: 50_000,
            envelopes_per_device: 1000,
            bytes_per_device: 16 * 1024 * 1024,
            bytes_per_domain: 4 * 1024 * 1024 * 1024,
            streams: 50_000,
            streams_per_device: 4,
            reports: 100_000,
        }
    }
}

impl MailboxLimits {
    /// What the store needs of it.
    pub(crate) fn store(&self) -> mailbox::Limits {
        mailbox::Limits {
            devices: self.devices,
            devices_per_domain: self.devices_per_domain,
            envelopes_per_device: self.envelopes_per_device,
            bytes_per_device: self.bytes_per_device,
            bytes_per_domain: self.bytes_per_domain,
            reports: self.reports,
        }
    }
}

/// What a checked table makes the hub do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxPlan {
    /// By which name devices ask for it.
    pub name: HostName,
    /// Certificate chain and key, as PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Where devices reach it: `https://NAME[:PORT]`.
    pub url: String,
    /// Bounds.
    pub limits: MailboxLimits,
}

impl MailboxConfig {
    /// Checks everything that can be checked without touching the machine.
    pub(crate) fn check(&self, public: &HubAddress) -> Result<MailboxPlan, ConfigError> {
        let name: HostName = self
            .name
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| ConfigError::MailboxName(self.name.clone()))?;
        let certificate = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(ConfigError::MailboxKey),
        };
        let url = match self.port.unwrap_or(public.port()) {
            0 => return Err(ConfigError::MailboxPort),
            443 => format!("https://{name}"),
            port => format!("https://{name}:{port}"),
        };
        self.limits.check()?;
        Ok(MailboxPlan {
            name,
            certificate,
            url,
            limits: self.limits.clone(),
        })
    }
}

impl MailboxLimits {
    fn check(&self) -> Result<(), ConfigError> {
        let most = 10_000_000;
        let counts = [
            ("devices", self.devices, 1),
            ("devices_per_domain", self.devices_per_domain, 1),
            ("envelopes_per_device", self.envelopes_per_device, 1),
            ("streams", self.streams, 1),
            ("streams_per_device", self.streams_per_device, 1),
            ("reports", self.reports, MIN_REPORTS),
        ];
        if let Some((key, value, least)) = counts.into_iter().find(|(_, n, least)| n < least || *n > most) {
            return Err(ConfigError::MailboxLimit {
                key,
                value: value as u64,
                least: least as u64,
                most: most as u64,
            });
        }
        let bytes = [
            ("bytes_per_device", self.bytes_per_device),
            ("bytes_per_domain", self.bytes_per_domain),
        ];
        let least = MAX_ENVELOPE as u64;
        match bytes.into_iter().find(|(_, n)| !(least..=MOST_BYTES).contains(n)) {
            Some((key, value)) => Err(ConfigError::MailboxLimit {
                key,
                value,
                least,
                most: MOST_BYTES,
            }),
            None => Ok(()),
        }
    }
}

/// One request of a device brings as many acknowledgements.
const MIN_REPORTS: usize = 256;
/// 1 PiB.
const MOST_BYTES: u64 = 1 << 50;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MailboxConfig {
        MailboxConfig {
            name: "Mail.Example.org".into(),
            certificate: None,
            key: None,
            port: None,
            limits: MailboxLimits::default(),
        }
    }

    #[test]
    fn devices_are_told_where_they_reach_it() {
        let public = HubAddress::new("hub.example.org", 8443).unwrap();
        let plan = config().check(&public).unwrap();
        assert_eq!(plan.url, "https://mail.example.org:8443");
        let other = MailboxConfig {
            port: Some(443),
            ..config()
        };
        assert_eq!(other.check(&public).unwrap().url, "https://mail.example.org");
    }

    #[test]
    fn what_cannot_run_is_refused_and_named() {
        type Break = fn(&mut MailboxConfig);
        let cases: [(Break, &str); 6] = [
            (|c| c.name = "mail".into(), "hub.mailbox.name"),
            (|c| c.name = "192.0.2.1".into(), "hub.mailbox.name"),
            (|c| c.key = Some("key.pem".into()), "hub.mailbox.certificate"),
            (|c| c.port = Some(0), "hub.mailbox.port"),
            (
                |c| c.limits.reports = 255,
                "hub.mailbox.limits.reports = 255: expected 256 to",
            ),
            (
                |c| c.limits.bytes_per_device = 1000,
                "hub.mailbox.limits.bytes_per_device = 1000: expected 196608 to",
            ),
        ];
        let public = HubAddress::new("hub.example.org", 8443).unwrap();
        for (change, word) in cases {
            let mut c = config();
            change(&mut c);
            let error = c.check(&public).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
