//! Where a hub is.

use std::{fmt, net::IpAddr, str::FromStr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// Longest host name in bytes (RFC 1035).
const MAX_HOST: usize = 253;

/// Host and port of a hub, written `hub.example.org:8443` or `[2001:db8::1]:8443`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HubAddress {
    host: String,
    port: u16,
}

/// Text that is no address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the address of a hub: expected HOST:PORT, as in hub.example.org:8443 or [2001:db8::1]:8443"
)]
pub struct AddressError(String);

impl HubAddress {
    /// From a host name or an IP address (without brackets), and a port other than 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let bad = || AddressError(format!("{}:{port}", host.chars().take(80).collect::<String>()));
        if port == 0 {
            return Err(bad());
        }
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) if is_name(host) => host.to_ascii_lowercase(),
            Err(_) => return Err(bad()),
        };
        Ok(Self { host, port })
    }

    /// A host name in lower case, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Labels of letters, digits, '-' and '_'; the last one not all digits, lest it be a mistyped IPv4 address.
fn is_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= MAX_HOST
        && host.split('.').all(label)
        && !host
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()))
}

impl FromStr for HubAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let port = port.parse().map_err(|_| bad())?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let is_v6 = |h: &str| h.parse::<std::net::Ipv6Addr>().is_ok();
        match bracketed {
            Some(inner) if is_v6(inner) => Self::new(inner, port),
            None if !host.contains(':') => Self::new(host, port),
            _ => Err(bad()),
        }
        .map_err(|_| bad())
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            f.pad(&format!("[{}]:{}", self.host, self.port))
        } else {
            f.pad(&format!("{}:{}", self.host, self.port))
        }
    }
}

impl fmt::Debug for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for HubAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<HubAddress> for String {
    fn from(address: HubAddress) -> Self {
        address.to_string()
    }
}

impl<C> Encode<C> for HubAddress {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.to_string())?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for HubAddress {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?
            .parse()
            .map_err(|_| decode::Error::message("not an address"))
    }
}
