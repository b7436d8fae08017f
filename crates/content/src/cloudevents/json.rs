//! The structured form and the batch: the JSON event format. Values are kept as raw text until their name is known, so that a
//! body takes no more memory than its own length and the events' texts.

use std::fmt;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Attributes, Event, EventError, MAX_BATCH, wrong};
use crate::media::MediaType;

/// Most members of an event's object that are looked at.
const MAX_MEMBERS: usize = 64;
/// With or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn event(body: &str) -> Result<Event, EventError> {
    let members: Members<'_> = serde_json::from_str(body).map_err(json)?;
    from_members(members)
}

pub(super) fn batch(body: &str) -> Result<Vec<Event>, EventError> {
    let Items(items) = serde_json::from_str(body).map_err(json)?;
    if items.len() > MAX_BATCH {
        return Err(EventError::Batch);
    }
    let in_batch = |(index, item): (usize, &RawValue)| {
        event(item.get()).map_err(|error| EventError::InBatch {
            index,
            error: Box::new(error),
        })
    };
    items.into_iter().enumerate().map(in_batch).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn json(error: serde_json::Error) -> EventError {
    EventError::Json(error.to_string().chars().take(200).collect())
}

fn from_members(Members(members): Members<'_>) -> Result<Event, EventError> {
    let mut attributes = Attributes::default();
    let (mut data, mut base64) = (None, None);
    for (name, value) in members {
        if value.get() == "null" {
            continue;
        }
        let once = match name.as_str() {
            "data" => &mut data,
            "data_base64" => &mut base64,
            _ => {
                let text = attribute(&name, value)?;
                attributes.add(&name, text)?;
                continue;
            }
        };
        if once.replace(value).is_some() {
            return Err(EventError::Twice(name));
        }
    }
    let declared = attributes.known.get("datacontenttype").map(String::as_str);
    let (data, default) = match (data, base64) {
        (Some(_), Some(_)) => return Err(EventError::TwoData),
        (Some(data), None) => content(declared, data)?,
        (None, Some(base64)) => (decoded(base64)?, None),
        (None, None) => (Vec::new(), None),
    };
    if let (None, Some(default)) = (declared, default) {
        attributes.add("datacontenttype", default.into())?;
    }
    attributes.event(data)
}

/// The member `data`: JSON as it stands, unless the content is declared to be something else; then a string is its text. Without
/// a declaration it is `application/json`.
fn content(declared: Option<&str>, data: &RawValue) -> Result<(Vec<u8>, Option<&'static str>), EventError> {
    let is_json = declared.is_none_or(|t| MediaType::parse(t).is_some_and(|t| t.is_json()));
    if is_json {
        return Ok((data.get().as_bytes().to_vec(), Some("application/json")));
    }
    match serde_json::from_str::<String>(data.get()) {
        Ok(text) => Ok((text.into_bytes(), None)),
        Err(_) => Err(wrong(
            "data",
            data.get(),
            "a string, since datacontenttype is no JSON (or data_base64)",
        )),
    }
}

fn decoded(base64: &RawValue) -> Result<Vec<u8>, EventError> {
    let text: String = serde_json::from_str(base64.get()).map_err(|_| EventError::Base64)?;
    BASE64.decode(text).map_err(|_| EventError::Base64)
}

/// Strings, booleans and integers (JSON event format, section 2.2).
fn attribute(name: &str, value: &RawValue) -> Result<String, EventError> {
    let raw = value.get();
    let text = match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).ok(),
        Some(b't' | b'f') => Some(raw.to_owned()),
        Some(b'-' | b'0'..=b'9') => raw.parse::<i32>().ok().map(|n| n.to_string()),
        _ => None,
    };
    text.ok_or_else(|| wrong(name, raw, "a string, a boolean or an integer of 32 bits"))
}

/// An object's members in order, with those that come twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the event's attributes and data")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom("more than 64 members"));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A batch's events, one more than are allowed at most.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() <= MAX_BATCH {
                    match seq.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Items(items)),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cloudevents::{MAX_BODY, is_batch, parse};
    use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
    use proptest::prelude::*;

    fn structured(rest: &str) -> Result<Event, EventError> {
        event(&format!(
            r#"{{"specversion":"1.0","id":"1","source":"/pbx","type":"example.call"{rest}}}"#
        ))
    }

    fn headers(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn data_is_json_text_or_base64() {
        let json = structured(r#","data":{"a": [1, "ü"]}"#).unwrap();
        assert_eq!(json.data, r#"{"a": [1, "ü"]}"#.as_bytes());
        assert_eq!(json.datacontenttype.as_deref(), Some("application/json"));
        let string = structured(r#","datacontenttype":"application/json","data":"x""#).unwrap();
        assert_eq!(string.data, b"\"x\"");
        let text = structured(r#","datacontenttype":"text/html","data":"<p>\u00fc""#).unwrap();
        assert_eq!(text.data, "<p>ü".as_bytes());
        for base64 in ["AAEC/w==", "AAEC/w"] {
            let event = structured(&format!(
                r#","data_base64":"{base64}","datacontenttype":"image/png""#
            ))
            .unwrap();
            assert_eq!(event.data, [0, 1, 2, 255]);
        }
        assert_eq!(structured("").unwrap().data, b"");
    }

    #[test]
    fn attributes_may_be_strings_booleans_and_integers() {
        let event = structured(r#","ttl":60,"urgency":"high","flag":true,"none":null"#).unwrap();
        assert_eq!(event.extensions["ttl"], "60");
        assert_eq!(event.extensions["flag"], "true");
        assert!(!event.extensions.contains_key("none"));
        for wrong in [
            r#","x":1.5"#,
            r#","x":{}"#,
            r#","x":[]"#,
            r#","X":"a""#,
            r#","x":99999999999"#,
        ] {
            assert!(
                matches!(structured(wrong), Err(EventError::Attribute { .. })),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert_eq!(
            structured(r#","data":1,"data_base64":"""#),
            Err(EventError::TwoData)
        );
        assert_eq!(
            structured(r#","data":1,"data":2"#),
            Err(EventError::Twice("data".into()))
        );
        assert_eq!(structured(r#","id":"2""#), Err(EventError::Twice("id".into())));
        assert_eq!(structured(r#","data_base64":"*""#), Err(EventError::Base64));
        assert!(matches!(
            structured(r#","datacontenttype":"text/plain","data":{}"#),
            Err(EventError::Attribute { .. })
        ));
        assert!(matches!(event("[]"), Err(EventError::Json(_))));
        assert!(matches!(event("{} x"), Err(EventError::Json(_))));
    }

    #[test]
    fn a_batch_is_read_in_order_and_says_which_event_is_wrong() {
        let good = r#"{"specversion":"1.0","id":"1","source":"/a","type":"t"}"#;
        let kind = headers("application/cloudevents-batch+json");
        assert!(is_batch(&kind));
        assert_eq!(
            parse(&kind, format!("[{good},{good}]").as_bytes()).unwrap().len(),
            2
        );
        assert_eq!(parse(&kind, b"[]").unwrap(), []);
        let error = parse(&kind, format!("[{good},{{}}]").as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "event 1 of the batch: the attribute specversion is missing or empty"
        );
        let many = vec![good; MAX_BATCH + 1].join(",");
        assert_eq!(
            parse(&kind, format!("[{many}]").as_bytes()),
            Err(EventError::Batch)
        );
    }

    #[test]
    fn bodies_are_bounded_and_of_a_known_format() {
        let kind = headers("application/cloudevents+json; charset=utf-8");
        assert!(!is_batch(&kind));
        let large = vec![b' '; MAX_BODY + 1];
        assert_eq!(parse(&kind, &large).unwrap_err().status(), 413);
        assert_eq!(
            parse(&headers("application/cloudevents+xml"), b"")
                .unwrap_err()
                .status(),
            415
        );
        assert_eq!(
            parse(&headers("application/cloudevents+json;charset=utf-16"), b"")
                .unwrap_err()
                .status(),
            415
        );
        assert_eq!(parse(&headers("text/plain"), b"x"), Err(EventError::NoEvent));
        assert!(matches!(parse(&kind, b"\xff"), Err(EventError::Json(_))));
        // Deep nesting in data is text here; it must not take the stack either.
        let deep = format!(r#"{{"data":{}"#, "[".repeat(1_000_000));
        assert!(matches!(parse(&kind, deep.as_bytes()), Err(EventError::Json(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in ".{0,200}") {
            let _ = event(&text);
            let _ = batch(&text);
        }

        #[test]
        fn any_content_survives(data: Vec<u8>) {
            let text = BASE64.encode(&data);
            prop_assert_eq!(structured(&format!(r#","data_base64":"{text}""#)).unwrap().data, data);
        }
    }
}
