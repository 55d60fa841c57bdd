//! Elections, model-checked: the product's own deciders, driven through every order of events within
//! bounds (docs/membership.md, "What the model covers").
//!
//! Each rule that is switched off must be missed by the checker: that shows that the model could find
//! the loss or the stale read that the rule is there for. `PGPOOL_MODEL=full` widens the bounds.
#[cfg(test)]
mod agents;
#[cfg(test)]
mod beats;
#[cfg(test)]
#[path = "../common/explore.rs"]
mod explore;
#[cfg(test)]
mod first;
#[cfg(test)]
mod office;
#[cfg(test)]
mod state;
#[cfg(test)]
mod views;
#[cfg(test)]
mod world;

use pgpool_operator::membership::rules::{Rule, Rules};
use stateright::{Model, Property};

use explore::full;
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
            Property::always("every attached node has all that was acknowledged", |_: &World, s: &State| {
                s.attached().all(|i| s.acknowledged & !s.nodes[i].wal.commits(s.nodes[i].wal.end()) == 0)
            }),
            Property::always("who may be read shows all that was acknowledged", |w: &World, s: &State| {
                (0..w.nodes)
                    .filter(|&i| s.readable(i))
                    .all(|i| s.acknowledged & !s.nodes[i].wal.commits(s.nodes[i].applied) == 0)
            }),
            Property::always("what a new primary shows is on every attached node", |_: &World, s: &State| {
                let (p, n) = (usize::from(s.api.primary), &s.nodes[usize::from(s.api.primary)]);
                let open = s.api.serving(p) && n.running && n.primary && n.open;
                let shown = n.wal.commits(n.office.start.unwrap_or(0));
                !open || s.attached().all(|i| shown & !s.nodes[i].wal.commits(s.nodes[i].wal.end()) == 0)
            }),
            Property::always("attached nodes have one history", |_: &World, s: &State| {
                let one = |a: usize, b: usize| {
                    let (a, b) = (&s.nodes[a].wal, &s.nodes[b].wal);
                    a.is_prefix_of(b) || b.is_prefix_of(a)
                };
                s.attached().all(|a| s.attached().all(|b| one(a, b)))
            }),
            Property::always("N covers the record at an open primary", |w: &World, s: &State| {
                let (p, n) = (usize::from(s.api.primary), &s.nodes[usize::from(s.api.primary)]);
                let open = s.api.serving(p) && n.running && n.primary && n.open;
                let current = n.wal.timeline() == s.api.timeline;
                let covered = |k: usize| s.api.attached[k] == 0 || n.names[k].0 == s.api.attached[k];
                !(open && current) || w.others(p).all(covered)
            }),
            Property::always("only legal changes are proposed", |_: &World, s: &State| !s.illegal),
            Property::sometimes("a second primary has acknowledged", |_: &World, s: &State| {
                s.acknowledged & s.nodes[usize::from(s.api.primary)].wal.later_commits() != 0
            }),
            Property::sometimes("the old primary is attached again", |_: &World, s: &State| {
                s.api.primary != 0 && !s.api.electing && s.attached().any(|i| i == 0)
            }),
            Property::sometimes("the named successor is open", |w: &World, s: &State| {
                let last = w.nodes - 1;
                s.left.switches < w.left.switches && s.api.serving(last) && s.nodes[last].open
            }),
        ]
    }
}

/// Most states that a run with wide bounds generates; it says so when it stops there.
const FULL_STATES: usize = 24_000_000;

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
    explore::holds(name, world, FULL_STATES, situations);
}

/// With the rules off, something goes wrong.
fn misses(rules: &[Rule], mut world: World) {
    world.rules = rules.iter().fold(Rules::ALL, |all, rule| all.without(*rule));
    explore::misses(&format!("{rules:?}"), world);
}

const SECOND: &str = "a second primary has acknowledged";
const AGAIN: &str = "the old primary is attached again";
const NAMED: &str = "the named successor is open";

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

mod rules {
    use super::*;
    use Step::*;

    #[test]
    fn two_nodes() {
        let left = if full() { Budget { commits: 2, crashes: 2, deaths: 1, ..budget() } } else { crash() };
        let mut world = world(2, if full() { 6 } else { 4 }, left);
        world.changes = true;
        holds("two nodes", world, &[SECOND, AGAIN]);
    }

    #[test]
    fn three_nodes() {
        let mut world = world(3, if full() { 4 } else { 3 }, crash());
        world.changes = full();
        holds("three nodes", world, &[SECOND]);
    }

    /// With narrow bounds the chosen node has been promoted at first.
    #[test]
    fn two_elections() {
        let mut world = world(3, 5, budget());
        if !full() {
            world.script = first_election();
        }
        holds("two elections", world, &[SECOND]);
    }

    #[test]
    fn switchover() {
        let mut world = world(if full() { 3 } else { 2 }, 4, Budget { switches: 1, ..budget() });
        world.changes = true;
        holds("switchover", world, &[SECOND, AGAIN, NAMED]);
    }

    #[test]
    fn two_nodes_with_leases() {
        let ticks = if full() { 2 } else { 1 };
        holds("two nodes with leases", leased(2, 3, Budget { ticks, ..crash() }), &[SECOND]);
    }

    #[test]
    fn beats_that_are_late() {
        let mut world = leased(2, 3, Budget { ticks: 1, ..budget() });
        world.late = true;
        holds("beats that are late", world, &[SECOND]);
    }

    #[test]
    fn a_word_with_leases() {
        let left = Budget { crashes: u8::from(full()), deaths: 1, ..budget() };
        holds("a word, with leases", leased(2, 3, left), &[SECOND]);
    }

    /// With narrow bounds node 1 has been elected alone at first.
    #[test]
    fn three_nodes_with_leases() {
        let mut world = leased(3, 3, Budget { ticks: if full() { 1 } else { 2 }, ..budget() });
        if !full() {
            world.script = elected_alone();
        }
        holds("three nodes with leases", world, &[SECOND]);
    }

    #[test]
    fn growing_and_an_election_with_leases() {
        let mut world = leased(2, 4, Budget { ticks: 1, ..budget() });
        (world.attached, world.changes) = (1, true);
        if full() {
            (world.lease, world.left.ticks) = (2, 3);
        }
        holds("growing and an election, with leases", world, &[SECOND]);
    }

    /// The primary removes a node that is silent to it, while that one asks for an election.
    #[test]
    fn removal_for_silence_and_an_election() {
        let mut world = leased(if full() { 3 } else { 2 }, 4, Budget { ticks: 1, ..budget() });
        world.removes = true;
        holds("removal for silence and an election", world, &[SECOND]);
    }

    /// Node 2 may still answer under its lease when node 1 takes office, on the word of the primary.
    #[test]
    fn a_node_was_removed_just_before() {
        let mut world = leased(3, 4, Budget { deaths: 1, wishes: 1, ..budget() });
        world.changes = true;
        world.script = vec![Wish(2), Agent(0), Land(0), Die(0), Read(0), Run(0), Land(0), Read(1), Vote(1)];
        world.script.extend([Choose(1, 0b10, 0), Land(1), Read(1), Promote(1)]);
        holds("a node was removed just before", world, &[]);
    }

    /// Node 0 may still answer under its own lease when node 2 takes office, on the word of node 1.
    #[test]
    fn an_office_never_opened() {
        let mut world = leased(3, 5, Budget { deaths: 1, ..budget() });
        world.script = first_election();
        world.script.extend([Die(1), Read(1), Run(1), Land(1), Read(2), Vote(2), Choose(2, 0b100, 0)]);
        world.script.extend([Land(2), Read(2), Promote(2)]);
        holds("an office never opened", world, &[]);
    }
}

mod mutations {
    use super::*;
    use Step::*;

    #[test]
    fn a_vote_of_another_election() {
        misses(&[Rule::VoteOfThisEpoch], world(3, 5, budget()));
    }

    #[test]
    fn the_position_of_a_primary_that_runs() {
        misses(&[Rule::IncumbentFirst], world(2, 3, budget()));
    }

    #[test]
    fn anyone_is_chosen_with_anyone() {
        misses(&[Rule::ChooseFurthest, Rule::AttachNotAhead], world(3, 3, budget()));
    }

    #[test]
    fn a_voter_that_goes_on_receiving() {
        misses(&[Rule::VoteFenced], world(3, 3, budget()));
    }

    #[test]
    fn no_wait_for_the_old_primary() {
        misses(&[Rule::OfficeWaitsForPrimary], leased(2, 3, budget()));
    }

    #[test]
    fn no_wait_for_standbys_outside() {
        let mut world = leased(3, 3, Budget { ticks: 2, ..budget() });
        (world.lease, world.script) = (2, elected_alone());
        misses(&[Rule::OfficeWaitsForStandbys], world);
    }

    #[test]
    fn a_restart_forgets_the_wait() {
        misses(&[Rule::OfficeWaitSurvives], leased(2, 3, Budget { crashes: 1, ..budget() }));
    }

    /// Node 0 was alone and needed nobody for its own lease; node 1 has not answered for a while.
    #[test]
    fn to_be_attached_is_no_answer() {
        let mut world = leased(2, 4, Budget { ticks: 2, ..budget() });
        (world.attached, world.changes, world.lease) = (1, true, 2);
        world.script =
            vec![Tick, Agent(0), Agent(0), Agent(0), Stream(1), Agent(0), Agent(0), Land(0), Read(1)];
        misses(&[Rule::AttachedIsAnswer], world);
    }

    #[test]
    fn no_own_lease() {
        misses(&[Rule::OwnLease], leased(2, 3, Budget { ticks: 1, ..budget() }));
    }

    #[test]
    fn own_lease_without_names() {
        let mut world = leased(2, 4, Budget { ticks: 1, ..budget() });
        (world.attached, world.changes) = (1, true);
        misses(&[Rule::OwnLeaseNeedsNames], world);
    }

    #[test]
    fn leases_without_the_own_lease() {
        let mut world = leased(3, 3, Budget { ticks: 2, ..budget() });
        world.script = elected_alone();
        misses(&[Rule::GrantUnderOwnLease], world);
    }

    #[test]
    fn an_answer_of_another_epoch() {
        misses(&[Rule::AnswerOfThisEpoch], leased(2, 3, Budget { ticks: 1, ..budget() }));
    }

    #[test]
    fn a_word_that_does_not_bind() {
        misses(&[Rule::WordBinds], leased(2, 3, Budget { crashes: 1, deaths: 1, ..budget() }));
    }

    #[test]
    fn a_word_that_a_restart_forgets() {
        misses(&[Rule::WordSurvives], leased(2, 3, Budget { crashes: 1, deaths: 1, ..budget() }));
    }

    /// Node 1 has made its choice, but node 0 was in office after all, and its choice came first.
    #[test]
    fn an_old_decision_over_a_new_record() {
        let mut world = world(3, 5, budget());
        world.script = vec![Commit(0), Suspect(1), Land(1), Read(1), Read(2), Vote(1), Vote(2)];
        world.script.extend([Choose(1, 0b110, 0), Read(0), Vote(0), Choose(0, 0b111, 0), Land(0), Read(2)]);
        misses(&[Rule::CompareAndSwap], world);
    }

    /// Node 0 has what node 1 wrote on timeline 2, then node 2 begins another timeline 2.
    #[test]
    fn a_timeline_twice() {
        let mut world = world(3, 6, budget());
        world.changes = true;
        world.script = first_election();
        world.script.extend([Agent(1), Read(0), Run(0), Stream(0), Stream(0), Read(2), Suspect(2), Land(2)]);
        world.script.extend([Read(2), Vote(2), Choose(2, 0b100, 0), Land(2), Read(2), Promote(2), Agent(2)]);
        misses(&[Rule::TimelineReserved, Rule::TablesCompared], world);
    }

    /// The object is made anew, and epochs are used again, while the data is that of the pool before.
    #[test]
    fn an_epoch_used_again() {
        let mut world = world(2, 4, Budget { crashes: 1, remakes: 1, ..budget() });
        world.script =
            vec![Crash(0), Suspect(1), Land(1), Read(1), Vote(1), Choose(1, 0b10, 0), Land(1), Read(1)];
        world.script.extend([Promote(1), Agent(1), Start(0)]);
        holds("an epoch used again", world.clone(), &[SECOND]);
        misses(&[Rule::SamePool], world);
    }

    #[test]
    fn an_old_primary_follows_unproved() {
        let mut world = world(2, 4, Budget { crashes: 1, ..budget() });
        world.changes = true;
        misses(&[Rule::JoinProved, Rule::TablesCompared], world);
    }
}
