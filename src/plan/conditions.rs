//! Conditions of the PgPool: Ready, Progressing, Degraded, each with a reason and what to do.
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Happening;
use super::draft::Draft;
use super::membership::left_out;
use super::status::{is_down, is_front_up, is_led};
use crate::api::v1alpha1::conditions::{DEGRADED, PROGRESSING, READY};
use crate::api::v1alpha1::{Health, PgPoolStatus, RecoveryStatus};

/// Longest message of a condition that is written.
const MESSAGE_CHARS: usize = 1024;

struct Verdict {
    is_true: bool,
    reason: &'static str,
    message: String,
}

fn verdict(is_true: bool, reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { is_true, reason, message: message.into() }
}

/// Sets all three.
pub(super) fn set(draft: &mut Draft<'_>, health: Health, now: Timestamp) {
    let whether_ready = ready(draft, health);
    tell_ready(draft, health, &whether_ready);
    let verdicts = [
        (READY, whether_ready),
        (PROGRESSING, progressing(draft, health)),
        (DEGRADED, degraded(draft, health)),
    ];
    let generation = draft.pool.generation;
    for (kind, verdict) in verdicts {
        put(draft.status(), kind, &verdict, generation, now);
    }
}

/// Tells of each change of the answer; that a pool is suspended another event tells.
fn tell_ready(draft: &mut Draft<'_>, health: Health, now: &Verdict) {
    let mut conditions = draft.seen.status.conditions.iter();
    let was = conditions.any(|condition| condition.type_ == READY && condition.status == "True");
    let note = now.message.as_str();
    if now.is_true && !was {
        draft.tell(Happening::normal("Ready", note));
    } else if was && !now.is_true && health != Health::Suspended {
        let wished = draft.seen.status.switchover.is_some();
        draft.tell(if matches!(health, Health::Degraded | Health::Unavailable) && !wished {
            Happening::warning("NotReady", note)
        } else {
            Happening::normal("NotReady", note)
        });
    }
}

/// Sets all three for a spec that is refused.
pub(super) fn invalid(status: &mut PgPoolStatus, generation: i64, message: &str, now: Timestamp) {
    put(status, READY, &verdict(false, "InvalidSpec", message), generation, now);
    put(
        status,
        PROGRESSING,
        &verdict(false, "InvalidSpec", "nothing is changed until the spec is right"),
        generation,
        now,
    );
    put(status, DEGRADED, &verdict(true, "InvalidSpec", message), generation, now);
}

/// The time of a condition moves only when its answer does.
fn put(status: &mut PgPoolStatus, kind: &str, verdict: &Verdict, generation: i64, now: Timestamp) {
    let answer = if verdict.is_true { "True" } else { "False" };
    let old = status.conditions.iter().position(|condition| condition.type_ == kind);
    let since = old
        .and_then(|index| status.conditions.get(index))
        .filter(|condition| condition.status == answer)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    let fresh = Condition {
        type_: kind.to_owned(),
        status: answer.to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.chars().take(MESSAGE_CHARS).collect(),
        observed_generation: Some(generation),
        last_transition_time: since,
    };
    match old.and_then(|index| status.conditions.get_mut(index)) {
        Some(old) => *old = fresh,
        None => status.conditions.push(fresh),
    }
}

fn ready(draft: &Draft<'_>, health: Health) -> Verdict {
    let attached = draft.plan.status.attached.clone().unwrap_or_else(|| format!("0/{}", draft.pool.nodes));
    match health {
        Health::Ready => verdict(true, "AllAttached", format!("{attached} nodes are attached")),
        Health::Recovering => verdict(false, "Recovering", recovering(draft)),
        Health::Updating => verdict(false, "Updating", changing(draft)),
        Health::Degraded => {
            verdict(false, "NodesMissing", format!("{attached} nodes are attached; {}", missing(draft)))
        }
        Health::Creating => verdict(false, "Creating", creating(draft)),
        Health::Unavailable => {
            let (reason, message) = unavailable(draft);
            verdict(false, reason, message)
        }
        Health::Suspended => {
            verdict(false, "Suspended", "spec.suspend is true: the operator changes nothing")
        }
        Health::Invalid => verdict(false, "InvalidSpec", "the spec is refused"),
    }
}

fn progressing(draft: &Draft<'_>, health: Health) -> Verdict {
    match health {
        Health::Recovering => verdict(true, "Recovering", recovering(draft)),
        Health::Creating => verdict(true, "Creating", creating(draft)),
        Health::Suspended => {
            verdict(false, "Suspended", "spec.suspend is true: the operator changes nothing")
        }
        _ => match &draft.change {
            Some(change) => verdict(!change.stopped, change.reason, change.message.clone()),
            None => verdict(false, "AtRest", "nothing is under way"),
        },
    }
}

fn changing(draft: &Draft<'_>) -> String {
    draft.change.as_ref().map(|change| change.message.clone()).unwrap_or_default()
}

fn degraded(draft: &Draft<'_>, health: Health) -> Verdict {
    if let Some((reason, _)) = draft.troubles.first() {
        let all: Vec<&str> = draft.troubles.iter().map(|(_, message)| message.as_str()).collect();
        return verdict(true, reason, all.join("; "));
    }
    match health {
        Health::Degraded => verdict(true, "NodesMissing", missing(draft)),
        Health::Unavailable => {
            let (reason, message) = unavailable(draft);
            verdict(true, reason, message)
        }
        _ if !draft.plan.status.fenced.is_empty() => {
            let list = list(&draft.plan.status.fenced);
            verdict(true, "Fenced", format!("fenced: {list}; fence=off lifts it"))
        }
        _ if !draft.plan.status.detached_by_wish.is_empty() => {
            let list = list(&draft.plan.status.detached_by_wish);
            verdict(
                true,
                "DetachedByWish",
                format!("detached by wish: {list}; attach or recover brings a node back"),
            )
        }
        _ => verdict(false, "AsWished", "every wished node is attached, or on its way"),
    }
}

/// Why nothing can be written.
fn unavailable(draft: &Draft<'_>) -> (&'static str, &'static str) {
    if is_led(draft) {
        ("FrontDown", "no pod of the front is ready: nobody gets through to the nodes")
    } else {
        ("NoPrimary", "no primary is in office: nothing can be written")
    }
}

/// Nodes by their indices, in words.
pub(super) fn list(nodes: &[u8]) -> String {
    nodes.iter().map(|index| format!("node {index}")).collect::<Vec<_>>().join(", ")
}

fn missing(draft: &Draft<'_>) -> String {
    let missing = draft.plan.status.nodes.iter();
    let missing = missing.filter(|node| !draft.is_attached(node.index) && node.index < draft.pool.nodes);
    let texts: Vec<String> = missing
        .map(|node| match node.reason.as_str() {
            "" => format!("node {} is {:?}", node.index, node.state),
            reason => format!("node {} is {:?}: {reason}", node.index, node.state),
        })
        .collect();
    texts.join("; ")
}

/// Holds no numbers that move: the condition is rewritten only with the stage.
fn recovering(draft: &Draft<'_>) -> String {
    match &draft.plan.status.recovery {
        Some(RecoveryStatus { node, stage, reason, .. }) => {
            let job =
                draft.seen.jobs.values().find(|job| job.node == *node).and_then(|job| job.trouble.clone());
            let trouble = job.map(|trouble| format!("; {trouble}")).unwrap_or_default();
            format!("node {node} is being recovered, stage {stage:?} ({reason}){trouble}")
        }
        None => format!("waiting for the next recovery; {}", missing(draft)),
    }
}

fn creating(draft: &Draft<'_>) -> String {
    let first = draft.bootstrap();
    if draft.seen.membership.is_none() && !draft.seen.claims.is_empty() {
        return "volumes of an earlier pool are there, and a person has to say what becomes of them"
            .to_owned();
    }
    if let Some(why) = left_out(draft) {
        return why;
    }
    if let Some(trouble) =
        draft.seen.nodes.get(&first).and_then(|n| n.pod.as_ref()).and_then(|pod| pod.trouble.clone())
    {
        return format!("node {first}: {trouble}");
    }
    if draft.record().is_none() && draft.adopts() {
        return format!("node {first} takes up the data of an earlier pool");
    }
    if draft.record().is_none() {
        return format!("the first copy of the data is being made on node {first}");
    }
    if is_down(draft.report(first)) || draft.primary().is_none() {
        return "the primary is starting".to_owned();
    }
    if !draft.plan.status.bootstrapped {
        return "roles and databases are being made".to_owned();
    }
    if !is_front_up(draft.seen) {
        return "waiting for a pod of the front to be ready".to_owned();
    }
    "waiting for the nodes".to_owned()
}
