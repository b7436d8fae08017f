//! The path by which a service calls back: `/.hawser/cb/DOMAIN/CAPABILITY`, to which it may append more of a path, and a query.

use std::borrow::Cow;

use hawser_proto::{DomainName, ServiceId, ServiceName};

/// What all such paths begin with.
pub(super) const PREFIX: &str = "/.hawser/cb/";

/// Characters of a capability that logs show: the number of its key, and a little more.
const SHOWN: usize = 16;
/// The same of a short one.
const SHOWN_OF_SHORT: usize = 6;

/// The address of a capability for clients in `domain`, under the base of the gateway at which it is called.
pub(crate) fn address(base: &str, domain: &DomainName, capability: &str) -> String {
    format!("{}{PREFIX}{domain}/{capability}", base.trim_end_matches('/'))
}

/// Whether a request is a call back.
pub(crate) fn is_one(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// To whom it goes; `None` when it names no domain.
pub(crate) fn service(path: &str) -> Option<ServiceId> {
    let (domain, _) = split(path)?;
    Some(ServiceId {
        name: ServiceName::callbacks(),
        domain: domain.parse().ok()?,
    })
}

/// The capability, and what is appended to it, empty or from the first `/` on.
pub(crate) fn capability<'a>(path: &'a str, domain: &DomainName) -> Option<(&'a str, &'a str)> {
    let (named, rest) = split(path)?;
    if named != domain.as_str() {
        return None;
    }
    Some(rest.find('/').map_or((rest, ""), |at| rest.split_at(at)))
}

/// A path as logs may show it: whoever has a capability may use it, so that enough of it stays to tell it from others.
pub(crate) fn shown(path: &str) -> Cow<'_, str> {
    let Some((domain, rest)) = split(path) else {
        return path.into();
    };
    let (capability, appended) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let shown = if capability.contains('.') {
        SHOWN
    } else {
        SHOWN_OF_SHORT
    };
    let start: String = capability.chars().take(shown).collect();
    format!("{PREFIX}{domain}/{start}…{appended}").into()
}

fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix(PREFIX)?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_addressed_is_found() {
        let acme: DomainName = "acme".parse().unwrap();
        let whole = address("http://gw.beta:3128/", &acme, "1.abc");
        assert_eq!(whole, "http://gw.beta:3128/.hawser/cb/acme/1.abc");
        let path = "/.hawser/cb/acme/1.abc";
        assert!(is_one(path));
        assert_eq!(service(path).unwrap().to_string(), "hawser-callbacks.acme");
        assert_eq!(capability(path, &acme), Some(("1.abc", "")));
        assert_eq!(
            capability("/.hawser/cb/acme/1.abc/a/b", &acme),
            Some(("1.abc", "/a/b"))
        );
        assert_eq!(capability(path, &"beta".parse().unwrap()), None);
        let long = "/.hawser/cb/acme/15789d6d.YofRukKpzvJ3bmPfQN/x?";
        assert_eq!(shown(long), "/.hawser/cb/acme/15789d6d.YofRukK…/x?");
        let short = "/.hawser/cb/acme/YofRukKpzvJ3bmPfQNYofQ";
        assert_eq!(shown(short), "/.hawser/cb/acme/YofRuk…");
        assert_eq!(shown("/orders"), "/orders");
        for odd in [
            "/.hawser/cb/",
            "/.hawser/cb/acme",
            "/.hawser/cb/AC_ME/x",
            "/.hawser/cb//x",
        ] {
            assert_eq!(service(odd), None, "{odd}");
        }
    }
}
