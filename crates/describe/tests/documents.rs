//! Documents as tools write them: `metro.*` is from Metro's wsgen, `gsoap.wsdl` from soapcpp2, `spyne.wsdl` from spyne; the others have the
//! shapes that are found in the wild beside them.

#![allow(clippy::expect_used)]

use std::path::Path;

use hawser_describe::{
    DescribeError, Description, Kind, Location, Place, Summary, callbacks, is_description, rewrite,
};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name),
    )
    .expect(name)
}

fn summary(name: &str) -> Summary {
    Description::parse(&read(name), Some(name)).expect(name).summary()
}

const ALL: [&str; 9] = [
    "metro.wsdl",
    "metro.xsd",
    "gsoap.wsdl",
    "spyne.wsdl",
    "served.wsdl",
    "eventing.wsdl",
    "orders.yaml",
    "streams.json",
    "webhooks.yaml",
];

/// Replaces by asking, and checks that everything else is as it was: put back, the old values give the old bytes.
fn moved(name: &str, map: &mut dyn FnMut(Location, &str) -> Option<String>) -> String {
    let out = rewrite(&read(name), Some(name), map).expect(name);
    String::from_utf8(out).expect("it was UTF-8")
}

#[test]
fn metro() {
    let s = summary("metro.wsdl");
    assert_eq!(s.kind, Kind::Wsdl);
    assert_eq!(s.title.as_deref(), Some("OrdersService"));
    assert_eq!(s.version.as_deref(), Some("http://example.org/orders"));
    assert_eq!(s.endpoints, ["REPLACE_WITH_ACTUAL_URL"]);
    assert_eq!(s.imports, ["OrdersService_schema1.xsd"]);
    let found: Vec<_> = s
        .operations
        .iter()
        .map(|o| (o.name.as_str(), o.one_way, o.callback))
        .collect();
    assert_eq!(found, [("submit", false, false), ("cancel", true, false)]);
    assert_eq!(summary("metro.xsd").kind, Kind::XmlSchema);
}

#[test]
fn gsoap_and_spyne() {
    let s = summary("gsoap.wsdl");
    assert_eq!(s.endpoints, ["http://calc.example.org/calc"]);
    assert!(
        s.imports.is_empty(),
        "an import without a location names no document"
    );
    let found: Vec<_> = s
        .operations
        .iter()
        .map(|o| (o.name.as_str(), o.one_way))
        .collect();
    assert_eq!(found, [("add", false), ("sub", false), ("note", true)]);
    let s = summary("spyne.wsdl");
    assert_eq!(s.title.as_deref(), Some("Weather"));
    assert_eq!(s.endpoints, ["http://weather.example.org:8000/weather"]);
    assert_eq!(s.operations.len(), 2);
}

#[test]
fn served_by_metro_with_imports() {
    let s = summary("served.wsdl");
    assert_eq!(
        s.endpoints,
        [
            "http://stock.example.org:8080/stock",
            "http://stock.example.org:8080/stock12?a=1&b=2"
        ]
    );
    assert_eq!(
        s.imports,
        [
            "http://stock.example.org:8080/stock?wsdl=Stock.wsdl&v=2",
            "http://stock.example.org:8080/stock?xsd=1",
            "more.xsd",
            "../old.xsd"
        ]
    );
    assert_eq!(
        s.operations.len(),
        1,
        "bound twice, declared elsewhere: {:?}",
        s.operations
    );

    let out = moved("served.wsdl", &mut |location, old| {
        assert_eq!(
            location == Location::Import,
            old.contains("?wsdl") || old.contains("xsd"),
            "{old}"
        );
        old.strip_prefix("http://stock.example.org:8080")
            .map(|rest| format!("http://stock.acme.hawser{rest}"))
    });
    let before = String::from_utf8(read("served.wsdl")).expect("UTF-8");
    assert_eq!(
        out,
        before.replace("http://stock.example.org:8080", "http://stock.acme.hawser")
    );
}

#[test]
fn eventing() {
    let s = summary("eventing.wsdl");
    let callbacks: Vec<_> = s
        .operations
        .iter()
        .filter(|o| o.callback)
        .map(|o| o.name.as_str())
        .collect();
    assert_eq!(callbacks, ["WindOp", "SubscriptionEndOp"]);
    assert!(s.operations.iter().filter(|o| o.callback).all(|o| o.one_way));
    assert_eq!(s.operations.len(), 5);
    assert_eq!(s.endpoints.len(), 2);
}

#[test]
fn yaml_with_servers_everywhere() {
    let s = summary("orders.yaml");
    assert_eq!(s.kind, Kind::OpenApi30);
    assert_eq!(s.title.as_deref(), Some("Bestellungen für alle"));
    assert_eq!(s.version.as_deref(), Some("1.4"));
    assert_eq!(
        s.endpoints,
        [
            "https://eu.example.org:8443/v1",
            "http://localhost:8080/v1",
            "https://folded.example.org/v1",
            "https://flow.example.org/v1",
            "/relative/v1",
            "https://paths.example.org/v1",
            "https://operation.example.org/v1",
            "https://links.example.org/v1",
        ]
    );
    assert_eq!(s.imports, ["common.yaml", "./schemas/order.json"]);
    let found: Vec<_> = s
        .operations
        .iter()
        .map(|o| (o.name.as_str(), o.one_way, o.callback))
        .collect();
    assert_eq!(
        found,
        [
            ("placeOrder", true, false),
            ("orderShipped", false, true),
            ("orderLost", false, true),
            ("GET /orders/{id}", false, false),
            ("myOrders", false, false),
        ]
    );

    let mut asked = 0;
    let out = moved("orders.yaml", &mut |location, old| {
        asked += 1;
        match location {
            Location::Endpoint => Some(format!("http://orders.acme.hawser/{asked}")),
            Location::Import => Some(format!(
                "http://orders.acme.hawser/{}",
                old.trim_start_matches("./")
            )),
        }
    });
    let before = String::from_utf8(read("orders.yaml")).expect("UTF-8");
    let expected = before
        .replace(
            "https://{region}.example.org:{port}/v1",
            "http://orders.acme.hawser/1",
        )
        .replace("http://localhost:8080/v1", "http://orders.acme.hawser/2")
        .replace(
            ">-  # > folded\n      https://folded.example.org/v1",
            "\"http://orders.acme.hawser/3\"",
        )
        .replace("https://flow.example.org/v1", "http://orders.acme.hawser/4")
        .replace("url: /relative/v1", "url: http://orders.acme.hawser/5")
        .replace("https://paths.example.org/v1", "http://orders.acme.hawser/6")
        .replace("common.yaml#", "http://orders.acme.hawser/common.yaml#")
        .replace("https://operation.example.org/v1", "http://orders.acme.hawser/8")
        .replace(
            "./schemas/order.json",
            "http://orders.acme.hawser/schemas/order.json",
        )
        .replace("https://links.example.org/v1", "http://orders.acme.hawser/10");
    assert_eq!(out, expected);
}

#[test]
fn json_with_callbacks_and_webhooks() {
    let s = summary("streams.json");
    assert_eq!(
        s.endpoints,
        ["https://streams.example.org/api", "https://callbacks.example.org"]
    );
    assert_eq!(s.operations.iter().filter(|o| o.callback).count(), 3);
    let out = moved("streams.json", &mut |_, old| Some(old.replace("https", "http")));
    let before = String::from_utf8(read("streams.json")).expect("UTF-8");
    let expected = before
        .replace(
            r"https:\/\/streams.example.org\/api",
            "http://streams.example.org/api",
        )
        .replace("https://callbacks", "http://callbacks");
    assert_eq!(out, expected);

    let s = summary("webhooks.yaml");
    assert_eq!((s.kind, s.version.as_deref()), (Kind::OpenApi31, Some("2")));
    let found: Vec<_> = s
        .operations
        .iter()
        .map(|o| (o.name.as_str(), o.callback))
        .collect();
    assert_eq!(
        found,
        [("POST /pets", false), ("newPet", true), ("petGone", true)]
    );
}

#[test]
fn nothing_replaced_leaves_every_byte() {
    for name in ALL {
        assert_eq!(
            rewrite(&read(name), Some(name), &mut |_, _| None).as_deref(),
            Ok(read(name).as_slice())
        );
        assert_eq!(
            rewrite(&read(name), None, &mut |_, _| None).as_deref(),
            Ok(read(name).as_slice()),
            "without a hint: {name}"
        );
    }
}

#[test]
fn what_replaces_an_address_is_a_url() {
    for wrong in [
        "",
        "http://a/{b}",
        "http://a/<",
        "http://a/ b",
        "http://a/#f",
        "http://ü/",
        "a\nb",
        "\"",
        "`",
    ] {
        for name in ["served.wsdl", "orders.yaml", "streams.json"] {
            let out = rewrite(&read(name), Some(name), &mut |_, _| Some(wrong.into()));
            assert!(
                matches!(out, Err(DescribeError::Replacement { .. })),
                "{wrong:?}: {out:?}"
            );
        }
    }
    // All that a URL may have, in every way to write it.
    let odd = "http://a:1/-._~:/?[]@!$&'()*+,;=%20:";
    for name in ["served.wsdl", "orders.yaml", "streams.json", "webhooks.yaml"] {
        let out = rewrite(&read(name), Some(name), &mut |_, _| Some(odd.into())).expect(name);
        let after = Description::parse(&out, Some(name)).expect(name).summary();
        assert_eq!(after.endpoints, [odd]);
    }
}

#[test]
fn descriptions_are_recognised_by_their_first_bytes() {
    for name in ALL {
        let bytes = read(name);
        let kind = match name.rsplit('.').next() {
            Some("json") => "application/json",
            Some("yaml") => "text/plain",
            _ => "text/xml; charset=utf-8",
        };
        assert!(
            is_description(Some(kind), &bytes[..bytes.len().min(1024)]),
            "{name}"
        );
        assert!(is_description(None, &bytes), "{name}");
        assert!(!is_description(Some("text/html"), &bytes), "{name}");
    }
    assert!(is_description(
        Some("application/vnd.oai.openapi+json;version=3.0"),
        b""
    ));
    for other in [
        "",
        "<soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"/>",
        "<definitions xmlns='urn:x'/>",
        "<!-- http://schemas.xmlsoap.org/wsdl/ definitions",
        "{\"swagger\": \"2.0\"}",
        "{\"info\": \"openapi: 3.0\"}",
        "see openapi: 3.0",
        "{\"openapi\"",
    ] {
        assert!(!is_description(None, other.as_bytes()), "{other}");
    }
}

#[test]
fn callbacks_tell_where_addresses_stand() {
    let hints = |name: &str| match Description::parse(&read(name), None).expect(name) {
        Description::OpenApi(api) => callbacks(&api),
        Description::Wsdl(_) => panic!("{name}"),
    };
    let found = hints("orders.yaml");
    let places: Vec<_> = found
        .iter()
        .map(|h| (h.operation.as_str(), h.callback.as_str(), h.place.clone()))
        .collect();
    assert_eq!(
        places,
        [
            ("placeOrder", "orderShipped", Place::Body("/callback/url".into())),
            ("placeOrder", "orderLost", Place::Header("x-notify".into())),
        ]
    );
    let places: Vec<_> = hints("streams.json").into_iter().map(|h| h.place).collect();
    assert_eq!(
        places,
        [
            Place::Query("callbackUrl".into()),
            Place::ResponseBody("/links/feed".into())
        ],
        "an address of which an expression is only a part is no address in a request"
    );
    assert_eq!(hints("webhooks.yaml"), []);
}
