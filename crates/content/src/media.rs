//! Media types (RFC 9110, section 8.3.1), and lists of them with quality values, as in `Accept` (section 12.5.1).

use std::fmt;

/// Longest media type with its parameters in bytes.
pub const MAX_MEDIA_TYPE: usize = 256;
/// Longest `Accept` in bytes.
pub const MAX_ACCEPT: usize = 2048;
/// Most ranges in an `Accept`.
pub const MAX_RANGES: usize = 32;

/// A media type: type and subtype in lower case, and the one parameter that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    slash: usize,
    charset: Option<String>,
}

impl MediaType {
    /// Reads one, as a `Content-Type` has it. `None`: it is none, or too long.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_MEDIA_TYPE {
            return None;
        }
        let (essence, parameters) = split_parameters(text);
        let essence = essence.trim().to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) || kind == "*" || subtype == "*" {
            return None;
        }
        let slash = kind.len();
        let charset = parameters
            .filter(|(name, _)| name.eq_ignore_ascii_case("charset"))
            .map(|(_, value)| value.trim_matches('"').to_owned())
            .next();
        Some(Self {
            essence,
            slash,
            charset,
        })
    }

    /// `text/html`, without parameters.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// What is before the slash.
    pub fn kind(&self) -> &str {
        &self.essence[..self.slash]
    }

    /// What is behind the slash.
    pub fn subtype(&self) -> &str {
        &self.essence[self.slash + 1..]
    }

    /// The parameter `charset`.
    pub fn charset(&self) -> Option<&str> {
        self.charset.as_deref()
    }

    /// JSON by its own name or by its suffix (RFC 6839).
    pub fn is_json(&self) -> bool {
        self.subtype() == "json" || self.subtype().ends_with("+json")
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.essence)
    }
}

/// A quality value in thousandths, 0 to 1000.
pub type Quality = u16;

/// One item of an `Accept`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// `text/html`, `text/*` or `*/*`, in lower case.
    pub pattern: String,
    /// How welcome it is.
    pub quality: Quality,
}

impl Range {
    /// How exactly this matches a media type: 3 by name, 2 by its type, 1 as anything, `None` not at all.
    fn specificity(&self, essence: &str) -> Option<u8> {
        if self.pattern == essence {
            return Some(3);
        }
        let kind = self.pattern.strip_suffix("/*")?;
        if kind == "*" {
            return Some(1);
        }
        let matches = essence.split_once('/').is_some_and(|(k, _)| k == kind);
        matches.then_some(2)
    }
}

/// Why a list of media ranges was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Over a limit.
    #[error(
        "a list of media types of {bytes} bytes with {ranges} items: at most {MAX_ACCEPT} bytes and {MAX_RANGES} items are read"
    )]
    TooLong {
        /// Bytes.
        bytes: usize,
        /// Items.
        ranges: usize,
    },
    /// An item makes no sense.
    #[error("{0:?} is no media type with a quality: expected something like text/html or image/*;q=0.5")]
    Range(String),
}

/// Reads an `Accept`. An empty one has no ranges.
pub fn parse_accept(text: &str) -> Result<Vec<Range>, AcceptError> {
    let ranges = text.bytes().filter(|&b| b == b',').count() + 1;
    if text.len() > MAX_ACCEPT || ranges > MAX_RANGES {
        return Err(AcceptError::TooLong {
            bytes: text.len(),
            ranges,
        });
    }
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| parse_range(item).ok_or_else(|| AcceptError::Range(item.chars().take(80).collect())))
        .collect()
}

/// How welcome a media type is: by the range that names it most exactly. 0 where none does.
pub fn quality(ranges: &[Range], essence: &str) -> Quality {
    ranges
        .iter()
        .filter_map(|range| Some((range.specificity(essence)?, range.quality)))
        .max()
        .map_or(0, |(_, quality)| quality)
}

fn parse_range(item: &str) -> Option<Range> {
    let (pattern, mut parameters) = split_parameters(item);
    let pattern = pattern.trim().to_ascii_lowercase();
    let (kind, subtype) = pattern.split_once('/')?;
    let ok = is_token(kind) && is_token(subtype) && (kind != "*" || subtype == "*");
    let quality = match parameters.find(|(name, _)| name.eq_ignore_ascii_case("q")) {
        Some((_, value)) => parse_quality(value)?,
        None => 1000,
    };
    ok.then_some(Range { pattern, quality })
}

fn parse_quality(text: &str) -> Option<Quality> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: Quality = match whole {
        "0" => 0,
        "1" => 1000,
        _ => return None,
    };
    let fraction: Quality = format!("{fraction:0<3}").parse().ok()?;
    Some(whole + fraction).filter(|&q| q <= 1000)
}

/// Splits at semicolons. A quoted value with a semicolon in it comes out wrong; no parameter that is used has one.
fn split_parameters(text: &str) -> (&str, impl Iterator<Item = (&str, &str)>) {
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default();
    let parameters = parts.filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim(), value.trim()))
    });
    (essence, parameters)
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_media_type_is_read_with_its_charset() {
        let html = MediaType::parse("Text/HTML; Charset=\"ISO-8859-1\"").unwrap();
        assert_eq!(
            (html.essence(), html.charset()),
            ("text/html", Some("ISO-8859-1"))
        );
        assert_eq!((html.kind(), html.subtype()), ("text", "html"));
        assert!(MediaType::parse("application/problem+json").unwrap().is_json());
        for wrong in [
            "",
            "text",
            "text/",
            "/html",
            "text/*",
            "te xt/html",
            &"a/b".repeat(100),
        ] {
            assert!(MediaType::parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn the_most_exact_range_decides() {
        let ranges = parse_accept("text/*;q=0.3, text/html;q=0.7, */*;q=0.1, text/csv;q=0").unwrap();
        assert_eq!(quality(&ranges, "text/html"), 700);
        assert_eq!(quality(&ranges, "text/plain"), 300);
        assert_eq!(quality(&ranges, "image/png"), 100);
        assert_eq!(quality(&ranges, "text/csv"), 0);
        assert_eq!(quality(&parse_accept("").unwrap(), "text/html"), 0);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for wrong in [
            "text",
            "text/html;q=2",
            "text/html;q=0.1234",
            "*/html",
            "a/b;q=-1",
        ] {
            assert!(
                matches!(parse_accept(wrong), Err(AcceptError::Range(_))),
                "{wrong:?}"
            );
        }
        assert!(matches!(
            parse_accept(&"a/b,".repeat(40)),
            Err(AcceptError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,300}") {
            let _ = MediaType::parse(&text);
            let _ = parse_accept(&text);
        }
    }
}
