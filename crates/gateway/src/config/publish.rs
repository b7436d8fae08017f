//! `[[gateway.publish]]`: exported web services under public host names, and who gets in there.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    time::Duration,
};

use hawser_proto::{HostName, ServiceName, control::MAX_PUBLISHED};
use http::uri::Authority;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    certificate::{CertificatePlan, Said},
    plan::{self, CarrierPlan, Complaints, ExportPlan, OriginPlan},
};
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
    /// PEM file with the certificate for `name`, and those that lead to its authority. Read again when it changes. No default,
    /// unless `acme` is true.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key, readable by this program. No default, unless `acme` is true.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Whether the certificate is got and renewed by `[gateway.acme]`, in place of `certificate` and `key`. Default: false.
    #[serde(default)]
    pub acme: bool,
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
    /// Users of an OpenID Connect provider (authorization code with PKCE).
    Oidc {
        /// The provider: its issuer URL, below which `/.well-known/openid-configuration` is. No default.
        issuer: String,
        /// What the provider calls this client. Its redirect address there is `https://NAME/.hawser/callback`. No default.
        client_id: String,
        /// File with the client's secret, and nothing else (a line end is ignored). Default: none, for a public client.
        #[serde(default)]
        client_secret_file: Option<PathBuf>,
        /// PEM file with the certificate authorities that may vouch for the provider. Default: those of the system.
        #[serde(default)]
        ca: Option<PathBuf>,
        /// Whether the gateway connects to the provider straight, for one inside the domain. Default: false, by the ways out of
        /// `[[gateway.carrier]]`, a web proxy among them.
        #[serde(default)]
        direct: bool,
        /// What is asked for besides "openid". Default: ["email", "profile"].
        #[serde(default = "scopes")]
        scopes: Vec<String>,
        /// The claim that names the user to the service, such as "preferred_username" or "email" where the provider lets nobody
        /// choose another's. Default: "sub", which never changes.
        #[serde(default = "sub")]
        user: String,
        /// Mail addresses of users who get in. The provider must say that an address is verified. Default: [].
        #[serde(default)]
        emails: Vec<String>,
        /// Domains of mail addresses whose users get in, as in "acme.example". Default: [].
        #[serde(default)]
        domains: Vec<String>,
        /// Claims by which users get in: for a claim's name the values one of which it must have, or hold as a list, as in
        /// `{ groups = ["staff"] }`. Default: {}.
        #[serde(default)]
        claims: BTreeMap<String, Vec<String>>,
        /// Whether every user of the provider gets in. Default: false.
        #[serde(default)]
        everyone: bool,
        /// How long a login lasts, from "1m" to "7d". Default: "8h".
        #[serde(default = "eight_hours", with = "humantime_serde")]
        #[schemars(with = "String")]
        session: Duration,
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
    /// Users of a provider.
    Oidc(Box<OidcPlan>),
}

/// Login by an OpenID Connect provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcPlan {
    /// The issuer, as it stands in its tokens.
    pub issuer: String,
    /// This client.
    pub client_id: String,
    /// Where its secret is.
    pub secret: Option<PathBuf>,
    /// Who may vouch for the provider.
    pub ca: Option<PathBuf>,
    /// How it is reached.
    pub carriers: Vec<CarrierPlan>,
    /// What is asked for, "openid" first.
    pub scopes: String,
    /// The claim that is the user's name.
    pub user: String,
    /// Who gets in.
    pub allowed: Allowed,
    /// How long.
    pub session: Duration,
}

/// Which users of a provider get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// All.
    Everyone,
    /// Those to whom one of these applies.
    Some {
        /// Mail addresses, in lower case.
        emails: BTreeSet<String>,
        /// Domains of mail addresses, in lower case.
        domains: BTreeSet<String>,
        /// Names of claims, and the values that let in.
        claims: BTreeMap<String, Vec<String>>,
    },
}

/// What else is configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) exports: &'a [ExportPlan],
    pub(super) carriers: &'a [CarrierPlan],
    /// The name of the broker.
    pub(super) broker: Option<&'a HostName>,
    /// Whether there is `[gateway.acme]`.
    pub(super) acme: bool,
}

pub(super) fn check(all: &[PublishConfig], around: &Around<'_>, bad: &mut Complaints) -> Vec<PublishPlan> {
    let taken = around.broker;
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
        let Some(plan) = one(&key, c, around, bad) else {
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

fn one(key: &str, c: &PublishConfig, around: &Around<'_>, bad: &mut Complaints) -> Option<PublishPlan> {
    let name = bad.take(&format!("{key}.name"), c.name.parse::<HostName>());
    let export = bad.take(&format!("{key}.export"), c.export.parse::<ServiceName>());
    if let Some(export) = &export {
        match around.exports.iter().find(|e| e.name == *export) {
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
    let said = Said {
        certificate: &c.certificate,
        key: &c.key,
        acme: c.acme,
    };
    let certificate = said.check(key, around.acme, bad);
    if certificate == Some(CertificatePlan::None) {
        bad.add(
            key,
            "has no certificate: write certificate and key, or acme = true with the table [gateway.acme]",
        );
    }
    let policy = bad.take(&format!("{key}.allow"), Policy::visitors(&c.allow));
    let login = login(&format!("{key}.login"), &c.login, &c.name, around.carriers, bad);
    let name = name?;
    let authority = match c.port {
        443 => name.to_string(),
        port => format!("{name}:{port}"),
    };
    Some(PublishPlan {
        authority: bad.take(&format!("{key}.name"), authority.parse::<Authority>())?,
        name,
        export: export?,
        certificate: certificate?,
        policy: policy?,
        login: login?,
    })
}

fn login(
    key: &str,
    c: &LoginConfig,
    name: &str,
    carriers: &[CarrierPlan],
    bad: &mut Complaints,
) -> Option<LoginPlan> {
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
        LoginConfig::Oidc {
            issuer,
            client_id,
            client_secret_file,
            ca,
            direct,
            scopes,
            user,
            emails,
            domains,
            claims,
            everyone,
            session,
        } => {
            bad.take(&format!("{key}.issuer"), check_issuer(issuer));
            if user.is_empty() {
                bad.add(
                    &format!("{key}.user"),
                    "is empty: expected a claim, as in \"sub\"",
                );
            }
            if client_id.is_empty() {
                bad.add(
                    &format!("{key}.client_id"),
                    "is empty: expected what the provider calls this client",
                );
            }
            if scopes
                .iter()
                .any(|s| s.is_empty() || !s.bytes().all(|b| b.is_ascii_graphic() && b != b'"'))
            {
                bad.add(&format!("{key}.scopes"), "a scope is one word, as in [\"email\"]");
            }
            let minute = Duration::from_secs(60);
            bad.between(&format!("{key}.session"), *session, minute, minute * 60 * 24 * 7);
            let nobody = emails.is_empty() && domains.is_empty() && claims.is_empty();
            if nobody != *everyone {
                bad.add(
                    key,
                    "does not say who gets in: write `emails`, `domains` or `claims`, or everyone = true without them",
                );
            }
            if let Some(odd) = domains.iter().find(|d| d.contains('@') || d.is_empty()) {
                bad.add(
                    &format!("{key}.domains"),
                    format_args!("{odd:?} is no domain: expected what stands behind the '@'"),
                );
            }
            if let Some(odd) = emails.iter().find(|e| !e.contains('@')) {
                bad.add(
                    &format!("{key}.emails"),
                    format_args!("{odd:?} is no mail address"),
                );
            }
            let lower = |all: &[String]| all.iter().map(|s| s.to_lowercase()).collect();
            let mut asked = vec!["openid".to_owned()];
            asked.extend(scopes.iter().filter(|s| *s != "openid").cloned());
            Some(LoginPlan::Oidc(Box::new(OidcPlan {
                issuer: issuer.clone(),
                client_id: client_id.clone(),
                secret: client_secret_file.clone(),
                ca: ca.clone(),
                carriers: plan::ways(*direct, carriers),
                scopes: asked.join(" "),
                user: user.clone(),
                allowed: match everyone {
                    true => Allowed::Everyone,
                    false => Allowed::Some {
                        emails: lower(emails),
                        domains: lower(domains),
                        claims: claims.clone(),
                    },
                },
                session: *session,
            })))
        }
    }
}

/// An issuer's URL (OpenID Connect Discovery 1.0, section 3).
fn check_issuer(issuer: &str) -> Result<(), String> {
    let url: Option<http::Uri> = issuer.parse().ok();
    let good = url.is_some_and(|url| {
        url.scheme_str() == Some("https") && url.authority().is_some() && url.query().is_none()
    });
    match good && !issuer.contains(['#', '@']) {
        true => Ok(()),
        false => Err(format!(
            "{issuer:?} is no issuer: expected https://HOST[:PORT][/PATH], without a query"
        )),
    }
}

fn https() -> u16 {
    443
}

fn scopes() -> Vec<String> {
    vec!["email".into(), "profile".into()]
}

fn sub() -> String {
    "sub".into()
}

fn eight_hours() -> Duration {
    Duration::from_secs(8 * 3600)
}
