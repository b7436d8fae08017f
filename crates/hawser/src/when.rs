//! Times and spans for people.

use std::time::{Duration, SystemTime};

use hawser_proto::UnixTime;

/// `2026-03-01 12:00:00 UTC`.
pub(crate) fn date(t: UnixTime) -> String {
    let t = SystemTime::UNIX_EPOCH + Duration::from_secs(t.0.min(MAX));
    let text = humantime::format_rfc3339_seconds(t).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// `in 3h 5m`, `5m ago`, `now`.
pub(crate) fn relative(t: UnixTime) -> String {
    let now = UnixTime::now();
    match (now.until(t), t.until(now)) {
        (Duration::ZERO, Duration::ZERO) => "now".into(),
        (Duration::ZERO, ago) => format!("{} ago", span(ago)),
        (ahead, _) => format!("in {}", span(ahead)),
    }
}

/// The two largest units of a span.
pub(crate) fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..172_800 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86400, s % 86400 / 3600),
    }
}

/// The end of the year 9999, the last that is written with four digits.
const MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        assert_eq!(span(Duration::from_secs(59)), "59s");
        assert_eq!(span(Duration::from_secs(3 * 3600 + 300)), "3h 5m");
        assert_eq!(date(UnixTime(0)), "1970-01-01 00:00:00 UTC");
        assert!(relative(UnixTime::now().plus(Duration::from_secs(600))).starts_with("in "));
    }
}
