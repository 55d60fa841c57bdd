//! Claims, StatefulSets and role labels of the nodes.
use k8s_openapi::api::apps::v1::StatefulSet;

use super::Action;
use super::draft::Draft;
use super::recovery::{GIVEN_UP, copying};
use crate::api::v1alpha1::{CopyKind, RecoveryStage};
use crate::model::{ClaimSeen, JobOutcome};
use crate::names;
use crate::resources::{self as r, ANNOTATION_TEMPLATE, BuildError, NodeOrder};

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<(), BuildError> {
    for index in 0..draft.pool.nodes {
        let filled = is_filled(draft, index);
        plan_claim(draft, index, filled)?;
        let wanted = filled || is_new(draft, index);
        let replicas = i32::from(hands_over(draft, index) || (wanted && !is_worked_on(draft, index)));
        plan_set(draft, index, replicas)?;
        label(draft, index);
    }
    for index in draft.extras() {
        let Some(set) = draft.node(index).and_then(|seen| seen.set) else { continue };
        let replicas = if draft.stopping.contains(&index) { 0 } else { set.replicas };
        plan_set(draft, index, replicas)?;
        label(draft, index);
    }
    forget_earlier(draft);
    Ok(())
}

/// Whether there is, or may be, data on the node's volume: only then has a pod a meaning.
fn is_filled(draft: &Draft<'_>, index: u8) -> bool {
    if index == draft.bootstrap() && draft.record().is_none() {
        return true;
    }
    let copied = draft.plan.status.recovery.as_ref().is_some_and(|recovery| {
        recovery.node == index
            && recovery.copy == CopyKind::BaseBackup
            && matches!(recovery.stage, RecoveryStage::CatchingUp | RecoveryStage::Joining)
    });
    copied
        || draft.is_attached(index)
        || draft.node(index).and_then(|seen| seen.claim.as_ref()).is_some_and(|claim| claim.filled)
}

/// Whether the node has never had data. Its pod has nothing to do yet, but a volume is made for the pod, on the machine
/// that is the pod's: the first copy needn't wait for that.
fn is_new(draft: &Draft<'_>, index: u8) -> bool {
    draft.node(index).and_then(|seen| seen.claim.as_ref()).is_some_and(ClaimSeen::is_new)
}

fn plan_claim(draft: &mut Draft<'_>, index: u8, filled: bool) -> Result<(), BuildError> {
    let seen = draft.node(index).and_then(|seen| seen.claim.as_ref());
    let deleted_now = draft
        .plan
        .actions
        .iter()
        .any(|action| action.destroys_claim(&names::claim(draft.pool.name(), index)));
    if seen.is_some_and(|claim| claim.deleting) || deleted_now {
        return Ok(());
    }
    // A claim that vanished under an attached node is made anew only by a recovery.
    if seen.is_none() && draft.is_attached(index) {
        return Ok(());
    }
    let given_up = given_up(draft, index);
    // No record yet: the agent has still to say that it put data there.
    let filled = filled && (draft.record().is_some() || seen.is_some_and(|claim| claim.filled));
    let filled = filled && seen.is_some();
    let size = super::storage::size(draft, index);
    draft.want(&r::claim(draft.pool, index, &size, filled, given_up.as_deref()))
}

/// Id of the recovery for which the node's claim is given up. The mark lasts as long as that: where it has ended and the
/// claim is still there, its data is what it was.
fn given_up(draft: &Draft<'_>, index: u8) -> Option<String> {
    let running = draft.plan.status.recovery.as_ref().filter(|recovery| recovery.node == index)?;
    let marked = draft.node(index).and_then(|seen| seen.claim.as_ref()?.given_up.as_ref());
    let begins = running.reason == GIVEN_UP && running.stage < RecoveryStage::Copying;
    (begins || marked == Some(&running.id)).then(|| running.id.clone())
}

fn plan_set(draft: &mut Draft<'_>, index: u8, replicas: i32) -> Result<(), BuildError> {
    let seen = draft.node(index);
    let ready = draft.has_certificate(&names::node_tls_secret(draft.pool.name(), index))
        && seen.is_some_and(|seen| seen.claim.is_some());
    let there = seen.is_some_and(|seen| seen.set.is_some());
    if !ready && !there {
        return Ok(());
    }
    let order = NodeOrder {
        index,
        replicas,
        storage_bytes: super::storage::usable(draft, index),
        restarted_at: draft.plan.status.restarted_at,
    };
    let set = r::stateful_set(draft.pool, draft.runtime, &draft.pool_uid(), &order)?;
    if let Some(mark) = template_of(&set) {
        draft.templates.insert(index, mark);
    }
    draft.want(&set)
}

fn template_of(set: &StatefulSet) -> Option<String> {
    let metadata = set.spec.as_ref()?.template.metadata.as_ref()?;
    metadata.annotations.as_ref()?.get(ANNOTATION_TEMPLATE).cloned()
}

/// Whether something else than the node's pod has, or is about to have, the volume.
fn is_worked_on(draft: &Draft<'_>, index: u8) -> bool {
    let copying = draft.plan.status.recovery.as_ref().is_some_and(|recovery| {
        recovery.node == index
            && matches!(recovery.stage, RecoveryStage::Stopping | RecoveryStage::Copying)
            && !copying::shares(draft, recovery)
    });
    // A pod that is there already waits for the Job to be done with the volume.
    let there = draft.node(index).and_then(|seen| seen.set).is_some_and(|set| set.replicas == 1);
    let job = draft.seen.jobs.values().any(|job| job.node == index && job.outcome == JobOutcome::Running);
    copying || (job && !there)
}

/// Whether the pod waits for the Job that copies.
fn hands_over(draft: &Draft<'_>, index: u8) -> bool {
    let recovery = draft.plan.status.recovery.as_ref();
    recovery.is_some_and(|recovery| {
        recovery.node == index
            && recovery.stage == RecoveryStage::Copying
            && copying::hands_over(draft, recovery)
    })
}

/// What an earlier pool's record said of a node is said of that pool's data, and what an attached node has is this one's.
fn forget_earlier(draft: &mut Draft<'_>) {
    for (index, seen) in &draft.seen.nodes {
        let noted = seen.claim.as_ref().is_some_and(|claim| claim.last_record.is_some());
        if noted && draft.is_attached(*index) {
            draft.act(forget_last_record(draft, *index));
        }
    }
}

/// Takes the note away from a node's claim.
pub(super) fn forget_last_record(draft: &Draft<'_>, index: u8) -> Action {
    Action::NoteClaim { claim: names::claim(draft.pool.name(), index), text: None }
}

fn label(draft: &mut Draft<'_>, index: u8) {
    let Some(pod) = draft.node(index).and_then(|seen| seen.pod.as_ref()) else { return };
    let role = match draft.record() {
        Some(record) if draft.is_attached(index) => {
            if record.primary == index {
                "primary"
            } else {
                "standby"
            }
        }
        _ => "detached",
    };
    if !pod.deleting && pod.role.as_deref() != Some(role) {
        draft.act(Action::LabelPod { pod: names::node_pod(draft.pool.name(), index), role });
    }
}
