//! What is in a description, for lists and for people.

use serde::Serialize;

/// What is in a description. Serialises to JSON as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Which kind of document.
    pub kind: Kind,
    /// OpenAPI's `info.title`; WSDL's first service, else the name of the definitions.
    pub title: Option<String>,
    /// OpenAPI's `info.version`; of WSDL the target namespace, which is what its authors change with a version.
    pub version: Option<String>,
    /// Where requests go, each once. Of OpenAPI without servers there are none: it is the URL that serves the document.
    pub endpoints: Vec<String>,
    /// What can be called, in the order of the document.
    pub operations: Vec<Operation>,
    /// Documents that it needs, each once, without fragments.
    pub imports: Vec<String>,
}

/// Which kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// WSDL 1.1.
    #[serde(rename = "wsdl-1.1")]
    Wsdl,
    /// An XML schema that a WSDL imports.
    XmlSchema,
    /// OpenAPI 3.0.x.
    #[serde(rename = "openapi-3.0")]
    OpenApi30,
    /// OpenAPI 3.1.x.
    #[serde(rename = "openapi-3.1")]
    OpenApi31,
}

/// Something that can be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// WSDL's operation; OpenAPI's `operationId`, else method and path.
    pub name: String,
    /// The HTTP method in upper case, where the description gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path template below an endpoint; of an OpenAPI callback its runtime expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether no answer with content comes back on the same exchange: a WSDL operation without output, an OpenAPI operation of which
    /// `202` is the only success.
    pub one_way: bool,
    /// Whether the service calls its client: WSDL's notification and solicit-response, OpenAPI's callbacks and webhooks.
    pub callback: bool,
}

/// Each text once, in the order of its first.
pub(crate) fn once<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts
        .into_iter()
        .filter(|text| seen.insert(*text))
        .map(str::to_owned)
        .collect()
}
