//! Looks at the OpenID Connect providers by which visitors of published names log in.

use std::time::Duration;

use hawser_gateway::{
    config::{GatewayPlan, LoginPlan},
    public::login::oidc,
};

use super::Findings;
use crate::failure;

/// Beyond this, in seconds, a provider's tokens may be over before they are read, or not have begun.
const CLOCKS: i64 = 60;

/// Asks each provider as a login would.
pub(super) async fn look(plan: &GatewayPlan, timeout: Duration, findings: &mut Findings) {
    for published in &plan.publish {
        let LoginPlan::Oidc(login) = &published.login else {
            continue;
        };
        let check = format!("login {}", published.name);
        let issuer = &login.issuer;
        let probe = match tokio::time::timeout(timeout, oidc::probe(login)).await {
            Ok(Ok(probe)) => probe,
            Ok(Err(e)) => {
                findings.fail(
                    check,
                    format!("{issuer}: {}", failure::message(&e.into())),
                    "visitors cannot log in: see whether the provider runs and is reached from here, and [gateway.publish.login]",
                );
                continue;
            }
            Err(_) => {
                findings.fail(
                    check,
                    format!("{issuer} did not answer within {}", humantime::format_duration(timeout)),
                    "visitors cannot log in: see whether the provider is reached from here, and by which way out",
                );
                continue;
            }
        };
        let ahead = probe.ahead.unwrap_or_default();
        let found = format!("{issuer}: {} keys", probe.keys);
        if ahead.abs() > CLOCKS {
            let found = format!("{found}, its clock is {ahead} s from this one");
            findings.warn(
                check,
                found,
                "let both keep time by NTP: tokens are over or not yet valid otherwise",
            );
        } else {
            findings.ok(check, found);
        }
    }
}
