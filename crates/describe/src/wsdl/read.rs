//! One pass over a document: what it declares, and where its addresses stand.

use std::ops::Range;

use super::{
    Abstract, Binding, Bound, Flow, HTTP, Message, Part, Port, PortType, Protocol, SOAP11, SOAP12, Service,
    Wsdl,
};
use crate::{
    DescribeError, Location,
    edit::{Spot, Style},
    error::short,
    format::{WSDL, WSDL2, XSD},
    xml::{Name, Step, Tag, Xml},
};

/// MIME binding of WSDL.
const MIME: &str = "http://schemas.xmlsoap.org/wsdl/mime/";

/// WS-Addressing, whose endpoint references may stand in ports.
const ADDRESSING: [&str; 2] = [
    "http://www.w3.org/2005/08/addressing",
    "http://schemas.xmlsoap.org/ws/2004/08/addressing",
];

/// Whose `Action` may stand at an input or output: metadata 2007/05, its draft 2006/05, and 2004/08.
const ACTIONS: [&str; 4] = [
    "http://www.w3.org/2007/05/addressing/metadata",
    "http://www.w3.org/2006/05/addressing/wsdl",
    "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "http://www.w3.org/2005/08/addressing",
];

/// Which element is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Outside,
    Definitions,
    Types,
    Schema,
    Message,
    PortType,
    Abstract,
    Binding,
    Bound,
    BoundInput,
    Service,
    Port,
    Reference,
    Address,
    /// One whose content says nothing here.
    Other,
}

/// Reads a document. `text` is what [`xml::decode`](crate::xml::decode) made of `bytes`.
pub(super) fn read(bytes: &[u8], text: &str) -> Result<Wsdl, DescribeError> {
    let mut reader = Reader {
        xml: Xml::new(bytes, text),
        bytes,
        open: Vec::new(),
        address: None,
        wsdl: Wsdl {
            schema: false,
            name: None,
            namespace: String::new(),
            messages: Vec::new(),
            port_types: Vec::new(),
            bindings: Vec::new(),
            services: Vec::new(),
            spots: Vec::new(),
        },
    };
    while let Some(step) = reader.xml.next()? {
        match step {
            Step::Start(tag) => {
                let at = reader.open.last().copied().unwrap_or(At::Outside);
                let inside = reader.start(at, tag)?;
                reader.open.push(inside);
            }
            Step::End => {
                if reader.open.pop() == Some(At::Address) {
                    reader.end_address();
                }
            }
            Step::Text(text, span) => reader.text(&text, span),
        }
    }
    Ok(reader.wsdl)
}

struct Reader<'a> {
    xml: Xml<'a>,
    bytes: &'a [u8],
    open: Vec<At>,
    /// Text of a `wsa:Address` so far.
    address: Option<(String, Range<usize>)>,
    wsdl: Wsdl,
}

impl Reader<'_> {
    /// What `tag` says within `at`, and what is open then.
    fn start(&mut self, at: At, tag: Tag) -> Result<At, DescribeError> {
        let name = &tag.name;
        let local = name.local.as_str();
        match (at, name.namespace.as_str()) {
            (At::Outside, _) => return self.root(&tag),
            (At::Definitions, WSDL) => return self.top(&tag),
            (At::Types, XSD) if local == "schema" => return Ok(At::Schema),
            (At::Schema, XSD) if matches!(local, "import" | "include" | "redefine" | "override") => {
                self.spot(&tag, "schemaLocation", Location::Import);
            }
            (At::Message, WSDL) if local == "part" => {
                let element = tag.value("element").and_then(|v| self.xml.resolve(v));
                let name = tag.value("name").unwrap_or_default().to_owned();
                if let Some(message) = self.wsdl.messages.last_mut() {
                    message.parts.push(Part { name, element });
                }
            }
            (At::PortType | At::Abstract, WSDL) => return Ok(self.abstracted(at, &tag)),
            (At::Binding | At::Bound | At::BoundInput, _) => return Ok(self.bound(at, &tag)),
            (At::Service, WSDL) if local == "port" => {
                let binding = tag.value("binding").and_then(|v| self.xml.resolve(v));
                if let Some(service) = self.wsdl.services.last_mut() {
                    service.ports.push(Port { binding });
                }
                return Ok(At::Port);
            }
            (At::Port, SOAP11 | SOAP12 | HTTP) if local == "address" => {
                self.spot(&tag, "location", Location::Endpoint);
            }
            (At::Port, namespace) if local == "EndpointReference" && ADDRESSING.contains(&namespace) => {
                return Ok(At::Reference);
            }
            (At::Reference, namespace) if local == "Address" && ADDRESSING.contains(&namespace) => {
                return Ok(At::Address);
            }
            _ => {}
        }
        Ok(At::Other)
    }

    fn root(&mut self, tag: &Tag) -> Result<At, DescribeError> {
        self.wsdl.namespace = tag.value("targetNamespace").unwrap_or_default().into();
        self.wsdl.name = tag.value("name").map(Into::into);
        if tag.name.is(WSDL, "definitions") {
            return Ok(At::Definitions);
        }
        if tag.name.is(XSD, "schema") {
            self.wsdl.schema = true;
            return Ok(At::Schema);
        }
        if tag.name.namespace == WSDL2 {
            return Err(DescribeError::Version {
                found: "WSDL 2.0".into(),
                expected: "WSDL 1.1, which the tools that write WSDL 2.0 write as well",
            });
        }
        Err(DescribeError::Unknown(format!(
            "XML with the root element {}",
            short(&tag.name.to_string())
        )))
    }

    /// A child of `wsdl:definitions`.
    fn top(&mut self, tag: &Tag) -> Result<At, DescribeError> {
        let name = Name::new(&self.wsdl.namespace, tag.value("name").unwrap_or_default());
        Ok(match tag.name.local.as_str() {
            "import" => {
                self.spot(tag, "location", Location::Import);
                At::Other
            }
            "types" => At::Types,
            "message" => {
                self.wsdl.messages.push(Message {
                    name,
                    parts: Vec::new(),
                });
                At::Message
            }
            "portType" => {
                self.wsdl.port_types.push(PortType {
                    name,
                    operations: Vec::new(),
                });
                At::PortType
            }
            "binding" => {
                let port_type = tag.value("type").and_then(|v| self.xml.resolve(v));
                self.wsdl.bindings.push(Binding {
                    name,
                    port_type,
                    protocol: Protocol::Other,
                    rpc: false,
                    operations: Vec::new(),
                });
                At::Binding
            }
            "service" => {
                self.wsdl.services.push(Service {
                    name: name.local,
                    ports: Vec::new(),
                });
                At::Service
            }
            _ => At::Other,
        })
    }

    /// Within a port type.
    fn abstracted(&mut self, at: At, tag: &Tag) -> At {
        let Some(port_type) = self.wsdl.port_types.last_mut() else {
            return At::Other;
        };
        if at == At::PortType {
            if tag.name.local != "operation" {
                return At::Other;
            }
            port_type.operations.push(Abstract {
                name: tag.value("name").unwrap_or_default().into(),
                ..Abstract::default()
            });
            return At::Abstract;
        }
        let Some(operation) = port_type.operations.last_mut() else {
            return At::Other;
        };
        let action = ACTIONS.iter().find_map(|ns| tag.attribute(ns, "Action"));
        let flow = Flow {
            name: tag.value("name").map(Into::into),
            message: tag.value("message").and_then(|v| self.xml.resolve(v)),
            action: action.map(|a| a.value.clone()),
        };
        match tag.name.local.as_str() {
            "input" => operation.input = Some(flow),
            "output" => {
                operation.output_first = operation.input.is_none();
                operation.output = Some(flow);
            }
            _ => {}
        }
        At::Other
    }

    /// Within a binding.
    fn bound(&mut self, at: At, tag: &Tag) -> At {
        let Some(binding) = self.wsdl.bindings.last_mut() else {
            return At::Other;
        };
        let rpc = tag.value("style").map(|style| style == "rpc");
        let (namespace, local) = (tag.name.namespace.as_str(), tag.name.local.as_str());
        match (at, namespace, local) {
            (At::Binding, SOAP11 | SOAP12, "binding") => {
                binding.protocol = if namespace == SOAP11 {
                    Protocol::Soap11
                } else {
                    Protocol::Soap12
                };
                binding.rpc = rpc.unwrap_or(false);
            }
            (At::Binding, HTTP, "binding") => {
                binding.protocol = Protocol::Http(tag.value("verb").unwrap_or("GET").to_ascii_uppercase());
            }
            (At::Binding, WSDL, "operation") => {
                binding.operations.push(Bound {
                    name: tag.value("name").unwrap_or_default().into(),
                    ..Bound::default()
                });
                return At::Bound;
            }
            _ => {}
        }
        let Some(operation) = binding.operations.last_mut() else {
            return At::Other;
        };
        match (at, namespace, local) {
            (At::Bound, SOAP11 | SOAP12, "operation") => {
                operation.action = tag.value("soapAction").map(Into::into);
                operation.rpc = rpc;
            }
            (At::Bound, HTTP, "operation") => operation.location = tag.value("location").map(Into::into),
            (At::Bound, WSDL, "input") => return At::BoundInput,
            (At::BoundInput, SOAP11 | SOAP12, "body") => {
                operation.body_namespace = tag.value("namespace").map(Into::into);
                operation.body_parts = tag
                    .value("parts")
                    .map(|parts| parts.split_ascii_whitespace().map(Into::into).collect());
            }
            // The body of a message with attachments is in the first MIME part.
            (At::BoundInput, MIME, "multipartRelated" | "part") => return At::BoundInput,
            _ => {}
        }
        At::Other
    }

    fn text(&mut self, text: &str, span: Range<usize>) {
        if self.open.last() == Some(&At::Address) {
            match &mut self.address {
                Some((all, whole)) => {
                    all.push_str(text);
                    whole.end = span.end;
                }
                None => self.address = Some((text.into(), span)),
            }
        }
    }

    fn end_address(&mut self) {
        let Some((text, span)) = self.address.take() else {
            return;
        };
        let written = &self.bytes[span.clone()];
        let before = written.len() - written.trim_ascii_start().len();
        let after = written.len() - written.trim_ascii_end().len();
        let value = text.trim();
        if !value.is_empty() {
            self.wsdl.spots.push(Spot {
                location: Location::Endpoint,
                value: value.into(),
                suffix: String::new(),
                span: span.start + before..span.end - after,
                style: Style::Xml,
            });
        }
    }

    fn spot(&mut self, tag: &Tag, attribute: &str, location: Location) {
        let attribute = tag.attribute("", attribute);
        if let Some(attribute) = attribute.filter(|a| !a.value.trim().is_empty()) {
            self.wsdl.spots.push(Spot {
                location,
                value: attribute.value.trim().into(),
                suffix: String::new(),
                span: attribute.span.clone(),
                style: Style::Xml,
            });
        }
    }
}
