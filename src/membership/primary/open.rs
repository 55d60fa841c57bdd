//! Letting clients in (R6).
use super::{Action, PrimaryView, Why};
use crate::membership::rules::{Rule, Rules};

/// The next step towards letting clients in; none when they are.
pub(super) fn next(view: &PrimaryView, rules: Rules) -> Option<Action> {
    if view.open {
        return None;
    }
    let Some(start) = view.start_lsn else { return Some(Action::CommitRow) };
    let behind = view.attached_others().find(|m| {
        let applied = view.replica(m).and_then(|r| r.replay_lsn);
        // A node ahead of the primary isn't a copy of it, whatever its state says.
        !applied.is_some_and(|lsn| lsn >= start && lsn <= view.flush_lsn)
    });
    if let Some(member) = behind.filter(|_| rules.has(Rule::OpenCaughtUp)) {
        return Some(Action::Wait(Why::Applying { index: member.index }));
    }
    if view.read_at < view.started {
        return Some(Action::ReadRecord);
    }
    Some(Action::Open)
}
