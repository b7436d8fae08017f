//! Looks at published names: whether the DNS leads to the hubs, whether certificates last, and who else could get one.

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

use hawser_gateway::{
    acme::{
        self, DnsError, Survey,
        caa::{self, Issuer},
    },
    admin::Summary,
    config::{CertificatePlan, GatewayPlan},
};
use hawser_identity::HubAddress;
use hawser_proto::{HostName, UnixTime};
use serde_json::Value;
use tokio::time::timeout;

use super::Findings;
use crate::{failure, when};

/// A given certificate that ends sooner than this should have been renewed.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What the looks need to know.
pub(super) struct Published<'a> {
    pub(super) plan: &'a GatewayPlan,
    pub(super) state: &'a Path,
    /// Status of the gateway that runs here, if one does.
    pub(super) running: Option<&'a Value>,
    pub(super) timeout: Duration,
}

impl Published<'_> {
    /// Every name.
    pub(super) async fn look(self, summary: &Summary, findings: &mut Findings) {
        let broker = self.plan.broker.iter().map(|b| (&b.name, &b.certificate));
        let exports = self.plan.publish.iter().map(|p| (&p.name, &p.certificate));
        let names: Vec<_> = broker.chain(exports).collect();
        if names.is_empty() {
            return;
        }
        let survey = match Survey::new(self.plan.acme.as_ref()) {
            Ok(survey) => survey,
            Err(e) => {
                let advice = "name DNS servers in gateway.acme.resolvers, or in /etc/resolv.conf";
                return findings.fail("dns", failure::message(&e.into()), advice);
            }
        };
        let hubs = self.hubs(&survey, summary).await;
        let issuer = self.issuer(findings).await;
        for (name, certificate) in names {
            self.leads(&survey, name, &hubs, findings).await;
            if *certificate == CertificatePlan::None {
                continue;
            }
            self.lasts(name, findings);
            match (certificate, &issuer) {
                (CertificatePlan::Acme, None) => {}
                (CertificatePlan::Acme, issuer) => self.caa(&survey, name, issuer.as_ref(), findings).await,
                _ => self.caa(&survey, name, None, findings).await,
            }
        }
    }

    /// The hubs' addresses; those that the DNS does not know here are looked at elsewhere.
    async fn hubs(&self, survey: &Survey, summary: &Summary) -> BTreeSet<IpAddr> {
        let mut all = BTreeSet::new();
        for (hub, _) in &summary.hubs {
            let Ok(hub) = hub.parse::<HubAddress>() else {
                continue;
            };
            match hub.host().parse::<IpAddr>() {
                Ok(ip) => all.extend([ip]),
                Err(_) => {
                    if let Ok(found) = self.in_time(survey.addresses(hub.host())).await {
                        all.extend(found);
                    }
                }
            }
        }
        all
    }

    /// Who issues certificates here, if anybody does.
    async fn issuer(&self, findings: &mut Findings) -> Option<Issuer> {
        let plan = self.plan.acme.as_ref()?;
        let asked = timeout(self.timeout, acme::issuer(plan, self.state)).await;
        let why = match asked {
            Ok(Ok(issuer)) => {
                let account = match &issuer.account {
                    Some(account) => format!("account {account}"),
                    None => "no account yet".into(),
                };
                findings.ok("acme", format!("{}: {account}", plan.directory));
                return Some(issuer);
            }
            Ok(Err(e)) => failure::message(&e.into()),
            Err(_) => late(self.timeout),
        };
        findings.fail(
            "acme",
            format!("{}: {why}", plan.directory),
            "certificates are neither got nor renewed: see whether the authority is reached from here, and [gateway.acme]",
        );
        None
    }

    /// Whether visitors come to a hub.
    async fn leads(
        &self,
        survey: &Survey,
        name: &HostName,
        hubs: &BTreeSet<IpAddr>,
        findings: &mut Findings,
    ) {
        let check = format!("dns {name}");
        let to = hubs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        match self.in_time(survey.addresses(&name.to_string())).await {
            Err(why) => findings.warn(
                check,
                why,
                "name DNS servers that know the name in gateway.acme.resolvers, or look from outside whether it leads to the hub",
            ),
            Ok(found) if found.is_empty() => findings.fail(
                check,
                "the DNS has no address for it",
                format!("visitors cannot find it: let A or AAAA records lead to the hub ({to})"),
            ),
            Ok(found) => {
                let shown = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                if hubs.is_empty() || found.iter().any(|ip| hubs.contains(ip)) {
                    findings.ok(check, shown);
                } else {
                    findings.warn(
                        check,
                        format!("{shown}, and the hub is {to} from here"),
                        "unless the hub has other addresses outside: let the name lead to the hub",
                    );
                }
            }
        }
    }

    /// What the running gateway says of the certificate.
    fn lasts(&self, name: &HostName, findings: &mut Findings) {
        let Some(status) = self.running else { return };
        let all = status["certificates"].as_array();
        let own = all.and_then(|all| all.iter().find(|c| c["name"] == name.to_string()));
        let Some(own) = own else { return };
        let check = format!("certificate {name}");
        let ends = own["ends"].as_u64().map(UnixTime);
        let left = ends.map(|ends| UnixTime::now().until(ends));
        let state = match ends {
            None => "there is none".to_owned(),
            Some(ends) => format!("ends {} ({})", when::relative(ends), when::date(ends)),
        };
        let by_acme = own["source"] == "acme";
        let advice = "correct what is wrong, then reload: the gateway tries again at once";
        match (own["error"].as_str(), left) {
            (Some(error), None | Some(Duration::ZERO)) => {
                findings.fail(check, format!("{state}: {error}"), advice);
            }
            (Some(error), Some(_)) => findings.warn(check, format!("{state}: {error}"), advice),
            (None, None) => findings.warn(check, "there is none yet", "wait: it is being ordered"),
            (None, Some(Duration::ZERO)) => findings.fail(check, state, "renew it"),
            (None, Some(left)) if !by_acme && left < SOON => {
                findings.warn(check, state, "renew it, or let [gateway.acme] do so");
            }
            _ => findings.ok(check, state),
        }
    }

    /// Who else could get one.
    async fn caa(&self, survey: &Survey, name: &HostName, issuer: Option<&Issuer>, findings: &mut Findings) {
        let check = format!("caa {name}");
        let records = match self.in_time(survey.caa(&name.to_string())).await {
            Ok(records) => records,
            Err(why) => {
                let advice =
                    "authorities issue nothing when the DNS does not answer: see to the servers of the zone";
                return findings.warn(check, why, advice);
            }
        };
        let flaws = caa::judge(&records, issuer);
        let Some(first) = flaws.iter().find(|f| f.shuts_out()).or(flaws.first()) else {
            return findings.ok(check, "only this domain can get a certificate for it");
        };
        let record = match issuer {
            Some(issuer) => format!("set the record {name} CAA {}", caa::wanted(issuer)),
            None => format!(
                "set the record {name} CAA 0 issue \"(name of the authority); validationmethods=dns-01\""
            ),
        };
        if first.shuts_out() {
            findings.fail(
                check,
                first.to_string(),
                format!("{record}: the authority refuses otherwise"),
            );
        } else {
            findings.warn(
                check,
                first.to_string(),
                format!("{record}: whoever runs the hub could pass for this name otherwise"),
            );
        }
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, DnsError>>) -> Result<T, String> {
        match timeout(self.timeout, asked).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(failure::message(&e.into())),
            Err(_) => Err(late(self.timeout)),
        }
    }
}

fn late(after: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(after))
}
