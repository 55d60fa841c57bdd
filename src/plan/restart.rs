//! Parameters that take a restart of PostgreSQL: one node at a time, the primary last.
//!
//! Standbys are restarted in place, the highest index first. Then the primary hands over: its PostgreSQL starts anew as a
//! standby's, and no client waits for that. A limit such as `max_connections` that becomes lower does so on the primary first,
//! in place, since no standby may have less of it; only after that the standbys show that they have a restart to do, too.
use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::rest::{can_spare_one, serves, unrest};
use super::{Happening, UNDER_WAY, switchover};
use crate::api::v1alpha1::Restart;
use crate::messages::{NodeReport, Role};
use crate::model::Restarted;

/// How often in a row the same parameters may ask for a restart of the same node.
const ENOUGH: u32 = 3;
/// How long after a restart a node's word may still be that of the time before: agents ask for it now and then.
const STALE: SignedDuration = SignedDuration::from_secs(30);
/// After so long with the same spec every agent has said what it has to restart for: each looks every five seconds.
const SAID: SignedDuration = SignedDuration::from_secs(15);
/// How long a primary that hands over may take to be back before its absence is told as that of any node.
const BACK: SignedDuration = SignedDuration::from_secs(60);
const STOPPED: &str = "RestartStopped";

pub(super) fn plan(draft: &mut Draft<'_>) {
    note_spec(draft);
    let pending: Vec<u8> = draft.wished().filter(|index| !parameters(draft, *index).is_empty()).collect();
    let now = draft.seen.now;
    // A start clears what a node asks for until it has looked again.
    let counts = |last: Timestamp| now.duration_since(last) < STALE;
    draft.plan.memory.restarts.retain(|index, restarted| pending.contains(index) || counts(restarted.last));
    if let Some(going) = under_way(draft) {
        draft.changing("Restarting", format!("PostgreSQL of node {} is being restarted", going.node));
        draft.restart = Some(going);
        draft.requeue(UNDER_WAY);
        return;
    }
    await_old_primary(draft);
    if pending.is_empty() {
        draft.untell(STOPPED);
        return;
    }
    draft.requeue(UNDER_WAY);
    match step(draft, &pending) {
        Some(Step::InPlace(node)) => begin(draft, node),
        Some(Step::HandOver(to)) => hand_over(draft, to),
        Some(Step::Wait(node, why)) => draft.changing("RestartWaits", to_be(node, &why)),
        Some(Step::Stop(node, why)) => {
            draft.stuck(STOPPED, to_be(node, &why));
        }
        None => draft.untell(STOPPED),
    }
}

fn note_spec(draft: &mut Draft<'_>) {
    let generation = draft.pool.generation;
    if draft.plan.memory.spec_seen.is_none_or(|(seen, _)| seen != generation) {
        draft.plan.memory.spec_seen = Some((generation, draft.seen.now));
    }
}

fn to_be(node: u8, why: &str) -> String {
    format!("PostgreSQL of node {node} is to be restarted: {why}")
}

enum Step {
    /// PostgreSQL of this node is restarted in place.
    InPlace(u8),
    /// The primary hands over to this node.
    HandOver(u8),
    /// This node is next, and it goes on by itself.
    Wait(u8, String),
    /// This node is next, and it goes on when a person has acted.
    Stop(u8, String),
}

fn step(draft: &Draft<'_>, pending: &[u8]) -> Option<Step> {
    let fresh: Vec<u8> = pending.iter().copied().filter(|index| !is_stale(draft, *index)).collect();
    // One that serves nobody is restarted at once: it may be what the others wait for.
    if let Some(idle) = fresh.iter().rev().find(|index| is_idle(draft, **index)) {
        return Some(Step::InPlace(*idle));
    }
    let primary = draft.record()?.primary;
    if let Some(next) = fresh.iter().rev().find(|index| **index != primary) {
        return Some(standby(draft, *next));
    }
    if let Some(again) = pending.iter().find(|index| **index != primary) {
        return Some(Step::Wait(*again, "it was a moment ago, and asks for it again".to_owned()));
    }
    fresh.contains(&primary).then(|| of_primary(draft, primary))
}

fn standby(draft: &Draft<'_>, node: u8) -> Step {
    if let Some(why) = unrest(draft) {
        return Step::Wait(node, why);
    }
    match can_spare_one(draft) {
        Ok(()) => Step::InPlace(node),
        Err(why) => Step::Stop(node, why),
    }
}

/// No standby asks for a restart any more, or yet.
fn of_primary(draft: &Draft<'_>, node: u8) -> Step {
    if let Some(why) = unrest(draft) {
        return Step::Wait(node, why);
    }
    if draft.attached() == 1 {
        // Nobody could take over: the pool waits for its only node.
        return Step::InPlace(node);
    }
    let since = draft.plan.memory.spec_seen.map(|(_, since)| since);
    if since.is_none_or(|since| draft.seen.now.duration_since(since) < SAID) {
        return Step::Wait(node, "a standby may have to be before it".to_owned());
    }
    // An agent of an earlier release says neither, and limits that a handover lowers come back with the next primary.
    let in_place =
        |report: &NodeReport| !report.lowered_limits.is_empty() || report.loaded_parameters.is_none();
    if draft.report(node).is_some_and(in_place) {
        return Step::InPlace(node);
    }
    if count(draft, node) >= ENOUGH {
        return Step::Stop(
            node,
            format!("{ENOUGH} handovers failed; restart=now, or switchover=K at a quiet hour"),
        );
    }
    if let Err(why) = can_spare_one(draft) {
        return Step::Stop(node, why);
    }
    match (switchover::failed_lately(draft), switchover::successor(draft)) {
        (None, Some(to)) => Step::HandOver(to),
        (Some(why), _) => Step::Wait(node, why),
        (None, None) => Step::Wait(node, "no other node can be the primary now".to_owned()),
    }
}

/// Whether its PostgreSQL runs and serves nobody. That of a primary that is just handing over ends by itself.
fn is_idle(draft: &Draft<'_>, index: u8) -> bool {
    let recovered = draft.plan.status.recovery.as_ref().is_some_and(|recovery| recovery.node == index);
    let follows = draft.report(index).is_some_and(|report| report.role == Role::Standby);
    follows && !draft.is_attached(index) && !recovered && draft.primary().is_some()
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

/// The change isn't over before the old primary serves again.
fn await_old_primary(draft: &mut Draft<'_>) {
    let Some((node, since)) = draft.plan.memory.handed_over else { return };
    let back = draft.plan.status.switchover.is_none() && serves(draft, node);
    if back || draft.is_wished_out(node) || draft.seen.now.duration_since(since) > BACK {
        draft.plan.memory.handed_over = None;
        return;
    }
    draft.changing("Restarting", format!("node {node} was the primary, and comes back as a standby"));
    draft.requeue(UNDER_WAY);
}

/// The old primary starts its PostgreSQL anew by itself: with the parameters as they are then.
fn hand_over(draft: &mut Draft<'_>, to: u8) {
    let Some(from) = draft.record().map(|record| record.primary) else { return };
    note_restart(draft, from);
    let names = parameters(draft, from).join(", ");
    let why = format!("PostgreSQL of node {from} is to be restarted, for {names}");
    switchover::begin(draft, to, &why, false);
    draft.plan.memory.handed_over = Some((from, draft.seen.now));
    draft.changing("Restarting", format!("node {from} hands over to node {to}: {why}"));
}

/// How often in a row the node's PostgreSQL was to be restarted for what it asks for.
fn count(draft: &Draft<'_>, node: u8) -> u32 {
    let before = draft.plan.memory.restarts.get(&node);
    before.filter(|before| before.parameters == parameters(draft, node)).map_or(0, |before| before.count)
}

fn note_restart(draft: &mut Draft<'_>, node: u8) {
    let (parameters, count, last) = (parameters(draft, node), count(draft, node) + 1, draft.seen.now);
    draft.plan.memory.restarts.insert(node, Restarted { parameters, count, last });
}

fn begin(draft: &mut Draft<'_>, node: u8) {
    let Some(boot) = draft.report(node).map(|report| report.boot.clone()) else { return };
    let (names, count) = (parameters(draft, node).join(", "), count(draft, node));
    if count >= ENOUGH {
        let text = format!("node {node} still asks for a restart after {count} ({names}): look at its log");
        draft.stuck(STOPPED, text);
        return;
    }
    note_restart(draft, node);
    let text = format!("PostgreSQL of node {node} is restarted in place, for {names}");
    draft.tell(Happening::normal("PostgresRestarts", text.clone()));
    draft.changing("Restarting", text);
    draft.restart = Some(Restart { node, boot });
}
