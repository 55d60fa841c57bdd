//! The agent's small files in the volume's folder for configuration: what must outlive a start of the agent. Written
//! durably before what they say can be heard; one that can't be read is an error, and nothing is started.
use serde::{Deserialize, Serialize};

/// `word.json`, what a primary has promised: in this epoch it serves no more (R5).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The epoch.
    pub epoch: i64,
}

/// `office.json`: the last office of this node in which clients were let in (R4).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its timeline.
    pub timeline: u32,
}

/// `lease.json`: the longest lease that may be alive (R4).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Longest {
    /// Its length in milliseconds.
    pub lease_ms: u32,
}
