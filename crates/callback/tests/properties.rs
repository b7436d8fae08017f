//! What holds of every message: outside of replaced values the bytes that go out are those that came, however they are cut; the length
//! differs by what is said; whatever comes, nothing panics, and memory stays bounded.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};

use bytes::Bytes;
use hawser_callback::{Direction, Editor, Overflow, Place, Plan, Refusal, Rules, Verdict};
use proptest::prelude::*;

const CODINGS: [&str; 4] = ["identity", "gzip", "br", "zstd"];
const TYPES: [&str; 4] = [
    "text/xml",
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/related; boundary=b",
];

fn rules(overflow: Overflow) -> Rules {
    Rules {
        json: vec!["/a".parse().unwrap(), "/*/b".parse().unwrap()],
        form: vec!["a".into()],
        cloudevents: true,
        overflow,
        window: 64 * 1024,
        ..Rules::default()
    }
}

/// What goes out, and how many bytes were held at most.
struct Run {
    out: Vec<u8>,
    held: usize,
}

/// Pushes a body in pieces of the lengths given, over and over. Checks what is said about the length.
fn run(
    rules: &Rules,
    kind: &str,
    coding: &str,
    body: &[u8],
    cuts: &[usize],
    replace: &mut dyn FnMut(&Place, &str) -> Verdict,
) -> Result<Run, Refusal> {
    let mut editor = match Editor::plan(rules, Direction::Request, Some(kind), Some(coding), None) {
        Plan::Edit(editor) => editor,
        other => panic!("{other:?}"),
    };
    let (mut out, mut at, mut held, mut settled) = (Vec::new(), 0, 0, None);
    let mut replace = |place: &Place, address: &str| replace(place, address);
    for cut in cuts.iter().cycle() {
        if at == body.len() {
            break;
        }
        let end = body.len().min(at + cut.max(&1));
        let step = editor.push(Bytes::copy_from_slice(&body[at..end]), &mut replace)?;
        at = end;
        for bytes in step.out {
            out.extend_from_slice(&bytes);
        }
        assert!(settled.is_none() || settled == editor.settled());
        settled = editor.settled();
        match settled {
            Some(delta) => assert_eq!(at as i64 + delta, out.len() as i64, "nothing is held any more"),
            None => held = held.max(at.saturating_sub(out.len())),
        }
    }
    for bytes in editor.end(&mut replace)?.out {
        out.extend_from_slice(&bytes);
    }
    let delta = editor.settled().expect("settled at the end");
    assert_eq!(body.len() as i64 + delta, out.len() as i64);
    assert!(settled.is_none_or(|s| s == delta));
    Ok(Run { out, held })
}

fn code(coding: &str, plain: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(all, flate2::Compression::default());
            encoder.write_all(plain).unwrap();
            all = encoder.finish().unwrap();
        }
        "br" => {
            brotli::CompressorReader::new(plain, 4096, 5, 20)
                .read_to_end(&mut all)
                .unwrap();
        }
        "zstd" => all = zstd::encode_all(plain, 3).unwrap(),
        _ => all = plain.to_vec(),
    }
    all
}

fn decode(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    match coding {
        "gzip" => flate2::read::MultiGzDecoder::new(coded)
            .read_to_end(&mut all)
            .unwrap(),
        "br" => brotli::Decompressor::new(coded, 4096)
            .read_to_end(&mut all)
            .unwrap(),
        "zstd" => zstd::stream::read::Decoder::new(coded)
            .unwrap()
            .read_to_end(&mut all)
            .unwrap(),
        _ => coded.len().min({
            all = coded.to_vec();
            usize::MAX
        }),
    };
    all
}

/// A message with `@n@` where a value stands that is to be replaced.
fn message() -> impl Strategy<Value = (&'static str, String)> {
    let noise = "[ a-z0-9é<>&\"'{}\\[\\],:=%+-]{0,30}";
    let noises = || prop::collection::vec(noise, 1..5);
    let xml = noises().prop_map(|noise| {
        let text = |i: usize| noise[i % noise.len()].replace(['<', '>', '&', '"', '\''], "");
        let body = format!(
            "<?xml version=\"1.0\"?><!-- {} --><s:Envelope xmlns:s='http://www.w3.org/2003/05/soap-envelope' xmlns:w=\"http://www.w3.org/2005/08/addressing\">\
             <s:Header x='{}'><h>{}</h><w:ReplyTo><w:Address> @0@ </w:Address><w:ReferenceParameters><r>{}</r></w:ReferenceParameters></w:ReplyTo>\
             <w:FaultTo><w:Address>@1@</w:Address></w:FaultTo></s:Header><s:Body><x>{}</x><e><w:Address>@2@\n</w:Address></e></s:Body></s:Envelope>{}",
            text(0).replace('-', ""), text(1), text(2), text(3), text(0), " \n"
        );
        ("text/xml", body)
    });
    let json = noises().prop_map(|noise| {
        let text = |i: usize| serde_json::to_string(&noise[i % noise.len()]).unwrap();
        let body = format!(
            "{{ {}x : [{}, {{}}, -1e5], \"a\":\"@0@\" ,\"b\":{{\"c\":{{\"b\":{}}},\"b\":\"@1@\"}},\"sink\" : \"@2@\", \"{}\":[[[{}]]] }}\n",
            "\"q\":1,\"x\"".trim_end_matches('x').trim_end_matches('"').to_owned() + "\"", text(0), text(1), "z", text(2)
        );
        ("application/json", body)
    });
    let form = noises().prop_map(|noise| {
        let text = |i: usize| noise[i % noise.len()].replace(['&', '='], "");
        let body = format!(
            "x{}={}&a=@0@&{}&%61=@1@&b=@9@&a=@2@",
            text(0),
            text(1),
            text(2).replace('%', "")
        );
        ("application/x-www-form-urlencoded", body)
    });
    prop_oneof![xml, json, form].prop_map(|(kind, body)| (kind, body.replace("@9@", "http://kept/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn only_values_change(
        (kind, template) in message(),
        coding in prop::sample::select(&CODINGS),
        cuts in prop::collection::vec(1usize..200, 1..4),
        fates in prop::collection::vec(prop::option::of("http://[a-z]{1,60}/[a-z0-9./=-]{0,20}"), 3),
        with_multipart in any::<bool>(),
    ) {
        let (mut kind, mut template) = (kind, template);
        if with_multipart && kind == "text/xml" {
            kind = TYPES[3];
            template = format!("--b\r\nContent-Type: text/xml\r\n\r\n{template}\r\n--b--");
        }
        let fill = |values: &dyn Fn(usize) -> String| (0..3).fold(template.clone(), |t, n| t.replace(&format!("@{n}@"), &values(n)));
        let encode = |s: &str| match kind {
            "application/x-www-form-urlencoded" => s.replace(':', "%3A").replace('/', "%2F").replace('=', "%3D"),
            _ => s.to_owned(),
        };
        let original = |n: usize| format!("http://c{n}/");
        let before = fill(&|n| original(n));
        let after = fill(&|n| fates[n].as_deref().map_or_else(|| original(n), encode));
        let body = code(coding, before.as_bytes());
        let mut replace = |_: &Place, address: &str| {
            let n = (0..3).find(|n| address == original(*n));
            n.and_then(|n| fates[n].clone()).map_or(Verdict::Keep, Verdict::With)
        };
        let run = run(&rules(Overflow::Refuse), kind, coding, &body, &cuts, &mut replace).unwrap();
        let out = decode(coding, &run.out);
        prop_assert_eq!(String::from_utf8(out).unwrap(), after);
        if fates.iter().all(Option::is_none) {
            prop_assert_eq!(run.out, body);
        }
    }

    #[test]
    fn any_bytes_pass_where_nothing_is_replaced(
        kind in prop::sample::select(&TYPES),
        coding in prop::sample::select(&CODINGS),
        body in prop::collection::vec(any::<u8>(), 0..2000),
        cuts in prop::collection::vec(1usize..100, 1..4),
        as_text in any::<bool>(),
    ) {
        let body = if as_text { body.iter().map(|b| b"<>/!?'\"{}[],:= &%\\ab\r\n-"[usize::from(*b) % 23]).collect() } else { body };
        let passed = run(&rules(Overflow::Pass), kind, coding, &body, &cuts, &mut |_, _| Verdict::Keep);
        // A DTD is refused by any rules.
        match passed {
            Ok(run) => prop_assert_eq!(run.out, body),
            Err(refusal) => prop_assert!(matches!(refusal, Refusal::Dtd | Refusal::Entity), "{:?}", refusal),
        }
    }
}

#[test]
fn a_gigabyte_of_json_is_held_nowhere() {
    let window = rules(Overflow::Refuse).window;
    let mut editor = match Editor::plan(
        &rules(Overflow::Refuse),
        Direction::Request,
        Some("application/json"),
        None,
        None,
    ) {
        Plan::Edit(editor) => editor,
        other => panic!("{other:?}"),
    };
    let filler = "\\\"x".repeat(20) + &"y".repeat(500_000);
    let piece = Bytes::from(format!("{{\"b\":\"http://c/\",\"t\":[\"{filler}\"]}},"));
    let mut replace = |_: &Place, _: &str| Verdict::With("http://d/".into());
    let (mut came, mut went) = (
        1,
        editor.push(Bytes::from_static(b"["), &mut replace).unwrap().out[0].len(),
    );
    while came < 1 << 30 {
        came += piece.len();
        went += editor
            .push(piece.clone(), &mut replace)
            .unwrap()
            .out
            .iter()
            .map(Bytes::len)
            .sum::<usize>();
        assert!(came - went < window);
    }
    assert_eq!(
        (came, editor.report().replaced.len()),
        (went, 64),
        "the report is bounded, too"
    );
}

#[test]
fn bombs_stay_small() {
    let deep = "<a>".repeat(1_000_000);
    let envelope = format!("<Envelope xmlns='http://www.w3.org/2003/05/soap-envelope'><Header>{deep}");
    let zeros = format!("{{\"sink\":\"{}", "0".repeat(3_000_000));
    for (kind, plain) in [
        ("text/xml", &envelope),
        ("text/xml", &deep),
        ("application/json", &zeros),
    ] {
        for coding in CODINGS {
            let body = code(coding, plain.as_bytes());
            for overflow in [Overflow::Refuse, Overflow::Pass] {
                let done = run(&rules(overflow), kind, coding, &body, &[3000], &mut |_, _| {
                    Verdict::Keep
                });
                if let Ok(run) = done {
                    assert!(run.held <= 64 * 1024 + 3000, "{}", run.held);
                    assert!(decode(coding, &run.out) == plain.as_bytes());
                }
            }
        }
    }
}
