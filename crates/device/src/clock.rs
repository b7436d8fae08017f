//! The server's clock, as far as its answers tell: proofs must be made by it.

use std::sync::atomic::{AtomicI64, Ordering};

use hawser_proto::UnixTime;

/// How far the server's clock is from this machine's.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicI64);

impl Clock {
    /// Now, by the server's clock.
    pub(crate) fn now(&self) -> UnixTime {
        let own = UnixTime::now().0;
        UnixTime(own.saturating_add_signed(self.0.load(Ordering::Relaxed)))
    }

    /// Takes the time of an answer's `Date`. True, if that changes much.
    pub(crate) fn learn(&self, date: &str) -> bool {
        let Some(theirs) = parse(date) else { return false };
        let offset = theirs.wrapping_sub(UnixTime::now().0) as i64;
        let before = self.0.swap(offset, Ordering::Relaxed);
        before.abs_diff(offset) > 5
    }
}

/// An HTTP date (RFC 9110, section 5.6.7).
fn parse(date: &str) -> Option<u64> {
    use time::{OffsetDateTime, format_description::well_known::Rfc2822};
    let at = OffsetDateTime::parse(date, &Rfc2822).ok()?;
    u64::try_from(at.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse("yesterday"), None);
        let clock = Clock::default();
        assert!(clock.learn("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(clock.now().0.abs_diff(784_111_777) < 5);
    }
}
