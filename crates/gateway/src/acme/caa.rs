//! CAA records of a published name (RFC 8659, RFC 8657), held against what they are there for: the hub owns the addresses behind the
//! name, so that it would pass every challenge but those by the DNS. Pure.

/// A CAA record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caa {
    /// Whether an authority that does not know the tag must not issue.
    pub critical: bool,
    /// The property, `issue` among others.
    pub tag: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// The authority that `[gateway.acme]` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issuer {
    /// The names by which it looks for itself in records; none where it does not say.
    pub identities: Vec<String>,
    /// URI of the gateway's account there, once there is one.
    pub account: Option<String>,
}

/// What is wrong with a name's records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There is none.
    #[error("there is no CAA record: any authority may issue to whoever answers at the hub's addresses")]
    Missing,
    /// None of them is about issuing.
    #[error(
        "no CAA record has the tag issue: any authority may issue to whoever answers at the hub's addresses"
    )]
    NoIssue,
    /// An authority asks the hub's addresses.
    #[error(
        "{0} may issue to whoever answers at the hub's addresses: its record lacks validationmethods=dns-01"
    )]
    AnyMethod(String),
    /// An authority issues to anybody.
    #[error("{0} may issue to any of its accounts: its record lacks accounturi")]
    AnyAccount(String),
    /// The configured authority is not named.
    #[error("no CAA record lets {0} issue")]
    OtherIssuer(String),
    /// It is, with something that it will not find.
    #[error("the CAA record of {issuer} does not fit: it wants {wants}, and this gateway {has}")]
    Unfit {
        /// The authority.
        issuer: String,
        /// What the record says.
        wants: String,
        /// What is so.
        has: String,
    },
    /// A property that no authority need know.
    #[error("the CAA record {0} is critical: authorities that do not know it must not issue")]
    Critical(String),
}

impl Flaw {
    /// Whether the authority that is configured here will not issue.
    pub fn shuts_out(&self) -> bool {
        match self {
            Self::OtherIssuer(_) | Self::Unfit { .. } | Self::Critical(_) => true,
            Self::Missing | Self::NoIssue | Self::AnyMethod(_) | Self::AnyAccount(_) => false,
        }
    }
}

/// What is wrong with the records that apply to a name. With an `issuer`, its certificate comes from that; otherwise it is given, and
/// nobody knows here from whom and by which account.
pub fn judge(records: &[Caa], issuer: Option<&Issuer>) -> Vec<Flaw> {
    const KNOWN: [&str; 6] = [
        "issue",
        "issuewild",
        "issuemail",
        "iodef",
        "contactemail",
        "contactphone",
    ];
    if records.is_empty() {
        return vec![Flaw::Missing];
    }
    let unknown = |r: &&Caa| r.critical && !KNOWN.iter().any(|k| r.tag.eq_ignore_ascii_case(k));
    let mut flaws: Vec<_> = records
        .iter()
        .filter(unknown)
        .map(|r| Flaw::Critical(r.tag.clone()))
        .collect();
    let mut issues = records
        .iter()
        .filter(|r| r.tag.eq_ignore_ascii_case("issue"))
        .peekable();
    if issues.peek().is_none() {
        flaws.push(Flaw::NoIssue);
        return flaws;
    }
    let grants: Vec<_> = issues.filter_map(|r| Grant::read(&r.value)).collect();
    for grant in &grants {
        let ours = issuer.is_some_and(|i| grant.is_for(i));
        let (by_dns, bound) = (grant.only_by_dns(), grant.account.is_some());
        // The one or the other keeps the hub out. Of the authority that is used here both can be had.
        if !by_dns && (ours || !bound) {
            flaws.push(Flaw::AnyMethod(grant.issuer.clone()));
        }
        if !bound && ours {
            flaws.push(Flaw::AnyAccount(grant.issuer.clone()));
        }
    }
    if let Some(issuer) = issuer {
        let mut unfit = grants.iter().filter(|g| g.is_for(issuer)).map(|g| g.fits(issuer));
        // One that fits is enough.
        match unfit.next() {
            None => flaws.push(Flaw::OtherIssuer(issuer.shown())),
            Some(first) => {
                let all = [first].into_iter().chain(unfit).collect::<Option<Vec<_>>>();
                flaws.extend(all.into_iter().flatten().take(1));
            }
        }
    }
    flaws
}

/// The record that is wanted, without its owner and type.
pub fn wanted(issuer: &Issuer) -> String {
    let account = issuer
        .account
        .as_deref()
        .unwrap_or("(URI of the account, once there is one)");
    let name = issuer
        .identities
        .first()
        .map_or("(name of the authority)", String::as_str);
    format!("0 issue \"{name}; accounturi={account}; validationmethods=dns-01\"")
}

impl Issuer {
    fn shown(&self) -> String {
        match (&self.identities[..], &self.account) {
            ([], Some(account)) => format!("the authority of the account {account}"),
            ([], None) => "the authority of gateway.acme.directory".into(),
            (all, _) => all.join(" or "),
        }
    }
}

/// What an `issue` record lets an authority do.
#[derive(Debug)]
struct Grant {
    issuer: String,
    account: Option<String>,
    methods: Option<Vec<String>>,
}

impl Grant {
    /// Nothing: it lets nobody issue, or makes no sense, which is the same (RFC 8659, 4.2; RFC 8657, 3 and 4).
    fn read(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut parts = text.split(';').map(str::trim);
        let issuer = parts.next().filter(|i| !i.is_empty())?;
        let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !issuer.split('.').all(label) {
            return None;
        }
        let (mut account, mut methods) = (None, None);
        for part in parts.filter(|p| !p.is_empty()) {
            let (tag, value) = part.split_once('=')?;
            let value = value.trim();
            let twice = match tag.trim() {
                "accounturi" => account.replace(value.to_owned()).is_some(),
                "validationmethods" => {
                    let list = value.split(',').map(|m| m.trim().to_owned()).collect();
                    methods.replace(list).is_some()
                }
                _ => false,
            };
            if twice {
                return None;
            }
        }
        Some(Self {
            issuer: issuer.to_ascii_lowercase(),
            account,
            methods,
        })
    }

    fn is_for(&self, issuer: &Issuer) -> bool {
        match &issuer.identities[..] {
            [] => issuer.account.is_none() || self.account == issuer.account,
            all => all.iter().any(|i| i.eq_ignore_ascii_case(&self.issuer)),
        }
    }

    fn only_by_dns(&self) -> bool {
        let all = self.methods.as_ref();
        all.is_some_and(|all| all.iter().all(|m| m.starts_with("dns-")))
    }

    /// Why it does not let this gateway have a certificate.
    fn fits(&self, issuer: &Issuer) -> Option<Flaw> {
        let unfit = |wants: String, has: String| {
            Some(Flaw::Unfit {
                issuer: self.issuer.clone(),
                wants,
                has,
            })
        };
        match (&self.account, &issuer.account) {
            (Some(wanted), Some(own)) if wanted != own => {
                return unfit(format!("the account {wanted}"), format!("has {own}"));
            }
            _ => {}
        }
        match &self.methods {
            Some(all) if !all.iter().any(|m| m == "dns-01") => unfit(
                format!("the methods {}", all.join(",")),
                "answers dns-01 alone".into(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: &str = "https://ca.example/acct/7";
    const OTHER: &str = "https://ca.example/acct/8";

    fn record(tag: &str, value: &str) -> Caa {
        Caa {
            critical: false,
            tag: tag.into(),
            value: value.into(),
        }
    }

    fn issuer() -> Issuer {
        Issuer {
            identities: vec!["ca.example".into(), "ca2.example".into()],
            account: Some(OWN.into()),
        }
    }

    fn of(values: &[&str]) -> Vec<Flaw> {
        let all: Vec<_> = values.iter().map(|v| record("issue", v)).collect();
        judge(&all, Some(&issuer()))
    }

    fn bound(issuer: &str, account: &str) -> String {
        format!("{issuer}; accounturi={account}; validationmethods=dns-01")
    }

    #[test]
    fn a_record_that_binds_account_and_method_is_fine() {
        for good in [
            bound("ca.example", OWN),
            bound(" CA2.Example ", OWN),
            format!("ca.example;validationmethods=dns-01 ; accounturi = {OWN};"),
            format!("ca.example; x=y; accounturi={OWN}; validationmethods=dns-01,dns-account-01"),
        ] {
            assert_eq!(of(&[&good]), [], "{good}");
        }
        // Another account's record beside it, and an authority that lets its own account alone have one.
        let others = [
            &bound("ca.example", OWN)[..],
            &bound("ca.example", OTHER),
            "other.example; accounturi=https://o/1",
        ];
        assert_eq!(of(&others), []);
        // What it does not say of itself is not held against it.
        let unknown = Issuer {
            identities: vec![],
            account: Some(OWN.into()),
        };
        let one = [record("issue", &bound("whoever.example", OWN))];
        assert_eq!(judge(&one, Some(&unknown)), []);
        assert_eq!(
            wanted(&issuer()),
            format!("0 issue \"{}\"", bound("ca.example", OWN))
        );
    }

    #[test]
    fn what_lets_the_hub_in_is_told() {
        assert_eq!(judge(&[], Some(&issuer())), [Flaw::Missing]);
        assert_eq!(judge(&[], None), [Flaw::Missing]);
        assert_eq!(judge(&[record("iodef", "mailto:a@b")], None), [Flaw::NoIssue]);
        let name = || "ca.example".to_owned();
        let open = [Flaw::AnyMethod(name()), Flaw::AnyAccount(name())];
        assert_eq!(of(&["ca.example"]), open);
        assert_eq!(of(&["ca.example; validationmethods=dns-01"]), open[1..]);
        assert_eq!(of(&[&format!("ca.example; accounturi={OWN}")]), open[..1]);
        let both = format!("ca.example; accounturi={OWN}; validationmethods=dns-01,http-01");
        assert_eq!(of(&[&both]), open[..1]);
        // Somebody else's authority beside one that is right.
        let other = [&bound("ca.example", OWN)[..], "other.example"];
        assert_eq!(of(&other), [Flaw::AnyMethod("other.example".into())]);
        // A certificate from files: of the authority nothing is known.
        let given = |value: &str| judge(&[record("issue", value)], None);
        assert_eq!(given("other.example"), [Flaw::AnyMethod("other.example".into())]);
        assert_eq!(given("other.example; validationmethods=dns-01"), []);
        assert_eq!(given("other.example; accounturi=https://o/1"), []);
        assert!(open.iter().all(|f| !f.shuts_out()));
    }

    #[test]
    fn what_keeps_the_gateway_out_is_told() {
        let none = Flaw::OtherIssuer("ca.example or ca2.example".into());
        for shut in [";", "", "%%%%%", "other.example; validationmethods=dns-01"] {
            assert_eq!(of(&[shut])[..], std::slice::from_ref(&none)[..], "{shut}");
        }
        // Said twice, it can be met by nobody.
        let twice = format!("{}; accounturi={OWN}", bound("ca.example", OWN));
        assert_eq!(of(&[&twice]), [none]);
        let unfit = &of(&[&bound("ca.example", OTHER)])[0];
        assert!(matches!(unfit, Flaw::Unfit { wants, .. } if wants.contains(OTHER)));
        let method = format!("ca.example; accounturi={OWN}; validationmethods=http-01");
        let method = of(&[&method]);
        assert!(matches!(&method[1], Flaw::Unfit { wants, .. } if wants.contains("http-01")));
        let mut critical = record("tbs", "Unknown");
        critical.critical = true;
        let fine = record("issue", &bound("ca.example", OWN));
        let found = judge(&[critical, fine], Some(&issuer()));
        assert_eq!(found, [Flaw::Critical("tbs".into())]);
        assert!(found[0].shuts_out() && unfit.shuts_out());
    }

    proptest! {
        #[test]
        fn any_value_is_read_without_harm(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4)) {
            let record = |value: &Vec<u8>| Caa { critical: false, tag: "issue".into(), value: value.clone() };
            let all: Vec<_> = values.iter().map(record).collect();
            // Noise never passes for a record that is right.
            prop_assert!(!judge(&all, Some(&issuer())).is_empty());
        }
    }
}
