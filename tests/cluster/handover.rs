//! The primary leaves its office in order, under load, since its node or its pod goes.
use pgpool_operator::api::v1alpha1::Record;
use pgpool_operator::names;

use super::failover::{primary, taken_over};
use super::harness::{Outcome, ensure};
use super::pool::{NODES, WHOLE};
use super::world::{POOL, World};
use super::{changes, load, machines};

/// The primary of this record has handed over by its own word, for this reason: nobody had to find it silent.
async fn handed_over(world: &World, before: &Record, why: &str) -> Outcome {
    let words = format!("node {}, the primary, has stopped: {why}", before.primary);
    let status = world
        .when("the story of the handover", WHOLE, |status| {
            status.last_failover.as_ref().is_some_and(|last| last.timeline > before.timeline)
        })
        .await?;
    let last = status.last_failover.as_ref();
    let told = last.is_some_and(|last| last.from == before.primary && last.reason == words);
    ensure(told, || format!("not {words:?}: {last:?}"))
}

/// The primary's pod is deleted; it hands over first, so that nothing has to be copied.
pub async fn pod_deleted(world: &World) -> Outcome {
    let (before, copies) = (world.record().await?, world.incarnations().await?);
    world.here(&["delete", "pod", &names::node_pod(POOL, before.primary), "--wait=false"]).await?;
    taken_over(world, before.primary).await?;
    handed_over(world, &before, "its pod is being stopped").await?;
    load::unharmed(world).await?;
    world.same_copies(&copies).await
}

/// A node less, and one more again: the one that goes is the primary, and hands over first.
pub async fn primary_scaled_away(world: &World) -> Outcome {
    let [.., last] = NODES;
    let old = primary(world).await?;
    if old != last {
        machines::hand_over(world, old, last).await?;
    }
    let before = world.record().await?;
    changes::scale(world).await?;
    handed_over(world, &before, "a switchover was asked for").await?;
    let events = world.events("SwitchoverStarted").await?;
    let begins = format!("node {last} hands over to node ");
    let own = events.iter().any(|note| note.starts_with(&begins) && note.ends_with("is to be removed"));
    ensure(own, || format!("no event tells that it hands over: {events:?}"))
}
