//! `hawser inspect`: the last exchanges of each service, which of them belong together, and those that are recorded, whole. The gateway
//! masks secrets; they do not come here.

mod har;
mod whole;

use std::path::Path;

use hawser_proto::UnixTime;
use serde_json::Value;

use super::asking;
use crate::{
    cli::calls::{InspectArgs, InspectCommand},
    table::Table,
    terminal, when,
};

pub(super) async fn run(config: &Path, args: InspectArgs) -> anyhow::Result<()> {
    match args.command {
        None => {}
        Some(InspectCommand::Show { request, output }) => {
            return whole::show(config, &request, output.json).await;
        }
        Some(InspectCommand::Replay { request, yes, output }) => {
            return whole::replay(config, &request, yes, output.json).await;
        }
        Some(InspectCommand::Har { service, last, file }) => {
            return har::write(config, service.as_deref(), last, file.as_deref()).await;
        }
    }
    let answer = asking::gateway(config, "/exchanges").await?;
    let wanted = |e: &&Value| {
        args.service
            .as_deref()
            .is_none_or(|s| text(e, "service").contains(s))
    };
    let all: Vec<&Value> = answer.as_array().into_iter().flatten().filter(wanted).collect();
    let last = &all[all.len().saturating_sub(args.last)..];
    if args.output.json {
        return terminal::print_json(&last);
    }
    let mut table = Table::new([
        "TIME",
        "REQUEST",
        "SIDE",
        "FROM",
        "METHOD",
        "SERVICE AND PATH",
        "STATUS",
        "MS",
        "BYTES",
        "MESSAGE",
        "CALLS BACK",
    ]);
    for e in last {
        let status = match (e.get("status").and_then(Value::as_u64), text(e, "outcome")) {
            (Some(status), "complete") => status.to_string(),
            (Some(status), outcome) => format!("{status} {outcome}"),
            (None, outcome) => outcome.to_owned(),
        };
        table.row([
            when::date(UnixTime(number(e, "at") / 1000)),
            short(text(e, "request")),
            text(e, "side").into(),
            from(e),
            text(e, "method").into(),
            text(e, "what").into(),
            status,
            number(e, "ms").to_string(),
            number(e, "bytes").to_string(),
            message(e),
            called_back(e),
        ]);
    }
    if table.is_empty() {
        eprintln!("No exchanges yet: the last 200 of each service are kept while the gateway runs.");
        return Ok(());
    }
    terminal::print(&table.to_string())
}

/// Where it came from, and who logged in there.
fn from(e: &Value) -> String {
    match (text(e, "user"), text(e, "who")) {
        ("", who) => who.to_owned(),
        (user, who) => format!("{user} at {who}"),
    }
}

/// What a SOAP message is, and which call it answers.
fn message(e: &Value) -> String {
    let soap = e.get("soap");
    let part = |key| soap.and_then(|s| s.get(key)?.as_str()).map(str::to_owned);
    let answers: Vec<_> = strings(e, "answers").map(short).collect();
    let what = part("operation").or_else(|| part("action")).unwrap_or_default();
    let replays = text(e, "replays");
    match answers.as_slice() {
        [] if !replays.is_empty() => format!("{what} replays {}", short(replays))
            .trim_start()
            .to_owned(),
        [] => what,
        answers => format!("{what} answers {}", answers.join(" "))
            .trim_start()
            .to_owned(),
    }
}

fn called_back(e: &Value) -> String {
    let replaced: Vec<_> = strings(e, "replaced").collect();
    let left: Vec<_> = strings(e, "left").map(|l| format!("({l})")).collect();
    [replaced.join(" "), left.join(" ")].join(" ").trim().to_owned()
}

fn strings<'v>(e: &'v Value, key: &str) -> impl Iterator<Item = &'v str> {
    e.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn number(e: &Value, key: &str) -> u64 {
    e.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn text<'v>(e: &'v Value, key: &str) -> &'v str {
    e.get(key).and_then(Value::as_str).unwrap_or_default()
}
