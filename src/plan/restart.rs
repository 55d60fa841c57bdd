//! Parameters that take a restart of PostgreSQL: done in place by the agents, one node at a time, standbys first.
//!
//! The primary isn't switched over for it: a limit such as `max_connections` must be lowered on the primary
//! before any standby, which then shows that it has one to do too.
use jiff::SignedDuration;

use super::draft::Draft;
use super::rest::{can_spare_one, unrest};
use super::{Happening, UNDER_WAY};
use crate::api::v1alpha1::Restart;
use crate::model::Restarted;

/// How often in a row the same parameters may ask for a restart of the same node.
const ENOUGH: u32 = 3;
/// How long after a restart a node's word may still be that of the time before: agents ask for it now and then.
const STALE: SignedDuration = SignedDuration::from_secs(30);
const STOPPED: &str = "RestartStopped";

pub(super) fn plan(draft: &mut Draft<'_>) {
    let mut pending: Vec<u8> = draft.wished().filter(|index| !parameters(draft, *index).is_empty()).collect();
    draft.plan.memory.restarts.retain(|index, _| pending.contains(index));
    let any = !pending.is_empty();
    pending.retain(|index| !is_stale(draft, *index));
    if let Some(going) = under_way(draft) {
        draft.changing("Restarting", format!("PostgreSQL of node {} is being restarted", going.node));
        draft.restart = Some(going);
        draft.requeue(UNDER_WAY);
        return;
    }
    if pending.is_empty() {
        draft.untell(STOPPED);
        if any {
            draft.requeue(UNDER_WAY);
        }
        return;
    }
    draft.requeue(UNDER_WAY);
    // One that serves nobody is restarted at once: it may be what the others wait for.
    if let Some(idle) = pending.iter().rev().find(|index| is_idle(draft, **index)) {
        begin(draft, *idle);
        return;
    }
    let primary = draft.record().map(|record| record.primary);
    let Some(next) = pending.iter().rev().find(|index| Some(**index) != primary).or(pending.first()) else {
        return;
    };
    if let Some(why) = unrest(draft) {
        draft.changing("RestartWaits", format!("PostgreSQL of node {next} is to be restarted: {why}"));
        return;
    }
    if Some(*next) != primary
        && let Err(why) = can_spare_one(draft)
    {
        draft.stuck(STOPPED, format!("PostgreSQL of node {next} is to be restarted: {why}"));
        return;
    }
    begin(draft, *next);
}

fn is_idle(draft: &Draft<'_>, index: u8) -> bool {
    let recovered = draft.plan.status.recovery.as_ref().is_some_and(|recovery| recovery.node == index);
    !draft.is_attached(index) && !recovered && draft.primary().is_some()
}

fn is_stale(draft: &Draft<'_>, index: u8) -> bool {
    let before = draft.plan.memory.restarts.get(&index);
    before.is_some_and(|before| draft.seen.now.duration_since(before.last) < STALE)
}

fn parameters(draft: &Draft<'_>, index: u8) -> Vec<String> {
    draft.report(index).map(|report| report.pending_restart.clone()).unwrap_or_default()
}

/// The one that the agents were told of, until that start of PostgreSQL has ended.
fn under_way(draft: &Draft<'_>) -> Option<Restart> {
    let told = draft.seen.membership.as_ref()?.spec.restart.clone()?;
    let wished = draft.wished().any(|index| index == told.node);
    let ended = draft.report(told.node).is_some_and(|report| report.boot != told.boot);
    (wished && !ended).then_some(told)
}

fn begin(draft: &mut Draft<'_>, node: u8) {
    let list = parameters(draft, node);
    let Some(boot) = draft.report(node).map(|report| report.boot.clone()) else { return };
    let count = match draft.plan.memory.restarts.get(&node) {
        Some(before) if before.parameters == list => before.count,
        _ => 0,
    };
    let names = list.join(", ");
    if count >= ENOUGH {
        let text = format!("node {node} still asks for a restart after {count} ({names}): look at its log");
        draft.stuck(STOPPED, text);
        return;
    }
    let now = draft.seen.now;
    draft.plan.memory.restarts.insert(node, Restarted { parameters: list, count: count + 1, last: now });
    let text = format!("PostgreSQL of node {node} is restarted in place, for {names}");
    draft.tell(Happening::normal("PostgresRestarts", text.clone()));
    draft.changing("Restarting", text);
    draft.restart = Some(Restart { node, boot });
}
