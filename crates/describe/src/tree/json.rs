//! JSON (RFC 8259), strictly.

use std::collections::HashSet;

use jsonc_parser::{
    CollectOptions, CommentCollectionStrategy, ParseOptions,
    ast::{ObjectPropName, Value},
    common::Ranged,
};
use serde::de::IgnoredAny;

use super::{Budget, Data, Node, Object};
use crate::{
    DescribeError, MAX_DEPTH,
    edit::Style,
    error::{line, short},
};

/// Reads a document that begins `skipped` bytes before `text`.
pub(super) fn read(text: &str, skipped: usize) -> Result<Node, DescribeError> {
    // Strict, and without recursion; the parser that knows places is then asked only about what is JSON.
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| wrong(e.line(), &e))?;
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let collect = CollectOptions {
        comments: CommentCollectionStrategy::Off,
        tokens: false,
    };
    if let Some(at) = too_deep(text) {
        return Err(DescribeError::TooDeep {
            line: line(text.as_bytes(), at),
        });
    }
    let root = jsonc_parser::parse_to_ast(text, &collect, &strict)
        .map_err(|e| wrong(e.line_display(), &e.kind()))?
        .value
        .ok_or_else(|| wrong(1, &"nothing"))?;
    let mut budget = Budget::new();
    Reader {
        text,
        skipped,
        budget: &mut budget,
    }
    .node(root)
}

/// Where a valid document is nested too deep.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some(at);
        }
    }
    None
}

fn wrong(line: usize, what: &dyn std::fmt::Display) -> DescribeError {
    DescribeError::Syntax {
        format: "JSON",
        line,
        what: what.to_string().chars().take(200).collect(),
    }
}

struct Reader<'a> {
    text: &'a str,
    skipped: usize,
    budget: &'a mut Budget,
}

impl Reader<'_> {
    /// Recurses as deep as [`too_deep`] lets it.
    fn node(&mut self, value: Value<'_>) -> Result<Node, DescribeError> {
        let range = value.range();
        if !self.budget.pay(1, 0) {
            return Err(DescribeError::TooMany {
                line: self.line(range.start),
                what: "values",
            });
        }
        let data = match value {
            Value::NullKeyword(_) => Data::Null,
            Value::BooleanLit(b) => Data::Bool(b.value),
            Value::NumberLit(n) => {
                Data::Number(serde_json::from_str(n.value).map_err(|e| wrong(self.line(range.start), &e))?)
            }
            Value::StringLit(s) => Data::Text(s.value.into_owned()),
            Value::Array(array) => {
                let items = array.elements.into_iter().map(|item| self.node(item));
                Data::List(items.collect::<Result<_, _>>()?)
            }
            Value::Object(object) => {
                let mut keys = HashSet::new();
                let mut entries = Vec::with_capacity(object.properties.len());
                for property in object.properties {
                    let at = property.range.start;
                    let key = match property.name {
                        ObjectPropName::String(s) => s.value.into_owned(),
                        ObjectPropName::Word(w) => w.value.to_owned(),
                    };
                    if !keys.insert(key.clone()) {
                        return Err(DescribeError::Duplicate {
                            line: self.line(at),
                            key: short(&key),
                        });
                    }
                    entries.push((key, self.node(property.value)?));
                }
                Data::Map(Object::new(entries))
            }
        };
        Ok(Node {
            data,
            span: range.start + self.skipped..range.end + self.skipped,
            style: Style::Quoted,
        })
    }

    fn line(&self, at: usize) -> usize {
        line(self.text.as_bytes(), at)
    }
}
