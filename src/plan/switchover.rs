//! Another primary, in order: asked of the primary's agent by the membership's spec, and carried out by it (R14).
//!
//! The wish stands in status until it has ended. It names the timeline of its beginning, so that no agent
//! carries it out twice, whatever becomes of the operator.
use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::rest::can_spare_one;
use super::{AT_ONCE, Happening};
use crate::api::v1alpha1::{Phase, Record, Switchover, SwitchoverStatus};
use crate::messages::{RefusedHandover, Role};

/// How long a primary may take to hand over or to say why not.
const LIMIT: SignedDuration = SignedDuration::from_secs(120);
/// When one that the operator itself wanted is tried again.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// How soon to look again.
const CLOSELY: std::time::Duration = std::time::Duration::from_millis(250);
/// The reason of one that a person asked for.
pub(super) const ASKED: &str = "asked for by annotation";

/// The node that had best take over: an attached standby that streams, the lowest index first.
pub(super) fn successor(draft: &Draft<'_>) -> Option<u8> {
    let record = draft.record()?;
    let fit = |index: &u8| {
        *index != record.primary
            && *index < draft.pool.nodes
            && draft.report(*index).is_some_and(|r| r.role == Role::Standby && r.open)
    };
    record.attached.iter().map(|member| member.index).find(fit)
}

/// Why the operator had better not ask again yet.
pub(super) fn failed_lately(draft: &Draft<'_>) -> Option<String> {
    let (at, why) = draft.plan.memory.switchover_failed.as_ref()?;
    (draft.seen.now.duration_since(*at) < AGAIN).then(|| format!("the last switchover failed: {why}"))
}

/// Begins one.
pub(super) fn begin(draft: &mut Draft<'_>, to: u8, reason: &str, then_detach: bool) {
    let Some(record) = draft.record() else { return };
    let from = record.primary;
    draft.status().switchover = Some(SwitchoverStatus {
        id: draft.seen.fresh_id.clone(),
        from,
        to,
        timeline: record.timeline,
        reason: reason.to_owned(),
        started_at: draft.seen.now,
        then_detach,
    });
    draft.tell(Happening::normal(
        "SwitchoverStarted",
        format!("node {from} hands over to node {to}: {reason}"),
    ));
    draft.requeue(AT_ONCE);
}

/// What the agents are told.
pub(super) fn wish(draft: &Draft<'_>) -> Option<Switchover> {
    let wished = draft.plan.status.switchover.as_ref()?;
    Some(Switchover { to: Some(wished.to), timeline: wished.timeline, id: wished.id.clone() })
}

/// Looks after the one under way.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let Some(wished) = draft.seen.status.switchover.clone() else {
        relieve(draft);
        return;
    };
    let (Some(record), in_office) = (draft.record(), draft.primary().map(|(index, _)| index)) else { return };
    let refused = draft.report(wished.from).and_then(|report| report.refused_handover.as_ref());
    match outcome(&wished, record, in_office, refused, draft.seen.now) {
        Outcome::Wait => {
            draft.changing("SwitchingOver", format!("node {} hands over to node {}", wished.from, wished.to));
            draft.requeue(CLOSELY);
        }
        Outcome::Done(primary) => done(draft, &wished, primary),
        Outcome::Failed(why) => failed(draft, &wished, &why),
    }
}

/// A node that was asked to leave and was chosen meanwhile hands over again.
fn relieve(draft: &mut Draft<'_>) {
    let primary = draft.primary().map(|(index, _)| index).filter(|index| draft.is_wished_out(*index));
    if primary.is_none() || draft.plan.status.switchover.is_some() || can_spare_one(draft).is_err() {
        return;
    }
    if let (None, Some(to)) = (failed_lately(draft), successor(draft)) {
        begin(draft, to, "the primary was asked to leave", false);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Wait,
    Done(u8),
    Failed(String),
}

fn outcome(
    wished: &SwitchoverStatus,
    record: &Record,
    in_office: Option<u8>,
    refused: Option<&RefusedHandover>,
    now: Timestamp,
) -> Outcome {
    let late = now.duration_since(wished.started_at) > LIMIT;
    if record.phase == Phase::Electing {
        return Outcome::Wait;
    }
    if record.primary != wished.from {
        return match in_office {
            Some(primary) => Outcome::Done(primary),
            None if late => Outcome::Failed(format!("node {} was chosen and has not opened", record.primary)),
            None => Outcome::Wait,
        };
    }
    if record.timeline > wished.timeline {
        return Outcome::Failed(format!("an election kept node {} in office", wished.from));
    }
    match refused.filter(|refused| refused.id == wished.id) {
        Some(refused) => Outcome::Failed(refused.why.clone()),
        None if late => Outcome::Failed(format!("node {} didn't hand over within {LIMIT:#}", wished.from)),
        None => Outcome::Wait,
    }
}

fn done(draft: &mut Draft<'_>, wished: &SwitchoverStatus, primary: u8) {
    let from = wished.from;
    let mut note = format!("node {primary} is the primary now, node {from} was");
    if primary != wished.to {
        note = format!("{note}; node {} was asked for", wished.to);
    }
    if wished.then_detach {
        draft.attach.remove(&from);
        super::requests::wish_out(draft, from);
        note = format!("{note}; node {from} leaves the pool and stays out until it is asked back");
    }
    draft.plan.memory.switchover_failed = None;
    end(draft, wished, &note);
    draft.tell(Happening::normal("SwitchoverFinished", note));
}

fn failed(draft: &mut Draft<'_>, wished: &SwitchoverStatus, why: &str) {
    let note = format!("node {} didn't hand over to node {}: {why}", wished.from, wished.to);
    draft.plan.memory.switchover_failed = Some((draft.seen.now, why.to_owned()));
    end(draft, wished, &note);
    draft.tell(Happening::warning("SwitchoverFailed", note));
}

fn end(draft: &mut Draft<'_>, wished: &SwitchoverStatus, note: &str) {
    draft.status().switchover = None;
    let asked = wished.reason == ASKED;
    if let Some(request) = draft.status().last_request.as_mut().filter(|r| asked && r.at == wished.started_at)
    {
        request.outcome = Some(note.to_owned());
    }
    draft.requeue(AT_ONCE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::Member;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn wished() -> SwitchoverStatus {
        SwitchoverStatus {
            id: "a1".to_owned(),
            from: 0,
            to: 1,
            timeline: 3,
            reason: String::new(),
            started_at: at(0),
            then_detach: false,
        }
    }

    fn record(primary: u8, timeline: u32, phase: Phase) -> Record {
        Record {
            epoch: 9,
            phase,
            primary,
            attached: vec![Member { index: primary, incarnation: "x".to_owned() }],
            timeline,
            fork_lsn: "0/0".to_owned(),
            successor: None,
            stopped: false,
            reason: String::new(),
        }
    }

    fn refusal(id: &str) -> RefusedHandover {
        RefusedHandover { id: id.to_owned(), why: "busy".to_owned() }
    }

    #[test]
    fn it_ends_when_another_primary_has_opened_or_the_old_one_says_no() {
        let out = |record: &Record, office, refused: Option<&RefusedHandover>, second| {
            outcome(&wished(), record, office, refused, at(second))
        };
        let before = record(0, 3, Phase::Serving);
        assert_eq!(out(&before, Some(0), None, 5), Outcome::Wait);
        assert_eq!(out(&before, Some(0), Some(&refusal("older")), 5), Outcome::Wait);
        assert_eq!(out(&before, Some(0), Some(&refusal("a1")), 5), Outcome::Failed("busy".to_owned()));
        assert!(matches!(out(&before, Some(0), None, 121), Outcome::Failed(_)));
        assert_eq!(out(&record(0, 3, Phase::Electing), None, None, 500), Outcome::Wait);
        let after = record(2, 4, Phase::Serving);
        assert_eq!(out(&after, None, None, 5), Outcome::Wait);
        assert_eq!(out(&after, Some(2), None, 5), Outcome::Done(2));
        assert!(matches!(out(&after, None, None, 121), Outcome::Failed(_)));
        assert!(matches!(out(&record(0, 4, Phase::Serving), Some(0), None, 5), Outcome::Failed(_)));
    }
}
