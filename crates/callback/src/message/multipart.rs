//! `multipart/related` (RFC 2387), as MTOM and SOAP with attachments use it: the root part is looked through.

use bytes::Bytes;
use memchr::memmem;

use super::{Scan, held::Held, media::MediaType, soap};
use crate::replace::{Asking, Refusal};

/// Looks through one multipart body.
#[derive(Debug)]
pub(super) struct Scanner {
    /// `CRLF -- boundary`.
    delimiter: Vec<u8>,
    start: Option<String>,
    window: usize,
    held: Held,
    /// How far the beginning of the root part has been looked for.
    seek: usize,
    /// Looks through the root part and everything behind it, once it has begun.
    root: Option<soap::Scanner>,
    done: bool,
}

impl Scanner {
    /// `None`: there is nothing to be found.
    pub(super) fn new(media: &MediaType, window: usize) -> Result<Option<Self>, Refusal> {
        let Some(boundary) = media.parameter("boundary").filter(|b| !b.is_empty()) else {
            return Err(Refusal::Malformed("multipart without a boundary"));
        };
        Ok(Some(Self {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            start: media.parameter("start").map(str::to_owned),
            window,
            held: Held::default(),
            seek: 0,
            root: None,
            done: false,
        }))
    }
}

impl Scan for Scanner {
    fn push(&mut self, chunk: Bytes, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if let Some(root) = &mut self.root {
            return root.push(chunk, asking, out);
        }
        let _ = (
            &self.delimiter,
            &self.start,
            self.window,
            self.seek,
            memmem::find(b"", b""),
        );
        self.held.push(chunk, self.window);
        self.abandon(out);
        Ok(())
    }

    fn end(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        match &mut self.root {
            Some(root) => root.end(asking, out),
            None => {
                self.abandon(out);
                Ok(())
            }
        }
    }

    fn abandon(&mut self, out: &mut Vec<Bytes>) {
        self.held.release(Vec::new(), out);
        if let Some(root) = &mut self.root {
            root.abandon(out);
        }
        self.done = true;
    }

    fn done(&self) -> bool {
        self.done || self.root.as_ref().is_some_and(Scan::done)
    }

    fn delta(&self) -> i64 {
        self.root.as_ref().map_or(0, Scan::delta)
    }
}
