//! What is replaced, what is left, what is refused; and that all other bytes stay, however they are cut.

use super::*;
use crate::replace::{Place, SubscriptionStep, Verdict, Why};

const WSA: &str = "http://www.w3.org/2005/08/addressing";
const OLD: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
const SOAP11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SOAP12: &str = "http://www.w3.org/2003/05/soap-envelope";

/// An editor for a body of this type.
fn editor(rules: &Rules, content_type: &str, coding: Option<&str>) -> Editor {
    match Editor::plan(rules, Direction::Request, Some(content_type), coding, None) {
        Plan::Edit(editor) => editor,
        other => panic!("{other:?}"),
    }
}

/// Pushes a body in pieces of `step` bytes. What came out, its report, and where it was settled.
fn run(editor: Editor, body: &[u8], step: usize) -> Result<(Vec<u8>, Report), Refusal> {
    run_with(editor, body, step, &mut |_: &Place, a: &str| {
        Verdict::With(a.replace("http://client", "http://gw/.hawser/cb"))
    })
}

fn run_with(
    mut editor: Editor,
    body: &[u8],
    step: usize,
    replace: &mut dyn Replace,
) -> Result<(Vec<u8>, Report), Refusal> {
    let (mut out, mut settled) = (Vec::new(), None);
    for chunk in body.chunks(step.max(1)) {
        for bytes in editor.push(Bytes::copy_from_slice(chunk), replace)?.out {
            out.extend_from_slice(&bytes);
        }
        settled = settled.or(editor.settled());
        assert_eq!(editor.settled(), settled, "what is settled stays so");
    }
    for bytes in editor.end(replace)?.out {
        out.extend_from_slice(&bytes);
    }
    let delta = editor.settled().expect("settled at the end");
    assert_eq!(
        body.len() as i64 + delta,
        out.len() as i64,
        "the delta is the difference"
    );
    assert_eq!(settled.unwrap_or(delta), delta);
    Ok((out, editor.into_report()))
}

fn envelope(soap: &str, wsa: &str, header: &str, body: &str) -> String {
    format!(
        "<?xml version='1.0' encoding=\"utf-8\"?>\n<s:Envelope xmlns:s=\"{soap}\" xmlns:wsa='{wsa}'>\
         <s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>\n"
    )
}

fn soap(header: &str, body: &str) -> String {
    envelope(SOAP12, WSA, header, body)
}

#[test]
fn addressing_headers_of_all_versions() {
    for (s, wsa) in [(SOAP11, WSA), (SOAP11, OLD), (SOAP12, WSA), (SOAP12, OLD)] {
        let body = envelope(
            s,
            wsa,
            "<wsa:To> http://orders.beta/ </wsa:To><wsa:MessageID>urn:1</wsa:MessageID><wsa:Action>urn:go</wsa:Action>\
             <wsa:ReplyTo a='>'>\n<wsa:Address>\n http://client:80/a?x=1&amp;y=2 </wsa:Address></wsa:ReplyTo>\
             <wsa:FaultTo><wsa:Address><![CDATA[http://client/f?a&b]]></wsa:Address></wsa:FaultTo><wsa:RelatesTo>urn:0</wsa:RelatesTo>",
            "<x>http://client/ &#x20;</x>",
        );
        for step in [1, 2, 7, 100, 100_000] {
            let editor = editor(&Rules::default(), "text/xml; charset=utf-8", None);
            let (out, report) = run(editor, body.as_bytes(), step).unwrap();
            let expected = body
                .replace("http://client:80/a", "http://gw/.hawser/cb:80/a")
                .replace(
                    "<![CDATA[http://client/f?a&b]]>",
                    "http://gw/.hawser/cb/f?a&amp;b",
                );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            let facts = report.soap.unwrap();
            assert_eq!(
                (facts.message_id.as_deref(), facts.action.as_deref()),
                (Some("urn:1"), Some("urn:go"))
            );
            assert_eq!(
                (facts.relates_to, facts.operation.as_deref()),
                (vec!["urn:0".to_owned()], Some("x"))
            );
            assert_eq!(facts.to.as_deref(), Some("http://orders.beta/"));
            assert_eq!(report.replaced.len(), 2);
            assert_eq!(report.replaced[0].from, "http://client:80/a?x=1&y=2");
            assert_eq!(
                (&report.replaced[1].place, &report.left[0].why),
                (&Place::FaultTo, &Why::Kept)
            );
        }
    }
}

#[test]
fn anonymous_and_signed_are_left() {
    let body = soap(
        "<wsa:ReplyTo><wsa:Address>http://www.w3.org/2005/08/addressing/anonymous</wsa:Address></wsa:ReplyTo>\
         <wsa:FaultTo><wsa:Address>http://client/</wsa:Address></wsa:FaultTo>\
         <w:Security xmlns:w='http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd'>\
         <Signature xmlns='http://www.w3.org/2000/09/xmldsig#'/></w:Security>",
        "<e:Subscribe xmlns:e='http://schemas.xmlsoap.org/ws/2004/08/eventing'><e:EndTo><wsa:Address>http://client/e</wsa:Address></e:EndTo></e:Subscribe>",
    );
    let (out, report) = run(
        editor(&Rules::default(), "application/soap+xml", None),
        body.as_bytes(),
        9,
    )
    .unwrap();
    assert_eq!(out, body.as_bytes());
    let left: Vec<_> = report
        .left
        .into_iter()
        .map(|l| (l.place.unwrap(), l.why))
        .collect();
    assert_eq!(
        left,
        [
            (Place::ReplyTo, Why::Anonymous),
            (Place::FaultTo, Why::Signed),
            (Place::EndTo, Why::Signed)
        ]
    );
    assert!(report.soap.unwrap().signed);
}

#[test]
fn what_is_said_of_a_subscription() {
    let told = |header: &str, body: &str| {
        let body = soap(header, body);
        let editor = editor(&Rules::default(), "application/soap+xml", None);
        let (_, report) = run(editor, body.as_bytes(), 11).unwrap();
        report.soap.unwrap().subscription
    };
    for ns in [
        "http://schemas.xmlsoap.org/ws/2004/08/eventing",
        "http://www.w3.org/2011/03/ws-evt",
    ] {
        let made = told(
            "<x:Trace xmlns:x='urn:x'>1</x:Trace>",
            &format!(
                "<e:SubscribeResponse xmlns:e='{ns}'><e:SubscriptionManager>\
                 <wsa:Address>http://src/manager</wsa:Address><wsa:ReferenceParameters>\
                 <e:Identifier>urn:7</e:Identifier><y:desk xmlns:y='urn:y'><y:n>9</y:n></y:desk>\
                 </wsa:ReferenceParameters></e:SubscriptionManager><e:Expires>PT10M</e:Expires></e:SubscribeResponse>"
            ),
        )
        .unwrap();
        assert_eq!(made.step, SubscriptionStep::Subscribed);
        assert_eq!(made.manager.as_deref(), Some("http://src/manager"));
        assert_eq!(made.references, ["Identifier=urn:7", "n=9"]);
        assert_eq!(made.expires.as_deref(), Some("PT10M"));
        let renewed = told(
            &format!("<e:Identifier xmlns:e='{ns}'> urn:7 </e:Identifier><y:desk xmlns:y='urn:y'><y:n>9</y:n></y:desk>"),
            &format!("<e:Renew xmlns:e='{ns}'><e:Expires>PT20M</e:Expires></e:Renew>"),
        )
        .unwrap();
        assert_eq!(renewed.step, SubscriptionStep::Renew);
        assert_eq!(renewed.references, ["Identifier=urn:7", "n=9"]);
        assert_eq!(renewed.expires.as_deref(), Some("PT20M"));
        let ended = told("", &format!("<e:Unsubscribe xmlns:e='{ns}'/>")).unwrap();
        assert_eq!(ended.step, SubscriptionStep::Unsubscribe);
    }
    assert_eq!(told("", "<Renew xmlns='urn:other'/>"), None);
    let many = "<x:H xmlns:x='urn:x'>v</x:H>".repeat(40);
    let many = told(
        &many,
        "<e:Unsubscribe xmlns:e='http://www.w3.org/2011/03/ws-evt'/>",
    )
    .unwrap();
    assert_eq!(many.references.len(), 16);
}

#[test]
fn endpoint_references_in_bodies() {
    let cases = [
        (
            "http://schemas.xmlsoap.org/ws/2004/08/eventing",
            "Subscribe",
            "Delivery",
            "NotifyTo",
            Place::NotifyTo,
        ),
        (
            "http://www.w3.org/2011/03/ws-evt",
            "Subscribe",
            "Delivery",
            "NotifyTo",
            Place::NotifyTo,
        ),
        (
            "http://schemas.xmlsoap.org/ws/2004/08/eventing",
            "SubscribeResponse",
            "X",
            "SubscriptionManager",
            Place::SubscriptionManager,
        ),
        (
            "http://docs.oasis-open.org/ws-rx/wsrm/200702",
            "CreateSequence",
            "Y",
            "AcksTo",
            Place::AcksTo,
        ),
        (
            "http://docs.oasis-open.org/wsn/b-2",
            "Subscribe",
            "Z",
            "ConsumerReference",
            Place::Endpoint("ConsumerReference".into()),
        ),
        (
            "urn:mine",
            "Register",
            "Z",
            "Watcher",
            Place::Endpoint("Watcher".into()),
        ),
    ];
    for (space, operation, middle, name, place) in cases {
        let body = soap(
            "",
            &format!(
                "<e:{operation} xmlns:e='{space}'><e:{middle}><e:{name}><wsa:Address>http://client/n</wsa:Address></e:{name}></e:{middle}></e:{operation}>"
            ),
        );
        for step in [1, 64, 5000] {
            let (out, report) = run(
                editor(&Rules::default(), "application/soap+xml", None),
                body.as_bytes(),
                step,
            )
            .unwrap();
            assert_eq!(
                String::from_utf8(out).unwrap(),
                body.replace("http://client", "http://gw/.hawser/cb")
            );
            assert_eq!(report.replaced[0].place, place);
        }
    }
}

#[test]
fn a_large_body_is_settled_at_the_window() {
    let body = soap(
        "<wsa:ReplyTo><wsa:Address>http://client/</wsa:Address></wsa:ReplyTo>",
        &format!("<x>{}</x>", "y".repeat(1 << 20)),
    );
    let mut editor = editor(&Rules::default(), "text/xml", None);
    let mut replace = |_: &Place, _: &str| Verdict::With("http://g/".into());
    let mut at = 0;
    for chunk in body.as_bytes().chunks(4096) {
        at += chunk.len();
        editor.push(Bytes::copy_from_slice(chunk), &mut replace).unwrap();
        if editor.settled().is_some() {
            break;
        }
    }
    assert_eq!((editor.settled(), at), (Some(-5), 256 * 1024));
}

#[test]
fn what_is_hostile_is_refused() {
    let refused = |content_type: &str, body: &[u8]| {
        run(editor(&Rules::default(), content_type, None), body, 1000).unwrap_err()
    };
    let bomb = b"<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY lol 'lol'><!ENTITY l2 '&lol;&lol;'>]><lolz>&l2;</lolz>";
    assert_eq!(refused("text/xml", bomb), Refusal::Dtd);
    assert_eq!(
        refused(
            "text/xml",
            b"<!DOCTYPE s:Envelope SYSTEM 'http://evil/'><s:Envelope/>"
        ),
        Refusal::Dtd
    );
    let header = |inner: &str| soap(&format!("<wsa:To>{inner}</wsa:To>"), "");
    assert_eq!(refused("text/xml", header("&xxe;").as_bytes()), Refusal::Entity);
    assert_eq!(
        refused("text/xml", soap("<a b='&xxe;'/>", "").as_bytes()),
        Refusal::Entity
    );
    assert!(matches!(
        refused("text/xml", header("a & b").as_bytes()),
        Refusal::Malformed(_)
    ));
    let deep = soap(&"<a>".repeat(1_000_000), "");
    assert_eq!(refused("text/xml", deep.as_bytes()), Refusal::Depth { limit: 64 });
    let long = soap(&format!("<a b='{}'/>", "x".repeat(300_000)), "");
    assert!(matches!(
        refused("text/xml", long.as_bytes()),
        Refusal::TooLarge { .. }
    ));
    for utf16 in [&b"\xff\xfe<\0a\0"[..], b"\0<\0a\0/\0>", b"<\0a\0>\0"] {
        assert_eq!(refused("text/xml", utf16), Refusal::Charset("UTF-16".into()));
    }
    assert_eq!(
        refused("text/xml", b"<?xml version='1.0' encoding='utf-16'?><a/>"),
        Refusal::Charset("utf-16".into())
    );
    assert!(matches!(
        refused("text/xml", soap("<a></b>", "").as_bytes()),
        Refusal::Malformed(_)
    ));
    assert!(matches!(
        refused("text/xml", &soap("<a/>", "").as_bytes()[..180]),
        Refusal::Malformed(_)
    ));
}

#[test]
fn what_cannot_be_read_passes_where_the_rules_say_so() {
    let rules = Rules {
        overflow: Overflow::Pass,
        ..Rules::default()
    };
    let pass = |body: &[u8]| {
        let (out, report) = run(editor(&rules, "text/xml", None), body, 1000).unwrap();
        assert!(out == body, "as it came");
        report.left.last().unwrap().why.clone()
    };
    assert_eq!(
        pass(soap(&"<a>".repeat(1_000_000), "").as_bytes()),
        Why::Unread(Refusal::Depth { limit: 64 })
    );
    let long = soap(&format!("<a b='{}'/>", "x".repeat(300_000)), "");
    assert!(matches!(
        pass(long.as_bytes()),
        Why::Unread(Refusal::TooLarge { .. })
    ));
    assert!(matches!(
        pass(b"\xff\xfe<\0a\0"),
        Why::Unread(Refusal::Charset(_))
    ));
    let plan = Editor::plan(
        &rules,
        Direction::Request,
        Some("text/xml"),
        Some("compress"),
        None,
    );
    assert!(matches!(plan, Plan::Edit(e) if e.settled() == Some(0) && e.report().left.len() == 1));
    let bomb = b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>";
    assert_eq!(
        run(editor(&rules, "text/xml", None), bomb, 5).unwrap_err(),
        Refusal::Dtd
    );
}

#[test]
fn other_xml_and_nothing_pass() {
    for body in [
        "",
        "  \n ",
        "<feed xmlns='http://www.w3.org/2005/Atom'><id>http://client/</id></feed>",
        "no xml at all",
        "<!DOCTYPE html PUBLIC 'x' 'y'><html/>",
        "\u{feff}<a/>",
    ] {
        for step in [1, 1000] {
            let (out, report) =
                run(editor(&Rules::default(), "text/xml", None), body.as_bytes(), step).unwrap();
            assert_eq!((out, report), (body.as_bytes().to_vec(), Report::default()));
        }
    }
}

/// Rules for everything but SOAP.
fn named() -> Rules {
    Rules {
        json: ["/callbackUrl", "/hooks/*/url", "/list/1", "/*/deep/a~1b"]
            .map(|p| p.parse().unwrap())
            .into(),
        form: vec!["callback".into(), "a b".into()],
        cloudevents: true,
        ..Rules::default()
    }
}

#[test]
fn json_members() {
    let body = r#"{ "callbackUrl" : "http:\/\/client\/a?\u0078" , "callback\u0055rl":"http://client/b","x":{"callbackUrl":"http://client/no"},
        "hooks":[{"url":"http://client/1"},{"url":"http://client/2","urls":["http://client/no"]},7,"http://client/no"],
        "list":["http://client/no","http://client/3","http://client/no"], "z":{"deep":{"a/b":"http://client/4"}},
        "sink":"http://client/5", "callbackUrl":{"a":["}\"\\"]}, "callbackUrl": null, "e":"\\", "callbackUrl":"client" }"#;
    let expected = body
        .replace(r#""http:\/\/client\/a?\u0078""#, r#""http://gw/.hawser/cb/a?x""#)
        .replace("http://client/no", "KEEP")
        .replace("http://client", "http://gw/.hawser/cb")
        .replace("KEEP", "http://client/no");
    for step in [1, 2, 3, 50, 10_000] {
        let (out, report) = run(editor(&named(), "application/json", None), body.as_bytes(), step).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let whys: Vec<_> = report.left.iter().map(|l| l.why.clone()).collect();
        assert_eq!(
            (report.replaced.len(), whys),
            (7, vec![Why::NotText, Why::NotText, Why::NotHttp])
        );
        assert_eq!(report.replaced.last().unwrap().place, Place::Sink);
    }
    let list = r#"[{"sink":"http://client/"},{"source":"http://client/"}]"#;
    let (out, _) = run(editor(&named(), "application/json", None), list.as_bytes(), 4).unwrap();
    assert_eq!(
        out,
        list.replacen("http://client", "http://gw/.hawser/cb", 1)
            .as_bytes()
    );
}

#[test]
fn json_that_no_pointer_leads_into_is_settled_at_once() {
    let rules = Rules {
        cloudevents: false,
        json: vec!["/a".parse().unwrap()],
        ..Rules::default()
    };
    let mut editor = editor(&rules, "application/vnd.x+json; charset=utf-8", None);
    editor
        .push(Bytes::from_static(b" [ {"), &mut |_: &Place, _: &str| {
            Verdict::Keep
        })
        .unwrap();
    assert_eq!(editor.settled(), Some(0));
}

#[test]
fn hostile_json() {
    let refused = |body: &[u8]| run(editor(&named(), "application/json", None), body, 4096).unwrap_err();
    assert_eq!(refused(&b"[".repeat(1_000_000)), Refusal::Depth { limit: 1024 });
    assert_eq!(
        refused("{\"a\":".repeat(1_000_000).as_bytes()),
        Refusal::Depth { limit: 1024 }
    );
    assert!(matches!(refused(b"{]"), Refusal::Malformed(_)));
    let long = format!("{{\"sink\":\"{}\"}}", "a".repeat(300_000));
    assert!(matches!(refused(long.as_bytes()), Refusal::TooLarge { .. }));
    assert!(matches!(refused(b"\0{\0}"), Refusal::Charset(_)));
    let rules = Rules {
        overflow: Overflow::Pass,
        ..named()
    };
    for body in [
        long,
        "{\"sink\":\"http://client/\",\"b\":".to_owned() + &"[".repeat(10_000),
    ] {
        let (out, report) = run(editor(&rules, "application/json", None), body.as_bytes(), 100).unwrap();
        assert_eq!(
            out,
            body.replace("http://client/", "http://gw/.hawser/cb/").as_bytes()
        );
        assert!(matches!(report.left[0].why, Why::Unread(_)));
    }
}

#[test]
fn form_fields() {
    let body = "x=http%3A%2F%2Fclient%2F&callback=http%3A%2F%2Fclient%2Fa%3Fb%3D1&a+b=http://client/c&&callback&callback=&%63allback=http%3a//client";
    let expected = "x=http%3A%2F%2Fclient%2F&callback=http%3A%2F%2Fgw%2F.hawser%2Fcb%2Fa%3Fb%3D1&a+b=http%3A%2F%2Fgw%2F.hawser%2Fcb%2Fc&&callback&callback=&%63allback=http%3A%2F%2Fgw%2F.hawser%2Fcb";
    for step in [1, 5, 1000] {
        let (out, report) = run(
            editor(&named(), "application/x-www-form-urlencoded", None),
            body.as_bytes(),
            step,
        )
        .unwrap();
        assert_eq!(
            (String::from_utf8(out).unwrap().as_str(), report.replaced.len()),
            (expected, 3)
        );
    }
}

#[test]
fn multipart_root_parts() {
    let xml = soap(
        "<wsa:ReplyTo><wsa:Address>http://client/</wsa:Address></wsa:ReplyTo>",
        "<x/>",
    );
    let attachment = format!(
        "--b\r\nContent-ID: <other>\r\n\r\nhttp://client/ <wsa:Address>{}\r\n",
        "\0<".repeat(100)
    );
    let root = format!(
        "--b\r\nContent-Type: application/xop+xml; charset=UTF-8; type=\"text/xml\"\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <root>\r\n\r\n{xml}\r\n"
    );
    for (body, start) in [
        (format!("{root}{attachment}--b--"), ""),
        (
            format!("preamble\r\n{attachment}{root}--b--\r\n"),
            "; start=\"<root>\"",
        ),
    ] {
        let expected = body.replacen(
            "<wsa:ReplyTo><wsa:Address>http://client",
            "<wsa:ReplyTo><wsa:Address>http://gw/.hawser/cb",
            1,
        );
        let content_type = format!("multipart/related; boundary=b; type=\"application/xop+xml\"{start}");
        for step in [1, 13, 100_000] {
            let (out, report) = run(
                editor(&Rules::default(), &content_type, None),
                body.as_bytes(),
                step,
            )
            .unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            assert_eq!(report.replaced.len(), 1);
        }
    }
    let base64 = "--b\r\nContent-Type: text/xml\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--b--";
    let refused = run(
        editor(&Rules::default(), "multipart/related; boundary=b", None),
        base64.as_bytes(),
        7,
    );
    assert_eq!(refused.unwrap_err(), Refusal::Coding("base64".into()));
    for other in [
        "--b\r\n\r\n{}\r\n--b--",
        "",
        "--b--",
        "no delimiter",
        "--b\r\nContent-Type: image/png\r\n\r\n\r\n--b--",
    ] {
        let (out, _) = run(
            editor(&Rules::default(), "multipart/related; boundary=b", None),
            other.as_bytes(),
            3,
        )
        .unwrap();
        assert_eq!(out, other.as_bytes());
    }
}

/// `plain` in a coding, by the library's own one-shot function.
fn code(coding: &str, plain: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    match coding {
        "gzip" => {
            let mut all = Vec::new();
            // Two members: a gzip file may have any number.
            for part in [&plain[..plain.len() / 2], &plain[plain.len() / 2..]] {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(part).unwrap();
                all.extend(encoder.finish().unwrap());
            }
            all
        }
        "br" => {
            let mut all = Vec::new();
            brotli::CompressorReader::new(plain, 4096, 9, 20)
                .read_to_end(&mut all)
                .unwrap();
            all
        }
        _ => zstd::encode_all(plain, 12).unwrap(),
    }
}

fn decode(coding: &str, coded: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut all = Vec::new();
    match coding {
        "gzip" => flate2::read::MultiGzDecoder::new(coded)
            .read_to_end(&mut all)
            .unwrap(),
        "br" => brotli::Decompressor::new(coded, 4096)
            .read_to_end(&mut all)
            .unwrap(),
        _ => zstd::stream::read::Decoder::new(coded)
            .unwrap()
            .read_to_end(&mut all)
            .unwrap(),
    };
    all
}

const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

#[test]
fn coded_bodies() {
    let header = "<wsa:ReplyTo><wsa:Address>http://client/</wsa:Address></wsa:ReplyTo>";
    for coding in CODINGS {
        for (plain, replaced) in [
            (soap(header, "<x/>"), true),
            (soap(header, &"<x>y</x>".repeat(100_000)), true),
            (soap("", &format!("<x>{}</x>", "y".repeat(500_000))), false),
            ("<a/>".to_owned(), false),
        ] {
            let body = code(coding, plain.as_bytes());
            for step in [1, 100, 1 << 20] {
                let (out, report) =
                    run(editor(&Rules::default(), "text/xml", Some(coding)), &body, step).unwrap();
                assert_eq!(report.changed(), replaced);
                if replaced {
                    assert_eq!(
                        decode(coding, &out),
                        plain.replace("http://client", "http://gw/.hawser/cb").as_bytes()
                    );
                } else {
                    assert!(out == body, "as it came");
                }
            }
        }
        let plan = editor(&Rules::default(), "text/xml", Some(coding));
        assert_eq!(run(plan, b"", 1).unwrap(), (Vec::new(), Report::default()));
    }
}

#[test]
fn coded_bodies_beyond_the_window_are_coded_anew() {
    let plain = format!(
        "{{\"a\":\"{}\",\"sink\":\"http://client/\"}}",
        "y".repeat(2_000_000)
    );
    for coding in CODINGS {
        let (out, report) = run(
            editor(&named(), "application/json", Some(coding)),
            &code(coding, plain.as_bytes()),
            700,
        )
        .unwrap();
        assert!(report.changed());
        assert!(decode(coding, &out) == plain.replace("http://client", "http://gw/.hawser/cb").as_bytes());
    }
}

#[test]
fn broken_codings() {
    let coded = |coding| code(coding, soap("", &"<x>1</x>".repeat(9)).as_bytes());
    for coding in CODINGS {
        let whole = coded(coding);
        let mut flipped = whole.clone();
        flipped[0] ^= 0x55;
        // The end may be cut where nothing matters any more, so the beginning is cut off as well.
        for body in [&whole[..12], &flipped] {
            let refused = run(editor(&Rules::default(), "text/xml", Some(coding)), body, 5);
            assert!(
                matches!(refused, Err(Refusal::Malformed(_))),
                "{coding}: {refused:?}"
            );
            let rules = Rules {
                overflow: Overflow::Pass,
                ..Rules::default()
            };
            let (out, report) = run(editor(&rules, "text/xml", Some(coding)), body, 5).unwrap();
            assert_eq!((&out[..], report.left.len()), (body, 1));
        }
    }
    assert!(matches!(
        Editor::plan(
            &Rules::default(),
            Direction::Request,
            Some("text/xml"),
            Some("gzip, br"),
            None
        ),
        Plan::Refuse(Refusal::Coding(_))
    ));
}
