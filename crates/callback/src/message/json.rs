//! JSON (RFC 8259) as a stream: only names and values that pointers lead to are looked at, and only these are held.
//!
//! A member that comes twice is replaced twice, so the body is settled at its end; before that only if no pointer can lead anywhere.

use bytes::Bytes;
use memchr::memchr2;

use super::{Scan, splice::Splice};
use crate::{
    replace::{Asking, Place, Refusal, Why},
    rules::{JsonPointer, MAX_POINTER, Segment},
};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 1024;
/// Longest name that is compared, as it is written: each byte may stand as `\u0061`.
const MAX_KEY: usize = 6 * MAX_POINTER + 2;

/// An object or array that some pointer leads into.
#[derive(Debug)]
struct Level {
    object: bool,
    /// Which element of an array comes.
    index: usize,
    /// The pointers that lead into it, by number.
    live: Vec<usize>,
    /// Those of them that lead to, or through, the value that comes.
    child: Vec<usize>,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No string.
    Outside,
    /// A number, or `true`, `false`, `null`.
    Literal,
    /// A member's name.
    Key,
    /// A string that nobody asks for.
    Skipped,
    /// A string that a pointer leads to.
    Captured,
    /// The value has ended.
    Done,
}

/// Looks through one JSON body.
#[derive(Debug)]
pub(super) struct Scanner {
    pointers: Vec<(JsonPointer, Place)>,
    window: usize,
    splice: Splice,
    state: State,
    /// A backslash was the last byte of a string so far.
    escaped: bool,
    /// In an object, before the name of a member.
    key_next: bool,
    key: Vec<u8>,
    levels: Vec<Level>,
    /// Which of the containers that no pointer leads into are objects.
    deep: Vec<bool>,
    begun: bool,
}

impl Scanner {
    pub(super) fn new(named: Vec<JsonPointer>, sinks: Vec<JsonPointer>, window: usize) -> Self {
        let named = named.into_iter().map(|p| {
            let place = Place::Json(p.to_string());
            (p, place)
        });
        let sinks = sinks.into_iter().map(|p| (p, Place::Sink));
        Self {
            pointers: named.chain(sinks).collect(),
            window,
            splice: Splice::default(),
            state: State::Outside,
            escaped: false,
            key_next: false,
            key: Vec::new(),
            levels: Vec::new(),
            deep: Vec::new(),
            begun: false,
        }
    }

    fn read(&mut self, chunk: &[u8], asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let mut at = 0;
        while at < chunk.len() {
            match self.state {
                State::Done => return Ok(()),
                State::Outside | State::Literal => {
                    self.structure(chunk[at], at, asking)?;
                    at += 1;
                }
                State::Key | State::Skipped | State::Captured => at = self.string(chunk, at, asking, out)?,
            }
        }
        Ok(())
    }

    /// Goes on in a string. Where reading goes on.
    fn string(
        &mut self,
        chunk: &[u8],
        at: usize,
        asking: &mut Asking<'_>,
        out: &mut Vec<Bytes>,
    ) -> Result<usize, Refusal> {
        if self.escaped {
            self.escaped = false;
            self.name(&chunk[at..=at]);
            return Ok(at + 1);
        }
        let Some(i) = memchr2(b'"', b'\\', &chunk[at..]) else {
            self.name(&chunk[at..]);
            return Ok(chunk.len());
        };
        let end = at + i + 1;
        self.name(&chunk[at..end]);
        if chunk[end - 1] == b'\\' {
            self.escaped = true;
            return Ok(end);
        }
        match self.state {
            State::Key => self.choose(),
            State::Captured => self.complete(end, asking, out)?,
            _ => {}
        }
        self.state = State::Outside;
        self.settle();
        Ok(end)
    }

    /// Takes note of bytes of a name.
    fn name(&mut self, bytes: &[u8]) {
        if self.state == State::Key && self.key.len() <= MAX_KEY {
            let room = MAX_KEY + 1 - self.key.len();
            self.key.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// A captured string ends.
    fn complete(&mut self, end: usize, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        let place = self.target();
        let text = serde_json::from_slice::<String>(&self.splice.value(end)).ok();
        let new = match (place, text) {
            (Some(place), Some(text)) => {
                let name = place.to_string();
                match asking.ask(place, &text)? {
                    Some(to) => Some(serde_json::to_string(&to).map_err(|_| Refusal::Unfit(name))?),
                    None => None,
                }
            }
            (Some(place), None) => {
                asking.left(place, Why::NotText);
                None
            }
            _ => None,
        };
        self.splice.finish(end, new, out);
        Ok(())
    }

    /// A byte outside of strings.
    fn structure(&mut self, byte: u8, at: usize, asking: &mut Asking<'_>) -> Result<(), Refusal> {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => self.state = State::Outside,
            b'"' => self.begin_string(at),
            b'{' | b'[' => {
                self.not_text(asking);
                self.enter(byte == b'{')?;
                self.state = State::Outside;
                self.settle();
            }
            b'}' | b']' => {
                let object = match self.deep.pop() {
                    Some(object) => Some(object),
                    None => self.levels.pop().map(|level| level.object),
                };
                if object != Some(byte == b'}') {
                    return Err(Refusal::Malformed("brackets that do not fit each other in JSON"));
                }
                self.state = State::Outside;
                self.key_next = false;
                self.settle();
            }
            b':' | b',' => {
                self.state = State::Outside;
                if self.deep.is_empty() {
                    self.separate(byte);
                }
            }
            _ if self.state == State::Outside => {
                self.state = State::Literal;
                self.not_text(asking);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin_string(&mut self, at: usize) {
        self.state = State::Skipped;
        if !self.deep.is_empty() {
            return;
        }
        if self.key_next {
            self.state = State::Key;
            self.key.clear();
            self.key.push(b'"');
        } else if self.target().is_some() {
            self.state = State::Captured;
            self.splice.capture(at);
        }
    }

    /// `:` or `,` in a container that some pointer leads into.
    fn separate(&mut self, byte: u8) {
        self.key_next = false;
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut().filter(|_| byte == b',') else {
            return;
        };
        level.child.clear();
        if level.object {
            self.key_next = true;
        } else {
            level.index += 1;
            level.child = elements(&self.pointers, &level.live, depth, level.index);
        }
    }

    /// An object or array begins.
    fn enter(&mut self, object: bool) -> Result<(), Refusal> {
        if self.levels.len() + self.deep.len() >= MAX_DEPTH {
            return Err(Refusal::Depth { limit: MAX_DEPTH });
        }
        let depth = self.levels.len();
        let live: Vec<usize> = match self.levels.last() {
            _ if !self.deep.is_empty() => Vec::new(),
            Some(level) => level.child.clone(),
            None => (0..self.pointers.len()).collect(),
        };
        let through = |n: &usize| match self.pointers[*n].0.segments().get(depth) {
            Some(Segment::Any) => true,
            Some(Segment::Name(name)) => object || name.bytes().all(|b| b.is_ascii_digit()),
            None => false,
        };
        let live: Vec<usize> = live.into_iter().filter(through).collect();
        if live.is_empty() {
            self.deep.push(object);
            return Ok(());
        }
        let child = match object {
            true => Vec::new(),
            false => elements(&self.pointers, &live, depth + 1, 0),
        };
        self.key_next = object;
        self.levels.push(Level {
            object,
            index: 0,
            live,
            child,
        });
        Ok(())
    }

    /// The name of a member is whole: which pointers lead to its value?
    fn choose(&mut self) {
        self.key_next = false;
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        let name = match self.key.len() <= MAX_KEY {
            true => serde_json::from_slice::<String>(&self.key).ok(),
            false => None,
        };
        let fits = |n: &&usize| match &self.pointers[**n].0.segments()[depth - 1] {
            Segment::Any => true,
            Segment::Name(wanted) => name.as_deref() == Some(wanted),
        };
        level.child = level.live.iter().filter(fits).copied().collect();
    }

    /// What the value that comes, or has just come, is by the rules.
    fn target(&self) -> Option<Place> {
        let depth = self.levels.len();
        let whole = |n: &usize| self.pointers[*n].0.segments().len() == depth;
        let found = match self.levels.last() {
            Some(level) => level.child.iter().copied().find(whole),
            None => (0..self.pointers.len()).find(whole),
        };
        found.map(|n| self.pointers[n].1.clone())
    }

    /// Something that is no string begins.
    fn not_text(&mut self, asking: &mut Asking<'_>) {
        if self.deep.is_empty()
            && let Some(place) = self.target()
        {
            asking.left(place, Why::NotText);
        }
    }

    /// Whether no pointer can lead anywhere any more.
    fn settle(&mut self) {
        if self.levels.is_empty() {
            self.state = State::Done;
        }
    }
}

/// Those pointers that lead to or through this element of an array; the array is at `depth`, counted from 1.
fn elements(pointers: &[(JsonPointer, Place)], live: &[usize], depth: usize, index: usize) -> Vec<usize> {
    let fits = |n: &&usize| match &pointers[**n].0.segments()[depth - 1] {
        Segment::Any => true,
        // Without leading zeros (RFC 6901, section 4).
        Segment::Name(name) => **name == *index.to_string(),
    };
    live.iter().filter(fits).copied().collect()
}

impl Scan for Scanner {
    fn push(&mut self, chunk: Bytes, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        self.splice.begin(chunk.clone());
        if !self.begun && !chunk.is_empty() {
            self.begun = true;
            if matches!(chunk[0], 0 | 0xfe | 0xff) {
                return Err(Refusal::Charset("UTF-16 or UTF-32".into()));
            }
        }
        self.read(&chunk, asking, out)?;
        self.splice.suspend(self.window, "a text in the JSON body", out)
    }

    fn end(&mut self, _: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        self.splice.abandon(out);
        Ok(())
    }

    fn abandon(&mut self, out: &mut Vec<Bytes>) {
        self.splice.abandon(out);
        self.state = State::Done;
    }

    fn done(&self) -> bool {
        self.state == State::Done
    }

    fn delta(&self) -> i64 {
        self.splice.delta()
    }
}
