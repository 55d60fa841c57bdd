//! A node is down, commits hang, a recovery fails, a person is called.
use pgpool_operator::api::v1alpha1::{Health, NodeState};
use pgpool_operator::names;
use rustix::process::Signal;

use super::page::Page;
use super::{SILENT, of_node, told_as};
use crate::failover::{primary, standby};
use crate::faults::spoil;
use crate::harness::{Outcome, ensure};
use crate::load;
use crate::pool::{NODES, WHOLE, attached, is_ready, role, told};
use crate::processes::{freeze, kill_agent, signal, startup_process, thaw};
use crate::world::{POOL, World, until};

/// Where the tablespace is that a pool can't have.
const ELSEWHERE: &str = "/var/lib/pgpool/elsewhere";
/// An index that no node of the pool has.
const STRANGER: u8 = 9;

/// A standby that doesn't answer, and one that is detached by wish, are told of as the page says, and come back.
pub async fn down(world: &World) -> Outcome {
    let (page, node) = (Page::open("node-down")?, standby(world).await?);
    let frozen = freeze(world, node).await?;
    let told = silent(world, &page, node).await;
    thaw(&frozen);
    told?;
    load::unharmed(world).await?;
    by_wish(world, &page, standby(world).await?).await
}

/// The status, the events and the label of the pod tell of a node that doesn't answer.
async fn silent(world: &World, page: &Page, node: u8) -> Outcome {
    for words in ["NodesMissing", "`Unreachable` (it doesn't)", "NodeDetached", "role=detached"] {
        page.says(words)?;
    }
    world
        .when("a node that doesn't answer", WHOLE, |status| {
            let seen = of_node(status, node)
                .is_some_and(|its| its.state == NodeState::Unreachable && its.reason == SILENT);
            seen && status.phase == Some(Health::Degraded) && told_as(status, "NodesMissing")
        })
        .await?;
    let pod = names::node_pod(POOL, node);
    until("the page's look at it", WHOLE, || async {
        let told = page.types("describe pgpool POOL", &[]).await?;
        let label = role(&world.pods().get(&pod).await?);
        let all = label == "detached" && told.contains(SILENT) && told.contains("NodeDetached");
        ensure(all, || format!("label {label:?}, {told}"))
    })
    .await?;
    load::goes_on(world).await
}

/// Detached by wish the pool is Ready all the same, and the node lets nobody in until it is asked back.
async fn by_wish(world: &World, page: &Page, node: u8) -> Outcome {
    page.says("`DetachedByWish` with phase `Ready`")?;
    page.says("`pgpool_node_open` is 0")?;
    let index = node.to_string();
    let values = [("K", index.as_str())];
    Page::open("change")?.types("detach=K", &values).await?;
    world
        .when("the node to leave", WHOLE, |status| {
            let detached = of_node(status, node).is_some_and(|its| its.state == NodeState::Detached);
            detached && status.phase == Some(Health::Ready) && told_as(status, "DetachedByWish")
        })
        .await?;
    let index = Page::open("README")?;
    until("its gate to be shut", WHOLE, || async {
        let said = index.asks("port-forward", "localhost:5481/metrics", &values).await?;
        ensure(said.lines().any(|line| line == "pgpool_node_open 0"), || said.clone())
    })
    .await?;
    load::goes_on(world).await?;
    asked_back(world, &values).await
}

/// The node is taken back by the page's command.
async fn asked_back(world: &World, values: &[(&str, &str)]) -> Outcome {
    Page::open("recovery-fails")?.types("recover=K", values).await?;
    load::unharmed(world).await
}

/// A standby replays nothing, so commits hang: the page shows them, and lets them go on without that node.
pub async fn hanging_commits(world: &World) -> Outcome {
    let (first, node) = (primary(world).await?, standby(world).await?);
    let index = node.to_string();
    let values = [("K", index.as_str())];
    let replay = startup_process(world, node).await?;
    signal(replay, Signal::STOP)?;
    let seen = async {
        looked_at(first).await?;
        Page::open("change")?.types("detach=K", &values).await?;
        world.when("the node to leave", WHOLE, |status| !attached(status).contains(&node)).await?;
        load::goes_on(world).await
    }
    .await;
    thaw(&[replay]);
    seen?;
    asked_back(world, &values).await
}

/// What the page looks at while commits hang and the primary is open.
async fn looked_at(first: u8) -> Outcome {
    let page = Page::open("nothing-writable")?;
    page.says("or by you with `detach=K`")?;
    let first = first.to_string();
    let values = [("P", first.as_str())];
    until("commits that hang", WHOLE, || async {
        let said = page.types("'SyncRep'", &values).await?;
        let waiting: u64 = said.lines().find_map(|line| line.trim().parse().ok()).unwrap_or_default();
        ensure(waiting > 0, || said.clone())
    })
    .await?;
    let standbys = page.types("from pg_stat_replication", &values).await?;
    ensure(standbys.contains("streaming") && standbys.contains("replay_lsn"), || standbys.clone())?;
    let record = page.types("get pgpoolmembership POOL -o wide", &[]).await?;
    ensure(record.contains("PRIMARY") && record.contains("Serving"), || record.clone())?;
    let nodes = page.types("range .status.nodes", &[]).await?;
    ensure(nodes.lines().count() == NODES.len() && nodes.contains("Attached"), || nodes.clone())?;
    let ready = page.asks("port-forward", "localhost:5481/readyz", &values).await?;
    ensure(ready.starts_with("primary in office"), || ready.clone())?;
    let log = page.types("logs POOL-P-0", &values).await?;
    ensure(!log.is_empty(), || "the primary has logged nothing".to_owned())
}

/// The volume of a standby says that it is another node's: the agent touches nothing and calls a person, and goes on by itself once
/// it is right.
pub async fn person(world: &World) -> Outcome {
    let page = Page::open("needs-person")?;
    page.says("the volume belongs to pool …` / `to node …")?;
    page.says("the agent goes on by itself")?;
    let (node, copies) = (standby(world).await?, world.incarnations().await?);
    renumber(world, node, node, STRANGER).await?;
    let told = async {
        kill_agent(world, node).await?;
        called(world, &page, node).await
    }
    .await;
    until("the file to be right again", WHOLE, || renumber(world, node, STRANGER, node)).await?;
    told?;
    load::unharmed(world).await?;
    let now = world.incarnations().await?;
    ensure(now == copies, || format!("copied without need: {copies:?} became {now:?}"))
}

/// Writes another index into the node file.
async fn renumber(world: &World, node: u8, from: u8, to: u8) -> Outcome {
    let script = format!(
        "cd /var/lib/pgpool/pgdata && grep -q '\"index\":{from},' pgpool_node.json && \
         sed -i 's/\"index\":{from},/\"index\":{to},/' pgpool_node.json"
    );
    world.shell(node, &script).await.map(drop)
}

/// Event, reason and probe of a node that calls a person; its PostgreSQL stays stopped, and nothing is copied over.
async fn called(world: &World, page: &Page, node: u8) -> Outcome {
    let why = format!("the volume belongs to node {STRANGER}, not to node {node}");
    let event = format!("node {node} needs a person: {why}");
    until("a person to be called", WHOLE, || async {
        let events = world.events("NeedsPerson").await?;
        ensure(events.contains(&event), || format!("{events:?}"))
    })
    .await?;
    println!("    {event}");
    load::goes_on(world).await?;
    let (status, pod) = (world.status().await?, world.pods().get(&names::node_pod(POOL, node)).await?);
    let reason = of_node(&status, node).map(|its| its.reason.as_str());
    let left_alone = reason == Some(why.as_str()) && !is_ready(&pod) && status.recovery.is_none();
    ensure(left_alone, || told(&status))?;
    let index = node.to_string();
    let log = page.types("logs POOL-K-0", &[("K", index.as_str())]).await?;
    ensure(!log.is_empty(), || "it has logged nothing".to_owned())
}

/// A recovery fails for a tablespace, which the page has dropped; asked again it ends well.
pub async fn failed_recovery(world: &World) -> Outcome {
    let (first, node, before) = (primary(world).await?, standby(world).await?, world.status().await?);
    for at in NODES {
        world.shell(at, &format!("mkdir -p {ELSEWHERE}")).await?;
    }
    world.psql(first, "postgres", &format!("CREATE TABLESPACE elsewhere LOCATION '{ELSEWHERE}'")).await?;
    let told = async {
        spoil(world, node).await?;
        refused(world, node).await
    }
    .await;
    world.psql(first, "postgres", "DROP TABLESPACE elsewhere").await?;
    told?;
    passed(world, &attached(&world.status().await?), first).await?;
    let index = node.to_string();
    Page::open("recovery-fails")?.types("recover=K", &[("K", index.as_str())]).await?;
    world.recovered(node, &before).await?;
    load::unharmed(world).await?;
    passed(world, &NODES, first).await?;
    for at in NODES {
        world.shell(at, &format!("rm -rf {ELSEWHERE}")).await?;
    }
    Ok(())
}

/// No node that starts has to go through the WAL before this once more: a tablespace of it wants its folder.
async fn passed(world: &World, nodes: &[u8], first: u8) -> Outcome {
    world.psql(first, "postgres", "CHECKPOINT").await?;
    // Acknowledged once every standby has the checkpoint.
    world.psql(first, "postgres", "CREATE TABLE passed (); DROP TABLE passed").await?;
    for at in nodes {
        world.psql(*at, "postgres", "CHECKPOINT").await?;
    }
    Ok(())
}

/// The recovery failed, and the page shows why.
async fn refused(world: &World, node: u8) -> Outcome {
    const WHY: &str = "the donor has tablespaces";
    let page = Page::open("recovery-fails")?;
    page.says(WHY)?;
    let status = world
        .when("the recovery to fail", WHOLE, |status| {
            let last = status.last_recovery.as_ref();
            last.is_some_and(|last| last.node == node && !last.succeeded && last.message.contains(WHY))
        })
        .await?;
    let id = status.last_recovery.map(|last| last.id).unwrap_or_default();
    let last = page.types("{.status.lastRecovery}", &[]).await?;
    println!("    {last}");
    ensure(last.contains(WHY), || last.clone())?;
    let jobs = page.types("get jobs", &[]).await?;
    ensure(jobs.contains(&names::recovery_job(POOL, node, &id)), || jobs.clone())?;
    let index = node.to_string();
    let log = page.types("logs job/", &[("K", index.as_str()), ("ID", id.as_str())]).await?;
    ensure(!log.is_empty(), || "the Job has logged nothing".to_owned())?;
    let events = world.events("RecoveryFailed").await?;
    let told = |note: &String| note.contains(WHY) && note.contains("it is tried again in 1 min");
    ensure(events.iter().any(told), || format!("{events:?}"))?;
    load::goes_on(world).await
}
