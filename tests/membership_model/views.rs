//! From the model's small numbers to what the product's deciders look at, and back.
use std::collections::BTreeMap;
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{Member, Phase, Record, Timings};
use pgpool_operator::clock::Moment;
use pgpool_operator::membership::joining::TableCheck;
use pgpool_operator::membership::lease::{Contact, Grant, ReadLease, waited};
use pgpool_operator::membership::names::{Listed, Names};
use pgpool_operator::membership::primary::{Compared, Growth, Other, PrimaryView, Wish};
use pgpool_operator::messages::{Answer, Beat, EpochRow, Join, Replica, Role, Stamp};

use crate::state::{Known, LEASE, List, Mark, NODES, Note, Rec, Said, State};

/// Milliseconds of a tick.
pub const TICK: u64 = 1000;
/// Now, in every view.
pub const NOW: Moment = Moment::from_millis(1_000_000);

pub fn at(age: u8) -> Moment {
    Moment::from_millis(1_000_000 - u64::from(age) * TICK)
}

pub fn age(moment: Moment) -> u8 {
    u8::try_from((NOW.as_millis() - moment.as_millis()) / TICK).expect("ages are small")
}

pub fn member(node: usize, copy: u8) -> Member {
    Member { index: u8::try_from(node).expect("few nodes"), incarnation: format!("copy{copy}") }
}

fn copy_of(member: &Member) -> u8 {
    member.incarnation.trim_start_matches("copy").parse().expect("made by member()")
}

pub fn record(rec: Rec) -> Record {
    let attached = (0..NODES).filter(|&k| rec.attached[k] > 0).map(|k| member(k, rec.attached[k])).collect();
    Record {
        epoch: i64::from(rec.epoch),
        phase: Phase::Serving,
        primary: 0,
        attached,
        timeline: 1,
        fork_lsn: "0/0".to_owned(),
        successor: None,
        stopped: false,
        reason: String::new(),
    }
}

pub fn rec(record: &Record) -> Rec {
    let mut rec = Rec { epoch: u8::try_from(record.epoch).expect("few epochs"), attached: [0; NODES] };
    for member in &record.attached {
        rec.attached[usize::from(member.index)] = copy_of(member);
    }
    rec
}

pub fn names(list: &List) -> Names {
    let listed = list.names.iter().map(|&(node, copy, epoch)| Listed {
        member: member(usize::from(node), copy),
        epoch: i64::from(epoch),
    });
    Names { listed: listed.collect(), filler: list.filler, lease_ms: lease_ms() }
}

pub fn list(names: &Names) -> List {
    let listed = names.listed.iter();
    let names_ =
        listed.map(|l| (l.member.index, copy_of(&l.member), u8::try_from(l.epoch).expect("few epochs")));
    List { names: names_.collect(), filler: names.filler }
}

pub fn lease_ms() -> u32 {
    u32::from(LEASE) * 1000
}

fn stamp(mark: Mark) -> Stamp {
    Stamp { boot: format!("boot{}", mark.0), millis: at(mark.1).as_millis() }
}

pub fn mark(stamp: &Stamp) -> Mark {
    let boot = stamp.boot.trim_start_matches("boot").parse().expect("made by stamp()");
    (boot, age(Moment::from_millis(stamp.millis)))
}

pub fn beat(note: Note) -> Beat {
    Beat {
        pool_uid: String::new(),
        epoch: i64::from(note.epoch),
        from: 0,
        echo: note.echo.map(stamp),
        lease_ms: lease_ms(),
        longest_ms: lease_ms(),
        flush_lsn: u64::from(note.flush),
        system_id: None,
    }
}

pub fn answer(node: usize, said: Said) -> Answer {
    Answer {
        pool_uid: String::new(),
        epoch: i64::from(said.epoch),
        seen: i64::from(said.epoch),
        index: u8::try_from(node).expect("few nodes"),
        incarnation: Some(member(node, said.copy).incarnation),
        stamp: stamp(said.stamp),
        role: if said.running { Role::Standby } else { Role::Stopped },
        serves_nobody: said.serves_nobody,
        leaving: false,
        join: Join::Proved,
        streaming: said.running,
        timeline: Some(1),
        replay_lsn: None,
    }
}

pub fn wish(state: &State) -> Wish {
    let attach = (0..NODES).filter(|&k| state.wished[k]).map(|k| u8::try_from(k).expect("few nodes"));
    Wish {
        attach: attach.collect(),
        nodes: u8::try_from(NODES).expect("few nodes"),
        min_attached: 1,
        timings: Timings {
            heartbeat_ms: 250,
            detach_after_ms: 1000,
            lease_ms: lease_ms(),
            grace_ms: 10_000,
            detach_lag_ms: 100_000,
        },
        suspend: false,
    }
}

pub fn rows(ids: &[u8]) -> Vec<EpochRow> {
    let row = |id: &u8| EpochRow {
        id: i64::from(*id),
        epoch: 1,
        timeline: 1,
        nonce: String::new(),
        fork_xid: String::new(),
    };
    ids.iter().map(row).collect()
}

pub fn lease(state: &State, node: usize) -> ReadLease {
    let s = &state.standbys[node];
    ReadLease {
        boot: format!("boot{}", s.boot),
        word: s.word.map(|age| at(age).as_millis()),
        target: s.target.map(u64::from),
        caught_up: s.caught_up,
        until: (s.rest > 0).then(|| Moment::from_millis(NOW.as_millis() + u64::from(s.rest) * TICK)),
    }
}

/// What the primary observes. Sessions that wait, and so nudges, are left out: in the model a walsender
/// looks at its waiters at any time.
pub fn primary(state: &State) -> PrimaryView {
    let p = &state.primary;
    let mut view = PrimaryView {
        now: NOW,
        me: member(0, 1),
        record: record(p.record),
        read_at: if p.read_since_start { NOW } else { Moment::ZERO },
        wish: wish(state),
        names: names(&p.list),
        loaded: Some(at(p.started)),
        gate_seen: p.gate_seen,
        started: at(p.started),
        flush_lsn: u64::from(p.end()),
        start_lsn: p.start.map(u64::from),
        open: p.open,
        handover: None,
        oldest_waiter: None,
        nudged: None,
        growth: p.growth.map(|(node, copy, since, nonce)| Growth {
            member: member(usize::from(node), copy),
            since: i64::from(since),
            nonce: i64::from(nonce),
        }),
        replicas: Vec::new(),
        others: BTreeMap::new(),
    };
    for node in 1..NODES {
        observe(state, node, &mut view);
    }
    view
}

/// What the primary knows of a node by its beats.
pub fn contact(node: usize, known: &Known) -> Contact {
    // What was said last stands for the answer that counted and for whom the lease was given to: there is never more
    // than one agent of a node here, whose word for its volume holds whatever the copy.
    let copy = known.said.map(|said| member(node, said.copy).incarnation);
    Contact {
        answer: known.said.map(|said| answer(node, said)),
        heard: None,
        counted: known.counted.map(at),
        counted_copy: copy.clone(),
        granted: known.granted.map(|(age, echo)| Grant {
            sent: at(age),
            until: at(age).after(waited(Duration::from_millis(u64::from(lease_ms())))),
            echo: echo.map(stamp),
            copy,
        }),
    }
}

pub fn granted(contact: &Contact) -> Option<(u8, Option<Mark>)> {
    contact.granted.as_ref().map(|g| (age(g.sent), g.echo.as_ref().map(mark)))
}

fn observe(state: &State, node: usize, view: &mut PrimaryView) {
    let p = &state.primary;
    let index = u8::try_from(node).expect("few nodes");
    if let Some(sender) = &p.senders[node] {
        view.replicas.push(Replica {
            index,
            incarnation: member(node, sender.copy).incarnation,
            state: "streaming".to_owned(),
            priority: i32::from(sender.priority),
            replay_lsn: Some(u64::from(sender.applied)),
            reply_age_ms: None,
            lag_ms: None,
            address: None,
        });
    }
    let contact = contact(node, &p.known[node]);
    let table = p.tables[node].map(|(copy, equal, newest)| Compared {
        incarnation: member(node, copy).incarnation,
        check: if equal {
            TableCheck::Equal { newest: i64::from(newest) }
        } else {
            TableCheck::Behind { newest: i64::from(newest) }
        },
    });
    view.others.insert(index, Other { contact, connected: None, lag: None, table, not_before: None });
}
