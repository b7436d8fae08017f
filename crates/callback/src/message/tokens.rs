//! Where tags, comments and texts of XML (1.0, fifth edition) begin and end in bytes that grow.
//!
//! quick-xml reads what stands in a tag. It wants whole input, or blocks; so the cutting is done here, where it can stop at any byte
//! and go on later without reading anything twice. Every ASCII-based encoding is cut alike.

use std::ops::Range;

use memchr::{memchr, memchr2, memchr3, memmem};

/// What a stretch of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Start,
    /// `<a/>`.
    Empty,
    End,
    CData,
    Comment,
    /// A processing instruction or the XML declaration.
    Instruction,
    /// A document type declaration up to its name's end or its internal subset. Nothing may be read after it.
    Doctype,
}

/// A stretch of bytes, its marks included.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
}

impl Token {
    /// The bytes between the marks.
    pub(super) fn inner(&self) -> Range<usize> {
        let Range { start, end } = self.range;
        match self.kind {
            Kind::Text => start..end,
            Kind::Start => start + 1..end - 1,
            Kind::Empty => start + 1..end - 2,
            Kind::End => start + 2..end - 1,
            Kind::CData => start + 9..end - 3,
            Kind::Comment => start + 4..end - 3,
            Kind::Instruction => start + 2..end - 2,
            Kind::Doctype => start + 9..end,
        }
    }
}

/// Cuts bytes into tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Where the next token begins.
    at: usize,
    /// How far its end has been looked for.
    seek: usize,
    /// The quotation mark that is open within a tag.
    quote: Option<u8>,
}

impl Tokens {
    /// The next token of `buf`, which holds what it held before and perhaps more. `None`: there is no whole one yet.
    pub(super) fn next(&mut self, buf: &[u8]) -> Result<Option<Token>, &'static str> {
        let rest = &buf[self.at..];
        let found = match rest {
            [] => None,
            [b'<', b'/', ..] => self.until(buf, b">", 2).map(|end| (Kind::End, end)),
            [b'<', b'?', ..] => self.until(buf, b"?>", 2).map(|end| (Kind::Instruction, end)),
            [b'<', b'!', b'-', b'-', ..] => self.until(buf, b"-->", 4).map(|end| (Kind::Comment, end)),
            [b'<', b'!', ..] if rest.starts_with(b"<![CDATA[") => {
                self.until(buf, b"]]>", 9).map(|end| (Kind::CData, end))
            }
            [b'<', b'!', ..] if rest.starts_with(b"<!DOCTYPE") => {
                let from = self.seek.max(self.at + 9);
                self.seek = buf.len();
                memchr2(b'[', b'>', &buf[from..]).map(|end| (Kind::Doctype, from + end + 1))
            }
            [b'<', b'!', ..] => {
                let begins = |mark: &[u8]| rest.len() < mark.len() && mark.starts_with(rest);
                if !begins(b"<!--") && !begins(b"<![CDATA[") && !begins(b"<!DOCTYPE") {
                    return Err("something else than a comment, CDATA or DOCTYPE begins with '<!'");
                }
                None
            }
            [b'<'] => None,
            [b'<', ..] => self.tag(buf)?,
            _ => {
                let from = self.seek.max(self.at);
                self.seek = buf.len();
                memchr(b'<', &buf[from..]).map(|end| (Kind::Text, from + end))
            }
        };
        Ok(found.map(|(kind, end)| {
            let range = self.at..end;
            self.at = end;
            self.seek = end;
            self.quote = None;
            Token { kind, range }
        }))
    }

    /// Behind the mark that ends a token, which has `head` bytes at least before it.
    fn until(&mut self, buf: &[u8], mark: &[u8], head: usize) -> Option<usize> {
        let from = self.seek.max(self.at + head);
        let found = buf.get(from..).and_then(|rest| memmem::find(rest, mark));
        // The beginning of the mark may be there already.
        self.seek = from.max(buf.len().saturating_sub(mark.len() - 1));
        found.map(|i| from + i + mark.len())
    }

    /// A start tag: it ends at the first `>` outside of quotation marks.
    fn tag(&mut self, buf: &[u8]) -> Result<Option<(Kind, usize)>, &'static str> {
        let mut from = self.seek.max(self.at + 1);
        loop {
            let rest = &buf[from..];
            let found = match self.quote {
                Some(quote) => memchr(quote, rest),
                None => memchr3(b'>', b'"', b'\'', rest),
            };
            let Some(i) = found else {
                self.seek = buf.len();
                return Ok(None);
            };
            let end = from + i + 1;
            match (self.quote, buf[from + i]) {
                (Some(_), _) => self.quote = None,
                (None, b'>') => {
                    let tag = &buf[self.at + 1..end - 1];
                    if memchr(b'<', tag).is_some() {
                        return Err("a '<' within a tag");
                    }
                    let kind = if tag.ends_with(b"/") {
                        Kind::Empty
                    } else {
                        Kind::Start
                    };
                    return Ok(Some((kind, end)));
                }
                (None, quote) => self.quote = Some(quote),
            }
            from = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &[u8], step: usize) -> Vec<(Kind, Vec<u8>)> {
        let (mut tokens, mut all) = (Tokens::default(), Vec::new());
        for end in (0..=text.len()).step_by(step).chain([text.len()]) {
            while let Ok(Some(token)) = tokens.next(&text[..end]) {
                all.push((token.kind, text[token.range.clone()].to_vec()));
                let _ = &text[token.inner()];
                if token.kind == Kind::Doctype {
                    return all;
                }
            }
        }
        all
    }

    #[test]
    fn kinds() {
        let text =
            br#"<?xml version="1.0"?><a b=">" c='/>'> x <!-- > --><b/><![CDATA[<x>]]></a ><!DOCTYPE a ["#;
        let kinds: Vec<_> = cut(text, text.len()).into_iter().map(|(kind, _)| kind).collect();
        use Kind::*;
        assert_eq!(
            kinds,
            [Instruction, Start, Text, Comment, Empty, CData, End, Doctype]
        );
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "([<>/?!\\-\\[\\]\"' a]|<!--|-->|<!\\[CDATA\\[|\\]\\]>|<!DOCTYPE|<a |</a>|/>){0,40}", step in 1usize..7) {
            let text = text.as_bytes();
            prop_assert_eq!(cut(text, step), cut(text, text.len().max(1)));
        }
    }
}
