//! Bytes that are out to do harm, and any bytes at all.

#![allow(clippy::expect_used)]

use std::{path::Path, time::Instant};

use hawser_describe::{DescribeError, Description, Location, MAX_BYTES, Validator, is_description, rewrite};
use proptest::prelude::*;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name),
    )
    .expect(name)
}

fn wsdl(inside: &str) -> String {
    format!(r#"<definitions xmlns="http://schemas.xmlsoap.org/wsdl/">{inside}</definitions>"#)
}

fn error(text: &str) -> DescribeError {
    match Description::parse(text.as_bytes(), None) {
        Err(e) => {
            assert!(e.to_string().len() < 500, "{e}");
            e
        }
        Ok(d) => panic!("read as {:?}", d.summary()),
    }
}

#[test]
fn dtds_and_entities() {
    let bomb = r#"<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>"#;
    assert!(matches!(
        error(&format!("{bomb}{}", wsdl("&b;"))),
        DescribeError::Doctype { .. }
    ));
    let external = r#"<!DOCTYPE d SYSTEM "http://example.org/d.dtd">"#;
    assert!(matches!(
        error(&format!("{external}{}", wsdl(""))),
        DescribeError::Doctype { .. }
    ));
    assert!(matches!(error(&wsdl("&b;")), DescribeError::Entity { name, .. } if name == "b"));
    assert!(matches!(
        error(&wsdl("<import location='&b;'/>")),
        DescribeError::Syntax { .. }
    ));
    assert!(Description::parse(wsdl("&lt;&#x41;&#65;&amp;").as_bytes(), None).is_ok());
}

#[test]
fn size_depth_and_number() {
    assert!(matches!(
        error(&" ".repeat(MAX_BYTES + 1)),
        DescribeError::TooLarge(_)
    ));
    assert!(matches!(
        error(&wsdl(&"<a>".repeat(1_000_000))),
        DescribeError::TooDeep { .. }
    ));
    assert!(matches!(
        error(&wsdl(&"<a/>".repeat(1_000_000))),
        DescribeError::TooMany { .. }
    ));
    let many: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
    assert!(matches!(
        error(&wsdl(&format!("<a{many}/>"))),
        DescribeError::TooMany { .. }
    ));
    let many: String = (0..100_000).map(|n| format!(" xmlns:a{n}='{n}'")).collect();
    let _ = error(&wsdl(&format!("<a{many}/>")));

    let openapi = |key: &str| format!("{{\"openapi\":\"3.0.0\",\"info\":{{}},\"x\":{key}}}");
    assert!(matches!(
        error(&openapi(&"[".repeat(1_000_000))),
        DescribeError::Syntax { .. }
    ));
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    assert!(matches!(error(&openapi(&deep)), DescribeError::TooDeep { .. }));
    let many = format!("[{}1]", "1,".repeat(1_000_000));
    assert!(matches!(error(&openapi(&many)), DescribeError::TooMany { .. }));
    assert!(Description::parse(openapi(&("[".repeat(120) + &"]".repeat(120))).as_bytes(), None).is_ok());

    let yaml = |value: &str| format!("openapi: 3.0.0\ninfo: {{}}\nx: {value}\n");
    let _ = error(&yaml(&deep));
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert!(matches!(error(&yaml(&deep)), DescribeError::TooDeep { .. }));
    let _ = error(&yaml(&"[".repeat(1_000_000)));
    let _ = error(&yaml(&"? ".repeat(1_000_000)));
    let _ = error(&yaml(&"- ".repeat(1_000_000)));
    let _ = error(&yaml(&"!a ".repeat(100_000)));
}

#[test]
fn yaml_aliases() {
    let bomb: String = (1..40)
        .map(|n| format!("  a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1))
        .collect();
    let start = "openapi: 3.0.0\ninfo: {}\n";
    assert!(matches!(
        error(&format!("{start}x:\n  a0: &a0 lol\n{bomb}")),
        DescribeError::TooMany { .. }
    ));
    let long = "a".repeat(1 << 20);
    let repeated = "  - *a\n".repeat(100);
    assert!(matches!(
        error(&format!("{start}x:\n  - &a {long}\n{repeated}")),
        DescribeError::TooMany { .. }
    ));
    let tower: String = (1..200)
        .map(|n| format!("  a{n}: &a{n} [*a{}]\n", n - 1))
        .collect();
    assert!(matches!(
        error(&format!("{start}x:\n  a0: &a0 lol\n{tower}")),
        DescribeError::TooDeep { .. }
    ));
    let _ = error(&format!("{start}x: &a [*a]\n"));
    let _ = error(&format!("{start}x: *nothing\n"));
}

#[test]
fn what_can_be_read_in_two_ways() {
    let twice = r#"{"openapi":"3.0.0","info":{},"servers":[{"url":"http://a","url":"http://b"}]}"#;
    assert!(matches!(error(twice), DescribeError::Duplicate { key, .. } if key == "url"));
    let twice = r#"{"openapi":"3.0.0","info":{},"servers":[{"url":"http://a","\u0075rl":"http://b"}]}"#;
    assert!(matches!(error(twice), DescribeError::Duplicate { .. }));
    assert!(matches!(
        error("openapi: 3.0.0\ninfo: {}\n'info': {}\n"),
        DescribeError::Duplicate { .. }
    ));
    let _ = error("openapi: 3.0.0\ninfo: {}\n---\nopenapi: 3.0.0\n");
    let _ = error(&wsdl("<import location='a' location='b'/>"));
    let _ = error(&(wsdl("") + &wsdl("")));
    let _ = error("<a:definitions xmlns='http://schemas.xmlsoap.org/wsdl/'/>");
    for comment in [
        "{\"openapi\":\"3.0.0\",\"info\":{} /* */}",
        "{\"openapi\":\"3.0.0\",\"info\":{},}",
    ] {
        assert!(
            matches!(error(comment), DescribeError::Syntax { .. }),
            "{comment}"
        );
    }
}

#[test]
fn other_versions_and_other_things() {
    assert!(
        matches!(error("{\"swagger\":\"2.0\",\"info\":{}}"), DescribeError::Version { found, .. } if found.contains("2.0"))
    );
    assert!(matches!(
        error("openapi: 4.0.0\ninfo: {}"),
        DescribeError::Version { .. }
    ));
    assert!(matches!(
        error("<description xmlns='http://www.w3.org/ns/wsdl'/>"),
        DescribeError::Version { .. }
    ));
    assert!(matches!(error("<html/>"), DescribeError::Unknown(_)));
    assert!(matches!(error("hello"), DescribeError::Unknown(_)));
    assert!(matches!(error(""), DescribeError::Unknown(_)));
    assert!(matches!(
        error("{\"openapi\":\"3.0.0\"}"),
        DescribeError::Shape { .. }
    ));
    let bytes: Vec<u8> = wsdl("").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [
        [b"\xff\xfe", bytes.as_slice()].concat(),
        b"{\"a\": \"\xe9\"}".to_vec(),
        b"<a>\xe9</a>".to_vec(),
    ] {
        assert!(matches!(
            Description::parse(&bytes, None),
            Err(DescribeError::Encoding(_))
        ));
    }
}

#[test]
fn single_bytes_and_byte_order_marks_stay() {
    let port = "<service name='a'><port><s:address xmlns:s='http://schemas.xmlsoap.org/wsdl/soap/' location='http://a/'/></port></service>";
    let latin = "<?xml version='1.0' encoding='ISO-8859-1'?><!-- \u{e9} -->".to_owned() + &wsdl(port);
    let latin: Vec<u8> = latin
        .chars()
        .map(|c| u8::try_from(u32::from(c)).expect("Latin-1"))
        .collect();
    let marked = [b"\xef\xbb\xbf".as_slice(), wsdl(port).as_bytes()].concat();
    let json = [
        b"\xef\xbb\xbf".as_slice(),
        br#"{"openapi":"3.0.0","info":{},"servers":[{"url":"http://a/"}]}"#,
    ]
    .concat();
    let yaml = "\u{feff}openapi: 3.0.0\r\ninfo: {title: é}\r\nservers:\r\n- url: http://a/\r\n"
        .as_bytes()
        .to_vec();
    for bytes in [latin, marked, json, yaml] {
        let out = rewrite(&bytes, None, &mut |_, _| Some("http://b/".into())).expect("rewritten");
        let back = rewrite(&out, None, &mut |_, _| Some("http://a/".into())).expect("rewritten");
        assert_eq!(back, bytes);
        assert_ne!(out, bytes);
    }
}

#[test]
fn addresses_in_pieces() {
    let document = |address: &str| {
        let reference = format!(
            "<EndpointReference xmlns='http://www.w3.org/2005/08/addressing'><Address>{address}</Address></EndpointReference>"
        );
        wsdl(&format!("<service name='a'><port>{reference}</port></service>"))
    };
    for (before, value, after) in [
        (
            "<![CDATA[http://a/?b&c]]>",
            "http://a/?b&c",
            "http://new/?d&amp;e",
        ),
        (
            " http://a/<![CDATA[?b&c]]>&amp;d\n",
            "http://a/?b&c&d",
            " http://new/?d&amp;e\n",
        ),
        ("\thttp://a/<!-- c -->b ", "http://a/b", "\thttp://new/?d&amp;e "),
    ] {
        let out = rewrite(document(before).as_bytes(), None, &mut |_, old| {
            assert_eq!(old, value);
            Some("http://new/?d&e".into())
        });
        assert_eq!(String::from_utf8(out.expect("rewritten")), Ok(document(after)));
    }
}

/// Replaces with the n-th address what is asked for, and checks what comes out.
fn check(bytes: &[u8], hint: Option<&str>, keep: u8) {
    let Ok(before) = Description::parse(bytes, hint) else {
        return;
    };
    let summary = before.summary();
    assert_eq!(rewrite(bytes, hint, &mut |_, _| None).as_deref(), Ok(bytes));
    let mut asked = Vec::new();
    let out = rewrite(bytes, hint, &mut |location, old| {
        let new = format!("http://mapped.example/{}?a=b&c=d", asked.len());
        asked.push((location, if keep == 0 { new.clone() } else { old.to_owned() }));
        (keep == 0).then_some(new)
    });
    let Ok(out) = out else {
        assert!(!asked.is_empty(), "refused without an address");
        return;
    };
    let after = Description::parse(&out, hint)
        .expect("what is written can be read")
        .summary();
    let of = |wanted| {
        let mut list: Vec<_> = asked
            .iter()
            .filter(|(l, _)| *l == wanted)
            .map(|(_, a)| a.clone())
            .collect();
        list.dedup();
        list
    };
    if keep == 0 {
        assert_eq!(after.endpoints, of(Location::Endpoint));
        assert_eq!(after.imports, of(Location::Import));
    }
    assert_eq!(after.operations, summary.operations);
    assert_eq!(
        (after.kind, after.title, after.version),
        (summary.kind, summary.title, summary.version)
    );
    let _ = Validator::new(&[before]);
}

/// A piece of a document, so that not every try ends at the first byte.
fn mutated(name: &'static str) -> impl Strategy<Value = (Option<&'static str>, Vec<u8>)> {
    let bytes = read(name);
    let length = bytes.len();
    proptest::collection::vec(
        (
            0..length,
            0..40_usize,
            proptest::collection::vec(any::<u8>(), 0..6),
        ),
        0..4,
    )
    .prop_map(move |edits| {
        let mut out = bytes.clone();
        for (at, cut, put) in edits {
            let at = at.min(out.len());
            let end = (at + cut).min(out.len());
            out.splice(at..end, put);
        }
        (Some(name), out)
    })
}

fn texts() -> impl Strategy<Value = String> {
    "[a-z0-9:/{}'\"&<>#@!|%` -]{0,20}"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), keep in 0..2_u8) {
        for hint in [None, Some("a.yaml")] {
            check(&bytes, hint, keep);
        }
        let _ = is_description(None, &bytes);
    }

    #[test]
    fn damaged_documents(
        (hint, bytes) in prop_oneof![
            mutated("served.wsdl"), mutated("eventing.wsdl"), mutated("orders.yaml"), mutated("streams.json"), mutated("webhooks.yaml"),
        ],
        keep in 0..2_u8,
    ) {
        check(&bytes, hint, keep);
    }

    /// Whatever stands around an address in whatever style, the address alone is replaced.
    #[test]
    fn only_the_address(url in texts(), before in texts(), behind in texts(), style in 0..4_u8) {
        let json = |text: &str| serde_json::Value::from(text).to_string();
        let scalar = match style {
            0 => json(&url),
            1 => format!("'{}'", url.replace('\'', "''")),
            2 => format!("|-\n    {url}"),
            _ => url.clone(),
        };
        let document = |scalar: &str| format!(
            "openapi: 3.0.0\ninfo:\n  title: {}\nservers:\n- description: {}\n  url: {scalar}\n  x-behind: {}\n",
            json(&before), json(&before), json(&behind),
        );
        let bytes = document(&scalar);
        let mut asked = None;
        let out = rewrite(bytes.as_bytes(), Some("yaml"), &mut |_, old| {
            asked = Some(old.to_owned());
            Some("http://mapped.example/a".into())
        });
        match out {
            Ok(out) => {
                let out = String::from_utf8(out).expect("UTF-8");
                let expected = ["\"http://mapped.example/a\"", "'http://mapped.example/a'", "http://mapped.example/a"];
                // Of a plain scalar the parser leaves out white space, and what it takes for a comment.
                let same = expected.iter().any(|new| {
                    let (start, end) = (document(""), document(""));
                    let at = start.find("url: ").expect("there") + 5;
                    out.starts_with(&start[..at]) && out[at..].trim_start().starts_with(new) && out.ends_with(&end[at..])
                });
                prop_assert!(same, "{bytes}\n{out}");
            }
            Err(e) => prop_assert!(
                style > 1 || matches!(e, DescribeError::Unsure),
                "{e}: {bytes}"
            ),
        }
        if style < 2 {
            prop_assert!(asked.is_some());
        }
    }
}

/// A document whose body's schema leads to `count` others in a row, each within the one before by `step`.
fn chain(count: usize, step: &str) -> Description {
    let schemas: String = (0..count)
        .map(|n| {
            let next = format!("{{\"$ref\":\"#/components/schemas/S{}\"}}", n + 1);
            format!("\"S{n}\":{},", step.replace('@', &next))
        })
        .collect();
    let body = r##"{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/S0"}}}}"##;
    let document = format!(
        r#"{{"openapi":"3.1.0","info":{{}},"paths":{{"/":{{"post":{{"requestBody":{body}}}}}}},"components":{{"schemas":{{{schemas}"S{count}":{{}}}}}}}}"#
    );
    Description::parse(document.as_bytes(), None).expect("an OpenAPI document")
}

#[test]
fn long_chains_of_schemas() {
    let start = Instant::now();
    for step in [
        "@",
        r#"{"allOf":[@]}"#,
        r#"{"properties":{"a":@}}"#,
        r#"{"not":@}"#,
    ] {
        let answer = Validator::new(&[chain(40_000, step)]);
        assert!(matches!(answer, Err(DescribeError::Schema { .. })), "{answer:?}");
        let validator = Validator::new(&[chain(4000, step)]).expect("compiles");
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", http::HeaderValue::from_static("application/json"));
        let body = "{\"a\":".repeat(100) + "1" + &"}".repeat(100);
        let _ = validator.request(&http::Method::POST, "/", &headers, body.as_bytes());
    }
    assert!(start.elapsed().as_secs() < 600, "{:?}", start.elapsed());
}
