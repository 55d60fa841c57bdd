//! Random walks where the states are too many: three nodes, leases of two ticks, elections over elections.
use stateright::{Checker, Chooser, Model};

use super::*;
use crate::dice::Dice;

/// Chooses the next step of a walk.
#[derive(Clone)]
struct Walker(World);

impl Chooser<World> for Walker {
    type State = Dice;

    fn new_state(&self, seed: u64) -> Dice {
        Dice::new(seed)
    }

    fn choose_initial_state(&self, _: &mut Dice, _: &[State]) -> usize {
        0
    }

    fn choose_action(&self, dice: &mut Dice, state: &State, steps: &[Step]) -> usize {
        self.0.pick(dice, state, steps).unwrap_or(0)
    }
}

/// Steps of a walk at most.
const LONGEST: usize = 250;

/// Walks until `states` have been seen; no property is broken on the way.
fn walks(name: &str, world: World, states: usize, situations: &[&str]) {
    let walker = Walker(world.clone());
    let checker = world
        .checker()
        .threads(explore::pick(1, 2))
        .target_state_count(states)
        .target_max_depth(LONGEST)
        .spawn_simulation(1, walker)
        .join();
    println!("{name}: random walks, {} states", explore::figure(checker.state_count()));
    explore::is_sound(name, &checker);
    explore::occur(name, &checker, situations);
}

/// Everything at once; nodes may be removed for their silence, too.
pub fn anything(late: bool, removes: bool) -> World {
    let left = Budget { commits: 4, crashes: 4, deaths: 2, ticks: 12, switches: 1, wishes: 2, remakes: 0 };
    let mut world = leased(3, 9, left);
    (world.lease, world.late, world.changes, world.removes) = (2, late, true, removes);
    (world.max_wal, world.counts_steps) = (16, true);
    world
}

#[test]
fn three_nodes_two_elections() {
    walks("three nodes", anything(false, false), explore::pick(200_000, 20_000_000), &[SECOND, AGAIN, THIRD]);
}

#[test]
fn three_nodes_with_late_beats() {
    walks(
        "three nodes, beats late",
        anything(true, true),
        explore::pick(200_000, 20_000_000),
        &[SECOND, AGAIN],
    );
}
