//! Stage 1: claim, donor, Job, progress.
use super::donor;
use crate::api::v1alpha1::{RecoveryStage, RecoveryStatus};
use crate::model::JobOutcome;
use crate::names;
use crate::plan::draft::Draft;
use crate::plan::{AT_ONCE, Action};
use crate::resources::JobOrder;

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
        None => create(draft, recovery),
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
    if recovery.stage != RecoveryStage::Copying {
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
    let others = record.attached.iter().any(|member| member.index != recovery.node);
    draft.act(Action::CreateJob(JobOrder {
        id: recovery.id.clone(),
        node: recovery.node,
        donor,
        primary: record.primary,
        epoch: record.epoch,
        may_destroy: recovery.may_destroy && others,
    }));
}

/// Bytes and rate, as the donor tells them by the name of the Job.
fn progress(draft: &mut Draft<'_>, recovery: &RecoveryStatus, job: &str) {
    let Some(report) = recovery.donor.and_then(|donor| draft.report(donor)) else { return };
    let Some(backup) = report.backups.iter().find(|backup| backup.name == job) else { return };
    let now = draft.seen.now;
    let begun = match &draft.plan.memory.copy_begun {
        Some((name, at)) if name == job => *at,
        _ => {
            draft.plan.memory.copy_begun = Some((job.to_owned(), now));
            recovery.stage_since
        }
    };
    let seconds = now.duration_since(begun).as_secs_f64();
    if let Some(status) = &mut draft.plan.status.recovery {
        status.bytes = status.bytes.max(backup.bytes);
        status.total = backup.total;
        status.rate = rate(status.bytes, seconds);
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
