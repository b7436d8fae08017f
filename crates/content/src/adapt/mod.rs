//! An event's content as a class of devices can show it.
//!
//! [`adapt`] never fails: where content cannot be shown, a device gets a text that says what there is, and why ([`Variant::SafeText`]).
//! What content may cost is bounded before the work is done, since no library here can be stopped in the middle of it:
//!
//! | content | bound |
//! | --- | --- |
//! | HTML, Markdown, JSON | [`MAX_DOCUMENT`] bytes are read; 20,000 elements, 48 deep; 2e8 comparisons of attributes |
//! | images | [`MAX_PIXELS`] pixels, [`MAX_EDGE`] wide or high, [`MAX_ALLOC`] bytes while decoding; eight tries to make it small enough |
//! | SVG | [`MAX_DOCUMENT`] bytes, 50,000 nodes, 64 deep; 100,000 elements with all uses counted; 2 million pixels, painted 200 times over; no filters or patterns |
//! | text | linear in its length, which [`crate::cloudevents::MAX_BODY`] bounds |
//!
//! One call takes up to [`MEMORY`] bytes, and a second or two of a core for the worst that gets through; callers keep it off their
//! asynchronous threads, and bound how many run at one time.

mod html;
mod image;
mod json;
mod markdown;
mod piece;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use image::{MAX_ALLOC, MAX_EDGE, MAX_PIXELS};

use crate::{Class, Event, media::MediaType};
use html::Read;
use piece::Piece;

/// Most bytes of a document with structure (HTML, Markdown, JSON, SVG) that are read.
pub const MAX_DOCUMENT: usize = 1024 * 1024;
/// What one call takes at most, in bytes, beside the event and its result.
pub const MEMORY: usize = 512 * 1024 * 1024;
/// Longest [`Adapted::summary`] in characters.
pub const MAX_SUMMARY: usize = 160;

/// Bounds on the result that come from the way it travels.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of the body. The class's own limit counts, too.
    pub body: usize,
    /// Whether the whole can be fetched when the body is shortened: the note at its end says so.
    pub rest_can_be_fetched: bool,
}

/// Which form of the content it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// HTML without scripts, styles, images, forms.
    Html,
    /// CommonMark without HTML, with tables.
    Markdown,
    /// Plain text.
    Text,
    /// An image, scaled and encoded anew.
    Image,
    /// As the publisher sent it.
    Original,
    /// A text that says what there is, because the content itself cannot be shown.
    SafeText,
}

impl Variant {
    /// As in [`hawser_proto::broker::envelope::Content::variant`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Markdown => "markdown",
            Self::Text => "text",
            Self::Image => "image",
            Self::Original => "original",
            Self::SafeText => "safe-text",
        }
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Content that a device can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapted {
    /// Media type of `body`.
    pub content_type: String,
    /// Which form it is.
    pub variant: Variant,
    /// At most as long as class and limits allow.
    pub body: Vec<u8>,
    /// A line for people, made of the subject and type alone, never of the content.
    pub summary: String,
    /// There is more than `body` has.
    pub truncated: bool,
    /// Bytes of the whole: of this variant for texts, of the original for the rest.
    pub total: u64,
    /// Why it is [`Variant::SafeText`].
    pub reason: Option<String>,
}

/// Makes of an event's content what a class of devices can show best.
pub fn adapt(event: &Event, class: &Class, limits: &Limits) -> Adapted {
    let max = usize::try_from(class.max_bytes())
        .unwrap_or(usize::MAX)
        .min(limits.body);
    let job = Job {
        event,
        class,
        max,
        fetchable: limits.rest_can_be_fetched,
    };
    // The libraries below are asked for what is hard to foresee. One that panics has shown nothing, and broken nothing: all that it
    // had was this event.
    let made = catch_unwind(AssertUnwindSafe(|| job.made())).unwrap_or_else(|_| {
        let reason = "it could not be read without a fault".into();
        safe_text(event, &Source::Other(String::new()), reason, max)
    });
    Adapted {
        content_type: made.content_type.into_owned(),
        variant: made.variant,
        body: made.body,
        summary: summary(event),
        truncated: made.truncated,
        total: made.total,
        reason: made.reason,
    }
}

/// A line for people, made of the subject, or else the type and the source.
pub fn summary(event: &Event) -> String {
    match event
        .subject
        .as_deref()
        .map(|subject| text::line(subject, MAX_SUMMARY))
    {
        Some(subject) if !subject.is_empty() => subject,
        _ => text::line(
            &format!("{} from {}", event.event_type, event.source),
            MAX_SUMMARY,
        ),
    }
}

/// What kind of content an event has.
enum Source {
    Empty,
    Html(String, bool),
    Markdown(String, bool),
    Json(String),
    Text(String),
    Image,
    Svg(String),
    Other(String),
}

impl Source {
    fn of(event: &Event) -> Self {
        if event.data.is_empty() {
            return Self::Empty;
        }
        let Some(media) = event.media_type() else {
            return match std::str::from_utf8(&event.data) {
                Ok(text) => Self::Text(text::cleaned(text).into_owned()),
                Err(_) => Self::Other("application/octet-stream".into()),
            };
        };
        let document = || {
            let whole = event.data.len() <= MAX_DOCUMENT;
            let read = &event.data[..event.data.len().min(MAX_DOCUMENT)];
            (decode(read, media.charset()), whole)
        };
        match media.essence() {
            "text/html" | "application/xhtml+xml" => {
                let (text, whole) = document();
                Self::Html(text, whole)
            }
            "text/markdown" | "text/x-markdown" => {
                let (text, whole) = document();
                Self::Markdown(text, whole)
            }
            "image/svg+xml" => match document() {
                (text, true) => Self::Svg(text),
                (_, false) => Self::Other(media.to_string()),
            },
            _ if media.is_json() && event.data.len() <= MAX_DOCUMENT => Self::Json(decode(&event.data, None)),
            "image/png" | "image/jpeg" | "image/gif" | "image/webp" => Self::Image,
            _ if is_text(&media) => Self::Text(decode(&event.data, media.charset())),
            other => Self::Other(other.to_owned()),
        }
    }

    /// What a class likes best of the forms that this content can take, with how well each form carries it in thousandths.
    fn best(&self, class: &Class) -> Result<Variant, Cow<'static, str>> {
        use Variant::{Html, Image, Markdown, Original, Text};
        let forms: &[(Variant, u32)] = match self {
            Self::Html(..) | Self::Json(_) => &[(Html, 1000), (Markdown, 900), (Text, 700), (Original, 650)],
            Self::Markdown(..) => &[(Html, 1000), (Markdown, 950), (Text, 700)],
            Self::Text(_) | Self::Empty => &[(Text, 1000), (Html, 900), (Markdown, 900)],
            Self::Image | Self::Svg(_) => &[(Image, 1000)],
            Self::Other(_) => &[(Original, 1000)],
        };
        let welcome = |variant: Variant| -> u32 {
            let quality = |essence: &str| u32::from(class.quality(essence));
            match (variant, self) {
                (Html, _) => quality("text/html"),
                (Markdown, _) => quality("text/markdown"),
                (Text, _) => quality("text/plain"),
                (Image, _) => ["image/png", "image/jpeg", "image/webp"]
                    .map(quality)
                    .into_iter()
                    .max()
                    .unwrap_or(0),
                (Original, Self::Json(_)) => quality("application/json"),
                (Original, Self::Other(essence)) if !is_active(essence) => quality(essence),
                _ => 0,
            }
        };
        let mut best: Option<(u32, Variant)> = None;
        for &(variant, carries) in forms {
            let value = welcome(variant) * carries;
            if value > best.map_or(0, |(value, _)| value) {
                best = Some((value, variant));
            }
        }
        let kind = match self {
            Self::Image | Self::Svg(_) => "images",
            Self::Other(essence) => essence,
            _ => "texts",
        };
        best.map(|(_, variant)| variant)
            .ok_or_else(|| format!("this device shows no {kind}").into())
    }
}

/// Text that does not say so in its kind.
fn is_text(media: &MediaType) -> bool {
    media.kind() == "text"
        || media.is_json()
        || ["xml", "yaml", "toml", "sql", "javascript", "x-sh"].contains(&media.subtype())
        || [".xml", "+xml", "+yaml"]
            .iter()
            .any(|end| media.subtype().ends_with(end))
}

/// Types that a device might run rather than show are never passed on as they came.
fn is_active(essence: &str) -> bool {
    [
        "html",
        "xml",
        "svg",
        "script",
        "wasm",
        "java",
        "flash",
        "msdownload",
        "executable",
    ]
    .iter()
    .any(|word| essence.contains(word))
}

/// As text, by its character set (UTF-8 where none is named, or an unknown one), wrong bytes replaced.
fn decode(data: &[u8], charset: Option<&str>) -> String {
    let encoding = charset
        .and_then(|label| encoding_rs::Encoding::for_label(label.as_bytes()))
        .unwrap_or(encoding_rs::UTF_8);
    let (decoded, _, _) = encoding.decode(data);
    match text::cleaned(&decoded) {
        Cow::Borrowed(_) => decoded.into_owned(),
        Cow::Owned(cleaned) => cleaned,
    }
}

/// Writes marked-up text in one of its forms. `None`: it cannot be written so.
type Render = fn(&[Piece]) -> Option<String>;

/// A form of the content.
struct Made {
    content_type: Cow<'static, str>,
    variant: Variant,
    body: Vec<u8>,
    truncated: bool,
    total: u64,
    reason: Option<String>,
}

struct Job<'a> {
    event: &'a Event,
    class: &'a Class,
    max: usize,
    fetchable: bool,
}

impl Job<'_> {
    /// The best form, or the text in its place.
    fn made(&self) -> Made {
        let source = Source::of(self.event);
        let shown = source
            .best(self.class)
            .and_then(|variant| self.run(&source, variant));
        shown.unwrap_or_else(|reason| safe_text(self.event, &source, reason, self.max))
    }

    fn run(&self, source: &Source, variant: Variant) -> Result<Made, Cow<'static, str>> {
        const COSTLY: &str = "the document is too costly to read";
        match (variant, source) {
            (Variant::Image, Source::Svg(text)) => {
                let drawn = svg::draw(text, self.class)?;
                Ok(self.image(image::encode(&drawn, self.class, self.max)?, false))
            }
            (Variant::Image, _) => {
                let fitted = image::fit(&self.event.data, self.class, self.max)?;
                let scaled = fitted.scaled;
                Ok(self.image(fitted, scaled))
            }
            (Variant::Original, _) => self.original(),
            (Variant::Text, Source::Text(text)) => Ok(self.plain(text, true)),
            (Variant::Text, Source::Empty) => Ok(self.plain("", true)),
            (_, Source::Html(text, whole)) => {
                self.document(html::read(text).ok_or(COSTLY)?, *whole, text.len(), variant)
            }
            (_, Source::Markdown(text, whole)) => {
                self.document(markdown::read(text).ok_or(COSTLY)?, *whole, text.len(), variant)
            }
            (_, Source::Json(text)) => {
                let read = json::read(text).unwrap_or_else(|| paragraphs(text, self.max));
                self.document(read, true, text.len(), variant)
            }
            (_, Source::Text(text)) => self.document(paragraphs(text, self.max), true, text.len(), variant),
            _ => self.document(paragraphs("", self.max), true, 0, variant),
        }
    }

    fn image(&self, encoded: image::Encoded, truncated: bool) -> Made {
        Made {
            content_type: encoded.content_type.into(),
            variant: Variant::Image,
            body: encoded.body,
            truncated,
            total: self.event.data.len() as u64,
            reason: None,
        }
    }

    fn original(&self) -> Result<Made, Cow<'static, str>> {
        if self.event.data.len() > self.max {
            return Err("it is too large for this device".into());
        }
        let content_type = self.event.datacontenttype.clone().unwrap_or_default();
        Ok(Made {
            content_type: content_type.into(),
            variant: Variant::Original,
            body: self.event.data.clone(),
            truncated: false,
            total: self.event.data.len() as u64,
            reason: None,
        })
    }

    /// Plain text, cut where it is too long.
    fn plain(&self, text: &str, whole: bool) -> Made {
        let total = text.len();
        let shortened = !whole || total > self.max;
        let mut body = text.to_owned();
        if shortened {
            let note = format!("\n\n{}", self.note(total));
            let room = self.max.saturating_sub(note.len());
            body = text::cut(text, room).to_owned();
            if note.len() <= self.max {
                body.push_str(&note);
            }
        }
        self.texts("text/plain; charset=utf-8", Variant::Text, body, shortened, total)
    }

    fn texts(
        &self,
        kind: &'static str,
        variant: Variant,
        body: String,
        truncated: bool,
        total: usize,
    ) -> Made {
        Made {
            content_type: kind.into(),
            variant,
            body: body.into_bytes(),
            truncated,
            total: total as u64,
            reason: None,
        }
    }

    /// Marked-up text in one of its forms. `whole`: the document of `length` bytes was not cut before it was read.
    fn document(
        &self,
        read: Read,
        whole: bool,
        length: usize,
        variant: Variant,
    ) -> Result<Made, Cow<'static, str>> {
        let whole = whole && read.complete;
        let (kind, render): (_, Render) = match variant {
            Variant::Html => ("text/html; charset=utf-8", |pieces| Some(html::sanitised(pieces))),
            Variant::Markdown => ("text/markdown; charset=utf-8", markdown::write),
            _ => return Ok(self.plain(&text::from_pieces(&read.pieces), whole)),
        };
        const UNFIT: &str = "the document cannot be shortened for this device";
        let full = render(&read.pieces).ok_or(UNFIT)?;
        let total = if whole { full.len() } else { full.len().max(length) };
        if whole && total <= self.max {
            return Ok(self.texts(kind, variant, full, false, total));
        }
        let note = note_pieces(&self.note(total));
        let mut budget = self.max;
        // What a piece takes in its form is not known before: HTML gains attributes, Markdown loses tags.
        for _ in 0..6 {
            let (mut pieces, _) = piece::shorten(&read.pieces, budget);
            pieces.extend(note.iter().cloned());
            let body = render(&pieces).ok_or(UNFIT)?;
            if body.len() <= self.max {
                return Ok(self.texts(kind, variant, body, true, total));
            }
            let over = body.len() - self.max;
            budget = budget.saturating_sub(over + budget / 10);
        }
        Err(UNFIT.into())
    }

    fn note(&self, total: usize) -> String {
        let advice = match self.fetchable {
            true => "the rest can be fetched",
            false => "this device takes no more",
        };
        format!("[Shortened; {} in all, {advice}.]", bytes(total))
    }
}

/// The text in place of content that cannot be shown.
fn safe_text(event: &Event, source: &Source, reason: Cow<'static, str>, max: usize) -> Made {
    let length = bytes(event.data.len());
    let what = match source {
        Source::Image => match image::size(&event.data) {
            Some((width, height)) => format!("[Image, {width}×{height} pixels, {length}: {reason}.]"),
            None => format!("[Image, {length}: {reason}.]"),
        },
        Source::Svg(_) => format!("[Drawing, {length}: {reason}.]"),
        _ => {
            let media = event.media_type();
            let kind = media
                .as_ref()
                .map_or("content of no given type", MediaType::essence);
            format!("[{kind}, {length}: {reason}.]")
        }
    };
    let mut lines = vec![what];
    lines.extend(
        event
            .subject
            .as_deref()
            .map(|subject| text::line(subject, MAX_SUMMARY)),
    );
    if let Source::Svg(text) = source {
        lines.extend(svg::words(text));
    }
    let body = lines.join("\n");
    Made {
        content_type: "text/plain; charset=utf-8".into(),
        variant: Variant::SafeText,
        body: text::cut(&body, max).as_bytes().to_vec(),
        truncated: false,
        total: event.data.len() as u64,
        reason: Some(reason.into_owned()),
    }
}

/// Plain text as marked-up text: paragraphs at empty lines, lines as they are. Of a long one the beginning: more than can be shown
/// need not be read, since it only grows.
fn paragraphs(text: &str, max: usize) -> Read {
    let read = text::cut(text, max.min(MAX_DOCUMENT).saturating_add(4));
    let mut pieces = Vec::new();
    for paragraph in read.split("\n\n").filter(|p| !p.trim().is_empty()) {
        pieces.extend(Piece::open("p"));
        piece::push_lines(&mut pieces, paragraph.trim_matches('\n'));
        pieces.extend(Piece::close("p"));
        if pieces.len() > 4 * html::MAX_ELEMENTS {
            return Read {
                pieces,
                complete: false,
            };
        }
    }
    Read {
        pieces,
        complete: read.len() == text.len(),
    }
}

fn note_pieces(note: &str) -> Vec<Piece> {
    let opened = [Piece::open("p"), Piece::open("em")].into_iter().flatten();
    let text = std::iter::once(Piece::Text(note.to_owned()));
    let closed = [Piece::close("em"), Piece::close("p")].into_iter().flatten();
    opened.chain(text).chain(closed).collect()
}

/// For people.
fn bytes(count: usize) -> String {
    match count {
        0..10_000 => format!("{count} bytes"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}
