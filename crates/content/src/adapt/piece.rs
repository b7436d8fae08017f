//! Marked-up text as a flat list of tags and texts that is balanced by construction: what is opened is closed, in order.

use std::fmt::Write;

use super::text::{cut, escape};

/// An element. Only these exist behind the reading of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Element {
    /// As HTML writes it.
    pub(super) name: &'static str,
    /// What it does to the text around it.
    pub(super) role: Role,
}

/// What an element does to the text around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// Holds blocks and text.
    Block,
    /// A paragraph or a heading: holds text and inline elements only.
    Paragraph,
    /// Holds items or rows, no text.
    Holder,
    /// An item, a term, or a cell: holds blocks and text, inside its holder.
    Item,
    /// Marks text.
    Inline,
    /// `br` and `hr`: has no inside and no end.
    Void,
}

/// An attribute that was let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// A tag or a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Open(Element, Vec<Attribute>),
    Close(Element),
    Text(String),
}

impl Piece {
    pub(super) fn open(name: &str) -> Option<Self> {
        Some(Self::Open(element(name)?, Vec::new()))
    }

    pub(super) fn close(name: &str) -> Option<Self> {
        element(name).map(Self::Close)
    }
}

/// Adds a text whose line feeds are breaks.
pub(super) fn push_lines(pieces: &mut Vec<Piece>, text: &str) {
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            pieces.extend(Piece::open("br"));
        }
        match pieces.last_mut() {
            _ if line.is_empty() => {}
            Some(Piece::Text(before)) => before.push_str(line),
            _ => pieces.push(Piece::Text(line.to_owned())),
        }
    }
}

/// The element by its name in a document; several names may mean the same.
pub(super) fn element(name: &str) -> Option<Element> {
    use Role::{Block, Holder, Inline, Item, Paragraph, Void};
    let (name, role) = match name {
        "p" => ("p", Paragraph),
        "h1" => ("h1", Paragraph),
        "h2" => ("h2", Paragraph),
        "h3" => ("h3", Paragraph),
        "h4" => ("h4", Paragraph),
        "h5" => ("h5", Paragraph),
        "h6" => ("h6", Paragraph),
        "div" | "section" | "article" | "header" | "footer" | "main" | "aside" | "nav" | "address"
        | "center" | "figure" | "figcaption" | "form" | "fieldset" | "details" | "summary" | "legend"
        | "hgroup" => ("div", Block),
        "blockquote" => ("blockquote", Block),
        "pre" | "listing" => ("pre", Block),
        "ul" | "menu" | "dir" => ("ul", Holder),
        "ol" => ("ol", Holder),
        "dl" => ("dl", Holder),
        "table" => ("table", Holder),
        "thead" | "tbody" | "tfoot" => ("tbody", Holder),
        "tr" => ("tr", Holder),
        "li" => ("li", Item),
        "dt" => ("dt", Item),
        "dd" => ("dd", Item),
        "td" => ("td", Item),
        "th" => ("th", Item),
        "a" => ("a", Inline),
        "b" | "strong" => ("strong", Inline),
        "i" | "em" | "cite" | "var" | "dfn" => ("em", Inline),
        "s" | "del" | "strike" => ("del", Inline),
        "code" | "kbd" | "samp" | "tt" => ("code", Inline),
        "sub" => ("sub", Inline),
        "sup" => ("sup", Inline),
        "br" => ("br", Void),
        "hr" => ("hr", Void),
        _ => return None,
    };
    Some(Element { name, role })
}

/// The names of all elements that [`write`] writes.
pub(super) const ELEMENTS: [&str; 28] = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "div",
    "blockquote",
    "pre",
    "ul",
    "ol",
    "dl",
    "table",
    "tbody",
    "tr",
    "li",
    "dt",
    "dd",
    "td",
    "th",
    "a",
    "strong",
    "em",
    "del",
    "code",
    "sub",
    "sup",
];

/// As HTML.
pub(super) fn write(pieces: &[Piece]) -> String {
    let mut out = String::new();
    for piece in pieces {
        write_piece(&mut out, piece);
    }
    out
}

fn write_piece(out: &mut String, piece: &Piece) {
    match piece {
        Piece::Open(element, attributes) => {
            out.push('<');
            out.push_str(element.name);
            for attribute in attributes {
                // Writing into a string cannot fail.
                let _ = write!(out, " {}=\"{}\"", attribute.name, escape(&attribute.value));
            }
            out.push('>');
        }
        Piece::Close(element) => {
            let _ = write!(out, "</{}>", element.name);
        }
        Piece::Text(text) => out.push_str(&escape(text)),
    }
}

/// The beginning of it, of at most `budget` bytes as HTML, ended at a sensible place. The flag says whether it is all.
pub(super) fn shorten(pieces: &[Piece], budget: usize) -> (Vec<Piece>, bool) {
    let mut kept = Vec::new();
    let mut open: Vec<Element> = Vec::new();
    // What is written, and what closing all that is open will take.
    let (mut written, mut closing) = (0, 0);
    let mut scratch = String::new();
    for piece in pieces {
        scratch.clear();
        write_piece(&mut scratch, piece);
        match piece {
            Piece::Close(element) => {
                open.pop();
                closing -= element.name.len() + 3;
            }
            Piece::Open(element, _) if element.role != Role::Void => {
                let more = element.name.len() + 3;
                if written + scratch.len() + closing + more > budget {
                    return (closed(kept, open), false);
                }
                open.push(*element);
                closing += more;
            }
            Piece::Open(..) | Piece::Text(_) if written + scratch.len() + closing > budget => {
                if let Piece::Text(text) = piece {
                    let room = budget.saturating_sub(written + closing);
                    kept.push(Piece::Text(fitting(text, room).to_owned()));
                }
                return (closed(kept, open), false);
            }
            Piece::Open(..) | Piece::Text(_) => {}
        }
        written += scratch.len();
        kept.push(piece.clone());
    }
    (kept, true)
}

/// As much of a text as is at most `room` bytes when escaped.
fn fitting(text: &str, room: usize) -> &str {
    let mut end = 0;
    let mut escaped = 0;
    for (at, c) in text.char_indices() {
        escaped += match c {
            '&' | '<' | '>' | '"' => 6,
            c => c.len_utf8(),
        };
        if escaped > room {
            break;
        }
        end = at + c.len_utf8();
    }
    match end == text.len() {
        true => text,
        false => cut(text, end),
    }
}

fn closed(mut kept: Vec<Piece>, open: Vec<Element>) -> Vec<Piece> {
    kept.extend(open.into_iter().rev().map(Piece::Close));
    kept
}
