//! `hawser doctor`: looks at everything that must hold for calls to work, in the order in which it must hold.

mod hub;
mod local;
mod login;
mod network;
mod published;
mod traces;

use std::{path::Path, time::Duration};

use serde::Serialize;

use crate::{
    beside,
    cli::Output,
    config::Config,
    failure::{self, Quiet},
    table::Table,
    terminal,
};

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One look.
#[derive(Debug, Serialize)]
struct Row {
    /// What was looked at.
    check: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do; empty when there is nothing to do.
    advice: String,
}

/// All looks, in order.
#[derive(Debug, Default)]
struct Findings(Vec<Row>);

impl Findings {
    fn ok(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.add(check, Verdict::Ok, found, "");
    }

    fn warn(&mut self, check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Verdict::Warn, found, advice);
    }

    fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Verdict::Fail, found, advice);
    }

    fn add(
        &mut self,
        check: impl Into<String>,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.0.push(Row {
            check: check.into(),
            verdict,
            found: found.into(),
            advice: advice.into(),
        });
    }

    fn failed(&self) -> bool {
        self.0.iter().any(|r| r.verdict == Verdict::Fail)
    }
}

pub(super) async fn run(path: &Path, output: Output, timeout: Duration) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    if let Some(config) = local::config(path, &mut findings) {
        look(&config, timeout, &mut findings).await;
    }
    print(&findings, output)?;
    if findings.failed() {
        Err(Quiet.into())
    } else {
        Ok(())
    }
}

async fn look(config: &Config, timeout: Duration, findings: &mut Findings) {
    if let Some(c) = &config.hub {
        hub::look(c, timeout, findings).await;
    }
    let (Some(c), Ok(Some(plan))) = (&config.gateway, beside::gateway(config)) else {
        return;
    };
    if !local::state(&c.state, "gateway", findings) {
        return;
    }
    let Some(own) = local::identity(&c.state, findings) else {
        return;
    };
    let running = local::running(&c.state, findings).await;
    let summary = match hawser_gateway::admin::summary(&c.state).await {
        Ok(summary) => summary,
        Err(e) => {
            let advice = "is the disk full, or the database of a newer version?";
            return findings.fail("database", failure::message(&e.into()), advice);
        }
    };
    network::Network {
        plan: &plan,
        own,
        running: running.as_ref(),
        timeout,
    }
    .look(&summary, findings)
    .await;
    if let Some(warning) = config.hub.as_ref().and_then(|hub| beside::warning(hub, &plan)) {
        findings.warn(
            "hub policy",
            warning,
            "add rules for both directions, then reload",
        );
    }
    published::Published {
        plan: &plan,
        state: &c.state,
        running: running.as_ref(),
        timeout,
    }
    .look(&summary, findings)
    .await;
    login::look(&plan, timeout, findings).await;
    traces::look(&plan, timeout, findings).await;
    local::peers(&summary, findings);
    if running.is_some() {
        local::services(&c.state, findings).await;
    }
}

fn print(findings: &Findings, output: Output) -> anyhow::Result<()> {
    if output.json {
        return terminal::print_json(&findings.0);
    }
    let mut table = Table::new(["", "CHECK", "FOUND"]);
    for row in &findings.0 {
        let word = match row.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        table.row([word.into(), row.check.clone(), row.found.clone()]);
    }
    let mut text = table.to_string();
    let advice: Vec<&Row> = findings.0.iter().filter(|r| !r.advice.is_empty()).collect();
    if !advice.is_empty() {
        text.push_str("\nWhat to do:\n");
    }
    for row in advice {
        text.push_str(&format!("  {}: {}\n", row.check, row.advice));
    }
    terminal::print(&text)
}
