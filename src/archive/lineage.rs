//! Which archived WAL belongs to the pool's history.
//!
//! An old primary may have archived WAL past the point at which its timeline was left, and a promotion that was
//! cut off leaves files of a timeline that nobody follows. A standby that replayed either would hold other data
//! than the pool.
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Kind, WalFile};

/// A timeline of the history.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its number.
    pub timeline: u32,
    /// Position, as bytes, at which it was left for the next; none for the one in use.
    pub end: Option<u64>,
}

/// The pool's history as an agent knows it; kept in the volume for `restore-wal`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// The timelines, the oldest first.
    pub branches: Vec<Branch>,
}

impl Lineage {
    /// Whether the file may be replayed. The segment in which a timeline was left stands in the next one too, up
    /// to that point, so it is never needed from the old one.
    pub fn admits(&self, file: &WalFile) -> bool {
        let Some(branch) = self.branches.iter().find(|b| b.timeline == file.timeline()) else { return false };
        match (branch.end, file.kind()) {
            (None, _) | (Some(_), Kind::History) => true,
            (Some(end), _) => self.last_byte(file).is_some_and(|last| last < end),
        }
    }

    /// Position of the segment's last byte: the name has the upper half of a position, and the number of the
    /// segment in it (PostgreSQL source, `XLogFileName`).
    fn last_byte(&self, file: &WalFile) -> Option<u64> {
        let position = file.position()?;
        let (upper, segment) = (position >> 32, position & 0xFFFF_FFFF);
        let start = (upper << 32).checked_add(segment.checked_mul(self.segment_bytes)?)?;
        start.checked_add(self.segment_bytes.checked_sub(1)?)
    }
}

/// Whether the file may be replayed by the list in `path`; without a list any may, and by one that can't be read
/// none.
pub(super) fn admits(path: &Path, file: &WalFile) -> bool {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice::<Lineage>(&text).is_ok_and(|lineage| lineage.admits(file)),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(name: &str) -> bool {
        let branch = |timeline, end| Branch { timeline, end };
        let lineage = Lineage {
            segment_bytes: 16 << 20,
            branches: vec![branch(1, Some(0x0700_0110)), branch(3, Some(0x1_0000_0000)), branch(4, None)],
        };
        lineage.admits(&WalFile::parse(name).unwrap())
    }

    #[test]
    fn wal_past_a_fork_and_of_other_timelines_is_refused() {
        assert!(admits("000000010000000000000006"), "it ends before the fork");
        assert!(!admits("000000010000000000000007"), "the fork lies in it");
        assert!(!admits("000000010000000000000008"));
        assert!(!admits("000000020000000000000006"), "a timeline that was given out and never followed");
        assert!(admits("0000000300000000000000FF"), "it ends at the fork");
        assert!(!admits("000000030000000100000000"));
        assert!(admits("000000040000000100000000"));
        assert!(admits("00000003.history") && !admits("00000002.history") && !admits("00000005.history"));
    }
}
