//! The membership protocol, model-checked: the product's own deciders, driven through every order of
//! events within bounds (docs/membership.md, "What the model covers").
//!
//! Each rule that is switched off must be missed by the checker, and not in the same world with all rules on: that
//! shows that the model could find the loss or the stale read that the rule is there for. `PGPOOL_MODEL=full` widens
//! the bounds.
#[cfg(test)]
mod agents;
#[cfg(test)]
#[path = "../common/explore.rs"]
mod explore;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod first;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod state;
#[cfg(test)]
mod views;
#[cfg(test)]
mod world;

use pgpool_operator::membership::rules::{Rule, Rules};
use stateright::{Model, Property};

use explore::{full, pick};
use state::{Budget, State};
use world::{Step, World};

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.enabled(state, actions);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        self.after(last, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KEPT, |w: &World, s: &State| {
                attached(w, s).all(|k| s.acknowledged & !s.primary.commits(s.standbys[k].received) == 0)
            }),
            Property::always(FRESH, |w: &World, s: &State| {
                w.others()
                    .filter(|&k| s.standbys[k].readable())
                    .all(|k| s.acknowledged & !s.primary.commits(s.standbys[k].applied) == 0)
            }),
            Property::always(SHOWN, |w: &World, s: &State| {
                let shown = s.primary.commits(s.primary.shown);
                !s.primary.open
                    || attached(w, s).all(|k| shown & !s.primary.commits(s.standbys[k].received) == 0)
            }),
            Property::always(SEEN, |w: &World, s: &State| {
                let shown = s.primary.commits(s.primary.shown);
                let readers = || w.others().filter(|&k| s.standbys[k].readable());
                !s.primary.open || readers().all(|k| shown & !s.primary.commits(s.standbys[k].applied) == 0)
            }),
            Property::always(COVERED, |w: &World, s: &State| {
                let covered = |k: usize| s.api.attached[k] == 0 || s.primary.holds(k, s.api.attached[k]);
                !s.primary.open || w.others().all(covered)
            }),
            Property::always(LEGAL, |_: &World, s: &State| !s.illegal),
            Property::sometimes(ALL, |w: &World, s: &State| {
                s.acknowledged != 0 && w.others().all(|k| s.api.attached[k] != 0)
            }),
            Property::sometimes(REMOVED, |w: &World, s: &State| {
                s.api.epoch > 1 && w.others().any(|k| s.api.attached[k] == 0 && !s.primary.holds(k, 1))
            }),
        ]
    }
}

/// Attached nodes that still have the copy of the data that the record counts; with the incarnation
/// ignored, also those that run with another.
fn attached<'a>(world: &'a World, state: &'a State) -> impl Iterator<Item = usize> + 'a {
    let known = world.rules.has(Rule::Incarnation);
    world.others().filter(move |&k| {
        let copy = state.api.attached[k];
        copy != 0 && (copy == state.standbys[k].copy || (!known && state.standbys[k].running))
    })
}

/// Most states that a run with wide bounds generates; it says so when it stops there.
const FULL_STATES: usize = 12_000_000;

/// More of everything.
fn wide(mut world: World) -> World {
    let left = &mut world.left;
    left.commits += 1;
    left.wishes += u8::from(left.wishes > 0);
    left.standby_crashes += u8::from(left.standby_crashes > 0);
    left.primary_crashes += u8::from(left.primary_crashes > 0);
    left.ticks += if left.ticks > 0 { 2 } else { 0 };
    world.late = world.leases;
    world.max_epoch += 1;
    world.max_wal += 2;
    world
}

fn budget() -> Budget {
    Budget { commits: 1, primary_crashes: 0, standby_crashes: 0, losses: 0, wishes: 0, ticks: 0 }
}

fn world(nodes: usize, attached: usize, leases: bool, left: Budget) -> World {
    World { rules: Rules::ALL, nodes, attached, leases, late: false, max_epoch: 3, max_wal: 4, left }
}

/// Every property holds, in every state within the bounds.
fn holds(name: &str, world: World, situations: &[&str]) {
    let title = format!("{}{name} | {}, {}", pick("", "full: "), world.nodes, world.attached);
    explore::holds(&title, if full() { wide(world) } else { world }, FULL_STATES, situations);
}

/// With the rule off, the property is broken.
fn misses(rule: Rule, property: &'static str, world: World) {
    let without = World { rules: Rules::ALL.without(rule), ..world.clone() };
    explore::misses(&format!("{rule:?}"), property, without, vec![("all rules".to_owned(), world)]);
}

const KEPT: &str = "every attached node has all that was acknowledged";
const FRESH: &str = "who may be read shows all that was acknowledged";
const SHOWN: &str = "what a restarted primary shows is on every attached node";
const SEEN: &str = "who may be read shows what a restarted primary shows";
const COVERED: &str = "N covers the record at an open primary";
const LEGAL: &str = "only legal changes are proposed";

const ALL: &str = "all are attached and a commit was acknowledged";
const REMOVED: &str = "a node was removed and its name dropped";

mod rules {
    use super::*;

    #[test]
    fn from_none_to_one() {
        let left = Budget { commits: 1, wishes: 1, standby_crashes: 1, ..budget() };
        holds("from none to one", world(2, 1, false, left), &[ALL, REMOVED]);
    }

    #[test]
    fn from_one_to_two() {
        let left = Budget { commits: 1, wishes: 1, ..budget() };
        holds("from one to two", world(3, 2, false, left), &[ALL]);
    }

    #[test]
    fn leases() {
        let left = Budget { wishes: 1, ticks: 3, ..budget() };
        holds("leases", world(2, 2, true, left), &[ALL, REMOVED]);
    }

    #[test]
    fn leases_late_and_doubled() {
        let left = Budget { wishes: 1, ticks: 2, ..budget() };
        let mut world = world(2, 2, true, left);
        (world.late, world.max_epoch) = (true, 2);
        holds("leases, beats late and doubled", world, &[ALL, REMOVED]);
    }

    #[test]
    fn leases_and_a_crash() {
        let left = Budget { standby_crashes: 1, ticks: 3, ..budget() };
        let mut world = world(2, 2, true, left);
        (world.max_epoch, world.max_wal) = (2, 2);
        holds("leases, a standby crashes", world, &[ALL, REMOVED]);
    }

    #[test]
    fn the_primary_restarts() {
        let left = Budget { primary_crashes: 1, ticks: 3, ..budget() };
        let mut world = world(2, 2, true, left);
        (world.max_epoch, world.max_wal) = (2, 3);
        holds("leases, the primary crashes", world, &[ALL, REMOVED]);
    }

    #[test]
    fn a_volume_is_lost() {
        let left = Budget { standby_crashes: 1, losses: 1, ..budget() };
        holds("a volume is lost", world(2, 2, false, left), &[ALL]);
    }
}

mod mutations {
    use super::*;

    #[test]
    fn names_before_the_record_when_shrinking() {
        misses(Rule::ShrinkRecordFirst, KEPT, world(2, 2, false, Budget { wishes: 1, ..budget() }));
    }

    #[test]
    fn record_before_the_names_when_growing() {
        misses(Rule::GrowNamesFirst, KEPT, world(2, 1, false, budget()));
    }

    #[test]
    fn no_wait_for_priorities() {
        misses(Rule::GrowPriorities, KEPT, world(3, 2, false, budget()));
    }

    #[test]
    fn no_gate() {
        misses(Rule::GrowGate, KEPT, world(2, 1, false, budget()));
    }

    #[test]
    fn no_nonce() {
        misses(Rule::GrowNonce, KEPT, world(2, 1, false, budget()));
    }

    #[test]
    fn a_name_dropped_after_a_read_only() {
        misses(Rule::NameNeedsOwnWrite, KEPT, world(2, 1, false, Budget { wishes: 1, ..budget() }));
    }

    #[test]
    fn no_lease_wait() {
        misses(Rule::LeaseWait, FRESH, world(2, 2, true, Budget { wishes: 1, ..budget() }));
    }

    #[test]
    fn lease_counted_from_receipt() {
        misses(Rule::LeaseFromStamp, FRESH, world(2, 2, true, Budget { wishes: 1, ticks: 3, ..budget() }));
    }

    #[test]
    fn lease_without_catching_up() {
        misses(Rule::LeaseCaughtUp, FRESH, world(2, 2, true, Budget { standby_crashes: 1, ..budget() }));
    }

    #[test]
    fn gate_open_at_restart() {
        misses(Rule::LeaseOfThisBoot, FRESH, world(2, 2, true, Budget { standby_crashes: 1, ..budget() }));
    }

    #[test]
    fn opening_without_waiting() {
        misses(Rule::OpenCaughtUp, SHOWN, world(2, 2, false, Budget { primary_crashes: 1, ..budget() }));
    }

    #[test]
    fn opening_beside_a_lease() {
        let left = Budget { wishes: 1, primary_crashes: 1, ..budget() };
        misses(Rule::OpenLeaseWait, SEEN, world(2, 2, true, left));
    }

    #[test]
    fn a_restart_forgets_the_leases() {
        misses(
            Rule::RestartCountsLeases,
            FRESH,
            world(2, 2, true, Budget { wishes: 1, primary_crashes: 1, ..budget() }),
        );
    }

    #[test]
    fn incarnation_ignored() {
        misses(
            Rule::Incarnation,
            KEPT,
            world(2, 2, false, Budget { standby_crashes: 1, losses: 1, ..budget() }),
        );
    }
}
