//! A machine is taken out of service for a while, by the commands that people type for that.
use std::collections::BTreeMap;

use pgpool_operator::api::v1alpha1::{NodeState, Record};
use pgpool_operator::names;
use serde_json::json;

use super::of_node;
use super::page::Page;
use crate::changes::evictable;
use crate::failover::taken_over;
use crate::faults::claim;
use crate::handover::handed_over;
use crate::harness::{Failure, Outcome, ensure, failed};
use crate::pool::{NODES, WHOLE};
use crate::world::{POOL, SPACE, World, until};
use crate::{load, machines};

/// What is told of a node whose volume keeps it to a machine that takes no pods.
const NO_MACHINE: &str = "its pod can't be scheduled";
/// The word of Kubernetes for a second eviction.
const REFUSED: &str = "would violate the pod's disruption budget";

/// The pool before the machine of its primary is taken out.
struct Before {
    record: Record,
    copies: BTreeMap<u8, String>,
    /// The claim of the primary, and its volume.
    claim: (String, String),
}

/// The machine of the primary is drained: the primary hands over, and waits for its machine, with its volume kept and nothing copied.
/// No other node can be evicted meanwhile. It is back without a copy once the machine takes pods again.
pub async fn drained(world: &World) -> Outcome {
    let page = Page::open("change")?;
    let old = machines::primary_away_from_load(world).await?;
    let machine = machines::of_node(world, old).await?;
    let before = Before {
        record: world.record().await?,
        copies: world.incarnations().await?,
        claim: claim(world, old).await?,
    };
    let values = [("MACHINE", machine.as_str())];
    evictable(world, 1).await?;
    let away = async {
        page.types("kubectl drain MACHINE", &values).await?;
        without_machine(world, &page, &before).await
    }
    .await;
    let open = page.types("kubectl uncordon MACHINE", &values).await;
    away?;
    open?;
    load::unharmed(world).await?;
    world.same_copies(&before.copies).await?;
    let (now, stands) = (machines::of_node(world, old).await?, claim(world, old).await?);
    ensure(now == machine && stands == before.claim, || format!("node {old} is on {now}: {stands:?}"))?;
    evictable(world, 1).await
}

/// What the page says, while the old primary waits for its machine.
async fn without_machine(world: &World, page: &Page, before: &Before) -> Outcome {
    let old = before.record.primary;
    taken_over(world, old).await?;
    page.says("A primary among them hands over before it stops")?;
    handed_over(world, &before.record, "its pod is being stopped").await?;
    told(world, page, old).await?;
    page.says(REFUSED)?;
    evictable(world, 0).await?;
    let record = world.record().await?;
    for node in NODES.into_iter().filter(|node| *node != old) {
        second_is_refused(world, node).await?;
    }
    load::goes_on(world).await?;
    let (status, now) = (world.status().await?, world.record().await?);
    let kept = status.recovery.is_none() && claim(world, old).await? == before.claim;
    ensure(kept && now.epoch == record.epoch && now.attached.len() + 1 == NODES.len(), || {
        format!("{record:?} became {now:?}, recovery {:?}", status.recovery)
    })
}

/// The pool tells that the node waits for its machine.
async fn told(world: &World, page: &Page, node: u8) -> Outcome {
    page.says("event `PodCannotStart`")?;
    page.says(NO_MACHINE)?;
    let status = world
        .when("the node to be told of as without a machine", WHOLE, |status| {
            of_node(status, node)
                .is_some_and(|its| its.state == NodeState::Unreachable && its.reason.starts_with(NO_MACHINE))
        })
        .await?;
    println!("    {}", of_node(&status, node).map(|its| its.reason.clone()).unwrap_or_default());
    let begins = format!("node {node}: pod {} can't start: {NO_MACHINE}", names::node_pod(POOL, node));
    until("the event", WHOLE, || async {
        let events = world.events("PodCannotStart").await?;
        ensure(events.iter().any(|note| note.starts_with(&begins)), || format!("{events:?}"))
    })
    .await
}

/// Another node isn't evicted. That is asked for once: a drain repeats what is refused until it is granted.
async fn second_is_refused(world: &World, node: u8) -> Outcome {
    let pod = names::node_pod(POOL, node);
    let path = format!("/api/v1/namespaces/{SPACE}/pods/{pod}/eviction");
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE},
    });
    match world.feed(&["create", "--raw", &path, "-f", "-"], &eviction.to_string()).await {
        Ok(said) => failed(format!("node {node} is evicted as well: {said}")),
        Err(Failure(words)) => ensure(words.contains(REFUSED), || words.clone()),
    }
}
