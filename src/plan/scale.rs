//! Nodes beyond the spec leave the pool, the highest index first: out of the record, then the pod, then (where
//! the spec says so) the volume, then the StatefulSet, by whose end the node is forgotten.
use super::draft::Draft;
use super::rest::{can_spare_one, unrest};
use super::{Action, Happening, UNDER_WAY, switchover};
use crate::names;

const REASON: &str = "Removing";

pub(super) fn plan(draft: &mut Draft<'_>) {
    let extras = draft.extras();
    for index in &extras {
        draft.keep("Secret", names::node_tls_secret(draft.pool.name(), *index));
    }
    forget_beyond(draft);
    let Some(node) = extras.last().copied() else {
        draft.status().removing = None;
        return;
    };
    draft.requeue(UNDER_WAY);
    if draft.record().is_none() {
        // It may be the one whose data the pool is to begin with.
        draft.changing(REASON, format!("node {node} is to be removed: the pool has no record yet"));
        return;
    }
    if draft.is_attached(node) {
        if let Some(wait) = leave(draft, node) {
            draft.changing(REASON, format!("node {node} is to be removed: {wait}"));
        } else {
            draft.changing(REASON, format!("node {node} is being removed: it leaves the pool"));
        }
        return;
    }
    unwish(draft, node);
    draft.changing(REASON, format!("node {node} is being removed"));
    // Until the agents are told so, the primary may take it in again.
    if !draft.seen.membership.as_ref().is_some_and(|m| m.spec.attach.contains(&node)) {
        take_apart(draft, node);
    }
}

/// Wishes about nodes that the spec no longer has.
fn forget_beyond(draft: &mut Draft<'_>) {
    let nodes = draft.pool.nodes;
    let status = draft.status();
    status.detached_by_wish.retain(|index| *index < nodes);
    status.fenced.retain(|index| *index < nodes);
}

/// Takes an attached node out of the wish; says what it waits for.
fn leave(draft: &mut Draft<'_>, node: u8) -> Option<String> {
    if !draft.attach.contains(&node) {
        return None;
    }
    if let Some(why) = unrest(draft).or_else(|| can_spare_one(draft).err()) {
        return Some(why);
    }
    if draft.record().is_some_and(|record| record.primary == node) {
        let wait = switchover::failed_lately(draft);
        let to = switchover::successor(draft);
        return match (wait, to) {
            (None, Some(to)) => {
                switchover::begin(draft, to, "the primary is to be removed", false);
                Some(format!("it hands over to node {to} first"))
            }
            (Some(why), _) => Some(why),
            (None, None) => Some("no other node can be the primary now".to_owned()),
        };
    }
    unwish(draft, node);
    None
}

/// Takes a node out of the wish, which is told until the agents have been told so. It may have left the record already, as a primary
/// does that hands over.
fn unwish(draft: &mut Draft<'_>, node: u8) {
    draft.attach.remove(&node);
    if draft.seen.membership.as_ref().is_some_and(|seen| seen.spec.attach.contains(&node)) {
        draft.tell(Happening::normal(
            "NodeLeaves",
            format!("node {node} is beyond spec.nodes and leaves the pool"),
        ));
    }
}

fn take_apart(draft: &mut Draft<'_>, node: u8) {
    draft.stopping.insert(node);
    let Some(seen) = draft.node(node) else { return };
    if seen.pod.is_some() || seen.set.is_some_and(|set| set.replicas > 0) || delete_jobs(draft, node) {
        return;
    }
    if draft.pool.deletes_removed_volumes() && delete_claim(draft, node) {
        return;
    }
    let Some(_) = seen.set else { return };
    draft.act(Action::Delete {
        kind: "StatefulSet",
        name: names::stateful_set(draft.pool.name(), node),
        uid: None,
    });
    let volume = match (&seen.claim, draft.pool.deletes_removed_volumes()) {
        (Some(_), false) => "; its volume stays (spec.storage.whenScaled is Retain)",
        _ => "",
    };
    draft.tell(Happening::normal("NodeRemoved", format!("node {node} was removed{volume}")));
}

/// True while there is a Job of the node.
fn delete_jobs(draft: &mut Draft<'_>, node: u8) -> bool {
    let jobs: Vec<_> = draft.seen.jobs.iter().filter(|(_, job)| job.node == node).collect();
    for (name, job) in &jobs {
        if !job.deleting {
            draft.act(Action::Delete { kind: "Job", name: (*name).clone(), uid: Some(job.uid.clone()) });
        }
    }
    !jobs.is_empty()
}

/// True while there is a claim. It is deleted only once that stands in the status that was read.
fn delete_claim(draft: &mut Draft<'_>, node: u8) -> bool {
    let Some(claim) = draft.node(node).and_then(|seen| seen.claim.as_ref()) else { return false };
    if draft.seen.status.removing != Some(node) {
        draft.status().removing = Some(node);
    } else if !claim.deleting {
        draft.act(Action::Delete {
            kind: "PersistentVolumeClaim",
            name: names::claim(draft.pool.name(), node),
            uid: Some(claim.uid.clone()),
        });
    }
    true
}
