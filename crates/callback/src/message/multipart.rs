//! `multipart/related` (RFC 2387), as MTOM and SOAP with attachments use it: the root part is looked through.

use bytes::Bytes;
use memchr::memmem;

use super::{Scan, held::Held, media::MediaType, soap};
use crate::replace::{Asking, Refusal};

/// Longest head of a part in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Where the root part is.
enum Root {
    /// More bytes are needed.
    More,
    /// Its content begins here.
    At(usize),
    /// There is none that could be read.
    None,
}

/// Looks through one multipart body.
#[derive(Debug)]
pub(super) struct Scanner {
    /// `CRLF -- boundary`.
    delimiter: Vec<u8>,
    /// Content-ID of the root part; `None`: it is the first one.
    start: Option<String>,
    window: usize,
    held: Held,
    /// How far a delimiter has been looked for.
    seek: usize,
    /// Behind the delimiter of the part whose head is being read.
    part: Option<usize>,
    /// Looks through the root part, and through what follows it if that must be.
    root: soap::Scanner,
    found: bool,
    done: bool,
}

impl Scanner {
    pub(super) fn new(media: &MediaType, window: usize) -> Result<Self, Refusal> {
        let boundary = media
            .parameter("boundary")
            .filter(|b| (1..=70).contains(&b.len()));
        let boundary = boundary.ok_or(Refusal::Malformed("multipart without a boundary"))?;
        Ok(Self {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            start: media.parameter("start").map(|id| bare(id).to_owned()),
            window,
            held: Held::default(),
            seek: 0,
            part: None,
            root: soap::Scanner::new(window),
            found: false,
            done: false,
        })
    }

    /// Looks for the root part in what is held.
    fn look(&mut self) -> Result<Root, Refusal> {
        let bytes = self.held.bytes();
        loop {
            let Some(part) = self.part else {
                // The first delimiter may be the first line.
                let first = &self.delimiter[2..];
                if self.seek == 0 && bytes.starts_with(first) {
                    self.part = Some(first.len());
                    continue;
                }
                if self.seek == 0 && first.starts_with(bytes) {
                    return Ok(Root::More);
                }
                let found = memmem::find(&bytes[self.seek..], &self.delimiter);
                let Some(i) = found else {
                    self.seek = self
                        .seek
                        .max(bytes.len().saturating_sub(self.delimiter.len() - 1));
                    return Ok(Root::More);
                };
                self.part = Some(self.seek + i + self.delimiter.len());
                continue;
            };
            let rest = &bytes[part..];
            if rest.starts_with(b"--") {
                return Ok(Root::None);
            }
            let Some(end) = memmem::find(&rest[..rest.len().min(MAX_HEAD)], b"\r\n\r\n") else {
                return match rest.len() >= MAX_HEAD {
                    true => Err(Refusal::Malformed("the head of a part does not end")),
                    false => Ok(Root::More),
                };
            };
            let head = String::from_utf8_lossy(&rest[..end + 2]).into_owned();
            let content = part + end + 4;
            if self.is_root(&head) {
                return readable(&head).map(|ok| if ok { Root::At(content) } else { Root::None });
            }
            self.part = None;
            // The delimiter of an empty part begins with the end of its head.
            self.seek = content - 2;
        }
    }

    fn is_root(&self, head: &str) -> bool {
        match &self.start {
            Some(start) => field(head, "content-id").is_some_and(|id| bare(id) == start),
            None => true,
        }
    }
}

/// Whether a root part is XML; refuses what is XML in some encoding.
fn readable(head: &str) -> Result<bool, Refusal> {
    let Some(media) = field(head, "content-type").and_then(MediaType::parse) else {
        return Ok(false);
    };
    if !media.is_xml() {
        return Ok(false);
    }
    media.check_charset()?;
    let encoding = field(head, "content-transfer-encoding").unwrap_or("binary");
    if ["7bit", "8bit", "binary"]
        .iter()
        .any(|e| encoding.eq_ignore_ascii_case(e))
    {
        return Ok(true);
    }
    Err(Refusal::Coding(encoding.chars().take(40).collect()))
}

/// The value of a field in the head of a part.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// A Content-ID without its angle brackets.
fn bare(id: &str) -> &str {
    id.trim().trim_start_matches('<').trim_end_matches('>')
}

impl Scan for Scanner {
    fn push(&mut self, chunk: Bytes, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if self.found {
            return self.root.push(chunk, asking, out);
        }
        self.held.push(chunk, self.window);
        match self.look()? {
            Root::At(content) => {
                let mut bytes = self.held.take();
                self.found = true;
                out.push(bytes.split_to(content));
                self.root.push(bytes, asking, out)
            }
            Root::None => {
                self.abandon(out);
                Ok(())
            }
            Root::More if self.held.bytes().len() >= self.window => Err(Refusal::TooLarge {
                what: "what comes before the root part",
                window: self.window,
            }),
            Root::More => Ok(()),
        }
    }

    fn end(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if self.found {
            return self.root.end(asking, out);
        }
        self.abandon(out);
        Ok(())
    }

    fn abandon(&mut self, out: &mut Vec<Bytes>) {
        self.held.release(Vec::new(), out);
        self.root.abandon(out);
        self.done = true;
    }

    fn done(&self) -> bool {
        self.done || self.root.done()
    }

    fn delta(&self) -> i64 {
        self.root.delta()
    }
}
