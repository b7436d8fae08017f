//! `[gateway.acme]`: where the certificates of published names come from when no files are given.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hickory_proto::rr::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{self, CarrierPlan, Complaints};

/// `[gateway.acme]`: certificates of published names by ACME (RFC 8555). The authority asks for a record in the DNS (DNS-01),
/// since the hub owns the addresses behind the names, and could answer every other question by itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// URL of the authority's directory, `https://HOST[:PORT]/PATH`. No default.
    pub directory: String,
    /// Whether you agree to the authority's terms of service: must be true. Default: false.
    #[serde(default)]
    pub terms_agreed: bool,
    /// Where the authority may write to, as in `["mailto:ops@acme.example"]`; told when the account is made. Default: none.
    #[serde(default)]
    pub contact: Vec<String>,
    /// PEM file with the authorities that may vouch for the directory's server. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Whether the gateway connects to the authority straight. Default: false, by the ways out of `[[gateway.carrier]]`, a web proxy
    /// among them.
    #[serde(default)]
    pub direct: bool,
    /// `[gateway.acme.external_account]`: an account that the authority knows from elsewhere. Default: none.
    #[serde(default)]
    pub external_account: Option<ExternalAccountConfig>,
    /// DNS servers that are asked where a record belongs, "IP:PORT", tried in this order. Default: those of /etc/resolv.conf.
    #[serde(default)]
    pub resolvers: Vec<String>,
    /// Longest wait until every authoritative server gives a new record; up to "1h". Default: "3m".
    #[serde(default = "three_minutes", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub propagation: Duration,
    /// `[gateway.acme.dns]`: how records are set. No default.
    pub dns: DnsConfig,
}

/// `[gateway.acme.external_account]`: what the authority gave to bind the ACME account to one of its customers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccountConfig {
    /// The key's name. No default.
    pub id: String,
    /// File with the key in base64url, readable by its owner only. No default.
    pub key_file: PathBuf,
}

/// `[gateway.acme.dns]`: how a TXT record is set. The method "command" runs a program, "update" is dynamic update (RFC 2136).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum DnsConfig {
    /// Runs a program with the words `add|remove NAME VALUE`.
    Command {
        /// The program's path. No default.
        program: PathBuf,
        /// Longest time for one run; up to "10m". Default: "1m".
        #[serde(default = "a_minute", with = "humantime_serde")]
        #[schemars(with = "String")]
        timeout: Duration,
    },
    /// Dynamic update signed by TSIG (RFC 2136, RFC 8945).
    Update {
        /// The zone's primary server, "IP:PORT". No default.
        server: String,
        /// The TSIG key's name. No default.
        key_name: String,
        /// File with the TSIG key in base64, readable by its owner only. No default.
        key_file: PathBuf,
        /// The TSIG key's algorithm. Default: "hmac-sha256".
        #[serde(default)]
        algorithm: TsigAlgorithm,
    },
}

/// Algorithm of a TSIG key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TsigAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
}

/// The checked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmePlan {
    /// The directory's URL.
    pub directory: String,
    /// Where the authority may write to.
    pub contact: Vec<String>,
    /// Who may vouch for the directory's server, if not the system's authorities.
    pub ca: Option<PathBuf>,
    /// How the authority is reached.
    pub carriers: Vec<CarrierPlan>,
    /// The account's binding.
    pub external_account: Option<ExternalAccountConfig>,
    /// DNS servers; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// Longest wait for a new record.
    pub propagation: Duration,
    /// How records are set.
    pub dns: DnsPlan,
}

/// How a TXT record is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsPlan {
    /// By a program.
    Command {
        /// Its path.
        program: PathBuf,
        /// Longest time for one run.
        timeout: Duration,
    },
    /// By dynamic update.
    Update {
        /// The zone's primary server.
        server: SocketAddr,
        /// The TSIG key's name.
        key_name: Name,
        /// File with the TSIG key.
        key_file: PathBuf,
        /// The key's algorithm.
        algorithm: TsigAlgorithm,
    },
}

pub(super) fn check(c: &AcmeConfig, carriers: &[CarrierPlan], bad: &mut Complaints) -> Option<AcmePlan> {
    if !c.terms_agreed {
        bad.add(
            "gateway.acme.terms_agreed",
            "is not true: read the authority's terms of service, and write terms_agreed = true to agree to them",
        );
    }
    if let Err(why) = directory(&c.directory) {
        bad.add("gateway.acme.directory", why);
    }
    for contact in &c.contact {
        if !contact.starts_with("mailto:") {
            bad.add(
                "gateway.acme.contact",
                format_args!("{contact:?}: expected an address, as in \"mailto:ops@acme.example\""),
            );
        }
    }
    let second = Duration::from_secs(1);
    bad.between("gateway.acme.propagation", c.propagation, second, second * 3600);
    let resolvers = c
        .resolvers
        .iter()
        .filter_map(|r| server("gateway.acme.resolvers", r, bad))
        .collect();
    let dns = match &c.dns {
        DnsConfig::Command { program, timeout } => {
            if !program.is_absolute() {
                bad.add(
                    "gateway.acme.dns.program",
                    format_args!("{}: expected a path that begins with /", program.display()),
                );
            }
            bad.between("gateway.acme.dns.timeout", *timeout, second, second * 600);
            Some(DnsPlan::Command {
                program: program.clone(),
                timeout: *timeout,
            })
        }
        DnsConfig::Update {
            server: at,
            key_name,
            key_file,
            algorithm,
        } => {
            let at = server("gateway.acme.dns.server", at, bad);
            let name = bad.take("gateway.acme.dns.key_name", Name::from_ascii(key_name));
            at.zip(name).map(|(server, mut key_name)| {
                key_name.set_fqdn(true);
                DnsPlan::Update {
                    server,
                    key_name,
                    key_file: key_file.clone(),
                    algorithm: *algorithm,
                }
            })
        }
    };
    Some(AcmePlan {
        directory: c.directory.clone(),
        contact: c.contact.clone(),
        ca: c.ca.clone(),
        carriers: plan::ways(c.direct, carriers),
        external_account: c.external_account.clone(),
        resolvers,
        propagation: c.propagation,
        dns: dns?,
    })
}

fn directory(url: &str) -> Result<(), String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url:?} is no URL: {e}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(()),
        _ => Err(format!("{url:?}: expected https://HOST[:PORT]/PATH")),
    }
}

fn server(key: &str, text: &str, bad: &mut Complaints) -> Option<SocketAddr> {
    bad.take(
        key,
        text.parse().map_err(|_| {
            format!("{text:?} is no address: expected IP:PORT, as in \"192.0.2.53:53\" or \"[::1]:53\"")
        }),
    )
}

fn three_minutes() -> Duration {
    Duration::from_secs(180)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}
