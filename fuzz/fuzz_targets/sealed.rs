//! Any bytes as a device's proof, a token, a receipt, an envelope and a statement: refused, and quickly. Nothing here is signed by
//! the keys that are asked for, so nothing may be believed.
#![no_main]

use std::sync::{Arc, OnceLock};

use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        statement::{Acknowledgement, Signed},
    },
};
use hawser_seal::{DeviceKeys, Opener, Recipient, dpop, receipt, token, verify};
use libfuzzer_sys::fuzz_target;

const NOW: UnixTime = UnixTime(1_800_000_000);
const URL: &str = "https://mail.example.org/v1/stream";

fn keys() -> Arc<DeviceKeys> {
    static KEYS: OnceLock<Arc<DeviceKeys>> = OnceLock::new();
    KEYS.get_or_init(|| Arc::new(DeviceKeys::generate().expect("random numbers")))
        .clone()
}

fuzz_target!(|data: &[u8]| {
    let keys = keys();
    let key = keys.public();
    if let Ok(text) = std::str::from_utf8(data) {
        // A proof brings its own key, so that one may hold.
        if let Ok(proof) = dpop::check(text, "GET", URL, None, NOW) {
            assert_eq!(proof.thumbprint, proof.key.thumbprint());
        }
        let domain = "acme".parse().expect("a name");
        assert!(token::verify(text, key, &domain, "https://devices.acme.example", NOW).is_err());
        assert!(receipt::verify(text, key).is_err());
    }
    if let Ok(signed) = Signed::<Acknowledgement>::parse(data) {
        assert!(verify(&signed, key).is_err());
    }
    let me = Recipient {
        domain: "acme".parse().expect("a name"),
        user: "alice".parse().expect("a name"),
        device: DeviceHandle([1; 16]),
        epoch: 1,
    };
    let mut opener = Opener::new(key.clone(), keys.clone(), me);
    assert!(opener.open(data, NOW).is_err());
    assert!(opener.open_answer(data, &[0; 16], NOW).is_err());
});
