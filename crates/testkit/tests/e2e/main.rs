//! End-to-end tests: real networks, the real binary, real clients and servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acme;
mod blind;
mod broker;
mod bulk;
mod calls;
mod documents;
mod endings;
mod ground;
mod ingress;
mod inspector;
mod lives;
mod oidc;
mod page;
mod protect;
mod publish;
mod refusals;
mod renewal;
mod revocation;
mod secrets;
mod stacks;
mod talk;
mod traces;
mod two_nodes;
mod twoway;
mod waiting;
mod ways_in;
mod ways_out;
