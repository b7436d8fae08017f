//! Services to be called: what a domain has behind its firewall.

pub mod cntlm;
pub mod collector;
pub mod database;
pub mod git;
pub mod http;
pub mod inbox;
pub mod python;
pub mod raw;
pub mod squid;
pub mod webdav;

pub use cntlm::Cntlm;
pub use collector::Collector;
pub use database::Postgres;
pub use git::GitServer;
pub use http::HttpOrigin;
pub use inbox::{Inbox, Letter, Letters};
pub use python::Python;
pub use raw::RawOrigin;
pub use squid::Squid;
pub use webdav::WebDav;
