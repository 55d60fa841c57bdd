//! Stage 1: claim, donor, Job, progress; and when the volume passes from the pod to the Job and back.
use jiff::{SignedDuration, Timestamp};

use super::donor;
use crate::api::v1alpha1::{RecoveryStage, RecoveryStatus};
use crate::messages::BackupProgress;
use crate::model::{ClaimSeen, CopySeen, JobOutcome};
use crate::names::{self, BOOTSTRAP};
use crate::plan::draft::Draft;
use crate::plan::nodes::forget_last_record;
use crate::plan::{AT_ONCE, Action};
use crate::resources::JobOrder;

/// How long a Job may take to come to work beside the node's pod.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// How often progress is written into status.
const PROGRESS_EVERY: SignedDuration = SignedDuration::from_secs(1);

/// Does what the copy needs next. Everything destructive in here rests on `may_destroy` of the status
/// that was read.
pub(super) fn perform(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    let node = recovery.node;
    if others_work_on_it(draft, recovery) || replaces_claim(draft, recovery) {
        draft.requeue(AT_ONCE.saturating_mul(5));
        return;
    }
    if draft.node(node).and_then(|seen| seen.claim.as_ref()).is_none() {
        // The claim is made by this pass, the Job by the next.
        draft.requeue(AT_ONCE);
        return;
    }
    let name = names::recovery_job(draft.pool.name(), node, &recovery.id);
    match draft.seen.jobs.get(&name) {
        None if may_begin(draft, recovery) => create(draft, recovery),
        None => {}
        Some(job) if job.deleting => {}
        Some(job) => match &job.outcome {
            JobOutcome::Running => progress(draft, recovery, &name),
            JobOutcome::Failed { needs_destroy: true, .. } if recovery.may_destroy && !job.may_destroy => {
                draft.plan.actions.push(Action::Delete { kind: "Job", name, uid: Some(job.uid.clone()) });
                draft.requeue(AT_ONCE);
            }
            _ => {}
        },
    }
}

/// Makes the Job while the node's pod still ends, where that is safe and nothing else has to be done first.
pub(super) fn begin_early(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    let node = recovery.node;
    let name = names::recovery_job(draft.pool.name(), node, &recovery.id);
    let claim = draft.node(node).and_then(|seen| seen.claim.as_ref());
    let usable = claim.is_some_and(ClaimSeen::is_usable);
    let free = !others_work_on_it(draft, recovery) && !draft.seen.jobs.contains_key(&name);
    if usable && free && may_begin(draft, recovery) {
        create(draft, recovery);
    }
}

/// Whether the node's pod may stay through the copy: its volume has never had data, so that its agent leaves the volume
/// alone until there is some (see the agent's `take_volume`; a node that may begin a pool doesn't), and no other machine
/// has the volume. After a failure the
/// usual way is gone; and a Job that doesn't come to work may lack the room that the pod takes.
pub(in crate::plan) fn shares(draft: &Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let node = recovery.node;
    let claim = draft.node(node).and_then(|seen| seen.claim.as_ref());
    let new = claim.is_some_and(ClaimSeen::is_new);
    let empty = draft.report(node).is_none_or(|report| report.incarnation.is_none());
    node != BOOTSTRAP
        && node != draft.bootstrap()
        && recovery.attempt == 0
        && new
        && empty
        && is_on_one_machine(draft, node)
        && !is_starved(draft, recovery)
}

/// Whether the Job of a new volume has not come to work for long.
fn is_starved(draft: &Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let claim = draft.node(recovery.node).and_then(|seen| seen.claim.as_ref());
    claim.is_some_and(|claim| !claim.filled)
        && recovery.stage == RecoveryStage::Copying
        && recovery.total == 0
        && draft.seen.now.duration_since(recovery.stage_since) > PATIENCE
}

/// Whether the Job may be made: the node's pod is gone, or it ends for good on the only machine that has the
/// volume, where the Job waits for the lock.
fn may_begin(draft: &Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let node = recovery.node;
    if shares(draft, recovery) {
        return true;
    }
    let Some(seen) = draft.node(node) else { return false };
    let stopped = seen.set.is_none_or(|set| set.replicas == 0);
    stopped && seen.pod.as_ref().is_none_or(|pod| pod.deleting && is_on_one_machine(draft, node))
}

fn is_on_one_machine(draft: &Draft<'_>, node: u8) -> bool {
    draft.node(node).and_then(|seen| seen.claim.as_ref()).is_some_and(|claim| claim.on_one_machine)
}

/// Whether the node's pod may be there, or is, to take the volume over from the Job. It is made only once the
/// Job is seen at work, and so has the lock: it must not find the volume free before the Job does.
pub(in crate::plan) fn hands_over(draft: &Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let node = recovery.node;
    let name = names::recovery_job(draft.pool.name(), node, &recovery.id);
    let Some(job) = draft.seen.jobs.get(&name) else { return false };
    if job.deleting || matches!(job.outcome, JobOutcome::Failed { .. }) {
        return false;
    }
    let there = draft.node(node).and_then(|seen| seen.set).is_some_and(|set| set.replicas == 1);
    (there && !is_starved(draft, recovery))
        || (is_on_one_machine(draft, node) && backup(draft, recovery, &name).is_some())
}

/// Whether the Job has received everything, so that the pod that waits may have the volume any moment.
pub(super) fn ends_soon(draft: &Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let name = names::recovery_job(draft.pool.name(), recovery.node, &recovery.id);
    recovery.stage == RecoveryStage::Copying
        && draft.node(recovery.node).is_some_and(|seen| seen.pod.is_some())
        && backup(draft, recovery, &name).is_none()
}

/// The base backup that the Job takes, as the donor sees it.
fn backup<'d>(draft: &'d Draft<'_>, recovery: &RecoveryStatus, job: &str) -> Option<&'d BackupProgress> {
    let report = recovery.donor.and_then(|donor| draft.report(donor))?;
    report.backups.iter().find(|backup| backup.name == job)
}

/// A Job of an earlier recovery of the node must be gone before this one touches the volume.
fn others_work_on_it(draft: &Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let own = names::recovery_job(draft.pool.name(), recovery.node, &recovery.id);
    draft.seen.jobs.iter().any(|(name, job)| job.node == recovery.node && *name != own)
}

/// Deletes a claim whose volume is lost or given up; true while it is there.
fn replaces_claim(draft: &mut Draft<'_>, recovery: &RecoveryStatus) -> bool {
    let Some(claim) = draft.node(recovery.node).and_then(|seen| seen.claim.as_ref()) else { return false };
    let given_up = claim.given_up.as_deref() == Some(recovery.id.as_str());
    if claim.deleting {
        return true;
    }
    if !recovery.may_destroy || (claim.lost.is_none() && !given_up) {
        return false;
    }
    let others =
        draft.record().is_some_and(|r| r.attached.iter().any(|member| member.index != recovery.node));
    if others && !draft.is_attached(recovery.node) {
        draft.act(Action::Delete {
            kind: "PersistentVolumeClaim",
            name: names::claim(draft.pool.name(), recovery.node),
            uid: Some(claim.uid.clone()),
        });
    }
    true
}

/// Writes down whom the node is copied from, before the Job is made.
pub(super) fn name_donor(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    if !matches!(recovery.stage, RecoveryStage::Stopping | RecoveryStage::Copying) {
        return;
    }
    let Some(record) = draft.record() else { return };
    let donor = donor::choose(record, recovery.node, |index| draft.report(index));
    if let Some(status) = &mut draft.plan.status.recovery {
        status.donor = donor.or(status.donor);
    }
}

fn create(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    let Some(record) = draft.record() else { return };
    let Some(donor) = donor::choose(record, recovery.node, |index| draft.report(index)) else { return };
    if recovery.donor != Some(donor) {
        name_donor(draft, recovery);
        draft.requeue(AT_ONCE);
        return;
    }
    // From here on the volume may hold this pool's data, and what is noted of it would be wrong.
    let claim = draft.node(recovery.node).and_then(|seen| seen.claim.as_ref());
    if claim.is_some_and(|claim| claim.last_record.is_some()) {
        draft.act(forget_last_record(draft, recovery.node));
        draft.requeue(AT_ONCE);
        return;
    }
    let others = record.attached.iter().any(|member| member.index != recovery.node);
    draft.act(Action::CreateJob(JobOrder {
        id: recovery.id.clone(),
        node: recovery.node,
        donor,
        epoch: record.epoch,
        may_destroy: recovery.may_destroy && others,
        placed: is_on_one_machine(draft, recovery.node),
        apart: recovery.apart,
    }));
}

/// Bytes and rate, as the donor tells them by the name of the Job.
fn progress(draft: &mut Draft<'_>, recovery: &RecoveryStatus, job: &str) {
    let Some(backup) = backup(draft, recovery, job).cloned() else { return };
    let now = draft.seen.now;
    // An operator that comes in the middle counts from what it saw first.
    let (begun, first) = match &draft.plan.memory.copy_begun {
        Some(seen) if seen.job == job && seen.bytes <= backup.bytes => (seen.at, seen.bytes),
        _ => {
            let seen = CopySeen { job: job.to_owned(), at: now, bytes: backup.bytes };
            draft.plan.memory.copy_begun = Some(seen);
            (now, backup.bytes)
        }
    };
    // Each write of status wakes the next pass, which would see more bytes: without a pause passes would follow one
    // another all through the copy, and take the processors from it.
    let lately = |at: Timestamp| now.duration_since(at) < PROGRESS_EVERY;
    if draft.plan.memory.progress_at.is_some_and(lately) {
        return;
    }
    draft.plan.memory.progress_at = Some(now);
    let seconds = now.duration_since(begun).as_secs_f64();
    if let Some(status) = &mut draft.plan.status.recovery {
        status.bytes = status.bytes.max(backup.bytes);
        status.total = backup.total;
        status.rate = rate(backup.bytes - first, seconds);
    }
}

fn rate(bytes: i64, seconds: f64) -> i64 {
    if seconds < 0.1 {
        return 0;
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a rate for people")]
    let rate = (bytes as f64 / seconds) as i64;
    rate
}
