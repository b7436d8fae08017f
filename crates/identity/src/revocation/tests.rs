use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    Issuer, RootAuthority, Trust,
    testing::{DAY, Domain, Forger, domain, id, issuer_params, leaf_params, node, root_params, trust},
};

const GW2: &str = "spiffe://acme/gateway/gw2";
const ISSUER: &str = "spiffe://acme/issuer/gw1";

fn list(number: u64, revoked: &[&str]) -> RevocationList {
    let now = UnixTime::now();
    RevocationList {
        domain: domain("acme"),
        number,
        this_update: now,
        next_update: now.plus(DAY),
        revoked: revoked.iter().map(|text| id(text)).collect(),
    }
}

fn by_issuer(domain: &Domain, list: &RevocationList) -> Vec<u8> {
    domain.issuer.sign_revocations(list).unwrap().to_bytes().unwrap()
}

/// Signed by whomever, without a look at the rules.
fn forge(list: &RevocationList, signer: &Forger, show: Option<&Forger>) -> Vec<u8> {
    let sign = |message: &[u8]| Ok(rcgen::SigningKey::sign(&signer.key, message).unwrap());
    let signed = SignedRevocations::make(list, show.map(|f| &f.der), sign).unwrap();
    signed.to_bytes().unwrap()
}

#[test]
fn a_list_revokes_at_once() {
    let acme = Domain::new("acme");
    let (one, two) = (acme.gateway("gw1"), acme.gateway("gw2"));
    let mut trust = trust(&[&acme]);
    let now = UnixTime::now();
    assert!(trust.verify(two.chain(), now).is_ok());
    let accepted = trust
        .accept_revocations(&by_issuer(&acme, &list(1, &[GW2])), now)
        .unwrap();
    assert_eq!(accepted.signer, Signer::Issuer(node("gw1")));
    assert_eq!((accepted.number, accepted.key().as_str()), (1, "acme/issuer/gw1"));
    assert!(matches!(trust.verify(two.chain(), now), Err(IdentityError::Revoked(r)) if r == id(GW2)));
    assert!(trust.verify(one.chain(), now).is_ok());
}

#[test]
fn only_the_root_revokes_an_issuer() {
    let acme = Domain::new("acme");
    let mut trust = trust(&[&acme]);
    let now = UnixTime::now();
    let bad = list(1, &[GW2, ISSUER]);
    assert!(
        acme.issuer.sign_revocations(&bad).is_err(),
        "an honest issuer does not sign it"
    );
    let sign = |message: &[u8]| acme.issuer.sign(message);
    let forced = SignedRevocations::make(&bad, Some(acme.issuer.certificate()), sign).unwrap();
    let refused = trust.accept_revocations(&forced.to_bytes().unwrap(), now);
    assert!(matches!(refused, Err(IdentityError::Revocations(_))));
    assert!(!trust.is_revoked(&id(GW2)), "a refused list leaves no trace");
    let by_root = acme
        .root
        .sign_revocations(&list(1, &[ISSUER]))
        .unwrap()
        .to_bytes()
        .unwrap();
    let accepted = trust.accept_revocations(&by_root, now).unwrap();
    assert_eq!(accepted.key(), "acme/root");
    assert!(trust.verify(acme.gateway("gw1").chain(), now).is_err());
    // From now on the issuer says nothing any more.
    let late = trust.accept_revocations(&by_issuer(&acme, &list(9, &[GW2])), now);
    assert!(matches!(late, Err(IdentityError::Revoked(_))));
}

#[test]
fn numbers_rise_per_signer_and_signers_add_up() {
    let acme = Domain::new("acme");
    let second = Issuer::create(&acme.root, &acme.name, &node("gw9")).unwrap();
    let mut trust = trust(&[&acme]);
    let now = UnixTime::now();
    let old = by_issuer(&acme, &list(4, &[]));
    let new = by_issuer(&acme, &list(5, &[GW2]));
    trust.accept_revocations(&new, now).unwrap();
    for replayed in [&old, &new] {
        let refused = trust.accept_revocations(replayed, now);
        assert!(matches!(refused, Err(IdentityError::NotNewer { known: 5, .. })));
    }
    assert!(trust.is_revoked(&id(GW2)));
    // Another signer's series is its own.
    let gw3 = list(1, &["spiffe://acme/gateway/gw3"]);
    trust
        .accept_revocations(&second.sign_revocations(&gw3).unwrap().to_bytes().unwrap(), now)
        .unwrap();
    assert_eq!(trust.revoked(&acme.name).len(), 2);
    assert_eq!(
        trust.list_number(&acme.name, &Signer::Issuer(node("gw9"))),
        Some(1)
    );
    // Nobody comes off a list.
    trust
        .accept_revocations(&by_issuer(&acme, &list(6, &[])), now)
        .unwrap();
    assert!(trust.is_revoked(&id(GW2)));
    // An issuer of the same name with a new key goes on with the series.
    let renewed = Issuer::create(&acme.root, &acme.name, &node("gw1")).unwrap();
    let back = renewed
        .sign_revocations(&list(6, &[]))
        .unwrap()
        .to_bytes()
        .unwrap();
    assert!(matches!(
        trust.accept_revocations(&back, now),
        Err(IdentityError::NotNewer { .. })
    ));
}

#[test]
fn a_list_counts_for_its_own_domain_only() {
    let (acme, beta) = (Domain::new("acme"), Domain::new("beta"));
    let mut trust = trust(&[&acme, &beta]);
    let now = UnixTime::now();
    assert!(beta.issuer.sign_revocations(&list(1, &[GW2])).is_err());
    for (show, key) in [(&beta, &beta), (&acme, &beta)] {
        let sign = |message: &[u8]| key.issuer.sign(message);
        let forced =
            SignedRevocations::make(&list(1, &[GW2]), Some(show.issuer.certificate()), sign).unwrap();
        assert!(
            trust
                .accept_revocations(&forced.to_bytes().unwrap(), now)
                .is_err()
        );
    }
    // Of its own domain, but naming ours.
    let mut foreign = list(1, &[GW2]);
    foreign.domain = beta.name.clone();
    let sign = |message: &[u8]| beta.issuer.sign(message);
    let forced = SignedRevocations::make(&foreign, Some(beta.issuer.certificate()), sign).unwrap();
    assert!(
        trust
            .accept_revocations(&forced.to_bytes().unwrap(), now)
            .is_err()
    );
    assert!(!trust.is_revoked(&id(GW2)));
    trust.remove_root(&acme.name);
    let unknown = trust.accept_revocations(&by_issuer(&acme, &list(1, &[GW2])), now);
    assert!(matches!(unknown, Err(IdentityError::UnknownDomain(_))));
}

#[test]
fn neither_a_leaf_nor_another_root_signs_lists() {
    let root = Forger::root(root_params("acme"));
    let issuer = root.sign(issuer_params(ISSUER));
    let leaf = issuer.sign(leaf_params(&["spiffe://acme/gateway/gw1"]));
    let below = root.sign(leaf_params(&[ISSUER]));
    let other = Forger::root(root_params("acme"));
    let others = other.sign(issuer_params(ISSUER));
    let mut trust = Trust::new();
    trust.add_root(&domain("acme"), root.der.clone()).unwrap();
    let now = UnixTime::now();
    let good = list(1, &[GW2]);
    for (what, signer, show) in [
        ("a leaf", &leaf, Some(&leaf)),
        ("a leaf as the issuer", &leaf, Some(&issuer)),
        ("a leaf with the issuer's name", &below, Some(&below)),
        ("a leaf as the root", &leaf, None),
        ("an issuer as the root", &issuer, None),
        ("another root", &other, None),
        ("another root's issuer", &others, Some(&others)),
        ("the root under its own certificate", &root, Some(&root)),
    ] {
        assert!(
            trust
                .accept_revocations(&forge(&good, signer, show), now)
                .is_err(),
            "{what}"
        );
    }
    assert!(
        trust
            .accept_revocations(&forge(&good, &issuer, Some(&issuer)), now)
            .is_ok()
    );
    assert!(trust.accept_revocations(&forge(&good, &root, None), now).is_ok());
}

#[test]
fn a_signature_on_something_else_is_none_on_a_list() {
    let acme = Domain::new("acme");
    let sly = list(1, &[GW2]);
    // An issuer that is brought to sign the bare bytes of a list, as a statement, has not signed the list.
    let bare = acme.issuer.sign(&encode(&sly).unwrap()).unwrap();
    let forged = SignedRevocations::make(&sly, Some(acme.issuer.certificate()), |_| Ok(bare)).unwrap();
    let refused = trust(&[&acme]).accept_revocations(&forged.to_bytes().unwrap(), UnixTime::now());
    assert!(matches!(refused, Err(IdentityError::Signature(_))));
}

#[test]
fn times_are_looked_at_when_a_list_comes_and_not_when_it_is_read_back() {
    let (name, now) = (domain("acme"), UnixTime::now());
    let past = UnixTime(now.0 - 91 * DAY.as_secs());
    let root = RootAuthority::create_at(&name, past).unwrap();
    let ended = Issuer::create_at(&root, &name, &node("gw1"), past).unwrap();
    let mut trust = Trust::new();
    trust.add_root(&name, root.certificate().clone()).unwrap();
    let bytes = ended
        .sign_revocations(&list(1, &[GW2]))
        .unwrap()
        .to_bytes()
        .unwrap();
    assert!(matches!(
        trust.accept_revocations(&bytes, now),
        Err(IdentityError::Expired { .. })
    ));
    trust.restore_revocations(&bytes).unwrap();
    assert!(trust.is_revoked(&id(GW2)));

    let acme = Domain::new("acme");
    let mut trust = crate::testing::trust(&[&acme]);
    let mut future = list(1, &[GW2]);
    future.this_update = now.plus(DAY);
    future.next_update = now.plus(2 * DAY);
    assert!(trust.accept_revocations(&by_issuer(&acme, &future), now).is_err());
    let mut backwards = list(1, &[]);
    backwards.next_update = backwards.this_update;
    assert!(acme.issuer.sign_revocations(&backwards).is_err());
}

#[test]
fn a_withheld_list_is_noticed() {
    let acme = Domain::new("acme");
    let mut trust = trust(&[&acme]);
    let now = UnixTime::now();
    trust
        .accept_revocations(&by_issuer(&acme, &list(1, &[])), now)
        .unwrap();
    assert_eq!(trust.overdue(now).count(), 0);
    let later = now.plus(DAY + Duration::from_secs(1));
    assert_eq!(trust.overdue(later).count(), 1);
    // An old list says something still: who was revoked then.
    let stale = by_issuer(&acme, &list(2, &[GW2]));
    assert!(trust.accept_revocations(&stale, later).is_ok());
}

#[test]
fn a_list_of_the_longest_names_fits_into_a_message() {
    let acme = Domain::new("acme");
    let name = |i: usize| format!("spiffe://acme/gateway/{i:0>63}");
    let names: Vec<_> = (0..MAX_REVOKED).map(name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let bytes = by_issuer(&acme, &list(1, &names));
    assert!(bytes.len() <= MAX_LIST, "{}", bytes.len());
    assert!(
        trust(&[&acme])
            .accept_revocations(&bytes, UnixTime::now())
            .is_ok()
    );
    let extra = name(MAX_REVOKED);
    let more: Vec<_> = names.into_iter().chain([extra.as_str()]).collect();
    assert!(acme.issuer.sign_revocations(&list(2, &more)).is_err());
    assert!(
        trust(&[&acme])
            .accept_revocations(&vec![0; MAX_LIST + 1], UnixTime::now())
            .is_err()
    );
}

#[test]
fn bit_flips_are_noticed() {
    let acme = Domain::new("acme");
    let bytes = by_issuer(&acme, &list(1, &[GW2]));
    for bit in (0..bytes.len() * 8).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(
            trust(&[&acme])
                .accept_revocations(&flipped, UnixTime::now())
                .is_err(),
            "bit {bit}"
        );
    }
    let longer = [bytes.clone(), vec![0]].concat();
    assert!(
        trust(&[&acme])
            .accept_revocations(&longer, UnixTime::now())
            .is_err()
    );
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Trust::new().accept_revocations(&bytes, UnixTime::now()).is_err());
    }

    #[test]
    fn lists_round_trip(number: u64, from in 0u64..1 << 40, life in 1u64..1 << 30, names in prop::collection::vec("[a-z0-9]{1,20}", 0..20)) {
        let list = RevocationList {
            domain: domain("acme"),
            number,
            this_update: UnixTime(from),
            next_update: UnixTime(from + life),
            revoked: names.iter().map(|n| id(&format!("spiffe://acme/gateway/{n}"))).collect(),
        };
        let signed = SignedRevocations::make(&list, None, |_| Ok(vec![1, 2, 3])).unwrap();
        let back = SignedRevocations::parse(&signed.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(&back, &signed);
        prop_assert_eq!(back.list().unwrap(), list);
    }
}
