//! What the pool no longer wants is deleted: never volumes, never the record, never Jobs (recovery sees
//! to those), never workloads (they go with the pool alone).
use super::Action;
use super::draft::Draft;

const SWEPT: [&str; 8] = [
    "Service",
    "Secret",
    "ConfigMap",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "PodDisruptionBudget",
    "NetworkPolicy",
];

pub(super) fn plan(draft: &mut Draft<'_>) {
    for live in draft.seen.live.values() {
        let Some(kind) = SWEPT.iter().find(|kind| **kind == live.kind) else { continue };
        let key = (live.kind.clone(), live.name.clone());
        if live.owned && !live.deleting && !draft.wanted.contains(&key) {
            draft.plan.actions.push(Action::Delete { kind, name: live.name.clone(), uid: None });
        }
    }
}
