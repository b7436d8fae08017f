//! Prints what looking through a message costs, in time on a processor, whatever else the machine does: `cargo run --release -p hawser-callback --example speed`.

use std::hint::black_box;

use bytes::Bytes;
use hawser_callback::{Direction, Editor, Place, Plan, Rules, Verdict};

/// Pieces in which a connection brings a body.
const PIECE: usize = 16 * 1024;

fn soap(length: usize, address_in_body: bool) -> Bytes {
    let head = "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope xmlns:soap=\"http://www.w3.org/2003/05/soap-envelope\" \
        xmlns:wsa=\"http://www.w3.org/2005/08/addressing\" xmlns:o=\"urn:example:orders\"><soap:Header>\
        <wsa:To>http://orders.beta.hawser/orders</wsa:To><wsa:Action>urn:example:orders:place</wsa:Action>\
        <wsa:MessageID>urn:uuid:6b29fc40-ca47-1067-b31d-00dd010662da</wsa:MessageID>\
        <wsa:ReplyTo><wsa:Address>http://client.acme.example:8080/callback?order=17&amp;x=y</wsa:Address></wsa:ReplyTo>\
        </soap:Header><soap:Body><o:place>";
    let mut text = head.to_owned();
    if address_in_body {
        text.push_str(
            "<o:watcher><wsa:Address>http://client.acme.example:8080/watch</wsa:Address></o:watcher>",
        );
    }
    let tail = "</o:place></soap:Body></soap:Envelope>";
    while text.len() + tail.len() < length {
        text.push_str("<o:line number=\"17\"><o:article>4711</o:article><o:count>3</o:count></o:line>");
    }
    text.push_str(tail);
    text.into()
}

fn json(length: usize) -> Bytes {
    let mut text = "{\"callbackUrl\":\"http://client.acme.example:8080/callback\",\"lines\":[".to_owned();
    while text.len() < length {
        text.push_str("{\"number\":17,\"article\":\"4711\",\"count\":3},");
    }
    text.push_str("{}]}");
    text.into()
}

fn measure(name: &str, rules: &Rules, kind: &str, body: &Bytes) {
    let mut replace = |_: &Place, _: &str| {
        Verdict::With("http://gw.beta.example/.hawser/cb/acme/0a1b2c3d.".to_owned() + &"x".repeat(150))
    };
    let (start, mut rounds, mut taken) = (on_processor(), 0.0, 0.0);
    while taken < 0.5 {
        for _ in 0..32 {
            let Plan::Edit(mut editor) = Editor::plan(rules, Direction::Request, Some(kind), None, None)
            else {
                return println!("{name}: not looked into");
            };
            let mut rest = body.clone();
            while !rest.is_empty() && editor.settled().is_none() {
                let piece = rest.split_to(rest.len().min(PIECE));
                let _ = black_box(editor.push(piece, &mut replace));
            }
            let _ = black_box(editor.end(&mut replace));
            rounds += 1.0;
        }
        taken = on_processor() - start;
    }
    let mean = taken / rounds;
    let length = f64::from(u32::try_from(body.len()).unwrap_or(u32::MAX));
    println!("{name}: {:.1} µs, {:.0} MB/s", mean * 1e6, length / mean / 1e6);
}

/// Seconds that this thread has run (Linux, `schedstat`).
fn on_processor() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e9
}

fn main() {
    let rules = Rules {
        json: "/callbackUrl".parse().into_iter().collect(),
        ..Rules::default()
    };
    for (size, length) in [("4 KiB", 4 << 10), ("256 KiB", 256 << 10)] {
        measure(&format!("SOAP {size}"), &rules, "text/xml", &soap(length, false));
        measure(
            &format!("SOAP {size}, an address in the body"),
            &rules,
            "text/xml",
            &soap(length, true),
        );
        measure(&format!("JSON {size}"), &rules, "application/json", &json(length));
    }
}
