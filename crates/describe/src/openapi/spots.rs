//! Where an OpenAPI document has addresses: servers on every level, and references to other documents.

use crate::{
    DescribeError, Location,
    edit::Spot,
    tree::{Data, Node},
};

/// Keys under which an object's keys are names and not keywords.
const NAMED: [&str; 21] = [
    "paths",
    "webhooks",
    "callbacks",
    "responses",
    "parameters",
    "requestBodies",
    "headers",
    "securitySchemes",
    "links",
    "pathItems",
    "schemas",
    "content",
    "encoding",
    "variables",
    "properties",
    "patternProperties",
    "dependentSchemas",
    "$defs",
    "definitions",
    "mapping",
    "examples",
];

/// Keys under which anything may stand that is no part of the description.
const DATA: [&str; 5] = ["example", "default", "enum", "const", "value"];

/// Every address in the document, in no order.
///
/// # Errors
/// A server without a URL.
pub(super) fn find(root: &Node) -> Result<Vec<Spot>, DescribeError> {
    let mut spots = Vec::new();
    Walk { spots: &mut spots }.keywords(root)?;
    Ok(spots)
}

struct Walk<'a> {
    spots: &'a mut Vec<Spot>,
}

impl Walk<'_> {
    /// An object whose keys are keywords. Recurses as deep as a document may be.
    fn keywords(&mut self, node: &Node) -> Result<(), DescribeError> {
        for item in node.items() {
            self.keywords(item)?;
        }
        for (key, value) in node.entries() {
            match (key.as_str(), &value.data) {
                ("$ref", Data::Text(target)) => self.reference(target, value),
                ("servers", Data::List(servers)) => {
                    for server in servers {
                        self.server(server)?;
                    }
                }
                // Of a link.
                ("server", Data::Map(_)) => self.server(value)?,
                (key, _) if key.starts_with("x-") || DATA.contains(&key) => {}
                // In a schema, examples are values.
                ("examples", Data::List(_)) => {}
                (key, Data::Map(_)) if NAMED.contains(&key) => self.names(value, key)?,
                _ => self.keywords(value)?,
            }
        }
        Ok(())
    }

    /// An object whose keys are names.
    fn names(&mut self, node: &Node, at: &str) -> Result<(), DescribeError> {
        for (name, value) in node.entries() {
            match (name.as_str(), &value.data) {
                ("$ref", Data::Text(target)) => self.reference(target, value),
                // `components.callbacks`, and an operation's: an expression is the name of a path item.
                (_, Data::Map(_)) if at == "callbacks" => self.names(value, "paths")?,
                (name, _) if name.starts_with("x-") && matches!(at, "paths" | "responses") => {}
                _ => self.keywords(value)?,
            }
        }
        Ok(())
    }

    fn reference(&mut self, target: &str, node: &Node) {
        let (document, fragment) = target.split_at(target.find('#').unwrap_or(target.len()));
        if !document.is_empty() {
            self.spots.push(Spot {
                location: Location::Import,
                value: document.into(),
                suffix: fragment.into(),
                span: node.span.clone(),
                style: node.style,
            });
        }
    }

    fn server(&mut self, server: &Node) -> Result<(), DescribeError> {
        let Some(url) = server.get("url") else {
            return Err(DescribeError::Shape {
                at: "servers".into(),
                expected: "a server object with a url",
            });
        };
        let Some(text) = url.text() else {
            return Err(DescribeError::Shape {
                at: "servers".into(),
                expected: "a url that is a string: put it into quotes",
            });
        };
        self.spots.push(Spot {
            location: Location::Endpoint,
            value: expand(text, server.get("variables")),
            suffix: String::new(),
            span: url.span.clone(),
            style: url.style,
        });
        Ok(())
    }
}

/// A server's URL with its variables at their defaults. What has none stays as it is.
pub(super) fn expand(url: &str, variables: Option<&Node>) -> String {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some((before, behind)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, after)) = behind.split_once('}') else {
            rest = &rest[before.len()..];
            break;
        };
        let default = variables
            .and_then(|v| v.get(name))
            .and_then(|v| v.get("default"))
            .map(|default| match default.text() {
                Some(text) => text.to_owned(),
                None => default.to_value().to_string(),
            });
        match default {
            Some(default) => out.push_str(&default),
            None => out.push_str(&rest[before.len()..before.len() + name.len() + 2]),
        }
        rest = after;
    }
    out + rest
}
