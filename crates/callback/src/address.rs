//! Addresses by which somebody is called back: absolute http and https URLs (RFC 3986, RFC 9110 section 4.2), kept as they are written.

use std::{fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// Longest address in bytes.
pub const MAX_ADDRESS: usize = 2048;

/// Why a text is no address for callbacks, or why something cannot be appended to one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Over [`MAX_ADDRESS`].
    #[error("an address of {0} bytes is over the limit of {MAX_ADDRESS}")]
    Long(usize),
    /// Neither http nor https.
    #[error("{0:?} is no address for callbacks: expected http://HOST/… or https://HOST/…")]
    Scheme(String),
    /// A character that stands in no URL as it is.
    #[error("the address has a character that must be percent-encoded: {0:?}")]
    Character(char),
    /// `user@host`.
    #[error("the address holds a user name: give credentials in a header, not in the address")]
    UserInfo,
    /// `#…`.
    #[error("the address has a fragment ('#'), which is never sent: leave it out")]
    Fragment,
    /// No host, or one that could be read in two ways.
    #[error(
        "{0:?} is no host: expected a name, an IPv4 address in four decimal numbers, or an IPv6 address in brackets"
    )]
    Host(String),
    /// Not a port.
    #[error("{0:?} is no port: expected 1 to 65535")]
    Port(String),
    /// What was appended to the address could lead elsewhere.
    #[error(
        "{0:?} cannot be appended to an address: it has '..', '//', a backslash, or an encoded dot or slash"
    )]
    Appended(String),
}

/// An absolute http or https URL without user information and fragment, at most [`MAX_ADDRESS`] bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    /// Where the host begins and ends, and where path and query begin.
    host: (u16, u16),
    path: u16,
    port: u16,
    tls: bool,
}

impl Address {
    /// The address exactly as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host as it was written; an IPv6 address is without its brackets.
    pub fn host(&self) -> &str {
        let host = &self.text[usize::from(self.host.0)..usize::from(self.host.1)];
        host.strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host)
    }

    /// The port: the one that is written, or that of the scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is https.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host and port as they are written, for a `Host` header.
    pub fn authority(&self) -> &str {
        &self.text[usize::from(self.host.0)..usize::from(self.path)]
    }

    /// Path and query for a request line: always begins with `/`.
    pub fn path_and_query(&self) -> String {
        match &self.text[usize::from(self.path)..] {
            rest if rest.starts_with('/') => rest.to_owned(),
            rest => format!("/{rest}"),
        }
    }

    /// This address with `rest`, a path and query that somebody appended to its stand-in: `/more?x=1`, `?x=1`, or nothing.
    ///
    /// # Errors
    /// `rest` could lead away from under the address, or makes it too long.
    pub fn join(&self, rest: &str) -> Result<Address, AddressError> {
        if rest.is_empty() {
            return Ok(self.clone());
        }
        let (more, asked) = rest.split_once('?').map_or((rest, None), |(p, q)| (p, Some(q)));
        let bad = || AddressError::Appended(rest.chars().take(80).collect());
        if !(more.is_empty() || more.starts_with('/')) || !harmless(more) {
            return Err(bad());
        }
        let base = self.path_and_query();
        let (path, own) = base.split_once('?').map_or((&*base, None), |(p, q)| (p, Some(q)));
        let path = if more.is_empty() {
            path
        } else {
            path.trim_end_matches('/')
        };
        let origin = &self.text[..usize::from(self.path)];
        let query = match (own, asked) {
            (Some(own), Some(asked)) if !own.is_empty() && !asked.is_empty() => format!("?{own}&{asked}"),
            (_, Some(query)) if !query.is_empty() => format!("?{query}"),
            (Some(query), _) | (_, Some(query)) => format!("?{query}"),
            (None, None) => String::new(),
        };
        format!("{origin}{path}{more}{query}").parse()
    }
}

/// Whether a path has nothing that one server and another could read in two ways.
fn harmless(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let encoded = ["%2e", "%2f", "%5c", "%25", "%00", "%3b"];
    let segments = path.strip_prefix('/').unwrap_or(path);
    !path.contains('\\')
        && !path.contains("//")
        && !encoded.iter().any(|e| lower.contains(e))
        && !segments
            .split('/')
            .any(|s| matches!(s.split(';').next(), Some("." | "..")))
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        if s.len() > MAX_ADDRESS {
            return Err(AddressError::Long(s.len()));
        }
        let scheme = |name: &str| s.get(..name.len()).is_some_and(|p| p.eq_ignore_ascii_case(name));
        let (tls, start) = match () {
            () if scheme("http://") => (false, 7),
            () if scheme("https://") => (true, 8),
            () => return Err(AddressError::Scheme(s.chars().take(80).collect())),
        };
        if let Some(bad) = s
            .chars()
            .find(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(*c))
        {
            return Err(AddressError::Character(bad));
        }
        if s.contains('#') {
            return Err(AddressError::Fragment);
        }
        let path = s[start..].find(['/', '?']).map_or(s.len(), |i| start + i);
        let authority = &s[start..path];
        if authority.contains('@') {
            return Err(AddressError::UserInfo);
        }
        let name = authority.find(']').map_or_else(
            || authority.find(':').unwrap_or(authority.len()),
            |bracket| bracket + 1,
        );
        let (host, port) = authority.split_at(name);
        if !is_host(host) {
            return Err(AddressError::Host(host.to_owned()));
        }
        let port = parse_port(port, if tls { 443 } else { 80 })?;
        // All fit: the text has at most MAX_ADDRESS bytes.
        let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Ok(Self {
            host: (short(start), short(start + name)),
            path: short(path),
            port,
            tls,
            text: s.into(),
        })
    }
}

fn parse_port(text: &str, default: u16) -> Result<u16, AddressError> {
    let bad = || AddressError::Port(text.chars().take(20).collect());
    match text.strip_prefix(':') {
        None if text.is_empty() => Ok(default),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(0) | Err(_) => Err(bad()),
            Ok(port) => Ok(port),
        },
        _ => Err(bad()),
    }
}

/// A name or an address. `0x7f.1`, `127.1` and `2130706433` are refused: resolvers take them for IPv4 addresses.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if number {
        host.parse::<Ipv4Addr>().is_ok()
    } else {
        name.len() <= 253 && name.split('.').all(label)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<C> Encode<C> for Address {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.text)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Address {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(s: &str) -> Address {
        s.parse().unwrap()
    }

    #[test]
    fn parts_are_as_written() {
        let a = address("HTTP://Client.Acme:8080/cb/x?token=1");
        assert_eq!((a.host(), a.port(), a.is_tls()), ("Client.Acme", 8080, false));
        assert_eq!(
            (a.authority(), &*a.path_and_query()),
            ("Client.Acme:8080", "/cb/x?token=1")
        );
        let a = address("https://[::1]?x");
        assert_eq!((a.host(), a.port(), &*a.path_and_query()), ("::1", 443, "/?x"));
        assert_eq!(a.authority(), "[::1]");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "",
            "ftp://a/",
            "http:/a/",
            "http://",
            "http:///x",
            "http://u@h/",
            "http://u:p@h/",
            "http://h/#f",
            "http://h:0/",
            "http://h:99999/",
            "http://h:/",
            "http://h:8o/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://1.2.3.4.5/",
            "http://[::1/",
            "http://a..b/",
            "http://h/ x",
            "http://h\\@evil/",
            "http://h/\u{e9}",
            "http://h/\r\n",
            "http://h%00/",
            "http://127.0.0.1./",
            "http://[::1]x/",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert!(
            format!("http://h/{}", "a".repeat(2100))
                .parse::<Address>()
                .is_err()
        );
    }

    #[test]
    fn appended_paths_stay_below() {
        let a = address("http://h:1/cb/?t=1");
        assert_eq!(a.join("").unwrap(), a);
        assert_eq!(a.join("/x/y?z=2").unwrap().as_str(), "http://h:1/cb/x/y?t=1&z=2");
        assert_eq!(a.join("?z=2").unwrap().as_str(), "http://h:1/cb/?t=1&z=2");
        assert_eq!(address("http://h").join("/x").unwrap().as_str(), "http://h/x");
        assert_eq!(address("http://h").join("?x").unwrap().as_str(), "http://h/?x");
        for bad in [
            "/..",
            "/../x",
            "/x/../../y",
            "//evil/",
            "/a//b",
            "/%2e%2e/x",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/%252e/",
            "x",
            "/..;a=1/x",
            "/./x",
            "/#x",
            "/a b",
            "/%2E/",
        ] {
            assert!(a.join(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_with_its_parts_or_refused(s in "https?://[a-z0-9.:@\\[\\]/?#%x;-]{0,40}", rest in "[/.?%2ef;a-]{0,12}") {
            if let Ok(a) = s.parse::<Address>() {
                prop_assert!(s.contains(a.host()) && !a.host().is_empty());
                prop_assert!(a.path_and_query().starts_with('/'));
                if let Ok(joined) = a.join(&rest) {
                    prop_assert_eq!(joined.authority(), a.authority());
                    let (base, path) = (a.path_and_query(), joined.path_and_query());
                    let base = base.split('?').next().unwrap_or_default().trim_end_matches('/');
                    prop_assert!(path.starts_with(base));
                }
            }
        }
    }
}
