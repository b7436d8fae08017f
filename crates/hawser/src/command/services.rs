//! `hawser services`: what may be called from here, and what is exported.

use std::path::Path;

use anyhow::bail;
use serde_json::Value;

use super::status::directories;
use crate::{admin, cli::Output, failure::NothingRuns, table::Table, terminal};

pub(super) async fn run(config: &Path, filter: Option<&str>, output: Output) -> anyhow::Result<()> {
    let Some((_, directory)) = directories(config)?
        .into_iter()
        .find(|(name, _)| *name == "gateway")
    else {
        bail!(
            "{} has no [gateway] table, and services are what gateways call; see `hawser status`",
            config.display()
        );
    };
    let Some(answer) = admin::ask(&directory, "/services").await? else {
        return Err(NothingRuns(format!(
            "no gateway runs on {}; start it with `hawser run -c {}`",
            directory.display(),
            config.display()
        ))
        .into());
    };
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
