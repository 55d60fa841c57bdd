//! What people change of a running pool, under load: another primary, restarts, parameters, the number of nodes.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, EvictParams};
use pgpool_operator::api::v1alpha1::{Phase, Record};
use pgpool_operator::names;

use super::failover::{primary, standby, taken_over};
use super::front::figures;
use super::handover;
use super::harness::{Failure, Outcome, ensure, failed};
use super::install;
use super::load;
use super::pool::{NODES, WHOLE, attached};
use super::processes::program_of;
use super::world::{POOL, SPACE, World, until};

/// Time for a change that takes each node in turn.
const ROLLED: Duration = Duration::from_secs(300);
/// Longer than all that follows such a change may take.
const WATCHED: Duration = Duration::from_secs(900);
/// Events of a primary that changed though nobody wished for it: their reason, and more of what selects them.
const SURPRISES: &str = "PrimaryChanged,type=Warning";

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

/// The primary hands over to the node that is named, and the next one before it is detached; nothing is copied. Labels and columns
/// tell of it.
pub async fn switchover(world: &World) -> Outcome {
    let (old, copies) = (primary(world).await?, world.incarnations().await?);
    let to = standby(world).await?;
    world.ask_for("switchover", &to.to_string()).await?;
    let new = taken_over(world, old).await?;
    ensure(new == to, || format!("node {new} took over, not node {to}"))?;
    load::unharmed(world).await?;
    handover::primary_detached(world).await?;
    handover::shown(world).await?;
    world.same_copies(&copies).await
}

/// Waits until so many nodes may be evicted.
pub async fn evictable(world: &World, wanted: i32) -> Outcome {
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

/// The record before a roll, the pods of the nodes, the copies of the data that stand on them, and what was told of rolls.
struct Before {
    record: Record,
    pods: BTreeMap<u8, String>,
    copies: BTreeMap<u8, String>,
    begun: usize,
    anew: BTreeMap<u8, usize>,
}

impl Before {
    async fn of(world: &World) -> Outcome<Self> {
        Ok(Self {
            record: world.record().await?,
            pods: uids(world).await?,
            copies: world.incarnations().await?,
            begun: world.events("RollingStarted").await?.len(),
            anew: made_anew(world).await?,
        })
    }
}

/// Makes a change that takes every pod. Waits until each is another, that of the old primary last, and the pool is unharmed. All the
/// while at most one node was out, the primary handed over once, and nothing was copied.
async fn rolled(world: &World, before: &Before, change: impl Future<Output = Outcome>) -> Outcome {
    let seen = Mutex::new(Vec::new());
    // Every record, to the end of the roll.
    let watch = Box::pin(world.when_record("no record at all", WATCHED, |record| {
        note(&seen, record);
        false
    }));
    let roll = Box::pin(async {
        change.await?;
        until("every pod to be another", ROLLED, || world.other_pods(&before.pods)).await?;
        load::unharmed(world).await
    });
    tokio::select! {
        rolled = roll => rolled?,
        lost = watch => return lost.map(drop),
    }
    one_handover(&before.record, &seen.into_inner().unwrap_or_default())?;
    world.same_copies(&before.copies).await?;
    roll_is_told(world, before).await?;
    let mut made = BTreeMap::new();
    for node in NODES {
        made.insert(node, world.pods().get(&names::node_pod(POOL, node)).await?.creation_timestamp());
    }
    let (old, last) = (before.record.primary, made.values().max());
    ensure(made.get(&old) == last, || {
        format!("node {old} was the primary, and its pod not the last: {made:?}")
    })
}

/// How often events told of each node that its pod is made anew.
async fn made_anew(world: &World) -> Outcome<BTreeMap<u8, usize>> {
    let events = world.events("NodeRestarts").await?;
    let of = |node: u8| format!("the pod of node {node} is made anew");
    Ok(NODES
        .into_iter()
        .map(|node| (node, events.iter().filter(|note| **note == of(node)).count()))
        .collect())
}

/// Events tell that the roll began, and of each pod that it was made anew.
async fn roll_is_told(world: &World, before: &Before) -> Outcome {
    let (begun, anew) = (world.events("RollingStarted").await?, made_anew(world).await?);
    ensure(begun.len() > before.begun, || format!("no event tells that it began: {begun:?}"))?;
    let each = NODES.iter().all(|node| anew.get(node) > before.anew.get(node));
    ensure(each, || format!("events of pods that are made anew: {:?} became {anew:?}", before.anew))
}

/// Every pod is made anew, one at a time; the pool goes on.
pub async fn restart(world: &World) -> Outcome {
    let before = Before::of(world).await?;
    rolled(world, &before, world.ask_for("restart", "now")).await
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
    let before = Before::of(world).await?;
    let spec = r#"{"image":"docker.io/library/postgres:17","resources":{"requests":{"memory":"96Mi"}}}"#;
    rolled(world, &before, patch(world, spec)).await?;
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
        let before = Before::of(world).await?;
        let image = format!("image.tag={tag}");
        let values: Vec<&str> = secret.into_iter().chain([image.as_str()]).collect();
        rolled(world, &before, install::helm_with(world, &values)).await?;
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

/// Parameters: one that is reloaded, one that needs a restart, and that one again when it becomes lower: to what it is by itself.
pub async fn parameter(world: &World) -> Outcome {
    reloaded(world).await?;
    raised(world, "250").await?;
    lowered(world, "200").await
}

/// Standbys are restarted first, one at a time, then the primary hands over and starts anew as a standby.
async fn raised(world: &World, limit: &str) -> Outcome {
    let (before, started) = (world.record().await?, starts(world).await?);
    let surprises = world.events(SURPRISES).await?.len();
    let seen = Mutex::new(Vec::new());
    let watch = world.when_record("the old primary to be back", ROLLED, |record| {
        note(&seen, record);
        record.primary != before.primary && record.attached.len() == NODES.len()
    });
    tokio::try_join!(watch, connections(world, limit))?;
    shown(world, limit).await?;
    load::unharmed(world).await?;
    let order = started_in(world, &started).await?;
    ensure(order.last() == Some(&before.primary), || format!("{before:?}, started in the order {order:?}"))?;
    let seen = seen.into_inner().unwrap_or_default();
    let to = one_handover(&before, &seen)?;
    told_of(world, &before, to).await?;
    let after = world.events(SURPRISES).await?;
    ensure(after.len() == surprises, || format!("nobody wished for one of these: {after:?}"))
}

/// No standby may have less than its primary: that is restarted first, in place, and stays in office.
async fn lowered(world: &World, limit: &str) -> Outcome {
    let (before, started) = (world.record().await?, starts(world).await?);
    connections(world, limit).await?;
    shown(world, limit).await?;
    load::unharmed(world).await?;
    let (after, order) = (world.record().await?, started_in(world, &started).await?);
    let kept = (before.primary, before.timeline) == (after.primary, after.timeline);
    ensure(kept && order.first() == Some(&before.primary), || {
        format!("{before:?} became {after:?}, PostgreSQL was started in the order {order:?}")
    })
}

/// A parameter for which nothing is restarted.
async fn reloaded(world: &World) -> Outcome {
    let started = starts(world).await?;
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
    let still = starts(world).await?;
    ensure(still == started, || format!("a reload would have done: {started:?} became {still:?}"))
}

/// Changes `max_connections`.
async fn connections(world: &World, limit: &str) -> Outcome {
    let parameters = format!(r#"{{"max_connections":"{limit}","work_mem":"5MB"}}"#);
    patch(world, &format!(r#"{{"postgres":{{"parameters":{parameters}}}}}"#)).await
}

/// Waits until every node has that limit.
async fn shown(world: &World, limit: &str) -> Outcome {
    let wanted = format!("{limit} 5MB");
    until("the new values on every node", ROLLED, || async {
        let sql = "SELECT current_setting('max_connections') || ' ' || current_setting('work_mem')";
        let said = each(world, sql).await?;
        ensure(said.iter().all(|said| *said == wanted), || format!("{said:?}"))
    })
    .await
}

/// When PostgreSQL of each node was started, in seconds.
async fn starts(world: &World) -> Outcome<Vec<f64>> {
    let said = each(world, "SELECT extract(epoch FROM pg_postmaster_start_time())").await?;
    said.iter().map(|text| text.parse::<f64>().map_err(Failure::from)).collect()
}

/// The nodes in the order in which PostgreSQL was started since `before`, as it was on each.
async fn started_in(world: &World, before: &[f64]) -> Outcome<Vec<u8>> {
    let now = starts(world).await?;
    let anew = now.iter().zip(before).all(|(now, before)| now > before);
    ensure(anew, || format!("started at {before:?} before, and at {now:?}"))?;
    let mut order = NODES.to_vec();
    order.sort_by(|a, b| now[usize::from(*a)].total_cmp(&now[usize::from(*b)]));
    Ok(order)
}

/// Keeps each record once.
fn note(seen: &Mutex<Vec<Record>>, record: &Record) {
    if let Ok(mut seen) = seen.lock()
        && seen.last().is_none_or(|last| last.epoch != record.epoch)
    {
        seen.push(record.clone());
    }
}

/// Whether the primary changed once, by its own word and to the node that it named, and at most one node was out at any time;
/// gives the new primary.
fn one_handover(before: &Record, seen: &[Record]) -> Outcome<u8> {
    let told = || format!("{before:?} became {seen:?}");
    let elections: Vec<&Record> = seen.iter().filter(|record| record.phase == Phase::Electing).collect();
    let (&[election], Some(last)) = (elections.as_slice(), seen.last()) else { return failed(told()) };
    let word = election.primary == before.primary && election.stopped;
    let wished = election.successor == Some(last.primary) && last.timeline == before.timeline + 1;
    let fewest = seen.iter().map(|record| record.attached.len()).min().unwrap_or_default();
    ensure(word && wished && fewest + 1 >= NODES.len(), told)?;
    Ok(last.primary)
}

/// Whether people are told of the handover, and why there was one.
async fn told_of(world: &World, before: &Record, to: u8) -> Outcome {
    let from = before.primary;
    let status = world
        .when("the story of the handover", WHOLE, |status| {
            let last = status.last_failover.as_ref().filter(|last| last.timeline > before.timeline);
            last.is_some_and(|l| {
                (l.from, l.to) == (from, to) && l.reason.contains("a switchover was asked for")
            })
        })
        .await?;
    println!("    {} ms without a primary", status.last_failover.map_or(0, |last| last.millis));
    let begun = world.events("SwitchoverStarted").await?;
    let words = format!("node {from} hands over to node {to}: PostgreSQL of node {from} is to be restarted");
    ensure(begun.iter().any(|e| e.starts_with(&words) && e.ends_with("max_connections")), || {
        format!("{begun:?}")
    })?;
    let restarts = world.events("PostgresRestarts").await?;
    ensure(restarts.iter().any(|note| note.contains("max_connections")), || format!("{restarts:?}"))?;
    let reloads = world.events("ParametersLoaded").await?;
    ensure(!reloads.iter().any(|note| note.contains("max_connections")), || {
        format!("it took a restart: {reloads:?}")
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

/// A node less, and one more again. Fronts hear of both from the nodes, and stay.
pub async fn scale(world: &World) -> Outcome {
    let fronts = fronts(world).await?;
    patch(world, r#"{"nodes":2}"#).await?;
    world.when("two nodes", ROLLED, |status| attached(status) == [0, 1] && status.nodes.len() == 2).await?;
    until("events of the node that goes", WHOLE, || removal_is_told(world, 2)).await?;
    load::goes_on(world).await?;
    patch(world, r#"{"nodes":3}"#).await?;
    world.whole(ROLLED).await?;
    until("each front sends readers to three nodes", ROLLED, || async {
        let readers = figures(world, "pgpool_front_serving_nodes{route=\"read\"}").await?;
        ensure(readers == [3.0, 3.0], || format!("{readers:?}"))
    })
    .await?;
    let after = self::fronts(world).await?;
    ensure(fronts == after, || format!("the fronts {fronts:?} became {after:?}"))?;
    load::unharmed(world).await
}

/// Events tell that a node leaves the pool, and that it was removed and what became of its volume.
async fn removal_is_told(world: &World, node: u8) -> Outcome {
    let leaves = format!("node {node} is beyond spec.nodes and leaves the pool");
    let removed = format!("node {node} was removed; its volume stays (spec.storage.whenScaled is Retain)");
    for (reason, words) in [("NodeLeaves", leaves), ("NodeRemoved", removed)] {
        let told = world.events(reason).await?;
        ensure(told.contains(&words), || format!("no event {reason} says {words:?}: {told:?}"))?;
    }
    Ok(())
}

/// The fronts' containers: another one is another start.
async fn fronts(world: &World) -> Outcome<Vec<String>> {
    let pods = world.alive("proxy").await?;
    let containers =
        pods.iter().flat_map(|pod| pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()));
    let mut ids: Vec<String> = containers.filter_map(|container| container.container_id.clone()).collect();
    ids.sort_unstable();
    Ok(ids)
}
