//! When an automatic recovery that failed is tried again.
use std::time::Duration;

use jiff::Timestamp;

use crate::model::Backoff;

/// After that many failures a person is called.
pub const GIVE_UP_AFTER: u32 = 5;

/// The wait after so many failures in a row: 1, 2, 5, 10 minutes; none when it isn't tried again.
pub fn delay(failures: u32) -> Option<Duration> {
    let minutes = match failures {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 5,
        n if n < GIVE_UP_AFTER => 10,
        _ => return None,
    };
    Some(Duration::from_secs(60 * minutes))
}

/// Whether a node may be tried now.
pub fn is_due(backoff: Option<&Backoff>, now: Timestamp) -> bool {
    let Some(backoff) = backoff else { return true };
    delay(backoff.failures).is_some_and(|delay| now.duration_since(backoff.last).unsigned_abs() >= delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_grow_and_then_a_person_is_called() {
        let minutes: Vec<_> = (0..7).map(|n| delay(n).map(|d| d.as_secs() / 60)).collect();
        assert_eq!(minutes, [Some(0), Some(1), Some(2), Some(5), Some(10), None, None]);
    }

    #[test]
    fn a_node_is_due_when_its_wait_is_over() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let failed = |failures| Backoff { failures, last: at(1000) };
        assert!(is_due(None, at(0)));
        assert!(!is_due(Some(&failed(2)), at(1119)));
        assert!(is_due(Some(&failed(2)), at(1120)));
        assert!(!is_due(Some(&failed(GIVE_UP_AFTER)), at(1_000_000)));
    }
}
