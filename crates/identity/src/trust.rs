//! Whom to believe: one root per domain, each for its own domain's names only, less what has been revoked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hawser_proto::{DomainName, NodeId, Role, UnixTime};
use rustls::pki_types::{self, CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

use crate::{
    Accepted, Fingerprint, IdentityError, SignedRevocations, Signer, certificate::Certificate, error::Utc,
};

/// How far a list may lie in the future, for clocks that are slow.
const SKEW: Duration = Duration::from_secs(300);

/// Roots and revocations. Cheap to clone and change: readers hold a snapshot ([`SharedTrust`]).
#[derive(Debug, Clone, Default)]
pub struct Trust {
    roots: BTreeMap<DomainName, Root>,
    /// Revoked by this party's own decision.
    revoked: BTreeSet<NodeId>,
    lists: BTreeMap<(DomainName, Signer), Kept>,
}

/// The trust in use. Verifiers read it at each handshake, so that a change is in force from then on.
pub type SharedTrust = Arc<ArcSwap<Trust>>;

/// What a chain has proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// Who the peer is.
    pub id: NodeId,
    /// Who signed its certificate: when that is revoked, so is everything it signed.
    pub issuer: NodeId,
    /// When the first of its certificates ends.
    pub not_after: UnixTime,
    /// Of the root that vouches for it.
    pub root: Fingerprint,
}

/// What is known by the lists of one signer.
#[derive(Debug, Clone)]
struct Kept {
    number: u64,
    next_update: UnixTime,
    revoked: BTreeSet<NodeId>,
}

impl Trust {
    /// Trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// This, to be shared and replaced while in use.
    pub fn shared(self) -> SharedTrust {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// Accepts a root for the names of one domain, in place of the one it had. Refused if the root calls itself something
    /// else, or could not certify issuers.
    pub fn add_root(
        &mut self,
        domain: &DomainName,
        root: CertificateDer<'static>,
    ) -> Result<Fingerprint, IdentityError> {
        let root = Root::new(domain, root)?;
        let fingerprint = root.fingerprint;
        let before = self.roots.insert(domain.clone(), root);
        if before.is_some_and(|r| r.fingerprint != fingerprint) {
            self.forget_lists(domain);
        }
        Ok(fingerprint)
    }

    /// Accepts nobody of this domain any more; false if it was not accepted.
    pub fn remove_root(&mut self, domain: &DomainName) -> bool {
        self.forget_lists(domain);
        self.roots.remove(domain).is_some()
    }

    /// The root accepted for a domain.
    pub fn root(&self, domain: &DomainName) -> Option<&CertificateDer<'static>> {
        self.roots.get(domain).map(|r| &r.der)
    }

    /// The accepted domains with their roots' fingerprints.
    pub fn domains(&self) -> impl Iterator<Item = (&DomainName, Fingerprint)> {
        self.roots.iter().map(|(domain, root)| (domain, root.fingerprint))
    }

    /// Revokes a name by this party's own decision, besides the lists. The name of an issuer takes all it signed with it.
    pub fn revoke(&mut self, id: NodeId) {
        self.revoked.insert(id);
    }

    /// Whether a name was revoked, by a list or by this party.
    pub fn is_revoked(&self, id: &NodeId) -> bool {
        self.revoked.contains(id)
            || self
                .lists
                .iter()
                .any(|((domain, _), kept)| *domain == id.domain && kept.revoked.contains(id))
    }

    /// All names of a domain that are revoked, to be carried over into its next list.
    pub fn revoked(&self, domain: &DomainName) -> BTreeSet<NodeId> {
        let listed = self
            .lists
            .iter()
            .filter(|((d, _), _)| d == domain)
            .flat_map(|(_, kept)| &kept.revoked);
        let own = self.revoked.iter().filter(|id| id.domain == *domain);
        listed.chain(own).cloned().collect()
    }

    /// The number of the last list of a signer.
    pub fn list_number(&self, domain: &DomainName, signer: &Signer) -> Option<u64> {
        let key = (domain.clone(), signer.clone());
        self.lists.get(&key).map(|kept| kept.number)
    }

    /// Lists whose successor should have come by now: somebody may be withholding it.
    pub fn overdue(&self, now: UnixTime) -> impl Iterator<Item = (&DomainName, &Signer, UnixTime)> {
        self.lists
            .iter()
            .filter(move |(_, kept)| kept.next_update < now)
            .map(|((domain, signer), kept)| (domain, signer, kept.next_update))
    }

    /// Whether a chain (leaf, issuer, root) proves a node (a gateway or a host) of an accepted domain, now and not revoked. What
    /// its role entitles it to is the caller's to know. The accepted root
    /// of exactly the leaf's domain must be its end.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Proved, IdentityError> {
        let [leaf, _, _] = chain else {
            return Err(if chain.is_empty() {
                IdentityError::NoCertificate
            } else {
                IdentityError::ChainLength(chain.len())
            });
        };
        let id = Certificate::parse("leaf", leaf)?.leaf()?;
        let root = self
            .roots
            .get(&id.domain)
            .ok_or_else(|| IdentityError::UnknownDomain(id.domain.clone()))?;
        let proved = root.check_chain(chain, now)?;
        for id in [&proved.id, &proved.issuer] {
            if self.is_revoked(id) {
                return Err(IdentityError::Revoked(id.clone()));
            }
        }
        Ok(proved)
    }

    /// Whether what was proved earlier would still be believed, its time apart: to cut what lives when trust changes.
    pub fn stands(&self, proved: &Proved) -> bool {
        self.roots
            .get(&proved.id.domain)
            .is_some_and(|root| root.fingerprint == proved.root)
            && ![&proved.id, &proved.issuer]
                .into_iter()
                .any(|id| self.is_revoked(id))
    }

    /// Takes in a signed list. Per signer the number must rise; what counts is the union over all signers. Nobody comes off
    /// a list again: a name stays revoked.
    pub fn accept_revocations(&mut self, bytes: &[u8], now: UnixTime) -> Result<Accepted, IdentityError> {
        self.take_revocations(bytes, Some(now))
    }

    /// Takes in a list that was accepted earlier and kept: its signer's certificate may have ended since.
    pub fn restore_revocations(&mut self, bytes: &[u8]) -> Result<Accepted, IdentityError> {
        self.take_revocations(bytes, None)
    }

    fn take_revocations(&mut self, bytes: &[u8], now: Option<UnixTime>) -> Result<Accepted, IdentityError> {
        let signed = SignedRevocations::parse(bytes)?;
        let list = signed.list()?;
        let root = self
            .roots
            .get(&list.domain)
            .ok_or_else(|| IdentityError::UnknownDomain(list.domain.clone()))?;
        let signer = signed.check(&list, root, now)?;
        if let Signer::Issuer(name) = &signer {
            let id = NodeId {
                domain: list.domain.clone(),
                role: Role::Issuer,
                name: name.clone(),
            };
            // What it said before it was revoked stays; it adds nothing.
            if now.is_some() && self.is_revoked(&id) {
                return Err(IdentityError::Revoked(id));
            }
        }
        if let Some(now) = now
            && list.this_update > now.plus(SKEW)
        {
            return Err(IdentityError::Revocations(format!(
                "it is of {}, and it is {} now (UTC): set the clocks right",
                Utc(list.this_update),
                Utc(now)
            )));
        }
        let key = (list.domain.clone(), signer.clone());
        let kept = self.lists.get(&key);
        if let Some(kept) = kept
            && list.number <= kept.number
        {
            return Err(IdentityError::NotNewer {
                signer,
                number: list.number,
                known: kept.number,
            });
        }
        let mut revoked: BTreeSet<_> = list.revoked.iter().cloned().collect();
        revoked.extend(kept.iter().flat_map(|k| &k.revoked).cloned());
        let kept = Kept {
            number: list.number,
            next_update: list.next_update,
            revoked,
        };
        self.lists.insert(key, kept);
        Ok(Accepted {
            domain: list.domain.clone(),
            signer,
            number: list.number,
            list,
        })
    }

    fn forget_lists(&mut self, domain: &DomainName) {
        self.lists.retain(|(d, _), _| d != domain);
    }
}

/// The root of one domain, checked to be that.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) domain: DomainName,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) certificate: Arc<Certificate>,
    anchor: TrustAnchor<'static>,
}

impl Root {
    pub(crate) fn new(domain: &DomainName, der: CertificateDer<'static>) -> Result<Self, IdentityError> {
        let certificate = Certificate::parse("root", &der)?;
        certificate.root(domain)?;
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|e| IdentityError::Certificate {
                which: "root",
                detail: e.to_string(),
            })?
            .to_owned();
        Ok(Self {
            domain: domain.clone(),
            fingerprint: certificate.fingerprint(),
            certificate: Arc::new(certificate),
            anchor,
            der,
        })
    }

    /// Whether a certificate is that of an issuer of this domain, signed by this root. Its time is not looked at.
    pub(crate) fn check_issuer(&self, issuer: &Certificate) -> Result<NodeId, IdentityError> {
        let id = issuer.issuer()?;
        if id.domain != self.domain {
            return Err(IdentityError::OtherDomain {
                expected: self.domain.clone(),
                found: id.domain.to_string(),
            });
        }
        issuer.check_signed_by(&self.certificate, &self.der)?;
        Ok(id)
    }

    /// Whether a chain of leaf, issuer and this very root holds at `now`; says who it proves.
    pub(crate) fn check_chain(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Proved, IdentityError> {
        let [leaf_der, issuer_der, root_der] = chain else {
            return Err(IdentityError::ChainLength(chain.len()));
        };
        let leaf = Certificate::parse("leaf", leaf_der)?;
        let id = leaf.leaf()?;
        if id.domain != self.domain {
            return Err(IdentityError::OtherDomain {
                expected: self.domain.clone(),
                found: id.domain.to_string(),
            });
        }
        let untrusted = |detail: String| IdentityError::Untrusted {
            id: id.clone(),
            detail,
        };
        if Certificate::parse("root", root_der)?.fingerprint() != self.fingerprint {
            return Err(untrusted(format!(
                "it shows another root than {}",
                self.fingerprint
            )));
        }
        let issuer = Certificate::parse("issuer", issuer_der)?;
        let issuer_id = issuer.issuer()?;
        if issuer_id.domain != self.domain {
            return Err(untrusted(format!("{issuer_id} is an issuer of another domain")));
        }
        for certificate in [&*self.certificate, &issuer, &leaf] {
            certificate.check_time(now)?;
        }
        let end = EndEntityCert::try_from(leaf_der).map_err(|e| untrusted(e.to_string()))?;
        let path = end
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&self.anchor),
                std::slice::from_ref(issuer_der),
                pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.0)),
                ClientAndServer,
                None,
                None,
            )
            .map_err(|e| untrusted(e.to_string()))?;
        let mut between = path.intermediate_certificates();
        if between.next().map(|c| c.der()).as_ref() != Some(issuer_der) || between.next().is_some() {
            return Err(untrusted("it was not signed by its issuer".into()));
        }
        let ends = [leaf.not_after, issuer.not_after, self.certificate.not_after];
        let proved = Proved {
            not_after: ends.into_iter().min().unwrap_or(leaf.not_after),
            root: self.fingerprint,
            issuer: issuer_id,
            id,
        };
        Ok(proved)
    }
}

/// Extended key usages that leave out neither client nor server authentication. That a leaf has the extension at all is seen
/// to by [`Certificate::leaf`].
struct ClientAndServer;

impl ExtendedKeyUsageValidator for ClientAndServer {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut any, mut client, mut server) = (false, false, false);
        for id in iter {
            let id = id?;
            any = true;
            client |= id == CLIENT;
            server |= id == SERVER;
        }
        if !any || (client && server) {
            Ok(())
        } else {
            Err(webpki::Error::ExtensionValueInvalid)
        }
    }
}

/// id-kp-clientAuth, 1.3.6.1.5.5.7.3.2.
const CLIENT: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
/// id-kp-serverAuth, 1.3.6.1.5.5.7.3.1.
const SERVER: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);

#[cfg(test)]
mod tests;
