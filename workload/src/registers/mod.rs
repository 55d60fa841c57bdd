//! Registers: rows that hold one value each, written and read over and over, and the record of every operation on
//! them with the times of its call and its return. Others judge that history: whether each register was linearizable
//! ([porcupine](https://github.com/anishathalye/porcupine), xtask/linearizable), and what snapshots of several registers
//! on several nodes say about each other ([`snapshots`]).
//!
//! Writers and readers begin at the same beat, a few milliseconds apart by chance, so that reads meet writes that are
//! under way.

pub mod client;
pub mod report;
pub mod snapshots;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::db::failure::Outcome;

/// An operation that is over. Both times are of the journal's monotonic clock, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Number of the client: it has one operation under way at a time.
    pub client: u32,
    /// The endpoint that was asked.
    pub endpoint: String,
    /// Before it was sent.
    pub call_us: Micros,
    /// After its outcome was known. A write of unknown outcome may take effect later, or never.
    pub return_us: Micros,
    /// What it was.
    #[serde(flatten)]
    pub act: Act,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Put a value into one register.
    Write(Write),
    /// Read all registers in one snapshot.
    Read(Snapshot),
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Which register, from zero.
    pub register: u32,
    /// The value: not zero, and no other write of the run has it.
    pub value: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// SQLSTATE or word, when it wasn't acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What the server said that it did, when it was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
}

/// What an acknowledged write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The value that it replaced; zero where there was none.
    pub replaced: u64,
    /// How many writes the register has had, this one counted.
    pub version: u64,
}

/// What one snapshot showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The node that answered, by its cluster_name.
    pub node: String,
    /// Value and version of each register, in their order; zeros for one that was never written.
    pub shown: Vec<(u64, u64)>,
}

/// Operations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes that certainly were not done.
    pub refused: u64,
    /// Writes that perhaps were.
    pub unknown: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Snapshots that got no answer; they aren't recorded.
    pub unread: u64,
}

impl Counts {
    /// Counts an operation.
    pub fn add(&mut self, act: &Act) {
        match act {
            Act::Write(write) => match write.outcome {
                Outcome::Acked => self.acked += 1,
                Outcome::Refused => self.refused += 1,
                Outcome::Unknown => self.unknown += 1,
            },
            Act::Read(_) => self.snapshots += 1,
        }
    }
}

/// Something of each register.
pub type ByRegister<T> = BTreeMap<u32, T>;
