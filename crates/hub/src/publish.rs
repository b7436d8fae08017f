//! Which domain may publish which host names here: deny by default, one owner for a name. Pure: imports names only.

use std::collections::BTreeMap;

use hawser_proto::{DomainName, HostName, NameError};

use crate::config::Publish;

/// Most names that may be published at one hub.
pub const MAX_NAMES: usize = 4096;

/// The names, and whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publishing(BTreeMap<HostName, DomainName>);

/// Why a rule was refused. Rules are numbered from 1, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// `domain` is none.
    #[error(
        "[[hub.publish]] rule {rule}: domain = {value:?} is not a domain: {reason}; name one domain per rule"
    )]
    Domain {
        /// Number of the rule.
        rule: usize,
        /// What stands there.
        value: String,
        /// Why it is none.
        reason: NameError,
    },
    /// A name is none.
    #[error("[[hub.publish]] rule {rule}: {reason}")]
    Name {
        /// Number of the rule.
        rule: usize,
        /// Why.
        reason: NameError,
    },
    /// The list of names is empty.
    #[error(
        "[[hub.publish]] rule {rule}: names is empty, so the rule allows nothing: name hosts, or delete the rule"
    )]
    NoNames {
        /// Number of the rule.
        rule: usize,
    },
    /// A name stands there twice.
    #[error(
        "[[hub.publish]] rule {rule}: {name} is that of {owner} already: a name belongs to one domain, and stands once"
    )]
    Twice {
        /// Number of the rule.
        rule: usize,
        /// The name.
        name: HostName,
        /// Whose it is by an earlier rule, or place in the same one.
        owner: DomainName,
    },
    /// Too many names.
    #[error("[[hub.publish]]: more than {MAX_NAMES} names: use a further hub")]
    TooMany,
}

impl Publishing {
    /// The rules of a configuration.
    pub fn new(rules: &[Publish]) -> Result<Self, PublishError> {
        let mut names = BTreeMap::new();
        for (i, publish) in rules.iter().enumerate() {
            let rule = i + 1;
            let domain: DomainName = publish.domain.parse().map_err(|reason| PublishError::Domain {
                rule,
                value: publish.domain.clone(),
                reason,
            })?;
            if publish.names.is_empty() {
                return Err(PublishError::NoNames { rule });
            }
            for name in &publish.names {
                let name: HostName = name
                    .parse()
                    .map_err(|reason| PublishError::Name { rule, reason })?;
                if let Some(owner) = names.insert(name.clone(), domain.clone()) {
                    return Err(PublishError::Twice { rule, name, owner });
                }
            }
        }
        if names.len() > MAX_NAMES {
            return Err(PublishError::TooMany);
        }
        Ok(Self(names))
    }

    /// Whose name it is.
    pub fn owner(&self, name: &HostName) -> Option<&DomainName> {
        self.0.get(name)
    }

    /// Whether this domain may publish this name.
    pub fn allows(&self, domain: &DomainName, name: &HostName) -> bool {
        self.owner(name) == Some(domain)
    }

    /// Each name as a line for people.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .map(|(name, domain)| format!("{domain} may publish {name}"))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody may publish anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(domain: &str, names: &[&str]) -> Publish {
        Publish {
            domain: domain.into(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    #[test]
    fn a_name_belongs_to_one_domain() {
        let rules = [
            rule("acme", &["a.acme.example", "b.acme.example"]),
            rule("beta", &["a.beta.example"]),
        ];
        let p = Publishing::new(&rules).unwrap();
        let (acme, beta) = ("acme".parse().unwrap(), "beta".parse().unwrap());
        let name = "a.acme.example".parse().unwrap();
        assert!(p.allows(&acme, &name) && !p.allows(&beta, &name));
        assert_eq!(p.owner(&"c.acme.example".parse().unwrap()), None);
        assert_eq!(p.lines().next().unwrap(), "acme may publish a.acme.example");
    }

    #[test]
    fn bad_rules_are_named() {
        for (rules, word) in [
            (vec![rule("Acme", &["a.example"])], "rule 1: domain = \"Acme\""),
            (vec![rule("acme", &[])], "names is empty"),
            (
                vec![rule("acme", &["*.example"])],
                "\"*.example\" is not a host name",
            ),
            (
                vec![rule("acme", &["192.0.2.1"])],
                "\"192.0.2.1\" is not a host name",
            ),
            (vec![rule("acme", &["A.example"])], "not a host name"),
            (
                vec![rule("acme", &["a.example"]), rule("beta", &["a.example"])],
                "rule 2: a.example is that of acme already",
            ),
        ] {
            let error = Publishing::new(&rules).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
