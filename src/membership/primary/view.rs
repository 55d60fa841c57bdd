//! What the agent of the primary observes.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::v1alpha1::{Member, MembershipSpec, Record, Timings};
use crate::clock::Moment;
use crate::membership::handover::Handover;
use crate::membership::joining::TableCheck;
use crate::membership::lease::Contact;
use crate::membership::names::Names;
use crate::messages::Replica;

/// What people want of the pool: the part of [`MembershipSpec`] that the protocol looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The nodes that shall be attached.
    pub attach: Vec<u8>,
    /// How many nodes the pool has.
    pub nodes: u8,
    /// Fewest attached nodes with which commits are acknowledged (R15).
    pub min_attached: u8,
    /// Lengths of time.
    pub timings: Timings,
    /// While true nothing is added or removed.
    pub suspend: bool,
}

impl Wish {
    /// Whether node `index` shall be attached.
    pub fn wants(&self, index: u8) -> bool {
        index < self.nodes && self.attach.contains(&index)
    }

    pub(super) fn heartbeat(&self) -> Duration {
        self.timings.heartbeat()
    }

    pub(super) fn detach_after(&self) -> Duration {
        self.timings.detach_after()
    }

    pub(super) fn detach_lag(&self) -> Duration {
        self.timings.detach_lag()
    }

    pub(super) fn lease(&self) -> Duration {
        self.timings.lease()
    }
}

impl From<&MembershipSpec> for Wish {
    fn from(spec: &MembershipSpec) -> Self {
        Self {
            attach: spec.attach.clone(),
            nodes: spec.nodes,
            min_attached: spec.min_attached,
            timings: spec.timings,
            suspend: spec.suspend,
        }
    }
}

/// What the primary's agent has found out of one other node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Other {
    /// Beats and answers.
    pub contact: Contact,
    /// When `pg_stat_replication` last showed a walsender of the node, with the incarnation of its last answer.
    pub connected: Option<Moment>,
    /// Age of the oldest commit that it hasn't applied; none when there is none.
    pub lag: Option<Duration>,
    /// Its epoch table, as last compared in this start of Postgres.
    pub table: Option<Compared>,
    /// It is not added before then: it was given up or removed lately.
    pub not_before: Option<Moment>,
}

/// A comparison of epoch tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The copy of the data that was asked.
    pub incarnation: String,
    /// What came of it.
    pub check: TableCheck,
}

/// A nonce written for a node that is being added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The node.
    pub member: Member,
    /// [`Names::since`] of the node when it was written: a name that has left N
    /// comes in again under a later epoch, and a nonce from before proves nothing then.
    pub since: i64,
    /// Id of the row in the epoch table.
    pub nonce: i64,
}

/// What the agent of the primary observes, its Postgres being up.
#[derive(Clone, Debug)]
pub struct PrimaryView {
    /// Now.
    pub now: Moment,
    /// This node and its copy of the data.
    pub me: Member,
    /// The record, by the last consistent read.
    pub record: Record,
    /// When that read was sent.
    pub read_at: Moment,
    /// What people want, by the same read or a later watch.
    pub wish: Wish,
    /// N, as it stands in the volume.
    pub names: Names,
    /// When PostgreSQL was seen using that list, or was started with it; none while it uses another.
    pub loaded: Option<Moment>,
    /// True when commits are known to wait: this Postgres was started with a list that isn't empty, or
    /// one was seen waiting ([`super::Action::ProbeGate`]); false again once an empty list is in use.
    pub gate_seen: bool,
    /// When this Postgres was started: silence and missing walsenders count from here.
    pub started: Moment,
    /// Its flush position, read *after* `replicas`.
    pub flush_lsn: u64,
    /// Its flush position after the row of its office was committed, in this start; none before.
    pub start_lsn: Option<u64>,
    /// Whether clients are let in.
    pub open: bool,
    /// What is left of the office before; none in an office that has been open.
    pub handover: Option<Handover>,
    /// When the session began to wait that waits longest for synchronous standbys.
    pub oldest_waiter: Option<Moment>,
    /// When it last nudged.
    pub nudged: Option<Moment>,
    /// The last nonce written, in this start of Postgres.
    pub growth: Option<Growth>,
    /// Its walsenders with a name of ours; a node may have several.
    pub replicas: Vec<Replica>,
    /// The other nodes, by index.
    pub others: BTreeMap<u8, Other>,
}

impl PrimaryView {
    /// The attached nodes but this one.
    pub fn attached_others(&self) -> impl Iterator<Item = &Member> {
        self.record.attached.iter().filter(|m| m.index != self.me.index)
    }

    /// The copies of record ∪ N but this one (R4).
    pub fn counting(&self) -> impl Iterator<Item = &Member> {
        let listed = self.names.listed.iter().map(|l| &l.member);
        self.attached_others().chain(listed.filter(|m| m.index != self.me.index))
    }

    pub(super) fn other(&self, index: u8) -> Option<&Other> {
        self.others.get(&index)
    }

    /// The walsender of a copy of the data.
    pub(super) fn replica(&self, member: &Member) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.index == member.index && r.incarnation == member.incarnation)
    }

    /// How long a node hasn't answered a beat of this epoch.
    pub(super) fn silence(&self, index: u8) -> Duration {
        let counted = self.other(index).and_then(|o| o.contact.counted);
        self.now.since(counted.map_or(self.started, |at| at.max(self.started)))
    }

    /// Whether commits wait for longer than a dead standby could make them; those that wait for nodes that aren't there yet
    /// don't count.
    pub fn is_stalled(&self) -> bool {
        self.names.filler.is_none()
            && self.oldest_waiter.is_some_and(|since| self.now.since(since) > self.wish.detach_after())
    }
}
