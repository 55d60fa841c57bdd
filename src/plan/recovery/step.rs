//! The pure next-state function of a recovery.
use jiff::Timestamp;

use super::is_proved;
use crate::api::v1alpha1::{CopyKind, RecoveryStage, RecoveryStatus};
use crate::messages::Join;
use crate::model::JobOutcome;

/// Seconds within which the primary's agent must have taken the node out of the record.
pub const DETACH_SECONDS: i64 = 120;
/// Seconds for which a detached node's agent may look at its data before it is copied anew.
pub const PROOF_SECONDS: i64 = 15;
/// Seconds for which an agent may be unreachable before it isn't waited for.
pub const SILENT_SECONDS: i64 = 5;
/// Seconds within which a pod must have stopped; its grace period is 60.
pub const STOP_SECONDS: i64 = 300;
/// Seconds within which a node that caught up must be in the record.
pub const JOIN_SECONDS: i64 = 1800;

/// What a recovery's next step depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, seen or not")]
pub struct Facts {
    /// No other node is in the record.
    pub last_attached: bool,
    /// The node is the primary of the record.
    pub is_primary: bool,
    /// The node is in the record.
    pub attached: bool,
    /// It is in the record with the copy that this recovery makes.
    pub attached_new: bool,
    /// The membership's spec no longer names the node.
    pub wished_out: bool,
    /// Its pod is there.
    pub pod: bool,
    /// The pod may stay: it leaves its volume, which is new, to the Job.
    pub shares: bool,
    /// Its StatefulSet is told to have no pod, or isn't there.
    pub stopped: bool,
    /// What its agent says about following without a copy; none when it doesn't answer.
    pub join: Option<Join>,
    /// Its agent says that there is data on the volume.
    pub has_data: bool,
    /// Its agent says that the data is the copy that this recovery makes.
    pub new_data: bool,
    /// It streams from the primary.
    pub streaming: bool,
    /// Its volume is lost or given up.
    pub claim_lost: bool,
    /// Data was put on its volume before.
    pub filled: bool,
    /// How the Job stands, if there is one.
    pub job: Option<JobOutcome>,
    /// The Job was allowed to destroy the old data.
    pub job_may_destroy: bool,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same stage goes on.
    Stay,
    /// Another stage.
    Go(RecoveryStage, CopyKind),
    /// First write down that the old data may be destroyed.
    MayDestroy,
    /// The node is attached.
    Done,
    /// It didn't work; why.
    Failed(String),
}

/// Decides.
pub fn next(facts: &Facts, recovery: &RecoveryStatus, limit_seconds: i64, now: Timestamp) -> Next {
    let total = now.duration_since(recovery.started_at).as_secs();
    let stage = now.duration_since(recovery.stage_since).as_secs();
    // Whatever happened meanwhile: an operator that was away finds it ended.
    if recovery.stage == RecoveryStage::Joining && matches!(joining(facts, recovery, stage), Next::Done) {
        return Next::Done;
    }
    if facts.attached && facts.last_attached {
        return Next::Failed("it is the only attached node now; its data can't be touched".to_owned());
    }
    if facts.attached && facts.is_primary {
        return Next::Failed("it has become the primary".to_owned());
    }
    if total > limit_seconds {
        return Next::Failed(format!("not done within {limit_seconds} s (spec.recovery.timeout)"));
    }
    match recovery.stage {
        RecoveryStage::Requested => Next::Go(RecoveryStage::Detaching, CopyKind::BaseBackup),
        RecoveryStage::Detaching => detaching(facts, stage),
        RecoveryStage::Stopping => stopping(facts, stage),
        RecoveryStage::Copying => copying(facts, recovery),
        RecoveryStage::CatchingUp => catching_up(facts, stage),
        RecoveryStage::Joining => joining(facts, recovery, stage),
    }
}

/// Out of the record first; then, if the agent proves it in time, back without a copy.
fn detaching(facts: &Facts, seconds: i64) -> Next {
    if facts.attached || !facts.wished_out {
        return if seconds > DETACH_SECONDS {
            Next::Failed(format!("the primary didn't take it out of the record within {DETACH_SECONDS} s"))
        } else {
            Next::Stay
        };
    }
    let copy = Next::Go(RecoveryStage::Stopping, CopyKind::BaseBackup);
    if facts.claim_lost || !facts.filled {
        return copy;
    }
    match &facts.join {
        Some(Join::Proved) if facts.has_data => Next::Go(RecoveryStage::Joining, CopyKind::None),
        Some(Join::NeedsCopy(_)) => copy,
        Some(_) if seconds > PROOF_SECONDS => copy,
        None if seconds > SILENT_SECONDS => copy,
        _ => Next::Stay,
    }
}

fn stopping(facts: &Facts, seconds: i64) -> Next {
    if facts.shares || (facts.stopped && !facts.pod) {
        return Next::Go(RecoveryStage::Copying, CopyKind::BaseBackup);
    }
    if seconds > STOP_SECONDS {
        return Next::Failed(format!(
            "its pod didn't stop within {STOP_SECONDS} s: if its Kubernetes node is dead, wait for it, or taint it with \
             node.kubernetes.io/out-of-service"
        ));
    }
    Next::Stay
}

fn copying(facts: &Facts, recovery: &RecoveryStatus) -> Next {
    if facts.claim_lost {
        return if recovery.may_destroy { Next::Stay } else { Next::MayDestroy };
    }
    if facts.new_data {
        // The node's pod waited for the Job and has the volume now: nobody needs to wait for the Job's status.
        return Next::Go(RecoveryStage::CatchingUp, CopyKind::BaseBackup);
    }
    match &facts.job {
        Some(JobOutcome::Succeeded) => Next::Go(RecoveryStage::CatchingUp, CopyKind::BaseBackup),
        Some(JobOutcome::Failed { needs_destroy: true, .. }) if !recovery.may_destroy => Next::MayDestroy,
        // Written down meanwhile: the Job is made again, with the permission.
        Some(JobOutcome::Failed { needs_destroy: true, .. }) if !facts.job_may_destroy => Next::Stay,
        Some(JobOutcome::Failed { message, .. }) => Next::Failed(format!("the copy failed: {message}")),
        Some(JobOutcome::Running) | None => Next::Stay,
    }
}

fn catching_up(facts: &Facts, seconds: i64) -> Next {
    if facts.new_data && facts.streaming {
        return Next::Go(RecoveryStage::Joining, CopyKind::BaseBackup);
    }
    spoilt(facts, seconds).map_or(Next::Stay, Next::Failed)
}

/// Why the new copy will never be attached, once its agent says so.
fn spoilt(facts: &Facts, seconds: i64) -> Option<String> {
    if facts.claim_lost {
        return Some("its volume was lost after the copy".to_owned());
    }
    match &facts.join {
        Some(Join::NeedsCopy(why)) if facts.new_data => Some(format!("the new copy can't follow: {why}")),
        Some(_) if !facts.new_data && seconds > PROOF_SECONDS => {
            Some("the new copy of the data isn't on its volume any more".to_owned())
        }
        _ => None,
    }
}

fn joining(facts: &Facts, recovery: &RecoveryStatus, seconds: i64) -> Next {
    match recovery.copy {
        CopyKind::BaseBackup if facts.attached_new => return Next::Done,
        CopyKind::BaseBackup if !facts.attached => {
            if let Some(why) = spoilt(facts, seconds) {
                return Next::Failed(why);
            }
        }
        CopyKind::None if facts.attached && !facts.wished_out => return Next::Done,
        CopyKind::None if !facts.attached && matches!(facts.join, Some(Join::NeedsCopy(_))) => {
            return Next::Go(RecoveryStage::Detaching, CopyKind::BaseBackup);
        }
        CopyKind::None if !facts.attached && seconds > PROOF_SECONDS && !is_proved(facts.join.as_ref()) => {
            return Next::Go(RecoveryStage::Detaching, CopyKind::BaseBackup);
        }
        _ => {}
    }
    if seconds > JOIN_SECONDS {
        return Next::Failed(format!("the primary didn't attach it within {JOIN_SECONDS} s"));
    }
    Next::Stay
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: i64 = 3600;

    /// A detached node of a pool that has another attached one; data on its volume, no Job yet.
    fn facts() -> Facts {
        Facts {
            last_attached: false,
            is_primary: false,
            attached: false,
            attached_new: false,
            wished_out: true,
            pod: true,
            shares: false,
            stopped: false,
            join: Some(Join::Unknown),
            has_data: true,
            new_data: false,
            streaming: false,
            claim_lost: false,
            filled: true,
            job: None,
            job_may_destroy: false,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn recovery(stage: RecoveryStage) -> RecoveryStatus {
        RecoveryStatus {
            id: "0badcafe".to_owned(),
            node: 1,
            stage,
            copy: CopyKind::BaseBackup,
            reason: String::new(),
            donor: Some(0),
            bytes: 0,
            total: 0,
            rate: 0,
            started_at: at(0),
            stage_since: at(0),
            attempt: 0,
            may_destroy: false,
            apart: false,
        }
    }

    fn after(facts: &Facts, stage: RecoveryStage, second: i64) -> Next {
        next(facts, &recovery(stage), LIMIT, at(second))
    }

    fn failed(next: &Next) -> bool {
        matches!(next, Next::Failed(_))
    }

    #[test]
    fn every_stage_has_an_end() {
        let attached = Facts { attached: true, ..facts() };
        assert_eq!(after(&attached, RecoveryStage::Detaching, DETACH_SECONDS), Next::Stay);
        assert!(failed(&after(&attached, RecoveryStage::Detaching, DETACH_SECONDS + 1)));
        assert_eq!(after(&facts(), RecoveryStage::Stopping, STOP_SECONDS), Next::Stay);
        assert!(failed(&after(&facts(), RecoveryStage::Stopping, STOP_SECONDS + 1)));
        let copied = Facts { new_data: true, ..facts() };
        assert!(failed(&after(&copied, RecoveryStage::Joining, JOIN_SECONDS + 1)));
        for (facts, stage) in [(&facts(), RecoveryStage::Copying), (&copied, RecoveryStage::CatchingUp)] {
            assert_eq!(after(facts, stage, LIMIT), Next::Stay);
            assert!(failed(&after(facts, stage, LIMIT + 1)));
        }
    }

    #[test]
    fn the_last_attached_node_and_the_primary_are_let_be_in_every_stage() {
        use RecoveryStage::{CatchingUp, Copying, Detaching, Joining, Requested, Stopping};
        for stage in [Requested, Detaching, Stopping, Copying, CatchingUp, Joining] {
            let last = Facts { attached: true, last_attached: true, ..facts() };
            let primary = Facts { attached: true, is_primary: true, ..facts() };
            assert!(failed(&after(&last, stage, 0)), "{stage:?}");
            assert!(failed(&after(&primary, stage, 0)), "{stage:?}");
        }
    }

    #[test]
    fn a_proof_saves_the_copy_and_nobody_waits_for_one_for_long() {
        let copy = Next::Go(RecoveryStage::Stopping, CopyKind::BaseBackup);
        let with = |join| Facts { join, ..facts() };
        let proved = with(Some(Join::Proved));
        let detaching = RecoveryStage::Detaching;
        assert_eq!(after(&proved, detaching, 0), Next::Go(RecoveryStage::Joining, CopyKind::None));
        assert_eq!(after(&with(Some(Join::NeedsCopy(String::new()))), detaching, 0), copy);
        assert_eq!(after(&facts(), detaching, PROOF_SECONDS), Next::Stay);
        assert_eq!(after(&facts(), detaching, PROOF_SECONDS + 1), copy);
        assert_eq!(after(&with(None), detaching, SILENT_SECONDS), Next::Stay);
        assert_eq!(after(&with(None), detaching, SILENT_SECONDS + 1), copy);
        assert_eq!(after(&Facts { filled: false, ..facts() }, detaching, 0), copy);
    }

    #[test]
    fn a_pod_that_has_the_new_copy_needs_no_word_of_the_job() {
        let running = Facts { job: Some(JobOutcome::Running), ..facts() };
        assert_eq!(after(&running, RecoveryStage::Copying, 9), Next::Stay);
        let there = Facts { new_data: true, ..running };
        let next = Next::Go(RecoveryStage::CatchingUp, CopyKind::BaseBackup);
        assert_eq!(after(&there, RecoveryStage::Copying, 9), next);
    }

    #[test]
    fn the_pod_of_a_new_volume_needn_t_stop() {
        let next = Next::Go(RecoveryStage::Copying, CopyKind::BaseBackup);
        let new = Facts { shares: true, filled: false, has_data: false, ..facts() };
        assert_eq!(after(&new, RecoveryStage::Stopping, 0), next);
        assert_eq!(after(&facts(), RecoveryStage::Stopping, 0), Next::Stay);
    }

    #[test]
    fn what_may_be_destroyed_is_written_down_first() {
        let job = JobOutcome::Failed { message: "no room".to_owned(), needs_destroy: true };
        let full = Facts { job: Some(job), ..facts() };
        let marked = RecoveryStatus { may_destroy: true, ..recovery(RecoveryStage::Copying) };
        assert_eq!(after(&full, RecoveryStage::Copying, 0), Next::MayDestroy);
        assert_eq!(
            next(&full, &marked, LIMIT, at(0)),
            Next::Stay,
            "the Job is made again, with the permission"
        );
        let again = Facts { job_may_destroy: true, ..full };
        assert!(
            failed(&next(&again, &marked, LIMIT, at(0))),
            "it had the permission and failed all the same"
        );
        let lost = Facts { claim_lost: true, ..facts() };
        assert_eq!(after(&lost, RecoveryStage::Copying, 0), Next::MayDestroy);
        assert_eq!(next(&lost, &marked, LIMIT, at(0)), Next::Stay);
    }

    #[test]
    fn only_the_new_copy_in_the_record_ends_a_recovery_with_a_copy() {
        let old = Facts { attached: true, ..facts() };
        assert_eq!(after(&old, RecoveryStage::Joining, 0), Next::Stay);
        let new = Facts { attached_new: true, ..old };
        assert_eq!(after(&new, RecoveryStage::Joining, 0), Next::Done);
    }
}
