//! What a gateway keeps in its store: one type per bucket. Fields are only ever added, with new numbers.

use hawser_identity::Secret;
use hawser_proto::{NodeId, Role, UnixTime};
use minicbor::{Decode, Encode};

/// Hubs that this gateway has joined, by `host:port`.
pub(crate) const HUBS: &str = "hubs";
/// Domains that this one is peered with, by name.
pub(crate) const PEERS: &str = "peers";
/// Join tokens of this gateway, by the hex of SHA-256 of their hub half.
pub(crate) const TOKENS: &str = "tokens";
/// What this domain has revoked, by [`hawser_proto::NodeId`].
pub(crate) const REVOKED: &str = "revoked";
/// The newest revocation list of each signer of each domain, by `domain/signer`.
pub(crate) const REVOCATIONS: &str = "revocations";
/// The names that this issuer has given out, by [`issued_key`].
pub(crate) const ISSUED: &str = "issued";

/// Where in [`ISSUED`] an identity stands: a gateway under its name, a host under `host/` and its name.
pub(crate) fn issued_key(id: &NodeId) -> String {
    match id.role {
        Role::Gateway => id.name.to_string(),
        role => format!("{role}/{}", id.name),
    }
}

/// Of [`HUBS`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct HubRecord {
    /// Fingerprint of the hub's key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) pin: [u8; 32],
}

/// Of [`PEERS`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PeerRecord {
    /// Root certificate (DER).
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) root: Vec<u8>,
}

/// Of [`TOKENS`].
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct TokenRecord {
    /// The half that the hub never sees; zeros once the token is spent.
    #[n(0)]
    pub(crate) domain_half: Secret,
    /// When it ends.
    #[n(1)]
    pub(crate) expires: UnixTime,
    /// When it was used.
    #[n(2)]
    pub(crate) spent: Option<UnixTime>,
    /// What its joiner becomes; a gateway unless it says otherwise.
    #[n(3)]
    pub(crate) role: Option<Role>,
}

impl TokenRecord {
    /// Whether a joiner may still use it.
    pub(crate) fn good(&self, now: UnixTime) -> bool {
        self.spent.is_none() && now < self.expires
    }
}

/// Of [`REVOKED`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct RevokedRecord {
    /// When.
    #[n(0)]
    pub(crate) at: UnixTime,
}

/// Of [`REVOCATIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SignedRecord {
    /// List, signer's certificate and signature, as they travel.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) bytes: Vec<u8>,
}

/// Of [`ISSUED`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct IssuedRecord {
    /// When it was first given out.
    #[n(0)]
    pub(crate) at: UnixTime,
    /// The gateway that gave it out.
    #[n(1)]
    pub(crate) by: String,
}
