//! A deleted pool is taken apart in order: pods, volumes (where the spec says so), record, finalizer.
use super::draft::Draft;
use super::{AT_ONCE, Action, Happening, UNDER_WAY};
use crate::names;

pub(super) fn plan(draft: &mut Draft<'_>) {
    if !draft.pool.guarded {
        return;
    }
    draft.tell_once("deleting".to_owned(), Happening::normal("Deleting", said(draft)));
    let workloads = delete_live(draft, &["StatefulSet", "Deployment", "Job"]);
    if workloads || !draft.seen.pods.is_empty() {
        draft.requeue(UNDER_WAY);
        return;
    }
    if draft.pool.deletes_volumes() && delete_claims(draft) {
        draft.requeue(UNDER_WAY);
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
