//! Who may pair with whom, and who may see what: deny by default, one rule per direction between two domains. A rule also
//! lets the called domain reach the calling one's callbacks ([`ServiceName::CALLBACKS`]) and nothing else there, unless it
//! says otherwise.
//!
//! The hub decides which domains may pair and which services they may see; the exporting gateway decides again for each
//! call, and has the last word. Pure: imports names only.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{DomainName, NameError, ServiceName};

use crate::config::Allow;

/// Most domains that one domain may be allowed to call: their names fit one message.
pub const MAX_CALLABLE: usize = 1024;

/// The rules in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: BTreeMap<DomainName, BTreeMap<DomainName, Services>>,
    /// Called domains, and those whose callbacks each may reach.
    back: BTreeMap<DomainName, BTreeSet<DomainName>>,
}

/// What a rule lets be called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Services {
    All,
    Only(BTreeSet<ServiceName>),
}

/// Why a rule was refused. Rules are numbered from 1, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// `from` or `to` is not one domain.
    #[error(
        "[[hub.allow]] rule {rule}: {key} = {value:?} is not a domain: {reason}; name one domain per rule"
    )]
    Domain {
        /// Number of the rule.
        rule: usize,
        /// `from` or `to`.
        key: &'static str,
        /// What stands there.
        value: String,
        /// Why it is none.
        reason: NameError,
    },
    /// A service that is neither a name nor `"*"`.
    #[error(
        "[[hub.allow]] rule {rule}: services holds {value:?}: expected the name of a service without its domain, as in \"orders\", or \"*\" for all"
    )]
    Service {
        /// Number of the rule.
        rule: usize,
        /// What stands there.
        value: String,
    },
    /// The list of services is empty.
    #[error(
        "[[hub.allow]] rule {rule}: services is empty, so the rule allows nothing: name services, or [\"*\"], or delete the rule"
    )]
    NoServices {
        /// Number of the rule.
        rule: usize,
    },
    /// `"*"` among names.
    #[error("[[hub.allow]] rule {rule}: \"*\" already holds every service: leave either it or the names")]
    StarAndNames {
        /// Number of the rule.
        rule: usize,
    },
    /// A service is named twice in a rule.
    #[error("[[hub.allow]] rule {rule}: service {service} is named twice: delete one")]
    ServiceTwice {
        /// Number of the rule.
        rule: usize,
        /// The service.
        service: ServiceName,
    },
    /// One domain may call, or call back, too many others.
    #[error(
        "[[hub.allow]] rule {rule}: {from} may call, or call back, more than {MAX_CALLABLE} domains: split it into several \
         domains, or write callbacks = false where none are needed"
    )]
    TooMany {
        /// Number of the rule.
        rule: usize,
        /// The domain.
        from: DomainName,
    },
    /// Two rules for the same direction.
    #[error("[[hub.allow]] rules {first} and {rule} are both from {from} to {to}: make one rule of them")]
    RuleTwice {
        /// Number of the earlier rule.
        first: usize,
        /// Number of the later rule.
        rule: usize,
        /// The calling domain.
        from: DomainName,
        /// The called domain.
        to: DomainName,
    },
}

impl Policy {
    /// The policy of a configuration's rules.
    pub fn new(rules: &[Allow]) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        let mut numbers = BTreeMap::new();
        for (i, allow) in rules.iter().enumerate() {
            let rule = i + 1;
            let from = domain(rule, "from", &allow.from)?;
            let to = domain(rule, "to", &allow.to)?;
            let services = services(rule, &allow.services)?;
            if let Some(first) = numbers.insert((from.clone(), to.clone()), rule) {
                return Err(PolicyError::RuleTwice {
                    first,
                    rule,
                    from,
                    to,
                });
            }
            if allow.callbacks {
                let callers = policy.back.entry(to.clone()).or_default();
                callers.insert(from.clone());
            }
            policy
                .rules
                .entry(from.clone())
                .or_default()
                .insert(to.clone(), services);
            for domain in [from, to] {
                if policy.callable(&domain).count() > MAX_CALLABLE {
                    return Err(PolicyError::TooMany { rule, from: domain });
                }
            }
        }
        Ok(policy)
    }

    /// Whether gateways of `from` may ask for sessions with gateways of `to`.
    ///
    /// Those of one domain always may: they tell each other what concerns them all.
    pub fn may_pair(&self, from: &DomainName, to: &DomainName) -> bool {
        self.services(from, to).is_some() || self.may_call_back(from, to)
    }

    /// Whether `from` may see and call this service of `to`.
    pub fn may_see(&self, from: &DomainName, to: &DomainName, service: &ServiceName) -> bool {
        if service.is_callbacks() {
            return self.may_call_back(from, to);
        }
        match self.services(from, to) {
            None => false,
            Some(Services::All) => true,
            Some(Services::Only(names)) => names.contains(service),
        }
    }

    /// The domains that `from` may call, or call back.
    pub fn callable(&self, from: &DomainName) -> impl Iterator<Item = &DomainName> {
        let called = self.rules.get(from);
        let back = self.back.get(from).into_iter().flatten();
        let back = back.filter(move |d| called.is_none_or(|called| !called.contains_key(*d)));
        called.into_iter().flat_map(|to| to.keys()).chain(back)
    }

    /// Whether `from` may reach the callbacks of `to`'s clients, because they may call it.
    fn may_call_back(&self, from: &DomainName, to: &DomainName) -> bool {
        from == to || self.back.get(from).is_some_and(|callers| callers.contains(to))
    }

    /// Whether two domains have to do with each other in either direction, so that each should learn of the other's
    /// revocations. A domain always has to do with itself.
    pub fn related(&self, a: &DomainName, b: &DomainName) -> bool {
        a == b || self.may_pair(a, b) || self.may_pair(b, a)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.values().map(BTreeMap::len).sum()
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Each rule as a line for people.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.rules.iter().flat_map(|(from, targets)| {
            targets.iter().map(move |(to, services)| match services {
                Services::All => format!("{from} may call every service of {to}"),
                Services::Only(names) => {
                    let names: Vec<_> = names.iter().map(ServiceName::as_str).collect();
                    format!("{from} may call {} of {to}", names.join(", "))
                }
            })
        })
    }

    fn services(&self, from: &DomainName, to: &DomainName) -> Option<&Services> {
        self.rules.get(from)?.get(to)
    }
}

fn domain(rule: usize, key: &'static str, value: &str) -> Result<DomainName, PolicyError> {
    value.parse().map_err(|reason| PolicyError::Domain {
        rule,
        key,
        value: value.into(),
        reason,
    })
}

fn services(rule: usize, values: &[String]) -> Result<Services, PolicyError> {
    if values.is_empty() {
        return Err(PolicyError::NoServices { rule });
    }
    if values.iter().any(|v| v == "*") {
        return match values {
            [_] => Ok(Services::All),
            _ => Err(PolicyError::StarAndNames { rule }),
        };
    }
    let mut names = BTreeSet::new();
    for value in values {
        let name: ServiceName = value.parse().map_err(|_| PolicyError::Service {
            rule,
            value: value.clone(),
        })?;
        if let Some(service) = names.replace(name) {
            return Err(PolicyError::ServiceTwice { rule, service });
        }
    }
    Ok(Services::Only(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(from: &str, to: &str, services: &[&str]) -> Allow {
        Allow {
            from: from.into(),
            to: to.into(),
            services: services.iter().map(|s| s.to_string()).collect(),
            callbacks: false,
        }
    }

    fn d(s: &str) -> DomainName {
        s.parse().unwrap()
    }

    #[test]
    fn nothing_is_allowed_without_a_rule_and_rules_have_a_direction() {
        let none = Policy::default();
        assert!(!none.may_pair(&d("acme"), &d("beta")));
        let p = Policy::new(&[allow("acme", "beta", &["orders"])]).unwrap();
        assert!(p.may_pair(&d("acme"), &d("beta")));
        assert!(!p.may_pair(&d("beta"), &d("acme")));
        assert!(p.may_see(&d("acme"), &d("beta"), &"orders".parse().unwrap()));
        assert!(!p.may_see(&d("acme"), &d("beta"), &"ledger".parse().unwrap()));
        assert!(p.related(&d("beta"), &d("acme")) && p.related(&d("acme"), &d("beta")));
        assert!(!p.related(&d("acme"), &d("gamma")));
        assert_eq!(p.callable(&d("acme")).collect::<Vec<_>>(), [&d("beta")]);
    }

    #[test]
    fn gateways_of_one_domain_speak_with_each_other_and_call_no_service_by_that() {
        let p = Policy::default();
        assert!(p.may_pair(&d("acme"), &d("acme")));
        assert!(p.may_see(&d("acme"), &d("acme"), &ServiceName::callbacks()));
        assert!(!p.may_see(&d("acme"), &d("acme"), &"orders".parse().unwrap()));
        assert_eq!(p.callable(&d("acme")).count(), 0);
    }

    #[test]
    fn who_is_called_reaches_the_callbacks_of_its_callers_and_nothing_else() {
        let back = ServiceName::callbacks();
        let mut rule = allow("acme", "beta", &["*"]);
        rule.callbacks = true;
        let p = Policy::new(&[rule]).unwrap();
        assert!(p.may_pair(&d("beta"), &d("acme")));
        assert!(p.may_see(&d("beta"), &d("acme"), &back));
        assert!(!p.may_see(&d("beta"), &d("acme"), &"orders".parse().unwrap()));
        assert!(!p.may_see(&d("acme"), &d("beta"), &back), "nobody called acme");
        assert_eq!(p.callable(&d("beta")).collect::<Vec<_>>(), [&d("acme")]);
        let p = Policy::new(&[allow("acme", "beta", &["*"])]).unwrap();
        assert!(!p.may_pair(&d("beta"), &d("acme")));
    }

    #[test]
    fn a_star_is_every_service() {
        let p = Policy::new(&[allow("acme", "acme", &["*"])]).unwrap();
        assert!(p.may_see(&d("acme"), &d("acme"), &"anything".parse().unwrap()));
        assert_eq!(
            p.lines().collect::<Vec<_>>(),
            ["acme may call every service of acme"]
        );
    }

    #[test]
    fn unclear_rules_are_refused_and_named() {
        for (rules, word) in [
            (
                vec![allow("*", "beta", &["*"])],
                "rule 1: from = \"*\" is not a domain",
            ),
            (vec![allow("acme", "Beta", &["*"])], "to = \"Beta\""),
            (vec![allow("acme", "beta", &[])], "services is empty"),
            (
                vec![allow("acme", "beta", &["a", "*"])],
                "already holds every service",
            ),
            (
                vec![allow("acme", "beta", &["a", "a"])],
                "service a is named twice",
            ),
            (
                vec![allow("acme", "beta", &["orders.beta"])],
                "without its domain",
            ),
            (
                vec![
                    allow("a", "b", &["x"]),
                    allow("b", "a", &["x"]),
                    allow("a", "b", &["y"]),
                ],
                "rules 1 and 3",
            ),
        ] {
            let error = Policy::new(&rules).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
