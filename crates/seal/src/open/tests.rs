use hawser_proto::broker::{
    Urgency,
    envelope::{EPOCH_KEY, encoded},
    statement::{AckCode, Acknowledgement, Skip, SkipReason},
};
use proptest::prelude::*;

use super::*;
use crate::{
    Arrival, Arrivals, EpochKey, Post, SealError, SealedContent, SenderKey, SigningKey, answer, seal,
    size_class,
    testing::{NOW, World, content, post},
    verify,
};

#[test]
fn what_is_sealed_opens_and_is_of_a_size_class() {
    let world = World::new();
    let bytes = world.envelope(7);
    let opened = world.opener().open(&bytes, NOW).unwrap();
    assert_eq!(
        opened.content,
        Content {
            padding: opened.content.padding.clone(),
            ..content()
        }
    );
    assert_eq!(
        (opened.header.sequence, opened.header.urgency),
        (7, Urgency::High)
    );
    assert_eq!(opened.digest, sha256(&bytes));
    let (envelope, _) = Envelope::parse(&bytes, MAX_ENVELOPE).unwrap();
    assert_eq!(envelope.ciphertext.len(), size_class(100) + 16);
}

#[test]
fn no_bit_of_it_can_be_changed() {
    let world = World::new();
    let bytes = world.envelope(1);
    let mut opener = world.opener();
    opener.open(&bytes, NOW).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(opener.open(&changed, NOW).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(opener.open(&bytes[..length], NOW).is_err(), "{length} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(opener.open(&longer, NOW).is_err());
}

#[test]
fn it_opens_for_one_user_on_one_device_only() {
    let world = World::new();
    let bytes = world.envelope(1);
    let refused = |me: Recipient| world.opener_as(me).open(&bytes, NOW).unwrap_err();
    let me = world.me();
    let user = Recipient {
        user: "bob".parse().unwrap(),
        ..me.clone()
    };
    assert_eq!(refused(user), OpenError::Recipient("user"));
    let domain = Recipient {
        domain: "beta".parse().unwrap(),
        ..me.clone()
    };
    assert_eq!(refused(domain), OpenError::Recipient("domain"));
    let device = Recipient {
        device: DeviceHandle([0; 16]),
        ..me.clone()
    };
    assert_eq!(refused(device), OpenError::Device);
    let epoch = Recipient {
        epoch: 3,
        ..me.clone()
    };
    assert_eq!(
        refused(epoch),
        OpenError::Epoch {
            expected: 3,
            found: 2
        }
    );
    // The same handle in the hands of other keys.
    let other = Arc::new(DeviceKeys::generate().unwrap());
    let mut opener = Opener::new(world.sender.public().clone(), other, me);
    assert_eq!(opener.open(&bytes, NOW), Err(OpenError::Sealed("epoch key")));
    // Another sender.
    let other = SigningKey::generate().unwrap();
    let mut opener = Opener::new(other.public().clone(), world.keys.clone(), world.me());
    assert_eq!(opener.open(&bytes, NOW), Err(OpenError::Signature));
}

#[test]
fn it_ends() {
    let world = World::new();
    let bytes = world.envelope(1);
    let expires = post(1).expires;
    assert!(world.opener().open(&bytes, expires).is_ok());
    let now = UnixTime(expires.0 + 1);
    assert_eq!(
        world.opener().open(&bytes, now),
        Err(OpenError::Expired { expires, now })
    );
}

#[test]
fn another_content_under_the_same_key_is_seen() {
    let world = World::new();
    let (first, second) = (
        SealedContent::new(&content()).unwrap(),
        SealedContent::new(&content()).unwrap(),
    );
    let bytes = seal(&world.sender, &world.epoch(), &first, &post(1)).unwrap();
    let other = seal(&world.sender, &world.epoch(), &second, &post(1)).unwrap();
    let (mut envelope, _) = Envelope::parse(&bytes, MAX_ENVELOPE).unwrap();
    let (other, _) = Envelope::parse(&other, MAX_ENVELOPE).unwrap();
    // Even if the sender's signature were put on it.
    let sign = |envelope: &mut Envelope| {
        let message = signed_bytes(
            &envelope.header,
            &envelope.epoch_key,
            &envelope.wrapped,
            &sha256(&envelope.ciphertext),
        );
        envelope.signature = world.sender.key().sign_bytes(&message).unwrap();
        envelope.to_bytes()
    };
    envelope.ciphertext = other.ciphertext.clone();
    let forged = sign(&mut envelope);
    assert_eq!(world.opener().open(&forged, NOW), Err(OpenError::Ciphertext));
    envelope.wrapped = other.wrapped.clone();
    let forged = sign(&mut envelope);
    assert_eq!(
        world.opener().open(&forged, NOW),
        Err(OpenError::Sealed("wrapped key"))
    );
    // A header that was not wrapped with it.
    let (mut envelope, mut header) = Envelope::parse(&bytes, MAX_ENVELOPE).unwrap();
    header.sequence = 2;
    envelope.header = encoded(&header);
    let forged = sign(&mut envelope);
    assert_eq!(
        world.opener().open(&forged, NOW),
        Err(OpenError::Sealed("wrapped key"))
    );
}

#[test]
fn an_answer_answers_one_question() {
    let world = World::new();
    let sealed = SealedContent::new(&content()).unwrap();
    let expires = post(1).expires;
    let bytes = answer(&world.sender, &world.certified(), &sealed, [5; 16], expires, NOW).unwrap();
    let mut opener = world.opener();
    assert_eq!(
        opener.open_answer(&bytes, &[5; 16], NOW).unwrap().header.kind,
        Kind::Answer
    );
    assert!(matches!(
        opener.open_answer(&bytes, &[6; 16], NOW),
        Err(OpenError::Kind(_))
    ));
    assert!(matches!(opener.open(&bytes, NOW), Err(OpenError::Kind(_))));
    assert!(matches!(
        opener.open_answer(&world.envelope(1), &[5; 16], NOW),
        Err(OpenError::Kind(_))
    ));
}

#[test]
fn many_envelopes_share_an_epoch_key_and_no_number() {
    let world = World::new();
    let epoch = world.epoch();
    let content = SealedContent::new(&content()).unwrap();
    let mut opener = world.opener();
    for sequence in [1, 2, 9] {
        let bytes = seal(&world.sender, &epoch, &content, &post(sequence)).unwrap();
        assert_eq!(opener.open(&bytes, NOW).unwrap().header.sequence, sequence);
    }
    for sequence in [0, 1, 9] {
        assert!(matches!(
            seal(&world.sender, &epoch, &content, &post(sequence)),
            Err(SealError::Reused { .. })
        ));
    }
    // Under another epoch key of the same device.
    let bytes = seal(&world.sender, &world.epoch(), &content, &post(10)).unwrap();
    assert!(opener.open(&bytes, NOW).is_ok());
}

#[test]
fn nothing_is_sealed_to_a_key_that_is_not_certified_now() {
    let world = World::new();
    let certificate = world.certified();
    let make = |sender: &SenderKey, now| EpochKey::new(sender, &certificate, now);
    assert!(make(&world.sender, NOW).is_ok());
    let late = UnixTime(world.certificate.expires.0 + 1);
    assert!(matches!(make(&world.sender, late), Err(SealError::Time { .. })));
    let early = UnixTime(NOW.0 - 301);
    assert!(matches!(make(&world.sender, early), Err(SealError::Time { .. })));
    let other = SenderKey::from(SigningKey::generate().unwrap());
    assert!(matches!(make(&other, NOW), Err(SealError::Signature(_))));
}

#[test]
fn what_would_be_too_large_is_refused() {
    let world = World::new();
    let large = SealedContent::new(&Content {
        body: vec![1; MAX_ENVELOPE],
        ..content()
    })
    .unwrap();
    assert!(matches!(
        seal(&world.sender, &world.epoch(), &large, &post(1)),
        Err(SealError::TooLarge { .. })
    ));
    let expires = post(1).expires;
    let bytes = answer(&world.sender, &world.certified(), &large, [0; 16], expires, NOW).unwrap();
    assert!(world.opener().open_answer(&bytes, &[0; 16], NOW).is_ok());
}

#[test]
fn a_statement_is_its_signers_and_of_its_kind() {
    let world = World::new();
    let ack = Acknowledgement {
        device: world.certificate.device,
        sequence: 1,
        code: AckCode::Delivered,
        envelope: [7; 32],
        at: NOW,
    };
    let signed = world.keys.signing().sign(&ack).unwrap();
    assert_eq!(verify(&signed, world.keys.public()).unwrap(), ack);
    assert!(verify(&signed, world.sender.public()).is_err());
    let bytes = signed.to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = hawser_proto::broker::statement::Signed::<Acknowledgement>::parse(&changed)
            .is_ok_and(|signed| verify(&signed, world.keys.public()).is_ok());
        assert!(!refused, "bit {bit}");
    }
    let skip = hawser_proto::broker::statement::Signed::<Skip>::new(signed.payload, signed.signature);
    assert!(matches!(
        verify(&skip, world.keys.public()),
        Err(SealError::Signature(_))
    ));
}

#[test]
fn numbers_come_once_and_gaps_are_told_until_explained() {
    let mut arrivals = Arrivals::default();
    let skip = |from, to| Skip {
        device: DeviceHandle([0; 16]),
        from,
        to,
        reason: SkipReason::Expired,
    };
    assert_eq!(arrivals.check(1), Ok(Arrival::New));
    assert_eq!(arrivals.envelope(1, AckCode::Delivered), None);
    assert!(matches!(
        arrivals.check(1),
        Err(OpenError::Replayed { sequence: 1, last: 1 })
    ));
    assert_eq!(arrivals.outcome(1), Some(AckCode::Delivered));
    assert_eq!(arrivals.skip(&skip(2, 3)), None);
    assert_eq!(
        arrivals.envelope(8, AckCode::Delivered),
        Some(crate::Withheld { from: 4, to: 7 })
    );
    assert_eq!(arrivals.complete(), 3);
    assert_eq!(arrivals.skip(&skip(5, 5)), None);
    assert_eq!(arrivals.withheld().len(), 2);
    assert_eq!(arrivals.check(6), Ok(Arrival::Late));
    arrivals.envelope(6, AckCode::CannotDecrypt);
    assert!(arrivals.check(6).is_err());
    arrivals.skip(&skip(4, 7));
    assert!(arrivals.withheld().is_empty());
    assert_eq!((arrivals.last(), arrivals.complete()), (8, 8));
    assert!(!arrivals.knows("a", "b"));
    arrivals.handed_on("a", "b");
    assert!(arrivals.knows("a", "b") && !arrivals.knows("ab", ""));
    let kept: Arrivals = whole(&encoded(&arrivals)).unwrap();
    assert_eq!(kept, arrivals);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_comes_out_as_it_went_in(
        body: Vec<u8>, subject: Option<String>, id in "\\PC{0,40}", sequence in 1..u64::MAX, collapse: Option<[u8; 32]>
    ) {
        let world = World::new();
        let given = Content { body, subject, id, ..content() };
        let sealed = SealedContent::new(&given).unwrap();
        let post = Post { sequence, collapse, ..post(1) };
        let bytes = seal(&world.sender, &world.epoch(), &sealed, &post).unwrap();
        prop_assert!(bytes.len() < sealed.size() + 1024);
        let mut opened = world.opener().open(&bytes, NOW).unwrap();
        opened.content.padding.clear();
        prop_assert_eq!(opened.content, given);
        prop_assert_eq!(opened.header.collapse, collapse);
        prop_assert_eq!(Envelope::parse(&bytes, MAX_ENVELOPE).unwrap().0.epoch_key.len(), EPOCH_KEY);
    }

    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(World::new().opener().open(&bytes, NOW).is_err());
    }

    #[test]
    fn what_is_kept_of_arrivals_is_bounded(steps in prop::collection::vec((0..5000_u64, 0..9_u64, any::<bool>()), 0..3000)) {
        let mut arrivals = Arrivals::default();
        let mut seen = std::collections::BTreeSet::new();
        for (from, more, skipped) in steps {
            if skipped {
                let skip = Skip { device: DeviceHandle([0; 16]), from, to: from + more, reason: SkipReason::Expired };
                arrivals.skip(&skip);
                seen.extend(from..=from + more);
            } else if arrivals.check(from).is_ok() {
                prop_assert!(seen.insert(from), "{} came twice", from);
                arrivals.envelope(from, AckCode::Delivered);
            }
            prop_assert!(arrivals.withheld().len() <= 64);
            prop_assert!(arrivals.withheld().iter().all(|gap| gap.from <= gap.to && gap.to < arrivals.last()));
        }
        prop_assert!(encoded(&arrivals).len() < 8192);
    }
}
