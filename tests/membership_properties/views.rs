//! Random views.
use std::collections::BTreeMap;
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{Member, Phase, Record, Timings};
use pgpool_operator::clock::Moment;
use pgpool_operator::membership::handover::{Handover, Rest};
use pgpool_operator::membership::joining::TableCheck;
use pgpool_operator::membership::lease::{Contact, Grant, waited};
use pgpool_operator::membership::names::{Filler, Listed, Names};
use pgpool_operator::membership::primary::{Compared, Growth, Other, PrimaryView, Wish};
use pgpool_operator::messages::{Answer, Join, Replica, Role, Stamp};
use proptest::prelude::*;
use proptest::sample::select;

pub const NODES: u8 = 4;
pub const FLUSH: u64 = 1000;
pub const NOW: Moment = Moment::from_millis(1_000_000);
pub const LEASE_MS: u32 = 2000;
pub const DETACH_MS: u32 = 1500;

pub fn member(index: u8, copy: u8) -> Member {
    Member { index, incarnation: format!("copy{copy}") }
}

pub fn ago(millis: u64) -> Moment {
    Moment::from_millis(NOW.as_millis() - millis)
}

pub fn timings() -> Timings {
    Timings {
        heartbeat_ms: 250,
        detach_after_ms: DETACH_MS,
        lease_ms: LEASE_MS,
        grace_ms: 3000,
        detach_lag_ms: 30_000,
    }
}

/// Copy of the data on each node; 0: not there. Node 0, the primary, always is.
pub fn nodes(most: u8) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..=most, usize::from(NODES) - 1)
}

pub fn record() -> impl Strategy<Value = Record> {
    (1..6i64, nodes(2)).prop_map(|(epoch, copies)| {
        let others = (1..NODES).zip(copies).filter(|(_, copy)| *copy > 0).map(|(k, copy)| member(k, copy));
        Record {
            epoch,
            phase: Phase::Serving,
            primary: 0,
            attached: std::iter::once(member(0, 1)).chain(others).collect(),
            timeline: 1,
            fork_lsn: "0/0".to_owned(),
            successor: None,
            stopped: false,
            reason: String::new(),
        }
    })
}

pub fn names() -> impl Strategy<Value = Names> {
    let listed = prop::collection::vec((1..NODES, 1..3u8, 0..6i64), 0..4);
    let filler = select(vec![None, None, Some(Filler::Gate), Some(Filler::Nobody)]);
    (listed, filler, select(vec![1000, LEASE_MS, 5000])).prop_map(|(listed, filler, lease_ms)| {
        let mut names = Names { listed: Vec::new(), filler, lease_ms };
        for (index, copy, epoch) in listed {
            if !names.holds(&member(index, copy)) {
                names.listed.push(Listed { member: member(index, copy), epoch });
            }
        }
        names
    })
}

prop_compose! {
    fn contact(index: u8)(
        copy in 0..3u8, epoch in 1..6i64, answered in any::<bool>(), proved in 0..4u8,
        streaming in any::<bool>(), serves_nobody in any::<bool>(), role in any::<bool>(), leaving in any::<bool>(),
        counted in prop::option::of(0..4000u64), granted in prop::option::of((0..6000u64, 0..4000u64)),
        counted_by in 0..3u8, granted_to in any::<bool>(),
    ) -> Contact {
        let stamp = Stamp { boot: "boot".to_owned(), millis: 5000 };
        let answer = Answer {
            pool_uid: String::new(), epoch, seen: epoch, index,
            incarnation: (copy > 0).then(|| member(index, copy).incarnation),
            stamp, role: if role { Role::Standby } else { Role::Stopped }, serves_nobody,
            leaving: leaving && !role,
            join: match proved { 0 => Join::Unknown, 1 => Join::NeedsCopy("old".to_owned()), _ => Join::Proved },
            streaming, timeline: Some(1), replay_lsn: None,
        };
        let granted = granted.map(|(age, echo)| Grant {
            sent: ago(age),
            until: ago(age).after(waited(Duration::from_millis(u64::from(LEASE_MS)))),
            echo: Some(Stamp { boot: "boot".to_owned(), millis: 3000 + echo }),
            copy: granted_to.then(|| answer.incarnation.clone()).flatten(),
        });
        let counted_copy = (counted_by > 0).then(|| member(index, counted_by).incarnation);
        let answer = answered.then_some(answer);
        Contact { answer, heard: None, counted: counted.map(ago), counted_copy, granted }
    }
}

prop_compose! {
    fn other(index: u8)(
        contact in contact(index), connected in prop::option::of(0..4000u64), lag in prop::option::of(0..60_000u64),
        table in prop::option::of((1..3u8, 0..3u8, 0..3i64)), later in any::<bool>(),
    ) -> Other {
        Other {
            contact,
            connected: connected.map(ago),
            lag: lag.map(Duration::from_millis),
            table: table.map(|(copy, check, newest)| Compared {
                incarnation: member(index, copy).incarnation,
                check: match check {
                    0 => TableCheck::Behind { newest },
                    1 => TableCheck::Different("other rows".to_owned()),
                    _ => TableCheck::Equal { newest },
                },
            }),
            not_before: later.then(|| NOW.after(Duration::from_secs(1))),
        }
    }
}

pub fn replicas() -> impl Strategy<Value = Vec<Replica>> {
    let one = (1..NODES, 1..3u8, 0..4i32, prop::option::of(0..FLUSH + 200), any::<bool>());
    prop::collection::vec(one, 0..4).prop_map(|list| {
        let replica =
            |(index, copy, priority, replay_lsn, streaming): (u8, u8, i32, Option<u64>, bool)| Replica {
                index,
                incarnation: member(index, copy).incarnation,
                state: if streaming { "streaming" } else { "catchup" }.to_owned(),
                priority,
                replay_lsn,
                reply_age_ms: None,
                lag_ms: None,
                address: None,
            };
        list.into_iter().map(replica).collect()
    })
}

/// What a new primary still waits for.
pub fn handover() -> impl Strategy<Value = Option<Handover>> {
    let rest = select(vec![Rest::Nobody, Rest::Primary, Rest::Standbys]);
    let wait = (rest, 0..6000u64).prop_map(|(rest, age)| (rest, ago(age)));
    let lease = Duration::from_millis(u64::from(LEASE_MS));
    let some = prop::collection::vec(wait, 0..3).prop_map(move |waits| Handover { waits, lease });
    prop::option::weighted(0.3, some)
}

prop_compose! {
    pub fn view()(
        record in record(), names in names(), replicas in replicas(),
        others in (other(1), other(2), other(3)),
        attach in prop::collection::vec(0..NODES, 0..5), min_attached in 1..4u8, suspend in any::<bool>(),
        loaded in any::<bool>(), gate_seen in any::<bool>(), open in any::<bool>(), read in any::<bool>(),
        start in prop::option::of(0..FLUSH), started in 0..10_000u64,
        (waiter, handover) in (prop::option::of(0..4000u64), handover()), growth in prop::option::of((1..NODES, 1..3u8, 0..6i64, 0..3i64)),
    ) -> PrimaryView {
        PrimaryView {
            now: NOW, me: member(0, 1), record,
            read_at: if read { NOW } else { Moment::ZERO },
            wish: Wish { attach, nodes: NODES, min_attached, timings: timings(), suspend },
            names, loaded: loaded.then(|| ago(100)), gate_seen, started: ago(started), flush_lsn: FLUSH,
            start_lsn: start, open, handover, oldest_waiter: waiter.map(ago), nudged: None,
            growth: growth.map(|(index, copy, since, nonce)| Growth { member: member(index, copy), since, nonce }),
            replicas, others: BTreeMap::from([(1, others.0), (2, others.1), (3, others.2)]),
        }
    }
}
