//! Addresses in a document, and the document with some of them replaced.

use std::{collections::HashMap, ops::Range};

use crate::{DescribeError, Location, error::short};

/// Bytes of the longest replacement.
const MAX_REPLACEMENT: usize = 8192;

/// An address in a document.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    /// What it is for.
    pub(crate) location: Location,
    /// What the document says, escapes undone, variables at their defaults, without fragment.
    pub(crate) value: String,
    /// What stays behind a replacement: the fragment of a reference, with its `#`.
    pub(crate) suffix: String,
    /// The bytes that a replacement takes the place of.
    pub(crate) span: Range<usize>,
    /// How a replacement is written there.
    pub(crate) style: Style,
}

/// How a text stands in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Between quotes or tags of XML, which are outside of the span.
    Xml,
    /// With its quotes: JSON, and YAML's double quoted scalars.
    Quoted,
    /// YAML's single quoted scalars, with their quotes.
    Single,
    /// YAML's plain scalars.
    Plain,
    /// YAML's block scalars, from their indicator to the end of their last line.
    Block,
}

/// The document with what `map` says in place of its addresses, and the values that its spots have then.
pub(crate) fn replace(
    bytes: &[u8],
    spots: &[Spot],
    map: &mut dyn FnMut(Location, &str) -> Option<String>,
) -> Result<(Vec<u8>, Vec<String>), DescribeError> {
    let mut out = Vec::with_capacity(bytes.len() + 64 * spots.len());
    let mut expected = Vec::with_capacity(spots.len());
    let mut done = 0;
    for spot in spots {
        let Some(new) = map(spot.location, &spot.value) else {
            expected.push(spot.value.clone());
            continue;
        };
        check(&new)?;
        let before = bytes.get(done..spot.span.start).ok_or(DescribeError::Unsure)?;
        out.extend_from_slice(before);
        out.extend_from_slice(spot.style.write(&format!("{new}{}", spot.suffix)).as_bytes());
        done = spot.span.end;
        expected.push(new);
    }
    out.extend_from_slice(bytes.get(done..).ok_or(DescribeError::Unsure)?);
    Ok((out, expected))
}

/// Spots in the order of the document, each span once: a YAML alias repeats the span of its anchor.
pub(crate) fn in_order(spots: Vec<Spot>) -> Vec<Spot> {
    let mut by_span: HashMap<(usize, usize), Spot> = HashMap::new();
    for spot in spots {
        by_span.entry((spot.span.start, spot.span.end)).or_insert(spot);
    }
    let mut spots: Vec<Spot> = by_span.into_values().collect();
    spots.sort_by_key(|spot| spot.span.start);
    spots
}

impl Style {
    /// `text` as it has to be written, which is ASCII of a URL with, at most, a fragment behind it.
    fn write(self, text: &str) -> String {
        let quoted = || serde_json::Value::from(text).to_string();
        match self {
            Self::Xml => text
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;")
                .replace('\'', "&apos;"),
            Self::Quoted | Self::Block => quoted(),
            Self::Single => format!("'{}'", text.replace('\'', "''")),
            Self::Plain if is_plain(text) => text.to_owned(),
            Self::Plain => quoted(),
        }
    }
}

/// Whether a text is the same text as a plain scalar, wherever it stands: no indicator at the ends, none of flow collections, no comment.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '.'))
        && text.contains('/')
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !"[]{},\"'`|>&*!%@#".contains(c))
}

/// RFC 3986's characters and nothing else, so that no reader sees a template, a tag or the end of a string in it.
fn check(new: &str) -> Result<(), DescribeError> {
    let why = if new.is_empty() {
        "it is empty"
    } else if new.len() > MAX_REPLACEMENT {
        "it is longer than 8192 bytes"
    } else if new.contains('#') {
        "it has a fragment"
    } else if !new
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&b))
    {
        "it has characters that a URL has only percent-encoded (RFC 3986)"
    } else {
        return Ok(());
    };
    Err(DescribeError::Replacement {
        value: short(new),
        why,
    })
}
