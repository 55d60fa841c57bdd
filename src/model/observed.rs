//! [`Observed`]: the world as one pass sees it. Everything that the planner may know is in here.
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{Memory, SecretsSeen};
use crate::api::v1alpha1::{MembershipSpec, PgPoolStatus, Record};
use crate::messages::NodeReport;

/// The PgPoolMembership of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct MembershipSeen {
    /// What the controller wants.
    pub spec: MembershipSpec,
    /// The record, once there is one.
    pub record: Option<Record>,
    /// True once it is being deleted.
    pub deleting: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// Its uid.
    pub uid: String,
    /// The Kubernetes node on which it runs.
    pub kubernetes_node: Option<String>,
    /// Its role label.
    pub role: Option<String>,
    /// True once it is being deleted.
    pub deleting: bool,
    /// Where its agent can be asked.
    pub address: Option<String>,
    /// True when its containers are ready.
    pub ready: bool,
    /// Why it doesn't run, where Kubernetes says so (image, scheduling).
    pub trouble: Option<String>,
    /// True when it can't be scheduled.
    pub unschedulable: bool,
    /// Fingerprint of the template that it was made from; none when an older operator made it.
    pub template: Option<String>,
}

/// A node's StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetSeen {
    /// Replicas that it is told to have.
    pub replicas: i32,
}

/// A node's claim and its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimSeen {
    /// Uid of the claim.
    pub uid: String,
    /// True once it is being deleted.
    pub deleting: bool,
    /// True once data was put on it (by initdb or a recovery).
    pub filled: bool,
    /// Id of the recovery for which a person gave it up.
    pub given_up: Option<String>,
    /// Its volume is known to be reached from one machine alone: there the lock of the volume keeps two pods apart
    /// for certain, whatever becomes of the machine.
    pub on_one_machine: bool,
    /// What the record of the pool said of it when that was deleted.
    pub last_record: Option<String>,
    /// Why its volume is proved lost, if it is.
    pub lost: Option<String>,
    /// How large the volume is and shall be.
    pub size: ClaimSize,
}

impl ClaimSeen {
    /// True while a volume, made or still to be made, can be used for it.
    pub fn is_usable(&self) -> bool {
        !self.deleting && self.lost.is_none() && self.given_up.is_none()
    }

    /// True while it can be used and never had data.
    pub fn is_new(&self) -> bool {
        self.is_usable() && !self.filled
    }
}

/// The size of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimSize {
    /// What it asks for, as it stands there.
    pub requested: String,
    /// Bytes that its volume has; none while it has none.
    pub capacity: Option<u64>,
    /// Why its volume can't be made larger, where that is known.
    pub fixed: Option<String>,
    /// Since when its file system waits for its pod to be started anew before it can grow.
    pub waits_since: Option<Timestamp>,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// It hasn't.
    Running,
    /// Its work is done.
    Succeeded,
    /// It failed.
    Failed {
        /// What it said, or what Kubernetes says.
        message: String,
        /// It can't go on without destroying the data that stands there.
        needs_destroy: bool,
    },
}

/// A recovery Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    /// Its uid.
    pub uid: String,
    /// Index of the node that it recovers.
    pub node: u8,
    /// Whether it was told that it may destroy the old data.
    pub may_destroy: bool,
    /// True once it is being deleted.
    pub deleting: bool,
    /// How it ended.
    pub outcome: JobOutcome,
    /// Bytes that it copied, by its last words; 0 before those.
    pub bytes: i64,
    /// Why its pod doesn't run, where Kubernetes says so.
    pub trouble: Option<String>,
}

/// The front's Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentSeen {
    /// Pods that are ready.
    pub ready: i32,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSeen {
    /// Its StatefulSet.
    pub set: Option<SetSeen>,
    /// Its pod.
    pub pod: Option<PodSeen>,
    /// Its claim.
    pub claim: Option<ClaimSeen>,
    /// What its agent says, or why it could not be asked; none when there is no pod to ask.
    pub report: Option<Result<NodeReport, String>>,
}

impl NodeSeen {
    /// What the agent says, if it answered.
    pub fn report(&self) -> Option<&NodeReport> {
        self.report.as_ref().and_then(|report| report.as_ref().ok())
    }
}

/// An object of the pool as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveObject {
    /// Kind, such as `Service`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// True when this PgPool is its owner.
    pub owned: bool,
    /// True once it is being deleted.
    pub deleting: bool,
    /// The whole object; of a Secret only its metadata and the keys of its data.
    pub value: Value,
}

/// The world of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Status of the PgPool as the last pass left it.
    pub status: PgPoolStatus,
    /// The membership object.
    pub membership: Option<MembershipSeen>,
    /// The nodes; one entry for each index of the spec, and for each that is still there beyond them.
    pub nodes: BTreeMap<u8, NodeSeen>,
    /// Recovery Jobs by name.
    pub jobs: BTreeMap<String, JobSeen>,
    /// The front.
    pub proxy: Option<DeploymentSeen>,
    /// Every object with the pool's label, by kind and name.
    pub live: BTreeMap<(String, String), LiveObject>,
    /// All claims that carry the pool's name, also those of a pool that was before: by name, with what its record said of
    /// them at the end.
    pub claims: BTreeMap<String, Option<String>>,
    /// What stands in Secrets.
    pub secrets: SecretsSeen,
    /// Pods of the pool that are still there, in whatever state.
    pub pods: Vec<String>,
    /// Random: the id that a recovery gets if one begins in this pass.
    pub fresh_id: String,
    /// Random: the uid that the pool gets if it is made in this pass.
    pub fresh_uid: String,
    /// What the operator remembers.
    pub memory: Memory,
    /// The moment of the observation.
    pub now: Timestamp,
}
