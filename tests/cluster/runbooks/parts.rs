//! The operator and the fronts are away; and the changes that a person asks for.
use kube::ResourceExt as _;
use pgpool_operator::api::v1alpha1::Health;
use pgpool_operator::names;

use super::page::Page;
use super::{of_node, told_as};
use crate::alone::scale_operator;
use crate::failover::{primary, standby, taken_over};
use crate::faults::claim;
use crate::harness::{Outcome, ensure};
use crate::load;
use crate::pool::{NODES, WHOLE, attached};
use crate::processes::{freeze_pod, thaw};
use crate::world::{POOL, RELEASE, World, until};

/// No operator is there: the pool goes on, requests wait, and are answered once it is back.
pub async fn operator_down(world: &World) -> Outcome {
    let page = Page::open("operator-down")?;
    page.says("Annotations are not answered")?;
    let (node, before) = (standby(world).await?, world.status().await?);
    scale_operator(world, "0").await?;
    let away = without_operator(world, &page, node).await;
    scale_operator(world, "1").await?;
    away?;
    let answered = world
        .when("the request to be answered", WHOLE, |status| {
            let asked_before = before.last_request.as_ref().map(|answer| answer.at);
            let last = status.last_request.as_ref();
            last.is_some_and(|last| last.request == "recover" && Some(last.at) != asked_before)
        })
        .await?;
    ensure(answered.last_request.is_some_and(|last| last.accepted), || "it was refused".to_owned())?;
    until("an operator that leads", WHOLE, || async {
        let lease = page.types("get lease", &[]).await?;
        ensure(lease.contains(&format!("holderIdentity: {RELEASE}-")), || lease.clone())
    })
    .await?;
    let log = page.types("logs -l", &[]).await?;
    ensure(log.contains("leading"), || log.clone())?;
    let pods = page.types("describe pod", &[]).await?;
    ensure(pods.contains("Running"), || pods.clone())?;
    world.recovered(node, &before).await?;
    load::unharmed(world).await
}

/// What the page shows, and what waits, while no operator is there.
async fn without_operator(world: &World, page: &Page, node: u8) -> Outcome {
    until("no pod of the operator", WHOLE, || async {
        let pods = page.types("get pods -A", &[]).await?;
        ensure(pods.is_empty(), || pods.clone())
    })
    .await?;
    let index = node.to_string();
    Page::open("recovery-fails")?.types("recover=K", &[("K", index.as_str())]).await?;
    load::goes_on(world).await?;
    let (record, asked) = (world.record().await?, annotations(world).await?);
    let waits = asked.contains("/recover") && record.attached.len() == NODES.len();
    ensure(waits, || format!("{asked}; {record:?}"))
}

/// What stands on the pool for the operator to answer.
async fn annotations(world: &World) -> Outcome<String> {
    world.here(&["get", "pgpool", POOL, "-o", "jsonpath={.metadata.annotations}"]).await
}

/// No front is ready: that is told as the page says, and all is well once they are.
pub async fn front_down(world: &World) -> Outcome {
    let page = Page::open("front-refuses")?;
    page.says("phase `Unavailable`, reason `FrontDown`")?;
    let fronts = world.alive("proxy").await?;
    ensure(!fronts.is_empty(), || "there is no front".to_owned())?;
    let mut frozen = Vec::new();
    for front in &fronts {
        frozen.extend(freeze_pod(&front.uid().unwrap_or_default())?);
    }
    let told = async {
        world
            .when("the fronts to be told of as down", WHOLE, |status| {
                status.phase == Some(Health::Unavailable) && told_as(status, "FrontDown")
            })
            .await?;
        let pods = page.types("part=proxy", &[]).await?;
        ensure(pods.matches("0/1").count() == fronts.len(), || pods.clone())
    }
    .await;
    thaw(&frozen);
    told?;
    load::unharmed(world).await?;
    let ready = page.asks("port-forward", "localhost:5481/readyz", &[]).await?;
    ensure(ready == "ok", || ready.clone())
}

/// A switchover and a fence, by the page's commands; what is under way is seen by its first one.
pub async fn changes(world: &World) -> Outcome {
    let page = Page::open("change")?;
    let rest = page.types("Progressing", &[]).await?;
    ensure(rest.contains("AtRest"), || rest.clone())?;
    let (old, to) = (primary(world).await?, standby(world).await?);
    let before = world.status().await?.last_request.map(|answer| answer.at);
    let index = to.to_string();
    page.types("switchover=K", &[("K", index.as_str())]).await?;
    let new = taken_over(world, old).await?;
    ensure(new == to, || format!("node {new} took over, not node {to}"))?;
    page.says("`status.lastRequest.outcome` says the same")?;
    let told = world
        .when("the outcome of the switchover", WHOLE, |status| {
            let last = status.last_request.as_ref();
            last.is_some_and(|last| Some(last.at) != before && last.outcome.is_some())
        })
        .await?;
    let outcome = told.last_request.and_then(|last| last.outcome).unwrap_or_default();
    println!("    {outcome}");
    until("the event", WHOLE, || async {
        let events = world.events("SwitchoverFinished").await?;
        ensure(events.contains(&outcome), || format!("{events:?}"))
    })
    .await?;
    load::unharmed(world).await?;
    fenced(world, &page, standby(world).await?).await
}

/// A node is fenced, and its fence lifted.
async fn fenced(world: &World, page: &Page, node: u8) -> Outcome {
    let index = node.to_string();
    page.types("fence=K", &[("K", index.as_str())]).await?;
    world
        .when("the fenced node to be told of", WHOLE, |status| {
            let told = of_node(status, node)
                .is_some_and(|its| its.reason.contains("its PostgreSQL is kept stopped"));
            told && !attached(status).contains(&node) && status.fenced == [node]
        })
        .await?;
    load::goes_on(world).await?;
    // Its pod and its volume are left to look at.
    let left = world.shell(node, "ls /var/lib/pgpool/pgdata/pgpool_node.json").await?;
    ensure(!left.is_empty(), || format!("nothing is left of {}", names::node_pod(POOL, node)))?;
    page.types("fence=off", &[]).await?;
    load::unharmed(world).await
}

/// A node is given a new volume by the two commands of the page, as where a claim can't grow.
pub async fn new_volume(world: &World) -> Outcome {
    let page = Page::open("change")?;
    let (node, before) = (standby(world).await?, world.status().await?);
    let (old, copies) = (claim(world, node).await?, world.incarnations().await?);
    let index = node.to_string();
    let values = [("K", index.as_str())];
    page.types("detach=K", &values).await?;
    world.when("the node to leave", WHOLE, |status| !attached(status).contains(&node)).await?;
    page.types("replace-volume=K", &values).await?;
    world.recovered(node, &before).await?;
    load::unharmed(world).await?;
    let (now, stands) = (claim(world, node).await?, world.incarnations().await?);
    ensure(now != old && stands.get(&node) != copies.get(&node), || format!("{old:?} became {now:?}"))
}
