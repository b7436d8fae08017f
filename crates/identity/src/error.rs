//! Why an identity, certificate or list was refused, and what helps.

use std::path::PathBuf;

use hawser_proto::{DomainName, NodeId, UnixTime};

use crate::{Fingerprint, Signer};

/// A refusal or failure. None of the texts holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{}: {detail}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A file is not there.
    #[error("{} is missing: expected {expected}", path.display())]
    Missing {
        /// Which one.
        path: PathBuf,
        /// What should be in it, and where it comes from.
        expected: &'static str,
    },
    /// A key file, or the directory of one, is open to other users.
    #[error("{} is open to other users (mode {mode:o}); run: chmod {advice} {}", path.display(), path.display())]
    OpenToOthers {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        advice: &'static str,
    },
    /// A certificate cannot be read, or lacks what its place in the chain demands.
    #[error("the {which} certificate does not fit: {detail}")]
    Certificate {
        /// "leaf", "issuer", "root" and so on.
        which: &'static str,
        /// What was expected and what came.
        detail: String,
    },
    /// A private key cannot be read or used.
    #[error("the {which} key does not fit: {detail}")]
    Key {
        /// "node", "issuer", "root", "hub".
        which: &'static str,
        /// What was expected.
        detail: String,
    },
    /// The peer showed no certificate.
    #[error("no certificate was shown: expected that of a gateway")]
    NoCertificate,
    /// A chain is not leaf, issuer and root.
    #[error("a chain of {0} certificates: expected 3 (leaf, issuer, root)")]
    ChainLength(usize),
    /// A certificate names a domain whose root is not accepted here.
    #[error(
        "domain {0} is not accepted here: exchange peering tokens with it (hawser domain peer), or have the hub admit it"
    )]
    UnknownDomain(DomainName),
    /// A root vouches for another domain than the one it is given for.
    #[error("this root is that of {found}, not of domain {expected}")]
    OtherDomain {
        /// Where it was to count.
        expected: DomainName,
        /// What it calls itself.
        found: String,
    },
    /// The chain does not lead to the accepted root of the domain.
    #[error("{id} is not vouched for by the accepted root of its domain: {detail}")]
    Untrusted {
        /// Who it claims to be.
        id: NodeId,
        /// What is wrong with the chain.
        detail: String,
    },
    /// A certificate is past its time.
    #[error(
        "the certificate of {who} ended at {not_after}, and it is {now} now (UTC): renew it, or set the clock right"
    )]
    Expired {
        /// Whose.
        who: String,
        /// When it ended.
        not_after: Utc,
        /// What the clock says.
        now: Utc,
    },
    /// A certificate is not valid yet.
    #[error(
        "the certificate of {who} begins at {not_before}, and it is {now} now (UTC): set the clocks right"
    )]
    NotYetValid {
        /// Whose.
        who: String,
        /// When it begins.
        not_before: Utc,
        /// What the clock says.
        now: Utc,
    },
    /// The name was revoked, or that of its issuer.
    #[error("{0} was revoked: join again under a new name")]
    Revoked(NodeId),
    /// Somebody else than expected.
    #[error("expected {expected}, but {found} is at the other end")]
    OtherPeer {
        /// Whom.
        expected: NodeId,
        /// Who it proved to be.
        found: NodeId,
    },
    /// A node whose role does not entitle it to this.
    #[error("{found} has no business here: expected {expected}")]
    Role {
        /// Who it proved to be.
        found: NodeId,
        /// Who would be let in.
        expected: &'static str,
    },
    /// A key is not the pinned one.
    #[error(
        "expected the key {expected}, found {found}: is it the right address, and the token that of this hub or domain?"
    )]
    WrongPin {
        /// From the token or configuration.
        expected: Fingerprint,
        /// What the peer showed.
        found: Fingerprint,
    },
    /// A certification request is malformed or asks for what is not given.
    #[error("the certification request is refused: {0}")]
    Request(String),
    /// A signature does not verify.
    #[error("the signature of {0} is wrong")]
    Signature(String),
    /// A revocation list breaks a rule.
    #[error("the revocation list is refused: {0}")]
    Revocations(String),
    /// A revocation list is not newer than the one known: an old one replayed, or the same once more.
    #[error("revocation list {number} of {signer} is not newer than {known}")]
    NotNewer {
        /// Who signed it.
        signer: Signer,
        /// Its number.
        number: u64,
        /// The highest number known of this signer.
        known: u64,
    },
    /// The other side speaks another protocol (ALPN).
    #[error(
        "expected the protocol {expected}, the other side agreed to {found}: it is no Hawser, or of another version"
    )]
    Protocol {
        /// What was offered.
        expected: String,
        /// What was agreed.
        found: String,
    },
    /// Making a key, certificate or signature failed.
    #[error("making a {what} failed: {detail}")]
    Make {
        /// Of what.
        what: &'static str,
        /// What the library says.
        detail: String,
    },
}

/// A time that prints as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc(pub UnixTime);

impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = i64::try_from(self.0.0)
            .ok()
            .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok())
            .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
        match time {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} s after 1970", self.0.0),
        }
    }
}
