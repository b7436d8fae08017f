//! Content codings (RFC 9110 section 8.4): gzip, br (RFC 7932), zstd (RFC 8878, with windows as RFC 9659 bounds them).
//!
//! The coded bytes are held beside what was decoded of them. If nothing was replaced when the scan is done, they go on as they came. If
//! something was, or the window is full, everything is coded anew from the beginning.

use bytes::{Bytes, BytesMut};

use super::{
    Scan,
    codec::{Decoder, Encoder},
};
use crate::{
    replace::{Asking, Refusal},
    rules::{Overflow, Rules},
};

/// Decoded bytes that are looked through at a time.
const PIECE: usize = 16 * 1024;

/// A content coding that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// What a Content-Encoding says. `None`: not coded.
    pub(super) fn parse(text: Option<&str>) -> Result<Option<Self>, Refusal> {
        let text = text.unwrap_or_default().trim();
        match text.to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "br" => Ok(Some(Self::Brotli)),
            "zstd" => Ok(Some(Self::Zstd)),
            _ => Err(Refusal::Coding(text.chars().take(40).collect())),
        }
    }
}

/// What goes out.
#[derive(Debug)]
enum State {
    /// Not known yet: the bytes as they came, and as they were decoded and looked through.
    Undecided { raw: BytesMut, plain: BytesMut },
    /// Coded anew.
    Recoded(Encoder),
    /// As it came.
    Raw,
    /// Nothing any more.
    Ended,
}

/// Looks through a coded body.
#[derive(Debug)]
pub(super) struct Coded {
    coding: Coding,
    decoder: Decoder,
    scan: Box<dyn Scan>,
    /// The scan has ended, or gave up.
    scanned: bool,
    state: State,
    window: usize,
    overflow: Overflow,
    /// Length of what went out, less that of what came.
    delta: i64,
}

impl Coded {
    pub(super) fn new(coding: Coding, scan: Box<dyn Scan>, rules: &Rules) -> Result<Self, Refusal> {
        Ok(Self {
            coding,
            decoder: Decoder::new(coding)?,
            scan,
            scanned: false,
            state: State::Undecided {
                raw: BytesMut::new(),
                plain: BytesMut::new(),
            },
            window: rules.window,
            overflow: rules.overflow,
            delta: 0,
        })
    }

    /// Takes a piece of the coded body.
    pub(super) fn push(
        &mut self,
        chunk: Bytes,
        asking: &mut Asking<'_>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Refusal> {
        match &mut self.state {
            State::Raw => {
                out.push(chunk);
                return Ok(());
            }
            State::Undecided { raw, .. } => raw.extend_from_slice(&chunk),
            State::Recoded(_) | State::Ended => {}
        }
        self.delta -= signed(chunk.len());
        self.decoder.push(chunk);
        self.pump(asking, out)?;
        if matches!(&self.state, State::Undecided { raw, .. } if raw.len() > self.window) {
            self.recode()?;
        }
        self.flush(out)
    }

    /// Takes the end.
    pub(super) fn end(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let empty = matches!(&self.state, State::Undecided { raw, .. } if raw.is_empty());
        if !empty && !matches!(self.state, State::Raw) {
            self.decoder.finish();
            self.pump(asking, out)?;
            if !matches!(self.state, State::Raw) && !self.decoder.is_whole() {
                self.broken(asking, out)?;
            }
        }
        if !self.scanned {
            let mut plain = Vec::new();
            let done = self.scan.end(asking, &mut plain);
            self.scanned = true;
            self.after(done, plain, asking)?;
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Undecided { raw, .. } => self.emit(raw.freeze(), out),
            State::Recoded(encoder) => self.emit(encoder.finish()?, out),
            State::Raw | State::Ended => {}
        }
        Ok(())
    }

    /// The difference in length, once it is known.
    pub(super) fn settled(&self) -> Option<i64> {
        match self.state {
            State::Raw => Some(0),
            State::Ended => Some(self.delta),
            _ => None,
        }
    }

    /// Decodes what there is and looks through it.
    fn pump(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let mut buffer = BytesMut::new();
        while !matches!(self.state, State::Raw) {
            buffer.resize(PIECE, 0);
            let length = match self.decoder.pull(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(_) => return self.broken(asking, out),
            };
            let piece = buffer.split_to(length).freeze();
            let (mut plain, mut done) = (Vec::new(), Ok(()));
            if self.scanned {
                plain.push(piece);
            } else {
                done = self.scan.push(piece, asking, &mut plain);
                self.scanned = self.scan.done();
            }
            self.after(done, plain, asking)?;
            if self.scanned && !asking.report.changed() {
                self.pass(out);
            }
        }
        Ok(())
    }

    /// What to do with what came out of the scan.
    fn after(
        &mut self,
        done: Result<(), Refusal>,
        mut plain: Vec<Bytes>,
        asking: &mut Asking<'_>,
    ) -> Result<(), Refusal> {
        if let Err(refusal) = done {
            if self.overflow == Overflow::Refuse || !refusal.is_unread() {
                return Err(refusal);
            }
            self.scan.abandon(&mut plain);
            self.scanned = true;
            asking.passed(refusal);
        }
        for bytes in plain {
            match &mut self.state {
                State::Undecided { plain, .. } => plain.extend_from_slice(&bytes),
                State::Recoded(encoder) => encoder.write(&bytes)?,
                State::Raw | State::Ended => {}
            }
        }
        let full = matches!(&self.state, State::Undecided { plain, .. } if plain.len() > self.window);
        if asking.report.changed() || (full && !self.scanned) {
            self.recode()?;
        }
        Ok(())
    }

    /// From here on everything is coded anew.
    fn recode(&mut self) -> Result<(), Refusal> {
        if let State::Undecided { plain, .. } = &self.state {
            let mut encoder = Encoder::new(self.coding)?;
            encoder.write(plain)?;
            self.state = State::Recoded(encoder);
        }
        Ok(())
    }

    /// The coded bytes are not what they should be.
    fn broken(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let refusal = Refusal::Malformed("the body is not coded as its Content-Encoding says, or ends early");
        if self.overflow == Overflow::Refuse || matches!(self.state, State::Recoded(_)) {
            return Err(refusal);
        }
        asking.passed(refusal);
        self.scanned = true;
        self.pass(out);
        Ok(())
    }

    /// Nothing is changed: the coded bytes go on as they came.
    fn pass(&mut self, out: &mut Vec<Bytes>) {
        if let State::Undecided { raw, .. } = &mut self.state {
            out.push(std::mem::take(raw).freeze());
            self.state = State::Raw;
            self.delta = 0;
        }
    }

    fn flush(&mut self, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if let State::Recoded(encoder) = &mut self.state {
            let bytes = encoder.flush()?;
            self.emit(bytes, out);
        }
        Ok(())
    }

    fn emit(&mut self, bytes: Bytes, out: &mut Vec<Bytes>) {
        self.delta += signed(bytes.len());
        out.push(bytes);
    }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
