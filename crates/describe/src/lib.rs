//! Descriptions of web services: WSDL 1.1 with its XML schemas, and OpenAPI 3.0 and 3.1.
//!
//! [`Description::parse`] reads one, [`Description::summary`] says what is in it, [`rewrite`] replaces the addresses by which a generated
//! client would call, [`Validator`] holds requests against it, and [`callbacks`] tells where requests carry addresses to be called back
//! at. Pure functions: no network, no files, no clock; documents that a description imports or refers to are named, never fetched. A
//! description may come from anybody, so everything is bounded: size, depth, number of values, repeated YAML aliases. DTDs and entities
//! other than XML's five are refused. Of the project this crate imports nothing.
//!
//! Follows WSDL 1.1 (W3C note, 15 March 2001), XML Schema 1.1 part 1 section 4.2, WS-Addressing 1.0 core and metadata, WS-Eventing, OpenAPI 3.0.4
//! and 3.1.1.

mod edit;
mod error;
mod format;
mod openapi;
mod summary;
mod tree;
mod validate;
mod wsdl;
mod xml;

pub use error::DescribeError;
pub use format::is_description;
pub use openapi::{CallbackHint, OpenApi, Place, callbacks};
pub use summary::{Kind, Operation, Summary};
pub use validate::{Invalid, Validator};
pub use wsdl::Wsdl;

use edit::Spot;
use format::Format;

/// Bytes of the largest description that is read.
pub const MAX_BYTES: usize = 4 << 20;

/// Levels of elements, objects and arrays.
pub const MAX_DEPTH: usize = 128;

/// Elements and attributes, or values, of one document; what YAML aliases repeat counts each time.
pub(crate) const MAX_NODES: usize = 500_000;

/// A description that has been read.
#[derive(Debug, Clone)]
pub enum Description {
    /// WSDL 1.1, or an XML schema that one imports.
    Wsdl(Wsdl),
    /// OpenAPI 3.0 or 3.1.
    OpenApi(OpenApi),
}

/// What an address in a description is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// Where requests go: a port's address, a server's URL. May be relative in OpenAPI.
    Endpoint,
    /// Another document: an import, an include, a `$ref` (without its fragment). May be relative.
    Import,
}

impl Description {
    /// Reads a description. `hint` is a content type or a file name; what the bytes themselves show weighs more.
    ///
    /// # Errors
    /// Too large or deep, not well-formed, ambiguous, or no description of a version that is read.
    pub fn parse(bytes: &[u8], hint: Option<&str>) -> Result<Self, DescribeError> {
        Ok(match Format::of(bytes, hint)? {
            Format::Xml => Self::Wsdl(Wsdl::parse(bytes)?),
            format => Self::OpenApi(OpenApi::parse(bytes, format)?),
        })
    }

    /// What is in it.
    pub fn summary(&self) -> Summary {
        match self {
            Self::Wsdl(wsdl) => wsdl.summary(),
            Self::OpenApi(api) => api.summary(),
        }
    }

    /// Every address in it, in the order of the document.
    fn spots(&self) -> &[Spot] {
        match self {
            Self::Wsdl(wsdl) => wsdl.spots(),
            Self::OpenApi(api) => api.spots(),
        }
    }
}

/// Replaces addresses. `map` is asked for each one, in the order of the document, and answers with what is to stand there instead,
/// or `None` to leave it. All other bytes stay as they are.
///
/// Asked for: `location` of a port's address in the bindings for SOAP 1.1, SOAP 1.2 and HTTP, `wsa:Address` of a port's endpoint
/// reference, `location` of `wsdl:import`, `schemaLocation` of `xsd:import`, `include`, `redefine` and `override`; `url` of OpenAPI's
/// servers on every level, with its variables at their defaults, and documents named by `$ref`. Not asked for: `xsi:schemaLocation`,
/// which is a hint and not an import.
///
/// # Errors
/// As [`Description::parse`]; an answer that is no URL; a document whose rewritten form would not read as it should.
pub fn rewrite(
    bytes: &[u8],
    hint: Option<&str>,
    map: &mut dyn FnMut(Location, &str) -> Option<String>,
) -> Result<Vec<u8>, DescribeError> {
    let before = Description::parse(bytes, hint)?;
    let (out, expected) = edit::replace(bytes, before.spots(), map)?;
    // The proof that a generated client reads what was meant, whatever a scalar or an attribute looked like.
    let after = Description::parse(&out, hint).map_err(|e| match e {
        DescribeError::TooLarge(_) => e,
        _ => DescribeError::Unsure,
    })?;
    let same = after
        .spots()
        .iter()
        .map(|spot| spot.value.as_str())
        .eq(expected.iter().map(String::as_str));
    if same { Ok(out) } else { Err(DescribeError::Unsure) }
}
