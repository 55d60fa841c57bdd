//! More than one node is lost at a time, or one in the middle of an election, under load: whoever is left goes on, nothing
//! acknowledged is lost, and the pool is whole again without a hand.
use pgpool_operator::api::v1alpha1::{Phase, Record};
use pgpool_operator::names::{SCHEMA, node_pod};
use rustix::process::Signal;

use super::failover::{TAKEN_OVER, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::processes::{agent, freeze, kill_postgres, postmaster, signal, startup_process, thaw};
use super::witness::{Witness, now};
use super::world::{POOL, World, until};
use super::{load, machines};

/// The two standbys of a whole pool, by their indices.
fn standbys(record: &Record) -> Outcome<[u8; 2]> {
    let all: Vec<u8> = record.attached.iter().map(|m| m.index).filter(|i| *i != record.primary).collect();
    all.try_into().map_err(|_| Failure(format!("not whole: {record:?}")))
}

/// The agents of the primary and of a standby are killed at once: the other standby takes over.
pub async fn two_killed(world: &World) -> Outcome {
    let before = world.record().await?;
    let [_, other] = standbys(&before)?;
    let killed = [agent(world, before.primary).await?, agent(world, other).await?];
    killed.into_iter().try_for_each(|agent| signal(agent, Signal::KILL))?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    let after = world.record().await?;
    ensure(after.timeline > before.timeline, || format!("nobody took over: {before:?} became {after:?}"))
}

/// The primary and a standby are frozen at once: neither gives its word, and together they are more than half of those that
/// counted. The third takes over alone, and both thaw at the same moment.
pub async fn two_silent(world: &World) -> Outcome {
    let before = world.record().await?;
    let [silent, third] = standbys(&before)?;
    let witness = Witness::beside(world, &machines::with_front(world).await?).await?;
    let mut frozen = freeze(world, before.primary).await?;
    frozen.extend(freeze(world, silent).await?);
    let cut = now();
    let taken = world
        .when_record("the third to take over alone", TAKEN_OVER, |record| {
            record.phase == Phase::Serving && record.primary == third && record.attached.len() == 1
        })
        .await;
    let written = witness.write(world).await;
    let went_on = load::goes_on(world).await;
    thaw(&frozen);
    taken?;
    went_on?;
    witness.judge(world, cut, written?).await?;
    load::unharmed(world).await?;
    let after = world.record().await?;
    ensure(after.primary == third, || format!("deposed by those who thawed: {after:?}"))
}

/// A voter is lost while the election is under way: the other is chosen without it. That one's replay is frozen, so that
/// its vote has to be waited for, and the election is met.
pub async fn voter_killed(world: &World) -> Outcome {
    let before = world.record().await?;
    let [first, second] = standbys(&before)?;
    let (agent, late) = (agent(world, first).await?, startup_process(world, second).await?);
    // It can't say how far it is, so the election goes on until its patience ends.
    signal(late, Signal::STOP)?;
    let met = election(world, &before).await;
    let killed = signal(agent, Signal::KILL);
    let still = world.record().await;
    thaw(&[late]);
    met?;
    killed?;
    let still = still?;
    ensure(still.phase == Phase::Electing, || format!("the election was over already: {still:?}"))?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    let after = world.record().await?;
    println!("    timeline {} became {}", before.timeline, after.timeline);
    ensure(after.timeline > before.timeline, || format!("{before:?} became {after:?}"))
}

/// The primary's Postgres is killed; gives the record of the election.
async fn election(world: &World, before: &Record) -> Outcome<Record> {
    kill_postgres(world, before.primary).await?;
    world.when_record("an election", TAKEN_OVER, |record| record.phase == Phase::Electing).await
}

/// A second election while the first is under way: the chosen node is killed before it is in office, and the other one takes
/// over. Its replay is frozen once it has voted, so that its promotion can't end before.
pub async fn second_election(world: &World) -> Outcome {
    let before = world.record().await?;
    // Of two that are equally far the first is chosen.
    let [first, second] = standbys(&before)?;
    let agent = agent(world, first).await?;
    let replays = [startup_process(world, first).await?, startup_process(world, second).await?];
    let chosen = held_when_chosen(world, &before, first, replays).await;
    let killed = signal(agent, Signal::KILL);
    thaw(&replays);
    let chosen = chosen?;
    killed?;
    let taken = taken_over(world, first).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    let after = world.record().await?;
    println!("    timeline {}, then {}, now {}", before.timeline, chosen.timeline, after.timeline);
    ensure(taken == second && after.timeline > chosen.timeline, || format!("{chosen:?} became {after:?}"))?;
    // The row of an office is on every node before anybody is let in.
    let rows = format!(
        "SELECT bool_or(timeline = {}), bool_or(timeline = {}) FROM {SCHEMA}.epochs",
        chosen.timeline, after.timeline
    );
    let rows = world.psql(after.primary, "postgres", &rows).await?;
    ensure(rows == "f|t", || format!("the killed node was in office on timeline {}: {rows}", chosen.timeline))
}

/// The primary is lost, and node `first` is chosen while its replay stands still; gives the choice. The vote of the second one
/// comes last, so that there is a moment in between.
async fn held_when_chosen(world: &World, before: &Record, first: u8, replays: [i32; 2]) -> Outcome<Record> {
    let [of_first, of_second] = replays;
    signal(of_second, Signal::STOP)?;
    until("all WAL to be on both standbys", TAKEN_OVER, || async {
        let all = "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_flush_lsn()";
        let all = world.psql(before.primary, "postgres", all).await?;
        ensure(all == "2", || format!("on {all} of them"))
    })
    .await?;
    let election = election(world, before).await?;
    let vote = format!("epoch: {}", election.epoch);
    until("the first vote", TAKEN_OVER, || async {
        let log = world.here(&["logs", &node_pod(POOL, first), "-c", "postgres", "--tail=100"]).await?;
        let voted = log.lines().any(|line| line.contains("votes") && line.contains(&vote));
        ensure(voted, || format!("node {first} has not voted in epoch {}", election.epoch))
    })
    .await?;
    signal(of_first, Signal::STOP)?;
    signal(of_second, Signal::CONT)?;
    let chosen = world.when_record("a choice", TAKEN_OVER, |record| record.phase == Phase::Serving).await?;
    let as_meant = chosen.primary == first && chosen.attached.len() == 2;
    ensure(as_meant && chosen.timeline > before.timeline, || format!("chosen: {chosen:?}"))?;
    Ok(chosen)
}

/// The Postgres of the node that was chosen is killed while it is promoted, and its agent isn't: it takes office all the same,
/// or another one does.
pub async fn chosen_postgres_killed(world: &World) -> Outcome {
    let before = world.record().await?;
    let mut postmasters = Vec::new();
    for member in &before.attached {
        postmasters.push((member.index, postmaster(world, member.index).await?));
    }
    kill_postgres(world, before.primary).await?;
    let chosen = world
        .when_record("a choice", TAKEN_OVER, |record| {
            record.phase == Phase::Serving && record.timeline > before.timeline
        })
        .await?;
    let Some((_, process)) = postmasters.iter().find(|(node, _)| *node == chosen.primary) else {
        return failed(format!("chosen: {chosen:?}"));
    };
    signal(*process, Signal::KILL)?;
    load::unharmed(world).await?;
    let after = world.record().await?;
    println!("    chosen on timeline {}, in office on {}", chosen.timeline, after.timeline);
    Ok(())
}

/// The agents of all attached nodes, by their pids.
async fn agents(world: &World, record: &Record) -> Outcome<Vec<(u8, i32)>> {
    let mut all = Vec::new();
    for member in &record.attached {
        all.push((member.index, agent(world, member.index).await?));
    }
    Ok(all)
}

/// All nodes stop at once soon after an election, and the primary doesn't come back: the others go on without it.
pub async fn all_at_once_and_one_for_good(world: &World) -> Outcome {
    let first = machines::primary_away_from_load(world).await?;
    kill_postgres(world, first).await?;
    taken_over(world, first).await?;
    load::unharmed(world).await?;
    // So soon after it the standbys' latest restartpoints are of the timeline before.
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let record = world.record().await?;
    let agents = agents(world, &record).await?;
    machines::fault(&["kill", &machine]).await?;
    let mut others = agents.iter().filter(|(node, _)| *node != old);
    let killed = others.try_for_each(|(_, agent)| signal(*agent, Signal::KILL));
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["start", &machine]).await?;
    killed?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// All pods of nodes are deleted by force at once.
pub async fn all_at_once(world: &World) -> Outcome {
    let nodes = super::pool::selector("node");
    world.here(&["delete", "pod", "--force", "--grace-period=0", "-l", &nodes]).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await
}
