//! Removing nodes (R1 shrink, R13, R15): the record first, then the lease, then N.
use super::{Action, PrimaryView, Why, grow};
use crate::api::v1alpha1::Member;
use crate::membership::names::Listed;
use crate::membership::record;
use crate::membership::rules::{Rule, Rules};
use crate::messages::Join;

/// Writes the record without the nodes that have to go.
pub(super) fn remove(view: &PrimaryView, rules: Rules) -> Option<Action> {
    if view.wish.suspend {
        return None;
    }
    let gone: Vec<(u8, String)> =
        view.attached_others().filter_map(|m| Some((m.index, reason(view, m, rules)?))).collect();
    if gone.is_empty() {
        return None;
    }
    let indices: Vec<u8> = gone.iter().map(|(index, _)| *index).collect();
    let text: Vec<String> =
        gone.into_iter().map(|(index, why)| format!("node {index} removed: {why}")).collect();
    record::shrink_all(&view.record, &indices, &text.join("; ")).ok().map(Action::WriteRecord)
}

/// Why an attached node has to go.
fn reason(view: &PrimaryView, member: &Member, rules: Rules) -> Option<String> {
    failure(view, member, rules).or_else(|| {
        let unwished = !view.wish.wants(member.index) && !keeps_for_minimum(view, member.index, rules);
        unwished.then(|| "detached by wish".to_owned())
    })
}

/// Removal by failure is never refused (R15).
fn failure(view: &PrimaryView, member: &Member, rules: Rules) -> Option<String> {
    let limit = view.wish.detach_after();
    let other = view.other(member.index);
    let answer = other.and_then(|o| o.contact.answer.as_ref());
    if let Some(answer) = answer {
        let same = answer.incarnation.as_ref() == Some(&member.incarnation);
        // An agent that was just started looks at its volume once it has read the record.
        let knows = answer.epoch > 0 || answer.incarnation.is_some();
        if !same && knows && rules.has(Rule::Incarnation) {
            return Some("its data is gone".to_owned());
        }
        if answer.leaving {
            return Some("its pod is being stopped".to_owned());
        }
        if let Join::NeedsCopy(why) = &answer.join {
            return Some(format!("its data can't be used: {why}"));
        }
    }
    if view.silence(member.index) > limit {
        return Some(format!("it has been silent for {} ms", limit.as_millis()));
    }
    let connected = other.and_then(|o| o.connected).map_or(view.started, |at| at.max(view.started));
    if view.replica(member).is_none() && view.now.since(connected) > limit {
        return Some(format!("it has not been streaming for {} ms", limit.as_millis()));
    }
    let lag = other.and_then(|o| o.lag).filter(|lag| *lag > view.wish.detach_lag())?;
    Some(format!("it lags behind by {} ms", lag.as_millis()))
}

/// Whether a wished detach is refused, since fewer than `minAttached` would stay: of those that shall
/// go, the highest indices go first.
fn keeps_for_minimum(view: &PrimaryView, index: u8, rules: Rules) -> bool {
    let stay = view.record.attached.len()
        - view.attached_others().filter(|m| failure(view, m, rules).is_some()).count();
    let spare = stay.saturating_sub(usize::from(view.wish.min_attached).max(1));
    let unwished =
        view.attached_others().filter(|m| !view.wish.wants(m.index) && failure(view, m, rules).is_none());
    unwished.filter(|m| m.index > index).count() >= spare
}

/// Wished detaches that are refused.
pub fn refused_detaches(view: &PrimaryView) -> Vec<Why> {
    let min = view.wish.min_attached;
    let too_few = view
        .attached_others()
        .filter(|m| !view.wish.wants(m.index) && failure(view, m, Rules::ALL).is_none())
        .filter(|m| keeps_for_minimum(view, m.index, Rules::ALL))
        .map(|m| Why::TooFew { index: m.index, min });
    let primary = (!view.wish.wants(view.me.index)).then_some(Why::DetachPrimary { index: view.me.index });
    too_few.chain(primary).collect()
}

/// Whether a name may leave N: the record has been written without the node since the name came in,
/// and no lease of the node's can be alive.
pub(super) fn may_drop(view: &PrimaryView, listed: &Listed, rules: Rules) -> bool {
    if view.record.attached.contains(&listed.member) {
        return may_drop_early(view, &listed.member, rules);
    }
    let written = view.record.epoch > listed.epoch || !rules.has(Rule::NameNeedsOwnWrite);
    !grow::keeps(view, listed) && written && (lease_over(view, listed) || !rules.has(Rule::LeaseWait))
}

/// A name of an attached node may leave only when the rule that forbids it is off.
pub(super) fn may_drop_early(view: &PrimaryView, member: &Member, rules: Rules) -> bool {
    !rules.has(Rule::ShrinkRecordFirst) && reason(view, member, rules).is_some()
}

/// Whether no lease of the node's can be alive.
pub(super) fn lease_over(view: &PrimaryView, listed: &Listed) -> bool {
    view.other(listed.member.index).is_none_or(|o| o.contact.lease_over(view.now))
}

/// Writes the same set once more, when a name shall leave N that an earlier write may still put into
/// the record.
pub(super) fn touch(view: &PrimaryView, rules: Rules) -> Option<Action> {
    let stuck = view.names.listed.iter().find(|l| {
        let wanted = view.record.attached.contains(&l.member) || grow::keeps(view, l);
        !wanted && view.record.epoch <= l.epoch && rules.has(Rule::NameNeedsOwnWrite)
    })?;
    let text = format!("node {} was not added: writes that would still add it are void", stuck.member.index);
    record::touch(&view.record, &text).ok().map(Action::WriteRecord)
}

/// What is left of a node's lease.
pub(super) fn lease_of(view: &PrimaryView, member: &Member) -> Why {
    let rest = view.other(member.index).map(|o| o.contact.lease_rest(view.now)).unwrap_or_default();
    Why::Lease { index: member.index, rest }
}

/// What is being waited for before a name may leave N, or why a wish is refused.
pub(super) fn waits_for(view: &PrimaryView, rules: Rules) -> Option<Why> {
    let leaving = view.names.listed.iter().filter(|l| {
        !view.record.attached.contains(&l.member) && !grow::keeps(view, l) && !may_drop(view, l, rules)
    });
    let lease = leaving.map(|l| lease_of(view, &l.member));
    lease.chain(refused_detaches(view)).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::{Phase, Record, Timings};
    use crate::clock::Moment;
    use crate::membership::lease::Contact;
    use crate::membership::names::Names;
    use crate::membership::primary::{Other, Wish, next};

    const NOW: Moment = Moment::from_millis(100_000);

    fn member(index: u8) -> Member {
        Member { index, incarnation: format!("copy{index}") }
    }

    /// Nodes 0, the primary, to 3 are attached and well.
    fn wishing(attach: &[u8], min_attached: u8) -> PrimaryView {
        let timings = Timings {
            heartbeat_ms: 250,
            detach_after_ms: 1500,
            lease_ms: 2000,
            grace_ms: 3000,
            detach_lag_ms: 30_000,
        };
        let record = Record {
            epoch: 7,
            phase: Phase::Serving,
            primary: 0,
            attached: (0..4).map(member).collect(),
            timeline: 3,
            fork_lsn: "0/0".to_owned(),
            successor: None,
            stopped: false,
            reason: String::new(),
        };
        let contact = Contact { counted: Some(NOW), ..Contact::default() };
        let other = Other { contact, connected: Some(NOW), ..Other::default() };
        PrimaryView {
            now: NOW,
            me: member(0),
            read_at: NOW,
            wish: Wish { attach: attach.to_vec(), nodes: 4, min_attached, timings, suspend: false },
            names: Names::at_start(&record, 0, None, timings.lease_ms),
            record,
            loaded: Some(NOW),
            gate_seen: true,
            started: Moment::from_millis(1000),
            flush_lsn: 50,
            start_lsn: Some(50),
            open: true,
            handover: None,
            oldest_waiter: None,
            nudged: None,
            growth: None,
            replicas: Vec::new(),
            others: (1..4).map(|index| (index, other.clone())).collect(),
        }
    }

    fn with_silent(mut view: PrimaryView, index: u8) -> PrimaryView {
        let other = view.others.entry(index).or_default();
        other.contact.counted = Some(Moment::from_millis(NOW.as_millis() - 1501));
        view
    }

    /// Who stays attached by the next step, and whose wished detach is refused.
    fn outcome(view: &PrimaryView) -> (Vec<u8>, Vec<Why>) {
        let record = match next(view) {
            Action::WriteRecord(new) => new,
            _ => view.record.clone(),
        };
        (record.attached.iter().map(|m| m.index).collect(), refused_detaches(view))
    }

    fn expect(view: &PrimaryView, stay: &[u8], refused: &[u8]) {
        let min = view.wish.min_attached;
        let refused: Vec<Why> = refused.iter().map(|index| Why::TooFew { index: *index, min }).collect();
        assert_eq!(outcome(view), (stay.to_vec(), refused), "{:?}", view.wish);
    }

    #[test]
    fn wished_detaches_stop_at_min_attached_and_the_highest_index_goes_first() {
        expect(&wishing(&[0, 2, 3], 1), &[0, 2, 3], &[]);
        expect(&wishing(&[0], 1), &[0], &[]);
        expect(&wishing(&[0], 0), &[0], &[]);
        expect(&wishing(&[0], 2), &[0, 1], &[1]);
        expect(&wishing(&[0], 3), &[0, 1, 2], &[1, 2]);
        expect(&wishing(&[0], 4), &[0, 1, 2, 3], &[1, 2, 3]);
        expect(&wishing(&[0], 5), &[0, 1, 2, 3], &[1, 2, 3]);
        expect(&wishing(&[0, 3], 3), &[0, 1, 3], &[1]);
        expect(&wishing(&[0, 1, 2, 3], 5), &[0, 1, 2, 3], &[]);
        assert_eq!(next(&wishing(&[0, 1], 4)), Action::Wait(Why::TooFew { index: 2, min: 4 }));
    }

    #[test]
    fn removal_for_a_failure_is_never_refused_and_takes_from_what_there_is_to_spare() {
        expect(&with_silent(wishing(&[0, 1, 2, 3], 4), 2), &[0, 1, 3], &[]);
        expect(&with_silent(wishing(&[0, 1, 3], 4), 2), &[0, 1, 3], &[]);
        expect(&with_silent(wishing(&[0, 2], 2), 2), &[0, 1], &[1]);
        expect(&with_silent(wishing(&[0, 2], 3), 2), &[0, 1, 3], &[1, 3]);
    }

    #[test]
    fn the_primary_is_not_detached_and_nobody_is_while_the_record_is_held() {
        let mut view = wishing(&[1, 2, 3], 1);
        let refused = Why::DetachPrimary { index: 0 };
        assert_eq!(outcome(&view), (vec![0, 1, 2, 3], vec![refused.clone()]));
        assert_eq!(next(&view), Action::Wait(refused));
        view.wish.attach.clear();
        view.wish.suspend = true;
        assert_eq!(outcome(&view).0, [0, 1, 2, 3]);
    }
}
