//! The context of a trace in a request's headers (W3C Trace Context): read, and written anew. The library parses and writes; what it
//! takes more leniently than the specification is refused before.

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Headers that say which others a signature covers: RFC 9421, its drafts, and signatures in `Authorization`.
const SIGNATURES: [&str; 3] = ["signature-input", "signature", "authorization"];
/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Whose part a request is, by its headers; an empty context when they say nothing valid.
pub(super) fn of(headers: &HeaderMap) -> Context {
    let mut parents = headers.get_all(PARENT).into_iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return Context::new();
    };
    let Some(parent) = parent.to_str().ok().map(str::trim).filter(|p| is_well_formed(p)) else {
        return Context::new();
    };
    // One list, over however many lines (RFC 9110, 5.3). A line that is no text spoils it all.
    let lines = headers.get_all(STATE).into_iter().map(HeaderValue::to_str);
    let mut state = lines.collect::<Result<Vec<_>, _>>().unwrap_or_default().join(",");
    if state.split(',').any(|member| member.trim().starts_with('=')) {
        // The library takes a key without a name.
        state.clear();
    }
    let carried = Carried { parent, state };
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carried)
}

/// Has the request be part of this span from here on, in place of what it said before.
pub(super) fn carry(span: &SpanContext, headers: &mut HeaderMap) {
    headers.remove(PARENT);
    headers.remove(STATE);
    let cx = Context::new().with_remote_span_context(span.clone());
    TraceContextPropagator::new().inject_context(&cx, &mut Lines(headers));
}

/// Whether a signature in the request covers its context, which then must not change. Rather once too often: a word that only looks so
/// costs a link in a trace, a broken signature the request.
pub(super) fn is_signed(headers: &HeaderMap) -> bool {
    let lines = SIGNATURES.iter().flat_map(|name| headers.get_all(*name));
    lines.into_iter().any(|line| {
        let line = line.as_bytes().to_ascii_lowercase();
        [PARENT, STATE].iter().any(|name| {
            let name = name.as_bytes();
            line.windows(name.len()).any(|part| part == name)
        })
    })
}

/// Whether it has the form that the specification gives it, of this version or a later one (3.2.2 and 4.3 there).
fn is_well_formed(parent: &str) -> bool {
    let bytes = parent.as_bytes();
    let Some((known, more)) = bytes.split_at_checked(LENGTH) else {
        return false;
    };
    let in_form = known.iter().enumerate().all(|(i, b)| match i {
        2 | 35 | 52 => *b == b'-',
        _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
    });
    in_form
        && match &known[..2] {
            b"ff" => false,
            b"00" => more.is_empty(),
            _ => more.first().is_none_or(|b| *b == b'-'),
        }
}

/// What the library reads.
struct Carried<'a> {
    parent: &'a str,
    state: String,
}

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            PARENT => Some(self.parent),
            STATE => Some(&self.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT, STATE]
    }
}

/// Where the library writes.
struct Lines<'a>(&'a mut HeaderMap);

impl Injector for Lines<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = [PARENT, STATE].into_iter().find(|name| *name == key);
        if let (Some(name), Ok(value), false) = (name, HeaderValue::try_from(&value), value.is_empty()) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn span(headers: &HeaderMap) -> SpanContext {
        of(headers).span().span_context().clone()
    }

    #[test]
    fn a_context_comes_back_as_it_was() {
        let first = headers(&[
            ("traceparent", GOOD),
            ("tracestate", "a=1, b=2"),
            ("tracestate", "c=3"),
        ]);
        let found = span(&first);
        assert!(found.is_valid() && found.is_sampled() && found.is_remote());
        assert_eq!(found.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(found.span_id().to_string(), "00f067aa0ba902b7");
        let mut next = headers(&[("traceparent", "stale"), ("tracestate", "stale"), ("x", "y")]);
        carry(&found, &mut next);
        assert_eq!(next["traceparent"], GOOD);
        assert_eq!(next["tracestate"], "a=1,b=2,c=3");
        assert_eq!(next.len(), 3, "{next:?}");
    }

    #[test]
    fn a_bad_state_does_not_spoil_a_good_parent() {
        for state in ["no pairs", "a=1,,b", "=", "A B=1"] {
            let found = span(&headers(&[("traceparent", GOOD), ("tracestate", state)]));
            assert!(found.is_valid(), "{state}");
            assert_eq!(found.trace_state().header(), "", "{state}");
        }
    }

    #[test]
    fn what_is_no_valid_parent_is_ignored() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        for bad in [
            String::new(),
            GOOD.to_uppercase(),
            format!("{GOOD}-"),
            format!("{GOOD}-more"),
            format!("ff-{id}-01"),
            format!("01-{id}-01more"),
            format!("0-{id}-01"),
            format!("00-{id}-1"),
            format!("00-{id}-0x"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".into(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".into(),
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            "00-bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7a-01".into(),
        ] {
            let headers = headers(&[("traceparent", &bad), ("tracestate", "a=1")]);
            assert!(!span(&headers).is_valid(), "{bad}");
        }
        assert!(!span(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])).is_valid());
        assert!(!span(&headers(&[("tracestate", "a=1")])).is_valid());
    }

    #[test]
    fn versions_to_come_are_read_as_far_as_this_one_goes() {
        for later in [
            GOOD.replacen("00", "01", 1),
            format!("{}-more-to-come", GOOD.replacen("00", "cc", 1)),
        ] {
            assert!(span(&headers(&[("traceparent", &later)])).is_valid(), "{later}");
        }
    }

    #[test]
    fn signatures_that_cover_the_context_are_seen() {
        for (name, covers) in [
            ("signature-input", "sig1=(\"@method\" \"traceparent\");created=1"),
            ("signature-input", "sig1=(\"tracestate\";sf)"),
            ("signature", "keyId=\"k\",headers=\"date Traceparent\""),
            (
                "authorization",
                "AWS4-HMAC-SHA256 SignedHeaders=host;traceparent, Signature=00",
            ),
        ] {
            assert!(
                is_signed(&headers(&[("signature-input", "a=()"), (name, covers)])),
                "{covers}"
            );
        }
        for (name, other) in [
            ("signature-input", "sig1=(\"@method\" \"content-digest\")"),
            ("x-hub-signature-256", "sha256=00"),
            ("traceparent", GOOD),
        ] {
            assert!(!is_signed(&headers(&[(name, other)])), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            parent in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?".prop_map(String::into_bytes),
                "[0-9a-fA-F+-]{50,60}".prop_map(String::into_bytes),
            ],
            states in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4),
        ) {
            let mut headers = HeaderMap::new();
            let Ok(line) = HeaderValue::from_bytes(&parent) else { return Ok(()) };
            headers.append(PARENT, line);
            for state in states.iter().filter_map(|s| HeaderValue::from_bytes(s).ok()) {
                headers.append(STATE, state);
            }
            let found = span(&headers);
            if found.is_valid() {
                // What was understood is in what came, and what is written can be understood.
                let text = String::from_utf8(parent).unwrap();
                prop_assert!(text.contains(&found.trace_id().to_string()), "{}", text);
                prop_assert!(text.contains(&found.span_id().to_string()), "{}", text);
                carry(&found, &mut headers);
                let again = span(&headers);
                prop_assert_eq!(&again, &found);
            }
        }
    }
}
