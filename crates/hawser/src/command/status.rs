//! `hawser status`: what the processes on this machine say of themselves.

use std::path::{Path, PathBuf};

use serde_json::Map;

use super::state;
use crate::{
    admin,
    cli::{GatewayState, Output, hub::HubState, machines::HostState},
    failure::NothingRuns,
    show, terminal,
};

pub(super) async fn run(config: &Path, output: Output) -> anyhow::Result<()> {
    let mut all = Map::new();
    let directories = directories(config)?;
    for (name, directory) in &directories {
        if let Some(status) = admin::ask(directory, "/status").await? {
            all.insert((*name).into(), status);
        }
    }
    if all.is_empty() {
        let places: Vec<String> = directories.iter().map(|(_, d)| d.display().to_string()).collect();
        return Err(NothingRuns(format!(
            "nothing runs on {}; start it with `hawser run -c {}`",
            places.join(" or "),
            config.display()
        ))
        .into());
    }
    if output.json {
        return terminal::print_json(&all);
    }
    let text: Vec<String> = all
        .iter()
        .map(|(name, status)| format!("{name}\n{}", show::indented(status)))
        .collect();
    terminal::print(&text.join("\n"))
}

/// The state directories that the configuration names, or the default gateway's.
pub(super) fn directories(config: &Path) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let read = state::read(config)?;
    let mut some = Vec::new();
    if read.as_ref().is_some_and(|c| c.hub.is_some()) {
        some.push(("hub", state::hub(config, &HubState { directory: None })?));
    }
    if read.as_ref().is_some_and(|c| c.host.is_some()) {
        some.push(("host", state::host(config, &HostState { directory: None })?));
    }
    if read
        .as_ref()
        .is_none_or(|c| c.gateway.is_some() || (c.hub.is_none() && c.host.is_none()))
    {
        some.push((
            "gateway",
            state::gateway(config, &GatewayState { directory: None })?,
        ));
    }
    Ok(some)
}
