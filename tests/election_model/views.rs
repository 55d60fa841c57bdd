//! From the model's small numbers to what the product's deciders look at, and back.
use std::collections::BTreeMap;
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{
    ClusteringMode, LoadBalancing, Member, MembershipSpec, Phase, Record, Timings,
};
use pgpool_operator::clock::Moment;
use pgpool_operator::membership::handover::{Answered, Answers, Handover, Rest};
use pgpool_operator::membership::joining::TableCheck;
use pgpool_operator::membership::lease::{Contact, Grant, ReadLease, waited};
use pgpool_operator::membership::lsn;
use pgpool_operator::membership::names::{Listed, Names};
use pgpool_operator::membership::primary::{Compared, Growth, Other, PrimaryView, Wish};
use pgpool_operator::messages::{Answer, Beat, EpochRow, Join, Replica, Role, Stamp, Vote};

use crate::state::{Ballot, Known, Mark, NODES, Node, Note, Rec, Said, State, What};
use crate::world::World;

/// Milliseconds of a tick.
pub const TICK: u64 = 1000;
/// Now, in every view.
pub const NOW: Moment = Moment::from_millis(1_000_000);
/// Longer than anything in the model.
const NEVER: u32 = 500_000;

pub fn at(age: u8) -> Moment {
    Moment::from_millis(1_000_000 - u64::from(age) * TICK)
}

pub fn age(moment: Moment) -> u8 {
    u8::try_from((NOW.as_millis() - moment.as_millis()) / TICK).expect("ages are small")
}

pub fn index(node: usize) -> u8 {
    u8::try_from(node).expect("few nodes")
}

pub fn small<T: TryInto<u8>>(number: T) -> u8
where
    T::Error: std::fmt::Debug,
{
    number.try_into().expect("small numbers")
}

pub fn member(node: usize, copy: u8) -> Member {
    Member { index: index(node), incarnation: copy.to_string() }
}

fn copy_of(member: &Member) -> u8 {
    member.incarnation.parse().expect("made by member()")
}

pub fn record(rec: &Rec) -> Record {
    let attached = (0..NODES).filter(|&k| rec.attached[k] > 0).map(|k| member(k, rec.attached[k])).collect();
    Record {
        epoch: i64::from(rec.epoch),
        phase: if rec.electing { Phase::Electing } else { Phase::Serving },
        primary: rec.primary,
        attached,
        timeline: u32::from(rec.timeline),
        fork_lsn: lsn::print(u64::from(rec.fork)),
        successor: rec.successor,
        stopped: rec.stopped,
        reason: String::new(),
    }
}

pub fn rec(record: &Record) -> Rec {
    let mut attached = [0; NODES];
    for member in &record.attached {
        attached[usize::from(member.index)] = copy_of(member);
    }
    Rec {
        epoch: small(record.epoch),
        electing: record.phase == Phase::Electing,
        primary: record.primary,
        attached,
        timeline: small(record.timeline),
        fork: small(lsn::parse(&record.fork_lsn).expect("made by record()")),
        successor: record.successor,
        stopped: record.stopped,
    }
}

fn stamp(mark: Mark) -> Stamp {
    Stamp { boot: mark.0.to_string(), millis: at(mark.1).as_millis() }
}

pub fn mark(stamp: &Stamp) -> Mark {
    (stamp.boot.parse().expect("made by stamp()"), age(Moment::from_millis(stamp.millis)))
}

pub fn vote(node: usize, ballot: Ballot) -> Vote {
    Vote {
        pool_uid: String::new(),
        epoch: i64::from(ballot.epoch),
        index: index(node),
        incarnation: member(node, ballot.copy).incarnation,
        standing: ballot.standing,
        timeline: u32::from(ballot.timeline),
        lsn: u64::from(ballot.lsn),
        gated_ms: 0,
    }
}

pub fn rows(node: &Node, up_to: u8) -> Vec<EpochRow> {
    let rows = node.wal.all().iter().take(usize::from(up_to)).filter_map(|e| match e.what {
        What::Row(epoch) => Some((epoch, e.timeline)),
        What::Commit(_) | What::Began => None,
    });
    let rows = rows.enumerate().map(|(at, (epoch, timeline))| EpochRow {
        id: i64::from(small(at)) + 1,
        epoch: i64::from(epoch),
        timeline: u32::from(timeline),
        nonce: String::new(),
        fork_xid: String::new(),
    });
    rows.collect()
}

pub fn lease(n: &Node) -> ReadLease {
    ReadLease {
        boot: n.boot.to_string(),
        word: n.lease.word.map(|age| at(age).as_millis()),
        target: n.lease.target.map(u64::from),
        caught_up: n.lease.caught_up,
        until: (n.lease.rest > 0)
            .then(|| Moment::from_millis(NOW.as_millis() + u64::from(n.lease.rest) * TICK)),
    }
}

/// Ticks during which a lease of that rest may still count.
pub fn ticks(rest: Duration) -> u8 {
    small(rest.as_millis().div_ceil(u128::from(TICK)))
}

/// What the primary knows of a node by its beats.
pub fn contact(known: &Known, answer: Option<Answer>, lease_ms: u32) -> Contact {
    // What was said last stands for the answer that counted and for whom the lease was given to: there is never more
    // than one agent of a node here, whose word for its volume holds whatever the copy.
    let copy = answer.as_ref().and_then(|answer| answer.incarnation.clone());
    Contact {
        answer,
        heard: None,
        counted: known.counted.map(at),
        counted_copy: copy.clone(),
        granted: known.granted.map(|(age, echo)| Grant {
            sent: at(age),
            until: at(age).after(waited(Duration::from_millis(u64::from(lease_ms)))),
            echo: echo.map(stamp),
            copy,
        }),
    }
}

pub fn granted(contact: &Contact) -> Option<(u8, Option<Mark>)> {
    contact.granted.as_ref().map(|g| (age(g.sent), g.echo.as_ref().map(mark)))
}

impl World {
    /// L. A little less than whole ticks, so that L and its drift end within the tick: a lease given n
    /// ticks ago is alive if n < L in ticks, and has been waited out if not.
    pub fn lease_ms(&self) -> u32 {
        u32::from(self.lease) * 1000 - 20
    }

    /// What is wished, to whoever knows that record. Where nodes are removed and none is added, whoever was removed isn't wished any
    /// more.
    pub fn wish(&self, s: &State, known: &Rec) -> Wish {
        let goes = self.removes && !self.changes;
        let wished = |k: &usize| s.wished[*k] && (!goes || known.attached[*k] != 0);
        let attach = (0..self.nodes).filter(wished).map(index);
        Wish {
            attach: attach.collect(),
            nodes: index(self.nodes),
            min_attached: 1,
            timings: self.timings(),
            suspend: !(self.changes || self.removes),
        }
    }

    fn timings(&self) -> Timings {
        Timings {
            heartbeat_ms: 250,
            detach_after_ms: if self.removes { 900 } else { NEVER },
            lease_ms: self.lease_ms(),
            grace_ms: NEVER,
            detach_lag_ms: NEVER,
        }
    }

    pub fn spec(&self, s: &State) -> MembershipSpec {
        let wish = self.wish(s, &s.api);
        MembershipSpec {
            pool_uid: String::new(),
            clustering_mode: ClusteringMode::StreamingReplication,
            bootstrap: 0,
            adopts: false,
            nodes: wish.nodes,
            attach: wish.attach,
            min_attached: wish.min_attached,
            timings: wish.timings,
            parameters: BTreeMap::new(),
            domain: String::new(),
            archive_max_bytes: 0,
            archive_retention_seconds: 0,
            keep_wal_since: None,
            suspend: wish.suspend,
            switchover: None,
            fenced: Vec::new(),
            restart: None,
            load_balancing: LoadBalancing::default(),
        }
    }

    pub fn beat(&self, from: usize, note: Note) -> Beat {
        Beat {
            pool_uid: String::new(),
            epoch: i64::from(note.epoch),
            from: index(from),
            echo: note.echo.map(stamp),
            lease_ms: self.lease_ms(),
            longest_ms: self.lease_ms(),
            flush_lsn: u64::from(note.flush),
            system_id: None,
        }
    }

    /// What a node has said; what it says of its following is as of now.
    pub fn answer(s: &State, node: usize, said: Said) -> Answer {
        let n = &s.nodes[node];
        Answer {
            pool_uid: String::new(),
            epoch: i64::from(said.epoch),
            seen: i64::from(said.epoch),
            index: index(node),
            incarnation: Some(member(node, said.copy).incarnation),
            stamp: stamp(said.stamp),
            role: if said.standby { Role::Standby } else { Role::Stopped },
            serves_nobody: said.serves_nobody,
            leaving: false,
            join: Join::Proved,
            streaming: n.running && !n.primary,
            timeline: Some(u32::from(n.wal.timeline())),
            replay_lsn: None,
        }
    }

    pub fn names(&self, n: &Node) -> Names {
        let listed = (0..NODES)
            .filter(|&k| n.names[k].0 != 0)
            .map(|k| Listed { member: member(k, n.names[k].0), epoch: i64::from(n.names[k].1) });
        Names { listed: listed.collect(), filler: None, lease_ms: self.lease_ms() }
    }

    /// What the primary observes.
    pub fn primary(&self, s: &State, me: usize) -> PrimaryView {
        let n = &s.nodes[me];
        let o = &n.office;
        let mut view = PrimaryView {
            now: NOW,
            me: member(me, n.copy),
            record: record(&n.view),
            read_at: if o.read_since_start { NOW } else { Moment::ZERO },
            wish: self.wish(s, &n.view),
            names: self.names(n),
            loaded: Some(at(o.started)),
            gate_seen: true,
            started: at(o.started),
            flush_lsn: u64::from(n.wal.end()),
            start_lsn: o.start.map(u64::from),
            open: n.open,
            handover: self.handover(n),
            oldest_waiter: None,
            nudged: None,
            growth: o.growth.map(|(node, copy, since, nonce)| Growth {
                member: member(usize::from(node), copy),
                since: i64::from(since),
                nonce: i64::from(nonce),
            }),
            replicas: Vec::new(),
            others: BTreeMap::new(),
        };
        for node in (0..self.nodes).filter(|&k| k != me) {
            self.observe(s, me, node, &mut view);
        }
        view
    }

    fn handover(&self, n: &Node) -> Option<Handover> {
        let due = self.leases && n.opened < n.wal.timeline();
        let waits = [(Rest::Primary, n.owed.0), (Rest::Standbys, n.owed.1)];
        let waits = waits.into_iter().filter_map(|(rest, age)| Some((rest, at(age?)))).collect();
        due.then(|| Handover { waits, lease: self.length() })
    }

    pub fn length(&self) -> Duration {
        Duration::from_millis(u64::from(self.lease_ms()))
    }

    /// What the chosen node owes to the offices before its own.
    pub fn owed(&self, n: &Node, election: &Rec) -> (Option<u8>, Option<u8>) {
        let answered = n.answers.iter().flatten().map(|reply| {
            let rec = Rec { primary: reply.primary, attached: reply.attached, ..n.view };
            Answered { record: record(&rec), at: at(reply.age) }
        });
        let begun = n.begun.map_or(Moment::ZERO, at);
        let (election, choice) = (record(election), record(&n.view));
        let answers: Answers = answered.collect();
        let handover =
            Handover::new_with(&answers, begun, Some(&election), &choice, self.length(), self.rules);
        let youngest = |wanted: Rest| {
            let waits = handover.waits.iter().filter(|w| w.0 == wanted && w.1 > Moment::ZERO);
            waits.map(|w| age(w.1)).min()
        };
        (youngest(Rest::Primary), youngest(Rest::Standbys))
    }

    fn observe(&self, s: &State, me: usize, node: usize, view: &mut PrimaryView) {
        let (o, other) = (&s.nodes[me].office, &s.nodes[node]);
        if let Some((copy, applied)) = o.senders[node] {
            let member = member(node, copy);
            view.replicas.push(Replica {
                index: member.index,
                priority: view.names.place(&member).unwrap_or(0),
                incarnation: member.incarnation,
                state: "streaming".to_owned(),
                replay_lsn: Some(u64::from(applied)),
                reply_age_ms: None,
                lag_ms: None,
                address: None,
            });
        }
        let known = if self.leases { o.known[node] } else { Self::at_once(other, s.nodes[me].view.epoch) };
        let answer = known.said.map(|said| Self::answer(s, node, said));
        let table = o.tables[node].map(|(copy, equal, newest)| Compared {
            incarnation: member(node, copy).incarnation,
            check: if equal {
                TableCheck::Equal { newest: i64::from(newest) }
            } else {
                TableCheck::Behind { newest: i64::from(newest) }
            },
        });
        let contact = contact(&known, answer, self.lease_ms());
        view.others
            .insert(index(node), Other { contact, connected: None, lag: None, table, not_before: None });
    }

    /// Without leases beats are answered at once.
    fn at_once(other: &Node, epoch: u8) -> Known {
        let said = Said {
            copy: other.copy,
            epoch: other.view.epoch,
            stamp: (other.boot, 0),
            serves_nobody: true,
            standby: other.running && !other.primary,
        };
        let counted = (other.view.epoch == epoch).then_some(0);
        Known { said: Some(said).filter(|_| other.up), counted: counted.filter(|_| other.up), granted: None }
    }
}
