//! JSON and YAML as one tree, in which every scalar knows its bytes.

mod json;
mod yaml;

use std::{collections::HashMap, ops::Range};

use serde_json::{Number, Value};

use crate::{DescribeError, MAX_NODES, edit::Style, format::Format};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) data: Data,
    /// Of a scalar as it is written, with its quotes. Of others only where they begin is certain.
    pub(crate) span: Range<usize>,
    pub(crate) style: Style,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Object),
}

/// Distinct keys and their values, in the order of the document.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) entries: Vec<(String, Node)>,
    /// Where the entries are by their key, if there are so many that looking through them takes long: references may be as many.
    places: HashMap<String, usize>,
}

/// Entries that are looked through.
const FEW: usize = 16;

impl Object {
    fn new(entries: Vec<(String, Node)>) -> Self {
        let keys = entries.iter().enumerate().map(|(at, (key, _))| (key.clone(), at));
        let places = if entries.len() > FEW {
            keys.collect()
        } else {
            HashMap::new()
        };
        Self { entries, places }
    }

    fn get(&self, key: &str) -> Option<&Node> {
        let (_, node) = if self.entries.len() > FEW {
            self.entries.get(*self.places.get(key)?)?
        } else {
            self.entries.iter().find(|(k, _)| k == key)?
        };
        Some(node)
    }
}

/// Reads a document.
pub(crate) fn read(bytes: &[u8], format: Format) -> Result<Node, DescribeError> {
    let text = str::from_utf8(bytes).map_err(|e| DescribeError::Encoding(e.to_string()))?;
    let stripped = text.strip_prefix('\u{feff}').unwrap_or(text);
    let skipped = text.len() - stripped.len();
    match format {
        Format::Json => json::read(stripped, skipped),
        _ => yaml::read(stripped, skipped),
    }
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.data {
            Data::Map(object) => object.get(key),
            _ => None,
        }
    }

    /// Of an object; nothing of others.
    pub(crate) fn entries(&self) -> &[(String, Self)] {
        match &self.data {
            Data::Map(object) => &object.entries,
            _ => &[],
        }
    }

    /// Of an array; nothing of others.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value without places.
    pub(crate) fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Number(n) => Value::Number(n.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Self::to_value).collect(),
            Data::Map(object) => object
                .entries
                .iter()
                .map(|(k, v)| (k.clone(), v.to_value()))
                .collect(),
        }
    }
}

/// What a document may still cost. What is repeated costs each time.
struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    fn new() -> Self {
        Self {
            nodes: MAX_NODES,
            bytes: 4 * crate::MAX_BYTES,
        }
    }

    /// Whether it could be paid.
    fn pay(&mut self, nodes: usize, bytes: usize) -> bool {
        match (self.nodes.checked_sub(nodes), self.bytes.checked_sub(bytes)) {
            (Some(nodes), Some(bytes)) => {
                *self = Self { nodes, bytes };
                true
            }
            _ => false,
        }
    }
}
