//! The status of a PgPool: what `kubectl get` and `kubectl describe` show.
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Phase;

/// What the controller last saw and did.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PgPoolStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The pool in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Health>,
    /// Ready, Progressing, Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The record, mirrored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipView>,
    /// Attached nodes of all, for people: `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<String>,
    /// Pod of the primary, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_pod: Option<String>,
    /// Largest lag of an attached standby, as a class: `<1MB`, `<16MB`, `<256MB`, `>=256MB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// One entry a node, ordered by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// Indices of nodes that were detached by wish; they stay so until asked back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detached_by_wish: Vec<u8>,
    /// Indices of nodes that are fenced: out of the pool, their PostgreSQL kept stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<u8>,
    /// The switchover under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverStatus>,
    /// When a restart of all nodes was asked for last; nodes that began before are restarted, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted_at: Option<Timestamp>,
    /// The node that is being removed, once its volume may be deleted: written before it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removing: Option<u8>,
    /// Major version of PostgreSQL of the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<u32>,
    /// The recovery under way; one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// The recovery that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_recovery: Option<LastRecovery>,
    /// The failover that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<LastFailover>,
    /// The answer to the last request by annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request: Option<RequestAnswer>,
    /// Requests that were answered, until their annotations were seen to be gone: to no operator are they new till then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<AnsweredRequest>,
    /// True once database, owner, users and bootstrap SQL were made.
    #[serde(default)]
    pub bootstrapped: bool,
}

/// A pool in one word.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Health {
    /// The first copy of the data is being made.
    Creating,
    /// A node is being recovered or attached.
    Recovering,
    /// Nodes are being restarted one at a time, or removed.
    Updating,
    /// All wished nodes are attached.
    Ready,
    /// Fewer nodes are attached than wished.
    Degraded,
    /// Nothing can be written.
    Unavailable,
    /// Hands off: the spec says suspend.
    Suspended,
    /// The spec is refused; the conditions say why.
    Invalid,
}

/// The record as people read it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MembershipView {
    /// Counts the changes of the record.
    pub epoch: i64,
    /// Serving or Electing.
    pub phase: Phase,
    /// Index of the primary.
    pub primary: u8,
    /// Indices of the attached nodes.
    pub attached: Vec<u8>,
}

/// What a node is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum NodeState {
    /// In the record.
    Attached,
    /// Not in the record, not being recovered.
    Detached,
    /// Being copied to, or catching up.
    Recovering,
    /// Its pod isn't there or isn't answering.
    Unreachable,
}

/// One node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's index.
    pub index: u8,
    /// Its pod.
    pub pod: String,
    /// The Kubernetes node on which the pod runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_node: Option<String>,
    /// What the node is.
    pub state: NodeState,
    /// True for the primary.
    #[serde(default)]
    pub primary: bool,
    /// Why it is what it is, where that needs a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Timeline that it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Last WAL position that it has applied; looked at anew every half minute, and when the node's state changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// Bytes of WAL that it is behind the primary, at the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
    /// Age in seconds of its oldest unapplied commit, at the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// Its recovery, while one is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<NodeRecovery>,
    /// Recoveries that failed since the last one that did not: the next waits longer each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_recoveries: Option<FailedRecoveries>,
}

/// Failed recoveries of a node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedRecoveries {
    /// How many in a row.
    pub count: u32,
    /// When the last one failed.
    pub last: Timestamp,
}

/// How the data of a node is made whole.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum CopyKind {
    /// Nothing is copied: its WAL is a prefix of the donor's history.
    None,
    /// A base backup, streamed from the donor.
    BaseBackup,
}

/// Where a recovery stands.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
pub enum RecoveryStage {
    /// Accepted; nothing done yet.
    Requested,
    /// The node is leaving the record.
    Detaching,
    /// Its pod is being stopped.
    Stopping,
    /// Stage 1: the Job copies.
    Copying,
    /// The node starts as a standby and replays.
    CatchingUp,
    /// Stage 2: it becomes synchronous and enters the record.
    Joining,
}

/// The recovery of a node, as far as it is that node's affair; the whole of it is in `status.recovery`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecovery {
    /// Id of the request; also in the name of its Job.
    pub id: String,
    /// Where it stands.
    pub stage: RecoveryStage,
    /// How the data is made whole.
    pub copy: CopyKind,
    /// The node that the data is copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub donor: Option<u8>,
    /// Bytes copied.
    pub bytes: i64,
    /// Bytes to copy, as the donor estimates.
    pub total: i64,
    /// Bytes a second since the copy began.
    pub rate: i64,
    /// When it was asked for.
    pub started_at: Timestamp,
}

impl From<&RecoveryStatus> for NodeRecovery {
    fn from(whole: &RecoveryStatus) -> Self {
        Self {
            id: whole.id.clone(),
            stage: whole.stage,
            copy: whole.copy,
            donor: whole.donor,
            bytes: whole.bytes,
            total: whole.total,
            rate: whole.rate,
            started_at: whole.started_at,
        }
    }
}

/// The recovery under way.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// Id of the request; also in the name of its Job.
    pub id: String,
    /// The node that is taken back.
    pub node: u8,
    /// Where it stands.
    pub stage: RecoveryStage,
    /// How the data is made whole.
    pub copy: CopyKind,
    /// Why it was begun: by whom or what.
    pub reason: String,
    /// The node that the data is copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub donor: Option<u8>,
    /// Bytes copied.
    #[serde(default)]
    pub bytes: i64,
    /// Bytes to copy, as the donor estimates.
    #[serde(default)]
    pub total: i64,
    /// Bytes a second since the copy began.
    #[serde(default)]
    pub rate: i64,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When this stage began.
    pub stage_since: Timestamp,
    /// How often it was tried before.
    #[serde(default)]
    pub attempt: u32,
    /// True once the data that stood there may be destroyed: written before it is.
    #[serde(default)]
    pub may_destroy: bool,
    /// True where the copy goes to no machine that has another node of the pool, and waits for one: the node had a machine of its own,
    /// and its volume was on that machine's disk.
    #[serde(default)]
    pub apart: bool,
}

/// A switchover under way.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverStatus {
    /// Its id, which the primary's agent is told.
    pub id: String,
    /// The primary that hands over.
    pub from: u8,
    /// The node that shall take over.
    pub to: u8,
    /// Timeline of the record when it was begun: a higher one is its end.
    pub timeline: u32,
    /// Why: by whom or what.
    pub reason: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// True when the old primary shall be detached afterwards, by wish.
    #[serde(default)]
    pub then_detach: bool,
}

/// A recovery that ended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRecovery {
    /// Id of the request.
    pub id: String,
    /// The node.
    pub node: u8,
    /// True when the node was attached.
    pub succeeded: bool,
    /// What went wrong, or how the data was made whole.
    pub message: String,
    /// Bytes copied.
    pub bytes: i64,
    /// Seconds from request to end.
    pub seconds: f64,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How many failed in a row, for the back-off.
    #[serde(default)]
    pub failures: u32,
}

/// A change of primary that ended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailover {
    /// The primary before.
    pub from: u8,
    /// The new primary.
    pub to: u8,
    /// Why.
    pub reason: String,
    /// Milliseconds without a primary, as the new one measured them.
    pub millis: i64,
    /// Timeline that began with it.
    #[serde(default)]
    pub timeline: u32,
    /// When the new primary opened.
    pub at: Timestamp,
}

/// The answer to a request by annotation.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestAnswer {
    /// `recover`, `detach`, `attach`, `replace-volume`, `switchover`, `restart`, `fence` or `release`.
    pub request: String,
    /// The value as it was given.
    pub value: String,
    /// Whether it was taken on.
    pub accepted: bool,
    /// What was done about it, or why it was refused.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// How it ended, where it took a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// A request that was answered and whose annotation may still be there.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnsweredRequest {
    /// As in `lastRequest`.
    pub request: String,
    /// The value as it was given.
    pub value: String,
    /// Whether it was taken on.
    pub accepted: bool,
}
