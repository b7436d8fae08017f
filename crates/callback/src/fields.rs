//! Addresses in headers and in the query of a request.

use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};

use crate::{
    message::form,
    replace::{Asking, Place, Refusal, Replace, Report},
    rules::Rules,
};

/// Headers that say something about the bytes of a body, and are wrong once it was changed: Content-MD5 (RFC 1864), Digest (RFC 3230),
/// Content-Digest and Repr-Digest (RFC 9530).
pub const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Replaces addresses in the headers that `rules` name: the whole value, or each address in `<…>` as `Link` has them (RFC 8288).
///
/// # Errors
/// The message is refused.
pub fn headers(rules: &Rules, headers: &mut HeaderMap, replace: &mut dyn Replace) -> Result<Report, Refusal> {
    let mut report = Report::default();
    let asking = &mut Asking {
        replace,
        report: &mut report,
    };
    for name in &rules.headers {
        let http::header::Entry::Occupied(mut entry) = headers.entry(name) else {
            continue;
        };
        for value in entry.iter_mut() {
            let Some(new) = header(name, value, asking)? else {
                continue;
            };
            let sensitive = value.is_sensitive();
            *value = HeaderValue::try_from(new).map_err(|_| Refusal::Unfit(format!("the header {name}")))?;
            value.set_sensitive(sensitive);
        }
    }
    Ok(report)
}

/// The new value of a header; `None`: it stays.
fn header(
    name: &HeaderName,
    value: &HeaderValue,
    asking: &mut Asking<'_>,
) -> Result<Option<Vec<u8>>, Refusal> {
    let place = || Place::Header(name.clone());
    let Ok(text) = value.to_str() else {
        asking.left(place(), crate::Why::NotText);
        return Ok(None);
    };
    if !text.contains('<') {
        return Ok(asking.ask(place(), text)?.map(String::into_bytes));
    }
    let (mut new, mut rest, mut changed) = (String::new(), text, false);
    while let Some((before, (address, after))) = rest
        .split_once('<')
        .and_then(|(b, r)| Some((b, r.split_once('>')?)))
    {
        let to = asking.ask(place(), address)?;
        changed |= to.is_some();
        new.extend([before, "<", to.as_deref().unwrap_or(address), ">"]);
        rest = after;
    }
    new.push_str(rest);
    Ok(changed.then(|| new.into_bytes()))
}

/// Replaces addresses in the query parameters that `rules` name.
///
/// # Errors
/// The message is refused.
pub fn query(rules: &Rules, target: &mut PathAndQuery, replace: &mut dyn Replace) -> Result<Report, Refusal> {
    let mut report = Report::default();
    let asking = &mut Asking {
        replace,
        report: &mut report,
    };
    let Some(query) = target.query().filter(|_| !rules.query.is_empty()) else {
        return Ok(report);
    };
    if let Some(new) = form::query(&rules.query, query, asking)? {
        let new = format!("{}?{new}", target.path());
        *target = PathAndQuery::try_from(new).map_err(|_| Refusal::Unfit("the query".into()))?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Verdict, Why};

    fn by_gateway(_: &Place, address: &str) -> Verdict {
        Verdict::With(address.replace("http://client", "http://gw/.hawser/cb"))
    }

    #[test]
    fn headers_by_name() {
        let rules = Rules {
            headers: vec![http::header::LINK, HeaderName::from_static("x-callback")],
            ..Rules::default()
        };
        let mut map = HeaderMap::new();
        map.append(
            "link",
            HeaderValue::from_static("<http://client/a>; rel=\"next\", </b>; rel=x"),
        );
        map.append("x-callback", HeaderValue::from_static("http://client/1"));
        map.append("x-callback", HeaderValue::from_static("http://client/2"));
        map.append("x-other", HeaderValue::from_static("http://client/3"));
        let report = headers(&rules, &mut map, &mut by_gateway).unwrap();
        let all: Vec<_> = map.values().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(
            all,
            [
                "<http://gw/.hawser/cb/a>; rel=\"next\", </b>; rel=x",
                "http://gw/.hawser/cb/1",
                "http://gw/.hawser/cb/2",
                "http://client/3"
            ]
        );
        assert_eq!((report.replaced.len(), &report.left[0].why), (3, &Why::NotHttp));
        let mut bad = |_: &Place, _: &str| Verdict::With("a\r\nb: c".into());
        assert!(matches!(
            headers(&rules, &mut map, &mut bad),
            Err(Refusal::Unfit(_))
        ));
    }

    #[test]
    fn query_parameters_by_name() {
        let rules = Rules {
            query: vec!["call back".into()],
            ..Rules::default()
        };
        let mut target = PathAndQuery::from_static("/x?a=%20&call+back=http%3A%2F%2Fclient%2F%3Fq%3D1&b");
        let report = query(&rules, &mut target, &mut by_gateway).unwrap();
        assert_eq!(
            target,
            "/x?a=%20&call+back=http%3A%2F%2Fgw%2F.hawser%2Fcb%2F%3Fq%3D1&b"
        );
        assert!(report.changed());
        let mut refuse = |_: &Place, _: &str| Verdict::Refuse("no".into());
        let refused = query(&rules, &mut target, &mut refuse).unwrap_err();
        assert_eq!(refused.to_string(), "the query parameter call back: no");
    }
}
