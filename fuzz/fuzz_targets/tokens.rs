//! Any text as a token, a name or an address: refused, or printed the same way again.
#![no_main]

use hawser_identity::{AnyToken, Fingerprint, HubAddress};
use hawser_proto::{DomainName, NodeId, ServiceId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = AnyToken::parse(text);
    let _ = text.parse::<HubAddress>().map(|a| assert_eq!(a.to_string().parse::<HubAddress>().as_ref(), Ok(&a)));
    let _ = text.parse::<Fingerprint>().map(|f| assert_eq!(f.to_string().parse(), Ok(f)));
    let _ = text.parse::<DomainName>().map(|n| assert_eq!(n.as_str(), text));
    let _ = text.parse::<ServiceId>().map(|n| assert_eq!(n.to_string(), text));
    let _ = text.parse::<NodeId>().map(|n| assert_eq!(n.to_string(), text));
});
