//! Letting clients in (R6).
use super::{Action, PrimaryView, Why, shrink};
use crate::api::v1alpha1::Member;
use crate::clock::Moment;
use crate::membership::rules::{Rule, Rules};

/// The next step towards letting clients in; none when they are.
pub(super) fn next(view: &PrimaryView, rules: Rules) -> Option<Action> {
    if view.open {
        return None;
    }
    let Some(start) = view.start_lsn else { return Some(Action::CommitRow) };
    let behind = |m: &&Member| {
        let applied = view.replica(m).and_then(|r| r.replay_lsn);
        // A node ahead of the primary isn't a copy of it, whatever its state says.
        !applied.is_some_and(|lsn| lsn >= start && lsn <= view.flush_lsn)
    };
    let member = view.attached_others().chain(may_be_added(view)).find(behind);
    if let Some(member) = member.filter(|_| rules.has(Rule::OpenCaughtUp)) {
        return Some(Action::Wait(Why::Applying { index: member.index }));
    }
    let reader = may_be_read(view).find(behind);
    if let Some(member) = reader.filter(|_| rules.has(Rule::OpenLeaseWait)) {
        return Some(Action::Wait(shrink::lease_of(view, member)));
    }
    let over = view.handover.as_ref().map_or(Moment::ZERO, |h| h.over_at_with(rules));
    if over > view.now {
        return Some(Action::Wait(Why::Handover { rest: over.since(view.now) }));
    }
    if view.read_at < view.started {
        return Some(Action::ReadRecord);
    }
    Some(Action::Open)
}

/// Nodes in N that a write from before a restart may still put into the record.
fn may_be_added(view: &PrimaryView) -> impl Iterator<Item = &Member> {
    view.names.listed.iter().filter(|l| view.record.epoch <= l.epoch).map(|l| &l.member)
}

/// Nodes that have left the record and may still answer under a lease.
fn may_be_read(view: &PrimaryView) -> impl Iterator<Item = &Member> {
    let gone = view.names.listed.iter().filter(|l| !view.record.attached.contains(&l.member));
    gone.filter(|l| !shrink::lease_over(view, l)).map(|l| &l.member)
}
