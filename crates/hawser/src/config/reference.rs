//! The configuration reference in Markdown, made from the schema of [`super::Config`]: a section for each table, a row for
//! each key.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The whole page.
pub(crate) fn page() -> String {
    let schema = schemars::schema_for!(super::Config);
    let Some(root) = schema.as_object() else {
        return String::new();
    };
    let pages = Pages {
        definitions: root
            .get("$defs")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
    };
    let mut page = String::from(
        "# Configuration\n\nMade from the code by `make reference`. One TOML file, `/etc/hawser/hawser.toml` unless `-c` or \
         `HAWSER_CONFIG` names another. An unknown key is an error. `hawser check` prints what a file would run; a running \
         process reads its file again on SIGHUP. Spans of time are written as in `30s`, `5m`, `24h`.\n",
    );
    for (name, schema) in properties(&Value::Object(root.clone())) {
        pages.table(&name, &schema, false, &mut page);
    }
    page
}

struct Pages {
    definitions: Map<String, Value>,
}

/// What one key of a table is.
struct Key {
    kind: String,
    /// A table of its own, with its schema, and whether it is repeated.
    table: Option<(Value, bool)>,
}

impl Pages {
    fn table(&self, path: &str, schema: &Value, repeated: bool, page: &mut String) {
        let schema = self.resolve(schema);
        let heading = if repeated {
            format!("[[{path}]]")
        } else {
            format!("[{path}]")
        };
        let _ = writeln!(page, "\n## `{heading}`");
        if let Some(text) = description(&schema) {
            let _ = writeln!(page, "\n{}", without_heading(&text));
        }
        let mut below = Vec::new();
        let variants = alternatives(&schema);
        if variants.is_empty() {
            self.rows(path, &schema, page, &mut below);
        }
        for variant in &variants {
            let tag = properties(variant)
                .into_iter()
                .find_map(|(k, s)| Some(format!("{k} = {}", s.get("const")?)));
            let text = description(variant).unwrap_or_default();
            let _ = writeln!(page, "\n`{}`: {}", tag.unwrap_or_default(), text);
            self.rows(path, variant, page, &mut below);
        }
        for (path, schema, repeated) in below {
            self.table(&path, &schema, repeated, page);
        }
    }

    fn rows(&self, path: &str, schema: &Value, page: &mut String, below: &mut Vec<(String, Value, bool)>) {
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut rows = String::new();
        for (name, schema) in properties(schema) {
            if schema.get("const").is_some() {
                continue;
            }
            let key = self.key(&schema);
            let path = format!("{path}.{name}");
            let text = self.meaning(&schema, &key);
            let default = default(&schema, required.contains(&name.as_str()), key.table.is_some());
            let text = match &key.table {
                Some((_, repeated)) => {
                    let written = if *repeated {
                        format!("[[{path}]]")
                    } else {
                        format!("[{path}]")
                    };
                    format!("{text} See `{written}`.")
                }
                None => text,
            };
            let _ = writeln!(
                rows,
                "| `{name}` | {} | {} | {} |",
                key.kind,
                default,
                cell(&text)
            );
            if let Some((schema, repeated)) = key.table {
                below.push((path, schema, repeated));
            }
        }
        if !rows.is_empty() {
            let _ = write!(
                page,
                "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n{rows}"
            );
        }
    }

    fn key(&self, schema: &Value) -> Key {
        let inner = self.resolve(schema);
        let is = |kind: &str| match inner.get("type") {
            Some(Value::String(s)) => s == kind,
            Some(Value::Array(a)) => a.iter().any(|v| v == kind),
            _ => false,
        };
        let plain = |kind: &str| Key {
            kind: kind.into(),
            table: None,
        };
        if is("array") {
            let items = inner.get("items").cloned().unwrap_or_default();
            let item = self.key(&items);
            return match item.table {
                Some((schema, _)) => Key {
                    kind: "tables".into(),
                    table: Some((schema, true)),
                },
                None => plain(&format!("list of {}", item.kind)),
            };
        }
        if !words(&inner).is_empty() {
            return plain("word");
        }
        if is("object") || inner.get("properties").is_some() || !alternatives(&inner).is_empty() {
            return Key {
                kind: "table".into(),
                table: Some((inner, false)),
            };
        }
        for kind in ["boolean", "integer", "number", "string"] {
            if is(kind) {
                return plain(kind);
            }
        }
        plain("any")
    }

    /// The description, and for a choice of words what each means.
    fn meaning(&self, schema: &Value, key: &Key) -> String {
        let inner = self.resolve(schema);
        let mut text = match description(schema) {
            Some(own) => own,
            None => description(&inner).unwrap_or_default(),
        };
        if key.table.is_none() && text.contains("Default:") {
            // Said in the column beside it.
            text = text
                .split("Default:")
                .next()
                .unwrap_or_default()
                .trim()
                .to_string();
        }
        if key.table.is_none() {
            let words: Vec<String> = words(&inner)
                .into_iter()
                .map(|(word, meaning)| match meaning {
                    Some(m) => format!("`{word}`: {}", m.trim_end_matches('.')),
                    None => format!("`{word}`"),
                })
                .collect();
            let said = inner_words(&inner)
                .iter()
                .all(|w| text.contains(&format!("\"{w}\"")) || text.contains(&format!("`{w}`")));
            if !said {
                let _ = write!(text, " {}.", words.join("; "));
            }
        }
        text.replace("No default.", "").trim().to_string()
    }

    /// The schema behind references and optional values.
    fn resolve(&self, schema: &Value) -> Value {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let name = name.rsplit('/').next().unwrap_or(name);
            return self
                .definitions
                .get(name)
                .map(|s| self.resolve(s))
                .unwrap_or_default();
        }
        for key in ["anyOf", "allOf"] {
            if let Some(all) = schema.get(key).and_then(Value::as_array) {
                let mut some = all.iter().filter(|s| s.get("type") != Some(&Value::from("null")));
                if let (Some(one), None) = (some.next(), some.next()) {
                    return self.resolve(one);
                }
            }
        }
        schema.clone()
    }
}

fn properties(schema: &Value) -> Vec<(String, Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn alternatives(schema: &Value) -> Vec<Value> {
    let all = schema
        .get("oneOf")
        .or_else(|| schema.get("anyOf"))
        .and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .filter(|s| s.get("properties").is_some())
        .cloned()
        .collect()
}

/// The words that a choice has, each with its meaning.
fn words(schema: &Value) -> Vec<(String, Option<String>)> {
    let word = |v: &Value| v.as_str().map(String::from);
    if let Some(all) = schema.get("enum").and_then(Value::as_array) {
        return all.iter().filter_map(|v| Some((word(v)?, None))).collect();
    }
    let all = schema.get("oneOf").and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .flat_map(|s| match s.get("const") {
            Some(v) => word(v).map(|w| (w, description(s))).into_iter().collect(),
            None => words(s),
        })
        .collect()
}

fn inner_words(schema: &Value) -> Vec<String> {
    words(schema).into_iter().map(|(word, _)| word).collect()
}

fn description(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A description without the "`[gateway.proxy]`: " that it may start with.
fn without_heading(text: &str) -> String {
    match text.split_once("]`: ") {
        Some((heading, rest)) if heading.starts_with("`[") => {
            let mut letters = rest.chars();
            letters
                .next()
                .map(|c| c.to_uppercase().chain(letters).collect())
                .unwrap_or_default()
        }
        _ => text.into(),
    }
}

fn default(schema: &Value, required: bool, table: bool) -> String {
    let said = description(schema)
        .and_then(|t| Some(t.split_once("Default: ")?.1.trim_end_matches('.').to_string()));
    match (schema.get("default"), said) {
        _ if required => "(needed)".into(),
        (_, Some(said)) if said.starts_with(['"', '[']) || said.parse::<f64>().is_ok() => {
            format!("`{}`", cell(&said))
        }
        (_, Some(said)) => cell(&said),
        _ if table => String::new(),
        (Some(Value::Null) | None, None) => "none".into(),
        (Some(v), None) => format!("`{}`", cell(&v.to_string())),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_table_and_key_is_there() {
        let page = super::page();
        for heading in [
            "## `[log]`",
            "## `[admin]`",
            "## `[hub]`",
            "## `[[hub.allow]]`",
            "## `[[gateway.export]]`",
            "## `[[gateway.carrier]]`",
        ] {
            assert!(page.contains(heading), "{heading} is missing in\n{page}");
        }
        assert!(page.contains("| `listen` |") && page.contains("`json`"), "{page}");
    }
}
