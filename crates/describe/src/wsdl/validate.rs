//! SOAP messages held against WSDL, by what identifies an operation: the action, and the first element of the body.

use std::collections::HashMap;

use super::{Abstract, Binding, Bound, Message, PortType, Protocol, Wsdl};
use crate::{
    DescribeError,
    error::short,
    validate::{Invalid, Request},
    xml::{self, Name, Step, Tag, Xml},
};

/// Envelopes of SOAP 1.1 and 1.2.
const ENVELOPES: [(&str, Protocol); 2] = [
    ("http://schemas.xmlsoap.org/soap/envelope/", Protocol::Soap11),
    ("http://www.w3.org/2003/05/soap-envelope", Protocol::Soap12),
];
/// WS-Addressing, whose header `Action` says what a message is for.
const ADDRESSING: [&str; 2] = [
    "http://www.w3.org/2005/08/addressing",
    "http://schemas.xmlsoap.org/ws/2004/08/addressing",
];
/// Reliable messaging: its messages go between the endpoints of any service that uses it, and no WSDL lists them.
const RELIABLE: [&str; 2] = [
    "http://schemas.xmlsoap.org/ws/2005/02/rm",
    "http://docs.oasis-open.org/ws-rx/wsrm/200702",
];
const ENCRYPTED: &str = "http://www.w3.org/2001/04/xmlenc#";
/// Bytes of an action.
const MAX_ACTION: usize = 2048;

/// What WSDL documents say of messages to their service.
#[derive(Debug, Clone)]
pub(crate) struct Soap {
    operations: Vec<Operation>,
    /// Methods and locations of HTTP bindings.
    http: Vec<(String, String)>,
}

/// A message that the service takes.
#[derive(Debug, Clone)]
struct Operation {
    name: String,
    protocol: Protocol,
    body: Body,
    /// With any of these; without any, with all.
    actions: Vec<String>,
}

/// What a SOAP body begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Element(Name),
    Empty,
    /// A part that is declared by a type, which has no name of its own.
    Any,
}

/// What identifies the operation of a message.
struct Seen {
    protocol: Protocol,
    first: Option<Name>,
    action: Option<String>,
}

impl Soap {
    /// Puts the documents of one service together. `None` if they bind nothing.
    ///
    /// # Errors
    /// A binding's port type or a message is in none of them.
    pub(crate) fn new(documents: &[&Wsdl]) -> Result<Option<Self>, DescribeError> {
        let port_types: HashMap<&Name, &PortType> = documents
            .iter()
            .flat_map(|w| &w.port_types)
            .map(|p| (&p.name, p))
            .collect();
        let messages: HashMap<&Name, &Message> = documents
            .iter()
            .flat_map(|w| &w.messages)
            .map(|m| (&m.name, m))
            .collect();
        let mut soap = Self {
            operations: Vec::new(),
            http: Vec::new(),
        };
        let ports: Vec<&Name> = documents
            .iter()
            .flat_map(|w| &w.services)
            .flat_map(|s| s.ports.iter().filter_map(|p| p.binding.as_ref()))
            .collect();
        // Without a service the documents are an interface, all of which counts.
        let offered = |b: &&Binding| ports.is_empty() || ports.contains(&&b.name);
        for binding in documents.iter().flat_map(|w| &w.bindings).filter(offered) {
            match &binding.protocol {
                Protocol::Other => {}
                Protocol::Http(method) => {
                    let locations = binding.operations.iter().filter_map(|o| o.location.clone());
                    soap.http
                        .extend(locations.map(|location| (method.clone(), location)));
                }
                Protocol::Soap11 | Protocol::Soap12 => {
                    let name = binding.port_type.as_ref();
                    let port_type = name
                        .and_then(|n| port_types.get(n))
                        .ok_or_else(|| missing("port type", name))?;
                    for bound in &binding.operations {
                        soap.operations
                            .extend(operation(binding, bound, port_type, &messages)?);
                    }
                }
            }
        }
        Ok((!soap.operations.is_empty() || !soap.http.is_empty()).then_some(soap))
    }

    /// Holds a request against the documents.
    pub(crate) fn request(&self, request: &Request<'_>) -> Result<(), Invalid> {
        let over_http = |(method, location): &(String, String)| {
            *method == request.method && request.path.ends_with(location.trim_end_matches('/'))
        };
        if self.http.iter().any(over_http) {
            return Ok(());
        }
        if request.method != "POST" || self.operations.is_empty() {
            let query = request.query.to_ascii_lowercase();
            let description = ["wsdl", "xsd", "singlewsdl"].iter().any(|q| {
                query
                    .strip_prefix(q)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', '&']))
            });
            return match request.method {
                "GET" | "HEAD" if description => Ok(()),
                method => Err(Invalid::Method {
                    method: short(method),
                    allowed: vec!["POST".into()],
                }),
            };
        }
        let (envelope, kind) = root_part(request)?;
        let seen = look(envelope, request, &kind)?;
        self.find(&seen)
    }

    fn find(&self, seen: &Seen) -> Result<(), Invalid> {
        let reliable = |text: &str| RELIABLE.iter().any(|ns| text.starts_with(ns));
        if seen.first.as_ref().map_or_else(
            || seen.action.as_deref().is_some_and(reliable),
            |first| reliable(&first.namespace),
        ) {
            return Ok(());
        }
        let encrypted = seen
            .first
            .as_ref()
            .is_some_and(|f| f.is(ENCRYPTED, "EncryptedData"));
        let fits = |body: &Body| match (body, &seen.first) {
            (Body::Any, _) => true,
            (Body::Empty, first) => first.is_none(),
            (Body::Element(_), _) if encrypted => seen.action.is_some(),
            (Body::Element(name), first) => first.as_ref() == Some(name),
        };
        let mut near = self
            .operations
            .iter()
            .filter(|o| o.protocol == seen.protocol && fits(&o.body))
            .peekable();
        let Some(first) = near.peek() else {
            let found = seen
                .first
                .as_ref()
                .map_or_else(|| "nothing".into(), |f| short(&f.to_string()));
            let version = if seen.protocol == Protocol::Soap11 {
                "1.1"
            } else {
                "1.2"
            };
            let why = format!("no input in SOAP {version} whose body begins with {found}");
            return Err(Invalid::Operation(why));
        };
        let named = first.name.clone();
        match &seen.action {
            None => Ok(()),
            Some(action) if near.any(|o| o.actions.is_empty() || o.actions.contains(action)) => Ok(()),
            Some(action) => {
                let why = format!("its body is of {named:?}, its action {:?} is not", short(action));
                Err(Invalid::Operation(why))
            }
        }
    }
}

/// The message of a bound operation, unless the service sends it.
fn operation(
    binding: &Binding,
    bound: &Bound,
    port_type: &PortType,
    messages: &HashMap<&Name, &Message>,
) -> Result<Option<Operation>, DescribeError> {
    let declared = port_type.operations.iter().find(|o| o.name == bound.name);
    let Some((declared, input)) = declared.and_then(|d| Some((d, d.input.as_ref()?))) else {
        return Ok(None);
    };
    if declared.output_first {
        return Ok(None);
    }
    let body = if bound.rpc.unwrap_or(binding.rpc) {
        let namespace = bound.body_namespace.as_deref().unwrap_or_default();
        Body::Element(Name::new(namespace, &bound.name))
    } else {
        let name = input.message.as_ref();
        let message = name
            .and_then(|n| messages.get(n))
            .ok_or_else(|| missing("message", name))?;
        // Tools name parts here that the message does not have; then it is as if they named none.
        let named = |parts: &&Vec<String>| message.parts.iter().any(|p| parts.contains(&p.name));
        let named = bound.body_parts.as_ref().filter(named);
        let part = message
            .parts
            .iter()
            .find(|p| named.is_none_or(|parts| parts.contains(&p.name)));
        match part {
            None => Body::Empty,
            Some(part) => part.element.clone().map_or(Body::Any, Body::Element),
        }
    };
    let declared_action = bound.action.clone().filter(|a| !a.is_empty());
    let mut actions: Vec<String> = declared_action.into_iter().chain(input.action.clone()).collect();
    if !actions.is_empty() && input.action.is_none() {
        actions.push(default_action(port_type, declared));
    }
    Ok(Some(Operation {
        name: bound.name.clone(),
        protocol: binding.protocol.clone(),
        body,
        actions,
    }))
}

/// The action of an input that declares none (WS-Addressing 1.0 Metadata section 4.4.4, WSDL 1.1 section 2.4.5).
fn default_action(port_type: &PortType, operation: &Abstract) -> String {
    let namespace = port_type.name.namespace.trim_end_matches('/');
    let between = if namespace.starts_with("urn:") { ':' } else { '/' };
    let request = if operation.output.is_some() { "Request" } else { "" };
    let given = operation.input.as_ref().and_then(|input| input.name.clone());
    let input = given.unwrap_or_else(|| format!("{}{request}", operation.name));
    format!("{namespace}{between}{}{between}{input}", port_type.name.local)
}

fn missing(what: &str, name: Option<&Name>) -> DescribeError {
    let name = name.map_or_else(|| "(without a name)".into(), |n| short(&n.to_string()));
    DescribeError::Missing {
        missing: format!("the {what} {name}"),
    }
}

/// What identifies a message's operation. Reads no further than the first element of the body.
fn look(envelope: &[u8], request: &Request<'_>, kind: &str) -> Result<Seen, Invalid> {
    let wrong = |e: DescribeError| Invalid::Body {
        pointer: String::new(),
        why: e.to_string(),
    };
    let text = xml::decode(envelope).map_err(wrong)?;
    let mut xml = Xml::new(envelope, &text);
    let not_soap = || Invalid::Operation("it is no SOAP envelope".into());
    let Some(Step::Start(root)) = xml.next().map_err(wrong)? else {
        return Err(not_soap());
    };
    let version = ENVELOPES.iter().find(|(ns, _)| root.name.is(ns, "Envelope"));
    let (namespace, protocol) = version.ok_or_else(not_soap)?;
    let mut addressed = None;
    loop {
        match xml.next().map_err(wrong)? {
            Some(Step::Start(tag)) if tag.name.is(namespace, "Body") => break,
            Some(Step::Start(tag)) if tag.name.is(namespace, "Header") => {
                addressed = action_of(&mut xml).map_err(wrong)?;
            }
            Some(Step::Start(_)) => xml.skip().map_err(wrong)?,
            Some(Step::Text(..)) => {}
            Some(Step::End) | None => return Err(Invalid::Operation("its envelope has no body".into())),
        }
    }
    let first = loop {
        match xml.next().map_err(wrong)? {
            Some(Step::Start(Tag { name, .. })) => break Some(name),
            Some(Step::Text(..)) => {}
            Some(Step::End) | None => break None,
        }
    };
    let of_http = match request.header("soapaction") {
        Some(action) => action.trim().trim_matches('"').to_owned(),
        None => param(kind, "action").unwrap_or_default(),
    };
    // Two actions that contradict each other are not one message: whichever the service believes, it may be the other.
    let of_http = Some(of_http).filter(|a| !a.is_empty());
    if let (Some(http), Some(header)) = (&of_http, &addressed)
        && http != header
    {
        let why = format!("its actions differ: {:?} and {:?}", short(http), short(header));
        return Err(Invalid::Operation(why));
    }
    Ok(Seen {
        protocol: protocol.clone(),
        first,
        action: addressed.or(of_http),
    })
}

/// `wsa:Action` among the SOAP headers; reads to their end.
fn action_of(xml: &mut Xml<'_>) -> Result<Option<String>, DescribeError> {
    let (inside, mut action, mut open) = (xml.depth(), None, false);
    while let Some(step) = xml.next()? {
        match step {
            Step::Start(tag) => {
                open = xml.depth() == inside + 1
                    && tag.name.local == "Action"
                    && ADDRESSING.contains(&tag.name.namespace.as_str());
                if open {
                    action = Some(String::new());
                }
            }
            Step::End if xml.depth() < inside => break,
            Step::End => open = false,
            Step::Text(text, _) => {
                if let Some(action) = action.as_mut().filter(|a| open && a.len() < MAX_ACTION) {
                    action.push_str(&text);
                }
            }
        }
    }
    Ok(action.map(|a: String| a.trim().to_owned()))
}

/// The envelope of a request and its content type: of a message with attachments (SwA, MTOM) the root part and its type.
fn root_part<'a>(request: &Request<'a>) -> Result<(&'a [u8], String), Invalid> {
    let kind = request.header("content-type").unwrap_or_default();
    let essence = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "text/xml" | "application/soap+xml" | "application/xml" => Ok((request.body, kind.into())),
        "multipart/related" => {
            let part =
                param(kind, "boundary").and_then(|b| part(request.body, &b, param(kind, "start").as_deref()));
            let part = part.ok_or_else(|| Invalid::Body {
                pointer: String::new(),
                why: "its root part is not there (RFC 2387)".into(),
            })?;
            // In MTOM the action is in `start-info`, else at the whole.
            Ok((part, kind.into()))
        }
        _ => Err(Invalid::ContentType {
            found: short(&essence),
            allowed: ["text/xml", "application/soap+xml", "multipart/related"]
                .map(Into::into)
                .into(),
        }),
    }
}

/// The part whose `Content-ID` is `start`, else the first.
fn part<'a>(body: &'a [u8], boundary: &str, start: Option<&str>) -> Option<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|w| w == what);
    if boundary.is_empty() {
        return None;
    }
    let mut rest = &body[find(body, delimiter.as_bytes())? + delimiter.len()..];
    // Few parts come before the root; more are not looked through.
    for _ in 0..64 {
        let end = find(rest, delimiter.as_bytes())?;
        let part = &rest[..end];
        rest = &rest[end + delimiter.len()..];
        let (headers, content) = match find(part, b"\r\n\r\n") {
            Some(at) => (&part[..at], &part[at + 4..]),
            None => continue,
        };
        let headers = String::from_utf8_lossy(headers);
        let id = headers.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim()
                .eq_ignore_ascii_case("content-id")
                .then(|| value.trim().to_owned())
        });
        if start.is_none_or(|start| id.as_deref() == Some(start)) {
            return Some(content.strip_suffix(b"\r\n").unwrap_or(content));
        }
    }
    None
}

/// A parameter of a content type, quoted or not. `;` within quotes does not end it.
fn param(kind: &str, name: &str) -> Option<String> {
    let (mut quoted, mut from) = (false, 0);
    let mut parts = Vec::new();
    for (at, b) in kind.bytes().enumerate() {
        match b {
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                parts.push(&kind[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&kind[from..]);
    parts.into_iter().skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        let mine = key.trim().eq_ignore_ascii_case(name);
        mine.then(|| value.trim().trim_matches('"').to_owned())
    })
}
