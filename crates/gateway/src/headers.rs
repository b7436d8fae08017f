//! Which headers pass a gateway, and which it sets (RFC 9110, RFC 7239).
