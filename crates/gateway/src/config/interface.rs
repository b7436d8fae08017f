//! `[gateway.export.interface]`: what a service says of itself, as WSDL 1.1 or OpenAPI 3.

use std::path::PathBuf;

use http::{Uri, uri::PathAndQuery};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{Complaints, OriginUrl};

/// `[gateway.export.interface]`: the service's description, WSDL 1.1 or OpenAPI 3. Exactly one of `file`, `path` and `url` says
/// where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InterfaceConfig {
    /// A file. Default: none.
    pub file: Option<PathBuf>,
    /// Where the service itself has it, as in "/orders?wsdl" or "/openapi.json". Default: none.
    pub path: Option<String>,
    /// Where another server has it: "http://..." or "https://...". Default: none.
    pub url: Option<String>,
    /// Whether requests that the description does not know, or whose bodies are not as it says, are refused. Default: false.
    pub validate: bool,
}

/// A checked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlan {
    /// Where the description is.
    pub at: DocumentPlan,
    /// Whether requests are held against it.
    pub validate: bool,
}

/// Where a description is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentPlan {
    /// In a file.
    File(PathBuf),
    /// At the service.
    Origin(PathAndQuery),
    /// At another server.
    Elsewhere(OriginUrl, PathAndQuery),
}

pub(super) fn check(
    key: &str,
    c: &InterfaceConfig,
    (tcp, clients): (bool, bool),
    bad: &mut Complaints,
) -> Option<InterfacePlan> {
    if tcp {
        bad.add(key, "is for http exports: leave it out, or export with `http`");
        return None;
    }
    let at = match (&c.file, &c.path, &c.url) {
        (Some(file), None, None) => DocumentPlan::File(file.clone()),
        (None, Some(_), None) if clients => {
            bad.add(
                &format!("{key}.path"),
                "there is no origin to ask: name a file or a url",
            );
            return None;
        }
        (None, Some(path), None) => {
            let parsed = path
                .parse::<PathAndQuery>()
                .ok()
                .filter(|_| path.starts_with('/'));
            let wanted = || format!("{path:?} is no path: expected /..., as in \"/orders?wsdl\"");
            DocumentPlan::Origin(bad.take(&format!("{key}.path"), parsed.ok_or_else(wanted))?)
        }
        (None, None, Some(url)) => {
            let wanted = || format!("{url:?} is no URL: expected http://HOST/... or https://HOST/...");
            let parsed = url.parse::<Uri>().ok().and_then(|u| {
                let origin = format!("{}://{}", u.scheme_str()?, u.authority()?).parse().ok()?;
                Some((origin, u.path_and_query()?.clone()))
            });
            let (origin, path) = bad.take(&format!("{key}.url"), parsed.ok_or_else(wanted))?;
            DocumentPlan::Elsewhere(origin, path)
        }
        _ => {
            bad.add(key, "expected exactly one of file, path and url");
            return None;
        }
    };
    if clients && c.validate {
        bad.add(
            &format!("{key}.validate"),
            "is for services that are called: leave it out",
        );
    }
    Some(InterfacePlan {
        at,
        validate: c.validate,
    })
}
