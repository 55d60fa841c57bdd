//! Nodes whose pods aren't as the spec wants them are restarted one at a time: standbys first, the highest
//! index first, then the primary, which hands over before.
//!
//! Only what is seen counts: a pod carries the fingerprint of its template. Where the pool isn't at rest the
//! roll waits, except for a node that serves nobody anyway: it may be what the others wait for.
use jiff::SignedDuration;

use super::draft::Draft;
use super::rest::{can_spare_one, other_major, serves, unrest};
use super::{Action, Happening, UNDER_WAY, restart, switchover};
use crate::api::v1alpha1::Record;
use crate::messages::Role;
use crate::names;
use crate::resources::ANNOTATION_TEMPLATE;

/// How long a file system may wait for its kubelet to grow it, before its pod is started anew for it.
const GROWS: SignedDuration = SignedDuration::from_mins(2);
/// How long something must stand in the way before it counts as a stop.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);
/// What is told once a roll.
const TOLD: &str = "rolling";
const STOPPED: &str = "RollingStopped";

pub(super) fn plan(draft: &mut Draft<'_>) {
    let back: Vec<u8> =
        draft.plan.memory.rolled.iter().copied().filter(|index| is_back(draft, *index)).collect();
    draft.plan.memory.rolled.retain(|index| !back.contains(index));
    let nodes = draft.seen.nodes.keys().rev().copied();
    let outdated: Vec<u8> =
        nodes.filter(|index| is_rolled(draft, *index) && is_outdated(draft, *index)).collect();
    if outdated.is_empty() && draft.plan.memory.rolled.is_empty() {
        finish(draft);
        restart::plan(draft);
        return;
    }
    draft.requeue(UNDER_WAY);
    if !outdated.is_empty() {
        let note = format!(
            "{} to be restarted, one at a time: their pods aren't as the spec wants them",
            super::conditions::list(&outdated)
        );
        draft.tell_once(TOLD.to_owned(), Happening::normal("RollingStarted", note));
    }
    let step = patiently(draft, step(draft, &outdated));
    carry_on(draft, step, outdated.len());
}

/// What ends by itself within a moment, such as a pod that finds no place yet, is no reason to call a person.
fn patiently(draft: &mut Draft<'_>, step: Step) -> Step {
    let Step::Stop(why) = step else {
        draft.plan.memory.stopped_since = None;
        draft.untell(STOPPED);
        return step;
    };
    let now = draft.seen.now;
    let since = *draft.plan.memory.stopped_since.get_or_insert(now);
    if now.duration_since(since) < PATIENCE { Step::Wait(why) } else { Step::Stop(why) }
}

fn carry_on(draft: &mut Draft<'_>, step: Step, left: usize) {
    match step {
        Step::Restart(index) => delete(draft, index, left),
        Step::HandOver(to) => {
            switchover::begin(draft, to, "the primary is to be restarted", false);
            draft.changing("Rolling", format!("the primary hands over to node {to}, to be restarted itself"));
        }
        Step::Wait(why) if draft.plan.memory.rolled.is_empty() => {
            draft.changing("RollingWaits", format!("{left} to be restarted: {why}"));
        }
        Step::Wait(why) => draft.changing("Rolling", format!("{why}; {left} to be restarted")),
        Step::Stop(why) => {
            let note = format!("{why}; the other nodes are left as they are, {left} to be restarted");
            draft.stuck(STOPPED, note);
        }
    }
}

enum Step {
    /// The pod of this node is deleted.
    Restart(u8),
    /// The primary hands over to this node.
    HandOver(u8),
    /// It goes on by itself.
    Wait(String),
    /// It goes on when a person has acted.
    Stop(String),
}

/// `outdated` begins with the highest index.
fn step(draft: &Draft<'_>, outdated: &[u8]) -> Step {
    if let Some(idle) = outdated.iter().find(|index| is_idle(draft, **index)) {
        return Step::Restart(*idle);
    }
    if let Some(why) = draft.wished().find_map(|index| broken(draft, index)) {
        return Step::Stop(why);
    }
    if let Some(why) = unrest(draft) {
        return Step::Wait(why);
    }
    if let Some(node) = draft.extras().last() {
        return Step::Wait(format!("node {node} is being removed"));
    }
    let Some(record) = draft.record() else { return Step::Wait("there is no record yet".to_owned()) };
    let Some(next) = outdated.iter().find(|index| **index != record.primary).or(outdated.first()) else {
        return Step::Wait("the last one is coming back".to_owned());
    };
    if record.attached.len() == 1 {
        // Nobody could take over, and nobody is deposed: the pool waits for its only node.
        return Step::Restart(*next);
    }
    if let Err(why) = can_spare_one(draft) {
        return Step::Stop(why);
    }
    if *next != record.primary {
        return Step::Restart(*next);
    }
    match (switchover::failed_lately(draft), switchover::successor(draft)) {
        (None, Some(to)) => Step::HandOver(to),
        (Some(why), _) => Step::Wait(why),
        (None, None) => Step::Wait("no other node can be the primary now".to_owned()),
    }
}

/// Why a wished node that isn't attached won't come back by itself.
fn broken(draft: &Draft<'_>, index: u8) -> Option<String> {
    if draft.is_attached(index) && draft.report(index).is_some() {
        return None;
    }
    let trouble = draft.node(index)?.pod.as_ref()?.trouble.as_ref();
    trouble.map(|trouble| format!("node {index}: {trouble}")).or_else(|| other_major(draft, index))
}

/// A node that is being removed is left as it is, but not where it has the only data: with a pod that can't work, such as one of an
/// image that was meanwhile taken back, nobody could ever take over from it.
fn is_rolled(draft: &Draft<'_>, index: u8) -> bool {
    let only = |record: &Record| record.attached.len() == 1 && draft.is_attached(index);
    index < draft.pool.nodes || draft.record().is_some_and(only)
}

/// Whether the node's pod is another than the StatefulSet would make now.
fn is_outdated(draft: &Draft<'_>, index: u8) -> bool {
    let Some(seen) = draft.node(index) else { return false };
    let (Some(pod), Some(wanted)) = (&seen.pod, draft.templates.get(&index)) else { return false };
    let waits = seen.claim.as_ref().and_then(|claim| claim.size.waits_since);
    let grows = waits.is_some_and(|since| draft.seen.now.duration_since(since) >= GROWS);
    !pod.deleting && takes_effect(draft, index, wanted) && (pod.template.as_ref() != Some(wanted) || grows)
}

/// Whether a new pod would be made from the wanted template: else it would be restarted for nothing, again
/// and again.
fn takes_effect(draft: &Draft<'_>, index: u8, wanted: &str) -> bool {
    let key = ("StatefulSet".to_owned(), names::stateful_set(draft.pool.name(), index));
    let Some(live) = draft.seen.live.get(&key) else { return false };
    let mark = &live.value["spec"]["template"]["metadata"]["annotations"][ANNOTATION_TEMPLATE];
    let seen = &live.value["status"]["observedGeneration"];
    mark == wanted && (seen.is_null() || *seen == live.value["metadata"]["generation"])
}

/// Whether the node serves nobody, so that nobody misses it.
fn is_idle(draft: &Draft<'_>, index: u8) -> bool {
    let Some(seen) = draft.node(index) else { return false };
    let troubled = seen.pod.as_ref().is_some_and(|pod| pod.trouble.is_some());
    if troubled && seen.report().is_none() {
        return true;
    }
    let stopped = seen.report().is_some_and(|report| report.role == Role::Stopped);
    if draft.is_attached(index) {
        return stopped && draft.record().is_some_and(|record| record.attached.len() == 1);
    }
    // A primary that takes office may still need the word of the one before.
    if draft.record().is_some() && (draft.primary().is_none() || draft.plan.status.switchover.is_some()) {
        return false;
    }
    // A copy that catches up is left to it.
    let recovered = draft.plan.status.recovery.as_ref().is_some_and(|recovery| recovery.node == index);
    stopped || !recovered
}

fn is_back(draft: &Draft<'_>, index: u8) -> bool {
    index >= draft.pool.nodes
        || (!is_outdated(draft, index) && (serves(draft, index) || draft.is_wished_out(index)))
}

fn delete(draft: &mut Draft<'_>, index: u8, left: usize) {
    let Some(pod) = draft.node(index).and_then(|seen| seen.pod.as_ref()) else { return };
    let name = names::node_pod(draft.pool.name(), index);
    draft.act(Action::Delete { kind: "Pod", name, uid: Some(pod.uid.clone()) });
    draft.plan.memory.rolled.insert(index);
    draft.tell(Happening::normal("NodeRestarts", format!("the pod of node {index} is made anew")));
    draft.changing(
        "Rolling",
        format!("node {index} is being restarted; {} more to be", left.saturating_sub(1)),
    );
}

fn finish(draft: &mut Draft<'_>) {
    draft.plan.memory.stopped_since = None;
    draft.untell(STOPPED);
    if draft.plan.memory.told.remove(TOLD) {
        let note = "every node's pod is as the spec wants it";
        draft.tell(Happening::normal("RollingFinished", note));
    }
}
