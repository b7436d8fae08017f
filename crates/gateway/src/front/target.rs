//! Which service a host name means: `service.domain.suffix`, an optional port ignored.

use std::{fmt, str::FromStr};

use hawser_proto::{ServiceId, name::MAX_LABEL};
use http::uri::Authority;

/// The last labels of every service's host name, lower case, without dots at the ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Suffix(Box<str>);

impl Suffix {
    /// What a request to `authority` is for.
    pub fn destination(&self, authority: &Authority) -> Destination {
        let host = authority.host();
        let host = host.strip_suffix('.').unwrap_or(host);
        let Some(name) = self.strip(host) else {
            return Destination::Elsewhere(authority.clone());
        };
        match name.to_ascii_lowercase().parse() {
            Ok(service) => Destination::Service(service),
            Err(_) => Destination::NoService(name.chars().take(2 * MAX_LABEL).collect()),
        }
    }

    fn strip<'a>(&self, host: &'a str) -> Option<&'a str> {
        let cut = host.len().checked_sub(self.0.len())?;
        let (name, suffix) = host.split_at_checked(cut)?;
        if !suffix.eq_ignore_ascii_case(&self.0) {
            return None;
        }
        if name.is_empty() {
            Some(name)
        } else {
            name.strip_suffix('.')
        }
    }
}

impl FromStr for Suffix {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let label = |l: &str| l.parse::<hawser_proto::DomainName>().is_ok();
        if s.len() <= 120 && s.split('.').all(label) && !s.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            Ok(Self(s.into()))
        } else {
            Err(format!(
                "{s:?} is no suffix: expected one or more DNS labels in lower case, as in \"hawser\""
            ))
        }
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A service behind some gateway.
    Service(ServiceId),
    /// Under the suffix, but not of the form `service.domain`. Holds what stands before the suffix.
    NoService(String),
    /// Not under the suffix: what becomes of it is for [`Elsewhere`] to say.
    Elsewhere(Authority),
}

/// What the proxy does with requests for names that are not under the suffix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Elsewhere {
    /// Refuses them.
    #[default]
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(suffix: &str, host: &str) -> Destination {
        suffix
            .parse::<Suffix>()
            .unwrap()
            .destination(&host.parse().unwrap())
    }

    fn service(s: &str) -> Destination {
        Destination::Service(s.parse().unwrap())
    }

    #[test]
    fn services_are_found_whatever_the_case_port_and_final_dot() {
        for host in [
            "orders.acme.hawser",
            "Orders.ACME.Hawser:80",
            "orders.acme.hawser.",
            "orders.acme.hawser.:8080",
        ] {
            assert_eq!(to("hawser", host), service("orders.acme"), "{host}");
        }
        assert_eq!(
            to("tunnel.corp", "orders.acme.tunnel.corp"),
            service("orders.acme")
        );
    }

    #[test]
    fn other_names_are_elsewhere_or_no_service() {
        for host in [
            "example.org",
            "hawser.org",
            "xhawser",
            "orders.acme.xhawser",
            "127.0.0.1:80",
            "[::1]:80",
        ] {
            assert!(matches!(to("hawser", host), Destination::Elsewhere(_)), "{host}");
        }
        for host in [
            "hawser",
            "acme.hawser",
            "a.b.c.hawser",
            "-.acme.hawser",
            "_x.acme.hawser",
        ] {
            assert!(matches!(to("hawser", host), Destination::NoService(_)), "{host}");
        }
    }

    #[test]
    fn suffixes_are_labels() {
        for bad in ["", ".", "hawser.", ".hawser", "Hawser", "a b", "1.2"] {
            assert!(bad.parse::<Suffix>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_built_is_found(s in "[a-z0-9]{1,12}", d in "[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?", port in 1u16..) {
            let host = format!("{s}.{d}.hawser:{port}");
            prop_assert_eq!(to("hawser", &host), service(&format!("{s}.{d}")));
        }

        #[test]
        fn no_host_is_too_odd(host in "[a-zA-Z0-9._~%-]{1,80}") {
            if let Ok(authority) = host.parse::<Authority>() {
                "hawser".parse::<Suffix>().unwrap().destination(&authority);
            }
        }
    }
}
