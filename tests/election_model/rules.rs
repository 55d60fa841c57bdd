//! Worlds in which every property holds.
use super::*;
use crate::explore::{full, pick};
use Step::*;

#[test]
fn two_nodes() {
    let name =
        pick("a crash, the old primary comes back", "full: two crashes, Postgres ends, growing, two commits");
    let left = pick(crash(), Budget { commits: 2, crashes: 2, deaths: 1, ..budget() });
    let mut world = world(2, pick(4, 6), left);
    world.changes = true;
    holds(name, world, &[SECOND, AGAIN]);
}

#[test]
fn three_nodes() {
    let mut world = world(3, pick(3, 4), crash());
    world.changes = full();
    holds(pick("a crash", "full: a crash, growing"), world, &[SECOND]);
}

#[test]
fn two_elections() {
    let name = pick("a second election, from the first promotion on", "full: two elections");
    let mut world = world(3, 5, budget());
    world.script = pick(first_election(), Vec::new());
    holds(name, world, &[SECOND]);
}

#[test]
fn switchover() {
    let mut world = world(pick(2, 3), 4, Budget { switches: 1, ..budget() });
    world.changes = true;
    holds(pick("switchover", "full: switchover"), world, &[SECOND, AGAIN, NAMED]);
}

#[test]
fn switchover_with_leases() {
    let name = pick("leases, switchover, a tick", "full: leases, switchover, growing, two ticks");
    let mut world = leased(2, pick(3, 4), Budget { switches: 1, ticks: pick(1, 2), ..budget() });
    world.changes = full();
    holds(name, world, &[SECOND, NAMED]);
}

/// Node 1 may still answer under its lease when node 2 takes office without it, on the word of the primary.
#[test]
fn three_nodes_hand_over_with_leases() {
    let name = pick(
        "leases, switchover, one node left out, from the promotion on, two ticks",
        "full: leases, switchover, from the word on, a tick",
    );
    let mut world = leased(3, 3, Budget { switches: 1, ticks: pick(2, 1), ..budget() });
    world.script = vec![HandOver(0, 2), Land(0)];
    if !full() {
        world.script.extend([Read(2), Vote(2), Choose(2, 0b100, 1), Land(2), Read(2), Promote(2)]);
    }
    holds(name, world, &[SECOND, NAMED, OUTSIDE]);
}

#[test]
fn two_nodes_with_leases() {
    let name = pick("leases, a crash, a tick", "full: leases, a crash, two ticks");
    holds(name, leased(2, 3, Budget { ticks: pick(1, 2), ..crash() }), &[SECOND]);
}

#[test]
fn beats_that_are_late() {
    let mut world = leased(2, 3, Budget { ticks: 1, ..budget() });
    world.late = true;
    holds("leases, beats late, lost and doubled, a tick", world, &[SECOND]);
}

#[test]
fn a_word_with_leases() {
    let name = pick("leases, Postgres ends, the word", "full: leases, a crash, Postgres ends, the word");
    let left = Budget { crashes: pick(0, 1), deaths: 1, ..budget() };
    holds(name, leased(2, 3, left), &[SECOND]);
}

#[test]
fn three_nodes_with_leases() {
    let name =
        pick("leases, from the choice of one node alone, two ticks", "full: leases, one election, a tick");
    let mut world = leased(3, 3, Budget { ticks: pick(2, 1), ..budget() });
    world.script = pick(elected_alone(), Vec::new());
    holds(name, world, &[SECOND, OUTSIDE]);
}

#[test]
fn growing_and_an_election_with_leases() {
    let name = pick(
        "leases, growing from one, an election, a tick",
        "full: leases (L is two ticks), growing from one, an election, three ticks",
    );
    let mut world = leased(2, 4, Budget { ticks: pick(1, 3), ..budget() });
    (world.attached, world.changes, world.lease) = (1, true, pick(1, 2));
    holds(name, world, &[SECOND]);
}

/// The primary removes a node that is silent to it, while that one asks for an election.
#[test]
fn removal_for_silence_and_an_election() {
    let name = pick(
        "leases, removal for silence, an election, a tick",
        "full: leases, removal for silence, an election, a tick",
    );
    let mut world = leased(pick(2, 3), 4, Budget { ticks: 1, ..budget() });
    world.removes = true;
    holds(name, world, &[SECOND, REMOVED]);
}

#[test]
fn a_node_was_removed_just_before() {
    let name = "leases, a node removed just before, from the promotion on, two ticks";
    holds(name, removed_just_before(), &[SECOND, OUTSIDE]);
}

#[test]
fn an_office_never_opened() {
    let name = "leases, an office that never opened, from the second promotion on, two ticks";
    holds(name, never_opened(), &[SECOND, OUTSIDE]);
}

#[test]
fn an_epoch_used_again() {
    holds("an epoch used again, from the first promotion on", remade(), &[SECOND]);
}
