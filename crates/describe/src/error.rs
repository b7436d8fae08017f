//! Why a description cannot be read or rewritten.

use crate::{MAX_BYTES, MAX_DEPTH};

/// Why a description cannot be read or rewritten. The document is at fault, except for [`Replacement`](Self::Replacement), where the
/// caller is. A retry with the same bytes never helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// Larger than [`MAX_BYTES`].
    #[error(
        "the description has {0} bytes; at most {MAX_BYTES} are read: split it into documents that it imports"
    )]
    TooLarge(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("line {line}: nested deeper than {MAX_DEPTH} levels; no tool writes that")]
    TooDeep {
        /// Counted from 1.
        line: usize,
    },
    /// More elements, attributes, values or repeated YAML aliases than any real description has.
    #[error("line {line}: more {what} than a description may have: split it into documents that it imports")]
    TooMany {
        /// Counted from 1.
        line: usize,
        /// What there are too many of.
        what: &'static str,
    },
    /// Not UTF-8, nor an encoding of which each byte below 128 is ASCII.
    #[error("it is not UTF-8 ({0}): save it as UTF-8")]
    Encoding(String),
    /// A document type declaration.
    #[error("line {line}: it has a document type declaration, which is never read: remove <!DOCTYPE …>")]
    Doctype {
        /// Counted from 1.
        line: usize,
    },
    /// An entity that is none of the five of XML itself.
    #[error("line {line}: the entity &{name}; is not one of XML's own five: write the character itself")]
    Entity {
        /// Counted from 1.
        line: usize,
        /// As it is written, at most 64 characters.
        name: String,
    },
    /// Not well-formed.
    #[error("line {line}: no well-formed {format}: {what}")]
    Syntax {
        /// `XML`, `JSON` or `YAML`.
        format: &'static str,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// A key twice in one object: which of them counts differs between readers.
    #[error(
        "line {line}: the key {key:?} occurs twice in one object, and readers differ in which one counts: remove one"
    )]
    Duplicate {
        /// Counted from 1, of the second one.
        line: usize,
        /// At most 64 characters.
        key: String,
    },
    /// Something else than a description.
    #[error("it is {0}; expected WSDL 1.1 (wsdl:definitions), an XML schema, or OpenAPI 3 as JSON or YAML")]
    Unknown(String),
    /// A description in a version that is not read.
    #[error("it is {found}; expected {expected}")]
    Version {
        /// As the document says.
        found: String,
        /// What to convert it to.
        expected: &'static str,
    },
    /// A part has another shape than its specification says.
    #[error("{at}: expected {expected}")]
    Shape {
        /// JSON pointer, or the name of an element with its line.
        at: String,
        /// What has to stand there.
        expected: &'static str,
    },
    /// Something that another document declares, which is not among those that were given.
    #[error(
        "{missing} is not declared in the documents given: register the document that declares it as well"
    )]
    Missing {
        /// What, by its name.
        missing: String,
    },
    /// A schema that cannot be compiled or would never end.
    #[error("{at}: {why}")]
    Schema {
        /// JSON pointer.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// The caller's replacement is no URL.
    #[error("{value:?} cannot stand for an address: {why}")]
    Replacement {
        /// At most 64 characters of it.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The rewritten document does not read as it should: refused rather than served.
    #[error(
        "the addresses of this description cannot be replaced with certainty: write them as plain strings"
    )]
    Unsure,
}

/// The line of `offset` in `bytes`, counted from 1.
pub(crate) fn line(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset.min(bytes.len())]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
}

/// At most 64 characters of `text`, for messages.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
