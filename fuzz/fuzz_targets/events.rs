//! Any bytes as an event in each of its forms: refused, or read with all texts within their limits, and kept as they were read.
#![no_main]

use hawser_content::{cloudevents, routing};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fn check(headers: &HeaderMap, body: &[u8]) {
    let Ok(events) = cloudevents::parse(headers, body) else {
        return;
    };
    assert!(events.len() <= cloudevents::MAX_BATCH);
    for event in events {
        assert!(!event.id.is_empty() && event.id.len() <= cloudevents::MAX_ATTRIBUTE);
        assert!(event.extensions.len() <= cloudevents::MAX_EXTENSIONS);
        let _ = routing(&event);
        let kept = minicbor::to_vec(&event).expect("into memory");
        assert_eq!(
            minicbor::decode::<cloudevents::Event>(&kept).expect("what we write we can read"),
            event
        );
    }
}

fuzz_target!(|data: &[u8]| {
    for kind in [
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    ] {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        check(&headers, data);
    }
    // Lines of headers, then the body.
    let mut headers = HeaderMap::new();
    let mut rest = data;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let (line, behind) = (&rest[..end], &rest[end + 1..]);
        rest = behind;
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            break;
        };
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(&line[colon + 1..]),
        ) else {
            continue;
        };
        headers.append(name, value);
    }
    check(&headers, rest);
});
