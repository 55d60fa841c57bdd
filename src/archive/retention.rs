//! What goes from the archive by age and size: decided by what is there alone.
use std::path::PathBuf;

use jiff::Timestamp;

use super::{Kind, Policy, WalFile};

/// Of a volume, so much stays free of WAL that is kept for a recovery: one part of so many.
const FREE_PART: u64 = 5;
/// And no less than that, in bytes.
const FREE_LEAST: u64 = 128 << 20;

/// An archived file.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which.
    pub file: WalFile,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it takes.
    pub bytes: u64,
    /// When it was archived.
    pub since: Timestamp,
}

/// The room of the archive's volume.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes of all of it.
    pub size: u64,
}

impl Room {
    /// Whether there is room for more WAL than age and size allow: a volume that is full stops PostgreSQL, and that is
    /// worse than a recovery that begins anew.
    pub fn is_ample(self) -> bool {
        self.free >= FREE_LEAST.max(self.size / FREE_PART)
    }
}

/// Those of `held`, which are ordered by age, that go: the oldest, as long as they are too old or together with `extra`
/// bytes too much. What a recovery under way may need stays in spite of both while there is room, up to twice as much.
pub fn due(held: Vec<Held>, policy: &Policy, mut room: Room, extra: u64, now: Timestamp) -> Vec<Held> {
    let mut left = held.iter().map(|held| held.bytes).sum::<u64>().saturating_add(extra);
    let segments = held.into_iter().filter(|held| held.file.kind() != Kind::History);
    let go = segments.take_while(|held| {
        let past = is_old(held, policy, now) || policy.max_bytes.is_some_and(|limit| left > limit);
        let goes = past && !(may_be_needed(held, policy) && room.is_ample() && is_bounded(left, policy));
        if goes {
            left = left.saturating_sub(held.bytes);
            room.free = room.free.saturating_add(held.bytes);
        }
        goes
    });
    go.collect()
}

fn is_old(held: &Held, policy: &Policy, now: Timestamp) -> bool {
    let limit = policy.retention_seconds.and_then(|seconds| i64::try_from(seconds).ok());
    limit.is_some_and(|limit| now.duration_since(held.since).as_secs() > limit)
}

/// Whether all of it is at most twice what the spec allows: the volume may be a folder of the machine's disk, whose room is others'.
fn is_bounded(left: u64, policy: &Policy) -> bool {
    policy.max_bytes.is_none_or(|limit| left <= limit.saturating_mul(2))
}

fn may_be_needed(held: &Held, policy: &Policy) -> bool {
    policy.keep_since.is_some_and(|since| held.since >= since)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const MEBI: u64 = 1 << 20;
    const NONE: [i64; 0] = [];
    const WIDE: Room = Room { free: 500 * MEBI, size: 1000 * MEBI };

    fn after(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    /// Segments 1 to 9 of 10 MiB, archived at 10 to 90 seconds, behind a history file.
    fn archive() -> Vec<Held> {
        let held = |name: &str, since| Held {
            file: WalFile::parse(name).unwrap(),
            path: PathBuf::from(name),
            bytes: 10 * MEBI,
            since: after(since),
        };
        let segments = (1..10).map(|number| held(&format!("00000001000000000000000{number}"), 10 * number));
        [held("00000001.history", 0)].into_iter().chain(segments).collect()
    }

    /// When those that go at 100 seconds were archived.
    fn gone(policy: &Policy, room: Room) -> Vec<i64> {
        due(archive(), policy, room, 0, after(100)).iter().map(|held| held.since.as_second()).collect()
    }

    fn kept_since(seconds: i64) -> Policy {
        Policy { retention_seconds: Some(25), max_bytes: Some(50 * MEBI), keep_since: Some(after(seconds)) }
    }

    #[test]
    fn without_a_recovery_age_and_size_decide() {
        let policy = |retention_seconds, max_bytes| Policy { retention_seconds, max_bytes, keep_since: None };
        assert_eq!(gone(&policy(None, None), WIDE), NONE);
        assert_eq!(gone(&policy(Some(75), None), WIDE), [10, 20]);
        assert_eq!(
            gone(&policy(None, Some(70 * MEBI)), WIDE),
            [10, 20, 30],
            "the history file counts and stays"
        );
        assert_eq!(gone(&policy(Some(75), Some(90 * MEBI)), WIDE), [10, 20]);
        assert_eq!(gone(&policy(Some(75), Some(70 * MEBI)), WIDE), [10, 20, 30]);
        assert_eq!(due(archive(), &policy(None, Some(100 * MEBI)), WIDE, MEBI, after(100)).len(), 1);
    }

    #[test]
    fn what_a_recovery_may_need_stays_whatever_its_age_and_size() {
        assert_eq!(gone(&kept_since(200), WIDE), [10, 20, 30, 40, 50, 60, 70], "nothing is kept");
        assert_eq!(gone(&kept_since(40), WIDE), [10, 20, 30], "from its beginning on");
        assert_eq!(gone(&kept_since(0), WIDE), NONE);
    }

    #[test]
    fn no_more_than_twice_the_size_is_kept() {
        let policy = |mebi: u64| Policy { max_bytes: Some(mebi * MEBI), ..kept_since(0) };
        assert_eq!(gone(&policy(50), WIDE), NONE);
        assert_eq!(gone(&policy(49), WIDE), [10]);
        assert_eq!(gone(&policy(30), WIDE), [10, 20, 30, 40]);
    }

    #[test]
    fn where_room_is_short_the_oldest_go_all_the_same_but_no_more_than_without() {
        let room = |free| Room { free, ..WIDE };
        assert_eq!(gone(&kept_since(0), room(200 * MEBI)), NONE);
        assert_eq!(gone(&kept_since(0), room(199 * MEBI)), [10], "until there is room again");
        assert_eq!(gone(&kept_since(0), room(175 * MEBI)), [10, 20, 30]);
        assert_eq!(gone(&kept_since(40), room(165 * MEBI)), [10, 20, 30, 40], "what isn't kept counts first");
        assert_eq!(gone(&kept_since(0), room(0)), [10, 20, 30, 40, 50, 60, 70]);
        // A small volume.
        let small = |free| Room { free, size: 256 * MEBI };
        assert_eq!(gone(&kept_since(0), small(128 * MEBI)), NONE);
        assert_eq!(gone(&kept_since(0), small(127 * MEBI)), [10]);
    }
}
