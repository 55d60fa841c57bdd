//! What the operator remembers of a pool from pass to pass. Losing it costs time, never correctness.
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// Failed recoveries of a node, for the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How many failed in a row.
    pub failures: u32,
    /// When the last one failed.
    pub last: Timestamp,
}

/// Restarts of a node's Postgres for parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// The parameters.
    pub parameters: Vec<String>,
    /// How often in a row.
    pub count: u32,
    /// When the last one was asked for.
    pub last: Timestamp,
}

/// A change of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParametersChanged {
    /// What the nodes had before.
    pub before: BTreeMap<String, String>,
    /// Names of those that were seen to wait for a restart, in small letters.
    pub restarting: BTreeSet<String>,
}

/// A pod that can't start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTrouble {
    /// Whether it is a machine that it lacks; else its containers don't start.
    pub unschedulable: bool,
    /// When that was seen first.
    pub since: Timestamp,
    /// When it was seen last.
    pub last: Timestamp,
    /// What Kubernetes said of it then.
    pub words: String,
}

/// A copy under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySeen {
    /// Name of its Job.
    pub job: String,
    /// When.
    pub at: Timestamp,
    /// Bytes that had been copied.
    pub bytes: i64,
}

/// What is kept between two passes over a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// True once a pass was made since the operator started.
    pub seen_before: bool,
    /// Since when a node has needed an automatic recovery.
    pub needs_copy_since: BTreeMap<u8, Timestamp>,
    /// Failed recoveries, by node.
    pub backoff: BTreeMap<u8, Backoff>,
    /// Fingerprint of the roles and databases that the primary last confirmed.
    pub ensured: Option<String>,
    /// What the primary could not make of them, for a condition.
    pub ensure_errors: Vec<String>,
    /// What went wrong when the last plan was carried out: category and message.
    pub last_error: Option<(&'static str, String)>,
    /// Conditions of nodes that an event was made for, so that each is told once.
    pub told: BTreeSet<String>,
    /// How often something was tried that a deletion can do without.
    pub tries: BTreeMap<String, u32>,
    /// Nodes whose pods were deleted to be made anew, until they serve again.
    pub rolled: BTreeSet<u8>,
    /// Since when a change of all nodes can't go on.
    pub stopped_since: Option<Timestamp>,
    /// When a switchover that the operator itself wanted failed last, and why.
    pub switchover_failed: Option<(Timestamp, String)>,
    /// Restarts of a node's Postgres for parameters that it still asks for.
    pub restarts: BTreeMap<u8, Restarted>,
    /// Generation of the spec, and when it was seen first.
    pub spec_seen: Option<(i64, Timestamp)>,
    /// The primary that was asked to hand over, to be restarted for parameters, and when, until it serves again.
    pub handed_over: Option<(u8, Timestamp)>,
    /// A change of parameters that not every attached node has loaded yet.
    pub parameters: Option<ParametersChanged>,
    /// When each certificate is to be renewed, or ends, as it was seen last: one for which that differs is another one.
    pub certificates: BTreeMap<String, Timestamp>,
    /// Pods that can't start, by node.
    pub pod_troubles: BTreeMap<u8, PodTrouble>,
    /// The copy under way, as it was seen first: its rate counts from there.
    pub copy_begun: Option<CopySeen>,
    /// When its progress was last written into status.
    pub progress_at: Option<Timestamp>,
    /// When the nodes' positions were last written into status.
    pub positions_at: Option<Timestamp>,
}
