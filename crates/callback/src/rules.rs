//! Where addresses are looked for, and what becomes of a message that cannot be looked into.

use std::{fmt, str::FromStr};

use http::HeaderName;

/// Bytes of a message that are held at most while it is undecided, unless rules say otherwise.
pub const DEFAULT_WINDOW: usize = 256 * 1024;
/// Longest JSON pointer in bytes.
pub const MAX_POINTER: usize = 1024;
/// Most segments of a JSON pointer.
pub const MAX_SEGMENTS: usize = 32;

/// What becomes of a message that has to be looked into and cannot be: too large before it is decided, too deep, a coding or
/// character set that is not read here, not well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes as it is, and the report says so.
    Pass,
}

/// Where addresses are looked for in messages of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// SOAP: WS-Addressing headers, and endpoint references in bodies.
    pub soap: bool,
    /// Headers whose value is an address, or holds addresses in `<…>`, as `Link` does.
    pub headers: Vec<HeaderName>,
    /// Members of JSON bodies.
    pub json: Vec<JsonPointer>,
    /// Fields of `application/x-www-form-urlencoded` bodies.
    pub form: Vec<String>,
    /// Query parameters.
    pub query: Vec<String>,
    /// The member `sink` of subscriptions (CloudEvents Subscriptions API), alone or in a list.
    pub cloudevents: bool,
    /// What becomes of a message that cannot be looked into.
    pub overflow: Overflow,
    /// Bytes of a message that are held at most while it is undecided.
    pub window: usize,
}

impl Default for Rules {
    /// SOAP alone.
    fn default() -> Self {
        Self {
            soap: true,
            headers: Vec::new(),
            json: Vec::new(),
            form: Vec::new(),
            query: Vec::new(),
            cloudevents: false,
            overflow: Overflow::default(),
            window: DEFAULT_WINDOW,
        }
    }
}

/// Why a text is no JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no JSON pointer: expected /NAME/NAME… (RFC 6901), * for any, at most {MAX_SEGMENTS} names and {MAX_POINTER} bytes"
)]
pub struct PointerError(String);

/// A JSON pointer (RFC 6901) in which the segment `*` stands for any member and any element.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JsonPointer {
    text: Box<str>,
    segments: Box<[Segment]>,
}

/// One step of a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    /// `*`.
    Any,
    /// The member of this name, or the element of this number.
    Name(Box<str>),
}

impl JsonPointer {
    /// The pointer as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it leads to the value at this path of members and element numbers.
    pub fn leads_to<'a>(&self, path: impl ExactSizeIterator<Item = &'a str>) -> bool {
        self.segments.len() == path.len()
            && self
                .segments
                .iter()
                .zip(path)
                .all(|(segment, name)| match segment {
                    Segment::Any => true,
                    Segment::Name(wanted) => **wanted == *name,
                })
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl FromStr for JsonPointer {
    type Err = PointerError;

    fn from_str(s: &str) -> Result<Self, PointerError> {
        let bad = || PointerError(s.chars().take(80).collect());
        let stray = |name: &str| name.replace("~0", "").replace("~1", "").contains('~');
        let mut names = s.split('/');
        if names.next() != Some("") || s.len() > MAX_POINTER || stray(s) {
            return Err(bad());
        }
        let segments: Box<[Segment]> = names
            .map(|name| match name {
                "*" => Segment::Any,
                name => Segment::Name(name.replace("~1", "/").replace("~0", "~").into()),
            })
            .collect();
        if segments.len() > MAX_SEGMENTS {
            return Err(bad());
        }
        Ok(Self {
            text: s.into(),
            segments,
        })
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers() {
        let pointer: JsonPointer = "/hooks/*/a~1b~0".parse().unwrap();
        assert_eq!(
            pointer.segments(),
            [
                Segment::Name("hooks".into()),
                Segment::Any,
                Segment::Name("a/b~".into())
            ]
        );
        assert_eq!("".parse::<JsonPointer>().unwrap().segments(), []);
        for bad in [
            "a",
            "a/b",
            "/~",
            "/~2",
            &"/a".repeat(33),
            &format!("/{}", "a".repeat(1024)),
        ] {
            assert!(bad.parse::<JsonPointer>().is_err(), "{bad:?}");
        }
    }
}
