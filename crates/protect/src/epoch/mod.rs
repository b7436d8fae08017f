//! The replication protocol of both roles, without I/O.
