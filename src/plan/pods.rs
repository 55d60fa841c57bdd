//! Pods that can't start: Kubernetes tries on without end, and says so of the pod alone.
use jiff::SignedDuration;

use super::UNDER_WAY;
use super::draft::Draft;
use crate::model::{JobOutcome, PodTrouble};
use crate::names;

/// How long a pod may wait for its start before that is told: what passes by itself within a moment, such as a machine that is
/// about to have room, calls nobody.
const STARTS_WITHIN: SignedDuration = SignedDuration::from_secs(10);
/// A container that ends again and again runs for a moment each time: so long what is told stays.
const RUNS_FOR: SignedDuration = SignedDuration::from_secs(30);

/// Tells once of a pod that can't start, and of each of the two causes by itself.
pub(super) fn tell(draft: &mut Draft<'_>, index: u8) {
    let (now, pool) = (draft.seen.now, draft.pool);
    let trouble = note(draft, index);
    let lately = trouble.as_ref().is_some_and(|seen| now.duration_since(seen.since) < STARTS_WITHIN);
    let pauses = trouble.as_ref().is_some_and(|seen| seen.last < now);
    if lately || pauses {
        // Nothing else may happen until then.
        draft.requeue(UNDER_WAY);
    }
    for (cause, unschedulable) in [("machine", true), ("containers", false)] {
        let seen = trouble.as_ref().filter(|seen| seen.unschedulable == unschedulable && !lately);
        let told = seen.map(|seen| {
            let (name, words) = (names::node_pod(pool.name(), index), &seen.words);
            format!(
                "node {index}: pod {name} can't start: {words}; kubectl -n {} describe pod {name} says more, and it starts by itself \
                 once that is mended",
                pool.namespace()
            )
        });
        draft.warn(&format!("pod/{index}/{cause}"), "PodCannotStart", told);
    }
}

/// What keeps a node's pod from its start, if anything does; remembers it.
fn note(draft: &mut Draft<'_>, index: u8) -> Option<PodTrouble> {
    let before = draft.plan.memory.pod_troubles.remove(&index);
    let trouble = seen(draft, index, before)?;
    draft.plan.memory.pod_troubles.insert(index, trouble.clone());
    Some(trouble)
}

fn seen(draft: &Draft<'_>, index: u8, before: Option<PodTrouble>) -> Option<PodTrouble> {
    let now = draft.seen.now;
    let pod = draft.node(index).and_then(|seen| seen.pod.as_ref())?;
    if pod.ready || pod.deleting || index >= draft.pool.nodes || (pod.unschedulable && copies(draft, index)) {
        return None;
    }
    let before = before.filter(|before| before.unschedulable == pod.unschedulable);
    let Some(words) = pod.trouble.clone() else {
        return before.filter(|before| now.duration_since(before.last) < RUNS_FOR);
    };
    let since = before.map_or(now, |before| before.since);
    Some(PodTrouble { unschedulable: pod.unschedulable, since, last: now, words })
}

/// Whether the pod waits for room that a copy takes which is about to end.
fn copies(draft: &Draft<'_>, index: u8) -> bool {
    let mut jobs = draft.seen.jobs.values();
    jobs.any(|job| job.node == index && job.outcome == JobOutcome::Running && job.trouble.is_none())
}
