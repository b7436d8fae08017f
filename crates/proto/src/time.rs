//! Wall-clock time on the wire.

use std::time::{Duration, SystemTime};

use minicbor::{Decode, Encode};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Encode,
    Decode,
    serde::Serialize,
    serde::Deserialize,
)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct UnixTime(#[n(0)] pub u64);

impl UnixTime {
    /// The machine's clock, now.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// This time and `d` later; saturates.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d.as_secs()))
    }

    /// How long until `later`; zero when it has passed.
    pub fn until(self, later: UnixTime) -> Duration {
        Duration::from_secs(later.0.saturating_sub(self.0))
    }
}

impl From<SystemTime> for UnixTime {
    fn from(t: SystemTime) -> Self {
        Self(
            t.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        )
    }
}
