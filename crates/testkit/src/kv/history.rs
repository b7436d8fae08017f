//! What clients saw, in their own time.

use std::time::Duration;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// To set the key to a value that no other write of the history has.
    Write(String),
    /// To read the key.
    Read,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The write is done; it is this one in the order of all writes.
    Written(u64),
    /// What the key held, and the place of that write in the order of all; none if it was never written.
    Read(Option<(u64, String)>),
    /// The connection broke or was given up: it may have happened or not, and may still happen.
    Unknown,
}

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Number of the connection.
    pub connection: usize,
    /// The key that it is about.
    pub key: String,
    /// What was asked.
    pub kind: Kind,
    /// When it was sent, since the clients started.
    pub invoked: Duration,
    /// When it was answered or given up.
    pub returned: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// All operations of some clients, in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
    /// Why connections ended before they were told to; empty if all lived.
    pub broken: Vec<String>,
}

impl History {
    /// Writes that were acknowledged: place in the order of all writes, key, value.
    pub fn acknowledged(&self) -> impl Iterator<Item = (u64, &str, &str)> {
        self.operations
            .iter()
            .filter_map(|o| match (&o.kind, &o.outcome) {
                (Kind::Write(value), Outcome::Written(sequence)) => {
                    Some((*sequence, o.key.as_str(), value.as_str()))
                }
                _ => None,
            })
    }

    /// The longest time in which no answer came on any connection, and when it began. It is what a client notices of an outage.
    pub fn longest_gap(&self) -> (Duration, Duration) {
        let mut longest = (Duration::ZERO, Duration::ZERO);
        for pair in self.operations.windows(2) {
            let gap = pair[1].returned.saturating_sub(pair[0].returned);
            if gap > longest.0 {
                longest = (gap, pair[0].returned);
            }
        }
        longest
    }

    /// The longest time that one request waited for its answer.
    pub fn longest_wait(&self) -> Duration {
        let waits = self
            .operations
            .iter()
            .map(|o| o.returned.saturating_sub(o.invoked));
        waits.max().unwrap_or_default()
    }
}
