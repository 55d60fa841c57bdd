//! What the snapshots of a run say about each other and about the writes. Pure.
//!
//! A register's versions are in the order of its writes, so two snapshots can be compared register by register. Attached
//! nodes show a commit before it is acknowledged, each at its own moment. So two of them may show two writes that are
//! under way in different orders: of two registers the one node shows only the one write, and the other node only the
//! other. That is a **long fork**; it is allowed and counted here. What never may be is a **stale** snapshot: one that
//! lacks a write acknowledged before the snapshot was asked for.
//!
//! A write that a node showed is gone if every node that showed it is lost before it is acknowledged (docs/limits.md).
//! Then another write may get its version. Its outcome is unknown, and no acknowledged write replaced its value: such
//! values are **in doubt** here, and of the rules above only those are asked of them that hold all the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Act, ByRegister, Counts, Operation, Snapshot, Write};
use crate::check::content::Problems;
use crate::clock::Micros;
use crate::db::failure::Outcome;

/// What was found in the operations of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Operations by outcome.
    pub counts: Counts,
    /// Number of registers.
    pub registers: u64,
    /// Pairs of snapshots on two nodes, each taken while something that the other shows wasn't acknowledged yet: those
    /// alone can contradict each other where no read is stale.
    pub pairs: u64,
    /// Those that do. Allowed.
    pub long_forks: Problems,
    /// Snapshots that show less of some register than one on another node that was answered before they were asked for.
    /// Allowed: both show all that was acknowledged.
    pub went_back: u64,
    /// Snapshots without a write that was acknowledged before they were asked for.
    pub stale: Problems,
    /// Values that can't stand where they were seen, and nodes that contradict themselves.
    pub contradictions: Problems,
}

/// A snapshot, and when it was taken.
struct Taken<'a> {
    call_us: Micros,
    return_us: Micros,
    of: &'a Snapshot,
}

/// Examines the operations of one run.
pub fn examine(operations: &[Operation]) -> Findings {
    let mut findings = Findings::default();
    let mut writes: ByRegister<Vec<(&Write, Micros)>> = BTreeMap::new();
    let mut taken = Vec::new();
    for Operation { call_us, return_us, act, .. } in operations {
        findings.counts.add(act);
        match act {
            Act::Write(write) => writes.entry(write.register).or_default().push((write, *return_us)),
            Act::Read(of) => taken.push(Taken { call_us: *call_us, return_us: *return_us, of }),
        }
    }
    taken.sort_by_key(|snapshot| snapshot.call_us);
    let widest = taken.iter().map(|snapshot| snapshot.of.shown.len()).max().unwrap_or(0);
    let last = writes.keys().next_back().map_or(0, |register| *register as usize + 1);
    findings.registers = widest.max(last) as u64;
    let acks = writes.iter().map(|(register, writes)| (*register, Acks::of(writes))).collect();
    let doubts = writes.iter().map(|(register, writes)| (*register, in_doubt(writes))).collect();
    find_contradictions(&mut findings.contradictions, &writes, &doubts, &taken);
    find_stale(&mut findings.stale, &acks, &taken);
    find_overruled(&mut findings.stale, &writes, &doubts, &taken);
    compare(&mut findings, &acks, &doubts, &taken);
    findings
}

/// Values of one register that may have been shown and then lost.
type Doubts = BTreeSet<u64>;
/// Value and version of each register.
type Shown = Vec<(u64, u64)>;

fn in_doubt(writes: &[(&Write, Micros)]) -> Doubts {
    let replaced: BTreeSet<u64> = writes.iter().filter_map(|(write, _)| Some(write.done?.replaced)).collect();
    let unknown = writes.iter().filter(|(write, _)| write.outcome == Outcome::Unknown);
    unknown.map(|(write, _)| write.value).filter(|value| !replaced.contains(value)).collect()
}

fn is_in_doubt(doubts: &ByRegister<Doubts>, register: u32, value: u64) -> bool {
    doubts.get(&register).is_some_and(|values| values.contains(&value))
}

/// When the versions of one register were acknowledged.
#[derive(Default)]
struct Acks {
    /// By time: the highest version acknowledged by then.
    floor: Vec<(Micros, u64)>,
    /// By version: when it, or one above it, was first acknowledged.
    settled: Vec<(u64, Micros)>,
}

impl Acks {
    fn of(writes: &[(&Write, Micros)]) -> Self {
        let acked = writes.iter().filter_map(|(write, at)| Some((*at, write.done?.version)));
        let mut floor: Vec<(Micros, u64)> = acked.collect();
        let mut settled: Vec<(u64, Micros)> = floor.iter().map(|(at, version)| (*version, *at)).collect();
        floor.sort_unstable();
        let mut highest = 0;
        for (_, version) in &mut floor {
            highest = highest.max(*version);
            *version = highest;
        }
        settled.sort_unstable();
        let mut earliest = Micros::MAX;
        for (_, at) in settled.iter_mut().rev() {
            earliest = earliest.min(*at);
            *at = earliest;
        }
        Self { floor, settled }
    }

    /// The highest version that was acknowledged before `at`.
    fn before(&self, at: Micros) -> u64 {
        let count = self.floor.partition_point(|(acked, _)| *acked < at);
        count.checked_sub(1).and_then(|last| self.floor.get(last)).map_or(0, |(_, version)| *version)
    }

    /// From when on every snapshot must show that version or a later one.
    fn settled(&self, version: u64) -> Micros {
        if version == 0 {
            return 0;
        }
        let first = self.settled.partition_point(|(acked, _)| *acked < version);
        self.settled.get(first).map_or(Micros::MAX, |(_, at)| *at)
    }
}

fn find_stale(stale: &mut Problems, acks: &ByRegister<Acks>, taken: &[Taken<'_>]) {
    for snapshot in taken {
        for (register, (value, version)) in (0..).zip(&snapshot.of.shown) {
            let due = acks.get(&register).map_or(0, |acks| acks.before(snapshot.call_us));
            if *version < due {
                stale.add(|| {
                    format!(
                        "{} at {} us: register {register} shows version {version} (value {value}), and version \
                         {due} was acknowledged before",
                        snapshot.of.node, snapshot.call_us
                    )
                });
            }
        }
    }
}

/// A value in doubt is lost once another one was acknowledged at its version: then no snapshot may show it.
fn find_overruled(
    stale: &mut Problems,
    writes: &ByRegister<Vec<(&Write, Micros)>>,
    doubts: &ByRegister<Doubts>,
    taken: &[Taken<'_>],
) {
    let mut acked: BTreeMap<(u32, u64), (u64, Micros)> = BTreeMap::new();
    for (register, writes) in writes {
        let done = writes.iter().filter_map(|(write, at)| Some((write.done?.version, (write.value, *at))));
        acked.extend(done.map(|(version, what)| ((*register, version), what)));
    }
    for snapshot in taken {
        for (register, (value, version)) in (0..).zip(&snapshot.of.shown) {
            let other = acked.get(&(register, *version)).filter(|(_, at)| *at < snapshot.call_us);
            if let Some((other, _)) = other.filter(|_| is_in_doubt(doubts, register, *value)) {
                stale.add(|| {
                    format!(
                        "{} at {} us: register {register} shows value {value} at version {version}, and value \
                         {other} was acknowledged there before",
                        snapshot.of.node, snapshot.call_us
                    )
                });
            }
        }
    }
}

/// Each value belongs to one write that wasn't refused, and stands at one version; each version has one value that isn't
/// in doubt.
fn find_contradictions(
    problems: &mut Problems,
    writes: &ByRegister<Vec<(&Write, Micros)>>,
    doubts: &ByRegister<Doubts>,
    taken: &[Taken<'_>],
) {
    let mut seen: ByRegister<BTreeSet<(u64, u64)>> = BTreeMap::new();
    for (register, writes) in writes {
        let done = writes.iter().filter_map(|(write, _)| Some((write.done?.version, write.value)));
        seen.entry(*register).or_default().extend(done);
    }
    for snapshot in taken {
        for (register, (value, version)) in (0..).zip(&snapshot.of.shown) {
            seen.entry(register).or_default().insert((*version, *value));
        }
    }
    for (register, places) in &seen {
        let mut values: BTreeMap<u64, u64> = BTreeMap::new();
        let mut above: Option<(u64, u64)> = None;
        for (version, value) in places {
            let firm = !is_in_doubt(doubts, *register, *value);
            if let Some((_, other)) = above.filter(|(same, _)| firm && same == version) {
                problems.add(|| {
                    format!("register {register}: version {version} is value {other} and value {value}")
                });
            }
            if let Some(other) = values.insert(*value, *version) {
                problems.add(|| {
                    format!("register {register}: value {value} stands at version {other} and {version}")
                });
            }
            if firm {
                above = Some((*version, *value));
            }
        }
        let own = writes.get(register).map(Vec::as_slice).unwrap_or_default();
        let possible = own.iter().filter(|(write, _)| write.outcome != Outcome::Refused);
        let possible: BTreeSet<u64> = possible.map(|(write, _)| write.value).chain([0]).collect();
        for value in values.keys().filter(|value| !possible.contains(value)) {
            problems.add(|| format!("register {register}: value {value} was refused, or never sent"));
        }
    }
}

/// Compares each snapshot with those after it, until all that it shows is acknowledged.
fn compare(
    findings: &mut Findings,
    acks: &ByRegister<Acks>,
    doubts: &ByRegister<Doubts>,
    taken: &[Taken<'_>],
) {
    let settled: Vec<Micros> = taken.iter().map(|snapshot| settled(acks, snapshot.of)).collect();
    let mut back = vec![false; taken.len()];
    for (at, (one, one_settled)) in taken.iter().zip(&settled).enumerate() {
        let later = taken.iter().zip(&settled).enumerate().skip(at + 1);
        for (other_at, (other, other_settled)) in
            later.take_while(|(_, (other, _))| other.call_us <= *one_settled)
        {
            let (less, more) = order(&one.of.shown, &other.of.shown);
            if one.of.node == other.of.node {
                if less && more && !may_differ(doubts, one.of, other.of) {
                    findings.contradictions.add(|| contrast(one, other));
                }
                continue;
            }
            back[other_at] |= more && one.return_us < other.call_us;
            if *other_settled >= one.call_us {
                findings.pairs += 1;
                if less && more {
                    findings.long_forks.add(|| contrast(one, other));
                }
            }
        }
    }
    findings.went_back = back.iter().filter(|back| **back).count() as u64;
}

/// When the last of what a snapshot shows was acknowledged.
fn settled(acks: &ByRegister<Acks>, snapshot: &Snapshot) -> Micros {
    let none = Acks::default();
    let each = (0..)
        .zip(&snapshot.shown)
        .map(|(register, (_, version))| acks.get(&register).unwrap_or(&none).settled(*version));
    each.max().unwrap_or(0)
}

/// Whether the first shows less than the second in some register, and whether it shows more in some.
fn order(one: &[(u64, u64)], other: &[(u64, u64)]) -> (bool, bool) {
    let mut pairs = one.iter().zip(other);
    let less = pairs.clone().any(|((_, one), (_, other))| one < other);
    (less, pairs.any(|((_, one), (_, other))| one > other))
}

/// Whether two snapshots of one node are in order once those registers are left out whose later version is in doubt: the
/// node may have lost it between them.
fn may_differ(doubts: &ByRegister<Doubts>, one: &Snapshot, other: &Snapshot) -> bool {
    let later = |(one, other): (&(u64, u64), &(u64, u64))| if one.1 > other.1 { one.0 } else { other.0 };
    let pairs = (0..).zip(one.shown.iter().zip(&other.shown));
    let firm = pairs.filter(|(register, pair)| !is_in_doubt(doubts, *register, later(*pair)));
    let (one, other): (Shown, Shown) = firm.map(|(_, (one, other))| (*one, *other)).unzip();
    let (less, more) = order(&one, &other);
    !(less && more)
}

fn contrast(one: &Taken<'_>, other: &Taken<'_>) -> String {
    let versions = |snapshot: &Taken<'_>| -> Vec<u64> {
        snapshot.of.shown.iter().map(|(_, version)| *version).collect()
    };
    format!(
        "{} at {} us shows the versions {:?}, {} at {} us {:?}",
        one.of.node,
        one.call_us,
        versions(one),
        other.of.node,
        other.call_us,
        versions(other)
    )
}
