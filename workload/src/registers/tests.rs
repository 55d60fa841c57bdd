use std::collections::BTreeMap;

use proptest::prelude::*;

use super::snapshots::{Findings, examine};
use super::*;

/// An acknowledged write: register, value, value replaced, version, times.
pub fn write(
    register: u32,
    value: u64,
    replaced: u64,
    version: u64,
    (call_us, return_us): (Micros, Micros),
) -> Operation {
    let done = Some(Done { replaced, version });
    let act = Act::Write(Write { register, value, outcome: Outcome::Acked, code: None, done });
    Operation { client: 0, endpoint: "demo".into(), call_us, return_us, act }
}

/// A write of another outcome.
fn failed(register: u32, value: u64, outcome: Outcome, (call_us, return_us): (Micros, Micros)) -> Operation {
    let code = Some("57P01".into());
    let act = Act::Write(Write { register, value, outcome, code, done: None });
    Operation { client: 0, endpoint: "demo".into(), call_us, return_us, act }
}

/// A snapshot: node, values and versions, times.
pub fn read(node: &str, shown: &[(u64, u64)], (call_us, return_us): (Micros, Micros)) -> Operation {
    let act = Act::Read(Snapshot { node: node.into(), shown: shown.to_vec() });
    Operation { client: 1, endpoint: "demo-ro".into(), call_us, return_us, act }
}

/// Two writes that are under way at once, and what two nodes show meanwhile.
fn fork(one: &[(u64, u64)], other: &[(u64, u64)]) -> Findings {
    examine(&[
        write(0, 1, 0, 1, (10, 50)),
        write(1, 2, 0, 1, (12, 52)),
        read("a", one, (20, 30)),
        read("b", other, (31, 40)),
        read("a", &[(1, 1), (2, 1)], (60, 70)),
    ])
}

fn sound(findings: &Findings) -> bool {
    findings.stale.count == 0 && findings.contradictions.count == 0
}

#[test]
fn a_long_fork_is_found_and_is_no_fault() {
    let findings = fork(&[(1, 1), (0, 0)], &[(0, 0), (2, 1)]);
    assert_eq!((findings.pairs, findings.long_forks.count), (1, 1), "{findings:?}");
    assert!(findings.long_forks.examples[0].starts_with("a at 20 us shows the versions [1, 0], b at 31"));
    assert!(sound(&findings) && findings.registers == 2, "{findings:?}");
    assert_eq!((findings.counts.acked, findings.counts.snapshots), (2, 3));
}

#[test]
fn nodes_that_lag_behind_each_other_are_no_long_fork() {
    let findings = fork(&[(1, 1), (2, 1)], &[(0, 0), (2, 1)]);
    assert_eq!((findings.pairs, findings.long_forks.count, findings.went_back), (1, 0, 1), "{findings:?}");
    let findings = fork(&[(0, 0), (2, 1)], &[(1, 1), (2, 1)]);
    assert_eq!((findings.long_forks.count, findings.went_back), (0, 0), "{findings:?}");
}

#[test]
fn snapshots_that_show_nothing_that_is_under_way_are_no_pair() {
    let one = read("a", &[(1, 1)], (20, 30));
    let findings = examine(&[write(0, 1, 0, 1, (5, 10)), one, read("b", &[(1, 1)], (25, 35))]);
    assert_eq!((findings.pairs, findings.went_back), (0, 0), "{findings:?}");
}

#[test]
fn one_node_that_contradicts_itself_is_a_fault() {
    let findings = examine(&[
        write(0, 1, 0, 1, (10, 50)),
        write(1, 2, 0, 1, (12, 52)),
        read("a", &[(1, 1), (0, 0)], (20, 30)),
        read("a", &[(0, 0), (2, 1)], (31, 40)),
    ]);
    assert_eq!((findings.contradictions.count, findings.long_forks.count), (1, 0), "{findings:?}");
}

#[test]
fn a_read_asked_for_after_an_acknowledgement_and_without_it_is_stale() {
    let stale = |call| examine(&[write(0, 1, 0, 1, (10, 20)), read("b", &[(0, 0)], (call, 40))]).stale.count;
    assert_eq!((stale(19), stale(20), stale(21)), (0, 0, 1));
}

#[test]
fn what_nobody_wrote_or_what_was_refused_can_not_be_read() {
    let refused = failed(0, 1, Outcome::Refused, (10, 20));
    let findings = examine(&[refused, read("b", &[(1, 1)], (30, 40))]);
    assert_eq!(findings.contradictions.count, 1, "{findings:?}");
    let unknown = failed(0, 1, Outcome::Unknown, (10, 20));
    let findings = examine(&[unknown, read("b", &[(1, 1)], (30, 40)), read("a", &[(0, 0)], (50, 60))]);
    assert!(sound(&findings) && findings.went_back == 1, "{findings:?}");
    assert_eq!(examine(&[read("b", &[(9, 1)], (30, 40))]).contradictions.count, 1);
}

#[test]
fn a_version_has_one_value_and_a_value_one_version() {
    let twice = [write(0, 1, 0, 1, (10, 20)), write(0, 2, 0, 1, (15, 25))];
    assert_eq!(examine(&twice).contradictions.count, 1);
    let moved = [write(0, 1, 0, 1, (10, 20)), read("a", &[(1, 2)], (15, 25))];
    assert_eq!(examine(&moved).contradictions.count, 1);
}

#[test]
fn a_write_that_was_shown_and_lost_before_it_was_acknowledged_leaves_its_version_to_another() {
    let lost = || {
        let unknown = failed(0, 2, Outcome::Unknown, (10, 20));
        vec![write(0, 1, 0, 1, (1, 5)), unknown, read("b", &[(2, 2), (0, 0)], (30, 40))]
    };
    let mut next = lost();
    next.extend([write(0, 3, 1, 2, (50, 60)), read("b", &[(3, 2), (0, 0)], (70, 80))]);
    let findings = examine(&next);
    assert!(sound(&findings), "{findings:?}");
    // From the acknowledgement on it must not be shown any more.
    next.push(read("b", &[(2, 2), (0, 0)], (90, 95)));
    let findings = examine(&next);
    assert_eq!((findings.stale.count, findings.contradictions.count), (1, 0), "{findings:?}");
    assert!(findings.stale.examples[0].ends_with("value 3 was acknowledged there before"), "{findings:?}");
    // One node may lose it while it gets something else.
    let mut other = lost();
    other.extend([write(1, 4, 0, 1, (50, 60)), read("b", &[(1, 1), (4, 1)], (55, 58))]);
    let findings = examine(&other);
    assert!(sound(&findings), "{findings:?}");
}

#[test]
fn a_write_of_unknown_outcome_that_an_acknowledged_one_replaced_is_there_to_stay() {
    let replaced = [
        failed(0, 1, Outcome::Unknown, (10, 20)),
        write(0, 2, 1, 2, (30, 40)),
        read("b", &[(1, 1)], (22, 24)),
        read("c", &[(9, 1)], (22, 24)),
        failed(0, 9, Outcome::Refused, (10, 20)),
    ];
    let findings = examine(&replaced[..3]);
    assert!(sound(&findings), "{findings:?}");
    // Two values of one version, and one that was refused.
    assert_eq!(examine(&replaced).contradictions.count, 2);
    // A value in doubt doesn't hide that two others have its version.
    let hidden = [
        write(0, 1, 0, 1, (10, 20)),
        failed(0, 2, Outcome::Unknown, (10, 20)),
        write(0, 3, 0, 1, (10, 20)),
        read("b", &[(2, 1)], (15, 18)),
    ];
    assert_eq!(examine(&hidden).contradictions.count, 1);
}

/// Register, whether the answer gets lost, and after how many other steps it is acknowledged.
type Step = (u32, bool, usize);

/// A write under way: the step that ends it, its call, register and value, what it replaced and its version, whether it is lost.
type UnderWay = (usize, Micros, u32, u64, (u64, u64), bool);

const REGISTERS: u32 = 3;

/// A pool as it should be: each write becomes visible on the nodes in its turn, and is acknowledged once all show it. Two
/// nodes that apply the same log, and a primary that shows writes in the order of their acknowledgements.
fn history(steps: &[Step]) -> Vec<Operation> {
    let (mut now, mut value) = (0, 0);
    let mut operations = Vec::new();
    let mut latest: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut shown: BTreeMap<&str, Vec<(u64, u64)>> =
        ["p", "s", "t"].map(|node| (node, vec![(0, 0); REGISTERS as usize])).into();
    let mut under_way: Vec<UnderWay> = Vec::new();
    for (number, (register, lost, delay)) in steps.iter().enumerate() {
        now += 10;
        if !under_way.iter().any(|write| write.2 == *register) {
            value += 1;
            let (replaced, version) = latest.get(register).copied().unwrap_or_default();
            latest.insert(*register, (value, version + 1));
            under_way.push((number + delay, now, *register, value, (replaced, version + 1), *lost));
            shown.get_mut("s").unwrap()[*register as usize] = (value, version + 1);
        }
        for (node, shown) in &shown {
            operations.push(read(node, shown, (now + 1, now + 2)));
        }
        let (over, rest) = under_way.into_iter().partition(|write| write.0 <= number);
        under_way = rest;
        for (_, call, register, value, (replaced, version), lost) in over {
            for node in ["t", "p"] {
                shown.get_mut(node).unwrap()[register as usize] = (value, version);
            }
            operations.push(if lost {
                failed(register, value, Outcome::Unknown, (call, now + 3))
            } else {
                write(register, value, replaced, version, (call, now + 3))
            });
        }
    }
    operations
}

proptest! {
    #[test]
    fn a_pool_as_it_should_be_has_no_fault(steps in prop::collection::vec((0..REGISTERS, prop::bool::weighted(0.2), 0..4_usize), 1..60)) {
        let operations = history(&steps);
        // Writes that were under way at the end stand nowhere.
        let done: Vec<u64> = operations.iter().filter_map(|operation| match &operation.act {
            Act::Write(write) => Some(write.value),
            Act::Read(_) => None,
        }).collect();
        let operations: Vec<Operation> = operations.into_iter().filter(|operation| match &operation.act {
            Act::Write(_) => true,
            Act::Read(read) => read.shown.iter().all(|(value, _)| *value == 0 || done.contains(value)),
        }).collect();
        let findings = examine(&operations);
        prop_assert!(sound(&findings), "{findings:?}");
        prop_assert!(findings.long_forks.count <= findings.pairs);
    }

    #[test]
    fn what_is_pruned_would_have_shown_no_long_fork(steps in prop::collection::vec((0..REGISTERS, Just(false), 0..6_usize), 1..40)) {
        let operations = history(&steps);
        let reads: Vec<&Snapshot> = operations.iter().filter_map(|operation| match &operation.act {
            Act::Read(read) => Some(read),
            Act::Write(_) => None,
        }).collect();
        let exceeds = |one: &Snapshot, other: &Snapshot| {
            one.shown.iter().zip(&other.shown).any(|((_, one), (_, other))| one > other)
        };
        let mut all = 0;
        for (at, one) in reads.iter().enumerate() {
            for other in &reads[at + 1..] {
                all += u64::from(one.node != other.node && exceeds(one, other) && exceeds(other, one));
            }
        }
        prop_assert_eq!(examine(&operations).long_forks.count, all);
    }
}
