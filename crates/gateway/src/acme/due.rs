//! When a certificate is to be renewed, and when a failed attempt is made again. Pure.

use std::time::Duration;

use hawser_proto::UnixTime;

use crate::links::chance::Chance;

/// Wait after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(10);
/// The same after the authority looked and said no: authorities count that, and few are free.
const FIRST_REFUSED: Duration = Duration::from_secs(15 * 60);
/// Longest wait between attempts.
const MOST: Duration = Duration::from_secs(6 * 3600);

/// When a certificate with this life is to be renewed: when a third is left, or up to a thirtieth of its life earlier, so that
/// gateways that started together do not come together.
pub(super) fn renewal((from, to): (UnixTime, UnixTime), chance: &Chance) -> UnixTime {
    let life = from.until(to);
    let early = (life / 30).mul_f64(chance.fraction());
    from.plus((life * 2 / 3).saturating_sub(early))
}

/// The wait after `failures` in a row, the last of them a refusal or not. With `left` until the certificate in use ends, it is not
/// over a quarter of that.
pub(super) fn retry(failures: u32, refused: bool, left: Option<Duration>, chance: &Chance) -> Duration {
    let first = if refused { FIRST_REFUSED } else { FIRST };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let most = match left {
        Some(left) if !refused => (left / 4).clamp(FIRST, MOST),
        _ => MOST,
    };
    doubled.min(most).mul_f64(0.5 + chance.fraction() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_is_left_at_renewal() {
        let chance = Chance::seeded(1);
        for _ in 0..100 {
            let UnixTime(at) = renewal((UnixTime(1000), UnixTime(1000 + 9000)), &chance);
            assert!((1000 + 5700..=1000 + 6000).contains(&at), "{at}");
        }
    }

    #[test]
    fn waits_double_within_bounds_and_shorten_as_the_end_comes_near() {
        let chance = Chance::seeded(1);
        let s = Duration::from_secs;
        for (failures, nominal) in [(1, 10), (2, 20), (3, 40), (9, 2560), (30, 6 * 3600)] {
            let wait = retry(failures, false, None, &chance);
            assert!(wait >= s(nominal) / 2 && wait <= s(nominal), "{wait:?}");
        }
        assert!(retry(1, true, None, &chance) >= s(450));
        assert!(retry(30, false, Some(s(400)), &chance) <= s(100));
        assert!(retry(30, false, Some(Duration::ZERO), &chance) >= s(5));
        assert!(
            retry(5, true, Some(s(400)), &chance) >= s(3600),
            "the authority counts refusals"
        );
    }
}
