use hawser_proto::DomainName;
use proptest::prelude::*;

use super::*;
use crate::testing::{Domain, domain};

fn hub_token() -> HubToken {
    HubToken {
        hub: "hub.example.org:8443".parse().unwrap(),
        pin: Fingerprint([7; 32]),
        domain: domain("acme"),
        secret: Secret::from([0xab; 32]),
        expires: UnixTime(2_000_000_000),
    }
}

fn gateway_token() -> JoinToken {
    JoinToken {
        joins: Joins::Gateway,
        hubs: vec![
            ("hub.example.org:8443".parse().unwrap(), Fingerprint([7; 32])),
            ("[2001:db8::1]:443".parse().unwrap(), Fingerprint([8; 32])),
        ],
        domain: domain("acme"),
        root: Fingerprint([9; 32]),
        hub_half: Secret::from([0xab; 32]),
        domain_half: Secret::from([0xcd; 32]),
        expires: UnixTime(2_000_000_000),
    }
}

#[test]
fn tokens_round_trip() {
    assert_eq!(HubToken::parse(&hub_token().to_text()).unwrap(), hub_token());
    assert_eq!(
        JoinToken::parse(Joins::Gateway, &gateway_token().to_text()).unwrap(),
        gateway_token()
    );
    let host = JoinToken {
        joins: Joins::Host,
        ..gateway_token()
    };
    assert_eq!(
        AnyToken::parse(&host.to_text()).unwrap(),
        AnyToken::Join(host.clone())
    );
    assert!(JoinToken::parse(Joins::Gateway, &host.to_text()).is_err());
    let acme = Domain::new("acme");
    let peering = PeeringToken::new(acme.name.clone(), acme.root.certificate().clone()).unwrap();
    assert_eq!(PeeringToken::parse(&peering.to_text()).unwrap(), peering);
    assert_eq!(peering.fingerprint(), acme.root.fingerprint());
    assert!(matches!(
        AnyToken::parse(&hub_token().to_text()),
        Ok(AnyToken::Hub(_))
    ));
    assert!(matches!(
        AnyToken::parse(&gateway_token().to_text()),
        Ok(AnyToken::Join(_))
    ));
    assert!(matches!(
        AnyToken::parse(&peering.to_text()),
        Ok(AnyToken::Peering(_))
    ));
}

#[test]
fn line_breaks_and_blanks_do_no_harm() {
    let text = gateway_token().to_text();
    let mut broken = String::from(" \r\n");
    for (i, c) in text.chars().enumerate() {
        broken.push(c);
        if i > 30 && i % 40 == 0 {
            broken.push_str("\r\n  ");
        }
    }
    broken.push('\n');
    assert_eq!(
        JoinToken::parse(Joins::Gateway, &broken).unwrap(),
        gateway_token()
    );
}

#[test]
fn a_changed_or_cut_text_is_damaged() {
    let text = hub_token().to_text();
    let start = Kind::Hub.prefix().len();
    for at in start..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(
            HubToken::parse(&changed),
            Err(TokenError::Damaged(Kind::Hub)),
            "{at}"
        );
        assert_eq!(
            HubToken::parse(&text[..at]),
            Err(TokenError::Damaged(Kind::Hub)),
            "{at}"
        );
    }
    assert_eq!(
        HubToken::parse(&format!("{}AAAA", *text)),
        Err(TokenError::Damaged(Kind::Hub))
    );
    let long = format!("{}{}", *text, "A".repeat(MAX_TEXT));
    assert_eq!(HubToken::parse(&long), Err(TokenError::Damaged(Kind::Hub)));
}

#[test]
fn one_kind_is_not_taken_for_another() {
    let text = hub_token().to_text();
    let refused = JoinToken::parse(Joins::Gateway, &text).unwrap_err();
    assert!(matches!(
        refused,
        TokenError::OtherKind {
            expected: Kind::Gateway,
            found: Kind::Hub,
            ..
        }
    ));
    assert!(refused.to_string().contains("hawser token gateway"), "{refused}");
    // Not even with the prefix exchanged: the checksum covers it.
    let disguised = text.replace(Kind::Hub.prefix(), Kind::Gateway.prefix());
    assert_eq!(
        JoinToken::parse(Joins::Gateway, &disguised),
        Err(TokenError::Damaged(Kind::Gateway))
    );
    assert_eq!(AnyToken::parse("hello"), Err(TokenError::NoToken));
}

#[test]
fn a_whole_token_with_wrong_content_is_malformed() {
    let mut none = gateway_token();
    none.hubs.clear();
    assert_eq!(
        JoinToken::parse(Joins::Gateway, &none.to_text()),
        Err(TokenError::Malformed(Kind::Gateway))
    );
    let mut many = gateway_token();
    many.hubs = vec![many.hubs[0].clone(); MAX_HUBS + 1];
    assert_eq!(
        JoinToken::parse(Joins::Gateway, &many.to_text()),
        Err(TokenError::Malformed(Kind::Gateway))
    );
    let other = to_text(Kind::Hub, &"something else");
    assert_eq!(HubToken::parse(&other), Err(TokenError::Malformed(Kind::Hub)));
    let (acme, beta) = (Domain::new("acme"), Domain::new("beta"));
    let parts = PeeringParts {
        domain: acme.name.clone(),
        root: beta.root.certificate().to_vec(),
    };
    let liar = to_text(Kind::Peering, &parts);
    assert_eq!(
        PeeringToken::parse(&liar),
        Err(TokenError::Malformed(Kind::Peering))
    );
    assert!(PeeringToken::new(acme.name, beta.root.certificate().clone()).is_err());
}

#[test]
fn tokens_end() {
    let token = hub_token();
    assert!(token.check(UnixTime(1_999_999_999)).is_ok());
    let refused = token.check(UnixTime(2_000_000_000)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the hub token ended at 2033-05-18T03:33:20Z (UTC): ask for a new one"
    );
    assert!(gateway_token().check(UnixTime(2_000_000_000)).is_err());
}

#[test]
fn nothing_that_is_printed_holds_a_secret() {
    let debug = format!("{:?} {:?}", hub_token(), gateway_token());
    for secret in ["171", "205", "abab", "cdcd", "ABAB", "CDCD", "0xab"] {
        assert!(!debug.contains(secret), "{debug}");
    }
    let text = gateway_token().to_text();
    let (prefix, body) = text.split_once(':').unwrap();
    let cut = &text[..text.len() - 3];
    let swapped = format!("{}:{}", Kind::Hub.prefix().trim_end_matches(':'), body);
    let texts = [
        cut.to_owned(),
        swapped,
        format!("{prefix}:{}", body.to_uppercase()),
        format!("my {}", *text),
    ];
    for text in texts {
        let error = JoinToken::parse(Joins::Gateway, &text).unwrap_err();
        for message in [error.to_string(), format!("{error:?}")] {
            let leaks = body
                .as_bytes()
                .windows(8)
                .any(|w| message.as_bytes().windows(8).any(|m| m.eq_ignore_ascii_case(w)));
            assert!(!leaks, "{message}");
        }
    }
}

#[test]
fn the_hmac_is_the_standard_one_and_fits_one_key_only() {
    // RFC 4231 has no key of 32 bytes; this value is from `openssl dgst -sha256 -mac HMAC -macopt hexkey:0b..0b`.
    let key = Secret::from([0x0b; 32]);
    let expected = "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7";
    let hex: String = mac(&key, b"Hi There")
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(hex, expected);
    assert!(verify_mac(&key, b"Hi There", &mac(&key, b"Hi There")));
    assert!(!verify_mac(&key, b"Hi there", &mac(&key, b"Hi There")));
    assert!(!verify_mac(
        &Secret::from([0x0c; 32]),
        b"Hi There",
        &mac(&key, b"Hi There")
    ));
    assert!(!verify_mac(&key, b"Hi There", &[0; 32]));
}

#[test]
fn secrets_are_random_and_known_by_their_hash() {
    let (a, b) = (Secret::random().unwrap(), Secret::random().unwrap());
    assert_ne!(a, b);
    assert_eq!(a.hash(), hash(a.expose()));
    assert_ne!(a.hash(), b.hash());
    let back: Secret = minicbor::decode(&minicbor::to_vec(&a).unwrap()).unwrap();
    assert_eq!(a, back);
}

#[test]
fn addresses_of_hubs() {
    for (text, host, port) in [
        ("hub.example.org:8443", "hub.example.org", 8443),
        ("localhost:1", "localhost", 1),
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("a_b-c:65535", "a_b-c", 65535),
    ] {
        let address: HubAddress = text.parse().unwrap();
        assert_eq!((address.host(), address.port()), (host, port));
        assert_eq!(address.to_string(), text);
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(serde_json::from_str::<HubAddress>(&json).unwrap(), address);
    }
    assert_eq!(
        "HUB.Example.org:8443".parse::<HubAddress>().unwrap().host(),
        "hub.example.org"
    );
    assert_eq!(
        "[2001:DB8:0::1]:1".parse::<HubAddress>().unwrap().to_string(),
        "[2001:db8::1]:1"
    );
    for bad in [
        "",
        ":",
        "hub",
        "hub:",
        ":443",
        "hub:0",
        "hub:65536",
        "hub:+1",
        "hub:-1",
        "hub: 1",
        "a b:1",
        "hub..x:1",
        ".hub:1",
        "-hub:1",
        "2001:db8::1:443",
        "[2001:db8::1]",
        "[hub]:1",
        "[192.0.2.1]:1",
        "[::1:1",
        "::1]:1",
        "192.0.2.256:1",
        "1.2.3:1",
        "hüb:1",
        "http://hub:1",
        "hub/x:1",
        "user@hub:1",
        "[fe80::1%eth0]:1",
    ] {
        assert!(bad.parse::<HubAddress>().is_err(), "{bad:?}");
    }
    assert!(format!("{}:1", "a".repeat(64)).parse::<HubAddress>().is_err());
    assert!(
        format!("{}:1", ["a"; 128].join("."))
            .parse::<HubAddress>()
            .is_err()
    );
    assert!(HubAddress::new("hub", 0).is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,300}", raw in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(AnyToken::parse(&text).is_err());
        for kind in Kind::ALL {
            let prefixed = [kind.prefix(), &text].concat();
            prop_assert!(AnyToken::parse(&prefixed).is_err());
            // With a right checksum, so that the inner parser sees it.
            let sum = checksum(kind, &raw);
            let whole = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode([raw.as_slice(), &sum].concat()));
            prop_assert!(AnyToken::parse(&whole).is_err());
        }
    }

    #[test]
    fn hub_tokens_round_trip(
        host in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,20}){0,3}", port in 1u16.., pin: [u8; 32], secret: [u8; 32],
        name in "[a-z0-9]{1,63}", expires: u64,
    ) {
        let token = HubToken {
            hub: HubAddress::new(&host, port).unwrap(),
            pin: Fingerprint(pin),
            domain: name.parse::<DomainName>().unwrap(),
            secret: Secret::from(secret),
            expires: UnixTime(expires),
        };
        prop_assert_eq!(HubToken::parse(&token.to_text()).unwrap(), token);
    }

    #[test]
    fn any_address_is_parsed_or_refused_and_what_is_parsed_prints_the_same_way_back(text in "\\PC{0,60}", n in "[\\[\\]:.0-9a-f]{1,30}") {
        for text in [text, n] {
            if let Ok(address) = text.parse::<HubAddress>() {
                prop_assert_eq!(address.to_string().parse::<HubAddress>().unwrap(), address);
            }
        }
    }
}
