//! Looks at the collector of traces.

use std::time::Duration;

use hawser_gateway::{config::GatewayPlan, traces};

use super::Findings;
use crate::failure;

/// Asks the collector as the gateway would. Calls do not depend on it: what is wrong is a warning.
pub(super) async fn look(plan: &GatewayPlan, timeout: Duration, findings: &mut Findings) {
    let Some(traces) = &plan.traces else { return };
    let collector = format!("{}{}", traces.collector, traces.path.path());
    let why = match tokio::time::timeout(timeout, traces::probe(traces)).await {
        Ok(Ok(())) => return findings.ok("traces", format!("{collector} takes spans")),
        Ok(Err(e)) => failure::message(&e.into()),
        Err(_) => format!("it gave no answer within {}", humantime::format_duration(timeout)),
    };
    findings.warn(
        "traces",
        format!("{collector}: {why}"),
        "spans are lost, calls go on: see whether the collector runs, is reached from here, and takes what [gateway.traces] says",
    );
}
