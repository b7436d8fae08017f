//! The value of one QEMU option: keys with values (`file=a.img,if=virtio`, a comma within a value written twice), or JSON.

use std::fmt;

use serde_json::{Map, Value};

/// The value of an option, taken apart. Keys of nested values are joined by dots, as in `file.filename`, in both notations.
#[derive(Debug, Clone, PartialEq)]
pub enum Options {
    /// `key=value,...`.
    Pairs(Vec<Pair>),
    /// A JSON object, as `-blockdev`, `-device`, `-object` and `-netdev` take it.
    Json(Map<String, Value>),
}

/// One key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    key: String,
    value: String,
    form: Form,
}

/// How a pair was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `key=value`.
    Full,
    /// `value` in first place, where the option names the key that is meant.
    Implied,
    /// `key` for `key=on`.
    On,
    /// `nokey` for `key=off`.
    Off,
}

/// An option's value that QEMU would not read either.
#[derive(Debug, thiserror::Error)]
pub enum SyntaxError {
    /// It begins as JSON.
    #[error(
        "{text:?} begins as JSON and is none ({source}); expected an object, as in {{\"driver\":\"file\"}}"
    )]
    Json {
        /// The option's value.
        text: String,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
}

impl Options {
    /// Reads an option's value. `implied` is the key of a first value that has none, as `driver` for `-device`.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<Self, SyntaxError> {
        if text.starts_with('{') {
            let read = serde_json::from_str(text);
            return read.map(Self::Json).map_err(|source| SyntaxError::Json {
                text: text.into(),
                source,
            });
        }
        Ok(Self::Pairs(pairs(text, implied)))
    }

    /// No keys yet.
    pub fn empty() -> Self {
        Self::Pairs(Vec::new())
    }

    /// The value of a key as text; of a key given twice, the last one, as in QEMU. Booleans are `on` and `off`.
    pub fn get(&self, key: &str) -> Option<String> {
        match self {
            Self::Pairs(pairs) => pairs.iter().rev().find(|p| p.key == key).map(|p| p.value.clone()),
            Self::Json(map) => look(map, key).and_then(text),
        }
    }

    /// The value of a key that is an object of its own. Never found in `key=value` notation.
    pub fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        match self {
            Self::Pairs(_) => None,
            Self::Json(map) => look(map, key).and_then(Value::as_object),
        }
    }

    /// Whether a key is there and neither `off`, `no` nor `false`.
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| !matches!(v.as_str(), "off" | "no" | "false" | "n"))
    }

    /// Whether a key is there, or one under it.
    pub fn has(&self, key: &str) -> bool {
        match self {
            Self::Pairs(pairs) => pairs.iter().any(|p| within(&p.key, key)),
            Self::Json(map) => look(map, key).is_some(),
        }
    }

    /// Gives a key a value, in its place if it has one already, else at the end.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self {
            Self::Pairs(pairs) => match pairs.iter_mut().rev().find(|p| p.key == key) {
                Some(pair) => {
                    pair.value = value;
                    if pair.form != Form::Implied || !may_be_implied(&pair.value) {
                        pair.form = Form::Full;
                    }
                }
                None => pairs.push(Pair {
                    key: key.into(),
                    value,
                    form: Form::Full,
                }),
            },
            Self::Json(map) => put(map, key, Value::String(value)),
        }
    }

    /// Gives a key a yes or no.
    pub fn switch(&mut self, key: &str, on: bool) {
        match self {
            Self::Pairs(_) => self.set(key, if on { "on" } else { "off" }),
            Self::Json(map) => put(map, key, Value::Bool(on)),
        }
    }

    /// Takes a key away, with all under it.
    pub fn remove(&mut self, key: &str) {
        match self {
            Self::Pairs(pairs) => pairs.retain(|p| !within(&p.key, key)),
            Self::Json(map) => take(map, key),
        }
    }

    /// Keeps only keys (in JSON: of the outermost object) that the test passes.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        match self {
            Self::Pairs(pairs) => pairs.retain(|p| keep(&p.key)),
            Self::Json(map) => map.retain(|k, _| keep(k)),
        }
    }

    /// Every value that is text, with its key.
    pub fn values(&self) -> Vec<(String, String)> {
        match self {
            Self::Pairs(pairs) => pairs.iter().map(|p| (p.key.clone(), p.value.clone())).collect(),
            Self::Json(map) => {
                let mut into = Vec::new();
                walk("", &Value::Object(map.clone()), &mut into);
                into
            }
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(map) => f.write_str(&Value::Object(map.clone()).to_string()),
            Self::Pairs(pairs) => {
                for (i, pair) in pairs.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    match pair.form {
                        // Only the first value can do without its key; it may be second now.
                        Form::Implied if i == 0 => write!(f, "{}", escape(&pair.value))?,
                        Form::Full | Form::Implied => {
                            write!(f, "{comma}{}={}", pair.key, escape(&pair.value))?;
                        }
                        Form::On => write!(f, "{comma}{}", pair.key)?,
                        Form::Off => write!(f, "{comma}no{}", pair.key)?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// A value as it is written in `key=value` notation: every comma twice.
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn pairs(mut rest: &str, implied: Option<&str>) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut first = true;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let full = rest[end..].starts_with('=');
        let pair = if full {
            let (value, after) = value(&rest[end + 1..]);
            let key = rest[..end].to_string();
            rest = after;
            Pair {
                key,
                value,
                form: Form::Full,
            }
        } else if let (true, Some(key)) = (first, implied) {
            let (value, after) = value(rest);
            rest = after;
            Pair {
                key: key.to_string(),
                value,
                form: Form::Implied,
            }
        } else {
            let name = &rest[..end];
            rest = rest[end..].strip_prefix(',').unwrap_or_default();
            flag(name)
        };
        pairs.push(pair);
        first = false;
    }
    pairs
}

/// A key alone is a switch that is on, or with `no` before it off.
fn flag(name: &str) -> Pair {
    match name.strip_prefix("no") {
        Some(key) if !key.is_empty() => Pair {
            key: key.into(),
            value: "off".into(),
            form: Form::Off,
        },
        _ => Pair {
            key: name.into(),
            value: "on".into(),
            form: Form::On,
        },
    }
}

/// Reads to the next single comma; what follows it is left.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let Some(comma) = rest.find(',') else {
            value.push_str(rest);
            return (value, "");
        };
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        match rest.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, rest),
        }
    }
}

/// Without its key, a value must not read as one with a key, nor as JSON.
fn may_be_implied(value: &str) -> bool {
    !value.is_empty() && !value.starts_with('{') && !value.split(',').next().is_some_and(|v| v.contains('='))
}

fn within(key: &str, of: &str) -> bool {
    key.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A key may be there flat, as `"cache.direct"`, or nested.
fn look<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    if let Some(value) = map.get(key) {
        return Some(value);
    }
    let (head, tail) = key.split_once('.')?;
    look(map.get(head)?.as_object()?, tail)
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    if !map.contains_key(key)
        && let Some((head, tail)) = key.split_once('.')
        && let Some(inner) = map.get_mut(head).and_then(Value::as_object_mut)
    {
        return put(inner, tail, value);
    }
    match key.split_once('.') {
        Some((head, tail)) if !map.contains_key(key) => {
            let mut inner = Map::new();
            put(&mut inner, tail, value);
            map.insert(head.into(), Value::Object(inner));
        }
        _ => {
            map.insert(key.into(), value);
        }
    }
}

fn take(map: &mut Map<String, Value>, key: &str) {
    if map.remove(key).is_some() {
        return;
    }
    if let Some((head, tail)) = key.split_once('.')
        && let Some(inner) = map.get_mut(head).and_then(Value::as_object_mut)
    {
        take(inner, tail);
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(if *b { "on" } else { "off" }.into()),
        Value::Number(n) => Some(n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn walk(at: &str, value: &Value, into: &mut Vec<(String, String)>) {
    let join = |key: &str| {
        if at.is_empty() {
            key.to_string()
        } else {
            format!("{at}.{key}")
        }
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| walk(&join(k), v, into)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, v)| walk(&join(&i.to_string()), v, into)),
        other => into.extend(text(other).map(|t| (at.to_string(), t))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, implied: Option<&str>) -> Options {
        Options::parse(text, implied).unwrap()
    }

    #[test]
    fn reads_what_qemu_reads() {
        let o = read("file=/a,,b=c.img,if=virtio,cache.direct=on", None);
        assert_eq!(o.get("file").unwrap(), "/a,b=c.img");
        assert!(o.is_on("cache.direct") && o.has("cache") && !o.has("cach"));

        let o = read("socket,path=/x,server,nowait", Some("backend"));
        assert_eq!(o.get("backend").unwrap(), "socket");
        assert!(o.is_on("server") && !o.is_on("wait") && o.has("wait"));
        assert_eq!(o.to_string(), "socket,path=/x,server,nowait");

        let o = read("a=1,a=2", None);
        assert_eq!(o.get("a").unwrap(), "2");

        let o = read(
            r#"{"driver":"raw","file":{"driver":"file","filename":"/a,b"},"cache":{"direct":true}}"#,
            None,
        );
        assert_eq!(o.get("file.filename").unwrap(), "/a,b");
        assert!(o.is_on("cache.direct"));
        assert!(Options::parse("{", None).is_err());
    }

    #[test]
    fn changes_keep_the_notation() {
        let mut o = read("virtio-net-pci,netdev=n0", Some("driver"));
        o.set("driver", "e1000");
        o.set("mac", "52:54:00:00:00:01");
        assert_eq!(o.to_string(), "e1000,netdev=n0,mac=52:54:00:00:00:01");

        let mut o = read(r#"{"file":{"filename":"/a"}}"#, None);
        o.set("file.filename", "/b");
        o.switch("cache.direct", true);
        o.remove("nothing.there");
        let expected = r#"{"cache":{"direct":true},"file":{"filename":"/b"}}"#;
        assert_eq!(o, read(expected, None));
        o.remove("file");
        assert!(!o.has("file"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(text in ".{0,80}", key in "[a-c.]{0,4}") {
            for implied in [None, Some("driver")] {
                if let Ok(mut o) = Options::parse(&text, implied) {
                    let again = Options::parse(&o.to_string(), implied).unwrap();
                    prop_assert_eq!(again.to_string(), o.to_string());
                    o.set(&key, "v");
                    o.remove(&key);
                }
            }
        }

        #[test]
        fn a_value_comes_back_as_it_was_set(value in ".{0,40}", other in "[a-z,=]{0,8}") {
            let mut o = read("virtio-blk,x=1", Some("driver"));
            o.set("driver", value.clone());
            o.set("file", other.clone());
            o.set("id", value.clone());
            let again = read(&o.to_string(), Some("driver"));
            prop_assert_eq!(again.get("driver").unwrap(), value.clone());
            prop_assert_eq!(again.get("file").unwrap(), other);
            prop_assert_eq!(again.get("id").unwrap(), value.clone());

            let mut o = read(r#"{"driver":"file"}"#, None);
            o.set("filename", value.clone());
            prop_assert_eq!(read(&o.to_string(), None).get("filename").unwrap(), value);
        }
    }
}
