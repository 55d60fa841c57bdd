//! How old the oldest commit is that a standby hasn't applied, and since when sessions wait: both from
//! looking often, since PostgreSQL keeps neither.
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::shared::millis;
use crate::clock::Moment;
use crate::messages::Replica;

/// How far each node has applied WAL, where it has said so. An old walsender may stand beside a node's new one: who has been
/// further is not behind.
pub fn applied(replicas: &[Replica]) -> BTreeMap<u8, u64> {
    let mut furthest: BTreeMap<u8, u64> = BTreeMap::new();
    for Replica { index, replay_lsn, .. } in replicas {
        if let Some(lsn) = *replay_lsn {
            furthest.entry(*index).and_modify(|known| *known = lsn.max(*known)).or_insert(lsn);
        }
    }
    furthest
}

/// Flush positions of the primary over time.
#[derive(Debug, Default)]
pub struct FlushHistory {
    samples: VecDeque<(Moment, u64)>,
}

impl FlushHistory {
    /// Notes a position; forgets what is older than `keep`, but for the newest of those.
    pub fn note(&mut self, now: Moment, lsn: u64, keep: Duration) {
        if self.samples.back().is_none_or(|(_, last)| *last < lsn) {
            self.samples.push_back((now, lsn));
        }
        while self.samples.len() > 1 && now.since(self.samples[1].0) > keep {
            self.samples.pop_front();
        }
    }

    /// Age of the oldest WAL past `replayed`; none when there is none.
    pub fn lag(&self, now: Moment, replayed: u64) -> Option<Duration> {
        self.samples.iter().find(|(_, lsn)| *lsn > replayed).map(|(at, _)| now.since(*at))
    }
}

/// The walsenders, with how old the oldest WAL is that the node of each lacks: zero where it lacks nothing, none where it hasn't
/// said what it has.
pub fn measured(replicas: &[Replica], flushes: &FlushHistory, now: Moment) -> Vec<Replica> {
    let furthest = applied(replicas);
    let lag = |index: u8| furthest.get(&index).map(|lsn| flushes.lag(now, *lsn).map_or(0, millis));
    replicas.iter().map(|replica| Replica { lag_ms: lag(replica.index), ..replica.clone() }).collect()
}

/// A node that was removed isn't added again for so long; each time that it was too slow, twice as long as the time before.
const RETURN: Duration = Duration::from_secs(1);
/// Longest such time.
const RETURN_MOST: Duration = Duration::from_secs(300);
/// After so long without that it begins anew.
const FORGIVEN: Duration = Duration::from_secs(3600);

/// When nodes that were removed, or given up, may be added again (R13).
#[derive(Debug, Default)]
pub struct Returns {
    slow: BTreeMap<u8, (u32, Moment)>,
}

impl Returns {
    /// For a node that has gone now; `slow` says that commits had to wait for it.
    pub fn after(&mut self, now: Moment, index: u8, slow: bool) -> Moment {
        if !slow {
            return now.after(RETURN);
        }
        let known = self.slow.get(&index).filter(|(_, at)| now.since(*at) < FORGIVEN);
        let before = known.map_or(0, |(times, _)| *times);
        self.slow.insert(index, (before.saturating_add(1), now));
        now.after(RETURN.saturating_mul(2_u32.saturating_pow(before)).min(RETURN_MOST))
    }
}

/// Sessions that wait for synchronous standbys, and when each was first seen to.
#[derive(Debug, Default)]
pub struct Waiters {
    seen: BTreeMap<(i32, i64), Moment>,
}

impl Waiters {
    /// Notes who waits now: process and start of its statement. Gives the first moment of the oldest.
    pub fn note(&mut self, now: Moment, waiting: &[(i32, i64)]) -> Option<Moment> {
        self.seen.retain(|key, _| waiting.contains(key));
        for key in waiting {
            self.seen.entry(*key).or_insert(now);
        }
        self.seen.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn replica(index: u8, replay_lsn: Option<u64>) -> Replica {
        Replica {
            index,
            incarnation: "copy".to_owned(),
            state: "streaming".to_owned(),
            priority: 1,
            replay_lsn,
            reply_age_ms: None,
            lag_ms: None,
            address: None,
        }
    }

    #[test]
    fn a_node_that_is_too_slow_again_and_again_comes_back_later_each_time() {
        let mut returns = Returns::default();
        let mut now = Moment::from_millis(10_000);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let then = returns.after(now, 1, true);
            pauses.push(then.since(now).as_secs());
            now = then;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(returns.after(now, 1, false), now.after(RETURN), "it was restarted");
        assert_eq!(returns.after(now, 2, true), now.after(RETURN));
        let later = now.after(FORGIVEN * 2);
        assert_eq!(returns.after(later, 1, true), later.after(RETURN));
    }

    #[test]
    fn of_two_walsenders_of_a_node_the_one_that_is_further_counts() {
        let seen = [
            replica(1, Some(7)),
            replica(2, Some(5)),
            replica(1, Some(3)),
            replica(3, None),
            replica(2, None),
        ];
        assert_eq!(applied(&seen), BTreeMap::from([(1, 7), (2, 5)]), "what hasn't been said isn't known");
    }

    #[test]
    fn a_node_that_lacks_nothing_has_no_lag_and_of_one_that_says_nothing_none_is_known() {
        let mut history = FlushHistory::default();
        for (millis, lsn) in [(0, 100), (1000, 200), (3000, 300)] {
            history.note(at(millis), lsn, Duration::from_secs(60));
        }
        // Node 2 has an old walsender beside its new one.
        let seen = [(1, Some(300)), (2, Some(100)), (2, Some(200)), (3, None), (4, Some(100))];
        let seen = seen.map(|(index, replay_lsn)| replica(index, replay_lsn));
        let told = measured(&seen, &history, at(4500));
        let lags: Vec<(u8, Option<u64>)> =
            told.iter().map(|replica| (replica.index, replica.lag_ms)).collect();
        assert_eq!(lags, [(1, Some(0)), (2, Some(1500)), (2, Some(1500)), (3, None), (4, Some(3500))]);
        assert!(told.iter().zip(&seen).all(|(told, seen)| told.replay_lsn == seen.replay_lsn));
    }

    #[test]
    fn lag_is_the_age_of_the_first_position_that_is_missing() {
        let mut history = FlushHistory::default();
        for (millis, lsn) in [(0, 100), (1000, 200), (2000, 200), (3000, 300)] {
            history.note(at(millis), lsn, Duration::from_secs(60));
        }
        assert_eq!(history.lag(at(4000), 300), None);
        assert_eq!(history.lag(at(4000), 250), Some(Duration::from_secs(1)));
        assert_eq!(history.lag(at(4000), 100), Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_is_forgotten_never_makes_a_lag_look_small() {
        let mut history = FlushHistory::default();
        for k in 0..100 {
            history.note(at(k * 1000), k, Duration::from_secs(10));
        }
        assert!(history.samples.len() <= 13);
        assert!(history.lag(at(99_000), 0).unwrap() >= Duration::from_secs(10));
    }

    #[test]
    fn a_session_that_waits_again_waits_anew() {
        let mut waiters = Waiters::default();
        assert_eq!(waiters.note(at(1), &[(7, 1)]), Some(at(1)));
        assert_eq!(waiters.note(at(5), &[(7, 1), (8, 1)]), Some(at(1)));
        assert_eq!(waiters.note(at(9), &[(7, 2), (8, 1)]), Some(at(5)));
        assert_eq!(waiters.note(at(9), &[]), None);
    }
}
