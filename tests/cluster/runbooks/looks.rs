//! The pages that only look: the first look, who may read metrics, and what is logged while the API is away.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Record;
use pgpool_operator::names;

use super::page::Page;
use crate::failover::primary;
use crate::harness::{Outcome, ensure};
use crate::pool::{NODES, selector};
use crate::world::{POOL, RELEASE, SPACE, SYSTEM, World};
use crate::{load, machines};

/// How long the API is away: an agent reads the record every ten seconds.
const AWAY: Duration = Duration::from_secs(25);

/// The first look of the index, and the look at who may read metrics.
pub async fn first(world: &World) -> Outcome {
    let page = Page::open("README")?;
    let node = primary(world).await?;
    let row = page.types("get pgpool POOL -o wide", &[]).await?;
    ensure(row.contains(&names::node_pod(POOL, node)) && row.contains("Ready"), || row.clone())?;
    let told = page.types("describe pgpool POOL", &[]).await?;
    for words in ["Ready", "Progressing", "Degraded", "AllAttached", "Kubernetes Node:"] {
        ensure(told.contains(words), || format!("no {words}: {told}"))?;
    }
    let pods = page.types("get pods -L", &[]).await?;
    // Other pools may be there.
    let own = |line: &&str| line.starts_with(&format!("{POOL}-"));
    let roles = |role: &str| pods.lines().filter(own).filter(|line| line.trim_end().ends_with(role)).count();
    ensure(roles("primary") == 1 && roles("standby") == NODES.len() - 1, || pods.clone())?;
    let record = page.types("get pgpoolmembership POOL -o jsonpath", &[]).await?;
    let record: Record = serde_json::from_str(&record)?;
    ensure(record.primary == node && record.attached.len() == NODES.len(), || format!("{record:?}"))?;
    by_its_agent(&page, node).await?;
    readers(world).await
}

/// What the agent of the primary says itself, and its PostgreSQL.
async fn by_its_agent(page: &Page, node: u8) -> Outcome {
    let node = node.to_string();
    let values = [("K", node.as_str())];
    let log = page.types("logs POOL-K-0", &values).await?;
    ensure(!log.is_empty(), || "it has logged nothing".to_owned())?;
    let ready = page.asks("port-forward", "localhost:5481/readyz", &values).await?;
    ensure(ready.starts_with("primary in office"), || ready.clone())?;
    let metrics = page.asks("port-forward", "localhost:5481/metrics", &values).await?;
    ensure(metrics.lines().any(|line| line == "pgpool_node_open 1"), || metrics.clone())?;
    let standbys = page.types("select * from pg_stat_replication", &values).await?;
    ensure(standbys.matches("streaming").count() == NODES.len() - 1, || standbys.clone())
}

/// The policies let somebody read metrics only where the chart names somebody.
async fn readers(world: &World) -> Outcome {
    let page = Page::open("not-scraped")?;
    let policies = page.types("get networkpolicy", &[]).await?;
    let values = page.types("get values", &[]).await?;
    let port = format!("port: {}", names::HEALTH_PORT);
    ensure(policies.contains(&format!("port: {}", names::AGENT_PORT)), || policies.clone())?;
    ensure(policies.contains(&port) == values.contains("from:"), || format!("{values}\n{policies}"))?;
    load::unharmed(world).await
}

/// While the API is away clients notice nothing, and operator and agents log what the page says.
pub async fn api_away(world: &World) -> Outcome {
    let page = Page::open("api-away")?;
    machines::fault(&["stop", machines::API, "apiserver"]).await?;
    let outage = async {
        load::writes_go_on(world).await?;
        tokio::time::sleep(AWAY).await;
        load::writes_go_on(world).await
    }
    .await;
    machines::fault(&["start", machines::API, "apiserver"]).await?;
    machines::api_back(world).await?;
    machines::kubelets_anew(world).await?;
    outage?;
    let (operator, agents) = (format!("app.kubernetes.io/instance={RELEASE}"), selector("node"));
    for (space, pods, words) in [
        (SYSTEM, &operator, "lease not written"),
        (SPACE, &agents, "the record can't be read; the last one stands"),
    ] {
        page.says(words)?;
        let last = ["-n", space, "logs", "-l", pods, "--since=5m", "--tail=-1"];
        let mut log = world.kubectl(&last).await?;
        // An operator that lost its lease ends, and the next one has a log of its own. Where none has ended there is none before.
        log += &world
            .kubectl(&[&last[..], &["--previous", "--ignore-errors"]].concat())
            .await
            .unwrap_or_default();
        ensure(log.contains(words), || format!("nobody of {pods} has logged {words:?}"))?;
    }
    load::unharmed(world).await
}
