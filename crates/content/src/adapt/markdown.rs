//! Markdown, read and written. Both ways lead through [`Piece`]s: what a publisher wrote as Markdown may hold any HTML, so that it is
//! rendered, sanitised, and written anew.

use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, LinkType, Options, Parser, Tag, TagEnd};
use pulldown_cmark_to_cmark::cmark;

use super::{
    html::{self, MAX_ELEMENTS, Read},
    piece::{Attribute, Piece, Role},
};

/// What is read beyond CommonMark.
fn options() -> Options {
    Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS
}

/// Most events of a document.
const MAX_EVENTS: usize = 4 * MAX_ELEMENTS;

/// Reads a document. `None`: it is built to take more time than is granted.
pub(super) fn read(document: &str) -> Option<Read> {
    let mut count = 0;
    let events = Parser::new_ext(document, options()).take_while(|_| {
        count += 1;
        count <= MAX_EVENTS
    });
    let mut rendered = String::with_capacity(document.len() * 3 / 2);
    pulldown_cmark::html::push_html(&mut rendered, events);
    let mut read = html::read(&rendered)?;
    read.complete &= count <= MAX_EVENTS;
    Some(read)
}

/// Writes CommonMark, with tables.
pub(super) fn write(pieces: &[Piece]) -> Option<String> {
    let mut events = Events::default();
    let mut rest = pieces;
    while let Some((piece, behind)) = rest.split_first() {
        if let Some((table, behind)) = Table::of(piece, behind) {
            events.table(&table);
            rest = behind;
        } else {
            events.piece(piece, behind);
            rest = behind;
        }
    }
    events.end_paragraph();
    let mut out = String::new();
    let mut blocks = events.out.as_slice();
    while !blocks.is_empty() {
        let (block, behind) = blocks.split_at(first_block(blocks));
        blocks = behind;
        let written = written(block)?;
        if !out.is_empty() && !written.trim().is_empty() {
            out.push_str("\n\n");
        }
        out.push_str(written.trim_matches('\n'));
    }
    Some(out)
}

/// One block. Some nestings of marks cannot be told apart in Markdown: such a block goes without them.
fn written(block: &[Event<'static>]) -> Option<String> {
    let mut out = String::new();
    if cmark(block.iter(), &mut out, options()).is_ok() {
        return Some(out);
    }
    let marks = |event: &&Event<'_>| {
        !matches!(
            event,
            Event::Start(Tag::Strong | Tag::Emphasis | Tag::Strikethrough)
                | Event::End(TagEnd::Strong | TagEnd::Emphasis | TagEnd::Strikethrough)
        )
    };
    out.clear();
    cmark(block.iter().filter(marks), &mut out, options()).ok()?;
    Some(out)
}

/// How many events the first block has.
fn first_block(events: &[Event<'_>]) -> usize {
    let mut depth = 0_usize;
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    events.len()
}

/// Turns pieces into events. Paragraphs begin by themselves where text does, since Markdown has no text outside of blocks; marks that
/// are open then are opened in it, with their first text.
#[derive(Default)]
struct Events {
    out: Vec<Event<'static>>,
    /// Open marks, and whether they are in `out`. `None`: one that Markdown does not have.
    inline: Vec<(Option<Tag<'static>>, bool)>,
    /// The end of the paragraph or heading that is open. In an item of a tight list it has none.
    paragraph: Option<Option<TagEnd>>,
    /// The heading that begins with the next text.
    heading: Option<HeadingLevel>,
    /// Ends of the open blocks.
    blocks: Vec<Option<TagEnd>>,
    /// Whether the open lists are tight.
    tight: Vec<bool>,
    code: bool,
    preformatted: bool,
}

impl Events {
    fn piece(&mut self, piece: &Piece, behind: &[Piece]) {
        match piece {
            Piece::Text(text) => self.text(text),
            Piece::Open(element, _) if element.name == "br" => self.line_break(),
            Piece::Open(element, _) if element.name == "hr" => {
                self.end_paragraph();
                self.out.push(Event::Rule);
            }
            Piece::Open(element, attributes) => match element.role {
                Role::Inline => self.open_inline(element.name, attributes),
                Role::Paragraph => {
                    self.end_paragraph();
                    self.heading = level(element.name);
                }
                _ => self.open_block(element.name, attributes, behind),
            },
            Piece::Close(element) => match element.role {
                Role::Inline => self.close_inline(element.name),
                Role::Paragraph => {
                    self.end_paragraph();
                    self.heading = None;
                }
                _ => self.close_block(element.name),
            },
        }
    }

    fn open_block(&mut self, name: &str, attributes: &[Attribute], behind: &[Piece]) {
        self.end_paragraph();
        let start = attributes
            .iter()
            .find(|a| a.name == "start")
            .and_then(|a| a.value.parse().ok());
        let tag = match name {
            "blockquote" => Some(Tag::BlockQuote(None)),
            "ul" => Some(Tag::List(None)),
            "ol" => Some(Tag::List(Some(start.unwrap_or(1)))),
            "li" => Some(Tag::Item),
            "pre" => {
                self.preformatted = true;
                Some(Tag::CodeBlock(CodeBlockKind::Fenced("".into())))
            }
            _ => None,
        };
        match name {
            "ul" | "ol" => self.tight.push(is_tight(behind)),
            "blockquote" => self.tight.push(false),
            _ => {}
        }
        self.blocks.push(tag.as_ref().map(Tag::to_end));
        self.out.extend(tag.map(Event::Start));
    }

    fn close_block(&mut self, name: &str) {
        self.end_paragraph();
        match name {
            "pre" => {
                self.preformatted = false;
                if matches!(self.out.last(), Some(Event::Text(text)) if !text.ends_with('\n')) {
                    self.out.push(Event::Text("\n".into()));
                }
            }
            "ul" | "ol" | "blockquote" => {
                self.tight.pop();
            }
            _ => {}
        }
        let end = self.blocks.pop().flatten();
        self.out.extend(end.map(Event::End));
    }

    fn open_inline(&mut self, name: &str, attributes: &[Attribute]) {
        let tag = match name {
            "strong" => Some(Tag::Strong),
            "em" => Some(Tag::Emphasis),
            "del" => Some(Tag::Strikethrough),
            "a" => attributes
                .iter()
                .find(|a| a.name == "href")
                .map(|href| Tag::Link {
                    link_type: LinkType::Inline,
                    dest_url: href.value.clone().into(),
                    title: "".into(),
                    id: "".into(),
                }),
            _ => None,
        };
        self.code |= name == "code";
        let again = self.inline.iter().any(|(open, _)| *open == tag);
        self.inline.push((tag.filter(|_| !again), false));
    }

    fn close_inline(&mut self, name: &str) {
        if name == "code" {
            self.code = false;
        }
        if let Some((Some(tag), true)) = self.inline.pop() {
            let space = self.take_space();
            self.out.push(Event::End(tag.to_end()));
            if space {
                self.out.push(Event::Text(" ".into()));
            }
        }
    }

    fn text(&mut self, text: &str) {
        if self.preformatted {
            return self.out.push(Event::Text(text.to_owned().into()));
        }
        let mut text = text;
        if self.paragraph.is_none() {
            text = text.trim_start();
            if text.is_empty() {
                return;
            }
            self.begin_paragraph();
        }
        // Space between a mark and its text is none of the mark's.
        let waiting = self.inline.iter().any(|(tag, written)| tag.is_some() && !written);
        if waiting || matches!(self.out.last(), Some(Event::HardBreak | Event::Start(_))) {
            let trimmed = text.trim_start_matches(' ');
            if trimmed.len() < text.len()
                && !matches!(self.out.last(), Some(Event::HardBreak | Event::Start(_)))
            {
                self.push_text(" ");
            }
            text = trimmed;
        }
        if text.is_empty() {
            return;
        }
        for (tag, written) in &mut self.inline {
            if let (Some(tag), false) = (tag, &written) {
                self.out.push(Event::Start(tag.clone()));
                *written = true;
            }
        }
        match self.code {
            true => self.out.push(Event::Code(text.to_owned().into())),
            false => self.push_text(text),
        }
    }

    fn push_text(&mut self, text: &str) {
        match self.out.last_mut() {
            Some(Event::Text(before)) => *before = format!("{before}{text}").into(),
            _ => self.out.push(Event::Text(text.to_owned().into())),
        }
    }

    /// Takes the spaces from the end of what is written. The flag says whether there were any.
    fn take_space(&mut self) -> bool {
        let Some(Event::Text(text)) = self.out.last_mut() else {
            return false;
        };
        let trimmed = text.trim_end_matches(' ').to_owned();
        let some = trimmed.len() < text.len();
        match trimmed.is_empty() {
            true => drop(self.out.pop()),
            false => *text = trimmed.into(),
        }
        some
    }

    fn line_break(&mut self) {
        match self.paragraph {
            // Headings and cells have one line.
            Some(Some(TagEnd::Heading(_) | TagEnd::TableCell)) => self.text(" "),
            Some(_) if !matches!(self.out.last(), Some(Event::Start(_))) => {
                self.take_space();
                self.out.push(Event::HardBreak);
            }
            _ => {}
        }
    }

    fn begin_paragraph(&mut self) {
        let tag = match self.heading {
            Some(level) => Some(Tag::Heading {
                level,
                id: None,
                classes: Vec::new(),
                attrs: Vec::new(),
            }),
            None if self.tight.last() == Some(&true) => None,
            None => Some(Tag::Paragraph),
        };
        self.paragraph = Some(tag.as_ref().map(Tag::to_end));
        self.out.extend(tag.map(Event::Start));
    }

    fn end_paragraph(&mut self) {
        let Some(end) = self.paragraph.take() else { return };
        loop {
            self.take_space();
            match self.out.last() {
                Some(Event::HardBreak) => drop(self.out.pop()),
                _ => break,
            }
        }
        for (tag, written) in self.inline.iter_mut().rev() {
            if let (Some(tag), true) = (tag, &written) {
                self.out.push(Event::End(tag.to_end()));
            }
            *written = false;
        }
        self.out.extend(end.map(Event::End));
    }

    fn table(&mut self, table: &Table<'_>) {
        self.end_paragraph();
        let inline = std::mem::take(&mut self.inline);
        self.out
            .push(Event::Start(Tag::Table(vec![Alignment::None; table.columns])));
        for (number, row) in table.rows.iter().enumerate() {
            let tag = if number == 0 {
                Tag::TableHead
            } else {
                Tag::TableRow
            };
            let end = tag.to_end();
            self.out.push(Event::Start(tag));
            for column in 0..table.columns {
                self.out.push(Event::Start(Tag::TableCell));
                // Inside a cell marks stand as inside a paragraph.
                self.paragraph = Some(Some(TagEnd::TableCell));
                for piece in row.get(column).copied().unwrap_or_default() {
                    match piece {
                        Piece::Open(e, _) | Piece::Close(e) if e.role == Role::Paragraph => {}
                        piece => self.piece(piece, &[]),
                    }
                }
                self.end_paragraph();
            }
            self.out.push(Event::End(end));
        }
        self.out.push(Event::End(TagEnd::Table));
        self.inline = inline;
    }
}

/// Whether the items of the list that was just opened are lines of text and further lists alone.
fn is_tight(behind: &[Piece]) -> bool {
    let mut depth = 1_usize;
    let mut first = true;
    for piece in behind {
        match piece {
            Piece::Open(e, _) if matches!(e.name, "ul" | "ol") => depth += 1,
            Piece::Close(e) if matches!(e.name, "ul" | "ol") => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
                first = false;
            }
            Piece::Open(e, _) if e.name == "li" => first = true,
            // Text behind an inner list would need a paragraph of its own.
            Piece::Text(text) if !first && depth == 1 && !text.trim().is_empty() => return false,
            Piece::Open(e, _) if !matches!(e.role, Role::Inline | Role::Item) && e.name != "br" => {
                return false;
            }
            _ => {}
        }
    }
    true
}

/// A table that Markdown can have: a heading row, and nothing in its cells but marked text. Others (most of those in mails lay
/// out a page) are written as their texts, one after the other.
struct Table<'a> {
    rows: Vec<Vec<&'a [Piece]>>,
    columns: usize,
}

impl<'a> Table<'a> {
    /// The table that begins with `piece`, and what comes behind it.
    fn of(piece: &Piece, behind: &'a [Piece]) -> Option<(Self, &'a [Piece])> {
        if !matches!(piece, Piece::Open(e, _) if e.name == "table") {
            return None;
        }
        let mut table = Self {
            rows: Vec::new(),
            columns: 0,
        };
        let (mut headed, mut cell) = (false, 0);
        for (at, piece) in behind.iter().enumerate() {
            match piece {
                Piece::Open(e, _) => match e.name {
                    "tbody" | "br" => {}
                    "tr" => table.rows.push(Vec::new()),
                    "td" | "th" => {
                        headed |= e.name == "th" && table.rows.len() == 1;
                        cell = at + 1;
                    }
                    _ if e.role == Role::Inline || e.role == Role::Paragraph => {}
                    _ => return None,
                },
                Piece::Close(e) if e.name == "table" => {
                    table.columns = table.rows.iter().map(Vec::len).max().unwrap_or(0);
                    let cells = table.columns * table.rows.len();
                    let good = headed && table.columns > 0 && cells <= MAX_ELEMENTS;
                    return good.then_some((table, &behind[at + 1..]));
                }
                Piece::Close(e) if matches!(e.name, "td" | "th") => {
                    table.rows.last_mut()?.push(&behind[cell..at]);
                }
                Piece::Close(_) | Piece::Text(_) => {}
            }
        }
        None
    }
}

fn level(name: &str) -> Option<HeadingLevel> {
    let number: usize = name.strip_prefix('h')?.parse().ok()?;
    HeadingLevel::try_from(number).ok()
}
