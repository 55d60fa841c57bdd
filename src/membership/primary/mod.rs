//! What the agent of the primary does next: growing, shrinking and opening (R1, R6, R13, R15).
//!
//! The order of the checks in [`next`] is the order of what matters: first that N covers the record,
//! then that a dead standby stops nobody, then that clients are let in, then that a node is added.
mod grow;
mod leases;
mod open;
mod shrink;
mod view;
mod why;

use super::names::{Filler, Names};
use super::rules::{Rule, Rules};
use crate::api::v1alpha1::{Member, Phase, Record};

pub use grow::attach_note;
pub use leases::{grants, grants_with, own_lease, own_lease_with};
pub use shrink::refused_detaches;
pub use view::{Compared, Growth, Other, PrimaryView, Wish};
pub use why::Why;

/// What the agent of the primary does next. It then observes again and asks again; between two
/// equal actions it waits a heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write N to the volume (fsync), then to PostgreSQL's configuration, then reload. When it renders
    /// like the one before, the volume is enough.
    WriteNames(Names),
    /// Write a little WAL, not waiting for anybody, so that the walsenders look at their waiters.
    Nudge,
    /// Commit something with `remote_apply` and see whether a session of its own shows
    /// `wait_event = SyncRep`; then [`PrimaryView::gate_seen`] is true. The commit is left waiting.
    ProbeGate,
    /// Commit the epoch table's row of this office unless it is there, not waiting for anybody; note the
    /// flush position after it as [`PrimaryView::start_lsn`].
    CommitRow,
    /// Commit a row with a nonce to the epoch table, not waiting for anybody, and note it as
    /// [`PrimaryView::growth`]. What counts is that the new node shows it.
    CommitNonce(Member),
    /// Fetch the node's epoch table and compare it with the own one ([`super::joining::compare_tables`]);
    /// note the result as [`Other::table`].
    CompareTable(Member),
    /// Replace the record, with the resourceVersion of the read that gave [`PrimaryView::record`]. Then,
    /// whatever the outcome, read it again.
    WriteRecord(Record),
    /// Make a consistent read of the record.
    ReadRecord,
    /// Let clients in (pg_hba).
    Open,
    /// The record says that this node isn't the primary: stop Postgres first, think afterwards (R8).
    Stop(Why),
    /// Nothing, until something is observed to change; or until that which is waited for has passed.
    Wait(Why),
}

/// What the agent of the primary does next.
pub fn next(view: &PrimaryView) -> Action {
    next_with(view, Rules::ALL)
}

/// [`next`] under other rules; for tests.
pub fn next_with(view: &PrimaryView, rules: Rules) -> Action {
    if is_deposed(&view.record, &view.me) {
        return Action::Stop(Why::NotPrimary);
    }
    if is_voted_on(&view.record, &view.me) {
        return Action::Wait(Why::Electing);
    }
    let wanted = wanted_names(view, rules);
    if !covers(view, rules) || (wanted != view.names && !rules.has(Rule::ShrinkRecordFirst)) {
        return Action::WriteNames(wanted);
    }
    if view.loaded.is_none() {
        return Action::WriteNames(view.names.clone());
    }
    if let Some(action) = shrink::remove(view, rules) {
        return action;
    }
    if wanted != view.names {
        return Action::WriteNames(wanted);
    }
    if let Some(action) = shrink::touch(view, rules) {
        return action;
    }
    if nudge_is_due(view) {
        return Action::Nudge;
    }
    if let Some(action) = open::next(view, rules) {
        return action;
    }
    if let Some(action) = grow::next(view, rules) {
        return action;
    }
    Action::Wait(shrink::waits_for(view, rules).unwrap_or(Why::Settled))
}

/// Whether a node that runs as a primary has to stop, whatever else it sees: the record gives the office to nobody, or to
/// another one (R8).
pub fn is_deposed(record: &Record, me: &Member) -> bool {
    !in_office(record, me) && !is_voted_on(record, me)
}

/// Whether the record names this node, with this copy of the data, as the primary in office.
fn in_office(record: &Record, me: &Member) -> bool {
    record.phase == Phase::Serving && record.primary == me.index && record.attached.contains(me)
}

/// Whether the record asks whether this primary is still there: it changes nothing then, its own lease
/// lapses by itself, and its vote says that it is alive (R2).
fn is_voted_on(record: &Record, me: &Member) -> bool {
    record.phase == Phase::Electing
        && !record.stopped
        && record.primary == me.index
        && record.attached.contains(me)
}

fn covers(view: &PrimaryView, rules: Rules) -> bool {
    view.attached_others().all(|m| view.names.holds(m) || shrink::may_drop_early(view, m, rules))
}

/// N as it has to be now, apart from a node that is to be added.
fn wanted_names(view: &PrimaryView, rules: Rules) -> Names {
    let mut names = view.names.clone();
    names.cover(&view.record, view.me.index);
    names.listed.retain(|l| !shrink::may_drop(view, l, rules));
    names.lease_ms = leases::longest(view);
    names.filler = match names.filler {
        _ if view.record.attached.len() < usize::from(view.wish.min_attached) => Some(Filler::Nobody),
        Some(Filler::Gate) if !view.gate_seen && grow::is_under_way(view) && rules.has(Rule::GrowGate) => {
            Some(Filler::Gate)
        }
        _ => None,
    };
    names
}

/// Sessions that began to wait before the last reload are released only when a walsender looks at them.
fn nudge_is_due(view: &PrimaryView) -> bool {
    let old = view.oldest_waiter.zip(view.loaded).is_some_and(|(waiter, loaded)| waiter < loaded);
    old && view.nudged.is_none_or(|at| view.now.since(at) >= view.wish.heartbeat())
}
