//! Counts of a run and its summary. Pure: every time is handed in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::Id;
use super::latency::Histogram;
use crate::clock::Micros;
use crate::db::failure::{Failure, Outcome};
use crate::ops::Action;
use crate::registers::{Act, Counts};

/// How many stale reads are kept with their details; the rest is only counted.
const STALE_KEPT: usize = 100;

/// How many distinct error codes are kept for each activity.
const CODES_KEPT: usize = 100;

/// A read that did not show a write acknowledged before the read was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The write that wasn't shown.
    pub id: Id,
    /// What the write did.
    pub action: Action,
    /// The endpoint that was asked.
    pub endpoint: String,
    /// Who answered: address and cluster_name of the server.
    pub node: String,
    /// For a counter: the value that had been acknowledged and the one that was shown.
    pub counter: Option<(u64, u64)>,
    /// How long before the read was sent the write had been acknowledged.
    pub acked_before_us: Micros,
    /// How long after that read the same session showed it; absent if it never did while it was watched.
    pub shown_after_us: Option<Micros>,
    /// When the read was sent, by the wall clock.
    pub wall_us: Micros,
}

/// How often one error was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ErrorCount {
    /// How often.
    pub count: u64,
    /// What the first one said.
    pub first: String,
}

/// A time without any acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Its length in milliseconds.
    pub ms: u64,
    /// When it began, in milliseconds since the start of the run.
    pub began_ms: u64,
}

/// What activity an error belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// A writer's connection.
    WriteConnect,
    /// A write.
    Write,
    /// A reader's connection.
    ReadConnect,
    /// A read.
    Read,
    /// A connection or an operation of a client of the registers.
    Register,
}

/// Writes by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    /// Acknowledged.
    pub acked: u64,
    /// Certainly not done.
    pub refused: u64,
    /// Perhaps done.
    pub unknown: u64,
}

/// Reads by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Showed what had been acknowledged.
    pub fresh: u64,
    /// Did not.
    pub stale: u64,
    /// No answer: refused, lost or timed out.
    pub refused: u64,
}

/// What a run prints at its end, and its control port at any time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The run's identifier, as in the journal.
    pub run: Id,
    /// False while it is still going on.
    pub finished: bool,
    /// Time since the start.
    pub elapsed_ms: u64,
    /// Writes by outcome.
    pub writes: Writes,
    /// Acknowledged writes by kind.
    pub acked_by_kind: BTreeMap<String, u64>,
    /// The longest time without an acknowledgement while the run wanted to write.
    pub longest_stall: Gap,
    /// The same, going on now.
    pub current_stall_ms: u64,
    /// Median time from sending a write to its acknowledgement, in microseconds.
    pub p50_us: Micros,
    /// 99th percentile of it.
    pub p99_us: Micros,
    /// The longest.
    pub max_us: Micros,
    /// Reads by outcome.
    pub reads: Reads,
    /// The longest time without an answered read; zero if nothing was read.
    pub longest_read_stall: Gap,
    /// Answered reads by the node that answered.
    pub reads_by_node: BTreeMap<String, u64>,
    /// The first stale reads, at most a hundred.
    pub stale: Vec<Stale>,
    /// Recorded operations on registers.
    pub registers: Counts,
    /// Errors by activity and SQLSTATE.
    pub errors: BTreeMap<Activity, BTreeMap<String, ErrorCount>>,
}

/// Finds the longest time between two events.
#[derive(Clone, Copy, Debug, Default)]
struct Stall {
    start_us: Micros,
    last_us: Micros,
    longest_us: Micros,
    began_us: Micros,
    closed: bool,
}

impl Stall {
    fn at(start_us: Micros) -> Self {
        Self { start_us, last_us: start_us, ..Self::default() }
    }

    fn event(&mut self, now: Micros) {
        let gap = now.saturating_sub(self.last_us);
        if !self.closed && gap > self.longest_us {
            self.longest_us = gap;
            self.began_us = self.last_us;
        }
        self.last_us = self.last_us.max(now);
    }

    /// The wish to go on ends: a gap that is open now counts up to now, later ones don't.
    fn close(&mut self, now: Micros) {
        self.event(now);
        self.closed = true;
    }

    fn longest(&self, now: Micros) -> Gap {
        let mut ended = *self;
        ended.event(now);
        Gap { ms: ended.longest_us / 1000, began_ms: ended.began_us.saturating_sub(self.start_us) / 1000 }
    }

    fn current_ms(&self, now: Micros) -> u64 {
        if self.closed { 0 } else { now.saturating_sub(self.last_us) / 1000 }
    }
}

/// The counts of a run.
#[derive(Debug)]
pub struct Stats {
    run: Id,
    start_us: Micros,
    writes: Writes,
    by_kind: BTreeMap<String, u64>,
    stall: Stall,
    latency: Histogram,
    reads: Reads,
    read_stall: Stall,
    by_node: BTreeMap<String, u64>,
    stale: Vec<Stale>,
    registers: Counts,
    errors: BTreeMap<Activity, BTreeMap<String, ErrorCount>>,
}

impl Stats {
    /// Starts counting at `now`.
    pub fn new(run: Id, now: Micros) -> Self {
        Self {
            run,
            start_us: now,
            writes: Writes::default(),
            by_kind: BTreeMap::new(),
            stall: Stall::at(now),
            latency: Histogram::default(),
            reads: Reads::default(),
            read_stall: Stall::at(now),
            by_node: BTreeMap::new(),
            stale: Vec::new(),
            registers: Counts::default(),
            errors: BTreeMap::new(),
        }
    }

    /// Counts a write that was sent at `sent` and whose outcome was known at `now`.
    pub fn wrote(&mut self, action: Action, outcome: Outcome, sent: Micros, now: Micros) {
        match outcome {
            Outcome::Acked => {
                self.writes.acked += 1;
                *self.by_kind.entry(action.kind().to_owned()).or_default() += 1;
                self.stall.event(now);
                self.latency.add(now.saturating_sub(sent));
            }
            Outcome::Refused => self.writes.refused += 1,
            Outcome::Unknown => self.writes.unknown += 1,
        }
    }

    /// Counts a read answered by `node`.
    pub fn read_fresh(&mut self, node: &str, now: Micros) {
        self.reads.fresh += 1;
        self.answered(node, now);
    }

    /// Counts a stale read.
    pub fn read_stale(&mut self, stale: Stale, now: Micros) {
        self.reads.stale += 1;
        self.answered(&stale.node, now);
        if self.stale.len() < STALE_KEPT {
            self.stale.push(stale);
        }
    }

    /// Counts a read that got no answer.
    pub fn read_refused(&mut self) {
        self.reads.refused += 1;
    }

    /// Counts an operation on registers.
    pub fn operated(&mut self, act: &Act) {
        self.registers.add(act);
    }

    /// Counts a snapshot of the registers that got no answer.
    pub fn unread(&mut self) {
        self.registers.unread += 1;
    }

    fn answered(&mut self, node: &str, now: Micros) {
        self.read_stall.event(now);
        if let Some(count) = self.by_node.get_mut(node) {
            *count += 1;
        } else {
            self.by_node.insert(node.to_owned(), 1);
        }
    }

    /// Counts an error.
    pub fn error(&mut self, activity: Activity, failure: &Failure) {
        let codes = self.errors.entry(activity).or_default();
        if let Some(known) = codes.get_mut(&failure.code) {
            known.count += 1;
        } else if codes.len() < CODES_KEPT {
            codes.insert(failure.code.clone(), ErrorCount { count: 1, first: failure.message.clone() });
        }
    }

    /// Writers and readers were told to stop: stalls end here.
    pub fn stopping(&mut self, now: Micros) {
        if !self.stall.closed {
            self.stall.close(now);
            self.read_stall.close(now);
        }
    }

    /// Writes by outcome.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// The line that shows on standard error each second.
    pub fn progress(&self, now: Micros) -> String {
        format!(
            "{:>5} s  acked {}  unknown {}  refused {}  reads {}  stale {}  unread {}  stall {} ms",
            now.saturating_sub(self.start_us) / 1_000_000,
            self.writes.acked,
            self.writes.unknown,
            self.writes.refused,
            self.reads.fresh,
            self.reads.stale,
            self.reads.refused,
            self.stall.current_ms(now),
        )
    }

    /// All of it, as of `now`.
    pub fn summary(&self, now: Micros, finished: bool) -> Summary {
        Summary {
            run: self.run,
            finished,
            elapsed_ms: now.saturating_sub(self.start_us) / 1000,
            writes: self.writes,
            acked_by_kind: self.by_kind.clone(),
            longest_stall: self.stall.longest(now),
            current_stall_ms: self.stall.current_ms(now),
            p50_us: self.latency.at(500),
            p99_us: self.latency.at(990),
            max_us: self.latency.max(),
            reads: self.reads,
            longest_read_stall: if self.reads == Reads::default() {
                Gap::default()
            } else {
                self.read_stall.longest(now)
            },
            reads_by_node: self.by_node.clone(),
            stale: self.stale.clone(),
            registers: self.registers,
            errors: self.errors.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_longest_stall_is_the_longest_gap(gaps in prop::collection::vec(1..5_000_000_u64, 1..50), tail in 0..9_000_000_u64) {
            let mut stats = Stats::new(Id(1), 500);
            let mut now = 500;
            for gap in &gaps {
                now += gap;
                stats.wrote(Action::Unique, Outcome::Acked, now - 1, now);
            }
            stats.stopping(now + tail);
            let late = now + tail + 60_000_000;
            stats.wrote(Action::Unique, Outcome::Acked, now, late);
            let longest = gaps.iter().copied().chain([tail]).max().unwrap();
            prop_assert_eq!(stats.summary(late, true).longest_stall.ms, longest / 1000);
        }
    }

    #[test]
    fn an_open_stall_shows_at_once_and_refusals_do_not_end_it() {
        let mut stats = Stats::new(Id(1), 0);
        stats.wrote(Action::Unique, Outcome::Acked, 0, 1_000);
        stats.wrote(Action::Unique, Outcome::Refused, 1_000, 2_000_000);
        stats.wrote(Action::Unique, Outcome::Unknown, 1_000, 2_500_000);
        let summary = stats.summary(3_001_000, false);
        assert_eq!(summary.longest_stall, Gap { ms: 3000, began_ms: 1 });
        assert_eq!(summary.current_stall_ms, 3000);
        assert_eq!(summary.writes, Writes { acked: 1, refused: 1, unknown: 1 });
    }
}
