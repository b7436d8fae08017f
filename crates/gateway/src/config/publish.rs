//! `[[gateway.publish]]`: exported web services under public host names, and who gets in there.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use hawser_proto::{HostName, ServiceName, control::MAX_PUBLISHED};
use http::uri::Authority;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{Complaints, ExportPlan, OriginPlan};
use crate::export::policy::Policy;

/// Longest realm in bytes.
const MAX_REALM: usize = 100;

/// `[[gateway.publish]]`: a web service of this domain under a public host name, for visitors without a gateway. They reach it at
/// the hub, which passes on what it cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishConfig {
    /// Host name, which must lead to hubs whose operators let this domain publish it (`[[hub.publish]]`). No default.
    pub name: String,
    /// The service that it leads to: the `name` of an `[[gateway.export]]` with `http`. That table's `allow` is for other domains;
    /// what visitors may do is said here. No default.
    pub export: String,
    /// PEM file with the certificate for `name`, and those that lead to its authority. Read again when it changes. No default.
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key, readable by this program. No default.
    pub key: PathBuf,
    /// Port of the hub, as visitors reach it. Default: 443.
    #[serde(default = "https")]
    pub port: u16,
    /// What visitors may do, once they are in. Default: nothing.
    #[serde(default)]
    pub allow: Vec<VisitorsConfig>,
    /// Who gets in. No default: where everybody is to, write `login = { kind = "none" }`.
    pub login: LoginConfig,
}

/// One rule for visitors: these methods on these paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VisitorsConfig {
    /// HTTP methods. Default: all.
    pub methods: Vec<String>,
    /// Paths, written as in `[[gateway.export.allow]]`. Default: all.
    pub paths: Vec<String>,
}

/// `[gateway.publish.login]`: who gets in, decided at this gateway before the service hears of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum LoginConfig {
    /// Everybody.
    None {},
    /// Users with a password (HTTP Basic), whom `hawser login set` adds.
    Basic {
        /// What browsers show when they ask for the password. Default: the host name.
        #[serde(default)]
        realm: Option<String>,
        /// Users who get in. Default: all that `hawser login list` shows.
        #[serde(default)]
        users: Vec<String>,
    },
}

/// A published service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPlan {
    /// Its name outside.
    pub name: HostName,
    /// As visitors write it: the name, and the port if it is not that of HTTPS.
    pub authority: Authority,
    /// The service.
    pub export: ServiceName,
    /// By which certificate it is known.
    pub certificate: CertificatePlan,
    /// What visitors may do.
    pub policy: Policy,
    /// Who gets in.
    pub login: LoginPlan,
}

/// Where the certificate of a public name comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificatePlan {
    /// Nowhere: the name is for those who verify it by the domain's root.
    None,
    /// PEM files that an operator keeps.
    Files {
        /// The certificate, and those that lead to its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// Who gets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginPlan {
    /// Everybody.
    None,
    /// Users with a password.
    Basic {
        /// What browsers show.
        realm: String,
        /// Who; none is all.
        users: Option<BTreeSet<String>>,
    },
}

pub(super) fn check(
    all: &[PublishConfig],
    exports: &[ExportPlan],
    taken: Option<&HostName>,
    bad: &mut Complaints,
) -> Vec<PublishPlan> {
    if all.len() + usize::from(taken.is_some()) > MAX_PUBLISHED {
        bad.add(
            "gateway.publish",
            format_args!(
                "{} names are too many: at most {MAX_PUBLISHED}, with that of the broker",
                all.len()
            ),
        );
    }
    let mut names: HashSet<HostName> = taken.cloned().into_iter().collect();
    let mut plans = Vec::new();
    for (i, c) in all.iter().enumerate() {
        let key = format!("gateway.publish[{i}]");
        let Some(plan) = one(&key, c, exports, bad) else {
            continue;
        };
        if !names.insert(plan.name.clone()) {
            bad.add(
                &format!("{key}.name"),
                format_args!("{} is published twice: one table per name", plan.name),
            );
        }
        plans.push(plan);
    }
    plans
}

fn one(key: &str, c: &PublishConfig, exports: &[ExportPlan], bad: &mut Complaints) -> Option<PublishPlan> {
    let name = bad.take(&format!("{key}.name"), c.name.parse::<HostName>());
    let export = bad.take(&format!("{key}.export"), c.export.parse::<ServiceName>());
    if let Some(export) = &export {
        match exports.iter().find(|e| e.name == *export) {
            Some(e) if matches!(e.origin, OriginPlan::Http { .. }) => {}
            Some(_) => bad.add(
                &format!("{key}.export"),
                format_args!("{export} is no web service: name an export with `http`"),
            ),
            None => bad.add(
                &format!("{key}.export"),
                format_args!("there is no [[gateway.export]] of the name {export}"),
            ),
        }
    }
    if c.port == 0 {
        bad.add(&format!("{key}.port"), "0 is no port: expected that of the hub");
    }
    let policy = bad.take(&format!("{key}.allow"), Policy::visitors(&c.allow));
    let login = login(&format!("{key}.login"), &c.login, &c.name, bad);
    let name = name?;
    let authority = match c.port {
        443 => name.to_string(),
        port => format!("{name}:{port}"),
    };
    Some(PublishPlan {
        authority: bad.take(&format!("{key}.name"), authority.parse::<Authority>())?,
        name,
        export: export?,
        certificate: CertificatePlan::Files {
            certificate: c.certificate.clone(),
            key: c.key.clone(),
        },
        policy: policy?,
        login: login?,
    })
}

fn login(key: &str, c: &LoginConfig, name: &str, bad: &mut Complaints) -> Option<LoginPlan> {
    match c {
        LoginConfig::None {} => Some(LoginPlan::None),
        LoginConfig::Basic { realm, users } => {
            let realm = realm.clone().unwrap_or_else(|| name.to_owned());
            let odd = |c: char| c.is_control() || !c.is_ascii() || matches!(c, '"' | '\\');
            if realm.is_empty() || realm.len() > MAX_REALM || realm.contains(odd) {
                bad.add(
                    &format!("{key}.realm"),
                    format_args!("expected 1 to {MAX_REALM} ASCII characters without '\"' and '\\'"),
                );
            }
            let users: BTreeSet<_> = users.iter().cloned().collect();
            Some(LoginPlan::Basic {
                realm,
                users: (!users.is_empty()).then_some(users),
            })
        }
    }
}

fn https() -> u16 {
    443
}
