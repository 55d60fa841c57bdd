//! What holds of every view.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{Member, Record};
use pgpool_operator::clock::Moment;
use pgpool_operator::membership::joining::TableCheck;
use pgpool_operator::membership::lease::{Contact, ReadLease, waited};
use pgpool_operator::membership::names::Names;
use pgpool_operator::membership::primary::{
    Action, Compared, Growth, Other, PrimaryView, Why, grants, next, refused_detaches,
};
use pgpool_operator::membership::record::check;
use pgpool_operator::messages::{Answer, Beat, Join, Replica, Role, Stamp};
use proptest::prelude::*;

use crate::views::{FLUSH, LEASE_MS, NODES, NOW, ago, member, view};

/// Actions after which a pool in good order has to be settled.
const ENOUGH: usize = 60;

fn covers(names: &Names, record: &Record) -> bool {
    record.attached.iter().filter(|m| m.index != 0).all(|m| names.holds(m))
}

/// What holds of an action, whatever the view.
fn sound(view: &PrimaryView, action: &Action) -> Result<(), TestCaseError> {
    if !covers(&view.names, &view.record) {
        prop_assert!(matches!(action, Action::WriteNames(_)), "N has to cover the record first: {action:?}");
    }
    match action {
        Action::WriteNames(names) => sound_names(view, names)?,
        Action::WriteRecord(new) => sound_record(view, new)?,
        Action::Open => {
            prop_assert!(!view.open && view.loaded.is_some() && view.read_at >= view.started);
            let start = view.start_lsn.expect("noted");
            prop_assert!(
                view.handover.as_ref().is_none_or(|h| h.over_at() <= NOW),
                "an office before is alive"
            );
            let coming = view.names.listed.iter().filter(|l| l.epoch >= view.record.epoch).map(|l| &l.member);
            let readers = view.names.listed.iter().map(|l| &l.member).filter(|m| {
                let over = view.others.get(&m.index).is_none_or(|other| other.contact.lease_over(NOW));
                !view.record.attached.contains(m) && !over
            });
            for m in view.record.attached.iter().filter(|m| m.index != 0).chain(coming).chain(readers) {
                let applied = replica(view, m).and_then(|r| r.replay_lsn);
                prop_assert!(
                    applied.is_some_and(|lsn| lsn >= start && lsn <= FLUSH),
                    "{m:?} has applied {applied:?}"
                );
            }
        }
        Action::ProbeGate => prop_assert!(view.names.filler.is_some(), "a probe waits for nobody"),
        Action::CommitNonce(m) => {
            prop_assert!(view.names.holds(m) && !view.record.attached.contains(m));
        }
        // Nobody else lets a session go that waits by the list before (PostgreSQL source, `SyncRepWaitForLSN`).
        Action::Nudge | Action::Wait(Why::Settled) => {
            let old = view.oldest_waiter.zip(view.loaded).is_some_and(|(waiter, loaded)| waiter < loaded);
            prop_assert_eq!(old, matches!(action, Action::Nudge));
        }
        _ => {}
    }
    Ok(())
}

fn replica<'a>(view: &'a PrimaryView, m: &Member) -> Option<&'a Replica> {
    view.replicas.iter().find(|r| r.index == m.index && r.incarnation == m.incarnation)
}

fn sound_names(view: &PrimaryView, names: &Names) -> Result<(), TestCaseError> {
    prop_assert!(covers(names, &view.record));
    for left in view.names.listed.iter().filter(|l| !names.holds(&l.member)) {
        prop_assert!(!view.record.attached.contains(&left.member));
        prop_assert!(view.record.epoch > left.epoch, "a write may still add {left:?}");
        let contact = &view.others[&left.member.index].contact;
        prop_assert!(contact.lease_over(NOW), "{left:?} may hold a lease");
    }
    let few = view.record.attached.len() < usize::from(view.wish.min_attached);
    let unchanged = *names == view.names;
    prop_assert!(!few || unchanged || names.filler.is_some(), "too few are attached, and commits don't wait");
    let mut added = names
        .listed
        .iter()
        .filter(|l| !view.names.holds(&l.member) && !view.record.attached.contains(&l.member));
    if let Some(new) = added.next() {
        prop_assert!(added.next().is_none(), "one at a time");
        prop_assert_eq!(&names.listed[0], new, "the new name comes first");
        prop_assert_eq!(new.epoch, view.record.epoch);
        sound_joiner(view, &new.member)?;
        prop_assert!(names.filler.is_some() || view.gate_seen, "commits are not known to wait");
    }
    Ok(())
}

fn sound_joiner(view: &PrimaryView, m: &Member) -> Result<(), TestCaseError> {
    let other = &view.others[&m.index];
    let answer = other.contact.answer.as_ref().expect("it answered");
    prop_assert!(view.wish.attach.contains(&m.index));
    prop_assert_eq!(answer.incarnation.as_ref(), Some(&m.incarnation));
    prop_assert_eq!(&answer.join, &Join::Proved);
    let found = replica(view, m).expect("it streams");
    prop_assert!(found.state == "streaming" && found.replay_lsn.is_some_and(|lsn| lsn <= FLUSH));
    let equal = matches!(other.table.as_ref().expect("compared").check, TableCheck::Equal { .. });
    prop_assert!(equal, "its epoch table is not the primary's");
    Ok(())
}

fn sound_record(view: &PrimaryView, new: &Record) -> Result<(), TestCaseError> {
    prop_assert_eq!(check(Some(&view.record), new, 0, false), Ok(()));
    prop_assert!(new.attached.contains(&view.me));
    let old = &view.record.attached;
    if let Some(added) = new.attached.iter().find(|m| !old.contains(m)) {
        sound_joiner(view, added)?;
        prop_assert!(view.gate_seen && view.loaded.is_some());
        prop_assert_eq!(view.names.since(added), Some(view.record.epoch));
        for l in &view.names.listed {
            prop_assert_eq!(replica(view, &l.member).map(|r| r.priority), view.names.place(&l.member));
        }
        let growth = view.growth.as_ref().expect("a nonce was written");
        prop_assert_eq!((&growth.member, growth.since), (added, view.record.epoch));
        let check = &view.others[&added.index].table.as_ref().expect("compared").check;
        let read = matches!(check, TableCheck::Equal { newest } if *newest >= growth.nonce);
        prop_assert!(read, "the nonce was not read on it");
    }
    prop_assert!(!view.wish.suspend || new.attached.len() >= old.len(), "suspended, and yet removed");
    sound_removal(view, new)
}

/// Removal for a failure is never refused; a wish takes as many as `minAttached` lets go, the highest indices first (R15).
fn sound_removal(view: &PrimaryView, new: &Record) -> Result<(), TestCaseError> {
    if view.attached_others().all(|m| new.attached.contains(m)) {
        return Ok(());
    }
    for m in view.attached_others().filter(|m| !is_well(view, m)) {
        prop_assert!(!new.attached.contains(m), "{m:?} is kept though it has failed");
    }
    let (stay, go): (Vec<&Member>, Vec<&Member>) =
        view.attached_others().filter(|m| is_well(view, m)).partition(|m| new.attached.contains(m));
    let least = usize::from(view.wish.min_attached).max(1);
    prop_assert!(go.is_empty() || new.attached.len() >= least, "a wish left {:?}", new.attached);
    prop_assert!(go.iter().all(|m| !view.wish.attach.contains(&m.index)), "{go:?} were wished");
    let refused: Vec<&Member> = stay.into_iter().filter(|m| !view.wish.attach.contains(&m.index)).collect();
    prop_assert!(refused.is_empty() || new.attached.len() <= least, "{refused:?} could have gone");
    for m in refused {
        prop_assert!(go.iter().all(|gone| gone.index > m.index), "{go:?} went before {m:?}");
    }
    Ok(())
}

/// Whether nothing but a wish is a reason to remove the node.
fn is_well(view: &PrimaryView, m: &Member) -> bool {
    let other = &view.others[&m.index];
    let answered_well = other.contact.answer.as_ref().is_none_or(|a| {
        let usable = !matches!(a.join, Join::NeedsCopy(_));
        a.incarnation.as_ref() == Some(&m.incarnation) && !a.leaving && usable
    });
    let lately = |at: Option<Moment>| {
        let since = at.unwrap_or(view.started).max(view.started);
        NOW.since(since) <= view.wish.timings.detach_after()
    };
    let streams = replica(view, m).is_some() || lately(other.connected);
    let keeps_up = other.lag.is_none_or(|lag| lag <= view.wish.timings.detach_lag());
    answered_well && lately(other.contact.counted) && streams && keeps_up
}

/// Does what an action asks for, in a pool where nothing else happens.
fn carry_out(view: &mut PrimaryView, action: Action) {
    match action {
        Action::WriteNames(names) => {
            view.gate_seen &= !names.is_empty();
            view.names = names;
            view.loaded = Some(NOW);
            for r in &mut view.replicas {
                let m = Member { index: r.index, incarnation: r.incarnation.clone() };
                r.priority = view.names.place(&m).unwrap_or(0);
            }
        }
        Action::WriteRecord(new) => {
            for other in view.others.values_mut() {
                other.contact.answer.iter_mut().for_each(|a| a.epoch = new.epoch);
            }
            view.record = new;
        }
        Action::ProbeGate => view.gate_seen = true,
        Action::CommitRow => view.start_lsn = Some(FLUSH),
        Action::CommitNonce(member) => {
            let since = view.names.since(&member).expect("it is in N");
            view.growth = Some(Growth { member, since, nonce: 7 });
        }
        Action::CompareTable(m) => {
            let other = view.others.get_mut(&m.index).expect("known");
            other.table =
                Some(Compared { incarnation: m.incarnation, check: TableCheck::Equal { newest: 7 } });
        }
        Action::ReadRecord => view.read_at = NOW,
        Action::Nudge => (view.oldest_waiter, view.nudged) = (None, Some(NOW)),
        Action::Open => view.open = true,
        Action::Stop(_) | Action::Wait(_) => {}
    }
}

/// Makes every node well, and every lease old.
fn heal(view: &mut PrimaryView) {
    (view.oldest_waiter, view.handover) = (None, None);
    view.wish.suspend = false;
    view.wish.attach = (0..NODES).collect();
    view.started = ago(60_000);
    view.replicas.clear();
    for index in 1..NODES {
        let copy = view
            .record
            .attached
            .iter()
            .find(|m| m.index == index)
            .map_or(1, |m| if m.incarnation == "copy1" { 1 } else { 2 });
        let incarnation = member(index, copy).incarnation;
        let priority = view.names.place(&member(index, copy)).unwrap_or(0);
        let state = "streaming".to_owned();
        let replay_lsn = Some(FLUSH);
        view.replicas.push(Replica {
            index,
            incarnation: incarnation.clone(),
            state,
            priority,
            replay_lsn,
            reply_age_ms: None,
            lag_ms: None,
            address: None,
        });
        let answer = Answer {
            pool_uid: String::new(),
            epoch: view.record.epoch,
            seen: view.record.epoch,
            index,
            incarnation: Some(incarnation.clone()),
            stamp: Stamp { boot: "boot".to_owned(), millis: 5000 },
            role: Role::Standby,
            serves_nobody: false,
            leaving: false,
            join: Join::Proved,
            streaming: true,
            timeline: Some(1),
            replay_lsn: None,
        };
        let (answer, counted_copy) = (Some(answer), Some(incarnation));
        let contact = Contact { answer, heard: None, counted: Some(NOW), counted_copy, granted: None };
        view.others.insert(index, Other { contact, connected: Some(NOW), ..Other::default() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_action_is_sound(view in view()) {
        sound(&view, &next(&view))?;
    }

    #[test]
    fn the_same_view_gives_the_same_action(view in view()) {
        prop_assert_eq!(next(&view), next(&view.clone()));
    }

    #[test]
    fn whatever_is_found_a_healthy_pool_ends_settled(view in view()) {
        let mut view = view;
        heal(&mut view);
        for _ in 0..ENOUGH {
            let action = next(&view);
            sound(&view, &action)?;
            if action == Action::Wait(Why::Settled) {
                prop_assert!(view.open && view.loaded.is_some());
                prop_assert_eq!(view.record.attached.len(), usize::from(NODES));
                prop_assert!(covers(&view.names, &view.record) && view.names.listed.len() == usize::from(NODES) - 1);
                prop_assert_eq!(view.names.filler, None);
                return Ok(());
            }
            carry_out(&mut view, action);
        }
        prop_assert!(false, "not settled: {:?}", next(&view));
    }

    #[test]
    fn a_node_that_leaves_is_removed_at_once_and_not_added_again(view in view(), index in 1..NODES) {
        let mut view = view;
        heal(&mut view);
        let answer = view.others.get_mut(&index).and_then(|o| o.contact.answer.as_mut());
        answer.expect("heal() makes all answer").leaving = true;
        let attached = |record: &Record| record.attached.iter().any(|m| m.index == index);
        for _ in 0..ENOUGH {
            let action = next(&view);
            sound(&view, &action)?;
            match &action {
                Action::WriteRecord(new) => prop_assert!(attached(&view.record) || !attached(new)),
                Action::Wait(_) => {
                    prop_assert!(!attached(&view.record));
                    prop_assert!(view.names.listed.iter().all(|l| l.member.index != index));
                    return Ok(());
                }
                _ => {}
            }
            carry_out(&mut view, action);
        }
        prop_assert!(false, "not settled: {:?}", next(&view));
    }

    /// From a whole pool: those that aren't wished leave, the highest indices first, until `minAttached` are left; it is said
    /// of each of the others that it is refused.
    #[test]
    fn wished_detaches_stop_at_min_attached(
        view in view(), wished in prop::collection::vec(any::<bool>(), usize::from(NODES)), min_attached in 0..=NODES,
    ) {
        let mut view = view;
        heal(&mut view);
        let settled = |view: &mut PrimaryView| (0..ENOUGH).find_map(|_| match next(view) {
            Action::Wait(why) => Some(why),
            action => {
                carry_out(view, action);
                None
            }
        });
        prop_assert_eq!(settled(&mut view), Some(Why::Settled));
        view.wish.attach = (0..NODES).filter(|i| *i == 0 || wished[usize::from(*i)]).collect();
        view.wish.min_attached = min_attached;
        let unwished: Vec<u8> = (0..NODES).filter(|i| !view.wish.attach.contains(i)).collect();
        let leave = unwished.len().min(usize::from(NODES - min_attached.max(1)));
        let (kept, gone) = unwished.split_at(unwished.len() - leave);
        let refused: Vec<Why> = kept.iter().map(|index| Why::TooFew { index: *index, min: min_attached }).collect();
        let action = next(&view);
        sound(&view, &action)?;
        prop_assert_eq!(matches!(action, Action::WriteRecord(_)), leave > 0);
        prop_assert_eq!(settled(&mut view), Some(refused.first().cloned().unwrap_or(Why::Settled)));
        prop_assert_eq!(refused_detaches(&view), refused);
        for index in 0..NODES {
            let attached = view.record.attached.iter().any(|m| m.index == index);
            prop_assert_eq!(attached, !gone.contains(&index), "node {}", index);
        }
    }

    #[test]
    fn leases_go_only_to_those_whom_commits_wait_for(view in view(), index in 1..NODES) {
        if grants(&view, index).is_some() {
            let m = view.record.attached.iter().find(|m| m.index == index).expect("attached");
            prop_assert!(view.names.holds(m) && view.loaded.is_some());
            prop_assert!(view.names.lease_ms >= LEASE_MS, "a restart would not wait long enough");
            for l in &view.names.listed {
                let contact = &view.others[&l.member.index].contact;
                prop_assert_eq!(contact.counted_copy.as_ref(), Some(&l.member.incarnation), "by this very copy");
                let counted = contact.counted.expect("answered");
                prop_assert!(NOW.since(counted) < Duration::from_millis(u64::from(LEASE_MS)));
            }
        }
    }

    /// Two clocks that start at other times and drift by up to half a per cent each: the standby's lease is
    /// over before the primary thinks so, however late the beat arrives.
    #[test]
    fn a_lease_is_over_at_the_standby_first(
        answered in 0..10_000u64, sent in 0..10_000u64, arrives in 0..10_000u64, offset in 0..1_000_000u64,
        drift in -5i64..=5, other_drift in -5i64..=5, length in 1..10_000u32,
    ) {
        let clock = |real: u64, offset: u64, drift: i64| {
            let shift = i64::try_from(real).unwrap() * drift / 1000;
            Moment::from_millis((offset + real).checked_add_signed(shift).unwrap())
        };
        let standby = |real| clock(real, offset, drift);
        let primary = |real| clock(real, 777_777, other_drift);
        let (sent, arrives) = (answered + sent, answered + sent + arrives);
        let mut lease = ReadLease::new("boot");
        let stamp = lease.answer(standby(answered), false);
        let beat = Beat { pool_uid: String::new(), epoch: 1, from: 0, echo: Some(stamp), lease_ms: length, longest_ms: length, flush_lsn: 5, system_id: None };
        let mut contact = Contact::default();
        contact.sent(primary(sent), &beat);
        lease.beat(standby(arrives), &beat, 1, Some(5));
        let span = u64::try_from(waited(Duration::from_millis(u64::from(length))).as_millis()).unwrap();
        for real in sent..=sent + span * 2 + 10 {
            // Milliseconds are rounded; one is the slack of that.
            if contact.lease_over(primary(real)) {
                prop_assert!(lease.rest(standby(real)) <= Duration::from_millis(1), "the standby still answers");
                break;
            }
        }
    }
}
