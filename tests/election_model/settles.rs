//! Whatever has happened, once nothing fails any more the pool is whole again: from the end of a random walk with faults,
//! agents that do what they can, in any order, bring it back.
use super::*;
use crate::dice::Dice;
use crate::explore::pick;
use crate::state::{CAP, NODES, Node};
use crate::world::PATIENCE;

/// Steps of a walk at most.
const WALK: usize = 200;
/// Turns until the pool has to be whole: an election over a missing vote takes a few, and a copy for each node.
const TURNS: usize = 60;
/// In a turn everybody acts so often before time goes on.
const ACTS: usize = 5;
/// A primary that doesn't run is asked about after so many turns.
const GRACE: usize = 2;
/// What the last client commits.
const LAST: u8 = 7;

/// A pool on its way back.
struct Pool<'a> {
    world: World,
    state: State,
    dice: &'a mut Dice,
    taken: Vec<Step>,
    /// Turns since the primary that a node knows has run.
    quiet: [usize; NODES],
    /// Turns since an election was last over.
    electing: usize,
    /// A node that is never started again.
    dead: Option<usize>,
    /// A node that gives no session while it is a standby, and whether it is stopped to vote.
    unseen: Option<(usize, bool)>,
    /// How long voters wait at most, as a place in [`PATIENCE`].
    patience: usize,
}

impl Pool<'_> {
    /// Takes a step, if it is possible; every property holds after it.
    fn take(&mut self, step: Step) -> bool {
        let Some(next) = self.world.after(&self.state, step) else { return false };
        self.state = next;
        self.taken.push(step);
        for property in self.world.properties() {
            let held = (property.condition)(&self.world, &self.state);
            let matters = property.expectation.discovery_is_failure();
            assert!(held || !matters, "not {}: {:?}\n{:?}", property.name, self.taken, self.state);
        }
        true
    }

    /// A step that a node without faults would take now, in place of the one that may be taken.
    fn fair(&self, step: Step) -> Option<Step> {
        use Step::*;
        match step {
            Crash(_) | Die(_) | Wish(_) | Remake | HandOver(..) | Double(..) | Arrive(_, _, false) | Tick => {
                None
            }
            Start(i) if self.dead == Some(i) => None,
            Vote(i) | Run(i) if self.is_unseen(i) => self.unseen_step(step, i),
            Suspect(i) if self.quiet[i] < GRACE => None,
            Choose(i, ..) => {
                let lives = |n: &Node| n.up && n.vote.is_some();
                let voted = |k: &usize| *k == i || lives(&self.state.nodes[*k]);
                let heard = (0..self.world.nodes).filter(voted).fold(0, |mask, k| mask | 1 << k);
                let patience = [0, 2, 5, 9].iter().rposition(|turns| self.electing >= *turns)?;
                Some(Choose(i, heard, patience.min(self.patience)))
            }
            other => Some(other),
        }
    }

    /// Whether the node would be a voter, had it a session.
    fn is_unseen(&self, i: usize) -> bool {
        let n = &self.state.nodes[i];
        let voter = n.view.electing && usize::from(n.view.primary) != i && !n.primary;
        voter && self.unseen.is_some_and(|(unseen, _)| unseen == i)
    }

    /// It is stopped after a while, votes, and is started again when the election is over.
    fn unseen_step(&self, step: Step, i: usize) -> Option<Step> {
        let stops = self.unseen.is_some_and(|(_, stops)| stops) && self.electing >= 2;
        match (step, self.state.nodes[i].running) {
            (Step::Vote(_), true) => stops.then_some(Step::Die(i)),
            (Step::Run(_), false) if stops => None,
            _ => Some(step),
        }
    }

    /// Everybody does once what can be done, in any order.
    fn act(&mut self) {
        let mut steps = Vec::new();
        self.world.enabled(&self.state, &mut steps);
        while !steps.is_empty() {
            let step = steps.swap_remove(self.dice.below(steps.len()));
            let mut now = Vec::new();
            self.world.enabled(&self.state, &mut now);
            if let Some(step) = self.fair(step).filter(|_| now.contains(&step)) {
                self.take(step);
            }
        }
    }

    /// Whoever has to reads the record, then beats go out and are answered: nobody is silent that is well.
    fn beat(&mut self) {
        for i in 0..self.world.nodes {
            if self.state.nodes[i].up && self.state.nodes[i].must_read {
                self.take(Step::Read(i));
            }
        }
        for _ in 0..2 {
            let mut steps = Vec::new();
            self.world.enabled(&self.state, &mut steps);
            for step in steps.into_iter().filter(|step| matches!(step, Step::Exchange(..) | Step::Beat(..))) {
                self.take(step);
                if let Step::Beat(i, j) = step {
                    self.take(Step::Arrive(i, j, true));
                }
            }
        }
    }

    fn turn(&mut self) {
        for i in 0..self.world.nodes {
            let n = &self.state.nodes[i];
            let primary = &self.state.nodes[usize::from(n.view.primary)];
            let silent = !(primary.running && primary.primary);
            self.quiet[i] = if silent && !n.view.electing { self.quiet[i] + 1 } else { 0 };
        }
        self.electing = if self.state.api.electing { self.electing + 1 } else { 0 };
        for _ in 0..ACTS {
            self.beat();
            self.act();
        }
        self.state.left.ticks = 2;
        self.take(Step::Tick);
    }

    /// All nodes that live are attached with the data that they have, and the primary is open.
    fn is_whole(&self) -> bool {
        let (s, p) = (&self.state, usize::from(self.state.api.primary));
        let primary = &s.nodes[p];
        let open = primary.running && primary.primary && primary.open && primary.view == s.api;
        let living = (0..self.world.nodes).filter(|i| Some(*i) != self.dead);
        open && !s.api.electing && s.attached().eq(living)
    }

    /// Only the dead node counts: by design nobody takes its place, since nobody else has all that was acknowledged.
    fn is_lost(&self) -> bool {
        let counts = |i: usize| self.state.api.attached[i] != 0;
        self.dead.is_some_and(|dead| (0..self.world.nodes).all(|i| counts(i) == (i == dead)))
    }

    /// Brings it back; tells how many turns that took.
    fn settle(&mut self) -> Option<usize> {
        (0..TURNS).find(|_| {
            self.turn();
            self.is_whole()
        })
    }

    /// A client commits, and is told so.
    fn serves(&mut self) -> bool {
        self.state.left.commits = LAST;
        let committed = self.take(Step::Commit(usize::from(self.state.api.primary)));
        self.state.left.commits = 0;
        committed
            && (0..TURNS).any(|_| {
                self.turn();
                self.state.acknowledged & 1 << LAST != 0
            })
    }
}

/// The pool at the end of a walk with faults.
fn walked<'a>(world: &World, dice: &'a mut Dice) -> Pool<'a> {
    let mut pool = Pool {
        world: world.clone(),
        state: world.first(),
        dice,
        taken: Vec::new(),
        quiet: [0; NODES],
        electing: 0,
        dead: None,
        unseen: None,
        patience: PATIENCE.len() - 1,
    };
    let length = pool.dice.below(WALK);
    for _ in 0..length {
        let mut steps = Vec::new();
        pool.world.enabled(&pool.state, &mut steps);
        let Some(at) = pool.world.pick(pool.dice, &pool.state, &steps) else { break };
        pool.take(steps[at]);
    }
    pool.world.max_epoch = u8::MAX;
    pool.world.max_wal = u8::try_from(CAP).expect("a short WAL") - 1;
    pool.state.left = Budget { commits: 0, ..budget() };
    pool.state.wished = std::array::from_fn(|i| i < world.nodes);
    pool
}

/// What came of a walk.
#[derive(PartialEq, Eq)]
enum End {
    /// Whole again and serving, after so many turns.
    Whole(usize),
    /// Nobody is left who may serve.
    Lost,
    /// Not whole, or not serving.
    Stuck,
}

/// Brings the pool back, or as much of it as lives.
fn end(pool: &mut Pool) -> End {
    match pool.settle() {
        Some(turns) if pool.serves() => End::Whole(turns),
        None if pool.is_lost() => End::Lost,
        _ => End::Stuck,
    }
}

/// Walks with the seeds up to `walks`; `change` is made to the pool at the end of each. Whoever isn't lost settles.
fn settles(name: &str, world: &World, walks: u64, change: fn(&mut Pool)) {
    let (mut longest, mut lost) = (0, 0);
    for seed in 0..walks {
        let mut dice = Dice::new(seed);
        let told = std::panic::AssertUnwindSafe(|| {
            let mut pool = walked(world, &mut dice);
            change(&mut pool);
            let walk = pool.taken.len();
            let end = end(&mut pool);
            let (walk, turns) = pool.taken.split_at(walk);
            assert!(end != End::Stuck, "stuck after {walk:?}\nand {turns:?}\n{:?}", pool.state);
            end
        });
        match std::panic::catch_unwind(told) {
            Ok(End::Whole(turns)) => longest = longest.max(turns),
            Ok(_) => lost += 1,
            Err(cause) => {
                println!("{name}: seed {seed}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    assert!(lost * 2 < walks, "{name}: {lost} of {walks} pools are lost");
    println!("{name}: {walks} walks, whole again after {} turns at most, {lost} lost", longest + 1);
}

/// One of the nodes is never seen again.
fn kill(pool: &mut Pool) {
    let dead = pool.dice.below(pool.world.nodes);
    pool.state.left.crashes = 1;
    if pool.state.nodes[dead].up {
        pool.take(Step::Crash(dead));
    }
    (pool.dead, pool.state.left.crashes) = (Some(dead), 0);
}

/// Once the pool is whole the primary is never seen again, and another node was started again and gives no session.
fn kill_and_hide(pool: &mut Pool, stops: bool) {
    assert!(pool.settle().is_some(), "nothing had failed for good");
    let dead = usize::from(pool.state.api.primary);
    let unseen = (dead + 1 + pool.dice.below(pool.world.nodes - 1)) % pool.world.nodes;
    for node in [dead, unseen] {
        pool.state.left.crashes = 1;
        if pool.state.nodes[node].up {
            pool.take(Step::Crash(node));
        }
    }
    (pool.state.left.crashes, pool.state.left.deaths) = (0, u8::MAX);
    (pool.dead, pool.unseen) = (Some(dead), Some((unseen, stops)));
}

/// Faults of every kind, among so many nodes.
fn faults(nodes: usize, leases: bool, late: bool) -> World {
    // Without beats every change of the record looks like silence.
    let mut world = walks::anything(late, leases);
    (world.nodes, world.attached, world.leases) = (nodes, nodes, leases);
    (world.counts_steps, world.max_wal) = (false, 14);
    world
}

#[test]
fn two_nodes_settle() {
    settles("two nodes", &faults(2, false, false), pick(1000, 100_000), |_| {});
    settles("two nodes, leases", &faults(2, true, false), pick(1000, 100_000), |_| {});
}

#[test]
fn three_nodes_settle() {
    settles("three nodes", &faults(3, false, false), pick(1000, 100_000), |_| {});
    settles("three nodes, leases", &faults(3, true, false), pick(1000, 100_000), |_| {});
    settles("three nodes, leases, beats late", &faults(3, true, true), pick(500, 50_000), |_| {});
}

#[test]
fn those_that_are_left_settle() {
    settles("two nodes, leases, one lost", &faults(2, true, false), pick(500, 50_000), kill);
    settles("three nodes, leases, one lost", &faults(3, true, false), pick(500, 50_000), kill);
}

#[test]
fn a_standby_that_gives_no_session_takes_over() {
    let hide: fn(&mut Pool) = |pool| kill_and_hide(pool, true);
    settles("two nodes, leases, one lost, one unseen", &faults(2, true, false), pick(300, 30_000), hide);
    settles("three nodes, leases, one lost, one unseen", &faults(3, true, false), pick(300, 30_000), hide);
}

/// That it has to be stopped for that.
#[test]
fn a_standby_that_waits_for_a_session_gets_stuck() {
    let world = faults(2, true, false);
    let stuck = |seed: &u64| {
        let mut dice = Dice::new(*seed);
        let mut pool = walked(&world, &mut dice);
        kill_and_hide(&mut pool, false);
        end(&mut pool) == End::Stuck
    };
    assert!((0..200).any(|seed| stuck(&seed)), "its vote is never needed");
}

/// A voter that was started again before it read the choice would wait for whoever was chosen, and is lost for good.
#[test]
fn without_the_records_fork_a_voter_gets_stuck() {
    let mut world = faults(3, true, false);
    world.rules = world.rules.without(Rule::ForkByRecord);
    let stuck = |seed: &u64| {
        let mut dice = Dice::new(*seed);
        let mut pool = walked(&world, &mut dice);
        kill(&mut pool);
        end(&mut pool) == End::Stuck
    };
    let seed = (0..2000).find(stuck).expect("somebody waits for a history that nobody has");
    println!("without the record's fork: seed {seed} gets stuck");
}

/// That the test can fail: whoever never gives up a missing vote waits for the lost node's.
#[test]
fn voters_that_never_lose_patience_get_stuck() {
    let world = faults(3, true, false);
    let stuck = |seed: &u64| {
        let mut dice = Dice::new(*seed);
        let mut pool = walked(&world, &mut dice);
        kill(&mut pool);
        pool.patience = 0;
        end(&mut pool) == End::Stuck
    };
    assert!((0..200).any(|seed| stuck(&seed)), "patience is never needed");
}
