//! The status of the PgPool: what was seen, in words for people. Written only where it changed, so
//! nothing in here may move by itself: positions are kept for a while, or until the state of their node changes.
use super::conditions;
use super::draft::Draft;
use super::rest::other_major;
use super::{Happening, UNDER_WAY};
use crate::api::v1alpha1::{
    FailedRecoveries, Health, MembershipView, NodeRecovery, NodeState, NodeStatus, PgPoolStatus, Phase,
    RecoveryStage,
};
use crate::messages::{NodeReport, Role};
use crate::model::{InvalidSpec, Observed};
use crate::names;
use jiff::{SignedDuration, Timestamp};

/// How long the positions of nodes are kept as they are.
const POSITIONS_EVERY: SignedDuration = SignedDuration::from_secs(30);
/// Bytes of a volume that must stay free, whatever its size, before it is called nearly full.
const FREE_FLOOR: u64 = 64 << 20;

/// Completes the status from everything that this pass saw and decided.
pub(super) fn summarise(draft: &mut Draft<'_>) {
    let generation = draft.pool.generation;
    draft.status().observed_generation = Some(generation);
    if draft.seen.status.phase == Some(Health::Suspended) {
        draft.tell(Happening::normal("Resumed", "spec.suspend is no longer true: the operator goes on"));
    }
    record(draft);
    super::office::note(draft);
    if let Some(version) = draft.primary().and_then(|(_, report)| report.postgres_version) {
        draft.status().postgres_version = Some(version);
    }
    let anew = positions_are_due(draft);
    for index in draft.seen.nodes.keys().copied() {
        node(draft, index, anew);
    }
    let seen = draft.seen;
    draft.status().nodes.retain(|node| seen.nodes.contains_key(&node.index));
    draft.status().nodes.sort_by_key(|node| node.index);
    let lag = lag_class(draft);
    draft.status().lag = lag;
    let health = health(draft);
    draft.status().phase = Some(health);
    if !matches!(health, Health::Ready | Health::Degraded) {
        draft.requeue(UNDER_WAY);
    }
    let now = draft.seen.now;
    conditions::set(draft, health, now);
}

/// The record, and what changed in it since the last status.
fn record(draft: &mut Draft<'_>) {
    let Some(record) = draft.record() else { return };
    let view = MembershipView {
        epoch: record.epoch,
        phase: record.phase,
        primary: record.primary,
        attached: record.attached.iter().map(|member| member.index).collect(),
    };
    let old = draft.seen.status.membership.clone();
    if old.as_ref() != Some(&view) {
        tell_change(draft, old.as_ref(), &view, &record.reason);
    }
    draft.status().attached = Some(format!("{}/{}", view.attached.len(), draft.pool.nodes));
    draft.status().primary_pod = Some(names::node_pod(draft.pool.name(), view.primary));
    draft.status().membership = Some(view);
}

fn tell_change(draft: &mut Draft<'_>, old: Option<&MembershipView>, new: &MembershipView, reason: &str) {
    let before: &[u8] = old.map_or(&[], |old| old.attached.as_slice());
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let epoch = new.epoch;
    for index in new.attached.iter().filter(|index| !before.contains(index)) {
        draft.tell(Happening::normal(
            "NodeAttached",
            format!("node {index} is attached (epoch {epoch}){because}"),
        ));
    }
    for index in before.iter().filter(|index| !new.attached.contains(index)) {
        let wished = !draft.attach.contains(index) || expected(draft, *index);
        let note = format!("node {index} is detached (epoch {epoch}){because}");
        draft.tell(if wished {
            Happening::normal("NodeDetached", note)
        } else {
            Happening::warning("NodeDetached", note)
        });
    }
    if let Some(old) = old.filter(|old| old.primary != new.primary) {
        let note = format!(
            "node {} is the primary now, node {} was (epoch {epoch}){because}",
            new.primary, old.primary
        );
        draft.tell(if draft.seen.status.switchover.is_some() {
            Happening::normal("PrimaryChanged", note)
        } else {
            Happening::warning("PrimaryChanged", note)
        });
    }
}

/// Whether the operator itself has the node leave for a while.
fn expected(draft: &Draft<'_>, index: u8) -> bool {
    draft.plan.memory.rolled.contains(&index)
        || draft.restart.as_ref().is_some_and(|restart| restart.node == index)
        || draft.seen.status.switchover.as_ref().is_some_and(|switchover| switchover.from == index)
}

/// Whether the nodes' positions are to be looked at anew.
fn positions_are_due(draft: &mut Draft<'_>) -> bool {
    let now = draft.seen.now;
    let lately = |at: Timestamp| now.duration_since(at) < POSITIONS_EVERY;
    if draft.plan.memory.positions_at.is_some_and(lately) {
        return false;
    }
    draft.plan.memory.positions_at = Some(now);
    true
}

fn node(draft: &mut Draft<'_>, index: u8, anew: bool) {
    let fresh = node_status(draft, index);
    tell_node(draft, index);
    let list = &mut draft.status().nodes;
    match list.iter_mut().find(|old| old.index == index) {
        None => list.push(fresh),
        Some(old) => {
            let same =
                old.state == fresh.state && old.primary == fresh.primary && old.timeline == fresh.timeline;
            let kept = NodeStatus {
                lsn: old.lsn.clone(),
                lag_bytes: old.lag_bytes,
                lag_seconds: old.lag_seconds,
                ..fresh.clone()
            };
            *old = if same && old.lsn.is_some() && !anew { kept } else { fresh };
        }
    }
}

fn node_status(draft: &Draft<'_>, index: u8) -> NodeStatus {
    let seen = draft.node(index);
    let report = draft.report(index);
    let recovery = draft.plan.status.recovery.as_ref().filter(|r| r.node == index);
    let state = if draft.is_attached(index) {
        NodeState::Attached
    } else if recovery.is_some_and(|r| r.stage != RecoveryStage::Requested) {
        NodeState::Recovering
    } else if report.is_some() {
        NodeState::Detached
    } else {
        NodeState::Unreachable
    };
    let primary = draft.record().is_some_and(|record| record.primary == index);
    let ahead = draft.primary().and_then(|(_, primary)| primary.lsn);
    NodeStatus {
        index,
        pod: names::node_pod(draft.pool.name(), index),
        kubernetes_node: seen.and_then(|seen| seen.pod.as_ref()).and_then(|pod| pod.kubernetes_node.clone()),
        state,
        primary,
        reason: reason(draft, index, state),
        timeline: report.and_then(|report| report.timeline),
        lsn: report.and_then(|report| report.lsn).map(lsn_text),
        lag_bytes: match (ahead, report.and_then(|report| report.lsn)) {
            (Some(ahead), Some(own)) if !primary => i64::try_from(ahead.saturating_sub(own)).ok(),
            _ => None,
        },
        lag_seconds: lag_seconds(draft, index).filter(|_| !primary),
        recovery: recovery.map(NodeRecovery::from),
        failed_recoveries: draft
            .plan
            .memory
            .backoff
            .get(&index)
            .map(|failed| FailedRecoveries { count: failed.failures, last: failed.last }),
    }
}

/// How old the oldest change is that the node lacks, as the primary measures it: the node itself knows only of what it has.
fn lag_seconds(draft: &Draft<'_>, index: u8) -> Option<i64> {
    let (_, primary) = draft.primary()?;
    let lag = primary
        .replicas
        .iter()
        .filter(|replica| replica.index == index)
        .find_map(|replica| replica.lag_ms)?;
    i64::try_from(lag / 1000).ok()
}

fn reason(draft: &Draft<'_>, index: u8, state: NodeState) -> String {
    let Some(seen) = draft.node(index) else { return String::new() };
    if draft.plan.status.fenced.contains(&index) && state != NodeState::Attached {
        return "fenced: its PostgreSQL is kept stopped; fence=off lifts it".to_owned();
    }
    if index >= draft.pool.nodes {
        return "beyond spec.nodes: it is being removed".to_owned();
    }
    if draft.plan.status.detached_by_wish.contains(&index) && state == NodeState::Detached {
        return "detached by wish; attach or recover brings it back".to_owned();
    }
    if let Some(trouble) = seen.pod.as_ref().and_then(|pod| pod.trouble.clone()) {
        return trouble;
    }
    if state == NodeState::Recovering {
        return String::new();
    }
    if let Some(why) = other_major(draft, index) {
        return why;
    }
    match &seen.report {
        Some(Ok(report)) if report.needs_person || state != NodeState::Attached => report.message.clone(),
        Some(Ok(_)) => String::new(),
        Some(Err(_)) => "its agent doesn't answer".to_owned(),
        None => "it has no pod".to_owned(),
    }
}

/// What a person should know of a node: told once for as long as it is so.
fn tell_node(draft: &mut Draft<'_>, index: u8) {
    super::pods::tell(draft, index);
    let Some(report) = draft.report(index) else { return };
    let node = format!("node {index}");
    let person = report.needs_person.then(|| format!("{node} needs a person: {}", report.message));
    draft.warn(&format!("person/{index}"), "NeedsPerson", person);
    let archive = report.archive_error.as_ref().map(|error| format!("{node}: WAL archive: {error}"));
    draft.warn(&format!("archive/{index}"), "ArchiveError", archive);
    let refused = report.refused_parameters.as_ref();
    let refused = refused.map(|said| {
        format!("{node}: PostgreSQL refuses spec.postgres.parameters, and those before stay in use; correct or remove what it names: \
                 {said}")
    });
    draft.warn(&format!("parameters/{index}"), "ParametersRefused", refused);
    let full = nearly_full(report).then(|| {
        format!(
            "{node}: its volume is nearly full ({} % of {} MiB free): delete data, or raise spec.storage.size, before \
             PostgreSQL stops",
            // Rounded, since each change is a write of status, and a pass after it.
            report.volume_free.saturating_mul(100) / report.volume_bytes,
            report.volume_bytes >> 20
        )
    });
    draft.warn(&format!("full/{index}"), "VolumeNearlyFull", full);
    if draft.primary().is_some_and(|(primary, _)| primary == index) {
        unsafe_settings(draft, &report.unsafe_settings);
    }
}

/// Commits under such a setting are acknowledged before the other nodes have them (R11).
fn unsafe_settings(draft: &mut Draft<'_>, commands: &[String]) {
    let told = (!commands.is_empty()).then(|| {
        format!(
            "a role or database has a setting of its own that belongs to the operator: run {} on the primary",
            commands.join("; ")
        )
    });
    // Another one is told of too; each is in the condition.
    let key = format!("unsafe-settings/{}", commands.len());
    for fewer in 0..commands.len() {
        draft.untell(&format!("unsafe-settings/{fewer}"));
    }
    draft.warn(&key, "UnsafeSetting", told);
}

/// Below a tenth, or below 64Mi: checkpoints and WAL need room before anything can be freed.
fn nearly_full(report: &NodeReport) -> bool {
    report.volume_bytes > 0
        && (report.volume_free < report.volume_bytes / 10 || report.volume_free < FREE_FLOOR)
}

/// A WAL position as PostgreSQL prints it.
fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// The largest lag of an attached standby, as a class that rarely changes.
fn lag_class(draft: &Draft<'_>) -> Option<String> {
    let (primary, report) = draft.primary()?;
    let ahead = report.lsn?;
    let record = draft.record()?;
    let lag = record
        .attached
        .iter()
        .filter(|member| member.index != primary)
        .filter_map(|member| draft.report(member.index).and_then(|report| report.lsn))
        .map(|own| ahead.saturating_sub(own))
        .max()?;
    // Between two reports a busy pool moves: less than a segment is no lag that people could see.
    let class = match lag {
        0..0x10_0000 => "<1MB",
        0x10_0000..0x100_0000 => "<16MB",
        0x100_0000..0x1000_0000 => "<256MB",
        _ => ">=256MB",
    };
    Some(class.to_owned())
}

fn health(draft: &Draft<'_>) -> Health {
    if draft.record().is_none() {
        return Health::Creating;
    }
    let status = &draft.plan.status;
    if !is_led(draft) {
        // A primary that never opened is still being made.
        return if status.bootstrapped { Health::Unavailable } else { Health::Creating };
    }
    if !status.bootstrapped {
        return Health::Creating;
    }
    if status.recovery.is_some() {
        return Health::Recovering;
    }
    let missing = draft.wished().filter(|index| !draft.is_attached(*index)).count();
    let nodes = draft.seen.nodes.range(..draft.pool.nodes).map(|(_, node)| node);
    let never = nodes.filter(|n| !n.claim.as_ref().is_some_and(|c| c.filled)).count();
    if never == 0 && draft.change.as_ref().is_some_and(|change| !change.stopped) {
        return Health::Updating;
    }
    let front = is_front_up(draft.seen);
    // The first front of a pool isn't down before it was up.
    let was_made = !matches!(draft.seen.status.phase, None | Some(Health::Creating));
    match (missing, never) {
        (0, _) if front => Health::Ready,
        (_, 0) if !front && was_made => Health::Unavailable,
        (0, _) => Health::Creating,
        (_, 0) => Health::Degraded,
        _ => Health::Recovering,
    }
}

/// Whether a primary is in office, and none is being chosen in its place.
pub(super) fn is_led(draft: &Draft<'_>) -> bool {
    draft.primary().is_some() && draft.record().is_some_and(|record| record.phase != Phase::Electing)
}

pub(super) fn is_front_up(seen: &Observed) -> bool {
    seen.proxy.is_some_and(|proxy| proxy.ready > 0)
}

/// Whether Postgres of an attached node is down for the moment.
pub(super) fn is_down(report: Option<&NodeReport>) -> bool {
    report.is_none_or(|report| report.role == Role::Stopped)
}

/// Hands off: only the status says so, and an event once. Agents go on, so what they have made of the pool is told as ever.
pub(super) fn suspended(draft: &mut Draft<'_>) {
    let generation = draft.pool.generation;
    draft.status().observed_generation = Some(generation);
    if draft.seen.status.phase != Some(Health::Suspended) {
        let note = "spec.suspend is true: the operator changes nothing; agents go on, and still remove a node that fails";
        draft.tell(Happening::normal("Suspended", note));
    }
    record(draft);
    super::office::note(draft);
    let anew = positions_are_due(draft);
    for index in draft.seen.nodes.keys().copied() {
        node(draft, index, anew);
    }
    let lag = lag_class(draft);
    draft.status().lag = lag;
    draft.status().phase = Some(Health::Suspended);
    let now = draft.seen.now;
    conditions::set(draft, Health::Suspended, now);
}

/// The status of a pool whose spec is refused; everything that runs is left alone.
pub fn invalid(
    old: &PgPoolStatus,
    generation: i64,
    problems: &[InvalidSpec],
    now: Timestamp,
) -> PgPoolStatus {
    let mut status = old.clone();
    status.observed_generation = Some(generation);
    status.phase = Some(Health::Invalid);
    let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    conditions::invalid(&mut status, generation, &message, now);
    status
}
