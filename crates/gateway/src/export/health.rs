//! Whether exports work: checks at intervals, with thresholds so that one odd answer changes nothing.

use std::sync::Arc;

use http::{Request, header::USER_AGENT};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Export, Kind, dial::dial};
use crate::{config::HealthPlan, problem::empty};

/// The judgement over a series of checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    rise: u32,
    fall: u32,
    healthy: Option<bool>,
    /// Checks in a row that speak against `healthy`.
    against: u32,
}

impl Judge {
    /// A judge that turns to healthy after `rise` good checks in a row, and back after `fall` bad ones.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise,
            fall,
            healthy: None,
            against: 0,
        }
    }

    /// Hears one check; the first decides at once. Returns the judgement.
    pub fn hear(&mut self, good: bool) -> bool {
        let Some(now) = self.healthy else {
            self.healthy = Some(good);
            return good;
        };
        self.against = if good == now { 0 } else { self.against + 1 };
        let enough = if now { self.fall } else { self.rise };
        if self.against >= enough {
            self.against = 0;
            self.healthy = Some(good);
            return good;
        }
        now
    }
}

/// Checks `export` until it is dropped, and tells `changed` of each judgement that differs from the one before.
pub(super) async fn watch(
    export: std::sync::Weak<Export>,
    plan: HealthPlan,
    changed: impl Fn(&Export, bool),
) {
    let mut judge = Judge::new(plan.rise, plan.fall);
    let mut ticks = interval(plan.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let Some(export) = export.upgrade() else { return };
        let outcome = match timeout(plan.timeout, check(&export, &plan)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", plan.timeout)),
        };
        let healthy = judge.hear(outcome.is_ok());
        if before.replace(healthy) != Some(healthy) {
            match outcome {
                Err(why) if !healthy => {
                    tracing::warn!(service = %export.plan.name, why, "the service is unhealthy: callers go elsewhere");
                }
                _ => tracing::info!(service = %export.plan.name, "the service is healthy"),
            }
            changed(&export, healthy);
        }
    }
}

async fn check(export: &Arc<Export>, plan: &HealthPlan) -> Result<(), String> {
    match &export.kind {
        Kind::Tcp { host, port } => dial(host, *port, plan.timeout)
            .await
            .map(drop)
            .map_err(|e| e.to_string()),
        Kind::Clients => Ok(()),
        Kind::Http { origin, .. } => {
            let request = Request::get(plan.path.as_str())
                .header(USER_AGENT, concat!("hawser-health/", env!("CARGO_PKG_VERSION")))
                .body(empty())
                .map_err(|e| e.to_string())?;
            let response = origin.check(request).await.map_err(|e| e.to_string())?;
            let status = response.status();
            if status.is_success() || status.is_redirection() {
                Ok(())
            } else {
                Err(format!("it answered {status}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_smooth_and_the_first_check_decides() {
        let mut j = Judge::new(2, 3);
        let heard: Vec<bool> = [
            true, false, false, true, false, false, false, true, false, true, true,
        ]
        .map(|g| j.hear(g))
        .to_vec();
        assert_eq!(
            heard,
            [
                true, true, true, true, true, true, false, false, false, false, true
            ]
        );
        assert!(!Judge::new(5, 5).hear(false));
    }
}
