//! One-time tokens and peering tokens: short texts that people carry from one machine to another, and the secrets in them.
//!
//! A text is `hawser-KIND:` and, in base64url, CBOR followed by the first four bytes of a SHA-256 over both, so that a
//! mutilated copy is told from a wrong one. No message quotes a token.

mod address;
mod secret;

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::{DomainName, Role, UnixTime};
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

pub use address::{AddressError, HubAddress};
pub use secret::{Secret, hash, mac, verify_mac};

use crate::{Fingerprint, error::Utc, fingerprint::sha256, trust::Root};

/// Longest text that is looked at, in bytes.
pub const MAX_TEXT: usize = 16 * 1024;
/// Most hubs in a join token.
pub const MAX_HUBS: usize = 16;

const CHECKSUM: usize = 4;

/// Why a text is no token, or not the expected one. No variant holds any of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins like none of them.
    #[error(
        "this is no Hawser token: expected text that begins with hawser-hub-token:, hawser-gateway-token:, hawser-host-token: or \
         hawser-peering:"
    )]
    NoToken,
    /// It is a token of another kind.
    #[error("this is a {found}, here a {expected} is needed ({advice})")]
    OtherKind {
        /// What is needed.
        expected: Kind,
        /// What came.
        found: Kind,
        /// Where the needed one comes from.
        advice: &'static str,
    },
    /// It was cut, or changed on the way.
    #[error("the {0} is damaged: copy it again as a whole, from its first character to its last")]
    Damaged(Kind),
    /// It is whole, but not understood.
    #[error("the {0} is whole but not understood: it was made by another version of Hawser")]
    Malformed(Kind),
    /// Its time is over.
    #[error("the {kind} ended at {expires} (UTC): ask for a new one")]
    Expired {
        /// Which kind it is.
        kind: Kind,
        /// When it ended.
        expires: Utc,
    },
}

/// The kinds of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`HubToken`].
    Hub,
    /// [`JoinToken`] for a gateway.
    Gateway,
    /// [`JoinToken`] for a host.
    Host,
    /// [`PeeringToken`].
    Peering,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Hub, Kind::Gateway, Kind::Host, Kind::Peering];

    fn prefix(self) -> &'static str {
        match self {
            Kind::Hub => "hawser-hub-token:",
            Kind::Gateway => "hawser-gateway-token:",
            Kind::Host => "hawser-host-token:",
            Kind::Peering => "hawser-peering:",
        }
    }

    fn source(self) -> &'static str {
        match self {
            Kind::Hub => "the hub's operator makes it: hawser token hub",
            Kind::Gateway => "an issuer of the domain makes it: hawser token gateway",
            Kind::Host => "an issuer of the domain makes it: hawser token host",
            Kind::Peering => "the other domain shows it: hawser domain peer token",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Hub => "hub token",
            Kind::Gateway => "gateway token",
            Kind::Host => "host token",
            Kind::Peering => "peering token",
        })
    }
}

/// Lets one domain be admitted at one hub, once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HubToken {
    /// Where the hub is.
    #[n(0)]
    pub hub: HubAddress,
    /// The hub's key.
    #[n(1)]
    pub pin: Fingerprint,
    /// The domain that may be admitted.
    #[n(2)]
    pub domain: DomainName,
    /// Known to the hub by its hash only.
    #[n(3)]
    pub secret: Secret,
    /// When it ends.
    #[n(4)]
    pub expires: UnixTime,
}

/// Lets one gateway or one host join a domain, once. The hub half has the hub pair the joiner with an issuer; the domain half
/// never leaves the token and the issuer, so a hub cannot join in the joiner's place. As what it lets somebody join stands in
/// the issuer's record of it; here it says what the joiner is to expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Whether it is for a gateway or for a host.
    pub joins: Joins,
    /// Hubs of the domain, with their keys; at most [`MAX_HUBS`].
    pub hubs: Vec<(HubAddress, Fingerprint)>,
    /// Which domain.
    pub domain: DomainName,
    /// The domain's root, by which the joiner knows its issuer.
    pub root: Fingerprint,
    /// Shown to the hub.
    pub hub_half: Secret,
    /// Shown to nobody: see [`mac`].
    pub domain_half: Secret,
    /// When it ends.
    pub expires: UnixTime,
}

/// As what a [`JoinToken`] lets somebody join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Joins {
    /// A further gateway.
    Gateway,
    /// A hypervisor host.
    Host,
}

impl Joins {
    /// The role of the identity that the joiner gets.
    pub fn role(self) -> Role {
        match self {
            Joins::Gateway => Role::Gateway,
            Joins::Host => Role::Host,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Joins::Gateway => Kind::Gateway,
            Joins::Host => Kind::Host,
        }
    }
}

/// A domain's root for another domain to accept. No secret: what matters is that it comes from the right people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeeringToken {
    domain: DomainName,
    root: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl HubToken {
    /// The text to carry.
    pub fn to_text(&self) -> Zeroizing<String> {
        to_text(Kind::Hub, self)
    }

    /// Reads the text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        from_text(Kind::Hub, text)
    }

    /// Whether its time is not over.
    pub fn check(&self, now: UnixTime) -> Result<(), TokenError> {
        check(Kind::Hub, self.expires, now)
    }
}

impl JoinToken {
    /// The text to carry.
    pub fn to_text(&self) -> Zeroizing<String> {
        let parts = JoinParts {
            hubs: self.hubs.clone(),
            domain: self.domain.clone(),
            root: self.root,
            hub_half: self.hub_half.clone(),
            domain_half: self.domain_half.clone(),
            expires: self.expires,
        };
        to_text(self.joins.kind(), &parts)
    }

    /// Reads the text of a token that lets somebody join as this.
    pub fn parse(joins: Joins, text: &str) -> Result<Self, TokenError> {
        let parts: JoinParts = from_text(joins.kind(), text)?;
        if parts.hubs.is_empty() || parts.hubs.len() > MAX_HUBS {
            return Err(TokenError::Malformed(joins.kind()));
        }
        Ok(Self {
            joins,
            hubs: parts.hubs,
            domain: parts.domain,
            root: parts.root,
            hub_half: parts.hub_half,
            domain_half: parts.domain_half,
            expires: parts.expires,
        })
    }

    /// Whether its time is not over.
    pub fn check(&self, now: UnixTime) -> Result<(), TokenError> {
        check(self.joins.kind(), self.expires, now)
    }
}

impl PeeringToken {
    /// The root of a domain; refused as by [`crate::Trust::add_root`].
    pub fn new(domain: DomainName, root: CertificateDer<'static>) -> Result<Self, crate::IdentityError> {
        let root = Root::new(&domain, root)?;
        Ok(Self {
            domain,
            fingerprint: root.fingerprint,
            root: root.der,
        })
    }

    /// The text to carry.
    pub fn to_text(&self) -> String {
        let parts = PeeringParts {
            domain: self.domain.clone(),
            root: self.root.to_vec(),
        };
        to_text(Kind::Peering, &parts).to_string()
    }

    /// Reads the text; the root in it is one of the domain it names.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let parts: PeeringParts = from_text(Kind::Peering, text)?;
        Self::new(parts.domain, parts.root.into()).map_err(|_| TokenError::Malformed(Kind::Peering))
    }

    /// Which domain.
    pub fn domain(&self) -> &DomainName {
        &self.domain
    }

    /// Its root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What the administrators compare, as it stands or as [`Fingerprint::words`].
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// A token of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyToken {
    /// For the first gateway of a domain.
    Hub(HubToken),
    /// For a further gateway, or a host, of a domain.
    Join(JoinToken),
    /// For another domain.
    Peering(PeeringToken),
}

impl AnyToken {
    /// Reads a text of whatever kind.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        Ok(match kind(text)? {
            Kind::Hub => Self::Hub(HubToken::parse(text)?),
            Kind::Gateway => Self::Join(JoinToken::parse(Joins::Gateway, text)?),
            Kind::Host => Self::Join(JoinToken::parse(Joins::Host, text)?),
            Kind::Peering => Self::Peering(PeeringToken::parse(text)?),
        })
    }
}

#[derive(Encode, Decode)]
struct JoinParts {
    #[n(0)]
    hubs: Vec<(HubAddress, Fingerprint)>,
    #[n(1)]
    domain: DomainName,
    #[n(2)]
    root: Fingerprint,
    #[n(3)]
    hub_half: Secret,
    #[n(4)]
    domain_half: Secret,
    #[n(5)]
    expires: UnixTime,
}

#[derive(Encode, Decode)]
struct PeeringParts {
    #[n(0)]
    domain: DomainName,
    #[cbor(n(1), with = "minicbor::bytes")]
    root: Vec<u8>,
}

fn kind(text: &str) -> Result<Kind, TokenError> {
    let text = text.trim_start();
    Kind::ALL
        .into_iter()
        .find(|kind| text.starts_with(kind.prefix()))
        .ok_or(TokenError::NoToken)
}

fn check(kind: Kind, expires: UnixTime, now: UnixTime) -> Result<(), TokenError> {
    if now < expires {
        return Ok(());
    }
    Err(TokenError::Expired {
        kind,
        expires: Utc(expires),
    })
}

fn to_text<T: Encode<()>>(kind: Kind, token: &T) -> Zeroizing<String> {
    let mut payload = Zeroizing::new(Vec::with_capacity(MAX_TEXT));
    // Writing CBOR into memory does not fail.
    let _ = minicbor::encode(token, &mut *payload);
    let sum = checksum(kind, &payload);
    payload.extend_from_slice(&sum);
    let mut text = Zeroizing::new(String::with_capacity(
        kind.prefix().len() + payload.len() * 4 / 3 + 4,
    ));
    text.push_str(kind.prefix());
    URL_SAFE_NO_PAD.encode_string(&*payload, &mut text);
    text
}

/// White space anywhere in the text is left out: mail programs break lines.
fn from_text<T: for<'b> Decode<'b, ()>>(expected: Kind, text: &str) -> Result<T, TokenError> {
    let found = kind(text)?;
    if found != expected {
        return Err(TokenError::OtherKind {
            expected,
            found,
            advice: expected.source(),
        });
    }
    let damaged = TokenError::Damaged(expected);
    if text.len() > MAX_TEXT {
        return Err(damaged);
    }
    let mut clean = Zeroizing::new(String::with_capacity(text.len()));
    clean.extend(text.chars().filter(|c| !c.is_whitespace()));
    let encoded = clean.strip_prefix(expected.prefix()).ok_or(TokenError::NoToken)?;
    let mut payload = Zeroizing::new(Vec::with_capacity(encoded.len()));
    if URL_SAFE_NO_PAD.decode_vec(encoded, &mut payload).is_err() {
        return Err(damaged);
    }
    let Some((body, sum)) = payload.split_last_chunk::<CHECKSUM>() else {
        return Err(damaged);
    };
    if *sum != checksum(expected, body) {
        return Err(damaged);
    }
    let mut decoder = minicbor::Decoder::new(body);
    match decoder.decode() {
        Ok(token) if decoder.position() == body.len() => Ok(token),
        _ => Err(TokenError::Malformed(expected)),
    }
}

fn checksum(kind: Kind, payload: &[u8]) -> [u8; CHECKSUM] {
    let whole = Zeroizing::new([kind.prefix().as_bytes(), payload].concat());
    let sum = sha256(&whole);
    [sum[0], sum[1], sum[2], sum[3]]
}

#[cfg(test)]
mod tests;
