//! Any bytes as content of any kind, for any kind of device: shown within the limit, and HTML that leads nowhere but to its links.
#![no_main]

use std::collections::BTreeMap;

use hawser_content::{Class, Event, Limits, adapt, adapt::Variant};
use hawser_proto::broker::api::Profile;
use libfuzzer_sys::fuzz_target;

const KINDS: [&str; 10] = [
    "text/html",
    "text/markdown",
    "text/plain",
    "application/json",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "text/html; charset=shift_jis",
];
const DEVICES: [&str; 4] = [
    "text/html, image/*",
    "text/markdown",
    "text/plain, image/jpeg",
    "*/*",
];

fuzz_target!(init: {
    // A library's panic is answered by a safe text: it must not end the run, as a failed assertion here does.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}, |data: &[u8]| {
    let Some(([kind, device, body], content)) = data.split_first_chunk() else {
        return;
    };
    let event = Event {
        id: "1".into(),
        source: "/fuzz".into(),
        event_type: "fuzz".into(),
        subject: None,
        time: None,
        datacontenttype: Some(KINDS[usize::from(*kind) % KINDS.len()].into()),
        dataschema: None,
        data: content.to_vec(),
        extensions: BTreeMap::new(),
    };
    let profile = Profile {
        accept: DEVICES[usize::from(*device) % DEVICES.len()].into(),
        ..Profile::default()
    };
    let class = Class::of(&profile).expect("a good profile");
    let limits = Limits {
        body: 256 + usize::from(*body) * 256,
        rest_can_be_fetched: true,
    };
    let adapted = adapt(&event, &class, &limits);
    assert!(adapted.body.len() <= limits.body);
    if adapted.variant == Variant::Html {
        let html = String::from_utf8(adapted.body).expect("text");
        for tag in html.split('<').skip(1) {
            let name = tag.trim_start_matches('/');
            assert!(
                !["script", "style", "img", "iframe", "svg", "form"]
                    .iter()
                    .any(|bad| name.starts_with(bad)),
                "{html}"
            );
        }
    }
});
