//! Names of domains, services and nodes. Each is one DNS label, so that `service.domain.suffix` is a host name.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::text::by_text;

/// Longest label in bytes (RFC 1035).
pub const MAX_LABEL: usize = 63;
/// Longest host name in bytes (RFC 1035, section 3.1, without the root's label).
pub const MAX_HOST: usize = 253;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS label.
    #[error(
        "{0:?} is not a name: expected 1 to 63 of a-z, 0-9 and '-', neither first nor last '-' (lower case)"
    )]
    Label(String),
    /// Not `service.domain`.
    #[error("{0:?} is not a service: expected NAME.DOMAIN, as in orders.acme")]
    Service(String),
    /// Not a SPIFFE identity of ours.
    #[error("{0:?} is not an identity: expected spiffe://DOMAIN/ROLE/NAME, as in spiffe://acme/gateway/gw1")]
    Node(String),
    /// Not a host name.
    #[error(
        "{0:?} is not a host name: expected two or more labels of a-z, 0-9 and '-' (lower case), as in devices.acme.example, \
         at most 253 bytes, and no address"
    )]
    Host(String),
}

fn shorten(s: &str) -> String {
    s.chars().take(80).collect()
}

fn label(s: &str) -> Result<Box<str>, NameError> {
    let ok = (1..=MAX_LABEL).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-');
    if ok {
        Ok(s.into())
    } else {
        Err(NameError::Label(shorten(s)))
    }
}

macro_rules! text_type {
    ($name:ident) => {
        by_text!($name, NameError);

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.str(&self.to_string())?;
                Ok(())
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                d.str()?.parse().map_err(decode::Error::custom)
            }
        }
    };
}

macro_rules! label_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                label(s).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        text_type!($name);
    };
}

label_type!(
    /// Name of a domain: one organisation's firewalled network, with a root of its own.
    DomainName
);
label_type!(
    /// Name of a service within its domain.
    ServiceName
);

impl ServiceName {
    /// The name under which a domain's gateways take calls back to the addresses that its clients named. No export has it.
    pub const CALLBACKS: &str = "hawser-callbacks";

    /// See [`Self::CALLBACKS`].
    pub fn callbacks() -> Self {
        Self(Self::CALLBACKS.into())
    }

    /// Whether it is [`Self::CALLBACKS`].
    pub fn is_callbacks(&self) -> bool {
        *self.0 == *Self::CALLBACKS
    }
}

label_type!(
    /// Name of a gateway, host or issuer within its domain.
    NodeName
);

/// A service and its domain, written `orders.acme`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceId {
    /// Name within the domain.
    pub name: ServiceName,
    /// The domain that exports it.
    pub domain: DomainName,
}

impl FromStr for ServiceId {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let (name, domain) = s.split_once('.').ok_or_else(|| NameError::Service(shorten(s)))?;
        Ok(Self {
            name: name.parse()?,
            domain: domain.parse()?,
        })
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.name, self.domain))
    }
}

text_type!(ServiceId);

/// A host name of the public DNS, under which something inside a domain is reached from outside: `devices.acme.example`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Box<str>);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in a ClientHello, which may be written in capitals (RFC 6066, section 3). `None`: it is none of ours.
    pub fn of_hello(name: &str) -> Option<Self> {
        name.to_ascii_lowercase().parse().ok()
    }
}

impl FromStr for HostName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let labels = s.split('.').count();
        // The last label of a name is never a number, that of an IPv4 address always is (RFC 1123, section 2.1).
        let number = s
            .rsplit('.')
            .next()
            .is_none_or(|last| last.bytes().all(|b| b.is_ascii_digit()));
        let ok = s.len() <= MAX_HOST && labels >= 2 && !number && s.split('.').all(|l| label(l).is_ok());
        if ok {
            Ok(Self(s.into()))
        } else {
            Err(NameError::Host(shorten(s)))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

text_type!(HostName);

/// What a certificate entitles its holder to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A tunnel gateway.
    Gateway,
    /// Signs the certificates and revocation lists of a domain.
    Issuer,
    /// A hypervisor host that keeps machines protected. Exports nothing and calls nothing.
    Host,
}

impl Role {
    /// The role that stands in an identity by this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Role::Gateway, Role::Issuer, Role::Host]
            .into_iter()
            .find(|role| role.as_str() == word)
    }

    /// The role as it stands in an identity.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Issuer => "issuer",
            Role::Host => "host",
        }
    }
}

impl<C> Encode<C> for Role {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(self.as_str())?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Role {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let word = d.str()?;
        Role::parse(word).ok_or_else(|| decode::Error::message("expected gateway, issuer or host"))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A proved identity, written as a SPIFFE ID: `spiffe://acme/gateway/gw1` (the URI subject alternative name of a
/// certificate).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId {
    /// Whose root vouches for it.
    pub domain: DomainName,
    /// What it may be.
    pub role: Role,
    /// Its name within the domain.
    pub name: NodeName,
}

impl NodeId {
    /// The identity of a gateway.
    pub fn gateway(domain: DomainName, name: NodeName) -> Self {
        Self {
            domain,
            role: Role::Gateway,
            name,
        }
    }

    /// The identity of a hypervisor host.
    pub fn host(domain: DomainName, name: NodeName) -> Self {
        Self {
            domain,
            role: Role::Host,
            name,
        }
    }
}

impl FromStr for NodeId {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let bad = || NameError::Node(shorten(s));
        let mut parts = s.strip_prefix("spiffe://").ok_or_else(bad)?.splitn(3, '/');
        let domain = parts.next().ok_or_else(bad)?.parse()?;
        let role = parts.next().and_then(Role::parse).ok_or_else(bad)?;
        let name = parts.next().ok_or_else(bad)?.parse()?;
        Ok(Self { domain, role, name })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "spiffe://{}/{}/{}",
            self.domain,
            self.role.as_str(),
            self.name
        ))
    }
}

text_type!(NodeId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_have_limits() {
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(63).parse::<DomainName>().is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_what_is_parsed_prints_the_same(s in "\\PC{0,200}") {
            if let Ok(id) = s.parse::<NodeId>() { prop_assert_eq!(id.to_string(), s.clone()); }
            if let Ok(id) = s.parse::<ServiceId>() { prop_assert_eq!(id.to_string(), s); }
        }

        #[test]
        fn identities_round_trip(d in "[a-z0-9]{1,20}", n in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?") {
            for role in [Role::Gateway, Role::Issuer, Role::Host] {
                let text = format!("spiffe://{d}/{}/{n}", role.as_str());
                let id = text.parse::<NodeId>().unwrap();
                prop_assert_eq!(id.role, role);
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
