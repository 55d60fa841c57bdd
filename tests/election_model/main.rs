//! Elections, model-checked: the product's own deciders, driven through every order of events within
//! bounds (docs/membership.md, "What the model covers").
//!
//! Each rule that is switched off must be missed by the checker, and not in the same world with all rules on: that
//! shows that the model could find the loss or the stale read that the rule is there for. `PGPOOL_MODEL=full` widens
//! the bounds.
#[cfg(test)]
mod agents;
#[cfg(test)]
mod beats;
#[cfg(test)]
mod dice;
#[cfg(test)]
#[path = "../common/explore.rs"]
mod explore;
#[cfg(test)]
mod first;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod office;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod settles;
#[cfg(test)]
mod state;
#[cfg(test)]
mod views;
#[cfg(test)]
mod walks;
#[cfg(test)]
mod world;

use pgpool_operator::membership::rules::{Rule, Rules};
use stateright::{Model, Property};

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
            Property::always(KEPT, |_: &World, s: &State| {
                s.attached().all(|i| s.acknowledged & !s.nodes[i].wal.commits(s.nodes[i].wal.end()) == 0)
            }),
            Property::always(FRESH, |w: &World, s: &State| {
                (0..w.nodes)
                    .filter(|&i| s.readable(i))
                    .all(|i| s.acknowledged & !s.nodes[i].wal.commits(s.nodes[i].applied) == 0)
            }),
            Property::always(SHOWN, |_: &World, s: &State| {
                let (p, n) = (usize::from(s.api.primary), &s.nodes[usize::from(s.api.primary)]);
                let open = s.api.serving(p) && n.running && n.primary && n.open;
                let shown = n.wal.commits(n.office.start.unwrap_or(0));
                !open || s.attached().all(|i| shown & !s.nodes[i].wal.commits(s.nodes[i].wal.end()) == 0)
            }),
            Property::always(SEEN, |w: &World, s: &State| {
                let (p, n) = (usize::from(s.api.primary), &s.nodes[usize::from(s.api.primary)]);
                let open = s.api.serving(p) && n.running && n.primary && n.open;
                let shown = n.wal.commits(n.office.start.unwrap_or(0));
                let readers = || (0..w.nodes).filter(|&i| s.readable(i));
                !open || readers().all(|i| shown & !s.nodes[i].wal.commits(s.nodes[i].applied) == 0)
            }),
            Property::always(ONE, |_: &World, s: &State| {
                let one = |a: usize, b: usize| {
                    let (a, b) = (&s.nodes[a].wal, &s.nodes[b].wal);
                    a.is_prefix_of(b) || b.is_prefix_of(a)
                };
                s.attached().all(|a| s.attached().all(|b| one(a, b)))
            }),
            Property::always(COVERED, |w: &World, s: &State| {
                let (p, n) = (usize::from(s.api.primary), &s.nodes[usize::from(s.api.primary)]);
                let open = s.api.serving(p) && n.running && n.primary && n.open;
                let current = n.wal.timeline() == s.api.timeline;
                let covered = |k: usize| s.api.attached[k] == 0 || n.names[k].0 == s.api.attached[k];
                !(open && current) || w.others(p).all(covered)
            }),
            Property::always(LEGAL, |_: &World, s: &State| !s.illegal),
            Property::sometimes(SECOND, |_: &World, s: &State| {
                s.acknowledged & s.nodes[usize::from(s.api.primary)].wal.commits_after(1) != 0
            }),
            Property::sometimes(THIRD, |_: &World, s: &State| {
                s.acknowledged & s.nodes[usize::from(s.api.primary)].wal.commits_after(2) != 0
            }),
            Property::sometimes(AGAIN, |_: &World, s: &State| {
                s.api.primary != 0 && !s.api.electing && s.attached().any(|i| i == 0)
            }),
            Property::sometimes(OUTSIDE, |w: &World, s: &State| {
                (0..w.nodes).any(|i| s.readable(i) && s.api.attached[i] == 0)
            }),
            // It is the first change of the record, so no election has left the node out.
            Property::sometimes(REMOVED, |w: &World, s: &State| {
                let removed = |i: usize| s.wished[i] && s.api.attached[i] == 0;
                s.api.epoch == 2 && !s.api.electing && (0..w.attached).any(removed)
            }),
            Property::sometimes(NAMED, |w: &World, s: &State| {
                let last = w.nodes - 1;
                s.left.switches < w.left.switches && s.api.serving(last) && s.nodes[last].open
            }),
        ]
    }
}

/// Most states that a run with wide bounds generates; it says so when it stops there.
const FULL_STATES: usize = 96_000_000;

fn budget() -> Budget {
    Budget { commits: 1, crashes: 0, deaths: 0, ticks: 0, switches: 0, wishes: 0, remakes: 0 }
}

fn crash() -> Budget {
    Budget { crashes: 1, ..budget() }
}

fn world(nodes: usize, max_epoch: u8, left: Budget) -> World {
    World {
        rules: Rules::ALL,
        nodes,
        attached: nodes,
        leases: false,
        lease: 1,
        late: false,
        changes: false,
        removes: false,
        max_epoch,
        max_wal: 8,
        counts_steps: false,
        left,
        script: Vec::new(),
    }
}

/// With beats, leases and time.
fn leased(nodes: usize, max_epoch: u8, left: Budget) -> World {
    World { leases: true, ..world(nodes, max_epoch, left) }
}

/// Every property holds, in every state within the bounds.
fn holds(name: &str, world: World, situations: &[&str]) {
    let title = format!("{name} | {} | {}", world.nodes, world.max_epoch);
    explore::holds(&title, world, FULL_STATES, situations);
}

/// With the rules off, the property is broken; not so with only one of them off.
fn misses(rules: &[Rule], property: &'static str, world: World) {
    let but = |off: &[Rule]| {
        let rules = off.iter().fold(Rules::ALL, |all, rule| all.without(*rule));
        World { rules, ..world.clone() }
    };
    let without = but(rules);
    let parts = rules.iter().filter(|_| rules.len() > 1);
    let mut with: Vec<_> = parts.map(|rule| (format!("only {rule:?} off"), but(&[*rule]))).collect();
    with.push(("all rules".to_owned(), world));
    explore::misses(&format!("{rules:?}"), property, without, with);
}

const KEPT: &str = "every attached node has all that was acknowledged";
const FRESH: &str = "who may be read shows all that was acknowledged";
const SHOWN: &str = "what a new primary shows is on every attached node";
const SEEN: &str = "who may be read shows what a new primary shows";
const ONE: &str = "attached nodes have one history";
const COVERED: &str = "N covers the record at an open primary";
const LEGAL: &str = "only legal changes are proposed";

const SECOND: &str = "a second primary has acknowledged";
const THIRD: &str = "a commit has been acknowledged after two promotions";
const AGAIN: &str = "the old primary is attached again";
const NAMED: &str = "the named successor is open";
const REMOVED: &str = "a silent node was removed";
const OUTSIDE: &str = "a node outside the record may be read";

/// Node 1 takes office over itself and node 2.
fn first_election() -> Vec<Step> {
    use Step::*;
    let votes = [Suspect(1), Land(1), Read(1), Read(2), Vote(1), Vote(2)];
    votes.into_iter().chain([Choose(1, 0b110, 0), Land(1), Read(1), Promote(1)]).collect()
}

/// Node 1 takes office alone.
fn elected_alone() -> Vec<Step> {
    use Step::{Choose, Land, Promote, Read, Suspect, Vote};
    vec![Suspect(1), Land(1), Read(1), Vote(1), Choose(1, 0b10, 1), Land(1), Read(1), Promote(1)]
}

/// Node 2 may still answer under its lease when node 1 takes office, on the word of the primary.
fn removed_just_before() -> World {
    use Step::*;
    let mut world = leased(3, 4, Budget { deaths: 1, wishes: 1, ticks: 2, ..budget() });
    world.changes = true;
    world.script = vec![Wish(2), Agent(0), Land(0), Die(0), Read(0), Run(0), Land(0), Read(1), Vote(1)];
    world.script.extend([Choose(1, 0b10, 0), Land(1), Read(1), Promote(1)]);
    world
}

/// Node 0 may still answer under its own lease when node 2 takes office, on the word of node 1.
fn never_opened() -> World {
    use Step::*;
    let mut world = leased(3, 5, Budget { deaths: 1, ticks: 2, ..budget() });
    world.script = first_election();
    world.script.extend([Die(1), Read(1), Run(1), Land(1), Read(2), Vote(2), Choose(2, 0b100, 0)]);
    world.script.extend([Land(2), Read(2), Promote(2)]);
    world
}

/// The object may be made anew, and epochs used again, while the data is that of the pool before.
fn remade() -> World {
    use Step::*;
    let mut world = world(2, 4, Budget { crashes: 1, remakes: 1, ..budget() });
    world.script =
        vec![Crash(0), Suspect(1), Land(1), Read(1), Vote(1), Choose(1, 0b10, 0), Land(1), Read(1)];
    world.script.extend([Promote(1), Agent(1), Start(0)]);
    world
}
