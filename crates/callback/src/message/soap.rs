//! SOAP 1.1 and 1.2 with WS-Addressing, WS-Eventing and WS-ReliableMessaging.
//!
//! The message is held until it is decided: to the end of its header, since a signature may stand behind the addresses, and in
//! a body of WS-Eventing, WS-ReliableMessaging or WS-BaseNotification to the end of that. In any other body it is only looked for the word
//! `Address`; where it stands, the rest of the window is read for endpoint references. What lies behind the window is never read.

use bytes::Bytes;
use memchr::memmem;

use super::{
    Scan,
    held::Held,
    reader::{Reader, Reading},
};
use crate::replace::{Asking, Refusal};

/// An endpoint reference holds its address in an element of this name.
const WORD: &[u8] = b"Address";

/// Looks through one XML body.
#[derive(Debug)]
pub(super) struct Scanner {
    window: usize,
    held: Held,
    reader: Reader,
    /// In a body that names no address so far: how far it has been looked through.
    searched: Option<usize>,
    done: bool,
    delta: i64,
}

impl Scanner {
    pub(super) fn new(window: usize) -> Self {
        Self {
            window,
            held: Held::default(),
            reader: Reader::default(),
            searched: None,
            done: false,
            delta: 0,
        }
    }

    /// Goes on reading. Whether all is decided.
    fn read(&mut self, asking: &mut Asking<'_>) -> Result<bool, Refusal> {
        let bytes = self.held.bytes();
        loop {
            if let Some(from) = self.searched {
                if memmem::find(&bytes[from..], WORD).is_none() {
                    self.searched = Some(from.max(bytes.len().saturating_sub(WORD.len() - 1)));
                    return Ok(false);
                }
                self.searched = None;
            }
            match self.reader.read(bytes, asking)? {
                Reading::More => return Ok(false),
                Reading::Decided => return Ok(true),
                Reading::AnyBody { from } => self.searched = Some(from),
            }
        }
    }

    fn release(&mut self, out: &mut Vec<Bytes>) {
        let edits = self.reader.edits();
        self.delta = edits.iter().map(|edit| edit.delta()).sum();
        self.held.release(edits, out);
        self.done = true;
    }
}

impl Scan for Scanner {
    fn push(&mut self, chunk: Bytes, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if self.done {
            out.push(chunk);
            return Ok(());
        }
        self.held.push(chunk, self.window);
        let full = self.held.bytes().len() >= self.window;
        if self.read(asking)? || (full && self.reader.may_stop()) {
            self.release(out);
        } else if full {
            return Err(Refusal::TooLarge {
                what: self.reader.what(),
                window: self.window,
            });
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if !self.done {
            if self.reader.in_envelope() && !self.reader.may_stop() {
                return Err(Refusal::Malformed("it ends early"));
            }
            self.release(out);
        }
        Ok(())
    }

    fn abandon(&mut self, out: &mut Vec<Bytes>) {
        self.release(out);
    }

    fn done(&self) -> bool {
        self.done
    }

    fn delta(&self) -> i64 {
        self.delta
    }
}
