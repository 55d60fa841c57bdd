//! The primary is lost in every way, under load: another takes over, nothing acknowledged is lost, and the pool is
//! whole again without a hand.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Phase;
use pgpool_operator::names;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use super::harness::{Failure, Outcome, ensure, failed};
use super::load;
use super::pool::NODES;
use super::processes::{freeze, hang_postgres, kill_agent, kill_postgres, signal, startup_process, thaw};
use super::world::{POOL, SYSTEM, World, until};

/// How long processes are frozen, and machines cut off.
pub const FROZEN: Duration = Duration::from_secs(20);
/// Time for a node to come back by itself.
pub const WITHOUT_OPERATOR: Duration = Duration::from_secs(60);
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

/// The primary's Postgres is killed.
pub async fn postgres_killed(world: &World) -> Outcome {
    let old = primary(world).await?;
    kill_postgres(world, old).await?;
    taken_over(world, old).await?;
    load::unharmed(world).await
}

/// The primary's pod is deleted; it hands over first, so nothing has to be copied.
pub async fn pod_deleted(world: &World) -> Outcome {
    let (old, history) = (primary(world).await?, world.history().await?);
    world.here(&["delete", "pod", &names::node_pod(POOL, old), "--wait=false"]).await?;
    taken_over(world, old).await?;
    load::unharmed(world).await?;
    let why = history.handed_over_once(world, NODES.len() - 1).await?;
    ensure(why.contains("its pod is being stopped"), || why.clone())
}

/// The primary's pod is deleted by force.
pub async fn pod_deleted_by_force(world: &World) -> Outcome {
    let old = primary(world).await?;
    world.here(&["delete", "pod", "--force", "--grace-period=0", &names::node_pod(POOL, old)]).await?;
    taken_over(world, old).await?;
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
    kill_agent(world, old).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await
}

/// All processes of the primary are frozen, and thaw when another has long been in office.
pub async fn primary_frozen(world: &World) -> Outcome {
    let old = primary(world).await?;
    let all = freeze(world, old).await?;
    let end = Instant::now() + FROZEN;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    sleep_until(end).await;
    thaw(&all);
    taken?;
    went_on?;
    load::unharmed(world).await
}

/// The primary's Postgres hangs, and its agent doesn't: another takes over, and it is ended and follows.
pub async fn postgres_hangs(world: &World) -> Outcome {
    let old = primary(world).await?;
    let all = hang_postgres(world, old).await?;
    let done = async {
        taken_over(world, old).await?;
        load::unharmed(world).await
    };
    let done = done.await;
    // Those that were ended are gone.
    thaw(&all);
    done
}

/// All processes of a standby are frozen: it is removed, and comes back without a copy when they thaw.
pub async fn standby_frozen(world: &World) -> Outcome {
    let (node, copies) = (standby(world).await?, world.incarnations().await?);
    let all = freeze(world, node).await?;
    let end = Instant::now() + FROZEN;
    let removed =
        world.when_record("it to be removed", TAKEN_OVER, |record| record.attached.len() == 2).await;
    let went_on = load::goes_on(world).await;
    sleep_until(end).await;
    thaw(&all);
    removed?;
    went_on?;
    load::unharmed(world).await?;
    let after = world.incarnations().await?;
    ensure(copies == after, || format!("copied without need: {copies:?} became {after:?}"))
}

/// The operator is away while the primary dies.
pub async fn operator_away(world: &World) -> Outcome {
    scale_operator(world, "0").await?;
    until("the operator to be gone", TAKEN_OVER, || async {
        let left = world.kubectl(&["-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", "name"]).await?;
        ensure(left.is_empty(), || left.clone())
    })
    .await?;
    // Who comes back without a copy needs no operator; a primary's WAL may go past the fork.
    let all = freeze(world, standby(world).await?).await?;
    let removed =
        world.when_record("a standby to be removed", TAKEN_OVER, |record| record.attached.len() == 2).await;
    thaw(&all);
    let back =
        world.when_record("it to be back", WITHOUT_OPERATOR, |record| record.attached.len() == 3).await;
    let old = primary(world).await?;
    kill_postgres(world, old).await?;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    scale_operator(world, "1").await?;
    removed?;
    back?;
    taken?;
    went_on?;
    load::unharmed(world).await
}

async fn scale_operator(world: &World, count: &str) -> Outcome {
    let args = ["-n", SYSTEM, "scale", "deployment", "-l", OPERATOR, "--replicas", count];
    world.kubectl(&args).await.map(drop)
}

const OPERATOR: &str = "app.kubernetes.io/instance=pgpool-operator";

/// Only the replay of a standby is frozen: commits wait for it, until it has lagged for too long and is removed.
pub async fn standby_lags(world: &World) -> Outcome {
    set_lag(world, "8s").await?;
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
    let removed = until("the standby to be removed", TAKEN_OVER, || async {
        let record = world.record().await?;
        let gone = record.primary == before.primary && record.attached.iter().all(|m| m.index != node);
        ensure(gone, || format!("{record:?}"))?;
        Ok(record.reason)
    })
    .await;
    let went_on = load::goes_on(world).await;
    thaw(&[replay]);
    let reason = removed?;
    went_on?;
    ensure(reason.contains("lags behind"), || format!("removed for another reason: {reason}"))?;
    Ok(reason)
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
