//! XML as far as a stranger's may be trusted: no DTD, no entities but XML's five, bounded depth and size, well-formed to the end,
//! namespaces resolved, and the bytes of each attribute's value and text known.

use std::{borrow::Cow, fmt, ops::Range};

use quick_xml::{
    NsReader, XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
    name::{QName, ResolveResult},
};

use crate::{
    DescribeError, MAX_DEPTH, MAX_NODES,
    error::{line, short},
};

/// Attributes of one element.
const MAX_ATTRIBUTES: usize = 256;

/// A name with its namespace, which is empty for none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: String,
    pub(crate) local: String,
}

impl Name {
    pub(crate) fn new(namespace: &str, local: &str) -> Self {
        Self {
            namespace: namespace.into(),
            local: local.into(),
        }
    }

    pub(crate) fn is(&self, namespace: &str, local: &str) -> bool {
        self.local == local && self.namespace == namespace
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.local)
        } else {
            write!(f, "{{{}}}{}", self.namespace, self.local)
        }
    }
}

/// An element's start.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: Name,
    /// Without declarations of namespaces.
    pub(crate) attributes: Vec<Attribute>,
}

/// An attribute.
#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) name: Name,
    /// Escapes undone.
    pub(crate) value: String,
    /// Of the value as it is written, without quotes.
    pub(crate) span: Range<usize>,
}

impl Tag {
    /// The value of an attribute without namespace.
    pub(crate) fn value(&self, local: &str) -> Option<&str> {
        self.attribute("", local).map(|a| a.value.as_str())
    }

    pub(crate) fn attribute(&self, namespace: &str, local: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name.is(namespace, local))
    }
}

/// A step through a document. An element without content has a start and an end as well.
#[derive(Debug)]
pub(crate) enum Step {
    Start(Tag),
    End,
    /// A piece of text, escapes undone, and its bytes.
    Text(String, Range<usize>),
}

/// A document, step by step.
pub(crate) struct Xml<'a> {
    bytes: &'a [u8],
    text: &'a str,
    /// Bytes before `text`: the byte order mark.
    skipped: usize,
    reader: NsReader<&'a [u8]>,
    depth: usize,
    nodes: usize,
    rooted: bool,
}

/// The document as text of the same length.
///
/// # Errors
/// Neither UTF-8 nor declared as an encoding that extends ASCII by single bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, DescribeError> {
    match str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(e) => {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).to_ascii_lowercase();
            let head = head.split("?>").next().unwrap_or_default();
            let single = ["iso-8859-", "windows-125", "latin", "us-ascii"];
            if !single.iter().any(|name| head.contains(name)) {
                return Err(DescribeError::Encoding(e.to_string()));
            }
            // Addresses and names that count are ASCII. In the few letters that are not, length matters more than looks.
            Ok(Cow::Owned(
                bytes
                    .iter()
                    .map(|b| if b.is_ascii() { char::from(*b) } else { '?' })
                    .collect(),
            ))
        }
    }
}

impl<'a> Xml<'a> {
    /// `text` is what [`decode`] made of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], text: &'a str) -> Self {
        let stripped = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = NsReader::from_str(stripped);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_end_names = true;
        config.allow_unmatched_ends = false;
        config.allow_dangling_amp = false;
        Self {
            bytes,
            text: stripped,
            skipped: text.len() - stripped.len(),
            reader,
            depth: 0,
            nodes: 0,
            rooted: false,
        }
    }

    /// How many elements are open.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// The line that was read last, from 1.
    pub(crate) fn line(&self) -> usize {
        let offset = usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX);
        line(self.bytes, offset.saturating_add(self.skipped))
    }

    /// A qualified name in an attribute's value or a text, by the namespaces of the element whose start was read last.
    pub(crate) fn resolve(&self, text: &str) -> Option<Name> {
        let name = QName(text.trim());
        let (namespace, local) = self.reader.resolver().resolve(name, true);
        let namespace = match namespace {
            ResolveResult::Bound(namespace) => namespace.0,
            ResolveResult::Unbound => "",
            ResolveResult::Unknown(_) => return None,
        };
        Some(Name::new(namespace, local.as_ref()))
    }

    /// The next step, or `None` behind the end of a whole document.
    pub(crate) fn next(&mut self) -> Result<Option<Step>, DescribeError> {
        loop {
            let event = self.reader.read_event().map_err(|e| self.wrong(e.to_string()))?;
            self.count(1)?;
            return Ok(Some(match event {
                Event::Start(tag) => self.start(&tag)?,
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    Step::End
                }
                Event::Text(text) => match self.piece(&text.into_inner())? {
                    Some(step) => step,
                    None => continue,
                },
                Event::CData(_) if self.depth == 0 => {
                    return Err(self.wrong("text outside of the root element".into()));
                }
                Event::CData(text) => {
                    let text = text.into_inner();
                    let inner = self.span(&text)?;
                    // With its `<![CDATA[` and `]]>`.
                    Step::Text(text.into_owned(), inner.start - 9..inner.end + 3)
                }
                Event::GeneralRef(name) => self.reference(&name)?,
                Event::DocType(_) => return Err(DescribeError::Doctype { line: self.line() }),
                Event::Eof if self.depth > 0 => return Err(self.wrong("it ends within an element".into())),
                Event::Eof if !self.rooted => return Err(self.wrong("it has no element".into())),
                Event::Eof => return Ok(None),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
                Event::Empty(_) => return Err(self.wrong("an element without content".into())),
            }));
        }
    }

    /// Reads on behind the end of the element whose start was read last.
    pub(crate) fn skip(&mut self) -> Result<(), DescribeError> {
        let inside = self.depth;
        while self.depth >= inside {
            self.next()?;
        }
        Ok(())
    }

    fn start(&mut self, tag: &BytesStart<'a>) -> Result<Step, DescribeError> {
        if self.depth == 0 && std::mem::replace(&mut self.rooted, true) {
            return Err(self.wrong("a second root element".into()));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DescribeError::TooDeep { line: self.line() });
        }
        let name = self.named(tag.name(), true)?;
        let mut attributes = Vec::new();
        for (n, attribute) in tag.attributes().enumerate() {
            if n == MAX_ATTRIBUTES {
                return Err(self.too_many("attributes of one element"));
            }
            let attribute = attribute.map_err(|e| self.wrong(e.to_string()))?;
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let name = self.named(attribute.key, false)?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|e| self.wrong(e.to_string()))?
                .into_owned();
            let span = self.span(&attribute.value)?;
            attributes.push(Attribute { name, value, span });
        }
        self.count(attributes.len())?;
        Ok(Step::Start(Tag { name, attributes }))
    }

    fn named(&self, name: QName<'_>, element: bool) -> Result<Name, DescribeError> {
        let (namespace, local) = self.reader.resolver().resolve(name, element);
        let namespace = match namespace {
            ResolveResult::Bound(namespace) => namespace.0,
            ResolveResult::Unbound => "",
            ResolveResult::Unknown(prefix) => {
                return Err(self.wrong(format!("the prefix {:?} is not declared", short(&prefix))));
            }
        };
        Ok(Name::new(namespace, local.as_ref()))
    }

    /// A piece of text. Between elements outside of the root there may only be white space.
    fn piece(&self, text: &str) -> Result<Option<Step>, DescribeError> {
        if self.depth == 0 {
            return if text.trim_ascii().is_empty() {
                Ok(None)
            } else {
                Err(self.wrong("text outside of the root element".into()))
            };
        }
        Ok(Some(Step::Text(text.into(), self.span(text)?)))
    }

    fn reference(&self, name: &quick_xml::events::BytesRef<'a>) -> Result<Step, DescribeError> {
        if self.depth == 0 {
            return Err(self.wrong("text outside of the root element".into()));
        }
        let text = match name.resolve_char_ref() {
            Ok(Some(c)) => c.to_string(),
            Ok(None) => {
                let name = name.borrow().into_inner();
                resolve_predefined_entity(&name)
                    .ok_or_else(|| DescribeError::Entity {
                        line: self.line(),
                        name: short(&name),
                    })?
                    .to_owned()
            }
            Err(e) => return Err(self.wrong(e.to_string())),
        };
        let inner = self.span(&name.borrow().into_inner())?;
        // With its ampersand and semicolon.
        Ok(Step::Text(text, inner.start - 1..inner.end + 1))
    }

    /// Where a part that was borrowed from the text stands in the document.
    fn span(&self, part: &str) -> Result<Range<usize>, DescribeError> {
        let at = part.as_ptr().addr().checked_sub(self.text.as_ptr().addr());
        match at {
            Some(at) if at + part.len() <= self.text.len() => {
                let at = at + self.skipped;
                Ok(at..at + part.len())
            }
            _ => Err(DescribeError::Unsure),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), DescribeError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(self.too_many("elements, attributes and texts"));
        }
        Ok(())
    }

    fn too_many(&self, what: &'static str) -> DescribeError {
        DescribeError::TooMany {
            line: self.line(),
            what,
        }
    }

    fn wrong(&self, what: String) -> DescribeError {
        DescribeError::Syntax {
            format: "XML",
            line: self.line(),
            what: what.chars().take(200).collect(),
        }
    }
}
