//! `hawser services`: what may be called from here, and what is exported.

use std::path::Path;

use hawser_proto::ServiceId;
use serde_json::{Value, json};

use super::asking;
use crate::{
    cli::{
        Output,
        calls::{ServicesArgs, ServicesCommand},
    },
    table::Table,
    terminal,
};

pub(super) async fn run(config: &Path, args: ServicesArgs) -> anyhow::Result<()> {
    match args.command {
        Some(ServicesCommand::Show { service, output }) => show(config, &service, output).await,
        Some(ServicesCommand::Describe { service }) => {
            let interface = interface(config, &service).await?;
            terminal::print(text(&interface, "text"))
        }
        None => list(config, args.filter.as_deref(), args.output).await,
    }
}

/// A service's description and what it says in short.
async fn interface(config: &Path, service: &ServiceId) -> anyhow::Result<Value> {
    asking::order(config, "/interface", &json!({ "service": service })).await
}

async fn show(config: &Path, service: &ServiceId, output: Output) -> anyhow::Result<()> {
    let interface = interface(config, service).await?;
    let summary = interface.get("summary").cloned().unwrap_or_default();
    if output.json {
        return terminal::print_json(&summary);
    }
    let title = [
        text(&summary, "title"),
        text(&summary, "version"),
        text(&summary, "kind"),
    ];
    let title = title
        .iter()
        .filter(|t| !t.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let mut shown = format!("{service}: {title}\n");
    for key in ["endpoints", "imports"] {
        let all: Vec<_> = summary
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !all.is_empty() {
            shown += &format!("{key}: {}\n", all.join(" "));
        }
    }
    let mut table = Table::new(["OPERATION", "METHOD", "PATH", "ANSWER"]);
    for o in summary
        .get("operations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let is = |key| o.get(key) == Some(&Value::Bool(true));
        let answer = match (is("callback"), is("one_way")) {
            (true, _) => "calls its client",
            (false, true) => "none, or later",
            (false, false) => "",
        };
        table.row([
            text(o, "name").into(),
            text(o, "method").into(),
            text(o, "path").into(),
            answer.into(),
        ]);
    }
    let rule = rule(service, interface.get("hints").unwrap_or(&Value::Null));
    terminal::print(&format!("{shown}{table}{rule}"))
}

/// What its clients' gateway needs to know of addresses in its messages, if the description says where they are.
fn rule(service: &ServiceId, hints: &Value) -> String {
    let list = |key: &str| {
        let all = hints
            .get(key)
            .and_then(Value::as_array)
            .filter(|all| !all.is_empty())?;
        // A list of strings is written in TOML as in JSON.
        Some(format!("{key} = {}\n", Value::from(all.clone())))
    };
    let lines: String = ["json", "headers", "query"]
        .into_iter()
        .filter_map(list)
        .collect();
    match lines.is_empty() {
        true => lines,
        false => format!(
            "\nIt calls its clients at addresses in their requests. For the configuration of the clients' gateway:\n\n\
             [[gateway.callbacks.rule]]\nservice = \"{service}\"\n{lines}"
        ),
    }
}

async fn list(config: &Path, filter: Option<&str>, output: Output) -> anyhow::Result<()> {
    let answer = asking::gateway(config, "/services").await?;
    let wanted = |service: &&Value| {
        filter
            .is_none_or(|f| text(service, "service").contains(f) || text(service, "description").contains(f))
    };
    let services: Vec<&Value> = answer.as_array().into_iter().flatten().filter(wanted).collect();
    if output.json {
        return terminal::print_json(&services);
    }
    let mut table = Table::new([
        "SERVICE",
        "PROTOCOL",
        "HEALTHY AT",
        "UNHEALTHY AT",
        "THROUGH",
        "DESCRIPTION",
    ]);
    for service in services {
        let gateways: Vec<&Value> = service
            .get("gateways")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .collect();
        let named = |healthy: bool| {
            let names = gateways
                .iter()
                .filter(|g| g.get("healthy") == Some(&Value::Bool(healthy)));
            names.map(|g| text(g, "name")).collect::<Vec<_>>().join(" ")
        };
        let mut hubs: Vec<&str> = gateways
            .iter()
            .filter_map(|g| g.get("hubs")?.as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        hubs.sort_unstable();
        hubs.dedup();
        table.row([
            text(service, "service").into(),
            text(service, "protocol").into(),
            named(true),
            named(false),
            hubs.join(" "),
            text(service, "description").into(),
        ]);
    }
    if table.is_empty() {
        eprintln!(
            "No service{}. The hub shows what its [[hub.allow]] rules let this domain see, of gateways that are connected.",
            if filter.is_some() {
                " that contains this"
            } else {
                ""
            }
        );
        return Ok(());
    }
    terminal::print(&table.to_string())
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
