//! Content that is made to cost: each is adapted for each kind of device, on a thread with a small stack, within bounded time and memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use hawser_content::{Class, Event, Limits, adapt, adapt::MEMORY, adapt::Variant};
use hawser_proto::broker::api::Profile;

/// For one piece of content and one kind of device: a time-out with slack for slow and busy machines, no benchmark.
const TIME: Duration = Duration::from_secs(30);
/// As threads of a blocking pool have it.
const STACK: usize = 2 * 1024 * 1024;
const DEVICES: [&str; 4] = ["text/html, image/*", "text/markdown", "text/plain", "*/*"];

fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn event(kind: &str, data: Vec<u8>) -> Event {
    Event {
        id: "1".into(),
        source: "/hostile".into(),
        event_type: "hostile".into(),
        subject: None,
        time: None,
        datacontenttype: Some(kind.into()),
        dataschema: None,
        data,
        extensions: BTreeMap::new(),
    }
}

/// Adapts for every kind of device; gives back the variants.
fn survive(name: &'static str, kind: &str, data: impl Into<Vec<u8>>) -> Vec<Variant> {
    let event = event(kind, data.into());
    let work = move || {
        let adapted = |accept: &str| {
            let class = Class::of(&Profile {
                accept: accept.into(),
                ..Profile::default()
            })
            .unwrap();
            let limits = Limits {
                body: 64 * 1024,
                rest_can_be_fetched: true,
            };
            let (begun, before) = (Instant::now(), peak());
            let adapted = adapt(&event, &class, &limits);
            // The kernel's count of pages is not exact.
            let (took, grew) = (begun.elapsed(), peak().saturating_sub(before));
            println!(
                "{name} for {accept}: {} in {took:?}, {} MiB more",
                adapted.variant,
                grew >> 20
            );
            assert!(
                adapted.body.len() <= limits.body,
                "{name}: {} bytes",
                adapted.body.len()
            );
            assert!(took < TIME, "{name} took {took:?}");
            assert!(grew < MEMORY, "{name} took {} MiB", grew >> 20);
            adapted.variant
        };
        DEVICES.map(adapted).to_vec()
    };
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(work).unwrap();
    thread.join().unwrap_or_else(|_| panic!("{name}"))
}

fn numbered(count: usize, each: impl Fn(usize) -> String) -> String {
    let mut out = String::new();
    (0..count).for_each(|n| write!(out, "{}", each(n)).unwrap());
    out
}

#[test]
fn html() {
    let cases = [
        ("deep", "<div>".repeat(150_000)),
        ("deep lists", "<ul><li>".repeat(100_000)),
        ("deep tables", "<table><tr><td>".repeat(60_000)),
        ("deep marks", "<b><i><a href=http://x>".repeat(30_000)),
        (
            "marks opened again",
            numbered(20_000, |n| format!("<b id={n}>")) + &"<p>x".repeat(20_000),
        ),
        (
            "attributes",
            format!("<p {}>", numbered(130_000, |n| format!("a{n} "))),
        ),
        (
            "attributes without spaces",
            format!("<p/{}>", numbered(120_000, |n| format!("a{n}/"))),
        ),
        (
            "attributes in many tags",
            numbered(20, |_| format!("<p {}>", numbered(7_000, |n| format!("a{n} ")))),
        ),
        ("open quote", format!("<a href=\"{}", "x ".repeat(500_000))),
        ("open comment", format!("<!--{}", "- ".repeat(500_000))),
        ("entities", "&NotEqualTilde;".repeat(70_000)),
        ("many", "<p>x".repeat(250_000)),
        (
            "wide cells",
            "<table><tr><th colspan=1000000 rowspan=1000000>x<td>y".repeat(5_000),
        ),
        (
            "one row",
            format!("<table><tr>{}</table>", "<th>x".repeat(15_000)),
        ),
        (
            "ragged table",
            format!(
                "<table><tr>{}{}</table>",
                "<th>".repeat(9_000),
                "<tr><td>".repeat(5_000)
            ),
        ),
        (
            "links",
            "<a href=http://x?".to_owned()
                + &"y".repeat(1_900)
                + ">x</a>"
                + &"<a href=http://x>y</a>".repeat(40_000),
        ),
        ("raw text", "<style>".repeat(100_000)),
        ("foreign", "<svg><math><foreignObject>".repeat(30_000)),
    ];
    for (name, document) in cases {
        let variants = survive(name, "text/html", document);
        assert!(!variants.contains(&Variant::Original), "{name}");
    }
}

#[test]
fn markdown() {
    let cases = [
        ("quotes", ">".repeat(500_000)),
        (
            "quotes in lines",
            "> > > > > > > > > > > > > > > > > > > > > >\n".repeat(20_000),
        ),
        ("brackets", "[".repeat(500_000)),
        ("links in links", "[a](".repeat(200_000)),
        ("emphasis", "*a **b ".repeat(100_000)),
        ("open marks", "*_".repeat(300_000)),
        ("backticks", numbered(1_400, |n| "`".repeat(n) + " ")),
        ("lists", numbered(1_000, |n| " ".repeat(n * 2) + "- x\n")),
        (
            "table",
            format!(
                "{}\n{}\n{}",
                "|a".repeat(5_000),
                "|-".repeat(5_000),
                "|b\n".repeat(50_000)
            ),
        ),
        (
            "references",
            "[a]: http://x/".to_owned() + &"y".repeat(100_000) + "\n\n" + &"[a]".repeat(200_000),
        ),
        ("html", "<div><b>".repeat(100_000)),
        ("breaks", "a  \n".repeat(200_000)),
    ];
    for (name, document) in cases {
        survive(name, "text/markdown", document);
    }
}

#[test]
fn json_and_text() {
    let cases = [
        ("numbers", format!("[{}0]", "0,".repeat(500_000))),
        ("deep arrays", "[".repeat(500_000)),
        (
            "deep but read",
            format!("{}0{}", "[".repeat(120), "]".repeat(120)),
        ),
        ("one string", format!("\"{}\"", "\\n# ".repeat(200_000))),
        (
            "names",
            format!("{{{}\"x\":1}}", numbered(50_000, |n| format!("\"{n}\":{{}},"))),
        ),
    ];
    for (name, document) in cases {
        survive(name, "application/json", document);
    }
    survive("long text", "text/plain", "word ".repeat(3_000_000));
    survive("no spaces", "text/plain", "x".repeat(15_000_000));
    survive("line feeds", "text/plain", "\n".repeat(15_000_000));
    survive(
        "marks on one letter",
        "text/plain",
        "a".to_owned() + &"\u{301}".repeat(1_000_000),
    );
    survive(
        "wrong bytes",
        "text/plain; charset=shift_jis",
        vec![0x81; 15_000_000],
    );
    survive(
        "utf-16 of half",
        "text/html; charset=utf-16",
        vec![0xd8; 1_000_001],
    );
    survive("unknown charset", "text/plain; charset=x-none", vec![0xff; 1_000]);
}

/// A PNG that says it is so large, with as much in it as fits.
fn png(width: u32, height: u32, colour: u8) -> Vec<u8> {
    fn chunk(out: &mut Vec<u8>, kind: &[u8], data: &[u8]) {
        out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        let from = out.len();
        out.extend(kind);
        out.extend(data);
        let crc = crc(&out[from..]);
        out.extend(crc.to_be_bytes());
    }
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, colour, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &header);
    // A stored block of zeros.
    let mut data = vec![0x78, 0x01];
    for _ in 0..100 {
        data.extend([0x00, 0xff, 0xff, 0x00, 0x00]);
        data.extend(vec![0; 0xffff]);
    }
    chunk(&mut out, b"IDAT", &data);
    chunk(&mut out, b"IEND", &[]);
    out
}

fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

#[test]
fn images() {
    let refused =
        |variants: Vec<Variant>| assert!(variants.iter().all(|v| *v == Variant::SafeText), "{variants:?}");
    refused(survive("large png", "image/png", png(60_000, 60_000, 6)));
    refused(survive("wide png", "image/png", png(2_000_000_000, 1, 0)));
    refused(survive("many pixels", "image/png", png(16_000, 16_000, 0)));
    refused(survive("no pixels", "image/png", png(0, 0, 0)));
    survive("cut png", "image/png", png(4_000, 4_000, 2));
    let mut gif = b"GIF89a\xff\xff\xff\xff\xf0\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02".to_vec();
    gif.extend([0xff; 10_000]);
    refused(survive("large gif", "image/gif", gif));
    let mut jpeg =
        b"\xff\xd8\xff\xc2\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01".to_vec();
    jpeg.extend(b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0".repeat(5_000));
    refused(survive("large jpeg", "image/jpeg", jpeg));
    let webp =
        b"RIFF\x20\0\0\0WEBPVP8L\x10\0\0\0\x2f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
            .to_vec();
    refused(survive("large webp", "image/webp", webp));
    for length in [0, 1, 8, 40] {
        survive("torn", "image/png", png(10, 10, 6)[..length].to_vec());
    }
}

#[test]
fn drawings() {
    let svg = |inner: &str| {
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="1000" height="1000">{inner}</svg>"#
        )
    };
    let uses = numbered(30, |n| {
        format!(
            "<g id='g{}'>{}</g>",
            n + 1,
            format!("<use xlink:href='#g{n}'/>").repeat(10)
        )
    });
    let full = "<rect width='1000' height='1000' fill='red' opacity='.5'/>";
    let zigzag = numbered(100_000, |n| format!("L{} {}", n % 1000, (n * 7) % 1000));
    let costly = [
        (
            "laughs",
            format!(
                "<!DOCTYPE svg [<!ENTITY a 'aaaaaaaaaa'>{}]>{}",
                numbered(9, |n| format!("<!ENTITY a{n} '&a;&a;'>")),
                svg("&a8;")
            ),
        ),
        (
            "uses",
            svg(&format!(
                "<defs><rect id='g0' width='1' height='1'/>{uses}</defs><use xlink:href='#g30'/>"
            )),
        ),
        (
            "deep groups",
            svg(&format!("{}{}", "<g>".repeat(10_000), "</g>".repeat(10_000))),
        ),
        (
            "markers",
            svg(&format!(
                "<marker id='m'>{}</marker><path marker-mid='url(#m)' d='M0 0{zigzag}' fill='none' stroke='red'/>",
                full.repeat(100)
            )),
        ),
        (
            "patterns",
            svg(
                "<pattern id='p' width='1e9' height='1e9' patternUnits='userSpaceOnUse'><path d='M0 0h1v1z'/></pattern><rect fill='url(#p)' width='9' height='9'/>",
            ),
        ),
        (
            "filters",
            svg(
                "<g filter='url(#f)'><filter id='f'><feTurbulence numOctaves='100000000'/></filter><path d='M0 0h9v9z'/></g>",
            ),
        ),
        (
            "filter functions",
            svg("<path d='M0 0h9v9z' style='filter:blur(100000px)'/>"),
        ),
        (
            "layers",
            svg(&format!(
                "{}{}",
                "<g opacity='.5'><path d='M-9999 -9999h99999v99999z'/>".repeat(60),
                "</g>".repeat(60)
            )),
        ),
        ("paint", svg(&full.repeat(15_000))),
        (
            "dashes",
            svg(&"<path stroke='red' stroke-dasharray='.00001' d='M0 0L1000 1000'/>".repeat(500)),
        ),
        (
            "styles",
            svg(&format!(
                "<style>{}</style>{full}",
                numbered(20_000, |n| format!(".a{n} .b{n}{{fill:red}}"))
            )),
        ),
        (
            "far away",
            svg("<path d='M-1e30 -1e30L1e30 1e30L1e30 -1e30z' stroke='red' stroke-width='1e20'/>"),
        ),
        ("broken", svg("<g>")),
        ("text", svg("<text>hello</text>")),
    ];
    for (name, drawing) in costly {
        let variants = survive(name, "image/svg+xml", drawing);
        assert!(
            variants.iter().all(|v| *v == Variant::SafeText),
            "{name}: {variants:?}"
        );
    }
    let drawn = [
        (
            "zigzag",
            svg(&format!("<path d='M0 0{zigzag}' fill='none' stroke='red'/>")),
        ),
        ("no size", svg("<path d='M0 0h9v9z'/>").replace("1000", "1e9")),
        (
            "files",
            svg("<image href='/etc/passwd' width='9' height='9'/><path d='M0 0h9v9z'/>"),
        ),
        (
            "clips",
            svg(&format!(
                "<clipPath id='c'><rect width='500' height='500'/></clipPath>{}",
                "<g clip-path='url(#c)'><path d='M0 0h9v9z'/></g>".repeat(20)
            )),
        ),
    ];
    survive(
        "circle of uses",
        "image/svg+xml",
        svg("<g id='a'><use xlink:href='#b'/></g><g id='b'><use xlink:href='#a'/></g>"),
    );
    for (name, drawing) in drawn {
        let variants = survive(name, "image/svg+xml", drawing);
        assert_eq!(variants[0], Variant::Image, "{name}");
    }
}
