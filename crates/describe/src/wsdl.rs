//! WSDL 1.1, and the XML schemas that it imports.

mod read;
pub(crate) mod validate;

use crate::{
    DescribeError, Kind, Operation, Summary,
    edit::Spot,
    summary::once,
    xml::{self, Name},
};

/// SOAP 1.1 binding of WSDL.
const SOAP11: &str = "http://schemas.xmlsoap.org/wsdl/soap/";
/// SOAP 1.2 binding of WSDL.
const SOAP12: &str = "http://schemas.xmlsoap.org/wsdl/soap12/";
/// HTTP binding of WSDL.
const HTTP: &str = "http://schemas.xmlsoap.org/wsdl/http/";

/// A WSDL 1.1 document or an XML schema that has been read.
#[derive(Debug, Clone)]
pub struct Wsdl {
    /// Of a schema, all lists but `spots` are empty.
    schema: bool,
    name: Option<String>,
    namespace: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) port_types: Vec<PortType>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) services: Vec<Service>,
    spots: Vec<Spot>,
}

/// `wsdl:message`.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) name: Name,
    pub(crate) parts: Vec<Part>,
}

/// `wsdl:part`.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// `None` for a part of a type.
    pub(crate) element: Option<Name>,
}

/// `wsdl:portType`.
#[derive(Debug, Clone)]
pub(crate) struct PortType {
    pub(crate) name: Name,
    pub(crate) operations: Vec<Abstract>,
}

/// `wsdl:operation` of a port type.
#[derive(Debug, Clone, Default)]
pub(crate) struct Abstract {
    pub(crate) name: String,
    pub(crate) input: Option<Flow>,
    pub(crate) output: Option<Flow>,
    /// The service speaks first: WSDL 1.1 sections 2.4.3 and 2.4.4.
    pub(crate) output_first: bool,
}

/// `wsdl:input` or `wsdl:output` of a port type.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) name: Option<String>,
    pub(crate) message: Option<Name>,
    /// `wsam:Action` or one of its predecessors.
    pub(crate) action: Option<String>,
}

/// `wsdl:binding`.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) name: Name,
    pub(crate) port_type: Option<Name>,
    pub(crate) protocol: Protocol,
    pub(crate) rpc: bool,
    pub(crate) operations: Vec<Bound>,
}

/// What a binding speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Protocol {
    Soap11,
    Soap12,
    /// With its method.
    Http(String),
    Other,
}

/// `wsdl:operation` of a binding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bound {
    pub(crate) name: String,
    /// `soapAction`.
    pub(crate) action: Option<String>,
    /// Where it differs from its binding.
    pub(crate) rpc: Option<bool>,
    /// `http:operation`'s.
    pub(crate) location: Option<String>,
    /// `soap:body`'s namespace and parts of the input.
    pub(crate) body_namespace: Option<String>,
    pub(crate) body_parts: Option<Vec<String>>,
}

/// `wsdl:service`.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) ports: Vec<Port>,
}

/// `wsdl:port`.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) binding: Option<Name>,
}

impl Wsdl {
    /// Reads a WSDL 1.1 document or an XML schema.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DescribeError> {
        read::read(bytes, &xml::decode(bytes)?)
    }

    pub(crate) fn spots(&self) -> &[Spot] {
        &self.spots
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            kind: if self.schema { Kind::XmlSchema } else { Kind::Wsdl },
            title: self
                .services
                .first()
                .map(|s| s.name.clone())
                .or_else(|| self.name.clone()),
            version: Some(self.namespace.clone()).filter(|n| !n.is_empty()),
            endpoints: self.addresses(crate::Location::Endpoint),
            operations: self.operations(),
            imports: self.addresses(crate::Location::Import),
        }
    }

    fn addresses(&self, location: crate::Location) -> Vec<String> {
        once(
            self.spots
                .iter()
                .filter(|s| s.location == location)
                .map(|s| s.value.as_str()),
        )
    }

    /// Of the port types; where a document only binds the operations of another one, of its bindings.
    fn operations(&self) -> Vec<Operation> {
        let declared = self.port_types.iter().flat_map(|port_type| {
            port_type.operations.iter().map(|operation| Operation {
                name: operation.name.clone(),
                one_way: operation.input.is_some() != operation.output.is_some(),
                callback: operation.output_first,
                ..self.over_http(Some(&port_type.name), &operation.name)
            })
        });
        let elsewhere = |binding: &&Binding| {
            let declares = |name: &Name| self.port_types.iter().any(|p| p.name == *name);
            !binding.port_type.as_ref().is_some_and(declares)
        };
        let mut named = std::collections::HashSet::new();
        let bound = self
            .bindings
            .iter()
            .filter(elsewhere)
            .flat_map(|b| b.operations.iter().map(move |o| (b, o)))
            .filter(|(b, o)| named.insert((b.port_type.as_ref(), o.name.as_str())))
            .map(|(binding, operation)| self.over_http(binding.port_type.as_ref(), &operation.name));
        declared.chain(bound.collect::<Vec<_>>()).collect()
    }

    /// An operation with method and path of the HTTP binding, if it has one.
    fn over_http(&self, port_type: Option<&Name>, operation: &str) -> Operation {
        let bound = self.bindings.iter().find_map(|binding| {
            let Protocol::Http(method) = &binding.protocol else {
                return None;
            };
            let here = binding.port_type.as_ref() == port_type;
            let bound = binding.operations.iter().find(|b| here && b.name == operation)?;
            Some((method.clone(), bound.location.clone()))
        });
        let (method, path) = bound.map_or((None, None), |(method, path)| (Some(method), path));
        Operation {
            name: operation.into(),
            method,
            path,
            one_way: false,
            callback: false,
        }
    }
}
