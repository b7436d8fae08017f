//! Finding and replacing addresses in the body of a message while it streams by.
//!
//! Whoever has a message asks [`Editor::plan`] first. Most messages are [`Plan::Untouched`] by their Content-Type and cost nothing. For
//! the rest, [`Editor::push`] takes the body piece by piece and gives out what may go on; as soon as [`Editor::settled`] says so,
//! nothing that follows can change, and the rest may go on without the editor. Bytes outside of replaced values stay as they are.
//! Under a content coding that is true of the decoded content; where nothing is replaced within the window, the coded bytes
//! pass as they are, too.
//!
//! Not for a part of a body (206, `Content-Range`). A changed body makes [`crate::DIGESTS`] wrong.

mod codec;
mod coding;
pub(crate) mod form;
mod held;
mod json;
mod media;
mod multipart;
mod names;
mod reader;
mod soap;
mod splice;
mod tokens;
mod whole;

#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::{
    replace::{Asking, Refusal, Replace, Report},
    rules::{JsonPointer, Overflow, Rules},
};
use coding::{Coded, Coding};
use media::MediaType;
pub use whole::decoded;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to server.
    Request,
    /// From server to client.
    Response,
}

/// What has to be done about a body.
#[derive(Debug)]
pub enum Plan {
    /// Nothing: it cannot hold an address that the rules name.
    Untouched,
    /// It goes through this editor.
    Edit(Editor),
    /// The message is refused.
    Refuse(Refusal),
}

/// What goes on after a piece of a body came.
#[derive(Debug, Default)]
pub struct Step {
    /// The bytes, in order. Often slices of what was pushed, rather than copies.
    pub out: Vec<Bytes>,
}

/// Looks for addresses in one body.
#[derive(Debug)]
pub struct Editor {
    way: Way,
    overflow: Overflow,
    report: Report,
}

/// How the body comes.
#[derive(Debug)]
enum Way {
    Plain(Box<dyn Scan>),
    Coded(Box<Coded>),
    /// Nothing can change any more; the length differs by this.
    Settled(i64),
}

impl Editor {
    /// What has to be done about a body with these headers; `length` in bytes, where it is known.
    pub fn plan(
        rules: &Rules,
        direction: Direction,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
        length: Option<u64>,
    ) -> Plan {
        let Some(media) = content_type.and_then(MediaType::parse) else {
            return Plan::Untouched;
        };
        if length == Some(0) {
            return Plan::Untouched;
        }
        let scan = match scan(rules, direction, &media) {
            Ok(Some(scan)) => scan,
            Ok(None) => return Plan::Untouched,
            Err(refusal) => return Self::unread(rules, refusal),
        };
        let way = match Coding::parse(content_encoding) {
            Ok(None) => Way::Plain(scan),
            Ok(Some(coding)) => match Coded::new(coding, scan, rules) {
                Ok(coded) => Way::Coded(Box::new(coded)),
                Err(refusal) => return Self::unread(rules, refusal),
            },
            Err(refusal) => return Self::unread(rules, refusal),
        };
        Plan::Edit(Self {
            way,
            overflow: rules.overflow,
            report: Report::default(),
        })
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// The message is refused; what was given out so far must not be completed.
    pub fn push(&mut self, chunk: Bytes, replace: &mut dyn Replace) -> Result<Step, Refusal> {
        self.step(Some(chunk), replace)
    }

    /// Takes the end of the body.
    ///
    /// # Errors
    /// The message is refused; what was given out so far must not be completed.
    pub fn end(&mut self, replace: &mut dyn Replace) -> Result<Step, Refusal> {
        self.step(None, replace)
    }

    /// By how many bytes the body will be longer, as soon as nothing that follows can change any more. The rest of the body need not
    /// pass through the editor then.
    pub fn settled(&self) -> Option<i64> {
        match self.way {
            Way::Settled(delta) => Some(delta),
            _ => None,
        }
    }

    /// What was found so far, and what became of it.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What was found, when the message is done.
    pub fn into_report(self) -> Report {
        self.report
    }

    /// A message that cannot be looked into.
    fn unread(rules: &Rules, refusal: Refusal) -> Plan {
        if rules.overflow == Overflow::Refuse {
            return Plan::Refuse(refusal);
        }
        let mut report = Report::default();
        Asking {
            replace: &mut |_: &_, _: &_| crate::Verdict::Keep,
            report: &mut report,
        }
        .passed(refusal);
        Plan::Edit(Self {
            way: Way::Settled(0),
            overflow: rules.overflow,
            report,
        })
    }

    fn step(&mut self, chunk: Option<Bytes>, replace: &mut dyn Replace) -> Result<Step, Refusal> {
        let mut out = Vec::new();
        let ends = chunk.is_none();
        let asking = &mut Asking {
            replace,
            report: &mut self.report,
        };
        let done = match &mut self.way {
            Way::Settled(_) => {
                out.extend(chunk.filter(|c| !c.is_empty()));
                return Ok(Step { out });
            }
            Way::Plain(scan) => match chunk {
                Some(chunk) => scan.push(chunk, asking, &mut out),
                None => scan.end(asking, &mut out),
            },
            Way::Coded(coded) => match chunk {
                Some(chunk) => coded.push(chunk, asking, &mut out),
                None => coded.end(asking, &mut out),
            },
        };
        if let Err(refusal) = done {
            if self.overflow == Overflow::Refuse || !refusal.is_unread() {
                return Err(refusal);
            }
            match &mut self.way {
                Way::Plain(scan) => scan.abandon(&mut out),
                Way::Coded(_) | Way::Settled(_) => return Err(refusal),
            }
            asking.passed(refusal);
        }
        let settled = match &self.way {
            Way::Plain(scan) => (ends || scan.done()).then(|| scan.delta()),
            Way::Coded(coded) => coded.settled(),
            Way::Settled(delta) => Some(*delta),
        };
        if let Some(delta) = settled {
            self.way = Way::Settled(delta);
        }
        out.retain(|bytes| !bytes.is_empty());
        Ok(Step { out })
    }
}

impl Refusal {
    /// Whether the message cannot be looked into, so that [`Overflow`] decides.
    fn is_unread(&self) -> bool {
        matches!(
            self,
            Self::TooLarge { .. }
                | Self::Depth { .. }
                | Self::Coding(_)
                | Self::Charset(_)
                | Self::Malformed(_)
        )
    }
}

/// Looks through the decoded bytes of one kind of body. All bytes that are pushed come out, in order, changed or not.
trait Scan: Send + Sync + std::fmt::Debug {
    /// Takes some bytes, and gives out those that can go on. After an error only [`Scan::abandon`] may be called.
    fn push(&mut self, chunk: Bytes, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal>;

    /// Takes the end, and gives out what is left.
    fn end(&mut self, asking: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal>;

    /// Gives out what is held; nothing else is changed any more.
    fn abandon(&mut self, out: &mut Vec<Bytes>);

    /// Whether nothing that follows can change, and nothing is held.
    fn done(&self) -> bool;

    /// By how many bytes what came out is longer than what went in, apart from what is held.
    fn delta(&self) -> i64;
}

/// What looks through a body of this type; `None`: nothing needs to.
fn scan(rules: &Rules, direction: Direction, media: &MediaType) -> Result<Option<Box<dyn Scan>>, Refusal> {
    let xml = rules.soap && media.is_xml();
    if xml || media.is_json() || media.is_form() {
        media.check_charset()?;
    }
    if xml {
        return Ok(Some(Box::new(soap::Scanner::new(rules.window))));
    }
    if rules.soap && media.is_related_xml() {
        return Ok(Some(Box::new(multipart::Scanner::new(media, rules.window)?)));
    }
    if media.is_json() && (rules.cloudevents || !rules.json.is_empty()) {
        let sinks = ["/sink", "/*/sink"].iter().filter(|_| rules.cloudevents);
        let sinks = sinks.filter_map(|p| p.parse::<JsonPointer>().ok());
        return Ok(Some(Box::new(json::Scanner::new(
            rules.json.clone(),
            sinks.collect(),
            rules.window,
        ))));
    }
    if media.is_form() && direction == Direction::Request && !rules.form.is_empty() {
        return Ok(Some(Box::new(form::Scanner::new(
            rules.form.clone(),
            rules.window,
        ))));
    }
    Ok(None)
}
