//! The pool with every wish shall keep two nodes attached (`spec.failure.minAttached`, R15): what is refused, waits or stops for that.
use pgpool_operator::names;
use serde_json::json;

use super::harness::{Outcome, ensure};
use super::options::{ATTACHED, NOTHING, POOL, here, log_in, patched, secrets, shows, told};
use super::pool::WHOLE;
use super::processes::{freeze_pod, thaw};
use super::world::{World, until};

/// A limit that the pool doesn't have by itself, and that takes a restart.
const LIMIT: &str = "230";
/// The attached nodes, whatever the phase.
const NODES: &str = "{.status.membership.attached}";

/// The node that is the primary: after a failover, as on a busy machine, any may be.
async fn primary(world: &World) -> Outcome<u8> {
    let path = "jsonpath={.status.membership.primary}";
    Ok(here(world, &["get", "pgpool", POOL, "-o", path]).await?.parse()?)
}

/// What a node says.
async fn says(world: &World, node: u8, sql: &str) -> Outcome<String> {
    let pod = names::node_pod(POOL, node);
    here(world, &["exec", &pod, "-c", "postgres", "--", "psql", "-XAtqd", "shop", "-c", sql]).await
}

/// Asks for something of a node, as a person would.
async fn annotate(world: &World, name: &str, node: u8) -> Outcome {
    let annotation = format!("pgpool-operator.dev/{name}={node}");
    here(world, &["annotate", "pgpool", POOL, &annotation]).await.map(drop)
}

/// What would leave fewer than `minAttached` nodes is refused.
pub async fn kept_enough(world: &World) -> Outcome {
    let primary = primary(world).await?;
    let standby = 1 - primary;
    let asked = [("detach", standby), ("fence", standby), ("switchover", standby), ("detach", primary)];
    for (name, node) in asked {
        annotate(world, name, node).await?;
        let path = "jsonpath={.status.lastRequest.request}={.status.lastRequest.value} {.status.lastRequest.accepted} \
                    {.status.lastRequest.message}";
        until("an answer", WHOLE, || async {
            let answer = here(world, &["get", "pgpool", POOL, "-o", path]).await?;
            let refused =
                answer.starts_with(&format!("{name}={node} false")) && answer.contains("minAttached");
            ensure(refused, || answer.clone())
        })
        .await?;
    }
    Ok(())
}

/// A node that fails is removed also where too few stay (R15): then commits wait, which is told, until it is back. Reads are answered
/// meanwhile, by both Services.
pub async fn too_few(world: &World) -> Outcome {
    let (primary, secrets) = (primary(world).await?, secrets(world).await?);
    let pod = names::node_pod(POOL, 1 - primary);
    let uid = here(world, &["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"]).await?;
    let frozen = freeze_pod(&uid)?;
    let answered = async {
        let done = reads_go_on(world, primary, &secrets).await;
        thaw(&frozen);
        done
    };
    let written = async {
        told(world, "Degraded", "CommitsWait").await?;
        says(world, primary, "CREATE TABLE waited AS SELECT 1").await
    };
    let (answered, written) = tokio::join!(answered, written);
    written?;
    answered?;
    here(world, &["wait", "--for=jsonpath={.status.phase}=Ready", "pgpool", POOL, "--timeout=120s"]).await?;
    for node in [0, 1] {
        let count = says(world, node, "SELECT count(*) FROM waited").await?;
        ensure(count == "1", || format!("node {node} has {count} rows of the write that waited"))?;
    }
    Ok(())
}

/// Both Services answer a read while the write waits for another node, from before it to after it.
async fn reads_go_on(world: &World, primary: u8, secrets: &str) -> Outcome {
    until("the write to wait", 2 * WHOLE, || waits(world, primary)).await?;
    for host in [POOL.to_owned(), names::read_service(POOL)] {
        // The one before may not have given back its place yet: the user has but one.
        let asks = "psql -XAt -c 'SELECT session_user'";
        let said = until("a login", WHOLE, || log_in(&host, "report", secrets, asks)).await?;
        ensure(said == "report", || format!("{host} answers {said:?}"))?;
    }
    waits(world, primary).await
}

/// Fails unless the write waits for another node.
async fn waits(world: &World, primary: u8) -> Outcome {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'CREATE TABLE waited%'";
    let waiting = says(world, primary, sql).await?;
    ensure(waiting == "1", || format!("{waiting} such writes wait"))
}

/// PostgreSQL is restarted nowhere while that would leave too few nodes: the pool says so, and goes on once there is a node to spare.
pub async fn restart_waits(world: &World) -> Outcome {
    patched(world, &json!({"nodes": 3})).await?;
    shows(world, ATTACHED, "[0,1,2] Ready").await?;
    let (out, rest) = if primary(world).await? == 2 { (1, [0, 2]) } else { (2, [0, 1]) };
    annotate(world, "detach", out).await?;
    shows(world, NODES, &format!("[{},{}]", rest[0], rest[1])).await?;
    let stopped = stopped(world, rest).await;
    annotate(world, "attach", out).await?;
    stopped?;
    until("the new limit on every node", 2 * WHOLE, || async {
        for node in [0, 1, 2] {
            let limit = says(world, node, "SHOW max_connections").await?;
            ensure(limit == LIMIT, || format!("node {node} has {limit}"))?;
        }
        Ok(())
    })
    .await?;
    shows(world, ATTACHED, "[0,1,2] Ready").await
}

/// A limit is changed that takes a restart of these nodes, each of which knows of it; none is restarted, and people are told why.
async fn stopped(world: &World, nodes: [u8; 2]) -> Outcome {
    let since = "SELECT pg_postmaster_start_time()";
    let before = [says(world, nodes[0], since).await?, says(world, nodes[1], since).await?];
    patched(world, &json!({"postgres": {"parameters": {"max_connections": LIMIT}}})).await?;
    for words in ["RestartStopped", "spec.failure.minAttached (2)"] {
        told(world, "Progressing", words).await?;
    }
    for node in nodes {
        until("a restart to be pending", WHOLE, || async {
            let sql = "SELECT pending_restart FROM pg_settings WHERE name = 'max_connections'";
            let pending = says(world, node, sql).await?;
            ensure(pending == "t", || format!("node {node}: {pending}"))
        })
        .await?;
    }
    tokio::time::sleep(NOTHING).await;
    let after = [says(world, nodes[0], since).await?, says(world, nodes[1], since).await?];
    ensure(after == before, || format!("PostgreSQL was started at {before:?}, and at {after:?}"))?;
    let path = "jsonpath={.items[*].message}";
    let events =
        here(world, &["get", "events", "--field-selector=reason=RestartStopped", "-o", path]).await?;
    ensure(events.contains("spec.failure.minAttached (2)"), || format!("events: {events:?}"))
}
