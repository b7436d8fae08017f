//! What somebody gets who reads along what a device says: nothing, neither with its token nor with its proofs.

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hawser_testkit::{
    curl::{Answer, Curl},
    office::Office,
    wait,
};
use serde_json::{Value, json};

use super::browser::{enrolled, live, possible};

/// A request that the device made.
struct Seen {
    method: String,
    url: String,
    proof: String,
    token: String,
    device: String,
}

impl Seen {
    fn of(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        Self {
            method: text("method"),
            url: text("url"),
            proof: text("proof"),
            token: text("token"),
            device: text("device"),
        }
    }

    /// The same request from another place, with this proof, if any, and this kind of token.
    fn again(&self, office: &Office, proof: Option<&str>, scheme: Option<&str>) -> Answer {
        let authority = office.authority.certificate();
        let mut curl = Curl::new(office.outside(), &self.url)
            .args(["--cacert", authority.to_str().unwrap(), "-X", &self.method])
            .header(&format!("hawser-device: {}", self.device));
        if let Some(proof) = proof {
            curl = curl.header(&format!("DPoP: {proof}"));
        }
        if let Some(scheme) = scheme {
            curl = curl.header(&format!("Authorization: {scheme} {}", self.token));
        }
        if self.method != "GET" {
            curl = curl.header("Content-Type: application/json").post("{}");
        }
        curl.call().unwrap()
    }
}

/// A proof for a request by a key of one's own (RFC 9449), with the device's token.
fn own_proof(seen: &Seen) -> String {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = key.public_key().as_ref();
    let head = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": {
        "kty": "EC", "crv": "P-256", "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]),
    } });
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let mut claims = json!({ "jti": format!("{:032x}", now.as_nanos()), "htm": seen.method, "htu": seen.url, "iat": now.as_secs() });
    if !seen.token.is_empty() {
        claims["ath"] = B64
            .encode(digest::digest(&digest::SHA256, seen.token.as_bytes()))
            .into();
    }
    let signed = format!(
        "{}.{}",
        B64.encode(head.to_string()),
        B64.encode(claims.to_string())
    );
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", B64.encode(signature))
}

fn refused(answer: &Answer, why: &str) {
    let text = answer.text();
    assert!(
        answer.status == 401 && text.contains(why),
        "{why}: {} {text}",
        answer.head
    );
}

#[test]
fn neither_a_stolen_token_nor_a_replayed_proof_is_worth_anything() {
    if !possible() {
        return;
    }
    let office = Office::start().unwrap();
    office.user("alice").unwrap();
    let mut browser = enrolled(&office, "alice", false);
    // What it can show has changed: it tells control so, with a token.
    browser
        .tell("look", json!({ "dark": false, "width": 777, "height": 555 }))
        .unwrap();
    browser.reload().unwrap();
    live(&office, &mut browser);
    let seen = |browser: &mut hawser_testkit::Browser, wanted: &dyn Fn(&Seen) -> bool| {
        wait::until(wait::SOON, "the device's request", || {
            let told = browser.tell("proved", json!({}))?;
            let all = told["requests"].as_array().unwrap().iter().map(Seen::of);
            Ok(all.into_iter().rfind(wanted))
        })
        .unwrap()
    };
    let change = seen(&mut browser, &|r| !r.token.is_empty() && r.method == "PUT");
    let stream = seen(&mut browser, &|r| r.url.ends_with("/v1/stream"));
    let token = seen(&mut browser, &|r| r.url.ends_with("/v1/token"));

    // The token without a proof, as another kind of token, with a proof of one's own.
    refused(&change.again(&office, None, Some("DPoP")), "DPoP");
    refused(
        &change.again(&office, Some(&change.proof), Some("Bearer")),
        "token",
    );
    let own = own_proof(&change);
    refused(&change.again(&office, Some(&own), Some("DPoP")), "another key");
    // One's own proof where no token is needed.
    refused(&stream.again(&office, Some(&own_proof(&stream)), None), "");
    // The device's own proofs, each once more, where it has shown them.
    for request in [&change, &stream, &token] {
        let scheme = (!request.token.is_empty()).then_some("DPoP");
        refused(
            &request.again(&office, Some(&request.proof), scheme),
            "used before",
        );
    }
    // And for something else.
    let mut other = change;
    other.method = "DELETE".into();
    other.url = other.url.replace("/v1/device/profile", "/v1/device");
    refused(&other.again(&office, Some(&other.proof), Some("DPoP")), "another");
    let listed = office.admin(&["device", "list", "--json"], "").unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert!(listed[0]["revoked"].is_null(), "{listed}");
}
