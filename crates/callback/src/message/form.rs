//! `application/x-www-form-urlencoded` (WHATWG URL, section 5) as a stream.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::{memchr, memchr2};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::{Scan, splice::Splice};
use crate::replace::{Asking, Place, Refusal, Why};

/// What stands in a form or a query only as `%` and two digits.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Longest name of a field that is compared, as it is written.
const MAX_NAME: usize = 3 * 1024;

/// Looks through one form.
#[derive(Debug)]
pub(super) struct Scanner {
    fields: Vec<String>,
    window: usize,
    splice: Splice,
    /// The name that is being read; `None`: in a value.
    name: Option<Vec<u8>>,
    /// The field whose value is being held.
    field: Option<String>,
    stopped: bool,
}

impl Scanner {
    pub(super) fn new(fields: Vec<String>, window: usize) -> Self {
        Self {
            fields,
            window,
            splice: Splice::default(),
            name: Some(Vec::new()),
            field: None,
            stopped: false,
        }
    }

    fn read(&mut self, chunk: &[u8], asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let mut at = 0;
        while at < chunk.len() {
            let rest = &chunk[at..];
            let Some(name) = &mut self.name else {
                let Some(i) = memchr(b'&', rest) else {
                    return Ok(());
                };
                self.complete(at + i, asking, out)?;
                self.name = Some(Vec::new());
                at += i + 1;
                continue;
            };
            let end = memchr2(b'=', b'&', rest).unwrap_or(rest.len());
            let room = (MAX_NAME + 1).saturating_sub(name.len());
            name.extend_from_slice(&rest[..end.min(room)]);
            at += end + 1;
            match rest.get(end) {
                Some(b'=') => {
                    let name = decode(name).filter(|_| name.len() <= MAX_NAME);
                    self.field = name.and_then(|name| self.fields.iter().find(|f| **f == name).cloned());
                    self.name = None;
                    if self.field.is_some() {
                        self.splice.capture(at);
                    }
                }
                Some(_) => name.clear(),
                None => {}
            }
        }
        Ok(())
    }

    /// A value ends before this place in the piece.
    fn complete(&mut self, end: usize, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let Some(field) = self.field.take() else {
            return Ok(());
        };
        let new = value(Place::Form(field), &self.splice.value(end), asking)?;
        self.splice.finish(end, new, out);
        Ok(())
    }
}

impl Scan for Scanner {
    fn push(&mut self, chunk: Bytes, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        self.splice.begin(chunk.clone());
        self.read(&chunk, asking, out)?;
        self.splice.suspend(self.window, "a field of the form", out)
    }

    fn end(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if self.splice.captures() {
            self.splice.begin(Bytes::new());
            self.complete(0, asking, out)?;
        }
        Ok(())
    }

    fn abandon(&mut self, out: &mut Vec<Bytes>) {
        self.splice.abandon(out);
        self.stopped = true;
    }

    fn done(&self) -> bool {
        self.stopped
    }

    fn delta(&self) -> i64 {
        self.splice.delta()
    }
}

/// Replaces addresses in the query parameters of these names. `None`: nothing changes.
pub(crate) fn query(
    names: &[String],
    query: &str,
    asking: &mut Asking<'_>,
) -> Result<Option<String>, Refusal> {
    let mut changed = false;
    let mut new = Vec::new();
    for pair in query.split('&') {
        let wanted = pair
            .split_once('=')
            .and_then(|(name, value)| Some((name, decode(name.as_bytes())?, value)))
            .filter(|(_, name, _)| names.iter().any(|n| n == name));
        let with = match wanted {
            Some((raw, name, text)) => value(Place::Query(name.into_owned()), text.as_bytes(), asking)?
                .map(|with| format!("{raw}={with}")),
            None => None,
        };
        changed |= with.is_some();
        new.push(with.map_or(Cow::Borrowed(pair), Cow::Owned));
    }
    Ok(changed.then(|| new.join("&")))
}

/// What shall stand in place of a value, encoded; `None`: it stays.
fn value(place: Place, raw: &[u8], asking: &mut Asking<'_>) -> Result<Option<String>, Refusal> {
    let Some(text) = decode(raw) else {
        asking.left(place, Why::NotText);
        return Ok(None);
    };
    let new = asking.ask(place, &text)?;
    Ok(new.map(|to| utf8_percent_encode(&to, RESERVED).to_string()))
}

/// The text that a name or value stands for; `None`: it is none.
fn decode(raw: &[u8]) -> Option<Cow<'_, str>> {
    let spaces: Vec<u8> = raw.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    let text = percent_decode(&spaces).decode_utf8().ok()?;
    Some(Cow::Owned(text.into_owned()))
}
