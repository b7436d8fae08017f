//! The vectors in `spec/vectors`: checked here, and written anew by `HAWSER_WRITE_VECTORS=1 cargo test -p hawser-seal vectors`
//! (signatures and key encapsulations are random, so each writing differs).

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle, Envelope, ItemId, UserName,
        enrolment::{EnrolmentAnswer, EnrolmentRequest, Fragment},
        envelope::{Content, MAX_ANSWER, MAX_ENVELOPE, Mode, encoded, whole},
        statement::{
            AckCode, Acknowledgement, DeviceCertificate, FetchRequest, Signed, Skip, SkipReason, Statement,
        },
    },
};
use serde_json::{Value, json};

use crate::{
    DeviceKeys, OpenError, Opener, PublicKey, SealedContent, SenderKey, SigningKey, answer, dpop,
    enrolment::Transcript,
    envelope::signed_bytes,
    hpke::tests::by_the_book,
    seal, sha256,
    testing::{NOW, World, content, post},
    thumbprint_text, token, verify,
};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../spec/vectors")
        .join(name)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    B64.encode(bytes)
}

fn bytes(value: &Value) -> Vec<u8> {
    B64.decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// What the file says; or, when it is to be written, what `make` says.
fn vectors(name: &str, make: impl FnOnce() -> Value) -> Value {
    if std::env::var_os("HAWSER_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&make()).unwrap() + "\n";
        std::fs::write(path(name), text).unwrap();
    }
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// The sender and the device of all vectors, from `keys.json`.
fn world() -> World {
    static KEYS: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    let keys = KEYS.get_or_init(|| vectors("keys.json", make_keys));
    let key = |of: &str| SigningKey::from_pkcs8(&bytes(&keys[of]["signing_pkcs8"])).unwrap();
    let sealing = array(&keys["device"]["sealing_private"]);
    let world = World::of(
        key("sender").into(),
        DeviceKeys::new(key("device"), sealing).unwrap(),
    );
    assert_eq!(keys["sender"], public(world.sender.key(), &keys["sender"]));
    let mut device = public(world.keys.signing(), &keys["device"]);
    device["sealing_private"] = b64(world.keys.sealing()).into();
    device["sealing_public"] = b64(world.keys.sealing_public()).into();
    assert_eq!(keys["device"], device);
    world
}

fn public(key: &SigningKey, given: &Value) -> Value {
    json!({
        "signing_pkcs8": given["signing_pkcs8"],
        "signing_public": b64(key.public().as_bytes()),
        "signing_jwk": key.public().jwk(),
        "key_id": key.public().key_id().to_string(),
        "thumbprint": thumbprint_text(&key.public().thumbprint()),
    })
}

fn make_keys() -> Value {
    let with_private =
        |key: &SigningKey| public(key, &json!({ "signing_pkcs8": b64(&*key.to_pkcs8().unwrap()) }));
    let keys = DeviceKeys::generate().unwrap();
    let mut device = with_private(keys.signing());
    device["sealing_private"] = b64(keys.sealing()).into();
    device["sealing_public"] = b64(keys.sealing_public()).into();
    json!({
        "about": "The keys of all vectors. Binary values in all files but hpke.json are base64url without padding.",
        "sender": with_private(&SigningKey::generate().unwrap()),
        "device": device,
    })
}

#[test]
fn keys() {
    world();
}

fn inner(content: &Content) -> Value {
    json!({
        "source": content.source, "id": content.id, "type": content.event_type, "subject": content.subject,
        "created": content.created, "mode": content.mode, "content_type": content.content_type,
        "variant": content.variant, "body": b64(&content.body), "item": content.item, "size": content.size,
    })
}

/// What an implementer wants to see of each step.
fn steps(world: &World, bytes: &[u8]) -> Value {
    let (envelope, header) = Envelope::parse(bytes, MAX_ANSWER).unwrap();
    let info = [
        b"hawser-epoch-key/1\0",
        &header.device.0[..],
        &header.epoch.to_be_bytes(),
    ]
    .concat();
    let (enc, sealed) = envelope.epoch_key.split_at(32);
    let (shared, key, nonce) = by_the_book(
        2,
        32,
        world.keys.sealing(),
        world.keys.sealing_public(),
        enc,
        &info,
    );
    let key: [u8; 32] = key.try_into().unwrap();
    let wrapping =
        crate::aead::open(&key, nonce.clone().try_into().unwrap(), &header.sender.0, sealed).unwrap();
    let wrapping: [u8; 32] = wrapping.as_slice().try_into().unwrap();
    let nonce_wrapped = crate::envelope::wrap_nonce(header.sequence);
    let wrapped = crate::aead::open(&wrapping, nonce_wrapped, &envelope.header, &envelope.wrapped).unwrap();
    let opened: hawser_proto::broker::envelope::Wrapped = whole(&wrapped).unwrap();
    let plain = crate::aead::open(
        &opened.content_key,
        [0; 12],
        b"hawser-content/1\0",
        &envelope.ciphertext,
    )
    .unwrap();
    json!({
        "header": {
            "cbor": b64(&envelope.header), "version": header.version, "suite": header.suite, "kind": header.kind,
            "device": header.device, "sequence": header.sequence, "epoch": header.epoch, "sender": header.sender,
            "expires": header.expires, "urgency": header.urgency, "collapse": header.collapse.map(b64),
        },
        "signed": b64(signed_bytes(&envelope.header, &envelope.epoch_key, &envelope.wrapped, &sha256(&envelope.ciphertext))),
        "hpke": {
            "enc": b64(enc), "sealed": b64(sealed), "info": b64(info), "aad": b64(header.sender.0),
            "shared_secret": b64(shared), "key": b64(key), "base_nonce": b64(nonce),
        },
        "wrapping_key": b64(wrapping),
        "wrapped_nonce": b64(nonce_wrapped),
        "wrapped": {
            "cbor": b64(&*wrapped), "content_key": b64(opened.content_key), "ciphertext_sha256": b64(opened.ciphertext),
            "domain": opened.domain.to_string(), "user": opened.user, "device": opened.device, "epoch": opened.epoch,
            "answers": opened.answers.map(b64),
        },
        "content_cbor": b64(&*plain),
    })
}

fn make_envelopes() -> Value {
    let world = world();
    let epoch = world.epoch();
    let case = |name: &str, bytes: &[u8], content: &Content| {
        json!({
            "name": name, "envelope": b64(bytes), "sha256": b64(sha256(bytes)), "content": inner(content),
            "steps": steps(&world, bytes),
        })
    };
    let plain = content();
    let notice = Content {
        mode: Mode::Fetch,
        item: Some(ItemId([0x17; 16])),
        size: Some(123_456),
        subject: None,
        body: Vec::new(),
        ..content()
    };
    let sealed = SealedContent::new(&plain).unwrap();
    let first = seal(&world.sender, &epoch, &sealed, &post(1)).unwrap();
    let mut collapsing = post(2);
    collapsing.collapse = Some([0xc0; 32]);
    let second = SealedContent::new(&notice).unwrap();
    let second = seal(&world.sender, &epoch, &second, &collapsing).unwrap();
    let reply = answer(
        &world.sender,
        &world.certified(),
        &sealed,
        [9; 16],
        post(1).expires,
        NOW,
    )
    .unwrap();
    let mut question = case("the answer to a fetch request", &reply, &plain);
    question["nonce"] = b64([9; 16]).into();
    json!({
        "about": "Envelopes to the device of keys.json, what is inside, each step on the way, and what must be refused and why.",
        "now": NOW,
        "recipient": { "domain": "acme", "user": "alice", "device": world.certificate.device, "epoch": 2 },
        "good": [
            case("an event", &first, &plain),
            case("a notice under the same epoch key, with a collapse key", &second, &notice),
            question,
        ],
        "bad": bad(&world, &first),
    })
}

/// Each under the name of the [`OpenError`] that says why.
fn bad(world: &World, good: &[u8]) -> Vec<Value> {
    let case = |name: &str, error: &str, bytes: Vec<u8>| json!({ "name": name, "error": error, "envelope": b64(bytes) });
    let flip = |part: &dyn Fn(&mut Envelope) -> &mut u8| {
        let (mut envelope, _) = Envelope::parse(good, MAX_ENVELOPE).unwrap();
        *part(&mut envelope) ^= 1;
        envelope.to_bytes()
    };
    let of = |change: &dyn Fn(&mut DeviceCertificate)| {
        let mut other = World::of(
            world.sender.clone(),
            DeviceKeys::new(world.keys.signing().clone(), *world.keys.sealing()).unwrap(),
        );
        change(&mut other.certificate);
        other.envelope(1)
    };
    let stranger = World::of(
        SigningKey::generate().unwrap().into(),
        DeviceKeys::new(world.keys.signing().clone(), *world.keys.sealing()).unwrap(),
    );
    let old = crate::Post {
        expires: UnixTime(NOW.0 - 1),
        ..post(1)
    };
    let sealed = SealedContent::new(&content()).unwrap();
    let old = seal(&world.sender, &world.epoch(), &sealed, &old).unwrap();
    vec![
        case(
            "a changed epoch key",
            "Signature",
            flip(&|e| &mut e.epoch_key[40]),
        ),
        case("changed wrapped bytes", "Signature", flip(&|e| &mut e.wrapped[5])),
        case(
            "changed ciphertext",
            "Signature",
            flip(&|e| &mut e.ciphertext[100]),
        ),
        case("a changed signature", "Signature", flip(&|e| &mut e.signature[0])),
        case("another sender's", "Signature", stranger.envelope(1)),
        case(
            "for another device",
            "Device",
            of(&|c| c.device = DeviceHandle([1; 16])),
        ),
        case(
            "for another user",
            "Recipient",
            of(&|c| c.user = "bob".parse::<UserName>().unwrap()),
        ),
        case(
            "of another domain",
            "Recipient",
            of(&|c| c.domain = "beta".parse().unwrap()),
        ),
        case("of another epoch", "Epoch", of(&|c| c.epoch = 1)),
        case(
            "sealed to another key",
            "Sealed",
            of(&|c| c.sealing_key = *DeviceKeys::generate().unwrap().sealing_public()),
        ),
        case("expired", "Expired", old),
        case(
            "an answer where an event is expected",
            "Kind",
            answer(
                &world.sender,
                &world.certified(),
                &sealed,
                [9; 16],
                post(1).expires,
                NOW,
            )
            .unwrap(),
        ),
        case("cut off", "Malformed", good[..good.len() - 1].to_vec()),
        case("with a byte after its end", "Malformed", [good, &[0]].concat()),
    ]
}

fn name(error: &OpenError) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .next()
        .unwrap()
        .into()
}

#[test]
fn envelopes() {
    let file = vectors("envelope.json", make_envelopes);
    let world = world();
    let now = UnixTime(file["now"].as_u64().unwrap());
    let mut opener: Opener = world.opener();
    for case in file["good"].as_array().unwrap() {
        let envelope = bytes(&case["envelope"]);
        let opened = match case.get("nonce") {
            Some(nonce) => opener.open_answer(&envelope, &array(nonce), now),
            None => opener.open(&envelope, now),
        }
        .unwrap();
        assert_eq!(inner(&opened.content), case["content"]);
        assert_eq!(b64(opened.digest), case["sha256"]);
        assert_eq!(steps(&world, &envelope), case["steps"]);
        // What is written anew from what was read is the same, to the byte.
        let (read, header) = Envelope::parse(&envelope, MAX_ANSWER).unwrap();
        assert_eq!(read.to_bytes(), envelope);
        assert_eq!(encoded(&header), read.header);
    }
    for case in file["bad"].as_array().unwrap() {
        let error = opener.open(&bytes(&case["envelope"]), now).unwrap_err();
        assert_eq!(name(&error), case["error"], "{}", case["name"]);
    }
}

fn statement<T: Statement>(key: &SigningKey, by: &str, value: Value, statement: &T) -> Value {
    let signed = key.sign(statement).unwrap();
    json!({
        "by": by, "value": value, "context": b64(T::CONTEXT), "payload": b64(&signed.payload), "signed": b64(signed.to_bytes()),
    })
}

fn ack(world: &World) -> Acknowledgement {
    Acknowledgement {
        device: world.certificate.device,
        sequence: 1,
        code: AckCode::Delivered,
        envelope: [0xab; 32],
        at: NOW,
    }
}

fn make_statements() -> Value {
    let world = world();
    let device = world.certificate.device;
    let ack = ack(&world);
    let request = FetchRequest {
        device,
        item: ItemId([0x17; 16]),
        nonce: [9; 16],
        at: NOW,
        accept: "text/html, text/plain;q=0.5".into(),
        accept_language: String::new(),
        save_data: false,
    };
    let skip = Skip {
        device,
        from: 3,
        to: 5,
        reason: SkipReason::Collapsed,
    };
    let c = &world.certificate;
    json!({
        "about": "What is signed: payload is the CBOR of the value, signed the CBOR of payload and signature; the signature covers context and payload.",
        "acknowledgement": statement(world.keys.signing(), "device", json!({
            "device": ack.device, "sequence": ack.sequence, "code": 100, "envelope": b64(ack.envelope), "at": ack.at,
        }), &ack),
        "fetch_request": statement(world.keys.signing(), "device", json!({
            "device": request.device, "item": request.item, "nonce": b64(request.nonce), "at": request.at,
            "accept": request.accept, "accept_language": request.accept_language, "save_data": request.save_data,
        }), &request),
        "skip": statement(world.sender.key(), "sender", json!({
            "device": skip.device, "from": skip.from, "to": skip.to, "reason": 0,
        }), &skip),
        "device_certificate": statement(world.sender.key(), "sender", json!({
            "domain": c.domain.to_string(), "user": c.user, "device": c.device, "name": c.name,
            "signing_key": b64(&c.signing_key), "sealing_key": b64(c.sealing_key), "epoch": c.epoch, "issued": c.issued,
            "expires": c.expires, "sender": c.sender,
        }), c),
    })
}

#[test]
fn statements() {
    let file = vectors("statements.json", make_statements);
    let world = world();
    fn check<T: Statement>(case: &Value, by: &PublicKey) -> T {
        let signed = Signed::<T>::parse(&bytes(&case["signed"])).unwrap();
        assert_eq!(b64(&signed.payload), case["payload"]);
        assert_eq!(b64(T::CONTEXT), case["context"]);
        let value = verify(&signed, by).unwrap();
        assert_eq!(encoded(&value), signed.payload);
        value
    }
    let said: Acknowledgement = check(&file["acknowledgement"], world.keys.public());
    assert_eq!(said, ack(&world));
    let request: FetchRequest = check(&file["fetch_request"], world.keys.public());
    assert_eq!(request.accept, file["fetch_request"]["value"]["accept"]);
    let skip: Skip = check(&file["skip"], world.sender.public());
    assert_eq!((skip.from, skip.to), (3, 5));
    let certificate: DeviceCertificate = check(&file["device_certificate"], world.sender.public());
    assert_eq!(certificate, world.certificate);
}

fn make_enrolment() -> Value {
    let world = world();
    let fragment = Fragment {
        enrolment: [0xe1; 16],
        secret: [0x5e; 16],
        domain: "acme".parse().unwrap(),
        root: [0x44; 32],
    };
    let profile = r#"{"accept":"text/html, text/plain;q=0.5","max_bytes":65536,"screen":null,"languages":"","schema":1}"#;
    let request = EnrolmentRequest {
        enrolment: fragment.enrolment,
        signing_key: world.keys.public().as_bytes().to_vec(),
        sealing_key: *world.keys.sealing_public(),
        name: "alice's telephone".into(),
        profile: profile.into(),
    };
    let answer = EnrolmentAnswer {
        certificate: world.certified().to_bytes(),
        sender_key: world.sender.public().as_bytes().to_vec(),
        user: "alice".parse().unwrap(),
        device: world.certificate.device,
        mailbox: "https://mail.example.org".into(),
        hub_pin: Some([0x99; 32]),
        control: "https://devices.acme.example".into(),
        at: NOW,
    };
    let (request_bytes, answer_bytes) = (encoded(&request), encoded(&answer));
    let transcript = Transcript::of(&fragment, &request_bytes);
    json!({
        "about": "One enrolment from link to check number.",
        "fragment": fragment.to_text(),
        "fragment_value": {
            "enrolment": b64(fragment.enrolment), "secret": b64(fragment.secret), "domain": "acme", "root": b64(fragment.root),
        },
        "request_value": { "name": request.name, "profile": request.profile },
        "request": b64(&request_bytes),
        "request_mac": b64(transcript.request_mac().unwrap()),
        "answer_value": {
            "user": answer.user, "device": answer.device, "mailbox": answer.mailbox, "hub_pin": answer.hub_pin.map(b64),
            "control": answer.control, "at": answer.at, "certificate": b64(&answer.certificate), "sender_key": b64(&answer.sender_key),
        },
        "answer": b64(&answer_bytes),
        "answer_mac": b64(transcript.answer_mac(&answer_bytes).unwrap()),
        "check_number": transcript.check_number().unwrap(),
    })
}

#[test]
fn enrolment() {
    let file = vectors("enrolment.json", make_enrolment);
    let world = world();
    let text = file["fragment"].as_str().unwrap();
    let fragment = Fragment::parse(text).unwrap();
    assert_eq!(fragment.to_text(), text);
    let (request, answer) = (bytes(&file["request"]), bytes(&file["answer"]));
    let read: EnrolmentRequest = whole(&request).unwrap();
    assert_eq!(encoded(&read), request);
    assert_eq!(read.signing_key, world.keys.public().as_bytes());
    let read: EnrolmentAnswer = whole(&answer).unwrap();
    assert_eq!(encoded(&read), answer);
    let transcript = Transcript::of(&fragment, &request);
    assert_eq!(b64(transcript.request_mac().unwrap()), file["request_mac"]);
    transcript.check_request(&bytes(&file["request_mac"])).unwrap();
    transcript
        .check_answer(&answer, &bytes(&file["answer_mac"]))
        .unwrap();
    assert_eq!(transcript.check_number().unwrap(), file["check_number"]);
    // Neither MAC passes for the other, nor for other bytes.
    assert!(transcript.check_request(&bytes(&file["answer_mac"])).is_err());
    assert!(
        transcript
            .check_answer(&request, &bytes(&file["answer_mac"]))
            .is_err()
    );
    let other = Transcript::new(&fragment.enrolment, &[0; 16], &request);
    assert!(other.check_request(&bytes(&file["request_mac"])).is_err());
}

const URL: &str = "https://mail.example.org/v1/stream";

fn make_proofs() -> Value {
    let world = world();
    let key = world.keys.signing();
    let thumbprint = key.public().thumbprint();
    let control = "https://devices.acme.example";
    let token = token::issue(
        &world.sender,
        &world.certificate.domain,
        control,
        world.certificate.device,
        &thumbprint,
        NOW,
    )
    .unwrap();
    let view = format!("{control}/v1/device");
    json!({
        "about": "DPoP proofs (RFC 9449) by the device, one alone and one that goes with an access token.",
        "now": NOW,
        "alone": { "method": "GET", "url": URL, "proof": dpop::prove(key, "GET", URL, None, NOW).unwrap() },
        "with_token": {
            "method": "GET", "url": view, "token": token, "ath": b64(sha256(token.as_bytes())),
            "proof": dpop::prove(key, "GET", &view, Some(&token), NOW).unwrap(),
        },
    })
}

#[test]
fn proofs() {
    let file = vectors("dpop.json", make_proofs);
    let world = world();
    let now = UnixTime(file["now"].as_u64().unwrap());
    for name in ["alone", "with_token"] {
        let case = &file[name];
        let text = |name: &str| case[name].as_str().unwrap();
        let token = case.get("token").map(|t| t.as_str().unwrap());
        let proof = dpop::check(text("proof"), text("method"), text("url"), token, now).unwrap();
        assert_eq!(&proof.key, world.keys.public());
        if let Some(token) = token {
            let control = "https://devices.acme.example";
            let bearer = token::verify(
                token,
                world.sender.public(),
                &world.certificate.domain,
                control,
                now,
            )
            .unwrap();
            assert_eq!(bearer.thumbprint, proof.thumbprint);
            assert_eq!(b64(sha256(token.as_bytes())), case["ath"]);
        }
    }
}

/// A sender key in a file is the same the next time, and refused when others may read it.
#[test]
fn a_sender_key_stays() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sender.key");
    let id = SenderKey::load_or_create(&path).unwrap().key_id();
    assert_eq!(SenderKey::load_or_create(&path).unwrap().key_id(), id);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(SenderKey::load_or_create(&path).is_err());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "nothing").unwrap();
    assert!(SenderKey::load_or_create(&path).is_err());
}
