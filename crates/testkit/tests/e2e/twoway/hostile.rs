//! Messages and addresses of people who mean no good: refused or passed, in bounded memory, and never a way in.

use std::{
    collections::VecDeque,
    io::{self, Read},
    time::Duration,
};

use hawser_testkit::{
    curl::Curl,
    gate,
    origin::HttpOrigin,
    pattern, wait,
    world::{Service, Spec, Way, World},
};
use serde_json::{Value, json};

use crate::bulk::{check_growth, flatten};

const PORT: u16 = 8204;
const LISTENER: u16 = 9100;
const IMPORT: u16 = 9001;
const MIB: usize = 1024 * 1024;
/// Nesting that a parser would die of that calls itself.
const DEEP: usize = 1_000_000;
const XML: &str = "text/xml; charset=utf-8";
const JSON: &str = "application/json";

fn world(more: &str) -> World {
    let rule = "[[gateway.callbacks.rule]]\nservice = \"*\"\njson = [\"/callbackUrl\"]";
    let spec = Spec::new([Service::http("web", PORT).imported(IMPORT)]);
    spec.gateway_tables(&format!("{more}\n{rule}")).start().unwrap()
}

fn call(way: &Way, path: &str, media: &str) -> Curl {
    way.curl_import(IMPORT, path)
        .header(&format!("Content-Type: {media}"))
        .limit(Duration::from_secs(300))
}

/// What the service is asked to call, when `url` is what the client wants.
fn sealed(way: &Way, url: &str) -> String {
    let body = json!({ "callbackUrl": url }).to_string();
    let mirrored = call(way, "/mirror", JSON).post(&body).expect(200).unwrap();
    let seen = mirrored.json().unwrap();
    seen["callbackUrl"].as_str().unwrap().to_owned()
}

/// What it is, its media type, and its pieces, each so many times.
type Case = (&'static str, &'static str, Vec<(&'static str, usize)>);

/// A long body: each piece so many times.
struct Long {
    pieces: VecDeque<(Vec<u8>, usize)>,
    at: usize,
}

impl Long {
    fn new(pieces: &[(&str, usize)]) -> Self {
        // Copied in blocks rather than piece by piece.
        let blocks = pieces.iter().flat_map(|(piece, times)| {
            let many = (64 * 1024 / piece.len().max(1)).max(1);
            let block = |n: usize, times| (piece.repeat(n).into_bytes(), times);
            [block(many, times / many), block(times % many, 1)]
        });
        Self {
            pieces: blocks.filter(|(b, n)| !b.is_empty() && *n > 0).collect(),
            at: 0,
        }
    }
}

impl Read for Long {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some((piece, left)) = self.pieces.front_mut() else {
            return Ok(0);
        };
        let n = into.len().min(piece.len() - self.at);
        into[..n].copy_from_slice(&piece[self.at..self.at + n]);
        self.at += n;
        if self.at == piece.len() {
            self.at = 0;
            *left -= 1;
            if *left == 0 {
                self.pieces.pop_front();
            }
        }
        Ok(n)
    }
}

fn hash(pieces: &[(&str, usize)]) -> String {
    let (mut long, mut hash, mut buffer) = (Long::new(pieces), pattern::Hash::new(), vec![0; MIB]);
    loop {
        match long.read(&mut buffer).unwrap() {
            0 => return hash.finish(),
            n => hash.update(&buffer[..n]),
        }
    }
}

const ENVELOPE: &str = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
                        xmlns:wsa=\"http://www.w3.org/2005/08/addressing\">";

#[test]
fn hostile_messages_cost_little_and_break_nothing() {
    let what = "hostile messages through the tunnel";
    if !gate::networks(what) {
        return;
    }
    let mut world = world("");
    let origins = [0, 1].map(|n| HttpOrigin::start(&world.site(n).app, PORT).unwrap());
    let good = |world: &World| {
        let way = &world.ways()[0];
        let own = format!("http://{}/x", way.client().at(LISTENER));
        assert!(sealed(way, &own).contains("/.hawser/cb/acme/"));
    };
    good(&world);
    let base = flatten(&mut world);
    let served = || origins.iter().map(HttpOrigin::served).sum::<u64>();

    let (items, gigabyte) = ("\"0123456789\\\"abcdef\",", 1024 * MIB);
    let reply = "<s:Header><wsa:ReplyTo><wsa:Address>&boom;</wsa:Address></wsa:ReplyTo></s:Header><s:Body/></s:Envelope>";
    let laughs = "<!DOCTYPE s:Envelope [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY boom \"&b;&b;&b;&b;\">]>";
    let outside = "<!DOCTYPE s:Envelope [<!ENTITY boom SYSTEM \"file:///etc/passwd\">]>";
    let refused: [Case; 6] = [
        ("entities", XML, vec![(laughs, 1), (ENVELOPE, 1), (reply, 1)]),
        (
            "an outside entity",
            XML,
            vec![(outside, 1), (ENVELOPE, 1), (reply, 1)],
        ),
        ("an unknown entity", XML, vec![(ENVELOPE, 1), (reply, 1)]),
        (
            "a header without an end",
            XML,
            vec![(ENVELOPE, 1), ("<s:Header>", 1), ("<a>", 100 * MIB / 3)],
        ),
        (
            "an address without an end",
            JSON,
            vec![("{\"callbackUrl\":\"http://", 1), ("a", 100 * MIB)],
        ),
        ("nesting", JSON, vec![("{\"a\":", DEEP), ("0", 1), ("}", DEEP)]),
    ];
    for (name, media, pieces) in refused {
        let before = served();
        let way = &world.ways()[0];
        let error = call(way, "/upload", media).upload_from(&mut Long::new(&pieces));
        let error = error.err().map(|e| e.to_string()).unwrap_or_default();
        // Who goes on sending may find the connection closed before the answer is read.
        let told = ["callback-refused", "Broken pipe", "reset"];
        assert!(told.iter().any(|t| error.contains(t)), "{name}: {error}");
        assert_eq!(served(), before, "{name} did not reach the service");
    }
    let passed: [Case; 3] = [
        (
            "a gigabyte",
            JSON,
            vec![("{\"pad\":[", 1), (items, gigabyte / items.len()), ("0]}", 1)],
        ),
        (
            "nesting behind the header",
            XML,
            vec![
                (ENVELOPE, 1),
                ("<s:Body>", 1),
                ("<a>", DEEP),
                ("</a>", DEEP),
                ("</s:Body></s:Envelope>", 1),
            ],
        ),
        (
            "what only calls itself XML",
            "application/octet-stream",
            vec![(laughs, 1), ("<a>", DEEP)],
        ),
    ];
    for (name, media, pieces) in passed {
        let way = &world.ways()[0];
        let answer = call(way, "/upload", media).upload_from(&mut Long::new(&pieces));
        let answer: Value =
            serde_json::from_str(&answer.unwrap_or_else(|e| panic!("{name}: {e:#}"))).unwrap();
        assert_eq!(answer["sha256"], hash(&pieces), "{name} arrives as it is");
    }
    good(&world);
    check_growth(&mut world, &base);
}

#[test]
fn addresses_lead_only_where_and_for_whom_they_were_made() {
    let what = "misused addresses";
    if !gate::networks(what) {
        return;
    }
    let world = world("[gateway.callbacks]\nexpire = \"20s\"\n");
    let _origins = [0, 1].map(|n| HttpOrigin::start(&world.site(n).app, PORT).unwrap());
    let ways = world.ways();
    let (way, back) = (&ways[0], &ways[1]);
    let listener = HttpOrigin::start(way.client(), LISTENER).unwrap();
    let own = format!("http://{}/echo", way.client().at(LISTENER));
    let from_service = |url: &str| {
        Curl::new(way.server(), url)
            .args(["--path-as-is"])
            .call()
            .unwrap()
    };

    // Targets that are neither the client's own nor allowed.
    for target in [
        format!("http://{}/x", way.server().at(PORT)),
        format!("http://{}/", way.proxy()),
        "http://127.0.0.1:9180/metrics".into(),
        "http://localhost:9180/metrics".into(),
        "http://[::1]/".into(),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://2130706433/".into(),
        "http://0x7f.1/".into(),
        format!("http://{}@127.0.0.1/", way.client().address()),
    ] {
        let body = json!({ "callbackUrl": target }).to_string();
        let answer = call(way, "/mirror", JSON).post(&body).call().unwrap();
        let passed = answer.json().map(|seen| seen["callbackUrl"] == target.as_str());
        assert!(
            answer.status == 403 || passed.unwrap_or(false),
            "{target}: {} {}",
            answer.status,
            answer.text()
        );
    }

    // Control: what was made for it works, more than once, and with more behind it.
    let before_sealing = std::time::Instant::now();
    let url = sealed(way, &own);
    for _ in 0..2 {
        let answer = from_service(&url);
        assert_eq!(answer.json().unwrap()["path"], "/echo", "{}", answer.text());
    }
    let before = listener.served();
    // Forged: any byte of it.
    let start = url.find("/cb/acme/").unwrap() + "/cb/acme/".len();
    for at in [start, start + 5, (start + url.len()) / 2, url.len() - 2] {
        let old = url.as_bytes()[at];
        let new = if old == b'A' { "B" } else { "A" };
        let forged = format!("{}{new}{}", &url[..at], &url[at + 1..]);
        let answer = from_service(&forged);
        assert!((400..500).contains(&answer.status), "{forged}: {}", answer.status);
    }
    // Out of the path that was named.
    for more in [
        "/../../bytes/1",
        "/%2e%2e/bytes/1",
        "/..%2fbytes/1",
        "/x%5c..%5cy",
    ] {
        let answer = from_service(&format!("{url}{more}"));
        assert!((400..500).contains(&answer.status), "{more}: {}", answer.status);
    }
    // Foreign: used in another domain than that of the service, by the path and by the whole address.
    let foreign = url.replace(
        &format!("{}", back.proxy().ip()),
        &format!("{}", way.proxy().ip()),
    );
    let answer = Curl::new(way.client(), &foreign).call().unwrap();
    assert!(
        (400..500).contains(&answer.status),
        "{foreign}: {}",
        answer.text()
    );
    assert_eq!(listener.served(), before, "nothing of it reached the client");

    // Expired.
    let late = wait::until(Duration::from_secs(60), "the address to end", || {
        let answer = from_service(&url);
        Ok((answer.status != 200).then_some(answer))
    })
    .unwrap();
    assert_eq!(late.status, 410, "{}", late.text());
    assert!(late.text().contains("expired"), "{}", late.text());
    assert!(before_sealing.elapsed() >= Duration::from_secs(19));
}
