use proptest::prelude::*;
use rcgen::PKCS_ECDSA_P384_SHA384;

use super::*;
use crate::{
    Credentials, NodeKey,
    testing::{Domain, Forger, domain, id, issuer_params, leaf_params, node, root_params, trust},
};

fn gw(name: &str) -> NodeId {
    NodeId::gateway(domain("acme"), node(name))
}

#[test]
fn the_name_comes_from_the_issuer_not_from_the_request() {
    let acme = Domain::new("acme");
    let key = KeyPair::generate().unwrap();
    let mut params = leaf_params(&["spiffe://acme/gateway/admin"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap();
    let chain = acme.issuer.issue(&gw("gw2"), request.der(), LEAF_LIFE).unwrap();
    let proved = trust(&[&acme]).verify(&chain, UnixTime::now()).unwrap();
    assert_eq!(proved.id, gw("gw2"));
}

#[test]
fn a_request_must_be_signed_by_the_key_it_holds() {
    let acme = Domain::new("acme");
    let good = NodeKey::create().unwrap().csr().unwrap();
    assert!(acme.issuer.issue(&gw("gw2"), &good, LEAF_LIFE).is_ok());
    let refused = |request: &[u8]| {
        let result = acme.issuer.issue(&gw("gw2"), request, LEAF_LIFE);
        assert!(matches!(result, Err(IdentityError::Request(_))));
    };
    // The key of another node put in place of one's own.
    let other = NodeKey::create().unwrap().csr().unwrap();
    let at = good.windows(2).position(|w| w == [0x00, 0x04]).unwrap() + 2;
    let mut swapped = good.clone();
    swapped[at..at + 64].copy_from_slice(&other[at..at + 64]);
    refused(&swapped);
    // The name of the algorithm is not signed; whatever is done to it, no other key gets in.
    let own = requested_key(&good).unwrap();
    for byte in 0..good.len() {
        let mut flipped = good.clone();
        flipped[byte] ^= 0x10;
        assert!(requested_key(&flipped).is_ok_and(|key| key == own) || requested_key(&flipped).is_err());
    }
    refused(&[good.clone(), vec![0]].concat());
    refused(&good[..good.len() - 1]);
    refused(&vec![0x30; MAX_REQUEST + 1]);
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let request = CertificateParams::default().serialize_request(&p384).unwrap();
    refused(request.der());
}

#[test]
fn an_issuer_names_gateways_and_hosts_of_its_own_domain_only() {
    let acme = Domain::new("acme");
    let request = NodeKey::create().unwrap().csr().unwrap();
    let host = id("spiffe://acme/host/h1");
    let chain = acme.issuer.issue(&host, &request, LEAF_LIFE).unwrap();
    assert_eq!(trust(&[&acme]).verify(&chain, UnixTime::now()).unwrap().id, host);
    for other in [
        "spiffe://beta/gateway/gw1",
        "spiffe://beta/host/h1",
        "spiffe://acme/issuer/gw1",
    ] {
        assert!(
            acme.issuer.issue(&id(other), &request, LEAF_LIFE).is_err(),
            "{other}"
        );
    }
    let wrong = Issuer::create(&acme.root, &domain("beta"), &node("gw1"));
    assert!(matches!(wrong, Err(IdentityError::OtherDomain { .. })));
}

#[test]
fn lives_end_with_those_of_the_authorities() {
    let (name, now) = (domain("acme"), UnixTime::now());
    let root = RootAuthority::create_at(&name, now).unwrap();
    let long_ago = UnixTime(now.0 - ISSUER_LIFE.as_secs() + 3600);
    let issuer = Issuer::create_at(&root, &name, &node("gw1"), long_ago).unwrap();
    let request = NodeKey::create().unwrap().csr().unwrap();
    let chain = issuer.issue(&gw("gw1"), &request, LEAF_LIFE).unwrap();
    let leaf = Certificate::parse("leaf", &chain[0]).unwrap();
    assert_eq!(leaf.not_after, issuer.not_after());
    assert_eq!(
        leaf.not_before.0 + BACKDATE,
        now.0.max(leaf.not_before.0 + BACKDATE),
        "dated back for slow clocks"
    );
    let over = issuer.issue_at(
        &gw("gw1"),
        &request,
        LEAF_LIFE,
        UnixTime(issuer.not_after().0 + 1),
    );
    assert!(matches!(over, Err(IdentityError::Expired { .. })));
    let late = UnixTime(root.not_after().0 - 3600);
    assert_eq!(
        Issuer::create_at(&root, &name, &node("gw1"), late)
            .unwrap()
            .not_after(),
        root.not_after()
    );
}

#[test]
fn a_renewal_with_the_same_key_is_another_certificate() {
    let acme = Domain::new("acme");
    let request = NodeKey::create().unwrap().csr().unwrap();
    let serial = || {
        let chain = acme.issuer.issue(&gw("gw1"), &request, LEAF_LIFE).unwrap();
        let (_, x509) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        assert_eq!(x509.raw_serial().len(), 16);
        x509.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn authorities_come_back_from_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let acme = Domain::new("acme");
    acme.root.save(dir).unwrap();
    acme.issuer.save(dir).unwrap();
    let root = RootAuthority::load(&dir.join(file::ROOT_CERTIFICATE), &dir.join(file::ROOT_KEY)).unwrap();
    assert_eq!(root.fingerprint(), acme.root.fingerprint());
    assert_eq!(root.domain(), &acme.name);
    let issuer = Issuer::load(dir).unwrap();
    assert_eq!(issuer.id(), acme.issuer.id());
    let key = NodeKey::create().unwrap();
    let chain = issuer.issue(&gw("gw2"), &key.csr().unwrap(), LEAF_LIFE).unwrap();
    assert!(trust(&[&acme]).verify(&chain, UnixTime::now()).is_ok());
    let again = Issuer::create(&root, &acme.name, &node("gw3")).unwrap();
    let chain = again.issue(&gw("gw3"), &key.csr().unwrap(), LEAF_LIFE).unwrap();
    assert!(trust(&[&acme]).verify(&chain, UnixTime::now()).is_ok());
    // With the root's key moved away the issuer works on.
    std::fs::remove_file(dir.join(file::ROOT_KEY)).unwrap();
    assert!(Issuer::load(dir).is_ok());
    let gone = RootAuthority::load(&dir.join(file::ROOT_CERTIFICATE), &dir.join(file::ROOT_KEY));
    assert!(matches!(gone, Err(IdentityError::Missing { .. })));
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (acme, other) = (Domain::new("acme"), Domain::new("acme"));
    acme.issuer.save(dir).unwrap();
    write_key(&dir.join(file::ISSUER_KEY), &new_key("issuer").unwrap()).unwrap();
    assert!(
        matches!(Issuer::load(dir), Err(IdentityError::Key { .. })),
        "another key"
    );
    acme.issuer.save(dir).unwrap();
    write_certificates(
        &dir.join(file::ROOT_CERTIFICATE),
        &[other.root.certificate().clone()],
    )
    .unwrap();
    assert!(Issuer::load(dir).is_err(), "another root");
}

#[test]
fn a_statement_counts_from_an_issuer_of_the_domain_only() {
    let (acme, beta) = (Domain::new("acme"), Domain::new("beta"));
    let (name, root, issuer) = (&acme.name, acme.root.certificate(), acme.issuer.certificate());
    let now = UnixTime::now();
    let signature = acme.issuer.sign(b"statement").unwrap();
    let verdict = |root, issuer, message: &[u8], signature: &[u8]| {
        verify_issuer_signature(name, root, issuer, message, signature, now)
    };
    assert_eq!(
        &verdict(root, issuer, b"statement", &signature).unwrap(),
        acme.issuer.id()
    );
    assert!(matches!(
        verdict(root, issuer, b"other", &signature),
        Err(IdentityError::Signature(_))
    ));
    assert!(verdict(root, issuer, b"statement", &[]).is_err());
    assert!(
        verdict(
            root,
            beta.issuer.certificate(),
            b"statement",
            &beta.issuer.sign(b"statement").unwrap()
        )
        .is_err()
    );
    assert!(
        verdict(beta.root.certificate(), issuer, b"statement", &signature).is_err(),
        "root of another domain"
    );
    let end = UnixTime(acme.issuer.not_after().0 + 1);
    let late = verify_issuer_signature(name, root, issuer, b"statement", &signature, end);
    assert!(matches!(late, Err(IdentityError::Expired { .. })));

    // Somebody with a gateway's key, or a root of their own under the same name.
    let forged = Forger::root(root_params("acme"));
    let issuer = forged.sign(issuer_params("spiffe://acme/issuer/gw1"));
    let by = |key: &KeyPair| SigningKey::sign(key, b"statement").unwrap();
    assert!(verdict(root, &issuer.der, b"statement", &by(&issuer.key)).is_err());
    assert!(
        verdict(&forged.der, &issuer.der, b"statement", &by(&issuer.key)).is_ok(),
        "the caller knows which root it is"
    );
    let leaf = issuer.sign(leaf_params(&["spiffe://acme/gateway/gw1"]));
    assert!(verdict(&forged.der, &leaf.der, b"statement", &by(&leaf.key)).is_err());
    assert!(
        verdict(&forged.der, &forged.der, b"statement", &by(&forged.key)).is_err(),
        "a root is no issuer"
    );
}

#[test]
fn what_is_printed_for_debugging_holds_no_key() {
    let acme = Domain::new("acme");
    assert_eq!(format!("{:?}", acme.root), "RootAuthority(acme)");
    assert_eq!(format!("{:?}", acme.issuer), "Issuer(spiffe://acme/issuer/gw1)");
    assert_eq!(
        format!("{:?}", acme.gateway("gw1")),
        "Credentials(spiffe://acme/gateway/gw1)"
    );
    assert_eq!(format!("{:?}", acme.gateway("gw1").key()), "NodeKey(..)");
    let _: &Credentials = &acme.gateway("gw1");
}

proptest! {
    #[test]
    fn any_request_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(requested_key(&bytes).is_err());
    }
}
