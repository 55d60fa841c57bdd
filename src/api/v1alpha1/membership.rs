//! [`PgPoolMembership`]: the record of who counts in a pool.
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusteringMode, LoadBalancing};

/// What the controller wants of the agents, and (in its status) the record that the agents keep.
///
/// The rules below are the API server's part of the protocol: whatever an agent believes, an illegal
/// change of the record is refused (docs/membership.md).
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgpool-operator.dev",
    version = "v1alpha1",
    kind = "PgPoolMembership",
    plural = "pgpoolmemberships",
    namespaced,
    status = "Record",
    derive = "PartialEq",
    doc = "The membership record of one PgPool. Written by the operator (spec) and the agents (status); not by people.",
    printcolumn(json_path = ".status.epoch", name = "EPOCH", type_ = "integer"),
    printcolumn(json_path = ".status.phase", name = "PHASE", type_ = "string"),
    printcolumn(json_path = ".status.primary", name = "PRIMARY", type_ = "integer"),
    printcolumn(json_path = ".status.attached", name = "ATTACHED", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.timeline", name = "TIMELINE", type_ = "integer"),
    printcolumn(json_path = ".status.reason", name = "REASON", type_ = "string"),
    validation = Rule::new("!has(oldSelf.status) || has(self.status)").message("the record can't be removed: delete the PgPool instead"),
    validation = Rule::new("!has(self.status) || has(oldSelf.status) || ((self.status.epoch == 1 || self.spec.adopts) && self.status.phase == 'Serving' && self.status.attached.size() == 1 && self.status.primary == self.spec.bootstrap)").message("the first record has epoch 1 (a later one where the pool adopts data) and holds the bootstrap node alone, as the primary"),
    validation = Rule::new("has(self.status) || self.spec.bootstrap < self.spec.nodes").message("until there is a record the bootstrap node is one of the nodes"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status == oldSelf.status || self.status.epoch == oldSelf.status.epoch + 1").message("every change of the record raises the epoch by exactly 1"),
    validation = Rule::new("!has(self.status) || self.status.attached.exists(m, m.index == self.status.primary)").message("the primary is an attached node"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.primary == oldSelf.status.primary || (oldSelf.status.phase == 'Electing' && self.status.phase == 'Serving')").message("the primary changes only by an election"),
    validation = Rule::new("!has(self.status) || self.status.attached.all(m, m.index < self.spec.nodes)").message("an index in the record belongs to no node of the pool"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.primary == oldSelf.status.primary || self.status.timeline > oldSelf.status.timeline").message("another primary begins a new timeline, which the record hands out"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.attached.all(m, oldSelf.status.attached.exists(o, o.index == m.index && o.incarnation == m.incarnation)) || (self.status.phase == 'Serving' && oldSelf.status.phase == 'Serving' && self.status.primary == oldSelf.status.primary)").message("a node is added only by a primary in office, never during or together with an election"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.attached.filter(m, !oldSelf.status.attached.exists(o, o.index == m.index && o.incarnation == m.incarnation)).size() == 0 || oldSelf.status.attached.all(o, self.status.attached.exists(m, o.index == m.index && o.incarnation == m.incarnation))").message("one change either adds or removes: a node with new data is removed first"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.attached.size() <= oldSelf.status.attached.size() + 1").message("nodes are added one at a time"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.timeline >= oldSelf.status.timeline").message("the timeline never goes down"),
    validation = Rule::new("!has(self.status) || !has(oldSelf.status) || self.status.timeline == oldSelf.status.timeline || oldSelf.status.phase == 'Electing'").message("a new timeline is handed out only by an election"),
    validation = Rule::new("!has(self.status) || self.status.phase == 'Electing' || (!has(self.status.successor) && !(has(self.status.stopped) && self.status.stopped))").message("successor and stopped belong to an election")
)]
#[x_kube(validation = Rule::new("self.minAttached <= self.nodes && self.attach.all(k, k < self.nodes)").message("attach holds indices below nodes, and minAttached doesn't go beyond"))]
#[serde(rename_all = "camelCase")]
pub struct MembershipSpec {
    /// Random id of the pool; also stands in every volume, so that another pool's data is never taken for this one's.
    #[schemars(length(min = 8, max = 64))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the id of a pool never changes"))]
    pub pool_uid: String,
    /// How the nodes are kept identical.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the clustering mode can't be changed"))]
    pub clustering_mode: ClusteringMode,
    /// The node that begins the pool when there is no record yet: it makes the first copy of the data (initdb), unless
    /// `adopts` says that it has one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 14))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the bootstrap node can't be changed"))]
    pub bootstrap: u8,
    /// The pool goes on with the data of an earlier pool of its name, which stands in the volume of the bootstrap node. A
    /// copy of such a pool in any other volume is replaced like one that is broken.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("whether the pool adopts data can't be changed"))]
    pub adopts: bool,
    /// How many nodes the pool has; their indices are 0 to nodes - 1.
    #[schemars(range(min = 1, max = 15))]
    pub nodes: u8,
    /// The nodes that shall be attached. A node that is missing here is detached by wish and stays so.
    #[schemars(length(max = 15), inner(range(min = 0, max = 14)))]
    #[x_kube(validation = Rule::new("self.all(k, self.exists_one(o, o == k))").message("each node stands in attach once"))]
    pub attach: Vec<u8>,
    /// Fewest attached nodes with which commits are acknowledged (R15).
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 15))]
    pub min_attached: u8,
    /// Lengths of time of the protocol.
    pub timings: Timings,
    /// PostgreSQL parameters of the user; those that the operator owns are refused before they get here.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 200))]
    pub parameters: BTreeMap<String, String>,
    /// Where the nodes are found: node k is `<pool>-k-0.<domain>`.
    #[schemars(length(max = 253))]
    pub domain: String,
    /// Bytes that the WAL archive of a node may take.
    #[schemars(range(min = 0))]
    pub archive_max_bytes: i64,
    /// Seconds for which archived WAL is kept.
    #[schemars(range(min = 0))]
    pub archive_retention_seconds: i64,
    /// WAL that was archived since then is kept in spite of both, as long as the volume has room: the recovery under way may
    /// need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_wal_since: Option<Timestamp>,
    /// While true the primary neither adds nodes nor removes any, so commits wait for one that fails. The operator sets it
    /// only when the pool is deleted and its volumes stay; it takes it back unless the pool is suspended: a person's last
    /// resort.
    #[serde(default)]
    pub suspend: bool,
    /// The primary shall hand over (R14); carried out once, by the primary in office.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<Switchover>,
    /// Nodes whose Postgres shall not run: detached ones only, an attached node goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15), inner(range(min = 0, max = 14)))]
    pub fenced: Vec<u8>,
    /// A node whose Postgres shall be restarted in place; carried out once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How sessions that read are spread: agents tell it to the fronts.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
}

/// Another primary is wanted. It holds only as long as the record has the timeline that it names: every
/// change of primary begins another one, so that a wish is never carried out twice.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switchover {
    /// The node that shall be the primary; none: any attached standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 14))]
    pub to: Option<u8>,
    /// Timeline of the record when it was asked for.
    #[schemars(range(min = 1))]
    pub timeline: u32,
    /// Id of the request: one that failed is not tried again under the same id.
    #[schemars(length(min = 1, max = 40))]
    pub id: String,
}

/// A restart of one node's Postgres.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// The node.
    #[schemars(range(min = 0, max = 14))]
    pub node: u8,
    /// The start of Postgres that shall end, as the agent of the node names it.
    #[schemars(length(min = 1, max = 40))]
    pub boot: String,
}

fn one() -> u8 {
    1
}

/// Lengths of time of the protocol, in milliseconds.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Between two beats.
    #[schemars(range(min = 1))]
    pub heartbeat_ms: u32,
    /// R: silence after which a primary removes a standby.
    #[schemars(range(min = 1))]
    pub detach_after_ms: u32,
    /// L: length of a read lease.
    #[schemars(range(min = 1))]
    pub lease_ms: u32,
    /// G: silence after which a standby asks for an election.
    #[schemars(range(min = 1))]
    pub grace_ms: u32,
    /// Age of the oldest unapplied commit after which a lagging standby is removed (R13).
    #[schemars(range(min = 1))]
    pub detach_lag_ms: u32,
}

impl Timings {
    /// Between two beats.
    pub fn heartbeat(&self) -> Duration {
        millis(self.heartbeat_ms)
    }

    /// R: silence after which a primary removes a standby.
    pub fn detach_after(&self) -> Duration {
        millis(self.detach_after_ms)
    }

    /// L: length of a read lease.
    pub fn lease(&self) -> Duration {
        millis(self.lease_ms)
    }

    /// G: silence after which a standby asks for an election.
    pub fn grace(&self) -> Duration {
        millis(self.grace_ms)
    }

    /// Age of the oldest unapplied commit after which a lagging standby is removed (R13).
    pub fn detach_lag(&self) -> Duration {
        millis(self.detach_lag_ms)
    }
}

fn millis(count: u32) -> Duration {
    Duration::from_millis(u64::from(count))
}

/// What the pool is doing with its primary.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema)]
pub enum Phase {
    /// The primary is in office.
    Serving,
    /// The attached nodes are choosing another primary.
    Electing,
}

/// One attached node: a place and the copy of the data that stood there.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The node's index.
    #[schemars(range(min = 0, max = 14))]
    pub index: u8,
    /// Id of the copy of the data, new with every initdb and base backup.
    #[schemars(length(min = 1, max = 40))]
    pub incarnation: String,
}

/// The record: who counts. Changes only by compare-and-swap, one epoch at a time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Counts the changes of the record.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// What the pool is doing with its primary.
    pub phase: Phase,
    /// Index of the primary; while Electing, of the one that was in office.
    #[schemars(range(min = 0, max = 14))]
    pub primary: u8,
    /// The attached nodes, ordered by index.
    #[schemars(length(min = 1, max = 15))]
    #[x_kube(validation = Rule::new("self.all(m, self.exists_one(o, o.index == m.index))").message("each node stands in the record once"))]
    pub attached: Vec<Member>,
    /// Timeline of the primary, reserved before a promotion.
    #[schemars(range(min = 1))]
    pub timeline: u32,
    /// WAL position at which the timeline began, as PostgreSQL prints it (`0/3000028`).
    #[schemars(length(min = 3, max = 17))]
    pub fork_lsn: String,
    /// While Electing: the node that wins a tie (R14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 14))]
    pub successor: Option<u8>,
    /// While Electing: the word of the deposed primary's agent that its Postgres has ended and won't serve
    /// again in the epoch that this election ended (R5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Why the record was changed, for people.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub reason: String,
}
