//! Finds keys that the schema of the configuration does not know, wherever they are in the file, and the nearest that it does.

use std::fmt;

use schemars::Schema;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// A key that nobody knows.
#[derive(Debug)]
pub(super) struct Unknown {
    /// Where in the text, in bytes.
    pub(super) at: usize,
    key: String,
    table: String,
    nearest: Option<String>,
    known: Vec<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown key {:?}", self.key)?;
        if !self.table.is_empty() {
            write!(f, " in [{}]", self.table)?;
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest:?}?"),
            None => write!(f, "; known here: {}", self.known.join(", ")),
        }
    }
}

/// Takes unknown keys out of `document` and returns them.
pub(super) fn take(schema: &Schema, document: &mut DeTable<'_>) -> Vec<Unknown> {
    let Some(root) = schema.as_object() else {
        return Vec::new();
    };
    let mut walk = Walk {
        definitions: root.get("$defs").and_then(Value::as_object),
        found: Vec::new(),
    };
    walk.table(&Value::Object(root.clone()), document, "");
    walk.found
}

struct Walk<'s> {
    definitions: Option<&'s Map<String, Value>>,
    found: Vec<Unknown>,
}

impl Walk<'_> {
    fn table(&mut self, schema: &Value, table: &mut DeTable<'_>, path: &str) {
        let known = self.properties(schema, table);
        if known.is_empty() || self.is_map(schema) {
            return;
        }
        let keys: Vec<(String, usize)> = table
            .iter()
            .map(|(k, _)| (k.get_ref().to_string(), k.span().start))
            .collect();
        for (key, at) in keys {
            let below = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match known.get(&key) {
                Some(schema) => {
                    if let Some(value) = table.get_mut(key.as_str()) {
                        self.value(schema, value.get_mut(), &below);
                    }
                }
                None => {
                    table.remove(key.as_str());
                    self.found.push(Unknown {
                        at,
                        nearest: nearest(&key, known.keys()),
                        key,
                        table: path.into(),
                        known: known.keys().cloned().collect(),
                    });
                }
            }
        }
    }

    fn value(&mut self, schema: &Value, value: &mut DeValue<'_>, path: &str) {
        match value {
            DeValue::Table(t) => self.table(schema, t, path),
            DeValue::Array(items) => {
                for schema in self.alternatives(schema) {
                    if let Some(schema) = schema.get("items") {
                        for item in items.iter_mut() {
                            self.value(schema, item.get_mut(), path);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Keys that a table may have here: of every alternative that its tag fits.
    fn properties(&self, schema: &Value, table: &DeTable<'_>) -> Map<String, Value> {
        let all: Vec<Map<String, Value>> = self
            .alternatives(schema)
            .into_iter()
            .filter_map(|s| s.get("properties").and_then(Value::as_object).cloned())
            .collect();
        let fits = |properties: &Map<String, Value>| {
            properties.iter().all(
                |(key, schema)| match (schema.get("const"), table.get(key.as_str())) {
                    (Some(Value::String(tag)), Some(value)) => value.get_ref().as_str() == Some(tag),
                    _ => true,
                },
            )
        };
        let mut some = Map::new();
        let fitting = all.iter().any(fits);
        for properties in all.iter().filter(|p| !fitting || fits(p)) {
            some.extend(properties.clone());
        }
        some
    }

    fn is_map(&self, schema: &Value) -> bool {
        self.alternatives(schema)
            .iter()
            .any(|s| s.get("additionalProperties").is_some_and(|a| a.is_object()))
    }

    /// The schema itself and what it refers to, combined in whatever way, without references.
    fn alternatives(&self, schema: &Value) -> Vec<Value> {
        let mut flat = Vec::new();
        let mut todo = vec![schema.clone()];
        while let Some(s) = todo.pop() {
            if let Some(name) = s.get("$ref").and_then(Value::as_str) {
                let name = name.rsplit('/').next().unwrap_or(name);
                todo.extend(self.definitions.and_then(|d| d.get(name)).cloned());
            }
            for key in ["anyOf", "oneOf", "allOf"] {
                todo.extend(
                    s.get(key)
                        .and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .cloned(),
                );
            }
            flat.push(s);
        }
        flat
    }
}

/// The known key that a mistyped one was probably meant to be.
fn nearest<'k>(key: &str, known: impl Iterator<Item = &'k String>) -> Option<String> {
    known
        .map(|k| (strsim::jaro_winkler(&key.replace('-', "_"), k), k))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k.clone())
}
