//! Namespaces of SOAP and of what speaks of addresses in it.

/// Whose name an element has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// SOAP 1.1 envelope.
    Soap11,
    /// SOAP 1.2 envelope.
    Soap12,
    /// WS-Addressing, 2004/08 and 2005/08.
    Addressing,
    /// WS-Eventing, 2004/08 and the W3C's of 2011.
    Eventing,
    /// WS-ReliableMessaging, 2005/02 and 1.1.
    Reliable,
    /// WS-BaseNotification 1.3.
    Notification,
    /// WS-Security 1.0 and the drafts before it.
    Security,
    /// XML Signature.
    Signature,
    /// Any other.
    Other,
}

impl Family {
    pub(super) fn of(namespace: &str) -> Self {
        match namespace {
            "http://schemas.xmlsoap.org/soap/envelope/" => Self::Soap11,
            "http://www.w3.org/2003/05/soap-envelope" => Self::Soap12,
            "http://www.w3.org/2005/08/addressing" | "http://schemas.xmlsoap.org/ws/2004/08/addressing" => {
                Self::Addressing
            }
            "http://schemas.xmlsoap.org/ws/2004/08/eventing" | "http://www.w3.org/2011/03/ws-evt" => {
                Self::Eventing
            }
            "http://schemas.xmlsoap.org/ws/2005/02/rm" | "http://docs.oasis-open.org/ws-rx/wsrm/200702" => {
                Self::Reliable
            }
            "http://docs.oasis-open.org/wsn/b-2" => Self::Notification,
            "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
            | "http://schemas.xmlsoap.org/ws/2003/06/secext"
            | "http://schemas.xmlsoap.org/ws/2002/12/secext"
            | "http://schemas.xmlsoap.org/ws/2002/07/secext"
            | "http://schemas.xmlsoap.org/ws/2002/04/secext" => Self::Security,
            "http://www.w3.org/2000/09/xmldsig#" => Self::Signature,
            _ => Self::Other,
        }
    }
}
