//! CloudEvents 1.0 over HTTP: binary, structured (JSON) and batch (JSON), after the HTTP protocol binding and the JSON event
//! format of that specification. What could be read in two ways is refused: a name that comes twice, `data` beside `data_base64`.

mod binary;
mod json;

use std::collections::BTreeMap;

use http::{HeaderMap, header::CONTENT_TYPE};
use minicbor::{Decode, Encode};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::media::{MAX_MEDIA_TYPE, MediaType};

/// Largest body of a request in bytes; whoever collects one stops there.
pub const MAX_BODY: usize = 16 * 1024 * 1024;
/// Most events in a batch.
pub const MAX_BATCH: usize = 256;
/// Longest `id`, `source`, `type`, `subject` and `dataschema` in bytes.
pub const MAX_ATTRIBUTE: usize = 1024;
/// Longest value of an extension in bytes.
pub const MAX_EXTENSION: usize = 4096;
/// Most extensions of one event.
pub const MAX_EXTENSIONS: usize = 32;
/// Longest name of an attribute in bytes.
pub const MAX_NAME: usize = 64;

/// An event. Its texts are within the limits of this module.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// `id`: unlike that of every other event of `source`.
    #[n(0)]
    pub id: String,
    /// `source`: who says it, as a URI reference.
    #[n(1)]
    pub source: String,
    /// `type`: what kind of event.
    #[n(2)]
    pub event_type: String,
    /// `subject`: here a line for people.
    #[n(3)]
    pub subject: Option<String>,
    /// `time`: when it happened, RFC 3339.
    #[n(4)]
    pub time: Option<String>,
    /// `datacontenttype`: media type of `data`.
    #[n(5)]
    pub datacontenttype: Option<String>,
    /// `dataschema`: a URI.
    #[n(6)]
    pub dataschema: Option<String>,
    /// The content.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub data: Vec<u8>,
    /// All other attributes by name. [`crate::routing()`] reads those that mean something here.
    #[n(8)]
    pub extensions: BTreeMap<String, String>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Event({:?} of {:?}, {} bytes)",
            self.id,
            self.source,
            self.data.len()
        )
    }
}

impl Event {
    /// The media type of the data. `None`: none is given.
    pub fn media_type(&self) -> Option<MediaType> {
        MediaType::parse(self.datacontenttype.as_deref()?)
    }
}

/// Why a request holds no event. All are the publisher's fault, and a repetition does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Neither form of an event.
    #[error(
        "this is no CloudEvent: expected the headers ce-specversion, ce-id, ce-source and ce-type beside the content, \
         or Content-Type application/cloudevents+json or application/cloudevents-batch+json"
    )]
    NoEvent,
    /// An event format that is not spoken here.
    #[error(
        "events as {0} are not read here: send application/cloudevents+json, or the binary form with ce- headers"
    )]
    Format(String),
    /// The whole is too large.
    #[error("a body of {length} bytes is over the limit of {MAX_BODY}")]
    TooLarge {
        /// Bytes.
        length: usize,
    },
    /// Too many events at one time.
    #[error("a batch has at most {MAX_BATCH} events")]
    Batch,
    /// Something is wrong with one event of a batch.
    #[error("event {index} of the batch: {error}")]
    InBatch {
        /// Which one, from 0.
        index: usize,
        /// What is wrong.
        error: Box<EventError>,
    },
    /// An attribute that must be there is not.
    #[error("the attribute {0} is missing or empty")]
    Missing(&'static str),
    /// An attribute comes twice.
    #[error("the attribute {0:?} comes more than once")]
    Twice(String),
    /// An attribute's value is not what it must be.
    #[error("the attribute {name:?} is {value:?}: expected {expected}")]
    Attribute {
        /// Its name, shortened.
        name: String,
        /// Its value, shortened.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// Over the limit on extensions.
    #[error("more than {MAX_EXTENSIONS} extensions")]
    Extensions,
    /// Both `data` and `data_base64`.
    #[error("an event has data or data_base64, not both")]
    TwoData,
    /// `data_base64` is no Base64.
    #[error("data_base64 is no Base64 (RFC 4648, section 4)")]
    Base64,
    /// Not JSON of the expected shape.
    #[error("not an event as JSON: {0}")]
    Json(String),
}

impl EventError {
    /// The HTTP status that says so: 400, 413 or 415.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoEvent | Self::Format(_) => 415,
            Self::TooLarge { .. } | Self::Batch => 413,
            Self::InBatch { error, .. } => error.status(),
            _ => 400,
        }
    }
}

/// Reads the events of a request: one, or as many as a batch has (which may be none).
pub fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, EventError> {
    if body.len() > MAX_BODY {
        return Err(EventError::TooLarge { length: body.len() });
    }
    let content_type = content_type(headers)?;
    match content_type.as_ref().map(MediaType::essence) {
        Some("application/cloudevents+json") => Ok(vec![json::event(utf8(content_type.as_ref(), body)?)?]),
        Some("application/cloudevents-batch+json") => json::batch(utf8(content_type.as_ref(), body)?),
        Some(other) if other.starts_with("application/cloudevents") => Err(EventError::Format(other.into())),
        _ => Ok(vec![binary::event(headers, body)?]),
    }
}

/// Whether a request holds a batch, whose answer then is a list, too.
pub fn is_batch(headers: &HeaderMap) -> bool {
    matches!(content_type(headers), Ok(Some(t)) if t.essence() == "application/cloudevents-batch+json")
}

fn content_type(headers: &HeaderMap) -> Result<Option<MediaType>, EventError> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(EventError::Twice("datacontenttype".into()));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    let media = MediaType::parse(&text).ok_or_else(|| wrong("datacontenttype", &text, "a media type"))?;
    Ok(Some(media))
}

fn utf8<'a>(content_type: Option<&MediaType>, body: &'a [u8]) -> Result<&'a str, EventError> {
    let charset = content_type.and_then(MediaType::charset).unwrap_or("utf-8");
    if !charset.eq_ignore_ascii_case("utf-8") && !charset.eq_ignore_ascii_case("us-ascii") {
        return Err(EventError::Format(format!("JSON in {charset}")));
    }
    std::str::from_utf8(body).map_err(|e| EventError::Json(e.to_string()))
}

fn wrong(name: &str, value: &str, expected: &'static str) -> EventError {
    let short = |text: &str| text.chars().take(80).collect();
    EventError::Attribute {
        name: short(name),
        value: short(value),
        expected,
    }
}

/// Collects attributes as they come, in either form.
#[derive(Default)]
struct Attributes {
    known: BTreeMap<&'static str, String>,
    extensions: BTreeMap<String, String>,
}

const KNOWN: [&str; 8] = [
    "id",
    "source",
    "type",
    "specversion",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
];

impl Attributes {
    /// Takes one. Its name is checked here, and its length.
    fn add(&mut self, name: &str, value: String) -> Result<(), EventError> {
        let known = KNOWN.into_iter().find(|known| *known == name);
        let good_name = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !good_name || name == "data" {
            return Err(wrong(
                name,
                &value,
                "a name of a-z and 0-9, at most 64, other than data",
            ));
        }
        let limit = match known {
            Some("datacontenttype") => MAX_MEDIA_TYPE,
            Some(_) => MAX_ATTRIBUTE,
            None => MAX_EXTENSION,
        };
        if value.len() > limit {
            return Err(wrong(
                name,
                &value,
                "a shorter value (1024 bytes, extensions 4096, media types 256)",
            ));
        }
        if value.chars().any(|c| c.is_control()) {
            return Err(wrong(name, &value, "no control characters"));
        }
        let before = match known {
            Some(known) => self.known.insert(known, value),
            None if self.extensions.len() >= MAX_EXTENSIONS => return Err(EventError::Extensions),
            None => self.extensions.insert(name.to_owned(), value),
        };
        match before {
            Some(_) => Err(EventError::Twice(name.into())),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.remove(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &'static str) -> Result<String, EventError> {
        self.take(name).ok_or(EventError::Missing(name))
    }

    /// The event, once all attributes are there.
    fn event(mut self, data: Vec<u8>) -> Result<Event, EventError> {
        let version = self.required("specversion")?;
        if version != "1.0" {
            return Err(wrong("specversion", &version, "1.0"));
        }
        let time = self.take("time");
        if let Some(time) = time
            .as_deref()
            .filter(|t| OffsetDateTime::parse(t, &Rfc3339).is_err())
        {
            return Err(wrong(
                "time",
                time,
                "a time as in RFC 3339, like 2026-01-31T12:00:00Z",
            ));
        }
        let datacontenttype = self.take("datacontenttype");
        if let Some(text) = datacontenttype
            .as_deref()
            .filter(|t| MediaType::parse(t).is_none())
        {
            return Err(wrong("datacontenttype", text, "a media type"));
        }
        Ok(Event {
            id: self.required("id")?,
            source: self.required("source")?,
            event_type: self.required("type")?,
            subject: self.take("subject"),
            time,
            datacontenttype,
            dataschema: self.take("dataschema"),
            data,
            extensions: self.extensions,
        })
    }
}
