//! Where requests carry addresses to be called back at: OpenAPI's runtime expressions.

use super::{METHODS, OpenApi, entries};
use crate::tree::Node;

/// Where an exchange carries an address that the service calls back later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackHint {
    /// The operation's `operationId`, else method and path.
    pub operation: String,
    /// The HTTP method of the request, in upper case.
    pub method: String,
    /// The path template of the request.
    pub path: String,
    /// The name of the callback.
    pub callback: String,
    /// Where the address stands.
    pub place: Place,
}

/// Where in an exchange an address stands (OpenAPI 3.1.1 section 4.8.20.4, "Runtime Expressions").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At this JSON pointer (RFC 6901) of the request's body; empty for the whole body.
    Body(String),
    /// The query parameter of this name.
    Query(String),
    /// The request's header of this name, in lower case.
    Header(String),
    /// The path parameter of this name.
    Path(String),
    /// At this JSON pointer of the response's body.
    ResponseBody(String),
    /// The response's header of this name, in lower case.
    ResponseHeader(String),
}

/// Where requests and their responses carry addresses to be called back at: the runtime expressions with which the callbacks' URLs begin.
/// A callback at a fixed address gives none, nor does one whose expression only fills in a part of its URL.
pub fn callbacks(api: &OpenApi) -> Vec<CallbackHint> {
    let mut hints = Vec::new();
    for (path, item) in entries(api.root.get("paths")) {
        let item = api.follow(item);
        for method in METHODS {
            let Some(operation) = item.get(method) else {
                continue;
            };
            let method = method.to_ascii_uppercase();
            let name = operation
                .get("operationId")
                .and_then(Node::text)
                .map_or_else(|| format!("{method} {path}"), Into::into);
            for (callback, expressions) in entries(operation.get("callbacks")) {
                let places = api
                    .follow(expressions)
                    .entries()
                    .iter()
                    .filter_map(|(key, _)| place(key));
                hints.extend(places.map(|place| CallbackHint {
                    operation: name.clone(),
                    method: method.clone(),
                    path: path.clone(),
                    callback: callback.clone(),
                    place,
                }));
            }
        }
    }
    hints
}

/// The place that the key of a callback begins with, as `{$request.body#/url}/data` or `$request.query.url`.
fn place(key: &str) -> Option<Place> {
    let expression = match key.strip_prefix('{') {
        Some(rest) => rest.split_once('}')?.0,
        None => key,
    };
    let (response, source) = match expression.strip_prefix("$request.") {
        Some(source) => (false, source),
        None => (true, expression.strip_prefix("$response.")?),
    };
    if let Some(pointer) = source.strip_prefix("body") {
        let pointer = match pointer.strip_prefix('#') {
            Some(pointer) => pointer,
            None if pointer.is_empty() => "",
            None => return None,
        };
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return None;
        }
        let place = if response {
            Place::ResponseBody
        } else {
            Place::Body
        };
        return Some(place(pointer.into()));
    }
    let (kind, name) = source.split_once('.')?;
    if name.is_empty() {
        return None;
    }
    match (response, kind) {
        (false, "query") => Some(Place::Query(name.into())),
        (false, "path") => Some(Place::Path(name.into())),
        (false, "header") => Some(Place::Header(name.to_ascii_lowercase())),
        (true, "header") => Some(Place::ResponseHeader(name.to_ascii_lowercase())),
        _ => None,
    }
}
