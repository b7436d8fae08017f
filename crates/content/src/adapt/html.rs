//! Hostile HTML into balanced, shallow, small markup of known elements, and through ammonia.
//!
//! Sanitisers build a tree as a browser does, and some markup makes that tree far larger than its text (formatting elements that are
//! opened again in every paragraph) or so deep that walking it takes the stack. So a document goes token by token, without a tree, into
//! [`Piece`]s, with nesting and number bounded; ammonia then judges what these say as HTML, and nothing reaches a device that did not
//! come out of it.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use ammonia::{Builder, UrlRelative};
use html5ever::{
    buffer_queue::BufferQueue,
    tendril::StrTendril,
    tokenizer::{Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts, states::RawKind},
};

use super::piece::{Attribute, ELEMENTS, Element, Piece, Role, element, write};
use super::text::cleaned;

/// Most elements of a document.
pub(super) const MAX_ELEMENTS: usize = 20_000;
/// Deepest nesting of a document's elements.
pub(super) const MAX_DEPTH: usize = 48;
/// Deepest nesting of elements that mark text.
const MAX_INLINE: usize = 8;
/// Longest address of a link in bytes.
const MAX_HREF: usize = 2048;
/// Most columns or rows that a cell spans.
const MAX_SPAN: u8 = 20;
/// The tokeniser compares every attribute of a tag with each before it; so many comparisons in a document.
const MAX_COMPARISONS: u64 = 200_000_000;
/// The document is handed to the tokeniser in chunks of so many bytes.
const CHUNK: usize = 4096;
/// What a link may begin with.
const SCHEMES: [&str; 4] = ["http", "https", "mailto", "tel"];

/// What came of reading a document.
pub(super) struct Read {
    pub(super) pieces: Vec<Piece>,
    /// Whether it is all of the document.
    pub(super) complete: bool,
}

/// Reads and sanitises a document. `None`: it is built to take more time than is granted.
pub(super) fn read(document: &str) -> Option<Read> {
    let first = tidy(document)?;
    let sanitised = sanitised(&first.pieces);
    let second = tidy(&sanitised)?;
    Some(Read {
        pieces: second.pieces,
        complete: first.complete && second.complete,
    })
}

/// As HTML that came out of ammonia.
pub(super) fn sanitised(pieces: &[Piece]) -> String {
    clean(&write(pieces))
}

/// What ammonia leaves of a small, shallow document.
pub(super) fn clean(html: &str) -> String {
    SANITISER.clean(html).to_string()
}

static SANITISER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    let cell = || HashSet::from(["colspan", "rowspan"]);
    builder
        .tags(ELEMENTS.into_iter().chain(["br", "hr"]).collect())
        .tag_attributes(HashMap::from([
            ("a", HashSet::from(["href"])),
            ("ol", HashSet::from(["start"])),
            ("td", cell()),
            ("th", cell()),
        ]))
        .url_schemes(SCHEMES.into())
        .url_relative(UrlRelative::Deny)
        .link_rel(Some("noopener noreferrer"));
    builder
});

fn tidy(document: &str) -> Option<Read> {
    let tokenizer = Tokenizer::new(Sink::default(), TokenizerOpts::default());
    let queue = BufferQueue::default();
    let mut rest = document;
    while !rest.is_empty() {
        let mut end = rest.len().min(CHUNK);
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (chunk, behind) = rest.split_at(end);
        rest = behind;
        tokenizer.sink.state.borrow_mut().count(chunk)?;
        queue.push_back(StrTendril::from(chunk));
        // Scripts are never handed back, so that one call takes all there is.
        let _ = tokenizer.feed(&queue);
        if tokenizer.sink.state.borrow().full {
            break;
        }
    }
    if !tokenizer.sink.state.borrow().full {
        tokenizer.end();
    }
    let state = tokenizer.sink.state.take();
    let complete = !state.full;
    Some(Read {
        pieces: state.finish(),
        complete,
    })
}

#[derive(Default)]
struct Sink {
    state: RefCell<State>,
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut state = self.state.borrow_mut();
        match token {
            Token::TagToken(tag) => {
                state.separators = 0;
                return state.tag(&tag);
            }
            Token::CharacterTokens(text) => {
                state.separators = 0;
                state.text(&text);
            }
            Token::NullCharacterToken => state.text("\u{fffd}"),
            Token::CommentToken(_) | Token::DoctypeToken(_) => state.separators = 0,
            Token::ParseError(_) | Token::EOFToken => {}
        }
        TokenSinkResult::Continue
    }
}

/// Where the reading is.
#[derive(Default)]
struct State {
    pieces: Vec<Piece>,
    open: Vec<Element>,
    /// The element whose inside is dropped, and how many of its name are open.
    dropping: Option<(String, usize)>,
    elements: usize,
    /// No more elements are taken.
    full: bool,
    /// Bytes since the last token that can stand between attributes.
    separators: u64,
    comparisons: u64,
}

impl State {
    /// Reckons how many comparisons of attributes a chunk may cost. `None`: too many.
    fn count(&mut self, chunk: &str) -> Option<()> {
        let between = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0c | b'/' | b'"' | b'\'');
        let more = chunk.bytes().filter(|b| between(b)).count() as u64;
        self.comparisons += more * self.separators;
        self.separators += more;
        (self.comparisons <= MAX_COMPARISONS).then_some(())
    }

    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        if let Some((dropped, count)) = &mut self.dropping {
            if *dropped == name {
                match tag.kind {
                    TagKind::StartTag => *count += usize::from(!tag.self_closing),
                    TagKind::EndTag => *count -= 1,
                }
                if *count == 0 {
                    self.dropping = None;
                }
            }
            return TokenSinkResult::Continue;
        }
        match tag.kind {
            TagKind::EndTag => {
                if let Some(element) = element(name) {
                    self.end(element);
                }
                TokenSinkResult::Continue
            }
            TagKind::StartTag => self.start_tag(name, tag),
        }
    }

    fn start_tag(&mut self, name: &str, tag: &Tag) -> TokenSinkResult<()> {
        if let Some(raw) = unseen(name) {
            if !(tag.self_closing && raw.is_none()) {
                self.dropping = Some((name.to_owned(), 1));
            }
            return match raw {
                Some(kind) => TokenSinkResult::RawData(kind),
                None => TokenSinkResult::Continue,
            };
        }
        let attribute = |wanted: &str| {
            tag.attrs
                .iter()
                .find(|a| &*a.name.local == wanted)
                .map(|a| &*a.value)
        };
        if matches!(name, "div" | "span" | "table" | "section" | "a")
            && is_hidden(&attribute)
            && !tag.self_closing
        {
            self.dropping = Some((name.to_owned(), 1));
            return TokenSinkResult::Continue;
        }
        if name == "img" {
            // Loading an image from elsewhere would tell its owner who reads when.
            if let Some(alt) = attribute("alt").map(str::trim).filter(|alt| !alt.is_empty()) {
                self.text(&format!("[{alt}]"));
            }
        } else if let Some(element) = element(name) {
            self.start(element, attributes(element.name, &attribute));
        }
        TokenSinkResult::Continue
    }

    fn start(&mut self, element: Element, attributes: Vec<Attribute>) {
        if self.elements >= MAX_ELEMENTS {
            self.full = true;
            return;
        }
        self.make_room(element);
        let inline = self.open.iter().filter(|e| e.role == Role::Inline).count();
        let too_deep = self.open.len() >= MAX_DEPTH || (element.role == Role::Inline && inline >= MAX_INLINE);
        if (too_deep && element.role != Role::Void) || !self.has_holder(element) {
            return;
        }
        self.elements += 1;
        self.pieces.push(Piece::Open(element, attributes));
        if element.role != Role::Void {
            self.open.push(element);
        }
    }

    /// Closes what an element cannot stand in, and opens what it must stand in.
    fn make_room(&mut self, element: Element) {
        if element.role != Role::Inline && element.name != "br" {
            self.close_down_to(|e| e.role == Role::Paragraph, |e| e.role == Role::Item);
        }
        match element.name {
            "a" => self.close_down_to(|e| e.name == "a", |e| e.role == Role::Item),
            "li" => self.close_down_to(|e| e.name == "li", |e| e.role == Role::Holder),
            "dt" | "dd" => self.close_down_to(|e| matches!(e.name, "dt" | "dd"), |e| e.role == Role::Holder),
            "td" | "th" => {
                self.close_down_to(
                    |e| matches!(e.name, "td" | "th"),
                    |e| matches!(e.name, "table" | "tr"),
                );
                if self
                    .open
                    .last()
                    .is_some_and(|e| matches!(e.name, "table" | "tbody"))
                {
                    self.open_implied("tr");
                }
            }
            "tr" => self.close_down_to(|e| e.name == "tr", |e| e.name == "table"),
            "tbody" => self.close_down_to(|e| e.name == "tbody", |e| e.name == "table"),
            _ => self.ensure_flow(),
        }
    }

    /// Text and blocks stand in items, not in lists, tables and rows.
    fn ensure_flow(&mut self) {
        match self.open.last().map(|e| e.name) {
            Some("ul" | "ol") => self.open_implied("li"),
            Some("dl") => self.open_implied("dd"),
            Some("table" | "tbody") => {
                self.open_implied("tr");
                self.open_implied("td");
            }
            Some("tr") => self.open_implied("td"),
            _ => {}
        }
    }

    fn open_implied(&mut self, name: &str) {
        if let Some(element) = element(name) {
            self.elements += 1;
            self.pieces.push(Piece::Open(element, Vec::new()));
            self.open.push(element);
        }
    }

    /// Items and rows outside of their holder are dropped (what is in them stays).
    fn has_holder(&self, element: Element) -> bool {
        let last = self.open.last().map(|e| e.name);
        match element.name {
            "li" => matches!(last, Some("ul" | "ol")),
            "dt" | "dd" => last == Some("dl"),
            "td" | "th" => last == Some("tr"),
            "tr" => matches!(last, Some("table" | "tbody")),
            "tbody" => last == Some("table"),
            _ => true,
        }
    }

    fn end(&mut self, element: Element) {
        // The end of a paragraph or a mark inside an item is no end of one outside of it.
        let inner = matches!(element.role, Role::Paragraph | Role::Inline);
        self.close_down_to(
            |e| *e == element,
            |e| (inner && e.role == Role::Item) || (e.name == "table" && element.name != "table"),
        );
    }

    /// Closes everything down to the innermost element that is `wanted`, unless a `barrier` is open in it.
    fn close_down_to(&mut self, wanted: impl Fn(&Element) -> bool, barrier: impl Fn(&Element) -> bool) {
        let within = self.open.iter().rposition(|e| wanted(e) || barrier(e));
        let Some(at) = within.filter(|&at| wanted(&self.open[at])) else {
            return;
        };
        let closed = self.open.drain(at..).rev().map(Piece::Close);
        self.pieces.extend(closed);
    }

    fn text(&mut self, text: &str) {
        if self.dropping.is_some() || self.full {
            return;
        }
        let text = cleaned(text);
        if self.open.iter().any(|e| e.name == "pre") {
            return self.push_text(&text);
        }
        let collapsed = collapsed(&text);
        let blank = collapsed.trim().is_empty();
        if blank && self.open.last().is_some_and(|e| e.role == Role::Holder) {
            return;
        }
        self.ensure_flow();
        let behind_space = match self.pieces.last() {
            Some(Piece::Text(before)) => before.ends_with(' '),
            Some(Piece::Open(e, _) | Piece::Close(e)) => e.role != Role::Inline,
            None => true,
        };
        let collapsed = if behind_space {
            collapsed.trim_start_matches(' ')
        } else {
            &collapsed
        };
        self.push_text(collapsed);
    }

    fn push_text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(before)) => before.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        let closed = self.open.drain(..).rev().map(Piece::Close);
        self.pieces.extend(closed);
        self.pieces
    }
}

/// Runs of white space (not of no-break spaces) as one space.
fn collapsed(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_ascii_whitespace() {
            true if out.ends_with(' ') => {}
            true => out.push(' '),
            false => out.push(c),
        }
    }
    out
}

/// Elements whose inside nobody sees or can show, and how the tokeniser has to read it.
fn unseen(name: &str) -> Option<Option<RawKind>> {
    match name {
        "script" => Some(Some(RawKind::ScriptData)),
        "style" | "xmp" | "iframe" | "noembed" | "noframes" => Some(Some(RawKind::Rawtext)),
        "title" | "textarea" => Some(Some(RawKind::Rcdata)),
        "template" | "svg" | "math" | "object" | "applet" | "audio" | "video" | "canvas" | "select"
        | "datalist" | "map" | "frameset" | "plaintext" => Some(None),
        _ => None,
    }
}

/// Marked as not to be shown, as the preview lines of mails are.
fn is_hidden<'a>(attribute: &impl Fn(&str) -> Option<&'a str>) -> bool {
    let style: String = attribute("style")
        .unwrap_or_default()
        .chars()
        .take(4096)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    attribute("hidden").is_some()
        || ["display:none", "visibility:hidden", "mso-hide:all"]
            .iter()
            .any(|hidden| style.contains(hidden))
}

fn attributes<'a>(name: &str, attribute: &impl Fn(&str) -> Option<&'a str>) -> Vec<Attribute> {
    let span = |of: &'static str| {
        let value: u8 = attribute(of)?.trim().parse().ok()?;
        (2..=MAX_SPAN).contains(&value).then(|| Attribute {
            name: of,
            value: value.to_string(),
        })
    };
    match name {
        "a" => attribute("href").and_then(link).into_iter().collect(),
        "td" | "th" => [span("colspan"), span("rowspan")].into_iter().flatten().collect(),
        "ol" => attribute("start")
            .and_then(|value| value.trim().parse::<u16>().ok())
            .map(|value| Attribute {
                name: "start",
                value: value.to_string(),
            })
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

fn link(href: &str) -> Option<Attribute> {
    let href = href.trim();
    let (scheme, _) = href.split_once(':')?;
    let known = SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let plain = href.len() <= MAX_HREF && !href.contains(|c: char| c.is_control() || c.is_whitespace());
    (known && plain).then(|| Attribute {
        name: "href",
        value: href.to_owned(),
    })
}
