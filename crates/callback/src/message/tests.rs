//! What is replaced, what is left, what is refused; and that all other bytes stay, however they are cut.

use super::*;
use crate::replace::{Place, Verdict, Why};

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
