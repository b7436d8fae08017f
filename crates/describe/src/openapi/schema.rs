//! Schemas of OpenAPI 3.0 and 3.1 as schemas of JSON Schema 2020-12 that stand alone, and what they compile to.
//!
//! Only keywords that decide about a value are taken over, and every reference becomes one to a definition of the same schema. So
//! nothing is ever fetched, `$id` moves nothing, and a reference that would lead back to itself without a step into the value is
//! found before it is followed.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::{MAX_REFERENCES, OpenApi, step};
use crate::{
    DescribeError, MAX_DEPTH, MAX_NODES,
    tree::{Data, Node},
};

/// Steps back that one pattern may take.
const BACKTRACKING: usize = 50_000;
/// Bytes of one compiled pattern.
const PATTERN: usize = 1 << 20;

/// Definitions of one schema. Real ones have hundreds.
const MAX_DEFINITIONS: usize = 4096;

/// Whose value is taken over as it is.
const PLAIN: [&str; 21] = [
    "multipleOf",
    "maximum",
    "minimum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxProperties",
    "minProperties",
    "required",
    "enum",
    "type",
    "const",
    "minContains",
    "maxContains",
    "dependentRequired",
    "format",
];
/// Whose value is a schema for a part of the value.
const INNER: [&str; 6] = [
    "items",
    "additionalProperties",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Whose value is a schema for the value itself.
const SAME: [&str; 4] = ["not", "if", "then", "else"];
/// Whose value is an array of schemas for the value itself.
const SAME_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// A schema that has been compiled.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    compiled: jsonschema::Validator,
    /// What it was compiled from: its own is the definition `0`.
    document: Value,
}

impl Schema {
    /// Compiles the schema at `node`, whose place in the document is `at`. `budget` is what may still be converted.
    ///
    /// # Errors
    /// A reference to another document or to nothing, a circle, or a schema that is none.
    pub(super) fn new(
        index: &Index<'_>,
        node: &Node,
        at: &str,
        budget: &mut usize,
    ) -> Result<Self, DescribeError> {
        let mut convert = Convert {
            index,
            at,
            budget,
            numbers: HashMap::new(),
            waiting: vec![(node, &index.api.root, 0)],
            definitions: Map::new(),
            same: vec![HashSet::new()],
        };
        while let Some((node, base, number)) = convert.waiting.pop() {
            let scope = Scope {
                base,
                number,
                same: true,
                depth: 0,
            };
            let schema = convert.schema(node, scope)?;
            convert.definitions.insert(number.to_string(), schema);
        }
        if circular(&convert.same) {
            return Err(
                convert.wrong("its references lead back to itself, so that it would never end".into())
            );
        }
        let mut document = json!({ "$ref": "#/$defs/0" });
        document["$defs"] = Value::Object(convert.definitions);
        let patterns = jsonschema::PatternOptions::fancy_regex()
            .backtrack_limit(BACKTRACKING)
            .size_limit(PATTERN);
        let compiled = jsonschema::draft202012::options()
            .offline()
            .with_pattern_options(patterns)
            .build(&document)
            .map_err(|e| DescribeError::Schema {
                at: at.into(),
                why: e.masked().to_string().chars().take(300).collect(),
            })?;
        Ok(Self { compiled, document })
    }

    /// Whether the value fits; where not, the JSON pointer of the part that does not, and why, without its value.
    pub(super) fn check(&self, value: &Value) -> Result<(), (String, String)> {
        self.compiled.validate(value).map_err(|e| {
            let why = e.masked().to_string().chars().take(300).collect();
            (e.instance_path().to_string(), why)
        })
    }

    /// The schema as it was compiled.
    pub(super) fn root(&self) -> &Value {
        self.document.pointer("/$defs/0").unwrap_or(&Value::Null)
    }

    /// What a part of it says once its references and `allOf` with one schema are followed.
    pub(super) fn follow<'a>(&'a self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..MAX_REFERENCES {
            let next = match (schema.get("$ref").and_then(Value::as_str), schema.get("allOf")) {
                (Some(reference), _) => reference.strip_prefix('#').and_then(|p| self.document.pointer(p)),
                (None, Some(Value::Array(all))) if all.len() == 1 && schema.get("type").is_none() => {
                    all.first()
                }
                _ => None,
            };
            match next {
                Some(next) => schema = next,
                None => return schema,
            }
        }
        schema
    }
}

/// What references of OpenAPI 3.1 may name beside places in the document.
pub(super) struct Index<'a> {
    api: &'a OpenApi,
    /// Schemas by their `$id`.
    ids: HashMap<&'a str, &'a Node>,
    /// Schemas by the schema with an `$id` that they belong to, and their `$anchor`.
    anchors: HashMap<(*const Node, &'a str), &'a Node>,
}

impl<'a> Index<'a> {
    pub(super) fn new(api: &'a OpenApi) -> Self {
        let mut index = Self {
            api,
            ids: HashMap::new(),
            anchors: HashMap::new(),
        };
        if api.v31 {
            index.add(&api.root, &api.root);
        }
        index
    }

    fn add(&mut self, node: &'a Node, base: &'a Node) {
        let base = self.base(node, base);
        if let Some(id) = node.get("$id").and_then(Node::text) {
            self.ids.entry(id.strip_suffix('#').unwrap_or(id)).or_insert(node);
        }
        if let Some(anchor) = node.get("$anchor").and_then(Node::text) {
            self.anchors
                .entry((std::ptr::from_ref(base), anchor))
                .or_insert(node);
        }
        for item in node.items() {
            self.add(item, base);
        }
        for (_, value) in node.entries() {
            self.add(value, base);
        }
    }

    /// What references within `node` start from, if those around it start from `base`.
    fn base(&self, node: &'a Node, base: &'a Node) -> &'a Node {
        let own = self.api.v31 && node.get("$id").and_then(Node::text).is_some();
        if own { node } else { base }
    }

    /// What a reference leads to, and what references within that start from.
    fn find(&self, reference: &str, base: &'a Node) -> Option<(&'a Node, &'a Node)> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let start = if document.is_empty() {
            base
        } else {
            self.ids.get(document)?
        };
        if !fragment.is_empty() && !fragment.starts_with('/') {
            let found = self.anchors.get(&(std::ptr::from_ref(start), fragment))?;
            return Some((found, start));
        }
        let mut within = start;
        let found = step(start, fragment, &mut |node| within = self.base(node, within))?;
        Some((found, within))
    }
}

/// Where a schema is converted.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// What references start from.
    base: &'a Node,
    /// The definition that it belongs to.
    number: usize,
    /// Whether it is for the same value as that definition.
    same: bool,
    depth: usize,
}

struct Convert<'a, 'b> {
    index: &'b Index<'a>,
    at: &'b str,
    budget: &'b mut usize,
    /// Numbers of definitions by what they are made of.
    numbers: HashMap<*const Node, usize>,
    waiting: Vec<(&'a Node, &'a Node, usize)>,
    definitions: Map<String, Value>,
    /// For each definition, those that it holds the same value against.
    same: Vec<HashSet<usize>>,
}

impl<'a> Convert<'a, '_> {
    fn schema(&mut self, node: &'a Node, scope: Scope<'a>) -> Result<Value, DescribeError> {
        *self.budget = self
            .budget
            .checked_sub(1)
            .ok_or_else(|| self.wrong(format!("the schemas have more than {MAX_NODES} parts")))?;
        if scope.depth > MAX_DEPTH {
            return Err(self.wrong("nested too deep".into()));
        }
        match &node.data {
            Data::Bool(b) => return Ok(Value::Bool(*b)),
            Data::Map(_) => {}
            _ => return Err(self.wrong("a schema is an object".into())),
        }
        let scope = Scope {
            base: self.index.base(node, scope.base),
            ..scope
        };
        let mut out = Map::new();
        if let Some(reference) = node.get("$ref").and_then(Node::text) {
            let number = self.definition(reference, scope.base)?;
            if scope.same {
                self.same[scope.number].insert(number);
            }
            out.insert("$ref".into(), format!("#/$defs/{number}").into());
            if !self.index.api.v31 {
                return Ok(Value::Object(out));
            }
        }
        for (key, value) in node.entries() {
            if let Some(value) = self.keyword(key, value, scope)? {
                out.insert(key.clone(), value);
            }
        }
        if !self.index.api.v31 {
            as_2020(&mut out, node);
        }
        self.without_read_only(&mut out, node);
        Ok(Value::Object(out))
    }

    /// A keyword's value, if it decides about values.
    fn keyword(
        &mut self,
        key: &str,
        value: &'a Node,
        scope: Scope<'a>,
    ) -> Result<Option<Value>, DescribeError> {
        let same = Scope {
            depth: scope.depth + 1,
            ..scope
        };
        let inner = Scope { same: false, ..same };
        Ok(Some(match key {
            _ if PLAIN.contains(&key) => value.to_value(),
            _ if INNER.contains(&key) => self.schema(value, inner)?,
            _ if SAME.contains(&key) => self.schema(value, same)?,
            _ if SAME_LIST.contains(&key) => self.list(value, same)?,
            "prefixItems" => self.list(value, inner)?,
            "properties" | "patternProperties" => self.named(value, inner)?,
            "dependentSchemas" => self.named(value, same)?,
            "$dynamicRef" | "$recursiveRef" => {
                return Err(self.wrong(format!("{key} is not read: use $ref")));
            }
            _ => return Ok(None),
        }))
    }

    fn list(&mut self, node: &'a Node, scope: Scope<'a>) -> Result<Value, DescribeError> {
        node.items().iter().map(|item| self.schema(item, scope)).collect()
    }

    fn named(&mut self, node: &'a Node, scope: Scope<'a>) -> Result<Value, DescribeError> {
        let schemas = node.entries().iter();
        let schemas = schemas.map(|(name, schema)| Ok((name.clone(), self.schema(schema, scope)?)));
        Ok(Value::Object(schemas.collect::<Result<_, DescribeError>>()?))
    }

    /// The number of the definition that a reference leads to.
    fn definition(&mut self, reference: &str, base: &'a Node) -> Result<usize, DescribeError> {
        let found = self.index.find(reference, base);
        let (node, base) = found.ok_or_else(|| DescribeError::Missing {
            missing: format!("{}: the schema {:?}", self.at, crate::error::short(reference)),
        })?;
        let next = self.same.len();
        let number = *self.numbers.entry(std::ptr::from_ref(node)).or_insert(next);
        if number == next {
            if next == MAX_DEFINITIONS {
                return Err(self.wrong(format!("it leads to more than {MAX_DEFINITIONS} other schemas")));
            }
            self.same.push(HashSet::new());
            self.waiting.push((node, base, number));
        }
        Ok(number)
    }

    /// What only responses carry is not asked of requests (OpenAPI 3.0.4 section 4.7.24.2, `readOnly`).
    fn without_read_only(&self, out: &mut Map<String, Value>, node: &Node) {
        let Some(Value::Array(required)) = out.get_mut("required") else {
            return;
        };
        let Some(properties) = node.get("properties") else {
            return;
        };
        required.retain(|name| {
            let property = name.as_str().and_then(|name| properties.get(name));
            let read_only = property.and_then(|p| {
                p.get("readOnly")
                    .or_else(|| self.index.api.follow(p).get("readOnly"))
            });
            !matches!(read_only.map(|n| &n.data), Some(Data::Bool(true)))
        });
    }

    fn wrong(&self, why: String) -> DescribeError {
        DescribeError::Schema {
            at: self.at.into(),
            why,
        }
    }
}

/// What OpenAPI 3.0 says otherwise than JSON Schema 2020-12: `nullable`, and exclusive bounds as flags.
fn as_2020(out: &mut Map<String, Value>, node: &Node) {
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        match out.remove(exclusive) {
            Some(Value::Bool(true)) => {
                if let Some(bound) = out.remove(bound) {
                    out.insert(exclusive.into(), bound);
                }
            }
            Some(number @ Value::Number(_)) => {
                out.insert(exclusive.into(), number);
            }
            _ => {}
        }
    }
    // Without a type beside it, `nullable` says nothing (OpenAPI 3.0.4 section 4.7.24).
    let nullable = matches!(node.get("nullable").map(|n| &n.data), Some(Data::Bool(true)));
    if let (true, Some(Value::String(kind))) = (nullable, out.get("type")) {
        let kinds = json!([kind, "null"]);
        out.insert("type".into(), kinds);
    }
}

/// Whether definitions hold the same value against each other in a circle.
fn circular(edges: &[HashSet<usize>]) -> bool {
    // Those that nothing leads to any more are taken away; what stays is in a circle or led to by one.
    let mut incoming = vec![0_usize; edges.len()];
    for to in edges.iter().flatten() {
        incoming[*to] += 1;
    }
    let mut free: Vec<usize> = (0..edges.len()).filter(|n| incoming[*n] == 0).collect();
    let mut gone = 0;
    while let Some(from) = free.pop() {
        gone += 1;
        for to in &edges[from] {
            incoming[*to] -= 1;
            if incoming[*to] == 0 {
                free.push(*to);
            }
        }
    }
    gone < edges.len()
}
