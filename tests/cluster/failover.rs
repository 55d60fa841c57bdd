//! The primary is lost in every way, under load: another takes over, nothing acknowledged is lost, and the pool is
//! whole again without a hand.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{PgPoolStatus, Phase, Record};
use pgpool_operator::names;
use rustix::process::Signal;

use super::faults::every_pod_deleted;
use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::attached;
use super::processes::{
    agent, another_agent, another_postmaster, kill_agent, kill_postgres, postmaster, signal, startup_process,
    thaw, uid_of,
};
use super::witness::Witness;
use super::world::{POOL, World, until};
use super::{front, load, machines, sessions};

/// How long a primary doesn't reach the API.
const WITHOUT_API: Duration = Duration::from_secs(20);
/// How long a primary goes on alone.
const ALONE: Duration = Duration::from_secs(20);
/// Commits older than that remove a standby: status tells of a lag before, since it looks every half minute, or ten seconds later.
const LAG: &str = "55s";
/// Seconds of it that status has to tell while the standby is attached.
const TOLD: i64 = 4;
/// Time for another primary to be in office.
pub const TAKEN_OVER: Duration = Duration::from_secs(60);

/// Waits until another primary than `old` is in office; gives its index.
pub async fn taken_over(world: &World, old: u8) -> Outcome<u8> {
    until("another primary", TAKEN_OVER, || async {
        let record = world.record().await?;
        let other = record.phase == Phase::Serving && record.primary != old;
        ensure(other, || format!("{record:?}"))?;
        Ok(record.primary)
    })
    .await
}

/// The primary in office.
pub async fn primary(world: &World) -> Outcome<u8> {
    Ok(world.record().await?.primary)
}

/// An attached standby.
pub async fn standby(world: &World) -> Outcome<u8> {
    let record = world.record().await?;
    match record.attached.iter().map(|m| m.index).find(|i| *i != record.primary) {
        Some(index) => Ok(index),
        None => failed("no standby is attached"),
    }
}

/// The primary's Postgres is killed. A session that had a transaction open is told what has become of it.
pub async fn postgres_killed(world: &World) -> Outcome {
    let before = world.record().await?;
    let old = before.primary;
    front::open(world, "killed", "BEGIN; SELECT 'ready';", "COMMIT;").await?;
    kill_postgres(world, old).await?;
    taken_over(world, old).await?;
    front::let_go(world, "killed").await?;
    let told = front::says(world, "killed", "HINT").await?;
    println!("    {}", told.lines().filter(|line| line.contains("HINT")).collect::<String>());
    ensure(told.contains("may have been committed or not"), || told.clone())?;
    load::unharmed(world).await?;
    // By the word of its agent, and not by silence.
    let newer = |status: &PgPoolStatus| {
        status.last_failover.as_ref().is_some_and(|last| last.timeline > before.timeline)
    };
    let last = world.when("the story of the failover", TAKEN_OVER, newer).await?.last_failover;
    ensure(last.as_ref().is_some_and(|last| last.reason.contains("its Postgres has ended")), || {
        format!("{last:?}")
    })
}

/// The primary's pod is deleted by force. Its address goes with it, so the others learn nothing until `grace` has passed: by then
/// the next pod may have opened again, behind the gate, in the same office.
pub async fn pod_deleted_by_force(world: &World) -> Outcome {
    let old = primary(world).await?;
    let (name, before) = (names::node_pod(POOL, old), uid_of(world, old).await?);
    world.here(&["delete", "pod", "--force", "--grace-period=0", &name]).await?;
    until("another pod of it", TAKEN_OVER, || async {
        let now = world.pods().get(&name).await?.metadata.uid;
        ensure(now.as_ref() != Some(&before), || "the old one is there".to_owned())
    })
    .await?;
    world.here(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=100s"]).await?;
    println!("    node {old} was the primary, node {} is", primary(world).await?);
    load::unharmed(world).await
}

/// The primary's agent is killed, and with it the whole container. The lock files that are left name what the
/// next one will have too, a thread of its agent: containers that start alike count alike.
pub async fn agent_killed(world: &World) -> Outcome {
    let old = primary(world).await?;
    let locks = "thread=$(ls /proc/1/task | sort -n | sed -n 2p); \
                 for f in /var/lib/pgpool/pgdata/postmaster.pid $PGHOST/.s.PGSQL.5432.lock; do \
                 text=$(sed \"1s/.*/$thread/\" $f); echo \"$text\" >$f; done";
    world.here(&["exec", &names::node_pod(POOL, old), "-c", "postgres", "--", "sh", "-ec", locks]).await?;
    let killed = kill_agent(world, old).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    another_agent(world, old, killed).await
}

/// The primary and a standby are killed at once.
pub async fn two_killed(world: &World) -> Outcome {
    let (before, other) = (world.record().await?, standby(world).await?);
    let (first, second) = (agent(world, other).await?, postmaster(world, before.primary).await?);
    signal(first, Signal::KILL)?;
    signal(second, Signal::KILL)?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    another_agent(world, other, first).await?;
    another_postmaster(&uid_of(world, before.primary).await?, second)?;
    let after = world.record().await?;
    ensure(after.epoch > before.epoch, || format!("{before:?} became {after:?}"))
}

/// Only the replay of a standby is frozen: commits wait for it, until it has lagged for too long and is removed. Status tells of the
/// lag before.
pub async fn standby_lags(world: &World) -> Outcome {
    set_lag(world, LAG).await?;
    let removed = lagging(world).await;
    set_lag(world, "30s").await?;
    println!("    {}", removed?);
    load::unharmed(world).await
}

/// Freezes the replay of a standby until it is removed; gives the reason.
async fn lagging(world: &World) -> Outcome<String> {
    let node = standby(world).await?;
    let replay = startup_process(world, node).await?;
    let before = world.record().await?;
    signal(replay, Signal::STOP)?;
    let told = lag_is_told(world, node).await;
    let removed = until("the standby to be removed", TAKEN_OVER, || async {
        let record = world.record().await?;
        let gone = record.primary == before.primary && record.attached.iter().all(|m| m.index != node);
        ensure(gone, || format!("{record:?}"))?;
        Ok(record.reason)
    })
    .await;
    let went_on = load::goes_on(world).await;
    thaw(&[replay]);
    told?;
    let reason = removed?;
    went_on?;
    ensure(reason.contains("lags behind"), || format!("removed for another reason: {reason}"))?;
    Ok(reason)
}

/// Waits until status tells how old the oldest change is that an attached standby lacks.
async fn lag_is_told(world: &World, node: u8) -> Outcome {
    let lag = move |status: &PgPoolStatus| {
        status.nodes.iter().find(|seen| seen.index == node).and_then(|seen| seen.lag_seconds)
    };
    let grown = move |status: &PgPoolStatus| {
        attached(status).contains(&node) && lag(status).is_some_and(|seconds| seconds >= TOLD)
    };
    let status = world.when("the lag to be told", TAKEN_OVER, grown).await?;
    println!("    {} s of lag are told of node {node}", lag(&status).unwrap_or_default());
    Ok(())
}

async fn set_lag(world: &World, lag: &str) -> Outcome {
    let patch = format!(r#"{{"spec":{{"failure":{{"detachLag":"{lag}"}}}}}}"#);
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch]).await.map(drop)
}

/// A switchover is given up when a standby can't follow in time: the primary opens again, in the same office.
pub async fn switchover_given_up(world: &World) -> Outcome {
    let (old, to) = (primary(world).await?, standby(world).await?);
    let before = world.record().await?;
    let replay = startup_process(world, to).await?;
    signal(replay, Signal::STOP)?;
    let asked = world.ask_for("switchover", &to.to_string()).await;
    let told = until("the switchover to be given up", TAKEN_OVER, || async {
        let events = world.events("SwitchoverFailed").await?;
        let own = events.into_iter().find(|note| note.contains("did not apply everything in time"));
        own.ok_or_else(|| Failure("no event tells of it".to_owned()))
    })
    .await;
    thaw(&[replay]);
    asked?;
    println!("    {}", told?);
    load::unharmed(world).await?;
    let after = world.record().await?;
    let same = after.primary == old && after.timeline == before.timeline;
    ensure(same, || format!("{before:?} became {after:?}"))
}

/// A voter is lost while the election is under way: the other is chosen without it. That one's replay is frozen, so that
/// its vote has to be waited for, and the election is met.
pub async fn second_election(world: &World) -> Outcome {
    let before = world.record().await?;
    let others: Vec<u8> = before.attached.iter().map(|m| m.index).filter(|i| *i != before.primary).collect();
    let [first, second] = others[..] else { return failed(format!("not whole: {before:?}")) };
    let (voter, late) = (agent(world, first).await?, startup_process(world, second).await?);
    // It can't say how far it is, so the election goes on until its patience ends.
    signal(late, Signal::STOP)?;
    let met = async {
        kill_postgres(world, before.primary).await?;
        world.when_record("an election", TAKEN_OVER, |record| record.phase == Phase::Electing).await
    }
    .await;
    let killed = signal(voter, Signal::KILL);
    let still = world.record().await;
    thaw(&[late]);
    met?;
    killed?;
    let still = still?;
    ensure(still.phase == Phase::Electing, || format!("the election was over already: {still:?}"))?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    another_agent(world, first, voter).await?;
    let after = world.record().await?;
    println!("    timeline {} became {}", before.timeline, after.timeline);
    ensure(after.timeline > before.timeline, || format!("{before:?} became {after:?}"))
}

/// The chosen node is killed before it is open.
pub async fn chosen_killed(world: &World) -> Outcome {
    let before = world.record().await?;
    let (chosen, killed) = killed_once_chosen(world, &before, &agents(world, &before).await?).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await?;
    another_agent(world, chosen.primary, killed).await?;
    let after = world.record().await?;
    ensure(after.timeline > chosen.timeline, || format!("no further election: {chosen:?} became {after:?}"))
}

/// The Postgres of the node that was chosen is killed while it is promoted, and its agent isn't: it takes office all the same,
/// or another one does.
pub async fn chosen_postgres_killed(world: &World) -> Outcome {
    let before = world.record().await?;
    let mut postmasters = Vec::new();
    for member in &before.attached {
        postmasters.push((member.index, postmaster(world, member.index).await?));
    }
    let (chosen, killed) = killed_once_chosen(world, &before, &postmasters).await?;
    load::unharmed(world).await?;
    another_postmaster(&uid_of(world, chosen.primary).await?, killed)?;
    let after = world.record().await?;
    println!("    chosen on timeline {}, in office on {}", chosen.timeline, after.timeline);
    Ok(())
}

/// The primary is lost, and of these processes that of the node which is chosen is killed; gives the choice, and which it was.
async fn killed_once_chosen(
    world: &World,
    before: &Record,
    processes: &[(u8, i32)],
) -> Outcome<(Record, i32)> {
    kill_postgres(world, before.primary).await?;
    let chosen = world
        .when_record("a choice", TAKEN_OVER, |record| {
            record.phase == Phase::Serving && record.timeline > before.timeline
        })
        .await?;
    let Some(&(_, process)) = processes.iter().find(|(node, _)| *node == chosen.primary) else {
        return failed(format!("chosen: {chosen:?}"));
    };
    signal(process, Signal::KILL)?;
    Ok((chosen, process))
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
    let mut others = agents(world, &record).await?;
    others.retain(|(node, _)| *node != old);
    machines::fault(&["kill", &machine]).await?;
    let killed = others.iter().try_for_each(|(_, agent)| signal(*agent, Signal::KILL));
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["start", &machine]).await?;
    killed?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await?;
    for (node, killed) in others {
        another_agent(world, node, killed).await?;
    }
    Ok(())
}

/// All pods of nodes are deleted by force at once.
pub async fn all_at_once(world: &World) -> Outcome {
    every_pod_deleted(world).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await
}

/// The machine of the primary is lost, and comes back.
pub async fn machine_lost(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    machines::fault(&["kill", &machine]).await?;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["start", &machine]).await?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The machine of the primary can't reach anything, and nothing it; who reads there is told nothing old.
pub async fn primary_cut_off(world: &World) -> Outcome {
    let old = machines::primary_beside_front(world).await?;
    let machine = machines::of_node(world, old).await?;
    let witness = Witness::beside(world, &machine).await?;
    machines::fault(&["isolate", &machine]).await?;
    let taken = taken_over(world, old).await;
    let written = witness.write(world).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["heal", &machine]).await?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    witness.judge(world, written?).await?;
    load::unharmed(world).await
}

/// The machine of the primary reaches the API and no other machine: it keeps the record, and the pool is whole once
/// the network is.
pub async fn primary_cut_off_from_nodes(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let others = machines::others(&machine);
    // Transactions whose front is cut off in the middle of them.
    sessions::hold_locks(world, &machines::front_away_from(world, &machine).await?).await?;
    for other in &others {
        machines::fault(&["part", &machine, other]).await?;
    }
    let kept = until("the primary to go on alone", TAKEN_OVER, || async {
        let record = world.record().await?;
        let alone = record.phase == Phase::Serving && record.primary == old && record.attached.len() == 1;
        ensure(alone, || format!("{record:?}"))
    })
    .await;
    tokio::time::sleep(ALONE).await;
    let after = world.record().await;
    let free = sessions::locks_are_free(world).await;
    machines::fault(&["heal", &machine]).await?;
    kept?;
    free?;
    let after = after?;
    ensure(after.primary == old && after.phase == Phase::Serving, || format!("deposed: {after:?}"))?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The machine of the primary reaches the other machines and not the API: the pool doesn't notice.
pub async fn primary_cut_off_from_api(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let before = world.record().await?;
    machines::fault(&["part", &machine, machines::API]).await?;
    // Longer than a kubelet's machine counts as Ready without a word of it, and than any lease.
    let went_on = load::goes_on_for(world, WITHOUT_API).await;
    let after = world.record().await;
    machines::fault(&["heal", &machine]).await?;
    went_on?;
    let after = after?;
    ensure(after.epoch == before.epoch, || format!("{before:?} became {after:?}"))?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The machine of a standby is cut off; who reads there is told nothing old, and transactions of the front on it don't keep
/// their locks until it is back.
pub async fn standby_cut_off(world: &World) -> Outcome {
    let node = machines::standby_beside_front(world).await?;
    let machine = machines::of_node(world, node).await?;
    let witness = Witness::beside(world, &machine).await?;
    sessions::hold_locks(world, &machines::front_on(world, &machine).await?).await?;
    machines::fault(&["isolate", &machine]).await?;
    // The write is acknowledged only once the lost standby's lease is over.
    let written = witness.write(world).await;
    let went_on = load::goes_on(world).await;
    let free = sessions::locks_are_free(world).await;
    machines::fault(&["heal", &machine]).await?;
    went_on?;
    free?;
    machines::ready(world, &machine).await?;
    witness.judge(world, written?).await?;
    load::unharmed(world).await
}
