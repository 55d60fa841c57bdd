//! The primary is lost in every way, under load: another takes over, nothing acknowledged is lost, and the pool is
//! whole again without a hand.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Phase;
use pgpool_operator::names;
use rustix::process::Signal;

use super::harness::{Outcome, ensure, failed};
use super::processes::{agent, freeze, kill_agent, kill_postgres, signal, thaw};
use super::world::{POOL, SYSTEM, World, until};
use super::{load, machines, sessions};

/// How long processes are frozen.
const FROZEN: Duration = Duration::from_secs(20);
/// Time for another primary to be in office.
const TAKEN_OVER: Duration = Duration::from_secs(60);

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

/// The primary's pod is deleted; it hands over first.
pub async fn pod_deleted(world: &World) -> Outcome {
    let old = primary(world).await?;
    world.here(&["delete", "pod", &names::node_pod(POOL, old), "--wait=false"]).await?;
    taken_over(world, old).await?;
    load::unharmed(world).await
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
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    tokio::time::sleep(FROZEN).await;
    thaw(&all);
    taken?;
    went_on?;
    load::unharmed(world).await
}

/// All processes of a standby are frozen: it is removed, and comes back when they thaw.
pub async fn standby_frozen(world: &World) -> Outcome {
    let node = standby(world).await?;
    let all = freeze(world, node).await?;
    let went_on = load::goes_on(world).await;
    tokio::time::sleep(FROZEN).await;
    thaw(&all);
    went_on?;
    load::unharmed(world).await
}

/// The operator is away while the primary dies.
pub async fn operator_away(world: &World) -> Outcome {
    scale_operator(world, "0").await?;
    until("the operator to be gone", TAKEN_OVER, || async {
        let left = world.kubectl(&["-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", "name"]).await?;
        ensure(left.is_empty(), || left.clone())
    })
    .await?;
    let old = primary(world).await?;
    kill_postgres(world, old).await?;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    scale_operator(world, "1").await?;
    taken?;
    went_on?;
    load::unharmed(world).await
}

async fn scale_operator(world: &World, count: &str) -> Outcome {
    let args = ["-n", SYSTEM, "scale", "deployment", "-l", OPERATOR, "--replicas", count];
    world.kubectl(&args).await.map(drop)
}

const OPERATOR: &str = "app.kubernetes.io/instance=pgpool-operator";

/// The primary and a standby are killed within a second.
pub async fn two_killed(world: &World) -> Outcome {
    let (old, other) = (primary(world).await?, standby(world).await?);
    kill_agent(world, other).await?;
    kill_postgres(world, old).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await
}

/// The chosen node is killed as soon as the record names it.
pub async fn second_election(world: &World) -> Outcome {
    let old = primary(world).await?;
    kill_postgres(world, old).await?;
    let chosen = taken_over(world, old).await?;
    kill_agent(world, chosen).await?;
    load::goes_on(world).await?;
    load::unharmed(world).await
}

/// All pods of nodes are deleted by force at once.
pub async fn all_at_once(world: &World) -> Outcome {
    let nodes = super::pool::selector("node");
    world.here(&["delete", "pod", "--force", "--grace-period=0", "-l", &nodes]).await?;
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

/// The machine of the primary can't reach anything, and nothing it.
pub async fn primary_cut_off(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    machines::fault(&["isolate", &machine]).await?;
    let taken = taken_over(world, old).await;
    let went_on = load::goes_on(world).await;
    machines::fault(&["heal", &machine]).await?;
    taken?;
    went_on?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The machine of the primary reaches the API and no other machine: it keeps the record, and the pool is whole once
/// the network is.
pub async fn primary_cut_off_from_nodes(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let others = machines::others(&machine);
    // A transaction whose client is cut off in the middle of it.
    sessions::hold_a_lock(world).await?;
    for other in &others {
        machines::fault(&["part", &machine, other]).await?;
    }
    tokio::time::sleep(FROZEN).await;
    machines::fault(&["heal", &machine]).await?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await?;
    sessions::lock_is_free(world).await
}

/// The machine of the primary reaches the other machines and not the API: the pool doesn't notice.
pub async fn primary_cut_off_from_api(world: &World) -> Outcome {
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let before = world.record().await?;
    machines::fault(&["part", &machine, machines::API]).await?;
    let went_on = load::goes_on(world).await;
    let after = world.record().await;
    machines::fault(&["heal", &machine]).await?;
    went_on?;
    let after = after?;
    ensure(after.epoch == before.epoch, || format!("{before:?} became {after:?}"))?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The machine of a standby is cut off.
pub async fn standby_cut_off(world: &World) -> Outcome {
    let node = machines::standby_away_from_load(world).await?;
    let machine = machines::of_node(world, node).await?;
    machines::fault(&["isolate", &machine]).await?;
    let went_on = load::goes_on(world).await;
    tokio::time::sleep(FROZEN).await;
    machines::fault(&["heal", &machine]).await?;
    went_on?;
    machines::ready(world, &machine).await?;
    load::unharmed(world).await
}

/// The API server is away for a minute: the pool doesn't notice.
pub async fn api_away(world: &World) -> Outcome {
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let went_on = load::writes_go_on(world).await;
    tokio::time::sleep(machines::API_AWAY).await;
    let still = load::writes_go_on(world).await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    went_on?;
    still?;
    load::unharmed(world).await?;
    machines::kubelets_anew().await
}

/// A standby dies while the API server is away: writes wait, rather than go on without it, until the API is back.
pub async fn api_away_and_a_standby_dies(world: &World) -> Outcome {
    let agent = agent(world, standby(world).await?).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let killed = signal(agent, Signal::KILL);
    tokio::time::sleep(FROZEN).await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    killed?;
    load::unharmed(world).await?;
    machines::kubelets_anew().await
}
