//! Any bytes as a WSDL document or schema: refused, or rewritten so that it reads as it should and nothing else has changed; and any bytes
//! as a message to a service that is described.
#![no_main]

use std::sync::LazyLock;

use hawser_describe::{Description, Validator, is_description, rewrite};
use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use libfuzzer_sys::fuzz_target;

static SERVICE: LazyLock<Validator> = LazyLock::new(|| {
    let wsdl = include_bytes!("../../crates/describe/tests/data/eventing.wsdl");
    Validator::new(&[Description::parse(wsdl, None).expect("read")]).expect("whole")
});

fuzz_target!(|data: &[u8]| {
    let _ = is_description(None, data);
    for kind in [
        "application/soap+xml",
        "multipart/related; boundary=b; start=\"<a>\"",
    ] {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let _ = SERVICE.request(&Method::POST, "/", &headers, data);
    }
    if !data.trim_ascii_start().starts_with(b"<") && !data.starts_with(b"\xef\xbb\xbf") {
        return;
    }
    let Ok(before) = Description::parse(data, None) else {
        return;
    };
    assert_eq!(rewrite(data, None, &mut |_, _| None).as_deref(), Ok(data));
    let mut asked = Vec::new();
    let out = rewrite(data, None, &mut |_, old| {
        asked.push(old.to_owned());
        Some("http://mapped.example/?a=b&c='d'".into())
    })
    .expect("XML has one way to write an address");
    let after = Description::parse(&out, None)
        .expect("what is written can be read")
        .summary();
    let (before, all) = (before.summary(), asked.is_empty());
    assert!(
        after
            .endpoints
            .iter()
            .chain(&after.imports)
            .all(|a| a == "http://mapped.example/?a=b&c='d'")
    );
    assert_eq!(
        (after.operations, after.title, after.version),
        (before.operations, before.title, before.version)
    );
    assert!(!all || out == data);
    let _ = Validator::new(&[Description::parse(data, None).expect("as before")]);
});
