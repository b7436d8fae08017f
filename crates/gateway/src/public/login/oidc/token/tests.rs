use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const ISSUER: &str = "https://op.example/realm";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A provider that signs whatever it is told.
struct Signer {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Signer {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn jwks(&self) -> Value {
        let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        let point = self.ec.public_key().as_ref();
        json!({ "keys": [
            { "kty": "RSA", "kid": "r", "use": "sig", "n": b64(rsa.n), "e": b64(rsa.e) },
            { "kty": "EC", "kid": "e", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) },
            { "kty": "OKP", "kid": "o", "crv": "Ed25519", "alg": "EdDSA", "x": b64(self.ed.public_key()) },
            { "kty": "future", "kid": "f" },
        ]})
    }

    fn keys(&self) -> KeySet {
        KeySet::read(self.jwks().to_string().as_bytes()).unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let bytes = text.as_bytes();
        let rsa = |how: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa
                .sign(how, &SystemRandom::new(), bytes, &mut signature)
                .unwrap();
            signature
        };
        let signature = match header["alg"].as_str().unwrap_or_default() {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => self
                .ec
                .sign(&SystemRandom::new(), bytes)
                .unwrap()
                .as_ref()
                .to_vec(),
            "EdDSA" => self.ed.sign(bytes).as_ref().to_vec(),
            // The public key taken for a shared secret.
            "HS256" => {
                let public = self.rsa.public_key().as_der().unwrap();
                let key = hmac::Key::new(hmac::HMAC_SHA256, public.as_ref());
                hmac::sign(&key, bytes).as_ref().to_vec()
            }
            _ => Vec::new(),
        };
        format!("{text}.{}", b64(signature))
    }
}

fn good(attempt: &Attempt) -> Value {
    let now = UnixTime::now().0;
    json!({ "iss": ISSUER, "aud": "wiki", "sub": "ada", "nonce": attempt.nonce, "iat": now, "exp": now + 300 })
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn verify(keys: &KeySet, token: &str, attempt: &Attempt) -> Result<Claims, TokenError> {
    let expected = Expected {
        issuer: ISSUER,
        client: "wiki",
        attempt,
    };
    keys.verify(token, &expected, UnixTime::now())
}

#[test]
fn a_token_by_a_listed_key_of_a_good_kind_is_believed() {
    let (signer, attempt) = (Signer::new(), Attempt::new("/", UnixTime::now()).unwrap());
    let (keys, claims) = (signer.keys(), good(&attempt));
    assert_eq!(keys.len(), 3);
    for (alg, kid) in [("RS256", "r"), ("PS256", "r"), ("ES256", "e"), ("EdDSA", "o")] {
        for header in [json!({ "alg": alg, "kid": kid }), json!({ "alg": alg })] {
            let seen = verify(&keys, &signer.token(&header, &claims), &attempt).unwrap();
            assert_eq!(seen["sub"], "ada", "{header}");
        }
    }
}

#[test]
fn what_is_not_signed_as_it_must_be_is_refused() {
    let (signer, attempt) = (Signer::new(), Attempt::new("/", UnixTime::now()).unwrap());
    let (keys, claims) = (signer.keys(), good(&attempt));
    for header in [
        json!({ "alg": "none" }),
        json!({ "alg": "none", "kid": "r" }),
        json!({ "alg": "HS256", "kid": "r" }),
        json!({ "alg": "RS384", "kid": "r" }),
        json!({ "alg": "RS256", "kid": "e" }),
        json!({ "alg": "EdDSA", "kid": "e" }),
        json!({ "alg": "RS256", "kid": "other" }),
        json!({ "alg": "RS256", "kid": "r", "crit": ["b64"], "b64": false }),
        json!({ "kid": "r" }),
        json!([]),
    ] {
        let token = signer.token(&header, &claims);
        assert!(verify(&keys, &token, &attempt).is_err(), "{header}");
    }
    // By somebody else's key of the same name, and with what was signed changed.
    let other = Signer::new();
    for (alg, kid) in [("RS256", "r"), ("PS256", "r"), ("ES256", "e"), ("EdDSA", "o")] {
        let header = json!({ "alg": alg, "kid": kid });
        let forged = other.token(&header, &claims);
        assert!(
            matches!(verify(&keys, &forged, &attempt), Err(TokenError::Library(_))),
            "{alg}"
        );
        let right = signer.token(&header, &claims);
        let signature = right.rsplit('.').next().unwrap();
        let changed = with(&claims, "sub", json!("root"));
        let changed = format!(
            "{}.{}.{signature}",
            b64(header.to_string()),
            b64(changed.to_string())
        );
        assert!(verify(&keys, &changed, &attempt).is_err(), "{alg}");
    }
    let unknown = signer.token(&json!({ "alg": "RS256", "kid": "new" }), &claims);
    assert!(
        matches!(verify(&keys, &unknown, &attempt), Err(TokenError::Key)),
        "its keys are asked for anew"
    );
}

#[test]
fn keys_are_used_for_what_they_are_for() {
    let (signer, attempt) = (Signer::new(), Attempt::new("/", UnixTime::now()).unwrap());
    let token = signer.token(&json!({ "alg": "RS256", "kid": "r" }), &good(&attempt));
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("PS256")),
        ("kty", json!("oct")),
    ] {
        let mut jwks = signer.jwks();
        jwks["keys"][0][name] = value;
        let keys = KeySet::read(jwks.to_string().as_bytes()).unwrap();
        assert!(verify(&keys, &token, &attempt).is_err(), "{name}");
    }
}

#[test]
fn a_token_that_is_for_another_client_login_or_time_is_refused() {
    let (signer, attempt) = (Signer::new(), Attempt::new("/", UnixTime::now()).unwrap());
    let (keys, claims) = (signer.keys(), good(&attempt));
    let now = UnixTime::now().0;
    let take = |claims: &Value| {
        verify(
            &keys,
            &signer.token(&json!({ "alg": "ES256", "kid": "e" }), claims),
            &attempt,
        )
    };
    for (name, value) in [
        ("aud", json!(["wiki"])),
        ("azp", json!("wiki")),
        ("iat", json!(now as f64 + 0.5)),
        ("exp", json!(now - 10)),
    ] {
        take(&with(&claims, name, value)).unwrap();
    }
    take(&with(
        &with(&claims, "aud", json!(["wiki", "api"])),
        "azp",
        json!("wiki"),
    ))
    .unwrap();
    for (name, value) in [
        ("iss", json!("https://op.example")),
        ("iss", json!([ISSUER])),
        ("iss", json!([ISSUER, "https://evil.example"])),
        ("aud", json!("other")),
        ("aud", json!(["wiki", "api"])),
        ("aud", json!([])),
        ("azp", json!("other")),
        ("azp", json!(7)),
        ("nonce", json!("other")),
        ("nonce", json!("")),
        ("exp", json!(now - 3600)),
        ("exp", json!("never")),
        ("nbf", json!(now + 3600)),
        ("iat", json!(now + 3600)),
        ("iat", json!(now - 3600)),
        ("iat", json!("now")),
        ("sub", json!("")),
        ("sub", json!("a".repeat(256))),
    ] {
        let claims = with(&claims, name, value);
        assert!(take(&claims).is_err(), "{name}: {claims}");
    }
    for name in ["iss", "aud", "sub", "nonce", "iat", "exp"] {
        assert!(take(&without(&claims, name)).is_err(), "no {name}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let (signer, attempt) = (Signer::new(), Attempt::new("/", UnixTime::now()).unwrap());
    let keys = signer.keys();
    let header = b64(json!({ "alg": "RS256" }).to_string());
    for odd in [
        String::new(),
        "..".into(),
        "a.b".into(),
        format!("{header}.."),
        format!("{header}.{header}.{header}.x"),
        "a".repeat(MAX_TOKEN + 1),
    ] {
        assert!(verify(&keys, &odd, &attempt).is_err());
    }
    assert!(KeySet::read(b"{}").is_err() && KeySet::read(b"[]").is_err());
}

proptest! {
    #[test]
    fn no_token_breaks_the_reader(header in "[ -~]{0,40}", claims in "[ -~]{0,40}", end in "[A-Za-z0-9_.-]{0,40}") {
        let keys = KeySet::read(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#).unwrap();
        let attempt = Attempt::new("/", UnixTime::now()).unwrap();
        let header_too = b64(json!({ "alg": "EdDSA" }).to_string());
        for token in [
            format!("{}.{}.{end}", b64(&header), b64(&claims)),
            format!("{header_too}.{}.{end}", b64(&claims)),
            format!("{header}.{claims}.{end}"),
        ] {
            prop_assert!(verify(&keys, &token, &attempt).is_err());
        }
    }
}
