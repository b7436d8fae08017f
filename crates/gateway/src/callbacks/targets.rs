//! Where a call back may lead: to the very client that named the address, or to what an operator listed; never to loopback,
//! link-local and multicast addresses unless one is listed as it is. Else any client could aim its gateway at inner hosts.
//! Pure.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use hawser_callback::Address;
use ipnet::IpNet;

/// An entry of a list of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Net(IpNet),
    /// In lower case, without a dot at the end.
    Name(String),
    /// All names that end in this, which begins with a dot.
    Under(String),
}

/// A list of targets. Clones are the same list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets(Arc<[Target]>);

/// How the host of an allowed address is found when it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It is this address, whatever its name may mean by then: that of the client.
    To(IpAddr),
    /// A listed name, which is resolved when it is called.
    Resolve,
}

/// Why an address may not be called back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is neither the client's own nor listed.
    #[error(
        "{host} is neither the client that named it ({client}) nor listed: let clients name their own address, or list it under \
         `targets` in [gateway.callbacks]"
    )]
    Foreign {
        /// Host and port of the address.
        host: String,
        /// Who named it.
        client: IpAddr,
    },
    /// It is loopback, link-local, multicast or unspecified.
    #[error(
        "{host} is an address of the gateway's own host or link: if it is meant, list it as IP:PORT under `targets` in \
         [gateway.callbacks]"
    )]
    Near {
        /// Host and port of the address.
        host: String,
    },
}

impl Targets {
    /// A list.
    pub fn new(all: Vec<Target>) -> Self {
        Self(all.into())
    }

    /// Whether a host name, or an address, is listed with this port.
    pub(crate) fn lists(&self, host: &str, port: u16) -> bool {
        match ip(host) {
            Some(ip) => self.lists_ip(ip, port),
            None => self.0.iter().any(|t| t.is_name(host) && t.has(port)),
        }
    }

    /// The listed host names; those that begin with a dot stand for all that end in them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|target| match &target.host {
            Host::Net(_) => None,
            Host::Name(name) | Host::Under(name) => Some(name.as_str()),
        })
    }

    fn lists_ip(&self, ip: IpAddr, port: u16) -> bool {
        self.0.iter().any(|t| match t.host {
            Host::Net(net) if is_near(ip) => {
                t.port == Some(port) && net.prefix_len() == net.max_prefix_len() && net.contains(&ip)
            }
            Host::Net(net) => net.contains(&ip) && t.has(port),
            _ => false,
        })
    }

    /// Judges an address that `client` named.
    pub fn judge(&self, more: &Targets, address: &Address, client: IpAddr) -> Result<Pin, TargetError> {
        let (host, port) = (address.host(), address.port());
        let shown = || format!("{host}:{port}");
        let listed = self.lists(host, port) || more.lists(host, port);
        match ip(host) {
            Some(ip) if listed => Ok(Pin::To(ip)),
            Some(ip) if is_near(ip) => Err(TargetError::Near { host: shown() }),
            Some(ip) if ip == client.to_canonical() => Ok(Pin::To(ip)),
            Some(_) => Err(TargetError::Foreign {
                host: shown(),
                client,
            }),
            None if listed => Ok(Pin::Resolve),
            None if host.eq_ignore_ascii_case("localhost") || is_near(client) => {
                Err(TargetError::Near { host: shown() })
            }
            None => Ok(Pin::To(client.to_canonical())),
        }
    }

    /// Whether a listed name may be what it resolved to.
    pub fn resolved(&self, more: &Targets, ip: IpAddr, port: u16) -> bool {
        !is_near(ip) || self.lists_ip(ip, port) || more.lists_ip(ip, port)
    }
}

impl Target {
    fn has(&self, port: u16) -> bool {
        self.port.is_none_or(|p| p == port)
    }

    fn is_name(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match &self.host {
            Host::Net(_) => false,
            Host::Name(name) => *name == host,
            Host::Under(end) => host.ends_with(end.as_str()) && host.len() > end.len(),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "{s:?} is no target: expected HOST[:PORT], \"*.DOMAIN[:PORT]\" or NETWORK/BITS[:PORT], IPv6 in brackets"
            )
        };
        let (host, port) = match s.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse::<u16>().ok().filter(|&p| p != 0).ok_or_else(wanted)?;
                (host, Some(port))
            }
            _ => (s, None),
        };
        let bare = host.strip_prefix('[').map_or(host, |h| h.trim_end_matches(']'));
        let bare = bare.replace(']', "");
        let host = if let Ok(net) = bare.parse::<IpNet>() {
            Host::Net(net.trunc())
        } else if let Ok(ip) = bare.parse::<IpAddr>() {
            Host::Net(ip.into())
        } else {
            let (under, name) = match bare.strip_prefix('*') {
                Some(name) => (true, name.strip_prefix('.').ok_or_else(wanted)?),
                None => (false, &*bare),
            };
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let label = |l: &str| {
                (1..=63).contains(&l.len())
                    && l.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if name.len() > 253 || !name.split('.').all(label) {
                return Err(wanted());
            }
            if under {
                Host::Under(format!(".{name}"))
            } else {
                Host::Name(name)
            }
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr())?,
            Host::Net(net) => write!(f, "{net}")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Under(end) => write!(f, "*{end}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Whether an address never leaves this host or link.
fn is_near(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judge(targets: &[&str], address: &str, client: &str) -> Result<Pin, TargetError> {
        let targets = Targets::new(targets.iter().map(|t| t.parse().unwrap()).collect());
        targets.judge(
            &Targets::default(),
            &address.parse().unwrap(),
            client.parse().unwrap(),
        )
    }

    fn to(ip: &str) -> Result<Pin, TargetError> {
        Ok(Pin::To(ip.parse().unwrap()))
    }

    #[test]
    fn clients_may_name_themselves() {
        assert_eq!(judge(&[], "http://10.0.0.7:9000/cb", "10.0.0.7"), to("10.0.0.7"));
        assert_eq!(judge(&[], "http://[fd00::7]:9000/", "fd00::7"), to("fd00::7"));
        assert_eq!(
            judge(&[], "http://client.acme.example:9000/", "10.0.0.7"),
            to("10.0.0.7"),
            "a name is pinned to them"
        );
        assert!(matches!(
            judge(&[], "http://10.0.0.8:9000/", "10.0.0.7"),
            Err(TargetError::Foreign { .. })
        ));
    }

    #[test]
    fn what_is_near_the_gateway_needs_to_be_listed_as_it_is() {
        for near in [
            "http://127.0.0.1:9000/",
            "http://[::1]:9000/",
            "http://169.254.169.254/",
            "http://[fe80::1]/",
            "http://0.0.0.0/",
            "http://[::ffff:127.0.0.1]:9000/",
            "http://224.0.0.1/",
            "http://localhost:9000/",
        ] {
            for client in ["127.0.0.1", "10.0.0.7"] {
                assert!(
                    matches!(
                        judge(&["127.0.0.0/8"], near, client),
                        Err(TargetError::Near { .. })
                    ),
                    "{near} by {client}"
                );
            }
        }
        assert_eq!(
            judge(&["127.0.0.1:9000"], "http://127.0.0.1:9000/x", "127.0.0.1"),
            to("127.0.0.1")
        );
        assert!(judge(&["127.0.0.1:9000"], "http://127.0.0.1:9001/x", "127.0.0.1").is_err());
        assert!(judge(&["127.0.0.1"], "http://127.0.0.1:9000/x", "127.0.0.1").is_err());
    }

    #[test]
    fn listed_hosts_networks_and_names_are_found() {
        assert_eq!(
            judge(&["10.1.0.0/16:8080"], "http://10.1.2.3:8080/", "10.0.0.7"),
            to("10.1.2.3")
        );
        assert!(judge(&["10.1.0.0/16:8080"], "http://10.1.2.3:8081/", "10.0.0.7").is_err());
        assert_eq!(
            judge(&["*.acme.example"], "https://Erp.ACME.example./x", "10.0.0.7"),
            Ok(Pin::Resolve)
        );
        assert_eq!(
            judge(
                &["erp.acme.example:443"],
                "https://erp.acme.example/x",
                "10.0.0.7"
            ),
            Ok(Pin::Resolve)
        );
        assert_eq!(
            judge(&["[fd00::]/64:80"], "http://[fd00::9]/", "10.0.0.7"),
            to("fd00::9")
        );
    }

    #[test]
    fn a_listed_name_that_resolves_to_loopback_is_refused() {
        let targets = Targets::new(vec!["evil.example".parse().unwrap()]);
        assert!(!targets.resolved(&Targets::default(), "127.0.0.1".parse().unwrap(), 80));
        assert!(targets.resolved(&Targets::default(), "10.0.0.1".parse().unwrap(), 80));
    }

    #[test]
    fn odd_targets_are_refused() {
        for bad in [
            "",
            "*",
            "*acme",
            "a b",
            "host:0",
            "host:x",
            "http://h/",
            "10.0.0.0/33",
            "-:1:2",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn targets_are_shown_as_they_are_read(s in r"(\*\.)?[a-z]{1,9}(\.[a-z]{1,9}){0,2}(:[1-9][0-9]{0,3})?") {
            prop_assert_eq!(s.parse::<Target>().unwrap().to_string(), s);
        }

        #[test]
        fn nothing_is_too_odd(s in ".{0,60}") {
            let _ = s.parse::<Target>();
        }
    }
}
