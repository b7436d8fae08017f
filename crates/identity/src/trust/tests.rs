use hawser_proto::UnixTime;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::{
    Issuer, LEAF_LIFE, NodeKey, RootAuthority,
    testing::{
        DAY, Domain, Forger, domain, id, issuer_params, leaf_params, node, root_params, set_time, trust,
    },
};

/// A domain `acme` whose every key the test holds, in the shape of a real one.
struct Acme {
    root: Forger,
    issuer: Forger,
    trust: Trust,
}

impl Acme {
    fn new() -> Self {
        let root = Forger::root(root_params("acme"));
        let issuer = root.sign(issuer_params("spiffe://acme/issuer/gw1"));
        let mut trust = Trust::new();
        trust.add_root(&domain("acme"), root.der.clone()).unwrap();
        Self { root, issuer, trust }
    }

    /// The verdict on a leaf with these parameters, properly signed.
    fn verdict(&self, leaf: CertificateParams) -> Result<Proved, IdentityError> {
        self.chain(&[&self.issuer.sign(leaf), &self.issuer, &self.root])
    }

    fn chain(&self, chain: &[&Forger]) -> Result<Proved, IdentityError> {
        let chain: Vec<_> = chain.iter().map(|f| f.der.clone()).collect();
        self.trust.verify(&chain, UnixTime::now())
    }
}

const GW1: &str = "spiffe://acme/gateway/gw1";

#[test]
fn a_gateway_of_an_accepted_domain_is_proved() {
    let acme = Domain::new("acme");
    let gateway = acme.gateway("gw1");
    let proved = trust(&[&acme]).verify(gateway.chain(), UnixTime::now()).unwrap();
    assert_eq!(proved.id, id(GW1));
    assert_eq!(proved.root, acme.root.fingerprint());
    assert_eq!(proved.not_after, gateway.not_after());
}

#[test]
fn the_forger_can_make_what_passes_so_that_what_fails_fails_for_its_flaw() {
    let acme = Acme::new();
    assert_eq!(acme.verdict(leaf_params(&[GW1])).unwrap().id, id(GW1));
    let mut with_dns = leaf_params(&[GW1]);
    with_dns
        .subject_alt_names
        .push(SanType::DnsName("gw1.acme.example".try_into().unwrap()));
    assert!(acme.verdict(with_dns).is_ok(), "names beside the URI do no harm");
}

#[test]
fn nobody_is_proved_without_the_root_of_their_domain() {
    let (acme, beta) = (Domain::new("acme"), Domain::new("beta"));
    let refused = trust(&[&beta]).verify(acme.gateway("gw1").chain(), UnixTime::now());
    assert!(matches!(refused, Err(IdentityError::UnknownDomain(d)) if d == domain("acme")));
}

#[test]
fn a_root_counts_for_no_other_domain() {
    let acme = Acme::new();
    let evil = Forger::root(root_params("evil"));
    let mut trust = acme.trust.clone();
    trust.add_root(&domain("evil"), evil.der.clone()).unwrap();
    // Names of ours from their issuer; an issuer of "ours" from their root; each with either root at the end.
    for issuer_uri in ["spiffe://evil/issuer/x", "spiffe://acme/issuer/gw1"] {
        let issuer = evil.sign(issuer_params(issuer_uri));
        let leaf = issuer.sign(leaf_params(&[GW1]));
        for root in [&evil, &acme.root] {
            let chain = [leaf.der.clone(), issuer.der.clone(), root.der.clone()];
            assert!(trust.verify(&chain, UnixTime::now()).is_err(), "{issuer_uri}");
        }
    }
    // Our own issuer cannot name theirs either.
    let leaf = acme.issuer.sign(leaf_params(&["spiffe://evil/gateway/x"]));
    let chain = [leaf.der, acme.issuer.der.clone(), acme.root.der.clone()];
    assert!(trust.verify(&chain, UnixTime::now()).is_err());
}

#[test]
fn a_root_of_the_same_name_is_another_root() {
    let acme = Acme::new();
    let imposter = Forger::root(root_params("acme"));
    let issuer = imposter.sign(issuer_params("spiffe://acme/issuer/gw1"));
    let leaf = issuer.sign(leaf_params(&[GW1]));
    for root in [&imposter, &acme.root] {
        assert!(matches!(
            acme.chain(&[&leaf, &issuer, root]),
            Err(IdentityError::Untrusted { .. })
        ));
    }
}

#[test]
fn an_issuer_of_the_same_name_is_another_issuer() {
    let acme = Acme::new();
    let imposter = Forger::root(issuer_params("spiffe://acme/issuer/gw1"));
    let leaf = imposter.sign(leaf_params(&[GW1]));
    assert!(
        acme.chain(&[&leaf, &acme.issuer, &acme.root]).is_err(),
        "signed by another key"
    );
    assert!(
        acme.chain(&[&leaf, &imposter, &acme.root]).is_err(),
        "issuer not signed by the root"
    );
}

#[test]
fn a_leaf_cannot_issue() {
    let acme = Acme::new();
    let mut sly = leaf_params(&[GW1]);
    sly.distinguished_name = acme.issuer.params.distinguished_name.clone();
    let leaf = acme.issuer.sign(sly);
    let forged = leaf.sign(leaf_params(&["spiffe://acme/gateway/admin"]));
    assert!(acme.chain(&[&forged, &leaf, &acme.root]).is_err());
    assert!(acme.chain(&[&forged, &acme.issuer, &acme.root]).is_err());
    assert!(acme.chain(&[&forged, &leaf, &acme.issuer, &acme.root]).is_err());
    // A leaf that the issuer made a CA, against the rules.
    let mut ca = issuer_params(GW1);
    ca.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    assert!(acme.verdict(ca).is_err());
}

#[test]
fn the_path_is_exactly_leaf_issuer_root() {
    let acme = Acme::new();
    let direct = acme.root.sign(leaf_params(&[GW1]));
    assert!(
        acme.chain(&[&direct, &acme.issuer, &acme.root]).is_err(),
        "signed by the root itself"
    );
    assert!(acme.chain(&[&direct, &acme.root, &acme.root]).is_err());
    let below = acme.issuer.sign(issuer_params("spiffe://acme/issuer/below"));
    let leaf = below.sign(leaf_params(&[GW1]));
    assert!(
        acme.chain(&[&leaf, &below, &acme.root]).is_err(),
        "an issuer below an issuer"
    );
    assert!(acme.chain(&[&leaf, &below, &acme.issuer, &acme.root]).is_err());
    let leaf = acme.issuer.sign(leaf_params(&[GW1]));
    assert!(matches!(acme.chain(&[]), Err(IdentityError::NoCertificate)));
    assert!(matches!(acme.chain(&[&leaf]), Err(IdentityError::ChainLength(1))));
    assert!(matches!(
        acme.chain(&[&leaf, &acme.issuer]),
        Err(IdentityError::ChainLength(2))
    ));
    assert!(
        acme.chain(&[&leaf, &acme.root, &acme.issuer]).is_err(),
        "in another order"
    );
    assert!(
        acme.chain(&[&acme.issuer, &acme.issuer, &acme.root]).is_err(),
        "an issuer is no gateway"
    );
    assert!(acme.chain(&[&acme.root, &acme.root, &acme.root]).is_err());
}

#[test]
fn a_leaf_has_one_name_both_usages_and_nothing_unknown() {
    let acme = Acme::new();
    let usages = |list: &[ExtendedKeyUsagePurpose]| {
        let mut params = leaf_params(&[GW1]);
        params.extended_key_usages = list.to_vec();
        params
    };
    let mut wrong_usage = leaf_params(&[GW1]);
    wrong_usage.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    let mut critical = leaf_params(&[GW1]);
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    critical.custom_extensions = vec![extension];
    let bad = [
        ("no URI", leaf_params(&[])),
        ("two URIs", leaf_params(&[GW1, "spiffe://acme/gateway/gw2"])),
        ("another scheme", leaf_params(&["https://acme/gateway/gw1"])),
        ("issuer's name", leaf_params(&["spiffe://acme/issuer/gw1"])),
        ("unknown role", leaf_params(&["spiffe://acme/admin/gw1"])),
        ("upper case", leaf_params(&["spiffe://ACME/gateway/gw1"])),
        ("longer path", leaf_params(&["spiffe://acme/gateway/gw1/x"])),
        ("client only", usages(&[ExtendedKeyUsagePurpose::ClientAuth])),
        ("server only", usages(&[ExtendedKeyUsagePurpose::ServerAuth])),
        ("any usage", usages(&[ExtendedKeyUsagePurpose::Any])),
        ("no usage", usages(&[])),
        ("key usage", wrong_usage),
        ("critical extension", critical),
    ];
    for (what, params) in bad {
        assert!(acme.verdict(params).is_err(), "{what}");
    }
}

#[test]
fn an_issuer_is_an_authority_of_the_domain() {
    let acme = Acme::new();
    let mut no_ca = issuer_params("spiffe://acme/issuer/gw1");
    no_ca.is_ca = IsCa::ExplicitNoCa;
    let mut no_sign = issuer_params("spiffe://acme/issuer/gw1");
    no_sign.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut narrow = issuer_params("spiffe://acme/issuer/gw1");
    narrow.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let bad = [
        ("no CA", no_ca),
        ("no keyCertSign", no_sign),
        ("server only", narrow),
        ("gateway's name", issuer_params("spiffe://acme/gateway/gw1")),
        ("other domain", issuer_params("spiffe://beta/issuer/gw1")),
        ("no name", issuer_params("urn:x")),
    ];
    for (what, params) in bad {
        let issuer = acme.root.sign(params);
        let leaf = issuer.sign(leaf_params(&[GW1]));
        assert!(acme.chain(&[&leaf, &issuer, &acme.root]).is_err(), "{what}");
    }
}

#[test]
fn each_certificate_of_a_chain_must_be_within_its_time() {
    for (from, to) in [(-7200, -3600), (3600, 7200)] {
        for which in 0..3 {
            let mut all = [
                root_params("acme"),
                issuer_params("spiffe://acme/issuer/gw1"),
                leaf_params(&[GW1]),
            ];
            set_time(&mut all[which], from, to);
            let [root, issuer, leaf] = all;
            let root = Forger::root(root);
            let issuer = root.sign(issuer);
            let leaf = issuer.sign(leaf);
            let mut trust = Trust::new();
            trust.add_root(&domain("acme"), root.der.clone()).unwrap();
            let verdict = trust.verify(&[leaf.der, issuer.der, root.der], UnixTime::now());
            let expired = matches!(verdict, Err(IdentityError::Expired { .. }));
            let early = matches!(verdict, Err(IdentityError::NotYetValid { .. }));
            assert_eq!((expired, early), (to < 0, from > 0), "{which}");
        }
    }
}

#[test]
fn a_leaf_ends_at_its_last_second() {
    let acme = Domain::new("acme");
    let gateway = acme.gateway("gw1");
    let trust = trust(&[&acme]);
    assert!(trust.verify(gateway.chain(), gateway.not_before()).is_ok());
    assert!(trust.verify(gateway.chain(), gateway.not_after()).is_ok());
    assert!(
        trust
            .verify(gateway.chain(), UnixTime(gateway.not_after().0 + 1))
            .is_err()
    );
    assert!(
        trust
            .verify(gateway.chain(), UnixTime(gateway.not_before().0 - 1))
            .is_err()
    );
    assert!(trust.verify(gateway.chain(), UnixTime(u64::MAX)).is_err());
    assert!(trust.verify(gateway.chain(), UnixTime(0)).is_err());
}

#[test]
fn the_proof_ends_with_the_first_certificate_that_ends() {
    let root = Forger::root(root_params("acme"));
    let mut short = issuer_params("spiffe://acme/issuer/gw1");
    set_time(&mut short, -60, 100);
    let issuer = root.sign(short);
    let leaf = issuer.sign(leaf_params(&[GW1]));
    let mut trust = Trust::new();
    trust.add_root(&domain("acme"), root.der.clone()).unwrap();
    let now = UnixTime::now();
    let proved = trust.verify(&[leaf.der, issuer.der, root.der], now).unwrap();
    assert!(proved.not_after <= now.plus(std::time::Duration::from_secs(100)));
}

#[test]
fn the_revoked_are_refused_leaf_and_issuer() {
    let acme = Domain::new("acme");
    let (one, two) = (acme.gateway("gw1"), acme.gateway("gw2"));
    let now = UnixTime::now();
    let mut by_leaf = trust(&[&acme]);
    by_leaf.revoke(id(GW1));
    assert!(matches!(by_leaf.verify(one.chain(), now), Err(IdentityError::Revoked(r)) if r == id(GW1)));
    assert!(by_leaf.verify(two.chain(), now).is_ok());
    let mut by_issuer = trust(&[&acme]);
    by_issuer.revoke(id("spiffe://acme/issuer/gw1"));
    assert!(matches!(
        by_issuer.verify(one.chain(), now),
        Err(IdentityError::Revoked(_))
    ));
    assert!(matches!(
        by_issuer.verify(two.chain(), now),
        Err(IdentityError::Revoked(_))
    ));
    // The same name in another domain, or a fresh certificate for a revoked one, changes nothing.
    let beta = Domain::new("beta");
    assert!(trust(&[&beta]).verify(beta.gateway("gw1").chain(), now).is_ok());
    assert!(by_leaf.verify(acme.gateway("gw1").chain(), now).is_err());
}

#[test]
fn a_root_is_refused_where_it_does_not_belong() {
    let mut trust = Trust::new();
    let beta = Forger::root(root_params("beta"));
    let refused = trust.add_root(&domain("acme"), beta.der.clone());
    assert!(matches!(refused, Err(IdentityError::OtherDomain { .. })));
    let mut leafy = root_params("acme");
    leafy.is_ca = IsCa::ExplicitNoCa;
    let mut short = root_params("acme");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let mut no_sign = root_params("acme");
    no_sign.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut unnamed = root_params("acme");
    unnamed.subject_alt_names.clear();
    let mut both = root_params("beta");
    both.distinguished_name.push(DnType::CommonName, "acme");
    for (what, params) in [
        ("no CA", leafy),
        ("path length", short),
        ("key usage", no_sign),
        ("no name", unnamed),
        ("URI goes first", both),
    ] {
        assert!(
            trust.add_root(&domain("acme"), Forger::root(params).der).is_err(),
            "{what}"
        );
    }
    assert!(
        trust
            .add_root(&domain("acme"), CertificateDer::from(b"junk".to_vec()))
            .is_err()
    );
    assert_eq!(trust.domains().count(), 0);
}

#[test]
fn a_root_taken_back_or_replaced_is_in_force_no_more() {
    let (old, new) = (Domain::new("acme"), Domain::new("acme"));
    let (before, after) = (old.gateway("gw1"), new.gateway("gw1"));
    let now = UnixTime::now();
    let mut trust = trust(&[&old]);
    assert!(trust.verify(before.chain(), now).is_ok());
    trust
        .add_root(&domain("acme"), new.root.certificate().clone())
        .unwrap();
    assert!(trust.verify(before.chain(), now).is_err());
    assert!(trust.verify(after.chain(), now).is_ok());
    assert!(trust.remove_root(&domain("acme")));
    assert!(!trust.remove_root(&domain("acme")));
    assert!(trust.verify(after.chain(), now).is_err());
}

#[test]
fn what_was_proved_stands_until_its_root_or_a_name_in_it_is_taken_back() {
    let (acme, other) = (Domain::new("acme"), Domain::new("acme"));
    let gateway = acme.gateway("gw2");
    let before = trust(&[&acme]);
    let proved = before.verify(gateway.chain(), UnixTime::now()).unwrap();
    assert_eq!(&proved.issuer, acme.issuer.id());
    assert!(before.stands(&proved));
    for name in ["spiffe://acme/gateway/gw2", "spiffe://acme/issuer/gw1"] {
        let mut after = before.clone();
        after.revoke(id(name));
        assert!(!after.stands(&proved), "{name}");
    }
    let mut unconcerned = before.clone();
    unconcerned.revoke(id("spiffe://acme/gateway/gw3"));
    assert!(unconcerned.stands(&proved));
    assert!(!trust(&[&other]).stands(&proved), "another root");
    assert!(!Trust::new().stands(&proved));
}

/// What a company's PKI may hand out: a root with another kind of key that is named in its subject only, an issuer under it.
#[test]
fn a_given_root_and_issuer_are_accepted_if_they_fit() {
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    for root_key in [rsa, p384] {
        let mut params = root_params("acme");
        params.subject_alt_names.clear();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Acme Söhne");
        params.distinguished_name.push(DnType::CommonName, "acme");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = Forger::root_with(params, root_key);
        let issuer = root.sign(issuer_params("spiffe://acme/issuer/pki"));

        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        crate::write_certificates(
            &dir.join(crate::file::ROOT_CERTIFICATE),
            std::slice::from_ref(&root.der),
        )
        .unwrap();
        crate::write_certificates(
            &dir.join(crate::file::ISSUER_CERTIFICATE),
            std::slice::from_ref(&issuer.der),
        )
        .unwrap();
        crate::files::write_key(&dir.join(crate::file::ISSUER_KEY), &issuer.key).unwrap();
        crate::files::write_key(&dir.join(crate::file::ROOT_KEY), &root.key).unwrap();

        let mut trust = Trust::new();
        trust.add_root(&domain("acme"), root.der.clone()).unwrap();
        let given = Issuer::load(dir).unwrap();
        let authority = RootAuthority::load(
            &dir.join(crate::file::ROOT_CERTIFICATE),
            &dir.join(crate::file::ROOT_KEY),
        )
        .unwrap();
        let made = Issuer::create(&authority, &domain("acme"), &node("made")).unwrap();
        for issuer in [given, made] {
            let key = NodeKey::create().unwrap();
            let chain = issuer.issue(&id(GW1), &key.csr().unwrap(), LEAF_LIFE).unwrap();
            assert_eq!(trust.verify(&chain, UnixTime::now()).unwrap().id, id(GW1));
            let credentials = crate::Credentials::new(chain, &key).unwrap();
            assert!(credentials.not_after() <= UnixTime::now().plus(DAY));
        }
    }
}

#[test]
fn bit_flips_are_noticed() {
    let acme = Domain::new("acme");
    let gateway = acme.gateway("gw1");
    let trust = trust(&[&acme]);
    let now = UnixTime::now();
    for which in 0..2 {
        let length = gateway.chain()[which].len();
        for bit in (0..length * 8).step_by(7) {
            let mut chain = gateway.chain().to_vec();
            let mut der = chain[which].to_vec();
            der[bit / 8] ^= 1 << (bit % 8);
            chain[which] = der.into();
            assert!(
                trust.verify(&chain, now).is_err(),
                "certificate {which}, bit {bit}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let junk = CertificateDer::from(bytes);
        let chain = [junk.clone(), junk.clone(), junk.clone()];
        prop_assert!(Trust::new().verify(&chain, UnixTime::now()).is_err());
        prop_assert!(Fingerprint::of_certificate(&junk).is_err());
        prop_assert!(Trust::new().add_root(&domain("acme"), junk).is_err());
    }

    #[test]
    fn mangled_certificates_are_read_without_a_panic(
        at in 0usize..2000, with in prop::collection::vec(any::<u8>(), 0..8), cut in 0usize..2000,
    ) {
        let root = Forger::root(root_params("acme"));
        let mut der = root.der.to_vec();
        let at = at % der.len();
        der.splice(at..(at + with.len()).min(root.der.len()), with);
        der.truncate(cut.max(1));
        let _ = Trust::new().add_root(&domain("acme"), der.into());
    }
}
