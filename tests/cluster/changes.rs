//! What people change of a running pool, under load: another primary, restarts, parameters, the number of nodes.
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, EvictParams};
use pgpool_operator::names;

use super::failover::{primary, standby, taken_over};
use super::harness::{Outcome, ensure};
use super::install;
use super::load;
use super::pool::{NODES, WHOLE, attached};
use super::processes::program_of;
use super::world::{POOL, SPACE, World, until};

/// Time for a change that takes each node in turn.
const ROLLED: Duration = Duration::from_secs(300);

/// Changes the pool's spec.
pub async fn patch(world: &World, spec: &str) -> Outcome {
    let patch = format!("{{\"spec\":{spec}}}");
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch]).await.map(drop)
}

/// The pod of each node, as the API server counts it.
pub async fn uids(world: &World) -> Outcome<BTreeMap<u8, String>> {
    let mut all = BTreeMap::new();
    for node in NODES {
        let pod = world.pods().get(&names::node_pod(POOL, node)).await?;
        all.insert(node, pod.uid().unwrap_or_default());
    }
    Ok(all)
}

/// The primary hands over to the node that is named; nothing is copied.
pub async fn switchover(world: &World) -> Outcome {
    let (old, copies) = (primary(world).await?, world.incarnations().await?);
    let to = standby(world).await?;
    world.ask_for("switchover", &to.to_string()).await?;
    let new = taken_over(world, old).await?;
    ensure(new == to, || format!("node {new} took over, not node {to}"))?;
    load::unharmed(world).await?;
    let after = world.incarnations().await?;
    ensure(copies == after, || format!("copied without need: {copies:?} became {after:?}"))
}

/// Waits until so many nodes may be evicted.
async fn evictable(world: &World, wanted: i32) -> Outcome {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(world.client.clone(), SPACE);
    until("the budget of disruptions", WHOLE, || async {
        let status = budgets.get_status(&names::nodes_service(POOL)).await?.status.unwrap_or_default();
        ensure(status.disruptions_allowed == wanted, || format!("{status:?}"))
    })
    .await
}

/// A primary whose pod is evicted, as by a drain of its machine, hands over before it stops; no second node may be
/// evicted meanwhile.
pub async fn evicted(world: &World) -> Outcome {
    let (old, copies) = (primary(world).await?, world.incarnations().await?);
    evictable(world, 1).await?;
    world.pods().evict(&names::node_pod(POOL, old), &EvictParams::default()).await?;
    // A second one isn't asked for: the client repeats what is refused until it is granted.
    evictable(world, 0).await?;
    taken_over(world, old).await?;
    world
        .when("the story of the handover", WHOLE, |status| {
            let last = status.last_failover.as_ref();
            last.is_some_and(|last| last.from == old && last.reason.contains("pod") && last.millis > 0)
        })
        .await?;
    load::unharmed(world).await?;
    let after = world.incarnations().await?;
    ensure(copies == after, || format!("copied without need: {copies:?} became {after:?}"))
}

/// A fenced node's PostgreSQL is kept stopped until the fence is lifted.
pub async fn fence(world: &World) -> Outcome {
    let node = standby(world).await?;
    world.ask_for("fence", &node.to_string()).await?;
    world.when("the fenced node to leave", WHOLE, |status| !attached(status).contains(&node)).await?;
    until("its PostgreSQL to stop", WHOLE, || async {
        let runs = super::processes::postmaster(world, node).await.is_ok();
        ensure(!runs, || format!("the PostgreSQL of node {node} runs"))
    })
    .await?;
    world.ask_for("fence", "off").await?;
    load::unharmed(world).await
}

/// Waits until every pod is another, that of the old primary last, and the pool is unharmed.
async fn rolled(world: &World, before: &BTreeMap<u8, String>) -> Outcome {
    let old = primary(world).await?;
    until("every pod to be another", ROLLED, || async {
        let now = uids(world).await?;
        let old: Vec<&u8> =
            before.iter().filter(|(node, uid)| now.get(node) == Some(uid)).map(|(n, _)| n).collect();
        ensure(old.is_empty(), || format!("the pods of {old:?} are the old ones"))
    })
    .await?;
    load::unharmed(world).await?;
    let mut made = BTreeMap::new();
    for node in NODES {
        made.insert(node, world.pods().get(&names::node_pod(POOL, node)).await?.creation_timestamp());
    }
    let last = made.values().max();
    ensure(made.get(&old) == last, || {
        format!("node {old} was the primary, and its pod not the last: {made:?}")
    })
}

/// Every pod is made anew, one at a time; the pool goes on.
pub async fn restart(world: &World) -> Outcome {
    let before = uids(world).await?;
    world.ask_for("restart", "now").await?;
    rolled(world, &before).await
}

/// What the containers of a node's pod run: the init container's image, PostgreSQL's, and its request of memory.
async fn runs(world: &World, node: u8) -> Outcome<[String; 3]> {
    let pod = world.pods().get(&names::node_pod(POOL, node)).await?;
    let spec = pod.spec.unwrap_or_default();
    let image = |c: Option<&Container>| c.and_then(|c| c.image.clone()).unwrap_or_default();
    let postgres = spec.containers.iter().find(|c| c.name == "postgres");
    let requests = postgres.and_then(|c| c.resources.as_ref()?.requests.as_ref());
    let memory = requests.and_then(|r| r.get("memory")).map(|q| q.0.clone()).unwrap_or_default();
    Ok([image(spec.init_containers.unwrap_or_default().first()), image(postgres), memory])
}

/// Another image and other resources reach every pod, one at a time.
pub async fn image(world: &World) -> Outcome {
    let before = uids(world).await?;
    patch(world, r#"{"image":"docker.io/library/postgres:17","resources":{"requests":{"memory":"96Mi"}}}"#)
        .await?;
    rolled(world, &before).await?;
    for node in NODES {
        let [_, image, memory] = runs(world, node).await?;
        ensure(image == "docker.io/library/postgres:17" && memory == "96Mi", || format!("{image} {memory}"))?;
    }
    Ok(())
}

/// An image that can't be had stops the roll at its first node, and the others go on.
pub async fn bad_image(world: &World) -> Outcome {
    let before = uids(world).await?;
    let record = world.record().await?;
    patch(world, r#"{"image":"docker.io/library/postgres:17-absent"}"#).await?;
    let stopped = stopped(world, &before, record.primary).await;
    patch(world, r#"{"image":"docker.io/library/postgres:17"}"#).await?;
    stopped?;
    load::unharmed(world).await
}

/// The roll stops at its first node, which is told; the primary stays.
async fn stopped(world: &World, before: &BTreeMap<u8, String>, first: u8) -> Outcome {
    let status = world
        .when("the roll to stop", ROLLED, |status| {
            status.conditions.iter().any(|c| c.reason == "RollingStopped" && c.message.contains("17-absent"))
        })
        .await?;
    let told = status.conditions.iter().find(|c| c.reason == "RollingStopped");
    println!("    {}", told.map(|c| c.message.clone()).unwrap_or_default());
    load::goes_on(world).await?;
    let now = uids(world).await?;
    let changed: Vec<&u8> =
        now.iter().filter(|(node, uid)| before.get(node) != Some(uid)).map(|(n, _)| n).collect();
    let kept = world.record().await?;
    ensure(changed.len() == 1 && kept.primary == first, || {
        format!("the pods of {changed:?} are new, node {} is the primary", kept.primary)
    })
}

/// What the agent of each node is, by the bytes of the program that runs.
async fn programs(world: &World) -> Outcome<BTreeMap<u8, String>> {
    let mut all = BTreeMap::new();
    for node in NODES {
        let pod = world.pods().get(&names::node_pod(POOL, node)).await?;
        all.insert(node, program_of(&pod).await?);
    }
    Ok(all)
}

/// Whether images are pulled by the chart's Secret.
fn pulls(spec: PodSpec) -> bool {
    spec.image_pull_secrets.unwrap_or_default().iter().any(|secret| secret.name == "login")
}

/// The operator is upgraded to another image: so is the agent of every node, one at a time. It is pulled as the chart says.
pub async fn operator(world: &World) -> Outcome {
    let fronts: Api<Deployment> = Api::namespaced(world.client.clone(), SPACE);
    for (tag, secret) in [("next", Some("imagePullSecrets[0].name=login")), ("dev", None)] {
        let old = programs(world).await?;
        let before = uids(world).await?;
        let image = format!("image.tag={tag}");
        let values: Vec<&str> = secret.into_iter().chain([image.as_str()]).collect();
        install::helm_with(world, &values).await?;
        rolled(world, &before).await?;
        for node in NODES {
            let [agent, ..] = runs(world, node).await?;
            ensure(agent.ends_with(&format!(":{tag}")), || format!("node {node} has the agent of {agent}"))?;
            let pod = world.pods().get(&names::node_pod(POOL, node)).await?.spec.unwrap_or_default();
            ensure(pulls(pod) == secret.is_some(), || format!("by what node {node} pulls with {values:?}"))?;
        }
        let front = fronts.get(&names::proxy(POOL)).await?.spec.and_then(|spec| spec.template.spec);
        ensure(pulls(front.unwrap_or_default()) == secret.is_some(), || {
            format!("by what fronts pull with {values:?}")
        })?;
        let new = programs(world).await?;
        let changed = NODES.iter().all(|node| new.get(node) != old.get(node) && new.get(node) == new.get(&0));
        ensure(changed, || format!("the agents that run: {old:?} became {new:?}"))?;
    }
    Ok(())
}

/// A parameter that is loaded, which is told; then one that needs a restart, and is lowered: the primary first, or no standby
/// could replay.
pub async fn parameter(world: &World) -> Outcome {
    let started = each(world, "SELECT pg_postmaster_start_time()").await?;
    patch(world, r#"{"postgres":{"parameters":{"work_mem":"5MB"}}}"#).await?;
    until("the new value on every node", ROLLED, || async {
        let said = each(world, "SELECT current_setting('work_mem')").await?;
        ensure(said.iter().all(|said| said == "5MB"), || format!("{said:?}"))
    })
    .await?;
    until("the event of what was loaded", WHOLE, || async {
        let told = world.events("ParametersLoaded").await?;
        ensure(told.iter().any(|note| note.ends_with(": work_mem")), || format!("{told:?}"))
    })
    .await?;
    let still = each(world, "SELECT pg_postmaster_start_time()").await?;
    ensure(still == started, || format!("a reload would have done: {started:?} became {still:?}"))?;
    patch(world, r#"{"postgres":{"parameters":{"max_connections":"150","work_mem":"5MB"}}}"#).await?;
    until("the new values on every node", ROLLED, || async {
        let said =
            each(world, "SELECT current_setting('max_connections') || ' ' || current_setting('work_mem')")
                .await?;
        ensure(said.iter().all(|said| said == "150 5MB"), || format!("{said:?}"))
    })
    .await?;
    load::unharmed(world).await?;
    let told = world.events("PostgresRestarts").await?;
    ensure(told.iter().any(|note| note.contains("max_connections")), || format!("{told:?}"))?;
    let told = world.events("ParametersLoaded").await?;
    ensure(!told.iter().any(|note| note.contains("max_connections")), || {
        format!("it took a restart: {told:?}")
    })
}

/// What each node says.
async fn each(world: &World, sql: &str) -> Outcome<Vec<String>> {
    let mut said = Vec::new();
    for node in NODES {
        said.push(world.psql(node, "postgres", sql).await?);
    }
    Ok(said)
}

/// A node less, and one more again.
pub async fn scale(world: &World) -> Outcome {
    patch(world, r#"{"nodes":2}"#).await?;
    world.when("two nodes", ROLLED, |status| attached(status) == [0, 1] && status.nodes.len() == 2).await?;
    load::goes_on(world).await?;
    patch(world, r#"{"nodes":3}"#).await?;
    world.whole(ROLLED).await?;
    load::unharmed(world).await
}
