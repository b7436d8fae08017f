//! The binary form: attributes in `ce-` headers, the content as it is.

use http::{HeaderMap, header::CONTENT_TYPE};

use super::{Attributes, Event, EventError, wrong};

pub(super) fn event(headers: &HeaderMap, body: &[u8]) -> Result<Event, EventError> {
    if !headers.contains_key("ce-specversion") {
        return Err(EventError::NoEvent);
    }
    let mut attributes = Attributes::default();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else {
            continue;
        };
        if name == "datacontenttype" {
            let value = String::from_utf8_lossy(value.as_bytes());
            return Err(wrong(
                name,
                &value,
                "the header Content-Type in place of ce-datacontenttype",
            ));
        }
        attributes.add(name, decode(name, value.as_bytes())?)?;
    }
    if let Some(value) = headers.get(CONTENT_TYPE) {
        attributes.add(
            "datacontenttype",
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )?;
    }
    attributes.event(body.to_vec())
}

/// A header's value as text (HTTP protocol binding, section 3.1.3.2): quotes off, then one round of percent-decoding. Bytes that
/// are UTF-8 as they are count as such, since many senders do not encode them.
fn decode(name: &str, value: &[u8]) -> Result<String, EventError> {
    let value = unquote(value);
    let mut text = Vec::with_capacity(value.len());
    let mut rest = value.as_slice();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            text.push(byte);
            continue;
        }
        let Some(decoded) = rest.get(..2).and_then(hex) else {
            let value = String::from_utf8_lossy(&value);
            return Err(wrong(
                name,
                &value,
                "% only before two hexadecimal digits (% itself is %25)",
            ));
        };
        text.push(decoded);
        rest = &rest[2..];
    }
    String::from_utf8(text).map_err(|e| {
        wrong(
            name,
            &String::from_utf8_lossy(e.as_bytes()),
            "UTF-8, percent-encoded",
        )
    })
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

/// Takes a quoted string (RFC 9110, section 5.6.4) out of its quotes.
fn unquote(value: &[u8]) -> Vec<u8> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")) else {
        return value.to_vec();
    };
    let mut escaped = false;
    let keep = |b: &&u8| {
        let backslash = **b == b'\\' && !escaped;
        escaped = backslash;
        !backslash
    };
    inner.iter().filter(keep).copied().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cloudevents::{MAX_EXTENSIONS, parse};
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn headers(more: &[(&str, &[u8])]) -> HeaderMap {
        let base: [(&str, &[u8]); 5] = [
            ("ce-specversion", b"1.0"),
            ("ce-id", b"1"),
            ("ce-source", b"/mail"),
            ("ce-type", b"example.mail"),
            ("content-type", b"text/plain; charset=utf-8"),
        ];
        let mut map = HeaderMap::new();
        for (name, value) in base.iter().chain(more) {
            map.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        map
    }

    #[test]
    fn attributes_come_from_headers_and_data_from_the_body() {
        let more: [(&str, &[u8]); 3] = [
            ("ce-subject", b"Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("ce-recipient", b"user:alice"),
            ("ce-time", b"2026-01-31T12:00:00.5+01:00"),
        ];
        let event = parse(&headers(&more), b"hello").unwrap().remove(0);
        assert_eq!(event.subject.as_deref(), Some("Euro € 😀"));
        assert_eq!(event.extensions["recipient"], "user:alice");
        assert_eq!(
            event.datacontenttype.as_deref(),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!((event.id.as_str(), event.data.as_slice()), ("1", &b"hello"[..]));
        assert_eq!(event.media_type().unwrap().charset(), Some("utf-8"));
    }

    #[test]
    fn header_values_are_unquoted_then_decoded_once() {
        assert_eq!(decode("a", br#""a \"b\" \\ %22""#).unwrap(), r#"a "b" \ ""#);
        assert_eq!(decode("a", b"%2541").unwrap(), "%41");
        assert_eq!(decode("a", "Grüße".as_bytes()).unwrap(), "Grüße");
        for wrong in [&b"%"[..], b"%4", b"%zz", b"%C3%28", b"\xff"] {
            assert!(decode("a", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_missing_is_refused() {
        assert_eq!(
            parse(&headers(&[("ce-id", b"2")]), b""),
            Err(EventError::Twice("id".into()))
        );
        assert!(matches!(
            parse(&headers(&[("ce-datacontenttype", b"a/b")]), b""),
            Err(EventError::Attribute { .. })
        ));
        assert!(matches!(
            parse(&headers(&[("content-type", b"a/b")]), b""),
            Err(EventError::Twice(_))
        ));
        for (gone, error) in [
            ("ce-id", EventError::Missing("id")),
            ("ce-source", EventError::Missing("source")),
            ("ce-type", EventError::Missing("type")),
            ("ce-specversion", EventError::NoEvent),
        ] {
            let mut headers = headers(&[]);
            headers.remove(gone);
            assert_eq!(parse(&headers, b""), Err(error));
        }
        for (name, value) in [
            ("ce-time", "yesterday"),
            ("ce-un-fit", "x"),
            ("ce-data", "x"),
            ("ce-note", "%0A"),
            ("ce-note", &"x".repeat(5000)),
        ] {
            let error = parse(&headers(&[(name, value.as_bytes())]), b"").unwrap_err();
            assert!(matches!(error, EventError::Attribute { .. }), "{name} {error}");
            assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn extensions_are_counted() {
        let names: Vec<String> = (0..=MAX_EXTENSIONS).map(|n| format!("ce-x{n}")).collect();
        let more: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"1"[..])).collect();
        assert_eq!(parse(&headers(&more), b""), Err(EventError::Extensions));
        assert!(parse(&headers(&more[1..]), b"").is_ok());
    }

    proptest! {
        #[test]
        fn any_text_survives_encoding(text in "\\PC{0,100}") {
            let encoded: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
            prop_assert_eq!(decode("a", encoded.as_bytes()).unwrap(), text);
        }

        #[test]
        fn any_bytes_are_refused_or_read(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode("a", &value);
        }
    }
}
