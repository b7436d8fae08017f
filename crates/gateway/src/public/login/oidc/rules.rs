//! Who a provider's user is here, and whether that user gets in. Without I/O.

use serde_json::{Map, Value};

use crate::{
    config::{Allowed, OidcPlan},
    export::User,
};

/// Longest name of a user in bytes.
const MAX_NAME: usize = 256;

/// What a provider says about a user.
pub(super) type Claims = Map<String, Value>;

/// Why a user does not get in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// The claim is missing, or no name.
    Nameless,
    /// The rules are for others.
    NotAllowed(User),
}

/// The user, if one of the rules is for them.
pub(super) fn judge(plan: &OidcPlan, claims: &Claims) -> Result<User, Outside> {
    let user = User {
        name: name(plan, claims).ok_or(Outside::Nameless)?.to_owned(),
        email: verified(claims).filter(|e| printable(e)).map(str::to_owned),
    };
    match allowed(&plan.allowed, claims) {
        true => Ok(user),
        false => Err(Outside::NotAllowed(user)),
    }
}

/// The claims that a judgement needs and these lack.
pub(super) fn lacks(plan: &OidcPlan, claims: &Claims) -> bool {
    let mut wanted = vec![plan.user.as_str()];
    if let Allowed::Some {
        emails,
        domains,
        claims,
    } = &plan.allowed
    {
        if !emails.is_empty() || !domains.is_empty() {
            wanted.push("email");
        }
        wanted.extend(claims.keys().map(String::as_str));
    }
    // Asked for by scope, so it is told to the service, too.
    if plan.scopes.split(' ').any(|s| s == "email") {
        wanted.push("email");
    }
    wanted.iter().any(|name| !claims.contains_key(*name))
}

fn name<'a>(plan: &OidcPlan, claims: &'a Claims) -> Option<&'a str> {
    let name = match plan.user.as_str() {
        // What a user only claims to have names nobody.
        "email" => verified(claims)?,
        claim => claims.get(claim)?.as_str()?,
    };
    printable(name).then_some(name)
}

/// What can stand in a header and be read in one way.
fn printable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| matches!(b, b' '..=b'~'))
        && name.trim() == name
}

/// The mail address, if the provider has verified it.
fn verified(claims: &Claims) -> Option<&str> {
    let yes = claims.get("email_verified").and_then(Value::as_bool) == Some(true);
    claims.get("email")?.as_str().filter(|_| yes)
}

fn allowed(allowed: &Allowed, claims: &Claims) -> bool {
    let Allowed::Some {
        emails,
        domains,
        claims: wanted,
    } = allowed
    else {
        return true;
    };
    let email = verified(claims).map(str::to_lowercase);
    let by_email = email.is_some_and(|email| {
        let domain = email.rsplit_once('@').map(|(_, d)| d.to_owned());
        emails.contains(&email) || domain.is_some_and(|d| domains.contains(&d))
    });
    by_email
        || wanted.iter().any(|(name, values)| {
            let is = |v: &Value| v.as_str().is_some_and(|v| values.iter().any(|w| w == v));
            match claims.get(name) {
                Some(Value::Array(all)) => all.iter().any(is),
                Some(one) => is(one),
                None => false,
            }
        })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    pub(in crate::public::login::oidc) fn plan(user: &str, allowed: Allowed) -> OidcPlan {
        OidcPlan {
            issuer: "https://op.example".into(),
            client_id: "wiki".into(),
            secret: None,
            ca: None,
            carriers: Vec::new(),
            scopes: "openid".into(),
            user: user.into(),
            allowed,
            session: Duration::from_secs(3600),
        }
    }

    fn some(emails: &[&str], domains: &[&str], claims: &[(&str, &str)]) -> Allowed {
        let set = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Allowed::Some {
            emails: set(emails),
            domains: set(domains),
            claims: claims
                .iter()
                .map(|(n, v)| ((*n).to_owned(), vec![(*v).to_owned()]))
                .collect(),
        }
    }

    fn claims(v: Value) -> Claims {
        v.as_object().unwrap().clone()
    }

    #[test]
    fn a_rule_lets_in_whom_it_names_and_nobody_else() {
        let ada = claims(
            json!({ "sub": "1", "email": "Ada@Acme.example", "email_verified": true, "groups": ["x", "staff"], "role": "boss" }),
        );
        let said = claims(json!({ "sub": "2", "email": "ada@acme.example", "groups": "staffs" }));
        let text = claims(json!({ "sub": "2", "email": "ada@acme.example", "email_verified": "true" }));
        for (rule, in_by_it) in [
            (some(&["ada@acme.example"], &[], &[]), true),
            (some(&["eve@acme.example"], &[], &[]), false),
            (some(&[], &["acme.example"], &[]), true),
            (some(&[], &["example"], &[]), false),
            (some(&[], &["cme.example"], &[]), false),
            (some(&[], &[], &[("groups", "staff")]), true),
            (some(&[], &[], &[("role", "boss")]), true),
            (some(&[], &[], &[("groups", "boss")]), false),
            (some(&[], &[], &[]), false),
        ] {
            let plan = plan("sub", rule.clone());
            assert_eq!(judge(&plan, &ada).is_ok(), in_by_it, "{rule:?}");
            assert!(judge(&plan, &said).is_err(), "unverified: {rule:?}");
            assert!(judge(&plan, &text).is_err(), "unverified: {rule:?}");
        }
        assert!(judge(&plan("sub", Allowed::Everyone), &said).is_ok());
    }

    #[test]
    fn a_name_is_what_a_header_can_say() {
        let of = |user: &str, v: Value| judge(&plan(user, Allowed::Everyone), &claims(v));
        assert_eq!(of("sub", json!({ "sub": "ada" })).unwrap().name, "ada");
        for odd in [
            json!(""),
            json!("a\r\nb"),
            json!("\u{e4}"),
            json!(" a"),
            json!(7),
            json!("a".repeat(257)),
            json!(null),
        ] {
            assert_eq!(of("sub", json!({ "sub": odd })), Err(Outside::Nameless));
        }
        assert_eq!(
            of("email", json!({ "sub": "1", "email": "a@b" })),
            Err(Outside::Nameless)
        );
        let user = of(
            "email",
            json!({ "sub": "1", "email": "a@b", "email_verified": true }),
        )
        .unwrap();
        assert_eq!((user.name.as_str(), user.email.as_deref()), ("a@b", Some("a@b")));
    }
}
