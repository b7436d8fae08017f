//! The tunnel's side of a gateway: control connections to hubs, sessions with other gateways, renewal, joining, revocation.

pub mod routes;
