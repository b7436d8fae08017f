//! The gateway's cookies among those that browsers send, and how they are set. Without I/O.

use hawser_proto::UnixTime;
use http::{HeaderMap, HeaderValue, header::COOKIE, header::SET_COOKIE};

/// How all the gateway's cookies begin. `__Host-` makes browsers keep them to this one name, and to HTTPS.
const OWN: &str = "__Host-hawser-";
/// The login that holds.
pub(super) const SESSION: &str = "__Host-hawser-session";
/// A login under way, followed by its mark.
pub(super) const ATTEMPT: &str = "__Host-hawser-login-";

/// The values of a cookie, in order.
pub(super) fn named<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    all(headers).filter(|(n, _)| *n == name).map(|(_, v)| v).collect()
}

/// The marks of logins under way.
pub(super) fn attempts(headers: &HeaderMap) -> Vec<&str> {
    let good = |mark: &&str| mark.len() <= 64 && mark.bytes().all(plain);
    all(headers)
        .filter_map(|(n, _)| n.strip_prefix(ATTEMPT))
        .filter(good)
        .collect()
}

fn plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

fn all(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}

/// Removes the gateway's own from what the service sees; the others stay byte for byte.
pub(super) fn strip(headers: &mut HeaderMap) {
    let mine = |pair: &[u8]| {
        pair.trim_ascii()
            .get(..OWN.len())
            .is_some_and(|n| n.eq_ignore_ascii_case(OWN.as_bytes()))
    };
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    if !lines.iter().any(|l| l.as_bytes().split(|b| *b == b';').any(mine)) {
        return;
    }
    headers.remove(COOKIE);
    for line in lines {
        let kept: Vec<&[u8]> = line
            .as_bytes()
            .split(|b| *b == b';')
            .filter(|p| !mine(p))
            .collect();
        let joined = kept.join(&b';');
        if let Ok(value) = HeaderValue::from_bytes(joined.trim_ascii())
            && !value.is_empty()
        {
            headers.append(COOKIE, value);
        }
    }
}

/// Removes what the service would set in the gateway's place.
pub(super) fn strip_set(headers: &mut HeaderMap) {
    let mine = |v: &HeaderValue| {
        let name = v.as_bytes().trim_ascii_start().get(..OWN.len());
        name.is_some_and(|n| n.eq_ignore_ascii_case(OWN.as_bytes()))
    };
    if !headers.get_all(SET_COOKIE).iter().any(mine) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|v| !mine(v))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// `Set-Cookie` of one that ends at a time; `value` is base64url.
pub(super) fn set(name: &str, value: &str, now: UnixTime, until: UnixTime) -> Option<HeaderValue> {
    let life = now.until(until).as_secs();
    HeaderValue::try_from(format!(
        "{name}={value}; Path=/; Max-Age={life}; Secure; HttpOnly; SameSite=Lax"
    ))
    .ok()
}

/// `Set-Cookie` that ends one.
pub(super) fn end(name: &str) -> Option<HeaderValue> {
    set(name, "", UnixTime(0), UnixTime(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|l| (COOKIE, l.parse().unwrap())).collect()
    }

    #[test]
    fn the_gateways_cookies_are_found_and_no_service_sees_them() {
        let mut h = headers(&[
            "a=1; __Host-hawser-session=x; b=\"2;3\"",
            "__host-Hawser-login-q_-=y",
            "c=4",
        ]);
        assert_eq!(named(&h, SESSION), ["x"]);
        assert!(attempts(&h).is_empty(), "names of cookies tell case");
        strip(&mut h);
        let left: Vec<_> = h.get_all(COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, ["a=1; b=\"2;3\"", "c=4"]);
        let h = headers(&["__Host-hawser-login-q_-=y; __Host-hawser-login-a b=z"]);
        assert_eq!(attempts(&h), ["q_-"]);
        let mut none = headers(&["__Host-hawser-session=x"]);
        strip(&mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn the_service_sets_none_of_the_gateways() {
        let mut h = HeaderMap::new();
        for v in [
            "a=1",
            "__Host-hawser-session=x; Path=/; Secure",
            " __host-hawser-login-a=b",
        ] {
            h.append(SET_COOKIE, v.parse().unwrap());
        }
        strip_set(&mut h);
        assert_eq!(h.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1"]);
    }

    proptest! {
        #[test]
        fn no_cookie_of_the_gateway_is_left_whatever_came(lines in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![
                Just("__Host-hawser-session".to_owned()), Just("; ".to_owned()), Just(";".to_owned()),
                Just("=".to_owned()), "[ -~]{0,4}", Just("\u{e4}".to_owned()),
            ], 0..12), 0..4))
        {
            let mut h = HeaderMap::new();
            for line in lines {
                h.append(COOKIE, HeaderValue::from_bytes(line.concat().as_bytes()).unwrap());
            }
            strip(&mut h);
            prop_assert!(named(&h, SESSION).is_empty());
            prop_assert!(attempts(&h).is_empty());
        }
    }
}
