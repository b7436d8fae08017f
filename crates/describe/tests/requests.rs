//! Requests held against the documents that `documents.rs` reads.

#![allow(clippy::expect_used)]

use std::path::Path;

use hawser_describe::{DescribeError, Description, Invalid, Validator};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

fn description(name: &str) -> Description {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    Description::parse(&std::fs::read(path).expect(name), Some(name)).expect(name)
}

fn validator(names: &[&str]) -> Validator {
    let all: Vec<_> = names.iter().map(|name| description(name)).collect();
    Validator::new(&all).expect("whole")
}

fn yaml(text: &str) -> Result<Validator, DescribeError> {
    Validator::new(&[Description::parse(text.as_bytes(), None)?])
}

fn ask(v: &Validator, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<(), Invalid> {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        })
        .collect();
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    v.request(&method, path, &headers, body.as_bytes())
}

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

/// Without what other documents declare.
fn orders() -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/orders.yaml");
    let text = std::fs::read_to_string(path).expect("orders.yaml");
    let missing = yaml(&text).map(|_| ());
    let named =
        matches!(&missing, Err(DescribeError::Missing { missing }) if missing.contains("common.yaml"));
    assert!(named, "{missing:?}");
    let alone = text.replace("- $ref: \"common.yaml#/components/parameters/Trace\"", "[]");
    yaml(&alone).expect("whole")
}

/// The status, or 200.
fn status(answer: &Result<(), Invalid>) -> u16 {
    answer.as_ref().err().map_or(200, Invalid::status)
}

#[test]
fn bodies_by_their_schema() {
    let v = orders();
    let post = |body: &str| ask(&v, "POST", "/v1/orders?dry=true", &[JSON], body);
    let order = |line: &str, rest: &str| {
        format!(r#"{{"lines":[{line}],"callback":{{"url":"http://10.0.0.1/cb"}}{rest}}}"#)
    };
    let line = r#"{"article":"AB-12","quantity":1}"#;
    assert_eq!(post(&order(line, "")), Ok(()));
    assert_eq!(
        post(&order(line, r#","note":null,"parent":null"#))
            .err()
            .map(|e| e.status()),
        Some(400)
    );
    assert_eq!(post(&order(line, r#","note":null"#)), Ok(()), "nullable");
    let parent = format!(r#","parent":{}"#, order(line, ""));
    assert_eq!(post(&order(line, &parent)), Ok(()), "a schema within itself");
    for (line, pointer) in [
        (r#"{"article":"AB-12","quantity":0}"#, "/lines/0/quantity"),
        (r#"{"article":"ab","quantity":1}"#, "/lines/0/article"),
        (r#"{"article":"AB-1","quantity":1,"x":"secret"}"#, "/lines/0"),
        ("", "/lines"),
    ] {
        match post(&order(line, "")) {
            Err(Invalid::Body { pointer: found, why }) => {
                assert_eq!(found, pointer, "{why}");
                assert!(!why.contains("secret"), "{why}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    assert_eq!(status(&post("")), 400, "required");
    assert_eq!(status(&post("{")), 400);
    assert_eq!(status(&post(&"[".repeat(100_000))), 400);
    assert_eq!(
        status(&ask(
            &v,
            "POST",
            "/v1/orders",
            &[("content-type", "text/plain")],
            "x"
        )),
        415
    );
    assert_eq!(status(&ask(&v, "POST", "/v1/orders", &[], "x")), 415);
}

#[test]
fn paths_methods_and_parameters() {
    let v = orders();
    let get = |path: &str| status(&ask(&v, "GET", path, &[], ""));
    assert_eq!(get("/v1/orders/7"), 200);
    assert_eq!(get("/orders/7"), 404, "no server without /v1 that has this path");
    assert_eq!(get("/v1/orders/0"), 400, "minimum");
    assert_eq!(get("/v1/orders/seven"), 400);
    assert_eq!(get("/v1/orders/mine"), 200, "a literal segment wins");
    assert_eq!(get("/v1/orders/7/"), 404);
    assert_eq!(get("/v1/orders/7%2f8"), 400, "one segment, but no number");
    assert_eq!(get("/v1/orders/%ff"), 404);
    assert_eq!(get("/v1/orders/7?fields=id,lines&unknown=1"), 200);
    assert_eq!(get("/v1/orders/7?fields=id,secret"), 400);
    assert_eq!(get("/v1/orders"), 405);
    assert_eq!(status(&ask(&v, "DELETE", "/v1/orders/7", &[], "")), 405);
    let preflight = [("access-control-request-method", "POST")];
    assert_eq!(status(&ask(&v, "OPTIONS", "/v1/orders", &preflight, "")), 200);
    assert_eq!(status(&ask(&v, "OPTIONS", "/v1/orders", &[], "")), 405);

    let v = validator(&["streams.json"]);
    let post = |path: &str| status(&ask(&v, "POST", path, &[], ""));
    assert_eq!(post("/api/streams?callbackUrl=http%3A%2F%2F10.0.0.1%2F"), 200);
    assert_eq!(post("/api/streams"), 400, "required");
    assert_eq!(post("/api/streams?callbackUrl=a&callbackUrl=b"), 400, "twice");
}

#[test]
fn openapi_31_with_ids_of_its_own() {
    let v = validator(&["webhooks.yaml"]);
    let post = |body: &str| status(&ask(&v, "POST", "/pets", &[JSON], body));
    assert_eq!(post(r#"{"name":null,"weight":0.1,"kind":"cat"}"#), 200);
    assert_eq!(post(r#"{"name":"","weight":0.1}"#), 400);
    assert_eq!(post(r#"{"name":"Tom","weight":0}"#), 400);
    assert_eq!(
        post(r#"{"name":"Tom","kind":"cow"}"#),
        400,
        "a reference from within a schema with an id"
    );
    assert_eq!(
        status(&ask(&v, "POST", "/pets", &[("content-type", "text/csv")], "a,b")),
        200
    );
}

/// A document with this schema for the body of `POST /`.
fn with_schema(schema: &str, more: &str) -> String {
    format!(
        "openapi: 3.0.0\ninfo: {{title: t, version: '1'}}\npaths: {{/: {{post: {{requestBody: {{content: \
         {{application/json: {{schema: {schema}}}}}}}}}}}}}\ncomponents: {{schemas: {{{more}}}}}\n"
    )
}

#[test]
fn schemas_that_never_end_are_refused() {
    let a = "{$ref: '#/components/schemas/A'}";
    for more in [
        "A: {$ref: '#/components/schemas/A'}",
        "A: {allOf: [{$ref: '#/components/schemas/B'}]}, B: {anyOf: [{not: {$ref: '#/components/schemas/A'}}]}",
    ] {
        let answer = yaml(&with_schema(a, more));
        assert!(
            matches!(answer, Err(DescribeError::Schema { .. })),
            "{more}: {answer:?}"
        );
    }
    assert!(yaml(&with_schema(a, "A: {items: {$ref: '#/components/schemas/A'}}")).is_ok());
    for schema in [
        "{$ref: 'other.yaml#/A'}",
        "{$ref: 'http://example.org/a.json'}",
        "{$ref: '#/nowhere'}",
    ] {
        let answer = yaml(&with_schema(schema, ""));
        assert!(
            matches!(answer, Err(DescribeError::Missing { .. })),
            "{schema}: {answer:?}"
        );
    }
    for schema in ["{type: strange}", "{pattern: '('}", "[]", "{minimum: x}"] {
        let answer = yaml(&with_schema(schema, ""));
        assert!(
            matches!(answer, Err(DescribeError::Schema { .. })),
            "{schema}: {answer:?}"
        );
    }
}

#[test]
fn schemas_that_branch_at_each_reference_compile_once() {
    let level = |n: usize| {
        let next = n + 1;
        format!(
            "S{n}: {{properties: {{a: {{$ref: '#/components/schemas/S{next}'}}, b: {{$ref: '#/components/schemas/S{next}'}}}}}}"
        )
    };
    let more = (0..60)
        .map(level)
        .chain(["S60: {type: string}".into()])
        .collect::<Vec<_>>()
        .join(", ");
    let v = yaml(&with_schema("{$ref: '#/components/schemas/S0'}", &more)).expect("compiles");
    assert_eq!(ask(&v, "POST", "/", &[JSON], r#"{"a":{"b":{"a":{}}}}"#), Ok(()));
}

#[test]
fn patterns_that_backtrack_end() {
    let v = yaml(&with_schema("{type: string, pattern: '^(a+)+\\1$'}", "")).expect("compiles");
    let text = format!("\"{}b\"", "a".repeat(60));
    assert_eq!(status(&ask(&v, "POST", "/", &[JSON], &text)), 400);
}

fn soap11(header: &str, body: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:o="http://example.org/orders"><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    )
}

const XML: (&str, &str) = ("content-type", "text/xml; charset=utf-8");

#[test]
fn soap_by_action_and_body() {
    let v = validator(&["metro.wsdl", "metro.xsd"]);
    let post =
        |action: &str, message: &str| ask(&v, "POST", "/orders", &[XML, ("soapaction", action)], message);
    let submit = soap11("", "<o:submit><customer>x</customer></o:submit>");
    assert_eq!(post("\"http://example.org/orders/submit\"", &submit), Ok(()));
    assert_eq!(post("\"\"", &submit), Ok(()));
    assert_eq!(ask(&v, "POST", "/orders", &[XML], &submit), Ok(()));
    assert_eq!(status(&post("\"http://example.org/orders/other\"", &submit)), 400);
    assert_eq!(
        post(
            "\"http://example.org/orders/Orders/cancel\"",
            &soap11("", "<o:cancel/>")
        ),
        Ok(())
    );
    assert_eq!(status(&post("", &soap11("", "<o:other/>"))), 400);
    assert_eq!(
        status(&post("", &soap11("", "<submit/>"))),
        400,
        "another namespace"
    );
    assert_eq!(status(&post("", &soap11("", ""))), 400);
    assert_eq!(status(&post("", "<x/>")), 400);
    assert_eq!(status(&post("", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>")), 400);
    assert_eq!(status(&post("", &"<a>".repeat(1_000_000))), 400);

    let wsa = |action: &str| {
        soap11(
            &format!(
                r#"<a:Action xmlns:a="http://www.w3.org/2005/08/addressing"> {action} </a:Action><a:To xmlns:a="x"><a:Action/></a:To>"#
            ),
            "<o:submit/>",
        )
    };
    assert_eq!(post("\"\"", &wsa("http://example.org/orders/submit")), Ok(()));
    assert_eq!(
        status(&post("\"\"", &wsa("http://example.org/orders/Orders/cancel"))),
        400
    );
    assert_eq!(
        status(&post(
            "\"http://example.org/orders/submit\"",
            &wsa("http://example.org/orders/Orders/cancel")
        )),
        400,
        "which one counts is anybody's guess"
    );
    let in_12 = submit.replace(
        "http://schemas.xmlsoap.org/soap/envelope/",
        "http://www.w3.org/2003/05/soap-envelope",
    );
    assert_eq!(status(&post("", &in_12)), 400, "not bound");
    assert_eq!(status(&ask(&v, "GET", "/orders?wsdl", &[], "")), 200);
    assert_eq!(status(&ask(&v, "GET", "/orders?xsd=1", &[], "")), 200);
    assert_eq!(status(&ask(&v, "GET", "/orders", &[], "")), 405);
    assert_eq!(status(&ask(&v, "POST", "/orders", &[JSON], "{}")), 415);
}

#[test]
fn soap_with_attachments() {
    let v = validator(&["metro.wsdl"]);
    let message = soap11("", "<o:submit/>");
    let body = |first: &str, second: &str| {
        format!(
            "--b\r\nContent-ID: <1>\r\n\r\n{first}\r\n--b\r\nContent-Id: <2>\r\nX: y\r\n\r\n{second}\r\n--b--\r\n"
        )
    };
    let ask = |kind: &str, body: &str| status(&ask(&v, "POST", "/", &[("content-type", kind)], body));
    let first = r#"multipart/related; type="application/xop+xml"; boundary="b"; start-info="text/xml; x=y""#;
    assert_eq!(ask(first, &body(&message, "picture")), 200);
    assert_eq!(ask(first, &body("picture", &message)), 400);
    assert_eq!(
        ask(&format!("{first}; start=\"<2>\""), &body("picture", &message)),
        200
    );
    assert_eq!(ask("multipart/related", &body(&message, "")), 400);
}

#[test]
fn rpc_and_imported_interfaces() {
    let v = validator(&["gsoap.wsdl"]);
    let post = |body: &str| status(&ask(&v, "POST", "/calc", &[XML], &soap11("", body)));
    assert_eq!(
        post(r#"<add xmlns="urn:calc"><a>1</a></add>"#),
        200,
        "parts=\"Body\" names no part"
    );
    assert_eq!(post("<add/>"), 400);
    let v = validator(&["spyne.wsdl"]);
    let message = soap11("", r#"<forecast xmlns="urn:example:weather"/>"#);
    assert_eq!(
        ask(&v, "POST", "/", &[XML, ("soapaction", "forecast")], &message),
        Ok(())
    );
    assert_eq!(
        status(&ask(&v, "POST", "/", &[XML, ("soapaction", "report")], &message)),
        400
    );

    let alone = Validator::new(&[description("served.wsdl")]);
    assert!(
        matches!(&alone, Err(DescribeError::Missing { missing }) if missing.contains("{http://example.org/stock/api}Stock")),
        "{alone:?}"
    );
    let v = validator(&["served.wsdl", "stock.wsdl"]);
    let message = soap11("", r#"<level xmlns="http://example.org/stock"/>"#);
    assert_eq!(
        ask(
            &v,
            "POST",
            "/stock",
            &[XML, ("soapaction", "\"urn:stock:level\"")],
            &message
        ),
        Ok(())
    );
    let message = message.replace(
        "http://schemas.xmlsoap.org/soap/envelope/",
        "http://www.w3.org/2003/05/soap-envelope",
    );
    let kind = |action: &str| format!("application/soap+xml; charset=utf-8; action=\"{action}\"");
    assert_eq!(
        ask(
            &v,
            "POST",
            "/stock",
            &[("content-type", &kind("urn:stock:level"))],
            &message
        ),
        Ok(())
    );
    assert_eq!(
        status(&ask(
            &v,
            "POST",
            "/stock",
            &[("content-type", &kind("urn:other"))],
            &message
        )),
        400
    );
}

#[test]
fn events_are_not_for_their_source() {
    let v = validator(&["eventing.wsdl"]);
    let message = |body: &str| {
        soap11("", body).replace(
            "http://schemas.xmlsoap.org/soap/envelope/",
            "http://www.w3.org/2003/05/soap-envelope",
        )
    };
    let post = |body: &str| {
        status(&ask(
            &v,
            "POST",
            "/",
            &[("content-type", "application/soap+xml")],
            &message(body),
        ))
    };
    assert_eq!(
        post(r#"<Subscribe xmlns="http://schemas.xmlsoap.org/ws/2004/08/eventing"/>"#),
        200
    );
    assert_eq!(
        post(r#"<Unsubscribe xmlns="http://schemas.xmlsoap.org/ws/2004/08/eventing"/>"#),
        200
    );
    assert_eq!(post(r#"<wind xmlns="urn:example:storms"/>"#), 400);
    assert_eq!(
        post(r#"<CreateSequence xmlns="http://docs.oasis-open.org/ws-rx/wsrm/200702"/>"#),
        200
    );
}
