//! The broker's side inside the enterprise: who there is ([`directory`]), and how an event that an application publishes
//! reaches the right person's right device ([`delivery`], [`outbox`]). Plaintext exists here and on that device only.

pub mod delivery;
pub mod directory;
pub mod outbox;
pub mod page;

pub use directory::{Directory, DirectoryError};
