//! Plain text: cleaned, cut at a sensible place, and written from marked-up text.

use std::borrow::Cow;

use super::piece::{Piece, Role};

/// A cut may lose this share of the text in order to fall behind a sentence or a word.
const LOOK_BACK: usize = 4;
/// Deepest list or quotation that is indented further.
const MAX_INDENT: usize = 8;

/// Without what could steer a terminal or turn the direction of writing: control characters but line feed and tab, and overrides
/// of direction. Lines end by a line feed alone.
pub(super) fn cleaned(text: &str) -> Cow<'_, str> {
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{feff}' | '\u{fffe}')
    };
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\r' if characters.peek() == Some(&'\n') => {}
            '\r' | '\u{85}' => out.push('\n'),
            '\0' => out.push('\u{fffd}'),
            c if bad(c) => {}
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// For HTML: in text and in a quoted attribute.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// At most `max` bytes of a text: ended behind a paragraph, else a sentence or line, else a word, else a character.
pub(super) fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let whole = &text[..end];
    let mut from = end - end / LOOK_BACK;
    while !whole.is_char_boundary(from) {
        from -= 1;
    }
    let tail = &whole[from..];
    let behind = |found: Option<usize>, length: usize| found.map(|at| from + at + length);
    let sentence = [". ", "! ", "? ", ".\n", "!\n", "?\n", "。", "\n"]
        .iter()
        .filter_map(|mark| behind(tail.rfind(mark), mark.trim_end().len()))
        .max();
    let place = behind(tail.rfind("\n\n"), 0)
        .or(sentence)
        .or(behind(tail.rfind(char::is_whitespace), 0))
        .unwrap_or_else(|| before_joined(text, end));
    text[..place].trim_end()
}

/// Moves a cut that would part a character from what modifies it.
fn before_joined(text: &str, mut end: usize) -> usize {
    const MOST: usize = 16;
    let joins = |c: char| {
        matches!(c, '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{20d0}'..='\u{20ff}'
            | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}')
    };
    let original = end;
    for _ in 0..MOST {
        let (before, after) = text.split_at(end);
        let Some(last) = before.chars().next_back() else {
            return original;
        };
        if !after.starts_with(joins) && last != '\u{200d}' {
            return end;
        }
        end -= last.len_utf8();
    }
    original
}

/// One line of at most `max` characters.
pub(super) fn line(text: &str, max: usize) -> String {
    let cleaned = cleaned(text);
    let mut out = String::new();
    for word in cleaned.split_whitespace() {
        let more = word.chars().count() + usize::from(!out.is_empty());
        if out.chars().count() + more > max {
            if out.is_empty() {
                out.extend(word.chars().take(max.saturating_sub(1)));
            }
            out.push('…');
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Marked-up text without its marks: paragraphs, lists, quotations and rows by lines and indents, links with their addresses.
pub(super) fn from_pieces(pieces: &[Piece]) -> String {
    let mut writer = Writer::default();
    for piece in pieces {
        match piece {
            Piece::Open(element, attributes) => {
                let value = attributes.first().map(|a| a.value.as_str());
                writer.open(element.name, element.role, value);
            }
            Piece::Close(element) => writer.close(element.name, element.role),
            Piece::Text(text) => writer.text(text),
        }
    }
    writer.out.truncate(writer.out.trim_end().len());
    writer.out
}

#[derive(Default)]
struct Writer {
    out: String,
    /// Before every line.
    indents: Vec<&'static str>,
    /// Numbers of the open lists; `None`: bullets.
    lists: Vec<Option<u64>>,
    /// Of the open links, with where their text began.
    links: Vec<(Option<String>, usize)>,
    /// Line feeds owed before the next text.
    owed: usize,
    /// Before the next text, in place of the innermost indent.
    mark: Option<String>,
    preformatted: usize,
    cells: usize,
}

impl Writer {
    /// `value`: a link's address, or a list's first number.
    fn open(&mut self, name: &str, role: Role, value: Option<&str>) {
        match name {
            "br" => self.owe(1),
            "hr" => {
                self.owe(2);
                self.text("* * *");
                self.owe(2);
            }
            "a" => self.links.push((value.map(str::to_owned), self.out.len())),
            "ul" => self.lists.push(None),
            "ol" => self
                .lists
                .push(Some(value.and_then(|v| v.parse().ok()).unwrap_or(1))),
            "li" => {
                self.owe(1);
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".into(),
                };
                self.indents.push(if mark.len() > 2 { "   " } else { "  " });
                self.mark = Some(mark);
            }
            "dd" => {
                self.owe(1);
                self.indents.push("  ");
            }
            "blockquote" => {
                self.owe(2);
                self.indents.push("> ");
            }
            "pre" => {
                self.owe(2);
                self.preformatted += 1;
            }
            "tr" => {
                self.owe(1);
                self.cells = 0;
            }
            "td" | "th" => {
                if self.cells > 0 && self.owed == 0 {
                    self.out.push_str(" | ");
                }
                self.cells += 1;
            }
            _ => self.owe(breaks(name, role)),
        }
        if matches!(name, "ul" | "ol" | "dl" | "table") {
            self.owe(if self.indents.is_empty() { 2 } else { 1 });
        }
    }

    fn close(&mut self, name: &str, role: Role) {
        match name {
            "a" => self.end_link(),
            "ul" | "ol" => {
                self.lists.pop();
            }
            "li" | "dd" | "blockquote" => {
                self.indents.pop();
                self.mark = None;
            }
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            _ => {}
        }
        let breaks = match name {
            "ul" | "ol" | "dl" | "table" | "blockquote" | "pre" if self.indents.is_empty() => 2,
            "td" | "th" => 0,
            _ => breaks(name, role),
        };
        self.owe(breaks);
    }

    /// A link's address behind its text, unless it is its text.
    fn end_link(&mut self) {
        let Some((Some(href), from)) = self.links.pop() else {
            return;
        };
        let shown = self.out.get(from..).unwrap_or_default().trim();
        let bare = href
            .strip_prefix("mailto:")
            .or(href.strip_prefix("tel:"))
            .unwrap_or(&href);
        if !shown.is_empty() && shown != bare && shown.trim_end_matches('/') != bare.trim_end_matches('/') {
            self.text(&format!(" ({bare})"));
        }
    }

    fn owe(&mut self, lines: usize) {
        if !self.out.is_empty() {
            self.owed = self.owed.max(lines);
        }
    }

    fn text(&mut self, text: &str) {
        if self.preformatted > 0 {
            let mut first = true;
            for line in text.split('\n') {
                if !first {
                    self.owed += 1;
                }
                first = false;
                self.write(line);
            }
            return;
        }
        let at_start = self.owed > 0 || self.out.is_empty() || self.out.ends_with([' ', '\n']);
        let text = if at_start { text.trim_start() } else { text };
        self.write(text);
    }

    fn write(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.owed > 0 {
            self.out.truncate(self.out.trim_end_matches(' ').len());
        }
        for _ in 0..std::mem::take(&mut self.owed).min(2 + self.preformatted * 2) {
            self.out.push('\n');
        }
        if self.out.is_empty() || self.out.ends_with('\n') {
            let depth = self.indents.len().min(MAX_INDENT);
            let mark = self.mark.take();
            let keep = depth - usize::from(mark.is_some() && depth > 0);
            for indent in &self.indents[..keep] {
                self.out.push_str(indent);
            }
            self.out.push_str(mark.as_deref().unwrap_or_default());
        }
        self.out.push_str(text);
    }
}

fn breaks(name: &str, role: Role) -> usize {
    match (name, role) {
        ("p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6", _) => 2,
        (_, Role::Block | Role::Item | Role::Holder) => 1,
        _ => 0,
    }
}
