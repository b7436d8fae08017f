//! `hawser inspect show` and `replay`: one recorded exchange.

use std::{fmt::Write as _, io::IsTerminal as _, path::Path};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{asking, number, text};
use crate::terminal;

/// Methods that may be sent again without harm (RFC 9110, 9.2.2).
const IDEMPOTENT: [&str; 7] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND"];
/// Bytes in a line of hex.
const HEX_LINE: usize = 16;

/// What the gateway shows of an exchange.
pub(super) async fn exchange(config: &Path, request: &str) -> anyhow::Result<Value> {
    asking::order(config, "/exchange", &json!({ "request": request })).await
}

pub(super) async fn show(config: &Path, request: &str, as_json: bool) -> anyhow::Result<()> {
    let shown = exchange(config, request).await?;
    if as_json {
        return terminal::print_json(&shown);
    }
    terminal::print(&page(&shown, std::io::stdout().is_terminal()))
}

pub(super) async fn replay(config: &Path, request: &str, yes: bool, as_json: bool) -> anyhow::Result<()> {
    let shown = exchange(config, request).await?;
    let first = &shown["exchange"];
    let id = text(first, "request");
    if let Some(why) = shown["not_replayable"].as_str() {
        bail!("{id} cannot be sent again: {why}");
    }
    let method = text(&shown["request"], "method");
    if !yes && !IDEMPOTENT.contains(&method) {
        let what = format!("{method} {}", text(first, "what"));
        let sure = terminal::ask(&format!("{what} may change something each time. Send it again?"))
            .context("whether to send it again must be confirmed: give --yes")?;
        if !sure {
            bail!("not sent");
        }
    }
    // The whole id: what was looked at is what is sent.
    let replayed = asking::order(config, "/replay", &json!({ "request": id })).await?;
    if as_json {
        return terminal::print_json(&replayed);
    }
    let new = text(&replayed, "request");
    let came = match (replayed["status"].as_u64(), replayed["complete"].as_bool()) {
        (Some(status), Some(true)) => format!("the answer was {status}"),
        (Some(status), _) => format!("the answer was {status}, and did not come to its end"),
        (None, _) => "no answer came in time".into(),
    };
    terminal::print(&format!("Sent {id} again as {new}: {came}.\n"))
}

/// An exchange as people read it.
fn page(shown: &Value, pretty: bool) -> String {
    let first = &shown["exchange"];
    let mut out = format!(
        "{}  {} from {}, {} ms, {}\n",
        text(first, "request"),
        text(first, "service"),
        text(first, "who"),
        number(first, "ms"),
        text(first, "outcome"),
    );
    if let Some(replays) = first["replays"].as_str() {
        let _ = writeln!(out, "replays {replays}");
    }
    out.push('\n');
    match &shown["request"] {
        Value::Null => {
            let why = shown["not_replayable"].as_str().unwrap_or("it is not recorded");
            let _ = writeln!(out, "{} {}: {why}", text(first, "method"), text(first, "what"));
            return clean(&out);
        }
        request => {
            let _ = writeln!(out, "{} {}", text(request, "method"), text(request, "target"));
            let _ = writeln!(out, "host: {}", text(request, "host"));
            message(&mut out, request, pretty);
        }
    }
    out.push('\n');
    match &shown["response"] {
        Value::Null => match first["status"].as_u64() {
            Some(status) => _ = writeln!(out, "{status}, not recorded"),
            None => out.push_str("no answer\n"),
        },
        response => {
            let _ = writeln!(out, "{}", number(response, "status"));
            message(&mut out, response, pretty);
        }
    }
    clean(&out)
}

fn message(out: &mut String, message: &Value, pretty: bool) {
    for (name, value) in headers(message) {
        let _ = writeln!(out, "{name}: {value}");
    }
    out.push('\n');
    let body = &message["body"];
    let mut notes = Vec::new();
    if let Some(coding) = body["decoded"].as_str() {
        notes.push(format!("decoded from {coding}"));
    }
    if body["truncated"] == true {
        notes.push(format!(
            "truncated: {} of {} bytes are kept",
            number(body, "kept"),
            number(body, "bytes")
        ));
    }
    if body["ended"] == false {
        notes.push("it did not come to its end".into());
    }
    if let Some(why) = body["withheld"].as_str() {
        notes.push(format!("not shown: {why}"));
    }
    if let Some(words) = body["text"].as_str() {
        let indented = pretty
            .then(|| serde_json::from_str::<Value>(words).ok())
            .flatten()
            .filter(|value| value.is_object() || value.is_array())
            .and_then(|value| serde_json::to_string_pretty(&value).ok());
        out.push_str(indented.as_deref().unwrap_or(words));
        out.push('\n');
    } else if let Some(bytes) = body["base64"].as_str().and_then(|b| STANDARD.decode(b).ok()) {
        hex(out, &bytes);
    }
    if !notes.is_empty() {
        let _ = writeln!(out, "[{}]", notes.join("; "));
    }
}

/// Names and values of a message's headers.
pub(super) fn headers(message: &Value) -> impl Iterator<Item = (&str, &str)> {
    let lines = message["headers"].as_array().into_iter().flatten();
    lines.filter_map(|line| Some((line[0].as_str()?, line[1].as_str()?)))
}

fn hex(out: &mut String, bytes: &[u8]) {
    for (n, line) in bytes.chunks(HEX_LINE).enumerate() {
        let _ = write!(out, "{:08x} ", n * HEX_LINE);
        for byte in line {
            let _ = write!(out, " {byte:02x}");
        }
        let gap = " ".repeat(3 * (HEX_LINE - line.len()) + 2);
        let letters: String = line
            .iter()
            .map(|b| {
                if b.is_ascii_graphic() || *b == b' ' {
                    char::from(*b)
                } else {
                    '.'
                }
            })
            .collect();
        let _ = writeln!(out, "{gap}{letters}");
    }
}

/// Without what could steer a terminal: the text is that of strangers.
fn clean(text: &str) -> String {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.replace("\r\n", "\n").replace(steers, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_bodies_are_hex_and_nothing_steers_the_terminal() {
        let shown = json!({
            "exchange": {"request": "abc", "service": "web", "who": "x", "ms": 3, "outcome": "complete"},
            "request": {"method": "PUT", "target": "/a\u{1b}[2J", "host": "h", "headers": [["a", "b"]],
                "body": {"bytes": 40, "kept": 18, "truncated": true, "ended": true,
                    "base64": STANDARD.encode(b"0123456789abcdef\xff!")}},
            "response": {"status": 200, "headers": [], "body": {"text": "{\"a\":[1]}", "ended": true}},
        });
        let page = page(&shown, true);
        assert!(page.contains("00000000  30 31 32"), "{page}");
        assert!(page.contains("00000010  ff 21") && page.contains(".!"), "{page}");
        assert!(page.contains("[truncated: 18 of 40 bytes are kept]"), "{page}");
        assert!(page.contains("{\n  \"a\": [\n    1"), "{page}");
        assert!(!page.contains('\u{1b}'));
    }
}
