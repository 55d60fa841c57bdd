//! Adding a node (R1 grow): N with the new node in first place, every walsender seen using the list, a
//! nonce read on the new node, the whole epoch table equal; then the record. One node at a time.
use super::{Action, Growth, PrimaryView, Why};
use crate::api::v1alpha1::Member;
use crate::membership::joining::TableCheck;
use crate::membership::names::{Filler, Listed, Names};
use crate::membership::record;
use crate::membership::rules::{Rule, Rules};
use crate::messages::Join;

/// The next step of adding a node; none when no node can be added.
pub(super) fn next(view: &PrimaryView, rules: Rules) -> Option<Action> {
    let joiner = in_progress(view).map(|l| l.member.clone()).or_else(|| candidate(view))?;
    if !compared(view, &joiner, 0) {
        return Some(Action::CompareTable(joiner));
    }
    if !rules.has(Rule::GrowNamesFirst) {
        return record::grow(&view.record, joiner, "added").ok().map(Action::WriteRecord);
    }
    let epoch = view.record.epoch;
    let Some(listed) = view.names.listed.iter().find(|l| l.member == joiner) else {
        let mut names = view.names.clone();
        names.listed.insert(0, Listed { member: joiner, epoch });
        if !view.gate_seen && names.filler.is_none() && rules.has(Rule::GrowGate) {
            names.filler = Some(Filler::Gate);
        }
        return Some(Action::WriteNames(names));
    };
    if !view.gate_seen && rules.has(Rule::GrowGate) {
        return Some(probe(view, &joiner));
    }
    if let Some(slow) = old_list(view).filter(|_| rules.has(Rule::GrowPriorities)) {
        let reason = format!("the walsender of node {slow} does not use the new list yet");
        return Some(Action::Wait(Why::NotAttached { index: joiner.index, reason }));
    }
    if listed.epoch != epoch {
        return Some(Action::WriteNames(listed_again(&view.names, &joiner, epoch)));
    }
    if let Some(action) = nonce(view, listed).filter(|_| rules.has(Rule::GrowNonce)) {
        return Some(action);
    }
    let text = format!("node {} added: it has applied all that was acknowledged", joiner.index);
    record::grow(&view.record, joiner, &text).ok().map(Action::WriteRecord)
}

/// Only a commit that is seen to wait proves that N isn't taken for empty: the filler makes it wait.
fn probe(view: &PrimaryView, joiner: &Member) -> Action {
    if view.names.filler.is_some() {
        return Action::ProbeGate;
    }
    let mut names = view.names.clone();
    names.filler = Some(Filler::Gate);
    debug_assert!(names.holds(joiner), "the gate stands beside the new node");
    Action::WriteNames(names)
}

/// The record write that is about to be sent can land as long as the record has this epoch.
fn listed_again(names: &Names, joiner: &Member, epoch: i64) -> Names {
    let mut names = names.clone();
    for listed in names.listed.iter_mut().filter(|l| l.member == *joiner) {
        listed.epoch = epoch;
    }
    names
}

/// Index of a node whose walsender is not seen using the list.
fn old_list(view: &PrimaryView) -> Option<u8> {
    let listed = view.names.listed.iter().find(|l| {
        let place = view.names.place(&l.member);
        view.replica(&l.member).map(|r| r.priority) != place
    });
    listed.map(|l| l.member.index).or_else(|| leftover(view))
}

/// Index of a node that isn't in N, whose walsender still uses a list in which it was: it could release
/// commits without those that came in since.
fn leftover(view: &PrimaryView) -> Option<u8> {
    let unlisted = |index, incarnation: &str| {
        !view.names.listed.iter().any(|l| l.member.index == index && l.member.incarnation == incarnation)
    };
    view.replicas.iter().find(|r| r.priority > 0 && unlisted(r.index, &r.incarnation)).map(|r| r.index)
}

/// The nonce and its reading on the new node; none when done since its name came in.
fn nonce(view: &PrimaryView, listed: &Listed) -> Option<Action> {
    let joiner = &listed.member;
    let written = |g: &&Growth| g.member == *joiner && g.since == listed.epoch;
    match view.growth.as_ref().filter(written) {
        None => Some(Action::CommitNonce(joiner.clone())),
        Some(growth) if !compared(view, joiner, growth.nonce) => Some(Action::CompareTable(joiner.clone())),
        Some(_) => None,
    }
}

/// Whether the node's whole epoch table equals ours, up to at least row `id`.
fn compared(view: &PrimaryView, joiner: &Member, id: i64) -> bool {
    let table = view.other(joiner.index).and_then(|o| o.table.as_ref());
    table.filter(|t| t.incarnation == joiner.incarnation).is_some_and(|t| match t.check {
        TableCheck::Equal { newest } => newest >= id,
        TableCheck::Behind { .. } | TableCheck::Different(_) => false,
    })
}

/// The node that stands in N and not yet in the record, and may still be added.
fn in_progress(view: &PrimaryView) -> Option<&Listed> {
    view.names.listed.iter().find(|l| !view.record.attached.contains(&l.member) && keeps(view, l))
}

/// Whether a node is being added.
pub(super) fn is_under_way(view: &PrimaryView) -> bool {
    in_progress(view).is_some()
}

/// Whether a node that stands in N and not in the record stays there, to be added. Else it is given up,
/// so that it can't make commits wait longer than a dead standby could.
pub(super) fn keeps(view: &PrimaryView, listed: &Listed) -> bool {
    let member = &listed.member;
    let alone = view.names.listed.iter().all(|l| l == listed || view.record.attached.contains(&l.member));
    let quiet = view.silence(member.index) > view.wish.detach_after() / 2;
    alone && !view.is_stalled() && !quiet && view.wish.wants(member.index) && obstacle(view, member).is_none()
}

/// The node to be added next.
fn candidate(view: &PrimaryView) -> Option<Member> {
    let settled = view.names.listed.iter().all(|l| view.record.attached.contains(&l.member));
    if view.wish.suspend || !settled || view.is_stalled() || leftover(view).is_some() {
        return None;
    }
    wished(view).find_map(|index| joiner(view, index).ok())
}

/// Wished nodes that aren't attached.
fn wished(view: &PrimaryView) -> impl Iterator<Item = u8> {
    let attached = |index: u8| view.record.attached.iter().any(|m| m.index == index);
    (0..view.wish.nodes).filter(move |&i| i != view.me.index && view.wish.wants(i) && !attached(i))
}

/// The copy of the data on node `index`, if it can be added now.
fn joiner(view: &PrimaryView, index: u8) -> Result<Member, String> {
    let other = view.other(index).ok_or("it hasn't answered yet")?;
    let answer = other.contact.answer.as_ref().ok_or("it hasn't answered yet")?;
    let incarnation = answer.incarnation.clone().ok_or("it has no data")?;
    if view.silence(index) > view.wish.detach_after() / 2 {
        return Err("it is silent, or does not know the newest record".to_owned());
    }
    let member = Member { index, incarnation };
    if let Some(obstacle) = obstacle(view, &member) {
        return Err(obstacle);
    }
    match other.not_before {
        Some(then) if then > view.now => {
            Err("it was given up or removed lately; it is tried again later".to_owned())
        }
        _ => Ok(member),
    }
}

/// What forbids that a node stands in N without standing in the record.
fn obstacle(view: &PrimaryView, member: &Member) -> Option<String> {
    let Some(other) = view.other(member.index) else { return Some("it hasn't answered yet".to_owned()) };
    let Some(answer) = &other.contact.answer else { return Some("it hasn't answered yet".to_owned()) };
    if answer.incarnation.as_ref() != Some(&member.incarnation) {
        return Some("its data is another copy".to_owned());
    }
    if answer.leaving {
        return Some("its pod is being stopped".to_owned());
    }
    match &answer.join {
        Join::Proved => {}
        Join::Unknown => return Some("it hasn't been shown yet that it missed nothing".to_owned()),
        Join::NeedsCopy(why) => return Some(format!("it must be copied anew: {why}")),
    }
    if let Some(TableCheck::Different(why)) =
        other.table.as_ref().filter(|t| t.incarnation == member.incarnation).map(|t| &t.check)
    {
        return Some(format!("it must be copied anew: {why}"));
    }
    if answer.timeline != Some(view.record.timeline) {
        return Some("it does not follow the timeline of the primary".to_owned());
    }
    let Some(replica) = view.replica(member).filter(|r| r.state == "streaming" && answer.streaming) else {
        return Some("it is not streaming".to_owned());
    };
    match replica.replay_lsn {
        None => return Some("it has not said what it has applied".to_owned()),
        Some(lsn) if lsn > view.flush_lsn => {
            return Some("it is ahead of the primary: not a copy of it".to_owned());
        }
        Some(_) => {}
    }
    other
        .lag
        .filter(|lag| *lag > view.wish.detach_after())
        .map(|lag| format!("it lags behind by {} ms", lag.as_millis()))
}

/// Why the next wished node isn't attached yet, for people; empty when every wished node is.
pub fn attach_note(view: &PrimaryView) -> String {
    let Some(index) = wished(view).next() else { return String::new() };
    let reason = match joiner(view, index) {
        Err(reason) => reason,
        Ok(_) if view.wish.suspend => "the pool is suspended".to_owned(),
        Ok(_) if view.is_stalled() => "commits wait for too long: nobody is added".to_owned(),
        Ok(_) => "it is being added".to_owned(),
    };
    Why::NotAttached { index, reason }.to_string()
}
