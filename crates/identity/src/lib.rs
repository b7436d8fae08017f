//! Who is who: keys, domain roots and issuers, certificates, one-time tokens, revocation lists, and the TLS configurations
//! that rest on them.
//!
//! Each domain has a root of its own; the root certifies issuers, issuers sign the short-lived certificates of gateways
//! (X.509, RFC 5280; the identity is a SPIFFE ID in the URI subject alternative name). A root counts only for its own
//! domain's names ([`Trust`]). A hub has a pinned key and can mint nothing. Imports `hawser-proto` only.

mod authority;
mod certificate;
mod error;
mod files;
mod fingerprint;
mod given;
mod hub;
mod node;
pub mod revocation;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod token;
mod trust;

pub use authority::{ISSUER_LIFE, Issuer, LEAF_LIFE, ROOT_LIFE, RootAuthority, verify_issuer_signature};
pub use certificate::validity;
pub use error::IdentityError;
pub use files::{
    prepare_dir, read_certificates, read_private, write_certificates, write_new_private, write_private,
};
pub use fingerprint::Fingerprint;
pub use given::Given;
pub use hub::HubIdentity;
pub use node::{Credentials, NodeKey, SharedCredentials};
pub use revocation::{Accepted, RevocationList, SignedRevocations, Signer};
pub use rustls::pki_types::CertificateDer;
pub use token::{AnyToken, HubAddress, HubToken, JoinToken, Joins, PeeringToken, Secret, TokenError};
pub use trust::{Proved, SharedTrust, Trust};

/// Names of the files in a state directory (mode 0700, files 0600).
pub mod file {
    /// The domain's root certificate (PEM).
    pub const ROOT_CERTIFICATE: &str = "root.crt";
    /// The domain's root key (PKCS#8 PEM); only where the domain was made, and may be moved away.
    pub const ROOT_KEY: &str = "root.key";
    /// The issuer's certificate (PEM); issuers only.
    pub const ISSUER_CERTIFICATE: &str = "issuer.crt";
    /// The issuer's key (PKCS#8 PEM).
    pub const ISSUER_KEY: &str = "issuer.key";
    /// Leaf, issuer and root certificates of a node (PEM, in this order).
    pub const NODE_CERTIFICATE: &str = "node.crt";
    /// The node's key (PKCS#8 PEM).
    pub const NODE_KEY: &str = "node.key";
    /// The hub's certificate (PEM).
    pub const HUB_CERTIFICATE: &str = "hub.crt";
    /// The hub's key (PKCS#8 PEM).
    pub const HUB_KEY: &str = "hub.key";
    /// The key by which a domain signs to its devices (PKCS#8 PEM).
    pub const SENDER_KEY: &str = "sender.key";
}
