//! Reads an envelope tag by tag, and says what to change in it.

use std::ops::Range;

use bytes::Bytes;
use quick_xml::{
    escape::{EscapeError, escape, unescape},
    events::BytesStart,
    name::{NamespaceResolver, QName, ResolveResult},
};

use super::{
    held::Edit,
    media::is_ascii_based,
    names::Family,
    tokens::{Kind, Token, Tokens},
};
use crate::replace::{
    Asking, Place, Refusal, Soap, SoapVersion, Subscription, SubscriptionStep, Why, shorten, untouchable,
};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 64;
/// Most `RelatesTo` that are reported.
const MAX_RELATES: usize = 16;
/// Most reference parameters that are reported.
const MAX_REFERENCES: usize = 16;
/// First bytes of what is no ASCII-based XML (XML 1.0, appendix F).
const FOREIGN: [(&[u8], &str); 6] = [
    (b"\xfe\xff", "UTF-16"),
    (b"\xff\xfe", "UTF-16"),
    (b"\0\0", "UTF-32"),
    (b"\0<", "UTF-16"),
    (b"<\0", "UTF-16"),
    (b"\x4c\x6f\xa7\x94", "EBCDIC"),
];

/// How far reading came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// More bytes are needed.
    More,
    /// Nothing that follows matters.
    Decided,
    /// The body is of no protocol that is known here, and begins at `from`: it matters if it names an address.
    AnyBody { from: usize },
}

/// What an element means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Envelope,
    Header,
    Body,
    /// WS-Security's header.
    Security,
    /// `wsa:Address`.
    Address,
    To,
    Action,
    MessageId,
    RelatesTo,
    /// A reference parameter, or a header that may be one.
    Reference,
    /// `wse:Expires`.
    Expires,
    Other,
}

impl What {
    /// Whether its text says something.
    fn has_text(self) -> bool {
        !matches!(
            self,
            Self::Envelope | Self::Header | Self::Body | Self::Security | Self::Other
        )
    }
}

/// An element that has begun.
#[derive(Debug)]
struct Open {
    what: What,
    family: Family,
    /// Where its name stands, and where in it the local name begins.
    name: Range<usize>,
    local: usize,
}

/// The text of an element that is being read.
#[derive(Debug)]
struct Text {
    /// Where its content begins.
    from: usize,
    value: String,
}

/// An address whose fate is not known before the header's end.
#[derive(Debug)]
struct Found {
    place: Place,
    range: Range<usize>,
    value: String,
}

/// Where in the envelope the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    /// Before the end of the header.
    #[default]
    Header,
    /// At the first element of the body.
    First,
    /// In a body that is read to its end.
    Known,
    /// In any other body.
    Any,
}

/// Reads one envelope.
#[derive(Debug, Default)]
pub(super) struct Reader {
    tokens: Tokens,
    names: NamespaceResolver,
    open: Vec<Open>,
    part: Part,
    text: Option<Text>,
    found: Vec<Found>,
    edits: Vec<Edit>,
    /// Reference parameters that were read.
    references: Vec<String>,
    begun: bool,
}

impl Reader {
    /// Reads on in `buf`, which holds what it held before and perhaps more.
    pub(super) fn read(&mut self, buf: &[u8], asking: &mut Asking<'_>) -> Result<Reading, Refusal> {
        if !self.begun && !self.begin(buf)? {
            return Ok(Reading::More);
        }
        self.tokens(buf, asking)
    }

    /// What has to be changed so far, in order.
    pub(super) fn edits(&mut self) -> Vec<Edit> {
        let mut edits = std::mem::take(&mut self.edits);
        edits.sort_by_key(|edit| edit.range.start);
        edits
    }

    /// Whether what has not been read need not be read.
    pub(super) fn may_stop(&self) -> bool {
        self.part == Part::Any
    }

    /// Whether an envelope has begun and not ended.
    pub(super) fn in_envelope(&self) -> bool {
        !self.open.is_empty()
    }

    /// What is being read.
    pub(super) fn what(&self) -> &'static str {
        match self.part {
            Part::Header => "the SOAP header",
            _ => "the SOAP body",
        }
    }

    /// Looks at the first bytes. `false`: there are too few yet.
    fn begin(&mut self, buf: &[u8]) -> Result<bool, Refusal> {
        if buf.len() < 4 {
            return Ok(false);
        }
        if let Some((_, charset)) = FOREIGN.iter().find(|(mark, _)| buf.starts_with(mark)) {
            return Err(Refusal::Charset((*charset).to_owned()));
        }
        self.begun = true;
        Ok(true)
    }

    fn tokens(&mut self, buf: &[u8], asking: &mut Asking<'_>) -> Result<Reading, Refusal> {
        while let Some(token) = self.tokens.next(buf).map_err(Refusal::Malformed)? {
            let inner = &buf[token.inner()];
            let reading = match token.kind {
                Kind::Start | Kind::Empty => self.start(buf, &token, asking)?,
                Kind::End => self.end(buf, &token, asking)?,
                Kind::Text => self.text(inner)?,
                Kind::CData => {
                    if let Some(text) = &mut self.text {
                        text.value.push_str(&String::from_utf8_lossy(inner));
                    }
                    None
                }
                Kind::Instruction => declaration(inner)?,
                Kind::Comment => None,
                Kind::Doctype => doctype(inner)?,
            };
            if let Some(reading) = reading {
                return Ok(reading);
            }
        }
        Ok(Reading::More)
    }

    fn start(
        &mut self,
        buf: &[u8],
        token: &Token,
        asking: &mut Asking<'_>,
    ) -> Result<Option<Reading>, Refusal> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Refusal::Depth { limit: MAX_DEPTH });
        }
        let inner = token.inner();
        let tag =
            str::from_utf8(&buf[inner.clone()]).map_err(|_| Refusal::Malformed("a tag is not UTF-8"))?;
        let length = tag.find(|c: char| c.is_ascii_whitespace()).unwrap_or(tag.len());
        if length == 0 {
            return Err(Refusal::Malformed("a tag without a name"));
        }
        known_entities(tag)?;
        let tag = BytesStart::from_content(tag, length);
        self.names
            .push(&tag)
            .map_err(|_| Refusal::Malformed("namespace declarations that are too many or not allowed"))?;
        let (space, local) = self.names.resolve_element(tag.name());
        let family = match space {
            ResolveResult::Bound(namespace) => Family::of(namespace.0),
            _ => Family::Other,
        };
        let local = local.into_inner();
        let Some(what) = self.meaning(buf, family, local) else {
            // Not SOAP.
            self.part = Part::Any;
            return Ok(Some(Reading::Decided));
        };
        self.enter(what, family, local, asking);
        let reading = self.body(what, family, local, token, asking)?;
        // An element in an address makes it none.
        self.text = None;
        let name = inner.start..inner.start + length;
        let local = name.end - local.len();
        self.open.push(Open {
            what,
            family,
            name,
            local,
        });
        if token.kind == Kind::Empty {
            return self.leave(asking).map(|left| left.or(reading));
        }
        if what.has_text() {
            self.text = Some(Text {
                from: token.range.end,
                value: String::new(),
            });
        }
        Ok(reading)
    }

    /// What an element means here. `None`: this is no envelope.
    fn meaning(&self, buf: &[u8], family: Family, local: &str) -> Option<What> {
        let Some(parent) = self.open.last() else {
            let envelope = matches!(family, Family::Soap11 | Family::Soap12) && local == "Envelope";
            return envelope.then_some(What::Envelope);
        };
        Some(match (parent.what, family, local) {
            (What::Envelope, _, "Header") if family == parent.family => What::Header,
            (What::Envelope, _, "Body") if family == parent.family => What::Body,
            (What::Header, Family::Addressing, "To") => What::To,
            (What::Header, Family::Addressing, "Action") => What::Action,
            (What::Header, Family::Addressing, "MessageID") => What::MessageId,
            (What::Header, Family::Addressing, "RelatesTo") => What::RelatesTo,
            (What::Header, Family::Security, "Security") => What::Security,
            (_, Family::Addressing, "Address") if self.open.len() > 2 => What::Address,
            (_, Family::Eventing, "Expires") if self.part == Part::Known => What::Expires,
            (What::Header | What::Reference, _, _) if family != Family::Addressing => What::Reference,
            (_, _, _) if self.part == Part::Known && self.in_manager(buf) => What::Reference,
            _ => What::Other,
        })
    }

    /// Whether what is open holds reference parameters of a subscription's manager.
    fn in_manager(&self, buf: &[u8]) -> bool {
        let named = |open: &Open, family, names: &[&str]| {
            let local = &buf[open.local..open.name.end];
            open.family == family && names.iter().any(|name| name.as_bytes() == local)
        };
        let [.., manager, held] = &self.open[..] else {
            return false;
        };
        named(manager, Family::Eventing, &["SubscriptionManager"])
            && named(
                held,
                Family::Addressing,
                &["ReferenceParameters", "ReferenceProperties"],
            )
    }

    /// Takes note of what the beginning of an element says.
    fn enter(&self, what: What, family: Family, local: &str, asking: &mut Asking<'_>) {
        if what == What::Envelope {
            asking.report.soap = Some(Box::new(Soap {
                version: if family == Family::Soap11 {
                    SoapVersion::V1_1
                } else {
                    SoapVersion::V1_2
                },
                action: None,
                message_id: None,
                relates_to: Vec::new(),
                to: None,
                signed: false,
                operation: None,
                subscription: None,
            }));
        }
        if family == Family::Signature
            && local == "Signature"
            && self.open.iter().any(|o| o.what == What::Security)
            && let Some(facts) = &mut asking.report.soap
        {
            facts.signed = true;
        }
    }

    /// Takes note that the body begins, or its first element.
    fn body(
        &mut self,
        what: What,
        family: Family,
        local: &str,
        token: &Token,
        asking: &mut Asking<'_>,
    ) -> Result<Option<Reading>, Refusal> {
        if what == What::Body && self.part == Part::Header {
            self.decide(asking)?;
            self.part = Part::First;
            return Ok(None);
        }
        let first = self.part == Part::First && self.open.last().is_some_and(|o| o.what == What::Body);
        if !first {
            return Ok(None);
        }
        if let Some(facts) = &mut asking.report.soap {
            facts.operation = Some(shorten(local));
            let step = SubscriptionStep::of(local).filter(|_| family == Family::Eventing);
            // An answer's own headers are none of the manager's.
            let to_manager = step != Some(SubscriptionStep::Subscribed);
            let references = std::mem::take(&mut self.references);
            facts.subscription = step.map(|step| {
                Box::new(Subscription {
                    step,
                    manager: None,
                    references: if to_manager { references } else { Vec::new() },
                    expires: None,
                })
            });
        }
        let fault = matches!(family, Family::Soap11 | Family::Soap12) && local == "Fault";
        let known = matches!(family, Family::Eventing | Family::Reliable | Family::Notification);
        self.part = if known { Part::Known } else { Part::Any };
        Ok(match (fault, known) {
            (true, _) => Some(Reading::Decided),
            (_, true) => None,
            _ => Some(Reading::AnyBody {
                from: token.range.start,
            }),
        })
    }

    fn end(
        &mut self,
        buf: &[u8],
        token: &Token,
        asking: &mut Asking<'_>,
    ) -> Result<Option<Reading>, Refusal> {
        let open = self
            .open
            .last()
            .ok_or(Refusal::Malformed("an end tag too many"))?;
        if buf[token.inner()].trim_ascii_end() != &buf[open.name.clone()] {
            return Err(Refusal::Malformed("an end tag that does not fit its start tag"));
        }
        if let Some(text) = self.text.take() {
            self.complete(buf, text, token.range.start, asking)?;
        }
        self.leave(asking)
    }

    /// The innermost element ends.
    fn leave(&mut self, asking: &mut Asking<'_>) -> Result<Option<Reading>, Refusal> {
        self.names.pop();
        let Some(open) = self.open.pop() else {
            return Ok(None);
        };
        if open.what == What::Header && self.part == Part::Header {
            self.decide(asking)?;
        }
        let done = matches!(open.what, What::Body | What::Envelope)
            || (self.part == Part::Known && self.open.len() == 2);
        if done {
            self.part = Part::Any;
        }
        Ok(done.then_some(Reading::Decided))
    }

    fn text(&mut self, raw: &[u8]) -> Result<Option<Reading>, Refusal> {
        if self.open.is_empty() && !raw.trim_ascii().is_empty() && raw.trim_ascii() != b"\xef\xbb\xbf" {
            // Not XML.
            self.part = Part::Any;
            return Ok(Some(Reading::Decided));
        }
        let Some(text) = &mut self.text else {
            if self.part != Part::Any && raw.contains(&b'&') {
                known_entities(&String::from_utf8_lossy(raw))?;
            }
            return Ok(None);
        };
        let raw = String::from_utf8_lossy(raw);
        text.value.push_str(&unescape(&raw).map_err(entity)?);
        Ok(None)
    }

    /// The text of an element is whole: it ends at `end`.
    fn complete(
        &mut self,
        buf: &[u8],
        text: Text,
        end: usize,
        asking: &mut Asking<'_>,
    ) -> Result<(), Refusal> {
        let Some(open) = self.open.last() else {
            return Ok(());
        };
        let name = open.local..open.name.end;
        let inner = &buf[text.from..end];
        let from = text.from + (inner.len() - inner.trim_ascii_start().len());
        let range = from..from + inner.trim_ascii().len();
        let value = text.value.trim().to_owned();
        let what = open.what;
        let place = match what {
            What::Address => Some(self.place(buf)),
            What::To => Some(Place::To),
            _ => None,
        };
        if let Some(facts) = &mut asking.report.soap {
            match what {
                What::To => facts.to = Some(shorten(&value)),
                What::Action => facts.action = Some(shorten(&value)),
                What::MessageId => facts.message_id = Some(shorten(&value)),
                What::RelatesTo if facts.relates_to.len() < MAX_RELATES => {
                    facts.relates_to.push(shorten(&value))
                }
                _ => {}
            }
            let subscription = facts.subscription.as_deref_mut();
            match (what, subscription) {
                (What::Reference, said) => {
                    let list = said.map_or(&mut self.references, |s| &mut s.references);
                    if !value.is_empty() && list.len() < MAX_REFERENCES {
                        let name = String::from_utf8_lossy(&buf[name]);
                        list.push(shorten(&format!("{name}={value}")));
                    }
                }
                (What::Expires, Some(said)) => said.expires = Some(shorten(&value)),
                (_, Some(said)) if place == Some(Place::SubscriptionManager) => {
                    said.manager = Some(shorten(&value));
                }
                _ => {}
            }
        }
        if let Some(place) = place {
            self.found.push(Found { place, range, value });
        }
        if self.part != Part::Header {
            self.decide(asking)?;
        }
        Ok(())
    }

    /// What the address that is open belongs to.
    fn place(&self, buf: &[u8]) -> Place {
        let [.., above, parent, _] = &self.open[..] else {
            return Place::Endpoint(String::new());
        };
        let local = String::from_utf8_lossy(&buf[parent.local..parent.name.end]);
        match (above.what, parent.family, &*local) {
            (What::Header, Family::Addressing, "ReplyTo") => Place::ReplyTo,
            (What::Header, Family::Addressing, "FaultTo") => Place::FaultTo,
            (What::Header, Family::Addressing, "From") => Place::From,
            (_, Family::Eventing, "NotifyTo") => Place::NotifyTo,
            (_, Family::Eventing, "EndTo") => Place::EndTo,
            (_, Family::Eventing, "SubscriptionManager") => Place::SubscriptionManager,
            (_, Family::Reliable, "AcksTo") => Place::AcksTo,
            _ => Place::Endpoint(shorten(&local)),
        }
    }

    /// Decides about the addresses that were found.
    fn decide(&mut self, asking: &mut Asking<'_>) -> Result<(), Refusal> {
        let signed = asking.report.soap.as_ref().is_some_and(|facts| facts.signed);
        for Found { place, range, value } in std::mem::take(&mut self.found) {
            if signed && untouchable(&value).is_none() {
                asking.left(place, Why::Signed);
                continue;
            }
            let name = place.to_string();
            let Some(to) = asking.ask(place, &value)? else {
                continue;
            };
            if !to.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Refusal::Unfit(name));
            }
            let with = Bytes::from(escape(&*to).into_owned());
            self.edits.push(Edit { range, with });
        }
        Ok(())
    }
}

/// The XML declaration may name an encoding that is none here.
fn declaration(inner: &[u8]) -> Result<Option<Reading>, Refusal> {
    let text = String::from_utf8_lossy(inner);
    let Some((_, rest)) = text.strip_prefix("xml").and_then(|t| t.split_once("encoding")) else {
        return Ok(None);
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '=');
    let charset = rest.get(1..).unwrap_or_default();
    let charset = charset.split(['"', '\'']).next().unwrap_or_default();
    if is_ascii_based(charset) {
        return Ok(None);
    }
    Err(Refusal::Charset(charset.chars().take(40).collect()))
}

/// A document type declaration: harmless only if it is that of some other kind of document and brings nothing with it.
fn doctype(inner: &[u8]) -> Result<Option<Reading>, Refusal> {
    let name = inner.trim_ascii_start();
    let end = name
        .iter()
        .position(|b| b.is_ascii_whitespace() || *b == b'>' || *b == b'[')
        .unwrap_or(name.len());
    let local = QName(str::from_utf8(&name[..end]).unwrap_or_default())
        .local_name()
        .into_inner();
    if inner.ends_with(b"[") || local == "Envelope" {
        return Err(Refusal::Dtd);
    }
    Ok(Some(Reading::Decided))
}

/// Refuses entities that only a DTD could define.
fn known_entities(raw: &str) -> Result<(), Refusal> {
    if raw.contains('&') {
        unescape(raw).map_err(entity)?;
    }
    Ok(())
}

fn entity(error: EscapeError) -> Refusal {
    match error {
        EscapeError::UnrecognizedEntity(..) => Refusal::Entity,
        _ => Refusal::Malformed("a '&' that begins no reference"),
    }
}
