//! The record and its legal changes (docs/membership.md, "The record"; R1).
use super::starting::TakenUp;
use crate::api::v1alpha1::{Member, Phase, Record};

/// Longest reason that the API server takes, in characters.
const REASON_CHARS: usize = 512;
/// Most members of a record.
const MEMBERS: usize = 15;

/// Why a change of the record is refused; the same rules stand in the CRD.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Illegal {
    /// The first record is not the bootstrap node alone.
    #[error(
        "the first record has epoch 1 (a later one where the pool adopts data) and holds node {bootstrap} alone, as the \
         primary"
    )]
    First {
        /// The node that starts the pool.
        bootstrap: u8,
    },
    /// The epoch does not follow.
    #[error("epoch {new} does not follow epoch {old}: each change raises it by exactly 1")]
    Epoch {
        /// Epoch of the record that is changed.
        old: i64,
        /// Epoch of the change.
        new: i64,
    },
    /// The primary is missing.
    #[error("the primary, node {primary}, is not an attached node")]
    PrimaryNotAttached {
        /// Index of the primary.
        primary: u8,
    },
    /// The primary changes without an election.
    #[error("the primary changes from node {old} to node {new} without an election")]
    PrimaryChanged {
        /// The primary in office.
        old: u8,
        /// The other.
        new: u8,
    },
    /// A node is added when nobody is in office to add it.
    #[error("node {index} is added during or together with an election")]
    AddedInElection {
        /// Index of the node.
        index: u8,
    },
    /// One change adds and removes.
    #[error("one change adds node {added} and removes node {removed}")]
    AddsAndRemoves {
        /// Index of the node that is added.
        added: u8,
        /// Index of the node that is removed.
        removed: u8,
    },
    /// More than one node is added.
    #[error("{count} nodes are added at once")]
    AddsMany {
        /// How many.
        count: usize,
    },
    /// The timeline goes down.
    #[error("the timeline goes down from {old} to {new}")]
    TimelineDown {
        /// Timeline of the record that is changed.
        old: u32,
        /// Timeline of the change.
        new: u32,
    },
    /// A timeline is handed out without an election.
    #[error("timeline {new} is handed out without an election")]
    TimelineWithoutElection {
        /// Timeline of the change.
        new: u32,
    },
    /// Another primary takes over the timeline of the last.
    #[error("node {primary} becomes the primary on timeline {timeline}, which another has written")]
    TimelineKept {
        /// Index of the new primary.
        primary: u8,
        /// Timeline of both records.
        timeline: u32,
    },
    /// What belongs to an election stands in a record of a primary in office.
    #[error("successor and stopped belong to an election")]
    NotElecting,
    /// The members are not well formed.
    #[error("the attached nodes are not 1 to 15 nodes, each once, in order, each with an incarnation")]
    Members,
    /// A node that is to be removed is not there.
    #[error("node {index} is not attached")]
    NotAttached {
        /// Index of the node.
        index: u8,
    },
    /// A node that is to be added is there.
    #[error("node {index} is attached already")]
    AlreadyAttached {
        /// Index of the node.
        index: u8,
    },
}

/// The first record of a pool: its bootstrap node alone.
pub fn first(member: Member, timeline: u32, fork_lsn: u64) -> Record {
    Record {
        epoch: 1,
        phase: Phase::Serving,
        primary: member.index,
        reason: format!("node {} made the first copy of the data", member.index),
        attached: vec![member],
        timeline,
        fork_lsn: super::lsn::print(fork_lsn),
        successor: None,
        stopped: false,
    }
}

/// The first record of a pool that goes on with the data of an earlier one: epoch and timeline are above all that this
/// data has seen.
pub fn taken_up(member: Member, taken: &TakenUp, fork_lsn: u64) -> Record {
    let reason = format!("node {} goes on with the data of an earlier pool", member.index);
    Record { epoch: taken.epoch.saturating_add(1), reason, ..first(member, taken.timeline, fork_lsn) }
}

/// The record without node `index`.
pub fn shrink(record: &Record, index: u8, reason: &str) -> Result<Record, Illegal> {
    shrink_all(record, &[index], reason)
}

/// The record without the nodes `indices`; removing several takes one write.
pub fn shrink_all(record: &Record, indices: &[u8], reason: &str) -> Result<Record, Illegal> {
    if let Some(&index) = indices.iter().find(|&&i| !record.attached.iter().any(|m| m.index == i)) {
        return Err(Illegal::NotAttached { index });
    }
    let mut new = touch(record, reason)?;
    new.attached.retain(|m| !indices.contains(&m.index));
    checked(record, new)
}

/// The record with one more node.
pub fn grow(record: &Record, member: Member, reason: &str) -> Result<Record, Illegal> {
    if record.attached.iter().any(|m| m.index == member.index) {
        return Err(Illegal::AlreadyAttached { index: member.index });
    }
    let mut new = touch(record, reason)?;
    new.attached.push(member);
    new.attached.sort();
    checked(record, new)
}

/// The same set once more: its epoch makes every write that is still under way void.
pub fn touch(record: &Record, reason: &str) -> Result<Record, Illegal> {
    let mut new = record.clone();
    new.epoch += 1;
    new.reason = reason.chars().take(REASON_CHARS).collect();
    checked(record, new)
}

/// The record that begins an election: the set as it is, nobody in office (R2). `stopped` is the word of
/// the primary's own agent (R5); `successor` wins a tie (R14).
pub fn depose(
    record: &Record,
    successor: Option<u8>,
    stopped: bool,
    reason: &str,
) -> Result<Record, Illegal> {
    let mut new = record.clone();
    new.epoch += 1;
    new.reason = reason.chars().take(REASON_CHARS).collect();
    (new.phase, new.successor, new.stopped) = (Phase::Electing, successor, stopped);
    checked(record, new)
}

/// The record that ends an election: `primary` in office over `attached`. Another primary than the last
/// one begins a timeline of its own, reserved here before it promotes (hole 8.2 of the measurements).
pub fn elect(
    record: &Record,
    primary: u8,
    attached: Vec<Member>,
    fork_lsn: u64,
    reason: &str,
) -> Result<Record, Illegal> {
    let mut new = record.clone();
    new.epoch += 1;
    new.reason = reason.chars().take(REASON_CHARS).collect();
    (new.phase, new.successor, new.stopped) = (Phase::Serving, None, false);
    if primary != record.primary {
        new.timeline += 1;
        new.fork_lsn = super::lsn::print(fork_lsn);
    }
    (new.primary, new.attached) = (primary, attached);
    new.attached.sort();
    checked(record, new)
}

fn checked(old: &Record, new: Record) -> Result<Record, Illegal> {
    check(Some(old), &new, 0, false)?;
    Ok(new)
}

/// Whether the API server will take `new` in place of `old`. `bootstrap` and `adopts`, of the spec, matter for the first
/// record only.
pub fn check(old: Option<&Record>, new: &Record, bootstrap: u8, adopts: bool) -> Result<(), Illegal> {
    well_formed(new)?;
    let Some(old) = old else { return check_first(new, bootstrap, adopts) };
    if old == new {
        return Ok(());
    }
    if new.epoch != old.epoch.saturating_add(1) {
        return Err(Illegal::Epoch { old: old.epoch, new: new.epoch });
    }
    let electing = old.phase == Phase::Electing;
    if new.primary != old.primary && !(electing && new.phase == Phase::Serving) {
        return Err(Illegal::PrimaryChanged { old: old.primary, new: new.primary });
    }
    check_members(old, new)?;
    if new.timeline < old.timeline {
        return Err(Illegal::TimelineDown { old: old.timeline, new: new.timeline });
    }
    if new.timeline != old.timeline && !electing {
        return Err(Illegal::TimelineWithoutElection { new: new.timeline });
    }
    if new.primary != old.primary && new.timeline == old.timeline {
        return Err(Illegal::TimelineKept { primary: new.primary, timeline: new.timeline });
    }
    Ok(())
}

fn well_formed(new: &Record) -> Result<(), Illegal> {
    let ordered = new.attached.windows(2).all(|pair| pair[0].index < pair[1].index);
    let sized = !new.attached.is_empty() && new.attached.len() <= MEMBERS;
    let named =
        new.attached.iter().all(|m| (1..=40).contains(&m.incarnation.chars().count()) && m.index < 15);
    if !(ordered && sized && named) {
        return Err(Illegal::Members);
    }
    if !new.attached.iter().any(|m| m.index == new.primary) {
        return Err(Illegal::PrimaryNotAttached { primary: new.primary });
    }
    if new.phase == Phase::Serving && (new.successor.is_some() || new.stopped) {
        return Err(Illegal::NotElecting);
    }
    Ok(())
}

fn check_first(new: &Record, bootstrap: u8, adopts: bool) -> Result<(), Illegal> {
    let alone = new.attached.len() == 1 && new.primary == bootstrap;
    let epoch = new.epoch == 1 || (adopts && new.epoch > 1);
    if epoch && new.phase == Phase::Serving && alone {
        return Ok(());
    }
    Err(Illegal::First { bootstrap })
}

fn check_members(old: &Record, new: &Record) -> Result<(), Illegal> {
    let mut added = new.attached.iter().filter(|m| !old.attached.contains(m));
    let removed = old.attached.iter().find(|m| !new.attached.contains(m));
    let Some(first) = added.next() else { return Ok(()) };
    let in_office = old.phase == Phase::Serving && new.phase == Phase::Serving && old.primary == new.primary;
    if !in_office {
        return Err(Illegal::AddedInElection { index: first.index });
    }
    if let Some(removed) = removed {
        return Err(Illegal::AddsAndRemoves { added: first.index, removed: removed.index });
    }
    match added.count() {
        0 => Ok(()),
        more => Err(Illegal::AddsMany { count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(index: u8) -> Member {
        Member { index, incarnation: format!("copy{index}") }
    }

    fn two() -> Record {
        grow(&first(member(0), 1, 0), member(1), "added").unwrap()
    }

    /// The record after a change; its epoch follows unless the change says otherwise.
    fn changed(change: impl FnOnce(&mut Record)) -> Result<(), Illegal> {
        let old = two();
        let mut new = Record { epoch: old.epoch + 1, ..old.clone() };
        change(&mut new);
        check(Some(&old), &new, 0, false)
    }

    #[test]
    fn growing_and_shrinking_lead_back() {
        let one = first(member(0), 1, 0);
        assert_eq!(check(None, &one, 0, false), Ok(()));
        assert_eq!(two().epoch, 2);
        let back = shrink(&two(), 1, &"x".repeat(600)).unwrap();
        assert_eq!((back.epoch, back.attached, back.reason.len()), (3, one.attached.clone(), 512));
        assert_eq!(shrink(&one, 1, ""), Err(Illegal::NotAttached { index: 1 }));
        assert_eq!(shrink(&two(), 0, ""), Err(Illegal::PrimaryNotAttached { primary: 0 }));
        assert_eq!(
            grow(&two(), Member { index: 1, incarnation: "other".to_owned() }, ""),
            Err(Illegal::AlreadyAttached { index: 1 })
        );
        assert_eq!(touch(&one, "").unwrap().attached, one.attached);
    }

    #[test]
    fn a_pool_that_adopts_data_begins_above_all_that_it_has_seen() {
        let new = taken_up(member(2), &TakenUp { epoch: 12, timeline: 5 }, 0);
        assert_eq!((new.epoch, new.timeline, new.primary, new.attached.len()), (13, 5, 2, 1));
        assert_eq!(check(None, &new, 2, true), Ok(()));
        assert_eq!(check(None, &new, 2, false), Err(Illegal::First { bootstrap: 2 }));
        assert_eq!(check(None, &new, 0, true), Err(Illegal::First { bootstrap: 0 }));
        let none = Record { epoch: 0, ..new };
        assert_eq!(check(None, &none, 2, true), Err(Illegal::First { bootstrap: 2 }));
    }

    #[test]
    fn illegal_changes_are_refused() {
        assert_eq!(check(None, &two(), 0, true), Err(Illegal::First { bootstrap: 0 }));
        assert_eq!(check(None, &first(member(1), 1, 0), 0, true), Err(Illegal::First { bootstrap: 0 }));
        assert_eq!(changed(|r| r.epoch = 4), Err(Illegal::Epoch { old: 2, new: 4 }));
        assert_eq!(changed(|r| r.attached.clear()), Err(Illegal::Members));
        assert_eq!(changed(|r| r.attached.push(member(1))), Err(Illegal::Members));
        assert_eq!(changed(|r| r.primary = 1), Err(Illegal::PrimaryChanged { old: 0, new: 1 }));
        assert_eq!(changed(|r| r.timeline = 0), Err(Illegal::TimelineDown { old: 1, new: 0 }));
        assert_eq!(changed(|r| r.timeline = 2), Err(Illegal::TimelineWithoutElection { new: 2 }));
        let both = changed(|r| r.attached.extend([member(2), member(3)]));
        assert_eq!(both, Err(Illegal::AddsMany { count: 2 }));
        let swapped = changed(|r| r.attached[1].incarnation = "other".to_owned());
        assert_eq!(swapped, Err(Illegal::AddsAndRemoves { added: 1, removed: 1 }));
        let electing = changed(|r| {
            r.phase = Phase::Electing;
            r.attached.push(member(2));
        });
        assert_eq!(electing, Err(Illegal::AddedInElection { index: 2 }));
    }
}
