//! The broker's side inside the enterprise: who there is ([`directory`]), and how an event that an application publishes
//! reaches the right person's right device. Plaintext exists here and on that device only.

pub mod directory;
pub mod page;

pub use directory::{Directory, DirectoryError};
