//! Each rule that is switched off is missed.
use super::*;
use Step::*;
use stateright::Checker;

#[test]
fn a_vote_of_another_election() {
    misses(&[Rule::VoteOfThisEpoch], ONE, world(3, 5, budget()));
}

#[test]
fn the_position_of_a_primary_that_runs() {
    misses(&[Rule::IncumbentFirst], ONE, world(2, 3, budget()));
}

#[test]
fn whoever_is_ahead_is_attached() {
    misses(&[Rule::AttachNotAhead], ONE, world(3, 3, budget()));
}

/// As long as those ahead are left out: that the furthest is chosen only keeps more nodes.
#[test]
fn anyone_may_be_chosen() {
    let mut world = world(3, 3, budget());
    world.rules = Rules::ALL.without(Rule::ChooseFurthest);
    let checker = world.checker().threads(2).spawn_bfs().join();
    explore::is_sound("anyone is chosen", &checker);
}

#[test]
fn a_voter_that_goes_on_receiving() {
    misses(&[Rule::VoteFenced], ONE, world(3, 3, budget()));
}

#[test]
fn no_wait_for_the_old_primary() {
    misses(&[Rule::OfficeWaitsForPrimary], FRESH, leased(2, 3, budget()));
}

#[test]
fn no_wait_for_standbys_outside() {
    let mut world = leased(3, 3, Budget { ticks: 2, ..budget() });
    (world.lease, world.script) = (2, elected_alone());
    misses(&[Rule::OfficeWaitsForStandbys], FRESH, world);
}

#[test]
fn a_restart_forgets_the_wait() {
    misses(&[Rule::OfficeWaitSurvives], FRESH, leased(2, 3, Budget { crashes: 1, ..budget() }));
}

/// Node 0 was alone and needed nobody for its own lease; node 1 has not answered for a while.
#[test]
fn to_be_attached_is_no_answer() {
    let mut world = leased(2, 4, Budget { ticks: 2, ..budget() });
    (world.attached, world.changes, world.lease) = (1, true, 2);
    world.script = vec![Tick, Agent(0), Agent(0), Agent(0), Stream(1), Agent(0), Agent(0), Land(0), Read(1)];
    misses(&[Rule::AttachedIsAnswer], FRESH, world);
}

#[test]
fn no_own_lease() {
    misses(&[Rule::OwnLease], FRESH, leased(2, 3, Budget { ticks: 1, ..budget() }));
}

#[test]
fn own_lease_without_names() {
    let mut world = leased(2, 4, Budget { ticks: 1, ..budget() });
    (world.attached, world.changes) = (1, true);
    misses(&[Rule::OwnLeaseNeedsNames], FRESH, world);
}

#[test]
fn leases_without_the_own_lease() {
    let mut world = leased(3, 3, Budget { ticks: 2, ..budget() });
    world.script = elected_alone();
    misses(&[Rule::GrantUnderOwnLease], FRESH, world);
}

#[test]
fn an_answer_of_another_epoch() {
    misses(&[Rule::AnswerOfThisEpoch], FRESH, leased(2, 3, Budget { ticks: 1, ..budget() }));
}

#[test]
fn a_word_that_does_not_bind() {
    misses(&[Rule::WordBinds], FRESH, leased(2, 3, Budget { crashes: 1, deaths: 1, ..budget() }));
}

#[test]
fn a_word_that_a_restart_forgets() {
    misses(&[Rule::WordSurvives], FRESH, leased(2, 3, Budget { crashes: 1, deaths: 1, ..budget() }));
}

/// Node 1 has made its choice, but node 0 was in office after all, and its choice came first.
#[test]
fn an_old_decision_over_a_new_record() {
    let mut world = world(3, 5, budget());
    world.script = vec![Commit(0), Suspect(1), Land(1), Read(1), Read(2), Vote(1), Vote(2)];
    world.script.extend([Choose(1, 0b110, 0), Read(0), Vote(0), Choose(0, 0b111, 0), Land(0), Read(2)]);
    misses(&[Rule::CompareAndSwap], ONE, world);
}

/// Node 0 has what node 1 wrote on timeline 2, then node 2 begins another timeline 2.
#[test]
fn a_timeline_twice() {
    let mut world = world(3, 6, budget());
    world.changes = true;
    world.script = first_election();
    world.script.extend([Agent(1), Read(0), Run(0), Stream(0), Stream(0), Read(2), Suspect(2), Land(2)]);
    world.script.extend([Read(2), Vote(2), Choose(2, 0b100, 0), Land(2), Read(2), Promote(2), Agent(2)]);
    misses(&[Rule::TimelineReserved, Rule::TablesCompared], ONE, world);
}

/// Node 0 has a commit that nobody else has; the office of timeline 2 is over before it comes back, and node 2, which was
/// chosen for timeline 3, can't be asked yet.
#[test]
fn the_records_fork_for_a_node_that_it_does_not_count() {
    let mut world = world(3, 6, budget());
    world.changes = true;
    world.script = vec![Commit(0)];
    world.script.extend(first_election());
    world.script.extend([Agent(1), Read(2), Stream(2), Stream(2), Suspect(2), Land(2), Read(2), Vote(2)]);
    world.script.extend([Choose(2, 0b100, 0), Land(2), Read(2), Read(0)]);
    misses(&[Rule::ForkOfVoters], ONE, world);
}

#[test]
fn an_epoch_used_again() {
    misses(&[Rule::SamePool], KEPT, remade());
}

/// Of a node that was removed just before the election it looks at the election alone.
#[test]
fn only_the_last_office_is_waited_for() {
    misses(&[Rule::EveryOffice], FRESH, removed_just_before());
}

/// So it does of the primary before an office that never opened.
#[test]
fn an_office_before_the_last_is_not_waited_for() {
    misses(&[Rule::EveryOffice], FRESH, never_opened());
}

#[test]
fn an_old_primary_follows_unproved() {
    let mut world = world(2, 4, Budget { crashes: 1, ..budget() });
    world.changes = true;
    misses(&[Rule::JoinProved], ONE, world);
}
