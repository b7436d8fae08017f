//! `hawser check`: what the configuration would run.

use std::{fmt::Write as _, path::Path};

use serde_json::json;

use crate::{
    beside,
    cli::Output,
    config::ConfigErrors,
    daemon::{self, Which},
    terminal,
};

pub(super) fn run(path: &Path, output: Output) -> anyhow::Result<()> {
    let loaded = daemon::load(path, Which::All);
    if output.json {
        let errors = loaded.as_ref().err().map(ConfigErrors::list).unwrap_or_default();
        terminal::print_json(&json!({
            "config": path,
            "ok": loaded.is_ok(),
            "errors": errors,
            "hub": loaded.as_ref().ok().and_then(|c| c.hub.as_ref()),
            "gateway": loaded.as_ref().ok().and_then(|c| c.gateway.as_ref()),
            "host": loaded.as_ref().ok().and_then(|c| c.host.as_ref()),
        }))?;
    }
    let config = loaded?;
    if output.json {
        return Ok(());
    }
    let mut text = String::new();
    let mut part = |plan: String| writeln!(text, "{}", plan.trim_end());
    if let Some(Ok(plan)) = config.hub.as_ref().map(|c| c.check()) {
        part(plan.to_string())?;
    }
    if let Some(plan) = beside::gateway(&config)? {
        part(plan.to_string())?;
        let beside = config.hub.as_ref().and_then(|hub| beside::warning(hub, &plan));
        for warning in plan.warnings().into_iter().chain(beside) {
            part(format!("warning: {warning}"))?;
        }
    }
    if let Some(Ok(address)) = config.host.as_ref().map(|c| c.check()) {
        part(format!(
            "a hypervisor host that listens on {address} (TCP and UDP)"
        ))?;
    }
    if let Some(listen) = config.admin.listen {
        part(format!("metrics and health on http://{}", listen.0))?;
    }
    part(format!("logs as {} at {}", config.log.format, config.log.level.0))?;
    terminal::print(&text)
}
