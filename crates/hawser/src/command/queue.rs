//! `hawser queue`: messages that wait to be delivered, and those that were given up.

use std::path::Path;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::asking;
use crate::{
    cli::{
        Output,
        queue::{Chosen, QueueCommand, QueueState},
    },
    table::Table,
    terminal,
};

pub(super) async fn run(config: &Path, command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::List {
            queue,
            state,
            last,
            output,
        } => list(config, queue, state, last, output).await,
        QueueCommand::Show { id, body, output } => show(config, &id, body.as_deref(), output).await,
        QueueCommand::Replay(chosen) => change(config, "/queue/replay", &chosen, "will be delivered").await,
        QueueCommand::Discard(chosen) => change(config, "/queue/discard", &chosen, "thrown away").await,
    }
}

async fn list(
    config: &Path,
    queue: Option<String>,
    state: Option<QueueState>,
    last: usize,
    output: Output,
) -> anyhow::Result<()> {
    let question = json!({ "queue": queue, "state": state.map(QueueState::as_str), "last": last });
    let answer = asking::order(config, "/queue/list", &question).await?;
    if output.json {
        return terminal::print_json(&answer);
    }
    let mut table = Table::new([
        "ID", "STATE", "QUEUE", "FROM", "TO", "ORDER", "ACCEPTED", "NEXT", "ATTEMPTS", "BYTES", "WHY",
    ]);
    for m in answer.as_array().into_iter().flatten() {
        let state = match m.get("status").and_then(Value::as_u64) {
            Some(status) => format!("{} {status}", text(m, "state")),
            None => text(m, "state").to_owned(),
        };
        table.row([
            text(m, "id").chars().take(8).collect(),
            state,
            text(m, "queue").into(),
            text(m, "from").into(),
            text(m, "to").into(),
            // The domain is told by its own column.
            text(m, "order").split_once(' ').map_or("", |(_, key)| key).into(),
            second(text(m, "accepted")),
            second(text(m, "next")),
            number(m, "attempts"),
            number(m, "bytes"),
            text(m, "why").into(),
        ]);
    }
    if table.is_empty() {
        eprintln!("No messages.");
        return Ok(());
    }
    terminal::print(&table.to_string())
}

async fn show(config: &Path, id: &str, body: Option<&Path>, output: Output) -> anyhow::Result<()> {
    let m = asking::order(config, "/queue/show", &json!({ "ids": [id] })).await?;
    if output.json {
        return terminal::print_json(&m);
    }
    let content = match m.get("body").and_then(Value::as_str) {
        Some(text) => Some(STANDARD.decode(text).context("the gateway's answer is damaged")?),
        None => None,
    };
    if let Some(file) = body {
        let content = content.context("it was delivered: nothing of its content is kept")?;
        return match file == Path::new("-") {
            true => terminal::write(&content),
            false => std::fs::write(file, content).with_context(|| file.display().to_string()),
        };
    }
    let mut shown = String::new();
    for key in [
        "id", "state", "status", "queue", "from", "to", "order", "accepted", "at", "next", "expires",
        "attempts", "why",
    ] {
        match m.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => shown += &format!("{key:9} {}\n", one_line(text)),
            Some(other) => shown += &format!("{key:9} {other}\n"),
        }
    }
    if let Some(content) = content {
        shown += &format!("\n{} {}\n", text(&m, "method"), one_line(text(&m, "uri")));
        for header in m.get("headers").and_then(Value::as_array).into_iter().flatten() {
            let part = |i| header.get(i).and_then(Value::as_str).unwrap_or_default();
            shown += &format!("{}: {}\n", one_line(part(0)), one_line(part(1)));
        }
        shown += &match std::str::from_utf8(&content) {
            Ok(text)
                if !text
                    .chars()
                    .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) =>
            {
                format!("\n{text}\n")
            }
            _ => format!("\n({} bytes that are no text: see --body)\n", content.len()),
        };
    }
    terminal::print(&shown)
}

async fn change(config: &Path, path: &str, chosen: &Chosen, what: &str) -> anyhow::Result<()> {
    let question = json!({ "ids": chosen.ids, "all": chosen.all, "queue": chosen.queue });
    let changed = asking::order(config, path, &question).await?;
    let ids: Vec<_> = changed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match ids.as_slice() {
        [] => eprintln!("No messages were given up."),
        [id] => eprintln!("{id}: {what}."),
        ids => eprintln!("{} messages: {what}.", ids.len()),
    }
    Ok(())
}

/// What came from outside, so that it cannot move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `2026-03-01 12:00:00`, of RFC 3339.
fn second(time: &str) -> String {
    time.chars()
        .take(19)
        .map(|c| if c == 'T' { ' ' } else { c })
        .collect()
}

fn number(m: &Value, key: &str) -> String {
    m.get(key)
        .and_then(Value::as_u64)
        .map_or_else(String::new, |n| n.to_string())
}

fn text<'v>(m: &'v Value, key: &str) -> &'v str {
    m.get(key).and_then(Value::as_str).unwrap_or_default()
}
