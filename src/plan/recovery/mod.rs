//! Online recovery: a node is taken back while the pool works.
//!
//! ```text
//! Requested -> Detaching -> Stopping -> Copying -> CatchingUp -> Joining -> done
//!                   |                                               ^
//!                   +---- its WAL is proved a prefix: no copy ------+
//! ```
//! Where the node's volume belongs to one machine, the Job is made while the pod still ends, and the pod while the
//! Job still copies: whoever comes second waits for the volume's lock, which is what starting a pod takes.
//! Elsewhere each waits until the other is gone: a lock says nothing of what a machine that was cut off does. A pod
//! whose volume never had data stays through the copy.
//!
//! Each stage has a time limit; a recovery that fails leaves the node detached, with what data it has.
pub mod automatic;
pub mod backoff;
pub(super) mod copying;
pub mod donor;
pub(super) mod guards;
pub mod step;

use std::time::Duration;

use jiff::Timestamp;

use super::draft::Draft;
use super::{AT_ONCE, Action, Happening, UNDER_WAY};
use crate::api::v1alpha1::{CopyKind, LastRecovery, RecoveryStage, RecoveryStatus};
use crate::messages::Join;
use crate::model::{Backoff, NodeSeen};
use crate::names;
use crate::resources::incarnation;
use step::{Facts, Next};

/// Reason of a recovery for which a person gave the node's volume up. It is how the wish is kept until
/// the claim carries the mark.
pub(super) const GIVEN_UP: &str = "its volume is given up by annotation";

/// Puts a new recovery into status; the steps follow in later passes.
pub(super) fn begin(draft: &mut Draft<'_>, node: u8, reason: &str, may_destroy: bool) {
    let now = draft.seen.now;
    let attempt = draft.plan.memory.backoff.get(&node).map_or(0, |b| b.failures);
    draft.status().recovery = Some(RecoveryStatus {
        id: draft.seen.fresh_id.clone(),
        node,
        stage: RecoveryStage::Requested,
        copy: CopyKind::BaseBackup,
        reason: reason.to_owned(),
        donor: None,
        bytes: 0,
        total: 0,
        rate: 0,
        started_at: now,
        stage_since: now,
        attempt,
        may_destroy,
        apart: had_a_machine_of_its_own(draft, node, reason),
    });
    draft.tell(Happening::normal("RecoveryStarted", format!("recovery of node {node}: {reason}")));
    draft.requeue(AT_ONCE);
}

/// Whether the node's volume, which is lost or given up, was on the disk of a machine that had no other node of the pool. A new one
/// on the disk of a machine that has would keep the node there, where its pod may not run once there is a machine more.
fn had_a_machine_of_its_own(draft: &Draft<'_>, node: u8, reason: &str) -> bool {
    let is_lost = |seen: &NodeSeen| seen.claim.as_ref().is_some_and(|c| c.on_one_machine && c.lost.is_some());
    let place = |seen: &NodeSeen| seen.pod.as_ref().and_then(|pod| pod.kubernetes_node.clone());
    let Some(seen) = draft.node(node) else { return false };
    let own = place(seen);
    let given_up = reason == GIVEN_UP && seen.claim.as_ref().is_some_and(|claim| claim.on_one_machine);
    // A machine that is gone has taken the volumes of all that were there, and mostly their pods.
    let goes = is_lost(seen) || (given_up && own.is_some());
    let mut others = draft.seen.nodes.iter().filter(|(index, _)| **index != node).map(|(_, seen)| seen);
    goes && !others.any(|other| is_lost(other) || (own.is_some() && place(other) == own))
}

/// What earlier operators have seen fail; asked before anything is decided.
pub(super) fn remember(draft: &mut Draft<'_>) {
    if draft.seen.memory.seen_before {
        return;
    }
    for node in &draft.seen.status.nodes {
        if let Some(failed) = &node.failed_recoveries {
            let failed = Backoff { failures: failed.count, last: failed.last };
            draft.plan.memory.backoff.entry(node.index).or_insert(failed);
        }
    }
}

/// Goes on with the recovery under way, or begins one that is needed.
pub(super) fn plan(draft: &mut Draft<'_>) {
    if is_put_back(draft) {
        draft.requeue(UNDER_WAY);
        return;
    }
    // Only what stands in the status that was read is acted on: a new one waits for the next pass.
    if let Some(recovery) = draft.seen.status.recovery.clone() {
        go_on(draft, &recovery);
    } else if draft.plan.status.recovery.is_none() {
        automatic::plan(draft);
    }
    tidy(draft);
}

/// Whether a node has seen a later epoch than the record has, or refuses it. For a moment the first only says that the record was read
/// before; where it stays, the record was put back, and the data that it doesn't count may be the data that is wanted: nothing is
/// copied over, however far that record has gone on since. The agents call a person (R7).
fn is_put_back(draft: &Draft<'_>) -> bool {
    let epoch = draft.record().map_or(0, |record| record.epoch);
    draft
        .seen
        .nodes
        .values()
        .filter_map(|node| node.report())
        .any(|report| report.put_back || report.seen > epoch)
}

fn go_on(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    if recovery.node >= draft.pool.nodes {
        end(draft, recovery, false, "the node is being removed".to_owned(), 0);
        return;
    }
    let recovery = &with_bytes(draft, recovery);
    let facts = facts(draft, recovery);
    let (reached, next) = advance(&facts, recovery, draft.pool.recovery_seconds, draft.seen.now);
    draft.requeue(if copying::ends_soon(draft, &reached) { CLOSELY } else { pace(reached.stage) });
    draft.status().recovery = Some(reached.clone());
    match next {
        Next::Stay if reached == *recovery => perform(draft, recovery),
        // What the new stage does rests on its standing in status: that is for the next pass.
        Next::Stay | Next::Go(..) => {
            wishes(draft, &reached);
            copying::name_donor(draft, &reached);
            draft.requeue(AT_ONCE);
        }
        Next::MayDestroy => {
            draft.status().recovery = Some(RecoveryStatus { may_destroy: true, ..reached });
            draft.requeue(AT_ONCE);
        }
        Next::Done => finish(draft, &reached),
        Next::Failed(why) => fail(draft, &reached, &why),
    }
}

/// A copy that is over before its progress was seen is known by the Job's last words.
fn with_bytes(draft: &Draft<'_>, recovery: &RecoveryStatus) -> RecoveryStatus {
    let name = names::recovery_job(draft.pool.name(), recovery.node, &recovery.id);
    let copied = draft.seen.jobs.get(&name).map_or(0, |job| job.bytes);
    let bytes = recovery.bytes.max(copied);
    RecoveryStatus { bytes, total: recovery.total.max(bytes), ..recovery.clone() }
}

/// Goes through every stage that has nothing to wait for.
fn advance(
    facts: &Facts,
    recovery: &RecoveryStatus,
    limit_seconds: i64,
    now: Timestamp,
) -> (RecoveryStatus, Next) {
    let mut reached = recovery.clone();
    let mut next = step::next(facts, &reached, limit_seconds, now);
    for _ in 0..STAGES {
        let Next::Go(stage, copy) = next else { break };
        reached = RecoveryStatus { stage, copy, stage_since: now, ..reached };
        next = step::next(facts, &reached, limit_seconds, now);
    }
    (reached, next)
}

/// More steps than there are stages are none of one recovery.
const STAGES: usize = 6;

/// How soon to look again: what agents do isn't told by the Kubernetes API.
fn pace(stage: RecoveryStage) -> Duration {
    match stage {
        RecoveryStage::Detaching | RecoveryStage::CatchingUp | RecoveryStage::Joining => CLOSELY,
        _ => UNDER_WAY,
    }
}

/// While clients may notice.
const CLOSELY: Duration = Duration::from_millis(250);

/// What this stage wants of the world.
fn perform(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    wishes(draft, recovery);
    match recovery.stage {
        RecoveryStage::Stopping => copying::begin_early(draft, recovery),
        RecoveryStage::Copying => copying::perform(draft, recovery),
        _ => {}
    }
}

/// Whether the node shall be attached in this stage.
fn wishes(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    match recovery.stage {
        RecoveryStage::Requested => {}
        RecoveryStage::Joining => {
            draft.attach.insert(recovery.node);
        }
        _ => {
            draft.attach.remove(&recovery.node);
        }
    }
}

fn facts(draft: &Draft<'_>, recovery: &RecoveryStatus) -> Facts {
    let node = recovery.node;
    let expected = incarnation(&draft.pool_uid(), &recovery.id);
    let member = draft.record().and_then(|r| r.attached.iter().find(|member| member.index == node));
    let seen = draft.node(node);
    let report = draft.report(node);
    let job = draft.seen.jobs.get(&names::recovery_job(draft.pool.name(), node, &recovery.id));
    let others = draft.record().is_some_and(|r| r.attached.iter().any(|member| member.index != node));
    Facts {
        last_attached: !others,
        is_primary: draft.record().is_some_and(|r| r.primary == node),
        attached: member.is_some(),
        attached_new: member.is_some_and(|member| member.incarnation == expected),
        wished_out: !draft.seen.membership.as_ref().is_some_and(|m| m.spec.attach.contains(&node)),
        pod: seen.is_some_and(|seen| seen.pod.is_some()),
        shares: copying::shares(draft, recovery),
        stopped: seen.is_none_or(|seen| seen.set.is_none_or(|set| set.replicas == 0)),
        join: report.map(|report| report.join.clone()),
        has_data: report.is_some_and(|report| report.incarnation.is_some()),
        new_data: report.is_some_and(|report| report.incarnation.as_deref() == Some(expected.as_str())),
        streaming: report.is_some_and(|report| report.streaming),
        claim_lost: seen.and_then(|seen| seen.claim.as_ref()).is_some_and(|claim| {
            claim.lost.is_some() || claim.given_up.as_deref() == Some(recovery.id.as_str())
        }) || (recovery.reason == GIVEN_UP && recovery.stage < RecoveryStage::Copying),
        filled: seen.and_then(|seen| seen.claim.as_ref()).is_some_and(|claim| claim.filled),
        job: job.map(|job| job.outcome.clone()),
        job_may_destroy: job.is_some_and(|job| job.may_destroy),
    }
}

fn finish(draft: &mut Draft<'_>, recovery: &RecoveryStatus) {
    draft.attach.insert(recovery.node);
    let message = match recovery.copy {
        CopyKind::None => "attached without a copy: its WAL was a prefix of the primary's history".to_owned(),
        CopyKind::BaseBackup => format!("base backup from node {}", recovery.donor.unwrap_or_default()),
    };
    end(draft, recovery, true, message.clone(), 0);
    draft.plan.memory.backoff.remove(&recovery.node);
    let seconds = seconds_since(draft, recovery);
    let note = format!(
        "node {} is attached again after {seconds:.1} s: {message}, {} bytes",
        recovery.node, recovery.bytes
    );
    draft.tell(Happening::normal("RecoveryFinished", note));
}

fn fail(draft: &mut Draft<'_>, recovery: &RecoveryStatus, why: &str) {
    let failures = draft.plan.memory.backoff.get(&recovery.node).map_or(recovery.attempt, |b| b.failures) + 1;
    draft.plan.memory.backoff.insert(recovery.node, Backoff { failures, last: draft.seen.now });
    if draft.is_attached(recovery.node) {
        // It had not left yet, and now shall not.
        draft.attach.insert(recovery.node);
    }
    end(draft, recovery, false, why.to_owned(), failures);
    let then = match backoff::delay(failures) {
        Some(delay) if draft.pool.automatic_recovery => {
            format!("it is tried again in {} min", delay.as_secs() / 60)
        }
        _ => format!(
            "it isn't tried again by itself: annotate recover={} when the cause is gone",
            recovery.node
        ),
    };
    draft.tell(Happening::warning(
        "RecoveryFailed",
        format!("recovery of node {}: {why}; {then}", recovery.node),
    ));
}

fn end(draft: &mut Draft<'_>, recovery: &RecoveryStatus, succeeded: bool, message: String, failures: u32) {
    let ended_at = draft.seen.now;
    let seconds = seconds_since(draft, recovery);
    draft.status().recovery = None;
    draft.status().last_recovery = Some(LastRecovery {
        id: recovery.id.clone(),
        node: recovery.node,
        succeeded,
        message,
        bytes: recovery.bytes,
        seconds,
        ended_at,
        failures,
    });
    draft.plan.memory.needs_copy_since.remove(&recovery.node);
    draft.plan.memory.copy_begun = None;
    draft.plan.memory.progress_at = None;
    draft.requeue(AT_ONCE);
}

fn seconds_since(draft: &Draft<'_>, recovery: &RecoveryStatus) -> f64 {
    draft.seen.now.duration_since(recovery.started_at).as_secs_f64()
}

/// Jobs that belong to no recovery under way: those that still run are ended, those that succeeded are
/// removed; a failed one stays, to be looked at, until the node's next recovery begins to copy.
fn tidy(draft: &mut Draft<'_>) {
    let current = draft.plan.status.recovery.clone().or_else(|| draft.seen.status.recovery.clone());
    for (name, job) in &draft.seen.jobs {
        let of_current =
            current.as_ref().is_some_and(|r| *name == names::recovery_job(draft.pool.name(), r.node, &r.id));
        let copies_now =
            current.as_ref().is_some_and(|r| r.node == job.node && r.stage == RecoveryStage::Copying);
        let failed = matches!(job.outcome, crate::model::JobOutcome::Failed { .. });
        if of_current || job.deleting || (failed && !copies_now) {
            continue;
        }
        draft.plan.actions.push(Action::Delete {
            kind: "Job",
            name: name.clone(),
            uid: Some(job.uid.clone()),
        });
    }
}

/// Whether the agent says that nothing has to be copied.
pub(super) fn is_proved(join: Option<&Join>) -> bool {
    matches!(join, Some(Join::Proved))
}
