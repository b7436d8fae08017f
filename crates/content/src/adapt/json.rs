//! JSON as something to read: names and values as nested lists.

use serde_json::Value;

use super::{
    html::{MAX_DEPTH, MAX_ELEMENTS, Read},
    piece::{Piece, push_lines},
    text::cleaned,
};

/// Deepest nesting that is shown.
const DEEPEST: usize = MAX_DEPTH / 4;

/// Reads JSON. `None`: it is none, or too deep (128) to be read.
pub(super) fn read(text: &str) -> Option<Read> {
    let value: Value = serde_json::from_str(text).ok()?;
    let mut writer = Writer::default();
    writer.value(&value, 0);
    Some(Read {
        pieces: writer.pieces,
        complete: !writer.left_out,
    })
}

#[derive(Default)]
struct Writer {
    pieces: Vec<Piece>,
    elements: usize,
    left_out: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.text("–"),
            Value::Bool(true) => self.text("yes"),
            Value::Bool(false) => self.text("no"),
            Value::Number(number) => self.text(&number.to_string()),
            Value::String(text) => self.text(text),
            Value::Array(items) if items.is_empty() => self.text("–"),
            Value::Object(members) if members.is_empty() => self.text("–"),
            _ if depth == DEEPEST => {
                self.left_out = true;
                self.text("…");
            }
            Value::Array(items) => self.list(items.iter().map(|item| (None, item)), depth),
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| (Some(name.as_str()), value));
                self.list(members, depth);
            }
        }
    }

    fn list<'a>(&mut self, items: impl Iterator<Item = (Option<&'a str>, &'a Value)>, depth: usize) {
        self.open("ul");
        for (name, value) in items {
            self.elements += 3;
            if self.elements > MAX_ELEMENTS {
                self.left_out = true;
                break;
            }
            self.open("li");
            if let Some(name) = name {
                self.open("strong");
                self.text(name);
                self.close("strong");
                self.text(": ");
            }
            self.value(value, depth + 1);
            self.close("li");
        }
        self.close("ul");
    }

    fn open(&mut self, name: &str) {
        self.pieces.extend(Piece::open(name));
    }

    fn close(&mut self, name: &str) {
        self.pieces.extend(Piece::close(name));
    }

    fn text(&mut self, text: &str) {
        let text = cleaned(text);
        self.elements += text.matches('\n').count();
        push_lines(&mut self.pieces, &text);
    }
}
