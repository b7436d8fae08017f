//! YAML 1.2 with the core schema, as OpenAPI wants it: one document, keys that are scalars, and the merge key of YAML 1.1, which people use.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{Budget, Data, Node, Object};
use crate::{
    DescribeError, MAX_DEPTH,
    edit::Style,
    error::{line, short},
};

/// Reads a document that begins `skipped` bytes before `text`.
pub(super) fn read(text: &str, skipped: usize) -> Result<Node, DescribeError> {
    let mut reader = Reader {
        text,
        skipped,
        offsets: Offsets::new(text),
        budget: Budget::new(),
        anchors: HashMap::new(),
        open: Vec::new(),
        root: None,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| DescribeError::Syntax {
            format: "YAML",
            line: e.marker().line(),
            what: e.info().chars().take(200).collect(),
        })?;
        reader.event(event, span)?;
    }
    reader.root.ok_or_else(|| DescribeError::Unknown("empty".into()))
}

/// What an alias repeats.
struct Anchor {
    node: Node,
    nodes: usize,
    bytes: usize,
    height: usize,
}

/// A collection that is not at its end.
struct Open {
    anchor: usize,
    at: usize,
    items: Vec<Node>,
    /// Of a mapping: the entries so far, which keys there are, and the key whose value comes next.
    mapping: Option<Mapping>,
    nodes: usize,
    bytes: usize,
    height: usize,
}

#[derive(Default)]
struct Mapping {
    entries: Vec<(String, Node)>,
    keys: HashSet<String>,
    key: Option<Key>,
    merges: Vec<Node>,
}

enum Key {
    Named(String),
    /// `<<`
    Merge,
}

struct Reader<'a> {
    text: &'a str,
    skipped: usize,
    offsets: Offsets,
    budget: Budget,
    anchors: HashMap<usize, Anchor>,
    open: Vec<Open>,
    root: Option<Node>,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), DescribeError> {
        let start = self.offsets.byte(span.start.index());
        let end = self.offsets.byte(span.end.index());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let (start, end) = match written_as(style) {
                    Style::Block => block(self.text, start, end),
                    style => (start, closed(self.text, start, end, style, &text)),
                };
                if self.wants_key() {
                    return self.key(&text, plain, start);
                }
                let node = Node {
                    data: scalar(&text, plain, tag.as_deref()),
                    span: start + self.skipped..end + self.skipped,
                    style: written_as(style),
                };
                self.afford(1, text.len(), start)?;
                self.place(node, (anchor, 1, text.len(), 0), start)
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, start, None),
            Event::MappingStart(anchor, _) => self.begin(anchor, start, Some(Mapping::default())),
            Event::SequenceEnd | Event::MappingEnd => self.end(end),
            Event::Alias(anchor) => {
                if self.wants_key() {
                    return Err(self.wrong(start, "an alias as a key"));
                }
                let Some(found) = self.anchors.get(&anchor) else {
                    return Err(self.wrong(start, "an alias within what it stands for"));
                };
                if !self.budget.pay(found.nodes, found.bytes) {
                    return Err(self.too_many(start));
                }
                if self.open.len() + found.height > MAX_DEPTH {
                    return Err(self.too_deep(start));
                }
                let (node, cost) = (found.node.clone(), (0, found.nodes, found.bytes, found.height));
                self.place(node, cost, start)
            }
            Event::DocumentStart(_) if self.root.is_some() => Err(self.wrong(start, "a second document")),
            _ => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        let mapping = self.open.last().and_then(|open| open.mapping.as_ref());
        mapping.is_some_and(|mapping| mapping.key.is_none())
    }

    fn key(&mut self, text: &str, plain: bool, at: usize) -> Result<(), DescribeError> {
        self.afford(1, text.len(), at)?;
        let duplicate = DescribeError::Duplicate {
            line: self.line(at),
            key: short(text),
        };
        let Some(open) = self.open.last_mut() else {
            return Ok(());
        };
        open.nodes += 1;
        open.bytes += text.len();
        let Some(mapping) = open.mapping.as_mut() else {
            return Ok(());
        };
        if !mapping.keys.insert(text.into()) {
            return Err(duplicate);
        }
        mapping.key = Some(if plain && text == "<<" {
            Key::Merge
        } else {
            Key::Named(text.into())
        });
        Ok(())
    }

    fn begin(&mut self, anchor: usize, at: usize, mapping: Option<Mapping>) -> Result<(), DescribeError> {
        if self.wants_key() {
            return Err(self.wrong(at, "a key that is no scalar"));
        }
        self.afford(1, 0, at)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(self.too_deep(at));
        }
        self.open.push(Open {
            anchor,
            at,
            items: Vec::new(),
            mapping,
            nodes: 1,
            bytes: 0,
            height: 0,
        });
        Ok(())
    }

    fn end(&mut self, end: usize) -> Result<(), DescribeError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let data = match open.mapping {
            None => Data::List(open.items),
            Some(mapping) => Data::Map(Object::new(self.merged(mapping, open.at)?)),
        };
        let node = Node {
            data,
            span: open.at + self.skipped..end.max(open.at) + self.skipped,
            style: Style::Plain,
        };
        let anchored = (open.anchor, open.nodes, open.bytes, open.height + 1);
        self.place(node, anchored, open.at)
    }

    /// A mapping's entries with those that its merge key brings and that it lacks.
    fn merged(&self, mapping: Mapping, at: usize) -> Result<Vec<(String, Node)>, DescribeError> {
        let Mapping {
            mut entries,
            mut keys,
            merges,
            ..
        } = mapping;
        for merge in merges {
            let sources = match merge.data {
                Data::List(items) => items,
                _ => vec![merge],
            };
            for source in sources {
                let Data::Map(more) = source.data else {
                    return Err(self.wrong(at, "a merge key << with something else than mappings"));
                };
                entries.extend(
                    more.entries
                        .into_iter()
                        .filter(|(key, _)| keys.insert(key.clone())),
                );
            }
        }
        Ok(entries)
    }

    /// Puts a node where it belongs, and remembers it if it has an anchor. `anchored` is anchor, nodes, bytes, height.
    fn place(
        &mut self,
        node: Node,
        anchored: (usize, usize, usize, usize),
        at: usize,
    ) -> Result<(), DescribeError> {
        let (anchor, nodes, bytes, height) = anchored;
        if anchor != 0 {
            self.afford(nodes, bytes, at)?;
            let node = node.clone();
            self.anchors.insert(
                anchor,
                Anchor {
                    node,
                    nodes,
                    bytes,
                    height,
                },
            );
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.nodes += nodes;
        open.bytes += bytes;
        open.height = open.height.max(height);
        match open.mapping.as_mut() {
            None => open.items.push(node),
            Some(mapping) => match mapping.key.take() {
                Some(Key::Named(key)) => mapping.entries.push((key, node)),
                Some(Key::Merge) => mapping.merges.push(node),
                None => {}
            },
        }
        Ok(())
    }

    fn afford(&mut self, nodes: usize, bytes: usize, at: usize) -> Result<(), DescribeError> {
        if self.budget.pay(nodes, bytes) {
            Ok(())
        } else {
            Err(self.too_many(at))
        }
    }

    fn too_many(&self, at: usize) -> DescribeError {
        DescribeError::TooMany {
            line: self.line(at),
            what: "values and repeated aliases",
        }
    }

    fn line(&self, at: usize) -> usize {
        line(self.text.as_bytes(), at)
    }

    fn wrong(&self, at: usize, what: &str) -> DescribeError {
        DescribeError::Syntax {
            format: "YAML",
            line: self.line(at),
            what: what.into(),
        }
    }

    fn too_deep(&self, at: usize) -> DescribeError {
        DescribeError::TooDeep { line: self.line(at) }
    }
}

/// Bytes of characters: the parser counts in these.
struct Offsets(Option<Vec<u32>>, usize);

impl Offsets {
    fn new(text: &str) -> Self {
        let starts = || {
            text.char_indices()
                .map(|(at, _)| u32::try_from(at).unwrap_or(u32::MAX))
                .collect()
        };
        Self((!text.is_ascii()).then(starts), text.len())
    }

    fn byte(&self, character: usize) -> usize {
        match &self.0 {
            None => character.min(self.1),
            Some(starts) => starts
                .get(character)
                .and_then(|at| usize::try_from(*at).ok())
                .unwrap_or(self.1),
        }
    }
}

/// A block scalar from its indicator to the end of its last line, where the parser's begins with its content and ends behind the
/// indentation of what follows.
fn block(text: &str, start: usize, end: usize) -> (usize, usize) {
    let (Some(before), Some(content)) = (text.get(..start), text.get(start..end)) else {
        return (start, end);
    };
    let before = before.trim_end();
    let header = &before[before.rfind('\n').map_or(0, |at| at + 1)..];
    let is_indicator = |rest: &str| {
        let rest = rest
            .trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-'))
            .trim_start();
        rest.is_empty() || rest.starts_with('#')
    };
    let indicator = header
        .match_indices(['|', '>'])
        .find(|(at, _)| is_indicator(&header[at + 1..]));
    let begin = indicator.map_or(start, |(at, _)| before.len() - header.len() + at);
    (begin, start + content.trim_end().len())
}

/// The end of a scalar on its own lines, where the parser's may be behind white space and comments.
fn closed(text: &str, start: usize, end: usize, style: Style, value: &str) -> usize {
    let written = text.get(start..end).unwrap_or_default();
    let length = match style {
        Style::Plain => written.starts_with(value).then_some(value.len()),
        _ => {
            let (mut skip, mut at) = (false, 0);
            let bytes = written.as_bytes();
            let quote = if style == Style::Single { b'\'' } else { b'"' };
            loop {
                at += 1;
                match bytes.get(at) {
                    None => break None,
                    Some(_) if skip => skip = false,
                    Some(b'\\') if quote == b'"' => skip = true,
                    Some(b) if *b == quote && quote == b'\'' && bytes.get(at + 1) == Some(&quote) => {
                        skip = true
                    }
                    Some(b) if *b == quote => break Some(at + 1),
                    Some(_) => {}
                }
            }
        }
    };
    start + length.unwrap_or_else(|| written.trim_end().len())
}

fn written_as(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::Single,
        ScalarStyle::DoubleQuoted => Style::Quoted,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    }
}

/// A scalar's value by the core schema (YAML 1.2.2 section 10.3.2). What JSON cannot say, as `.inf`, stays a text.
fn scalar(text: &str, plain: bool, tag: Option<&Tag>) -> Data {
    let as_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if !plain || as_text {
        return Data::Text(text.into());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true),
        "false" | "False" | "FALSE" => return Data::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    let radix = |prefix, radix| {
        let digits = text.strip_prefix(prefix)?;
        u64::from_str_radix(digits, radix)
            .ok()
            .filter(|_| !digits.starts_with('+'))
    };
    let numeric = !digits.is_empty()
        && digits.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.'))
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let number = radix("0o", 8)
        .or_else(|| radix("0x", 16))
        .map(Into::into)
        .or_else(|| digits.parse::<i64>().ok().filter(|_| numeric).map(Into::into))
        .or_else(|| digits.parse::<u64>().ok().filter(|_| numeric).map(Into::into))
        .or_else(|| {
            let float = digits.parse::<f64>().ok().filter(|_| numeric)?;
            serde_json::Number::from_f64(float)
        });
    number.map_or_else(|| Data::Text(text.into()), Data::Number)
}
