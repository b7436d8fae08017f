//! Requests held against descriptions.

use http::HeaderMap;

use crate::{DescribeError, Description, openapi::validate::Api, wsdl::validate::Soap};

/// Holds requests against the descriptions of one service.
///
/// Of OpenAPI: path, method, declared parameters, and the body's media type and schema. Of WSDL, structurally: the action, and the first
/// element of the SOAP body. Parameters and headers that a description does not mention are let through, as are requests for the
/// description itself.
#[derive(Debug, Clone)]
pub struct Validator {
    apis: Vec<Api>,
    soap: Option<Soap>,
}

/// Why a request is not one that the description describes. The client is at fault; a retry with the same request does not help. No message
/// has values from the request's body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// No path of the description.
    #[error("the description has no path for {0:?}")]
    Path(String),
    /// Another method than the description has for this path.
    #[error("the description has no {method} for this path, only {}", allowed.join(", "))]
    Method {
        /// The request's.
        method: String,
        /// Those that there are.
        allowed: Vec<String>,
    },
    /// A parameter that is missing or does not fit.
    #[error("{place} parameter {name:?}: {why}")]
    Parameter {
        /// `path`, `query`, `header` or `cookie`.
        place: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A body in a media type that the description does not have.
    #[error("the description has no body of type {found:?} here, only {}", allowed.join(", "))]
    ContentType {
        /// The request's, or nothing.
        found: String,
        /// Those that there are.
        allowed: Vec<String>,
    },
    /// A body that is missing or does not fit.
    #[error("body{}{pointer}: {why}", if pointer.is_empty() { "" } else { " at " })]
    Body {
        /// JSON pointer to the part that does not fit; empty for the whole.
        pointer: String,
        /// What is wrong with it.
        why: String,
    },
    /// A SOAP message of no operation.
    #[error("the description has no operation for this message: {0}")]
    Operation(String),
}

impl Invalid {
    /// The HTTP status that says so: 404, 405, 415 or 400.
    pub fn status(&self) -> u16 {
        match self {
            Self::Path(_) => 404,
            Self::Method { .. } => 405,
            Self::ContentType { .. } => 415,
            Self::Parameter { .. } | Self::Body { .. } | Self::Operation(_) => 400,
        }
    }
}

impl Validator {
    /// Takes all documents of one service: descriptions, and those that they import. A request is good if one description describes it.
    ///
    /// # Errors
    /// A part of a request that a document outside of these describes; a schema that cannot be compiled or would never end; no
    /// description at all.
    pub fn new(descriptions: &[Description]) -> Result<Self, DescribeError> {
        let mut apis = Vec::new();
        let mut wsdls = Vec::new();
        for description in descriptions {
            match description {
                Description::OpenApi(api) => apis.push(Api::new(api)?),
                Description::Wsdl(wsdl) => wsdls.push(wsdl),
            }
        }
        let soap = Soap::new(&wsdls)?;
        if apis.is_empty() && soap.is_none() {
            return Err(DescribeError::Missing {
                missing: "any operation".into(),
            });
        }
        Ok(Self { apis, soap })
    }

    /// Holds a request against the descriptions. `path_and_query` is as the origin gets it, `body` the whole body without content
    /// codings; how large it may be is the caller's to say.
    ///
    /// # Errors
    /// Says what is wrong, of the description that came nearest.
    pub fn request(
        &self,
        method: &http::Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), Invalid> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let request = Request {
            method: method.as_str(),
            path,
            query,
            headers,
            body,
        };
        let soap = self.soap.as_ref().map(|soap| soap.request(&request));
        let answers = soap
            .into_iter()
            .chain(self.apis.iter().map(|api| api.request(&request)));
        let mut nearest: Option<Invalid> = None;
        for answer in answers {
            let Err(invalid) = answer else { return Ok(()) };
            let nearer = nearest.as_ref().is_none_or(|n| rank(&invalid) > rank(n));
            nearest = if nearer { Some(invalid) } else { nearest };
        }
        nearest.map_or(Ok(()), Err)
    }
}

/// How much of a request was right.
fn rank(invalid: &Invalid) -> u8 {
    match invalid {
        Invalid::Path(_) => 0,
        Invalid::Operation(_) => 1,
        Invalid::Method { .. } => 2,
        Invalid::ContentType { .. } => 3,
        Invalid::Parameter { .. } | Invalid::Body { .. } => 4,
    }
}

/// A request in its parts.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Request<'_> {
    /// A header's text, if it has one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
