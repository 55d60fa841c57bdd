//! When a standby lets clients in (R3, R7).
use super::lease::ReadLease;
use super::rules::{Rule, Rules};
use crate::api::v1alpha1::{Member, Record};
use crate::clock::Moment;

/// What the agent of a standby sees.
#[derive(Clone, Debug)]
pub struct StandbyView<'a> {
    /// Now, on this node's clock.
    pub now: Moment,
    /// This node and its copy of the data.
    pub me: &'a Member,
    /// The newest record that it knows.
    pub record: &'a Record,
    /// This start of its Postgres.
    pub boot: &'a str,
    /// Its read lease.
    pub lease: &'a ReadLease,
    /// Whether clients are let in (pg_hba).
    pub open: bool,
}

/// What the agent of a standby does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandbyAction {
    /// Let clients in.
    Open,
    /// Let no clients in. Sessions that exist are the front's to drop: it asks for the lease.
    Shut,
    /// Nothing.
    Keep,
}

/// What the agent of a standby does next.
pub fn next(view: &StandbyView<'_>) -> StandbyAction {
    next_with(view, Rules::ALL)
}

/// [`next`] under other rules; for tests.
pub fn next_with(view: &StandbyView<'_>, rules: Rules) -> StandbyAction {
    let attached = is_attached(view.record, view.me, rules) && view.record.primary != view.me.index;
    let leased = view.lease.valid(view.now) && view.lease.boot() == view.boot;
    match (attached && leased, view.open) {
        (true, false) => StandbyAction::Open,
        (false, true) => StandbyAction::Shut,
        _ => StandbyAction::Keep,
    }
}

/// Whether the record counts this node, with this copy of the data.
pub fn is_attached(record: &Record, me: &Member, rules: Rules) -> bool {
    record
        .attached
        .iter()
        .any(|m| m.index == me.index && (m.incarnation == me.incarnation || !rules.has(Rule::Incarnation)))
}
