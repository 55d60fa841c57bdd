//! A deleted pool is taken apart in order: pods, volumes (where the spec says so), record, finalizer. What the record said at
//! the end is written on the volumes that stay: a later pool may go on with them.
use super::draft::Draft;
use super::last_words::LastWords;
use super::{AT_ONCE, Action, Happening, UNDER_WAY};
use crate::api::v1alpha1::MembershipSpec;
use crate::names;

pub(super) fn plan(draft: &mut Draft<'_>) {
    if !draft.pool.guarded {
        return;
    }
    draft.tell_once("deleting".to_owned(), Happening::normal("Deleting", said(draft)));
    if hold_record(draft) {
        draft.requeue(AT_ONCE);
        return;
    }
    let workloads = delete_live(draft, &["StatefulSet", "Deployment", "Job"]);
    if workloads || !draft.seen.pods.is_empty() {
        draft.requeue(UNDER_WAY);
        return;
    }
    if draft.pool.deletes_volumes() && delete_claims(draft) {
        draft.requeue(UNDER_WAY);
        return;
    }
    if !draft.pool.deletes_volumes() && note_claims(draft) {
        draft.requeue(AT_ONCE);
        return;
    }
    if let Some(membership) = &draft.seen.membership {
        if !membership.deleting {
            draft.act(Action::DeleteMembership);
        }
        draft.requeue(AT_ONCE);
        return;
    }
    draft.act(Action::Unguard);
}

/// Nobody leaves the record any more for being stopped: at the end it says whose data is complete. True while that doesn't
/// stand yet: whoever writes the record in the same moment has this tried again.
fn hold_record(draft: &mut Draft<'_>) -> bool {
    let Some(membership) = &draft.seen.membership else { return false };
    let done = membership.deleting || membership.spec.suspend || draft.seen.pods.is_empty();
    if done || draft.pool.deletes_volumes() {
        return false;
    }
    let spec = MembershipSpec { suspend: true, ..membership.spec.clone() };
    draft.act(Action::UpdateMembership(spec));
    let otherwise =
        "the record can't be kept as it is while the nodes stop: it may leave out some that have everything";
    may_try(draft, "hold", otherwise)
}

/// How often something is tried that a deletion can do without.
const TRIES: u32 = 5;

/// Counts a try of something that a deletion can do without; false, and said so, once there were enough.
fn may_try(draft: &mut Draft<'_>, what: &str, otherwise: &str) -> bool {
    let tries = draft.plan.memory.tries.entry(what.to_owned()).or_default();
    *tries = tries.saturating_add(1);
    if *tries <= TRIES {
        return true;
    }
    let why = draft.seen.memory.last_error.as_ref().map(|(_, why)| format!(" ({why})")).unwrap_or_default();
    let note = format!("the deletion goes on, though {otherwise}{why}");
    draft.tell_once(format!("vain/{what}"), Happening::warning("DeletionIncomplete", note));
    false
}

/// Writes on each claim what the last record said of its node; true while one of them lacks it, and it is worth trying. A
/// pool that never had a record leaves what it found, and so does one whose data never came onto the claim: what an earlier
/// pool has noted there goes when it does ([`super::nodes`], [`super::recovery`]).
fn note_claims(draft: &mut Draft<'_>) -> bool {
    let Some(record) = draft.record() else { return false };
    let mut lacking = Vec::new();
    for (index, node) in &draft.seen.nodes {
        let Some(claim) = node.claim.as_ref().filter(|claim| !claim.deleting) else { continue };
        let text = LastWords::of(record, *index).to_string();
        let found = claim.last_record.as_ref();
        let earlier = found.is_some() && !draft.is_attached(*index);
        if !earlier && found != Some(&text) {
            lacking.push((names::claim(draft.pool.name(), *index), text));
        }
    }
    if lacking.is_empty() {
        return false;
    }
    let all: Vec<String> = lacking.iter().map(|(claim, text)| format!("{claim} ({text})")).collect();
    let actions = lacking.into_iter().map(|(claim, text)| Action::NoteClaim { claim, text: Some(text) });
    draft.plan.actions.extend(actions);
    may_try(draft, "note", &format!("what the last record said can't be noted on {}", all.join(", ")))
}

fn said(draft: &Draft<'_>) -> String {
    if draft.pool.deletes_volumes() {
        "the pool is being deleted, its volumes too (spec.storage.whenDeleted is Delete)".to_owned()
    } else {
        "the pool is being deleted; its volumes stay (spec.storage.whenDeleted is Retain)".to_owned()
    }
}

/// Deletes what is there of these kinds; true while any is.
fn delete_live(draft: &mut Draft<'_>, kinds: &[&'static str]) -> bool {
    let mut there = false;
    for kind in kinds {
        for live in draft.seen.live.values().filter(|live| live.kind == *kind && live.owned) {
            there = true;
            if !live.deleting {
                draft.plan.actions.push(Action::Delete { kind, name: live.name.clone(), uid: None });
            }
        }
    }
    there
}

fn delete_claims(draft: &mut Draft<'_>) -> bool {
    let mut there = false;
    for (index, node) in &draft.seen.nodes {
        let Some(claim) = &node.claim else { continue };
        there = true;
        if !claim.deleting {
            let name = names::claim(draft.pool.name(), *index);
            draft.plan.actions.push(Action::Delete {
                kind: "PersistentVolumeClaim",
                name,
                uid: Some(claim.uid.clone()),
            });
        }
    }
    there
}
