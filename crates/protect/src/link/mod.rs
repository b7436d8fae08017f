//! Mutual TLS between two hosts, and the authenticated heartbeats beside it.
