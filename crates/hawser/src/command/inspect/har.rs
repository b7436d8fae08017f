//! `hawser inspect har`: recorded exchanges as an HTTP Archive 1.2, as browsers' tools read it. What is not known of an exchange is
//! -1 there, as the format has it.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

use super::{asking, number, text, whole};
use crate::terminal;

#[derive(Serialize)]
struct Archive {
    log: Log,
}

#[derive(Serialize)]
struct Log {
    version: &'static str,
    creator: Creator,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Creator {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    time: u64,
    request: Request,
    response: Response,
    cache: Empty,
    timings: Timings,
    comment: String,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    method: String,
    url: String,
    http_version: &'static str,
    cookies: [Pair; 0],
    headers: Vec<Pair>,
    query_string: Vec<Pair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    post_data: Option<PostData>,
    headers_size: i64,
    body_size: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    status: u64,
    status_text: &'static str,
    http_version: &'static str,
    cookies: [Pair; 0],
    headers: Vec<Pair>,
    content: Content,
    #[serde(rename = "redirectURL")]
    redirect_url: String,
    headers_size: i64,
    body_size: i64,
}

#[derive(Serialize)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PostData {
    mime_type: String,
    text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Content {
    size: u64,
    mime_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
}

#[derive(Serialize)]
struct Timings {
    send: u64,
    wait: u64,
    receive: u64,
}

pub(super) async fn write(
    config: &Path,
    service: Option<&str>,
    last: usize,
    file: Option<&Path>,
) -> anyhow::Result<()> {
    let answer = asking::gateway(config, "/exchanges").await?;
    let wanted = |e: &&Value| {
        e["recorded"] == true && service.is_none_or(|service| text(e, "service").contains(service))
    };
    let all: Vec<&Value> = answer.as_array().into_iter().flatten().filter(wanted).collect();
    let mut entries = Vec::new();
    for e in &all[all.len().saturating_sub(last)..] {
        // One that was dropped meanwhile has nothing to show.
        if let Ok(shown) = whole::exchange(config, text(e, "request")).await {
            entries.extend(entry(&shown));
        }
    }
    let archive = Archive {
        log: Log {
            version: "1.2",
            creator: Creator {
                name: "hawser",
                version: env!("CARGO_PKG_VERSION"),
            },
            entries,
        },
    };
    let Some(file) = file else {
        return terminal::print_json(&archive);
    };
    let bytes = serde_json::to_vec_pretty(&archive)?;
    let mut options = OpenOptions::new();
    // Masked or not, it is what people said to each other.
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(file).and_then(|mut open| open.write_all(&bytes));
    written.with_context(|| format!("{} cannot be written", file.display()))
}

fn entry(shown: &Value) -> Option<Entry> {
    let (exchange, request) = (&shown["exchange"], &shown["request"]);
    let target = request["target"].as_str()?;
    let response = &shown["response"];
    let (asked, came) = (pairs(request), pairs(response));
    let content_type = value(&asked, "content-type");
    let mut comment = text(exchange, "request").to_owned();
    if let Some(first) = exchange["replays"].as_str() {
        comment += &format!(", replays {first}");
    }
    let ms = number(exchange, "ms");
    Some(Entry {
        started_date_time: date(number(exchange, "at")),
        time: ms,
        request: Request {
            method: text(request, "method").into(),
            url: format!("http://{}{target}", text(request, "host")),
            http_version: "HTTP/2",
            cookies: [],
            query_string: query(target),
            post_data: post(&request["body"], content_type),
            headers: asked,
            headers_size: -1,
            body_size: size(request),
        },
        response: Response {
            status: number(exchange, "status"),
            status_text: "",
            http_version: "HTTP/2",
            cookies: [],
            content: content(&response["body"], value(&came, "content-type")),
            redirect_url: value(&came, "location"),
            headers: came,
            headers_size: -1,
            body_size: size(response),
        },
        cache: Empty {},
        timings: Timings {
            send: 0,
            wait: ms,
            receive: 0,
        },
        comment,
    })
}

fn pairs(message: &Value) -> Vec<Pair> {
    let all = whole::headers(message);
    all.map(|(name, value)| Pair {
        name: name.into(),
        value: value.into(),
    })
    .collect()
}

fn value(headers: &[Pair], name: &str) -> String {
    let found = headers.iter().find(|h| h.name == name);
    found.map(|h| h.value.clone()).unwrap_or_default()
}

fn size(message: &Value) -> i64 {
    message["body"]["bytes"].as_i64().unwrap_or(-1)
}

/// As they are written, `%` and all.
fn query(target: &str) -> Vec<Pair> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let each = query.split('&').filter(|pair| !pair.is_empty());
    each.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Pair {
            name: name.into(),
            value: value.into(),
        }
    })
    .collect()
}

fn post(body: &Value, mime_type: String) -> Option<PostData> {
    if number(body, "bytes") == 0 {
        return None;
    }
    // The format has no place for bytes in requests but text.
    let (words, more) = match (body["text"].as_str(), body["base64"].as_str()) {
        (Some(words), _) => (words, ""),
        (None, Some(base64)) => (base64, "base64; "),
        (None, None) => ("", ""),
    };
    Some(PostData {
        mime_type,
        text: words.into(),
        comment: format!("{more}{}", note(body)).trim_end_matches("; ").into(),
    })
}

fn content(body: &Value, mime_type: String) -> Content {
    let words = body["text"].as_str();
    let base64 = body["base64"].as_str();
    Content {
        size: number(body, "bytes"),
        mime_type,
        text: words.or(base64).map(str::to_owned),
        encoding: (words.is_none() && base64.is_some()).then_some("base64"),
        comment: note(body),
    }
}

fn note(body: &Value) -> String {
    let truncated = (body["truncated"] == true).then(|| "truncated".to_owned());
    let withheld = body["withheld"].as_str().map(|why| format!("not shown: {why}"));
    let notes: Vec<_> = truncated.into_iter().chain(withheld).collect();
    notes.join("; ")
}

/// RFC 3339, UTC, with milliseconds.
fn date(ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    humantime::format_rfc3339_millis(at).to_string()
}
