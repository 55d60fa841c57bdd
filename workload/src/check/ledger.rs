//! What the journals say that must, may and must not be in the database. Pure.

use std::collections::BTreeMap;

use crate::db::failure::Outcome;
use crate::history::id::Id;
use crate::history::stats::Stale;
use crate::journal::{Entry, Line};
use crate::ops::Action;

/// A journaled write that leaves a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expected {
    /// Its id.
    pub id: Id,
    /// For an append: the position that the server reported.
    pub pos: Option<u32>,
    /// Which table it is in.
    pub kind: Kind,
    /// What came of it.
    pub outcome: Outcome,
}

/// The kinds of write that leave a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// workload.transfers
    Transfer,
    /// workload.lists
    Append,
    /// workload.ids
    Unique,
}

/// Increments of one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Increments {
    /// Acknowledged.
    pub acked: u64,
    /// Perhaps done.
    pub unknown: u64,
}

/// All journals together.
#[derive(Debug, Default)]
pub struct Ledger {
    runs: BTreeMap<Id, u64>,
    writes: Vec<Expected>,
    counters: BTreeMap<(Id, u32), Increments>,
    acked: u64,
    stale: Vec<Stale>,
    current: Option<Id>,
    strays: u64,
}

impl Ledger {
    /// Takes one line; the lines of a file in their order, files one after the other.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Start { run, writers, .. } => {
                self.current = Some(run);
                // Until its end is seen, each writer may have one write that isn't here.
                self.runs.insert(run, u64::from(writers));
            }
            Line::Write(entry) => self.write(&entry),
            Line::Stale(stale) => self.stale.push(stale),
            // For checkers of histories; the rows are only compared between nodes.
            Line::Register(_) => {}
            Line::End(_) => {
                if let Some(run) = self.current.take() {
                    self.runs.insert(run, 0);
                }
            }
        }
    }

    /// A file is over: what comes next belongs to another run.
    pub fn end_file(&mut self) {
        self.current = None;
    }

    fn write(&mut self, entry: &Entry) {
        let Some(run) = self.current else {
            self.strays += 1;
            return;
        };
        self.acked += u64::from(entry.outcome == Outcome::Acked);
        let kind = match entry.action {
            Action::Transfer { .. } => Kind::Transfer,
            Action::Append { .. } => Kind::Append,
            Action::Unique => Kind::Unique,
            Action::Increment { counter } => {
                let increments = self.counters.entry((run, counter)).or_default();
                increments.acked += u64::from(entry.outcome == Outcome::Acked);
                increments.unknown += u64::from(entry.outcome == Outcome::Unknown);
                return;
            }
        };
        let pos = entry.pos.and_then(|pos| u32::try_from(pos).ok());
        self.writes.push(Expected { id: entry.id, pos, kind, outcome: entry.outcome });
    }

    /// Makes it ready for look-ups.
    pub fn seal(mut self) -> Self {
        self.writes.sort_unstable();
        self.writes.shrink_to_fit();
        self
    }

    /// Index of a write among [`Ledger::writes`].
    pub fn find(&self, id: Id) -> Option<usize> {
        self.writes.binary_search_by_key(&id, |write| write.id).ok()
    }

    /// All writes that leave a row, in the order of their ids.
    pub fn writes(&self) -> &[Expected] {
        &self.writes
    }

    /// How many acknowledged writes there are, of all kinds.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// How many writes of that run may be in the database and not here; none if the run isn't here at all.
    pub fn unjournaled(&self, run: Id) -> Option<u64> {
        self.runs.get(&run).copied()
    }

    /// The runs, each with how many of its writes may be missing here.
    pub fn runs(&self) -> impl Iterator<Item = (Id, u64)> {
        self.runs.iter().map(|(run, slack)| (*run, *slack))
    }

    /// What a counter must and may show.
    pub fn counters(&self) -> &BTreeMap<(Id, u32), Increments> {
        &self.counters
    }

    /// Stale reads that the runs have seen.
    pub fn stale(&self) -> &[Stale] {
        &self.stale
    }

    /// Writes outside of any run: the file isn't a whole journal.
    pub fn strays(&self) -> u64 {
        self.strays
    }
}
