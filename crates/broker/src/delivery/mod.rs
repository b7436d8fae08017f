//! How a delivery goes, without I/O: the machine takes what happened and a time, and says what is to be written, sealed and
//! explained. It holds what is not done; what is done lies in the outbox only.
//!
//! ```text
//! accepted ─► sealed ─► queued ─► sent ─► acked ─► opened
//!   ▲  ▲        │ the mailbox has no room: again, or with another number
//!   │  └────────┘
//! held (the user has no device)          and from anywhere: failed, expired, dropped, dead
//! ```

mod lane;
mod machine;
mod row;
#[cfg(test)]
mod tests;

pub use machine::{Ack, Effects, Machine, Work, apply};
pub use row::{AckPolicy, Event, Hash, MAX_HASHES, Row};

use hawser_proto::broker::DeliveryId;

/// A row: its event and its number there.
pub type Key = (DeliveryId, u32);
