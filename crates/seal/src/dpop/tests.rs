use proptest::prelude::*;

use super::*;
use crate::{Replays, SenderKey, receipt, testing::World, token};

const URL: &str = "https://mail.example.org:8443/v1/stream";
const NOW: UnixTime = UnixTime(1_800_000_000);

#[test]
fn a_proof_is_for_one_request() {
    let key = SigningKey::generate().unwrap();
    let proof = prove(&key, "GET", &format!("{URL}?after=7"), None, NOW).unwrap();
    let found = check(&proof, "GET", URL, None, NOW).unwrap();
    assert_eq!(found.thumbprint, key.public().thumbprint());
    let refused = |method, url, token, now| check(&proof, method, url, token, now).unwrap_err();
    assert!(matches!(
        refused("POST", URL, None, NOW),
        DpopError::Request("method")
    ));
    for url in [
        "https://mail.example.org/v1/stream",
        "https://other.example.org:8443/v1/stream",
        "https://mail.example.org:8443/v1/acks",
    ] {
        assert!(matches!(
            refused("GET", url, None, NOW),
            DpopError::Request("address")
        ));
    }
    assert!(matches!(refused("GET", URL, Some("t"), NOW), DpopError::Token));
    for now in [NOW.0 - 301, NOW.0 + 301] {
        assert!(matches!(
            refused("GET", URL, None, UnixTime(now)),
            DpopError::Time { .. }
        ));
    }
    for now in [NOW.0 - 300, NOW.0 + 300] {
        assert!(check(&proof, "GET", URL, None, UnixTime(now)).is_ok());
    }
}

#[test]
fn addresses_compare_as_urls_do() {
    for same in [
        "https://mail.example.org:443/v1",
        "HTTPS://Mail.Example.ORG/v1?x=1#y",
        "https://mail.example.org/v1",
    ] {
        assert_eq!(address(same).as_deref(), Some("https://mail.example.org/v1"));
    }
    assert_eq!(address("https://a").as_deref(), Some("https://a/"));
    for none in ["", "http://a/", "https://", "https://u@a/", "a/b"] {
        assert_eq!(address(none), None, "{none}");
    }
}

#[test]
fn no_part_of_a_proof_can_be_changed() {
    let key = SigningKey::generate().unwrap();
    let proof = prove(&key, "GET", URL, None, NOW).unwrap();
    for at in 0..proof.len() {
        let mut changed = proof.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let passed = check(&changed, "GET", URL, None, NOW);
        assert!(passed.is_err(), "at {at}");
    }
    // Another key in the header.
    let other = SigningKey::generate().unwrap();
    let stolen = prove(&other, "GET", URL, None, NOW).unwrap();
    let (head, _) = stolen.split_once('.').unwrap();
    let (_, rest) = proof.split_once('.').unwrap();
    assert!(check(&format!("{head}.{rest}"), "GET", URL, None, NOW).is_err());
}

fn proof(key: &SigningKey, at: u64) -> Proof {
    let text = prove(key, "GET", URL, None, UnixTime(at)).unwrap();
    check(&text, "GET", URL, None, UnixTime(at)).unwrap()
}

#[test]
fn each_counts_once_however_many_come() {
    let key = SigningKey::generate().unwrap();
    let mut replays = Replays::new(NOW, 2);
    assert!(matches!(
        replays.admit(&proof(&key, NOW.0 - 1), NOW),
        Err(DpopError::Replayed)
    ));
    let proofs: Vec<_> = (0..200).map(|i| proof(&key, NOW.0 + i / 8)).collect();
    for proof in &proofs {
        replays.admit(proof, NOW).unwrap();
        assert!(replays.admit(proof, NOW).is_err());
    }
    // Also those that are not remembered one by one any more.
    for proof in &proofs {
        assert!(matches!(replays.admit(proof, NOW), Err(DpopError::Replayed)));
    }
}

#[test]
fn keys_are_bounded_and_forgotten_in_time() {
    let keys: Vec<_> = (0..3).map(|_| SigningKey::generate().unwrap()).collect();
    let mut replays = Replays::new(NOW, 2);
    replays.admit(&proof(&keys[0], NOW.0), NOW).unwrap();
    replays.admit(&proof(&keys[1], NOW.0), NOW).unwrap();
    assert!(matches!(
        replays.admit(&proof(&keys[2], NOW.0), NOW),
        Err(DpopError::Busy)
    ));
    replays.remove(&keys[0].public().thumbprint());
    replays.admit(&proof(&keys[2], NOW.0), NOW).unwrap();
    let later = NOW.0 + 301;
    replays.admit(&proof(&keys[0], later), UnixTime(later)).unwrap();
}

#[test]
fn a_token_is_bound_to_place_time_and_key() {
    let world = World::new();
    let (sender, device) = (&world.sender, world.certificate.device);
    let domain = &world.certificate.domain;
    let control = "https://devices.acme.example";
    let thumbprint = world.keys.public().thumbprint();
    let text = token::issue(sender, domain, control, device, &thumbprint, NOW).unwrap();
    let verify = |by: &SenderKey, control: &str, now| token::verify(&text, by.public(), domain, control, now);
    let bearer = verify(sender, control, NOW).unwrap();
    assert_eq!((bearer.device, bearer.thumbprint), (device, thumbprint));
    let last = UnixTime(NOW.0 + token::LIFE.as_secs() - 1);
    assert!(verify(sender, control, last).is_ok());
    assert!(verify(sender, control, last.plus(std::time::Duration::from_secs(1))).is_err());
    assert!(verify(sender, "https://elsewhere.example", NOW).is_err());
    assert!(verify(&World::new().sender, control, NOW).is_err());
    let beta = "beta".parse().unwrap();
    assert!(token::verify(&text, sender.public(), &beta, control, NOW).is_err());
    // A proof is no token, and a token no proof.
    let proof = prove(sender.key(), "GET", URL, None, NOW).unwrap();
    assert!(token::verify(&proof, sender.public(), domain, control, NOW).is_err());
    assert!(check(&text, "GET", URL, None, NOW).is_err());
}

#[test]
fn a_receipt_rests_on_the_devices_word() {
    use hawser_proto::broker::{
        DeliveryId,
        statement::{AckCode, Acknowledgement},
    };
    let world = World::new();
    let ack = Acknowledgement {
        device: world.certificate.device,
        sequence: 1,
        code: AckCode::Delivered,
        envelope: [1; 32],
        at: NOW,
    };
    let about = receipt::About {
        domain: world.certificate.domain.clone(),
        delivery: DeliveryId([2; 16]),
        source: "s".into(),
        id: "i".into(),
        user: world.certificate.user.clone(),
    };
    let ack = world.keys.signing().sign(&ack).unwrap();
    let text = receipt::issue(&world.sender, about.clone(), &ack, world.keys.public(), NOW).unwrap();
    let receipt = receipt::verify(&text, world.sender.public()).unwrap();
    assert_eq!(receipt.code, AckCode::Delivered);
    assert_eq!(receipt.jwk, world.keys.public().jwk());
    assert!(receipt::verify(&text, world.keys.public()).is_err());
    // Nobody else's acknowledgement.
    let other = World::new();
    assert!(receipt::issue(&world.sender, about, &ack, other.keys.public(), NOW).is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused(text in "\\PC{0,200}") {
        prop_assert!(check(&text, "GET", URL, None, NOW).is_err());
        prop_assert!(receipt::verify(&text, World::new().sender.public()).is_err());
    }
}
