//! Faults as problem documents (RFC 9457).
