//! The `[host]` table of the configuration file.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use hawser_proto::NodeName;
use serde::{Deserialize, Serialize};

/// A hypervisor host: keeps machines that run here alive on another host, and those of other hosts here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Where the host keeps its identity and database, as `hawser join` made them with a token of `hawser token host`.
    pub state: PathBuf,
    /// The hub that holds the register of who may run a machine, as HOST:PORT. Needed only where this host has joined several
    /// hubs; it must be the same on all hosts that protect each other's machines.
    pub register: Option<String>,
    /// Address to listen on for other hosts' checkpoints and heartbeats (TCP and UDP), as IP:PORT.
    pub listen: String,
    /// Where other hosts listen, as `host-b = "10.0.0.2:8444"`: for hosts whose name the resolver does not know.
    #[schemars(with = "BTreeMap<String, String>")]
    pub peers: BTreeMap<NodeName, String>,
    /// The hosts whose machines this host stands by for; all hosts of the domain unless given. They choose what QEMU is started
    /// with here, and must be trusted as this host itself is.
    #[schemars(with = "Vec<String>")]
    pub accept: Vec<NodeName>,
    /// Where the disks of machines that this host stands by for are kept. Needs room for their full size.
    pub images: PathBuf,
    /// The bridge that the network cards of a machine are put on when it is taken over, if not one of the same name as on the
    /// host that it ran on.
    pub bridge: Option<String>,
    /// Where the agent keeps its sockets and logs: a directory on a tmpfs, made with mode 0711 if it is missing.
    pub run: PathBuf,
    /// Silence of the other host after which it is taken for dead. Shorter means a shorter outage, and more false alarms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub detect: Duration,
    /// Time between two checkpoints of a busy machine: what its clients wait for an answer at the longest, about. Idle
    /// machines have fewer.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Bytes of the ring that checkpoints pass through, for each protected machine. It can be far smaller than a checkpoint.
    pub ring: u64,
    /// How long a machine's QEMU may take to answer before it is taken for dead.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub qmp_timeout: Duration,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            state: "/var/lib/hawser/host".into(),
            register: None,
            listen: "0.0.0.0:8444".into(),
            peers: BTreeMap::new(),
            accept: Vec::new(),
            images: "/var/lib/hawser/images".into(),
            bridge: None,
            run: "/run/hawser/host".into(),
            detect: Duration::from_millis(300),
            interval: Duration::from_millis(50),
            ring: 64 << 20,
            qmp_timeout: Duration::from_secs(1),
        }
    }
}

/// Longest `host.detect`.
const DETECT_MOST: Duration = Duration::from_secs(60);
/// Shortest `host.detect`: below, ordinary scheduling delays look like deaths.
const DETECT_LEAST: Duration = Duration::from_millis(50);
/// Bounds of `host.interval`.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(10));
/// Bounds of `host.ring` in bytes.
const RING: (u64, u64) = (1 << 20, 16 << 30);
/// Bounds of `host.qmp_timeout`.
const QMP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Why a `[host]` table was refused. Nothing of it is in force then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostConfigError {
    /// The address to listen on.
    #[error(
        "host.listen: {0:?} is not an address: expected IP:PORT, as in \"0.0.0.0:8444\" or \"[::]:8444\""
    )]
    Listen(String),
    /// The hub with the register.
    #[error("host.register: {0:?} is no hub: expected HOST:PORT, as in \"hub.example:8443\"")]
    Register(String),
    /// A time out of bounds.
    #[error("host.{key}: {found:?} is out of bounds: expected {least:?} to {most:?}")]
    Time {
        /// Which key.
        key: &'static str,
        /// What it says.
        found: Duration,
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A ring out of bounds.
    #[error("host.ring: {0} bytes are out of bounds: expected {least} (1 MiB) to {most} (16 GiB)", least = RING.0, most = RING.1)]
    Ring(u64),
}

impl HostConfig {
    /// Whether it can be run with; the address to listen on.
    pub fn check(&self) -> Result<SocketAddr, HostConfigError> {
        let times = [
            ("detect", self.detect, DETECT_LEAST, DETECT_MOST),
            ("interval", self.interval, INTERVAL.0, INTERVAL.1),
            ("qmp_timeout", self.qmp_timeout, QMP.0, QMP.1),
        ];
        for (key, found, least, most) in times {
            if found < least || found > most {
                return Err(HostConfigError::Time {
                    key,
                    found,
                    least,
                    most,
                });
            }
        }
        if self.ring < RING.0 || self.ring > RING.1 {
            return Err(HostConfigError::Ring(self.ring));
        }
        if let Some(register) = &self.register
            && register.parse::<hawser_identity::HubAddress>().is_err()
        {
            return Err(HostConfigError::Register(register.clone()));
        }
        self.listen
            .parse()
            .map_err(|_| HostConfigError::Listen(self.listen.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HostConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn an_empty_table_is_the_defaults_and_they_hold() {
        let config = read("").unwrap();
        assert_eq!(config, HostConfig::default());
        assert_eq!(config.check().unwrap(), "0.0.0.0:8444".parse().unwrap());
    }

    #[test]
    fn keys_are_read_and_unknown_ones_refused() {
        let config = read("bridge = \"br0\"\ndetect = \"100ms\"\nregister = \"hub.example:8443\"").unwrap();
        assert_eq!(
            (config.bridge.as_deref(), config.detect),
            (Some("br0"), Duration::from_millis(100))
        );
        assert!(config.check().is_ok());
        assert!(
            read("detekt = \"1s\"")
                .unwrap_err()
                .to_string()
                .contains("detekt")
        );
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let cases = [
            ("listen = \"here\"", "host.listen"),
            ("register = \"hub\"", "host.register"),
            ("detect = \"1ms\"", "host.detect"),
            ("interval = \"1h\"", "host.interval"),
            ("qmp_timeout = \"0s\"", "host.qmp_timeout"),
            ("ring = 4096", "host.ring"),
        ];
        for (text, key) in cases {
            let error = read(text).unwrap().check().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
