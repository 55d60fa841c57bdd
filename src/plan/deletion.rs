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
    hold_record(draft);
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

/// Nobody leaves the record any more for being stopped: at the end it says whose data is complete.
fn hold_record(draft: &mut Draft<'_>) {
    let Some(membership) = &draft.seen.membership else { return };
    let done = membership.deleting || membership.spec.suspend || draft.seen.pods.is_empty();
    if !done && !draft.pool.deletes_volumes() {
        let spec = MembershipSpec { suspend: true, ..membership.spec.clone() };
        draft.act(Action::UpdateMembership(spec));
    }
}

/// Writes on each claim what the last record said of its node; true while one of them lacks it. A pool that never had a
/// record leaves what it found, and so does one whose data never came onto the claim: what an earlier pool has noted there
/// goes when it does ([`super::nodes`], [`super::recovery`]).
fn note_claims(draft: &mut Draft<'_>) -> bool {
    let Some(record) = draft.record() else { return false };
    let mut lacking = false;
    for (index, node) in &draft.seen.nodes {
        let Some(claim) = node.claim.as_ref().filter(|claim| !claim.deleting) else { continue };
        let text = LastWords::of(record, *index).to_string();
        let found = claim.last_record.as_ref();
        let earlier = found.is_some() && !draft.is_attached(*index);
        if !earlier && found != Some(&text) {
            lacking = true;
            let claim = names::claim(draft.pool.name(), *index);
            draft.plan.actions.push(Action::NoteClaim { claim, text: Some(text) });
        }
    }
    lacking
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
