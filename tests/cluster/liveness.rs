//! What Kubernetes may end a node's container for: a Postgres that stands still is none of it.
use std::time::Duration;

use pgpool_operator::names;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use super::failover::standby;
use super::harness::{Outcome, ensure};
use super::install::as_app;
use super::pool::{WHOLE, attached};
use super::processes::{signal, startup_process, thaw};
use super::world::{POOL, World};

/// Longer than a liveness probe may fail: six times, ten seconds apart.
const STANDS_STILL: Duration = Duration::from_secs(75);

/// The containers of a node's pod: which each is, and how often it was started again.
async fn containers(world: &World, node: u8) -> Outcome<Vec<(Option<String>, i32)>> {
    let pod = world.pods().get(&names::node_pod(POOL, node)).await?;
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    ensure(!statuses.is_empty(), || format!("the pod of node {node} has no container"))?;
    Ok(statuses.into_iter().map(|container| (container.container_id, container.restart_count)).collect())
}

/// A standby whose replay is frozen for longer than a probe may fail is removed for its lag; its containers stay, and it comes back
/// without a copy.
pub async fn standby_stands_still(world: &World) -> Outcome {
    world.whole(WHOLE).await?;
    let (node, copies) = (standby(world).await?, world.incarnations().await?);
    let (before, replay) = (containers(world, node).await?, startup_process(world, node).await?);
    let since = Instant::now();
    signal(replay, Signal::STOP)?;
    let stood = stood_still(world, node, since).await;
    let same = startup_process(world, node).await;
    let after = containers(world, node).await;
    thaw(&[replay]);
    stood?;
    let (same, after) = (same?, after?);
    ensure(same == replay, || format!("process {replay} replayed WAL, and process {same} does"))?;
    ensure(after == before, || format!("the containers of node {node} were {before:?}, and are {after:?}"))?;
    world.whole(WHOLE).await?;
    let after = containers(world, node).await?;
    ensure(after == before, || format!("the containers of node {node} were {before:?}, and are {after:?}"))?;
    world.same_copies(&copies).await
}

/// A write waits for the standby until that is removed; then nothing more happens to it.
async fn stood_still(world: &World, node: u8, since: Instant) -> Outcome {
    as_app(world, POOL, "CREATE TABLE stood_still (); DROP TABLE stood_still").await?;
    world
        .when("the standby to be told of as removed", WHOLE, |status| !attached(status).contains(&node))
        .await?;
    sleep_until(since + STANDS_STILL).await;
    Ok(())
}
