//! Nodes are lost while the operator is away, or the API server, without which nobody can be chosen in their place.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{Phase, Record};
use rustix::process::Signal;

use super::failover::{TAKEN_OVER, primary, standby, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::{NODES, WHOLE};
use super::processes::{
    agent, another_agent, another_postmaster, freeze, kill_agent, kill_postgres, postmaster, signal, thaw,
    uid_of,
};
use super::world::{SYSTEM, World, until};
use super::{load, machines};

/// After that time commits that have to wait do, and no answer of a Postgres that was killed is under way any more.
const STANDS_STILL: Duration = Duration::from_secs(5);
/// Time for the agent to start Postgres again.
const STARTED: Duration = Duration::from_secs(60);
/// How much longer the API is away then.
const WITHOUT_API: Duration = Duration::from_secs(20);
/// Time for a node to come back by itself.
const WITHOUT_OPERATOR: Duration = Duration::from_secs(60);
/// Selects the operator.
const OPERATOR: &str = "app.kubernetes.io/instance=pgpool-operator";

/// Sets how many operators there are.
pub async fn scale_operator(world: &World, count: &str) -> Outcome {
    let args = ["-n", SYSTEM, "scale", "deployment", "-l", OPERATOR, "--replicas", count];
    world.kubectl(&args).await.map(drop)
}

async fn operator_is_gone(world: &World) -> Outcome {
    let left = world.kubectl(&["-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", "name"]).await?;
    ensure(left.is_empty(), || format!("an operator is there: {left}"))
}

/// The operator is away while a standby freezes and thaws, an agent is killed, and the primary dies. It comes back only once
/// the pool serves again.
pub async fn operator_away(world: &World) -> Outcome {
    scale_operator(world, "0").await?;
    let alone = without_operator(world).await;
    scale_operator(world, "1").await?;
    alone?;
    load::unharmed(world).await
}

async fn without_operator(world: &World) -> Outcome {
    until("the operator to be gone", TAKEN_OVER, || operator_is_gone(world)).await?;
    thawed_is_back(world).await?;
    killed_is_back(world).await?;
    // The last: who comes back without a copy needs no operator, but a primary's WAL may go past the fork.
    let old = primary(world).await?;
    kill_postgres(world, old).await?;
    taken_over(world, old).await?;
    load::goes_on(world).await?;
    operator_is_gone(world).await
}

fn all_serve(record: &Record) -> bool {
    record.phase == Phase::Serving && record.attached.len() == NODES.len()
}

/// A standby that is frozen is removed, and is back when it thaws.
async fn thawed_is_back(world: &World) -> Outcome {
    let all = freeze(world, standby(world).await?).await?;
    let removed =
        world.when_record("a standby to be removed", TAKEN_OVER, |record| record.attached.len() == 2).await;
    thaw(&all);
    removed?;
    world.when_record("it to be back", WITHOUT_OPERATOR, all_serve).await.map(drop)
}

/// A standby whose agent is killed is done without, and is back with the next one.
async fn killed_is_back(world: &World) -> Outcome {
    let record = world.record().await?;
    // Other steps kill the agent of the first: a kubelet waits longer each time before it starts a container again.
    let Some(node) = record.attached.iter().map(|m| m.index).rfind(|index| *index != record.primary) else {
        return failed(format!("no standby is attached: {record:?}"));
    };
    let killed = kill_agent(world, node).await?;
    load::goes_on(world).await?;
    until("another agent", WHOLE, || another_agent(world, node, killed)).await?;
    world.when_record("every node to serve", WITHOUT_OPERATOR, all_serve).await.map(drop)
}

/// The API server is away for a minute, and the pool doesn't notice. Then a standby dies: writes wait, rather than go on
/// without it, until the API is back.
pub async fn standby_dies(world: &World) -> Outcome {
    let node = standby(world).await?;
    let killed = agent(world, node).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        // Again and again: reads, too, since leases need no API server.
        load::goes_on_for(world, machines::API_AWAY).await?;
        signal(killed, Signal::KILL)?;
        // Its container is started again, but serves nothing before it has read the record.
        tokio::time::sleep(STANDS_STILL).await;
        let still = load::written(world).await?;
        tokio::time::sleep(WITHOUT_API).await;
        Ok::<_, Failure>((still, load::written(world).await?))
    }
    .await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    let (still, after) = outage?;
    ensure(still == after, || format!("{} writes were acknowledged without the standby", after - still))?;
    load::goes_on(world).await?;
    world.when_record("three nodes", WITHOUT_OPERATOR, all_serve).await?;
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await?;
    another_agent(world, node, killed).await
}

/// The primary's Postgres dies while the API server is away: its agent can't leave its office, and starts it again where it was. It lets nobody in before it has read
/// the record: until then no write is acknowledged. Once the API is back it opens, or another one has asked for an election
/// first.
pub async fn primary_dies(world: &World) -> Outcome {
    let before = world.record().await?;
    let uid = uid_of(world, before.primary).await?;
    let killed = postmaster(world, before.primary).await?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        load::writes_go_on(world).await?;
        signal(killed, Signal::KILL)?;
        tokio::time::sleep(STANDS_STILL).await;
        let still = load::written(world).await?;
        let started =
            until("another postmaster", STARTED, || async { another_postmaster(&uid, killed) }).await?;
        tokio::time::sleep(WITHOUT_API).await;
        Ok::<_, Failure>((still, load::written(world).await?, started))
    }
    .await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    let (still, after, started) = outage?;
    println!("    without the API process {started} came after {killed}, and {} writes", after - still);
    ensure(still == after, || format!("{} writes were acknowledged without the API", after - still))?;
    load::goes_on(world).await?;
    let now = back_by_themselves(world, &before).await?;
    println!(
        "    node {} was the primary on timeline {}, node {} is on {}",
        before.primary, before.timeline, now.primary, now.timeline
    );
    // Pods are ready again once their kubelets say so.
    machines::kubelets_anew(world).await?;
    load::unharmed(world).await
}

/// All nodes are in the record before a kubelet has had a part in it. Only one that was deposed may wait for one: its WAL may go
/// past the fork, and a copy takes a pod.
async fn back_by_themselves(world: &World, before: &Record) -> Outcome<Record> {
    let is_back = |record: &Record, node: u8| record.attached.iter().any(|member| member.index == node);
    let all = |record: &Record| {
        let deposed = record.primary != before.primary;
        let excused = |node: u8| deposed && node == before.primary;
        record.phase == Phase::Serving && NODES.iter().all(|node| is_back(record, *node) || excused(*node))
    };
    world.when_record("all nodes that need no copy", WHOLE, all).await
}
