//! Who may do what with an export. Denied unless a rule allows it; the exporting gateway has the last word.

use std::fmt;

use hawser_proto::{DomainName, Fault, Place};
use http::{HeaderMap, Method};

use super::path::{PathGlob, PlainPath};
use crate::config::{AllowConfig, VisitorsConfig};

/// Headers by which some frameworks let a request act as another method: they would get round a rule on methods.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// Headers by which some servers let a request act on another path: they would get round a rule on paths.
const PATH_OVERRIDES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// The rules of one export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy(Vec<Rule>);

/// These domains may use these methods on these paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// None is every domain.
    domains: Option<Vec<DomainName>>,
    /// Empty is all.
    methods: Vec<Method>,
    /// Empty is all.
    paths: Vec<PathGlob>,
}

impl Policy {
    /// The rules as they are written in the configuration.
    pub fn new(rules: &[AllowConfig]) -> Result<Self, String> {
        rules.iter().map(Rule::new).collect::<Result<_, _>>().map(Self)
    }

    /// The rules for visitors of a published name, as they are written in the configuration.
    pub fn visitors(rules: &[VisitorsConfig]) -> Result<Self, String> {
        let everybody = |c: &VisitorsConfig| AllowConfig {
            domains: vec!["*".into()],
            methods: c.methods.clone(),
            paths: c.paths.clone(),
        };
        Self::new(&rules.iter().map(everybody).collect::<Vec<_>>())
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Whether `domain` may use the service at all: the whole question for a TCP service.
    pub fn domain(&self, domain: &DomainName) -> Result<(), Fault> {
        if self.0.iter().any(|r| r.has_domain(domain)) {
            Ok(())
        } else {
            Err(no_domain(domain))
        }
    }

    /// Whether `domain` may make this HTTP request.
    pub fn request(
        &self,
        domain: &DomainName,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Fault> {
        self.domain(domain)?;
        let mine = self.0.iter().filter(|r| r.has_domain(domain));
        Self::judge(mine, no_method(domain, method), method, path, headers)
    }

    /// Whether a visitor of a published name may make this request.
    pub fn visitor(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Fault> {
        Self::judge(self.0.iter(), not_for_visitors(), method, path, headers)
    }

    fn judge<'r>(
        rules: impl Iterator<Item = &'r Rule>,
        mut refusal: Fault,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Fault> {
        let mut plain = None;
        for rule in rules.filter(|r| r.has_method(method)) {
            match rule.path(path, headers, &mut plain) {
                Ok(()) => return Ok(()),
                Err(fault) => refusal = fault,
            }
        }
        Err(refusal)
    }
}

impl Rule {
    fn new(c: &AllowConfig) -> Result<Self, String> {
        if c.domains.is_empty() {
            return Err("`domains` is empty: name the calling domains, or \"*\" for all".into());
        }
        let domains = if c.domains.iter().any(|d| d == "*") {
            None
        } else {
            Some(
                c.domains
                    .iter()
                    .map(|d| d.parse::<DomainName>().map_err(|e| e.to_string()))
                    .collect::<Result<_, _>>()?,
            )
        };
        Ok(Self {
            domains,
            methods: c.methods.iter().map(|m| method(m)).collect::<Result<_, _>>()?,
            paths: c.paths.iter().map(|p| p.parse()).collect::<Result<_, _>>()?,
        })
    }

    /// Methods and paths, for people.
    pub(crate) fn what(&self) -> String {
        let methods = self.methods.iter().map(ToString::to_string).collect();
        let paths = self.paths.iter().map(ToString::to_string).collect();
        format!("{} on {}", join(methods, "all methods"), join(paths, "all paths"))
    }

    fn has_domain(&self, domain: &DomainName) -> bool {
        self.domains.as_ref().is_none_or(|all| all.contains(domain))
    }

    fn has_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// The path is read (once, into `plain`) only if a rule asks for it: where paths are free, so is their form.
    fn path(&self, path: &str, headers: &HeaderMap, plain: &mut Option<PlainPath>) -> Result<(), Fault> {
        let has = |names: &[&'static str]| names.iter().copied().find(|n| headers.contains_key(*n));
        if !self.methods.is_empty()
            && let Some(name) = has(&METHOD_OVERRIDES)
        {
            return Err(overridden(name, "method"));
        }
        if self.paths.is_empty() || self.paths.iter().any(PathGlob::is_all) {
            return Ok(());
        }
        if let Some(name) = has(&PATH_OVERRIDES) {
            return Err(overridden(name, "path"));
        }
        let plain = match plain {
            Some(plain) => plain,
            None => plain.insert(path.parse::<PlainPath>().map_err(ambiguous)?),
        };
        if self.paths.iter().any(|g| g.matches(plain)) {
            Ok(())
        } else {
            Err(no_path())
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domains = self.domains.iter().flatten().map(ToString::to_string).collect();
        write!(f, "{}: {}", join(domains, "every domain"), self.what())
    }
}

fn join(all: Vec<String>, none: &str) -> String {
    if all.is_empty() {
        none.to_owned()
    } else {
        all.join(", ")
    }
}

fn method(text: &str) -> Result<Method, String> {
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(format!(
            "method {text:?}: methods are case-sensitive; did you mean {:?}?",
            text.to_uppercase()
        ));
    }
    match text {
        "CONNECT" | "TRACE" => Err(format!("method {text:?} never reaches an export: leave it out")),
        _ => text.parse().map_err(|_| format!("{text:?} is no HTTP method")),
    }
}

fn not_for_visitors() -> Fault {
    Fault::new(
        Place::Policy,
        403,
        "visitors-not-allowed",
        "this is not open to visitors of this name",
        "its operator says what is, by `allow` of the [[gateway.publish]] table",
    )
}

fn no_domain(domain: &DomainName) -> Fault {
    Fault::new(
        Place::Policy,
        403,
        "domain-not-allowed",
        format!("no rule of the service lets in domain {domain}"),
        "ask the service's owner for a rule: allow = [{ domains = [...] }] in its [[gateway.export]]",
    )
}

fn no_method(domain: &DomainName, method: &Method) -> Fault {
    Fault::new(
        Place::Policy,
        403,
        "method-not-allowed",
        format!("no rule of the service lets domain {domain} use {method}"),
        "use another method, or ask the service's owner to add it to `methods` of a rule",
    )
}

fn no_path() -> Fault {
    Fault::new(
        Place::Policy,
        403,
        "path-not-allowed",
        "no rule of the service lets your domain use this method on this path",
        "check the path, or ask the service's owner to add it to `paths` of a rule",
    )
}

fn ambiguous(why: super::path::Ambiguous) -> Fault {
    Fault::new(
        Place::Policy,
        400,
        "path-ambiguous",
        format!("the service has rules on paths, and servers may read this path in different ways: {why}"),
        "send the path in its plain form",
    )
}

fn overridden(header: &str, what: &str) -> Fault {
    Fault::new(
        Place::Policy,
        400,
        "header-not-allowed",
        format!("the service has rules on {what}s, and the header {header} asks for another {what}"),
        format!("leave out {header}, and make the request itself with that {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(domains: &[&str], methods: &[&str], paths: &[&str]) -> AllowConfig {
        let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        AllowConfig {
            domains: own(domains),
            methods: own(methods),
            paths: own(paths),
        }
    }

    fn code(p: &Policy, domain: &str, method: Method, path: &str) -> Option<String> {
        p.request(&domain.parse().unwrap(), &method, path, &HeaderMap::new())
            .err()
            .map(|f| f.code)
    }

    #[test]
    fn nothing_is_allowed_unless_a_rule_does() {
        let none = Policy::new(&[]).unwrap();
        assert_eq!(
            code(&none, "acme", Method::GET, "/").as_deref(),
            Some("domain-not-allowed")
        );
        let p = Policy::new(&[
            allow(&["acme"], &["GET"], &["/v1/**"]),
            allow(&["beta"], &[], &[]),
        ])
        .unwrap();
        assert_eq!(code(&p, "acme", Method::GET, "/v1/a"), None);
        assert_eq!(
            code(&p, "acme", Method::POST, "/v1/a").as_deref(),
            Some("method-not-allowed")
        );
        assert_eq!(
            code(&p, "acme", Method::GET, "/v2").as_deref(),
            Some("path-not-allowed")
        );
        assert_eq!(
            code(&p, "acme", Method::GET, "/v1/../v2").as_deref(),
            Some("path-ambiguous")
        );
        assert_eq!(
            code(&p, "beta", Method::DELETE, "/v1/../v2"),
            None,
            "free paths have a free form"
        );
        assert_eq!(
            code(&p, "gamma", Method::GET, "/v1/a").as_deref(),
            Some("domain-not-allowed")
        );
    }

    #[test]
    fn rules_are_not_mixed() {
        let p = Policy::new(&[
            allow(&["*"], &["GET"], &["/public/**"]),
            allow(&["acme"], &["POST"], &["/in"]),
        ])
        .unwrap();
        assert_eq!(code(&p, "gamma", Method::GET, "/public/x"), None);
        assert_eq!(
            code(&p, "acme", Method::POST, "/public/x").as_deref(),
            Some("path-not-allowed")
        );
        assert_eq!(code(&p, "acme", Method::POST, "/in"), None);
    }

    #[test]
    fn headers_that_change_method_or_path_do_not_get_round_rules() {
        let p = Policy::new(&[allow(&["acme"], &["GET", "POST"], &["/a"])]).unwrap();
        for name in METHOD_OVERRIDES.into_iter().chain(PATH_OVERRIDES) {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), "DELETE".parse().unwrap())]);
            let fault = p
                .request(&"acme".parse().unwrap(), &Method::GET, "/a", &headers)
                .unwrap_err();
            assert_eq!(
                (fault.code.as_str(), fault.status),
                ("header-not-allowed", 400),
                "{name}"
            );
        }
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in [
            allow(&[], &[], &[]),
            allow(&["Acme"], &[], &[]),
            allow(&["acme"], &["get"], &[]),
            allow(&["acme"], &["CONNECT"], &[]),
            allow(&["acme"], &[], &["v1"]),
        ] {
            assert!(Policy::new(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }
}
