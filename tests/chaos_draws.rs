//! What `cargo xtask chaos` draws: the same again from the same seed, every kind, and never what would make the
//! judgement at the end say nothing.

#[path = "cluster/chaos/draw.rs"]
mod draw;

use std::collections::{BTreeMap, BTreeSet};

use draw::{
    APART, Change, Fault, Harm, Kind, LASTS, Loss, Pod, Process, Role, Round, Service, Thing, rounds,
};
use proptest::prelude::*;

/// As many as `cargo xtask chaos --faults 500` makes.
const MANY: usize = 500;

fn faults(rounds: &[Round]) -> impl Iterator<Item = &Fault> {
    rounds.iter().flat_map(|round| &round.faults)
}

fn kinds(rounds: &[Round]) -> BTreeMap<Kind, usize> {
    let mut counted = BTreeMap::new();
    for fault in faults(rounds) {
        *counted.entry(fault.kind).or_default() += 1;
    }
    counted
}

/// Kinds of which one hits the whole of a node for a while, or its data.
fn node_is_away(kind: Kind) -> bool {
    let text = kind.to_string();
    let away =
        ["node frozen", "Postgres frozen", "volume", "a node less", "parted", "machine killed", "cut off"];
    away.iter().any(|words| text.contains(words)) || text.ends_with("mute") || text.ends_with("deaf")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_seed_gives_the_same_list_again_and_more_faults_only_go_on(seed: u64, few in 1..MANY) {
        let all = rounds(seed, MANY);
        prop_assert_eq!(&all, &rounds(seed, MANY));
        let some = rounds(seed, few);
        // Only the last round may be cut short.
        let whole = some.len() - 1;
        prop_assert_eq!(&all[..whole], &some[..whole]);
        prop_assert!(some[whole].faults.iter().all(|fault| all[whole].faults.contains(fault)));
        prop_assert_ne!(rounds(seed.wrapping_add(1), MANY), all);
    }

    #[test]
    fn there_are_as_many_faults_as_were_asked_for_in_rounds_of_one_or_two(seed: u64, count in 1..MANY) {
        let drawn = rounds(seed, count);
        prop_assert_eq!(faults(&drawn).count(), count);
        prop_assert!(drawn.iter().all(|round| matches!(round.faults.len(), 1 | 2)));
        prop_assert!(drawn.iter().all(|round| round.apart.as_millis() <= u128::from(APART)));
    }

    #[test]
    fn every_kind_comes_soon_and_all_about_equally_often(seed: u64) {
        let soon = kinds(&rounds(seed, 2 * Kind::ALL.len()));
        prop_assert_eq!(soon.len(), Kind::ALL.len(), "{:?}", soon);
        let all = kinds(&rounds(seed, MANY));
        let (least, most) = (all.values().min().unwrap(), all.values().max().unwrap());
        prop_assert!(*least >= 13 && *most <= 18, "{:?}", all);
    }

    #[test]
    fn a_third_of_the_rounds_is_of_two_and_every_role_is_hit(seed: u64) {
        let drawn = rounds(seed, MANY);
        let pairs = drawn.iter().filter(|round| round.faults.len() == 2).count();
        prop_assert!((20..=47).contains(&(pairs * 100 / drawn.len())), "{} of {}", pairs, drawn.len());
        let hit: BTreeSet<Role> = faults(&drawn).flat_map(|fault| fault.roles.clone()).collect();
        prop_assert_eq!(hit.len(), 3);
    }

    #[test]
    fn faults_that_are_undone_last_for_a_bounded_time(seed: u64) {
        for fault in faults(&rounds(seed, MANY)) {
            let millis = fault.lasts.as_millis();
            let bounds = u128::from(LASTS.0)..=u128::from(LASTS.1);
            prop_assert!(if fault.kind.is_undone() { bounds.contains(&millis) } else { millis == 0 }, "{}", fault);
        }
    }

    #[test]
    fn a_full_volume_is_that_of_the_node_it_says(seed: u64) {
        for fault in faults(&rounds(seed, MANY)) {
            let first = fault.roles.first();
            let right = match fault.kind {
                Kind::Volume(Loss::PrimaryFull) => first == Some(&Role::Primary),
                Kind::Volume(Loss::StandbyFull) | Kind::Changed(Change::Switchover) => {
                    first.is_some_and(|role| *role != Role::Primary)
                }
                Kind::Machine(Harm::Parted) => fault.roles.len() == 2 && fault.roles[0] != fault.roles[1],
                Kind::Machine(_) | Kind::Volume(Loss::Lost) => fault.roles.len() == 1,
                _ => true,
            };
            prop_assert!(right, "{}", fault);
        }
    }

    #[test]
    fn a_primary_is_left_alone_by_what_happens_to_others(seed: u64) {
        for fault in faults(&rounds(seed, MANY)) {
            let own = fault.to_string().contains("(primary") || fault.to_string().contains(", primary");
            let handed_over = fault.kind == Kind::Changed(Change::Switchover);
            prop_assert_eq!(fault.hits_primary(), own || handed_over, "{}", fault);
        }
    }

    #[test]
    fn two_at_once_stay_apart(seed: u64) {
        for round in rounds(seed, MANY) {
            let [one, two] = &round.faults[..] else { continue };
            prop_assert_ne!(one.kind, two.kind, "{}", round);
            let both = [one.things(), two.things()].concat();
            let different: BTreeSet<&Thing> = both.iter().collect();
            prop_assert_eq!(different.len(), both.len(), "{}", &round);
        }
    }

    #[test]
    fn the_data_of_one_node_at_most_is_lost_and_both_others_keep_theirs(seed: u64) {
        for round in rounds(seed, MANY) {
            let lost = round.faults.iter().filter(|fault| fault.kind == Kind::Volume(Loss::Lost)).count();
            let away = round.faults.iter().filter(|fault| node_is_away(fault.kind)).count();
            prop_assert!(lost == 0 || (lost == 1 && away == 1), "{}", round);
            // Before anything else happens.
            prop_assert!(lost == 0 || round.faults[0].kind == Kind::Volume(Loss::Lost), "{}", round);
        }
    }

    #[test]
    fn nothing_is_asked_of_an_api_server_that_is_away(seed: u64) {
        for round in rounds(seed, MANY) {
            let stopped = round.faults.iter().any(|fault| {
                [Service::ApiServer, Service::Etcd].into_iter().any(|s| fault.kind == Kind::Stopped(s))
            });
            let asked = round.faults.iter().any(|fault| fault.kind.needs_api());
            prop_assert!(!(stopped && asked), "{}", round);
        }
    }

    #[test]
    fn a_pod_in_which_a_volume_is_filled_stays(seed: u64) {
        for round in rounds(seed, MANY) {
            let full = |fault: &Fault| fault.kind.to_string().ends_with("full");
            let moved = |fault: &Fault| {
                [Change::Scale, Change::Restart].into_iter().any(|change| fault.kind == Kind::Changed(change))
            };
            prop_assert!(!(round.faults.iter().any(full) && round.faults.iter().any(moved)), "{}", round);
        }
    }
}

/// Each kind leads to the next one. A kind that is added to an enum doesn't compile without a place here; without one in
/// `Kind::ALL` it would never be drawn.
fn next(kind: Kind) -> Option<Kind> {
    Some(match kind {
        Kind::Killed(Process::Postgres) => Kind::Killed(Process::Agent),
        Kind::Killed(Process::Agent) => Kind::Killed(Process::Front),
        Kind::Killed(Process::Front) => Kind::Killed(Process::Operator),
        Kind::Killed(Process::Operator) => Kind::Frozen(Process::Postgres),
        Kind::Frozen(Process::Postgres) => Kind::Frozen(Process::Agent),
        Kind::Frozen(Process::Agent) => Kind::Frozen(Process::Front),
        Kind::Frozen(Process::Front) => Kind::Frozen(Process::Operator),
        Kind::Frozen(Process::Operator) => Kind::Deleted(Pod::Node),
        Kind::Deleted(Pod::Node) => Kind::Deleted(Pod::Front),
        Kind::Deleted(Pod::Front) => Kind::Deleted(Pod::Operator),
        Kind::Deleted(Pod::Operator) => Kind::Forced(Pod::Node),
        Kind::Forced(Pod::Node) => Kind::Forced(Pod::Front),
        Kind::Forced(Pod::Front) => Kind::Forced(Pod::Operator),
        Kind::Forced(Pod::Operator) => Kind::Machine(Harm::Killed),
        Kind::Machine(Harm::Killed) => Kind::Machine(Harm::Cut),
        Kind::Machine(Harm::Cut) => Kind::Machine(Harm::Mute),
        Kind::Machine(Harm::Mute) => Kind::Machine(Harm::Deaf),
        Kind::Machine(Harm::Deaf) => Kind::Machine(Harm::Parted),
        Kind::Machine(Harm::Parted) => Kind::Machine(Harm::WithoutApi),
        Kind::Machine(Harm::WithoutApi) => Kind::Machine(Harm::Delayed),
        Kind::Machine(Harm::Delayed) => Kind::Machine(Harm::Lossy),
        Kind::Machine(Harm::Lossy) => Kind::Machine(Harm::KubeletKilled),
        Kind::Machine(Harm::KubeletKilled) => Kind::Machine(Harm::ContainerdKilled),
        Kind::Machine(Harm::ContainerdKilled) => Kind::Stopped(Service::ApiServer),
        Kind::Stopped(Service::ApiServer) => Kind::Stopped(Service::Etcd),
        Kind::Stopped(Service::Etcd) => Kind::Volume(Loss::Lost),
        Kind::Volume(Loss::Lost) => Kind::Volume(Loss::StandbyFull),
        Kind::Volume(Loss::StandbyFull) => Kind::Volume(Loss::PrimaryFull),
        Kind::Volume(Loss::PrimaryFull) => Kind::Changed(Change::Scale),
        Kind::Changed(Change::Scale) => Kind::Changed(Change::Switchover),
        Kind::Changed(Change::Switchover) => Kind::Changed(Change::Restart),
        Kind::Changed(Change::Restart) => return None,
    })
}

#[test]
fn no_kind_is_missing_among_all() {
    let all: Vec<Kind> =
        std::iter::successors(Some(Kind::Killed(Process::Postgres)), |kind| next(*kind)).collect();
    assert_eq!(all, Kind::ALL);
}

#[test]
fn what_takes_away_the_pods_of_others_is_known() {
    let taking: Vec<String> =
        Kind::ALL.iter().filter(|kind| kind.takes_pods()).map(Kind::to_string).collect();
    assert_eq!(taking, ["machine killed", "a node less and one more", "rolling restart"]);
}

/// Whoever reads a log, or a list of names, must be able to tell them apart.
#[test]
fn no_two_kinds_have_one_name() {
    let names: BTreeSet<String> = Kind::ALL.iter().map(Kind::to_string).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    assert_eq!(Kind::ALL.iter().collect::<BTreeSet<_>>().len(), Kind::ALL.len());
}
