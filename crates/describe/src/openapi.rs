//! OpenAPI 3.0 and 3.1.

mod callbacks;
mod schema;
mod spots;
pub(crate) mod validate;

pub use callbacks::{CallbackHint, Place, callbacks};

use serde_json::Value;

use crate::{
    DescribeError, Kind, Location, Operation, Summary,
    edit::{self, Spot},
    format::Format,
    summary::once,
    tree::{self, Data, Node},
};

/// The methods that a path item may have, as it spells them.
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// References in a row, from one to the next.
const MAX_REFERENCES: usize = 32;

/// An OpenAPI 3.0 or 3.1 document that has been read.
#[derive(Debug, Clone)]
pub struct OpenApi {
    root: Node,
    v31: bool,
    spots: Vec<Spot>,
}

/// An operation of a document.
pub(crate) struct Op<'a> {
    /// `operationId`, else method and path.
    pub(crate) name: String,
    /// In upper case.
    pub(crate) method: String,
    /// The path template; of a webhook none.
    pub(crate) path: Option<&'a str>,
    pub(crate) node: &'a Node,
    /// Whether the service calls its client.
    pub(crate) callback: bool,
}

impl OpenApi {
    /// Reads a document.
    pub(crate) fn parse(bytes: &[u8], format: Format) -> Result<Self, DescribeError> {
        let root = tree::read(bytes, format)?;
        let v31 = version(&root)?;
        if !matches!(root.get("info").map(|n| &n.data), Some(Data::Map(_))) {
            return Err(DescribeError::Shape {
                at: "/info".into(),
                expected: "an object with title and version",
            });
        }
        for key in ["paths", "components", "webhooks"] {
            if !matches!(
                root.get(key).map(|n| &n.data),
                None | Some(Data::Map(_) | Data::Null)
            ) {
                return Err(DescribeError::Shape {
                    at: format!("/{key}"),
                    expected: "an object",
                });
            }
        }
        let spots = edit::in_order(spots::find(&root)?);
        Ok(Self { root, v31, spots })
    }

    pub(crate) fn spots(&self) -> &[Spot] {
        &self.spots
    }

    pub(crate) fn summary(&self) -> Summary {
        let info = |key| {
            let text = self
                .root
                .get("info")
                .and_then(|info| info.get(key))
                .map(Node::to_value);
            match text {
                Some(Value::String(text)) => Some(text),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            }
        };
        let operations = self.operations().into_iter().map(|op| Operation {
            one_way: one_way(op.node),
            callback: op.callback,
            path: op.path.map(Into::into),
            method: Some(op.method),
            name: op.name,
        });
        Summary {
            kind: if self.v31 {
                Kind::OpenApi31
            } else {
                Kind::OpenApi30
            },
            title: info("title"),
            version: info("version"),
            endpoints: self.addresses(Location::Endpoint),
            operations: operations.collect(),
            imports: self.addresses(Location::Import),
        }
    }

    fn addresses(&self, location: Location) -> Vec<String> {
        once(
            self.spots
                .iter()
                .filter(|s| s.location == location)
                .map(|s| s.value.as_str()),
        )
    }

    /// Every operation: of the paths, each followed by its callbacks, and of the webhooks.
    pub(crate) fn operations(&self) -> Vec<Op<'_>> {
        let mut all = Vec::new();
        for (path, item) in entries(self.root.get("paths")) {
            for op in self.of_item(Some(path), None, item, false) {
                let callbacks = entries(op.node.get("callbacks"));
                all.push(op);
                for (name, callback) in callbacks {
                    for (expression, item) in self.follow(callback).entries() {
                        all.extend(self.of_item(Some(expression), Some(name), item, true));
                    }
                }
            }
        }
        for (name, item) in entries(self.root.get("webhooks")) {
            all.extend(self.of_item(None, Some(name), item, true));
        }
        all
    }

    fn of_item<'a>(
        &'a self,
        path: Option<&'a str>,
        name: Option<&str>,
        item: &'a Node,
        callback: bool,
    ) -> Vec<Op<'a>> {
        let item = self.follow(item);
        METHODS
            .iter()
            .filter_map(|method| Some((method.to_ascii_uppercase(), item.get(method)?)))
            .map(|(method, node)| Op {
                name: node
                    .get("operationId")
                    .and_then(Node::text)
                    .or(name)
                    .map_or_else(|| format!("{method} {}", path.unwrap_or_default()), Into::into),
                method,
                path,
                node,
                callback,
            })
            .collect()
    }

    /// What a reference within the document leads to. A reference to elsewhere, to nothing or in a circle leads to itself.
    pub(crate) fn follow<'a>(&'a self, node: &'a Node) -> &'a Node {
        let mut at = node;
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = at.get("$ref").and_then(Node::text) else {
                return at;
            };
            let Some(found) = reference
                .strip_prefix('#')
                .and_then(|pointer| self.pointer(pointer))
            else {
                return at;
            };
            at = found;
        }
        node
    }

    /// What a JSON pointer (RFC 6901), percent-encoded as in a fragment, leads to.
    fn pointer(&self, pointer: &str) -> Option<&Node> {
        step(&self.root, pointer, &mut |_| ())
    }
}

/// What a JSON pointer, percent-encoded as in a fragment, leads to from `root`. Each node on the way is shown to `passed`.
fn step<'a>(root: &'a Node, pointer: &str, passed: &mut dyn FnMut(&'a Node)) -> Option<&'a Node> {
    if pointer.is_empty() {
        return Some(root);
    }
    pointer
        .strip_prefix('/')?
        .split('/')
        .try_fold(root, |node, token| {
            let token = decode(token)?.replace("~1", "/").replace("~0", "~");
            let next = match &node.data {
                Data::List(items) => items.get(token.parse::<usize>().ok()?),
                _ => node.get(&token),
            }?;
            passed(next);
            Some(next)
        })
}

/// Entries of an object that may be missing.
pub(crate) fn entries(node: Option<&Node>) -> &[(String, Node)] {
    node.map_or(&[], Node::entries)
}

/// Percent-decoded, or `None` if that is no text.
pub(crate) fn decode(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Whether it is 3.1 rather than 3.0.
fn version(root: &Node) -> Result<bool, DescribeError> {
    const EXPECTED: &str =
        "OpenAPI 3.0 or 3.1: a converter (swagger2openapi, editor.swagger.io) makes one of it";
    let wrong = |found: String| DescribeError::Version {
        found,
        expected: EXPECTED,
    };
    let Some(version) = root.get("openapi") else {
        return Err(match root.get("swagger").map(Node::to_value) {
            Some(version) => wrong(format!("Swagger {version}")),
            None => DescribeError::Unknown("JSON or YAML without the key openapi".into()),
        });
    };
    let text = match version.to_value() {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let series = |s: &str| {
        text == s
            || text
                .strip_prefix(s)
                .is_some_and(|rest| rest.starts_with(['.', '-']))
    };
    match (series("3.0"), series("3.1")) {
        (true, _) => Ok(false),
        (_, true) => Ok(true),
        _ => Err(wrong(format!("OpenAPI {}", crate::error::short(&text)))),
    }
}

/// Whether `202 Accepted` is the only success.
fn one_way(operation: &Node) -> bool {
    let mut good = entries(operation.get("responses"))
        .iter()
        .map(|(status, _)| status.as_str())
        .filter(|status| status.starts_with('2') || *status == "default")
        .peekable();
    good.peek().is_some() && good.all(|status| status == "202")
}
