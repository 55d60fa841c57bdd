//! The primary leaves its office in order, under load, since its node or its pod goes, or a person detaches it.
use pgpool_operator::api::v1alpha1::Record;
use pgpool_operator::names;

use super::failover::{primary, taken_over};
use super::harness::{Outcome, ensure};
use super::pool::{NODES, WHOLE, attached, role};
use super::world::{POOL, World, until};
use super::{changes, load, machines};

/// The primary of this record has handed over by its own word, for this reason: nobody had to find it silent.
pub async fn handed_over(world: &World, before: &Record, why: &str) -> Outcome {
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

/// The primary is detached: it hands over first, and stays out until it is asked back, which takes no copy.
pub async fn primary_detached(world: &World) -> Outcome {
    let (before, copies) = (world.record().await?, world.incarnations().await?);
    let (old, index) = (before.primary, before.primary.to_string());
    // The operator may be at the end of the switchover before.
    until("the primary to be asked to leave", WHOLE, || world.ask_for("detach", &index)).await?;
    let new = taken_over(world, old).await?;
    world
        .when("the old primary to leave", WHOLE, |status| {
            status.detached_by_wish == [old] && !attached(status).contains(&old)
        })
        .await?;
    handed_over(world, &before, "a switchover was asked for").await?;
    let (begins, ends) = (
        format!("node {new} is the primary now, node {old} was"),
        format!("node {old} leaves the pool and stays out until it is asked back"),
    );
    until("the event", WHOLE, || async {
        let events = world.events("SwitchoverFinished").await?;
        let own = events.iter().any(|note| note.starts_with(&begins) && note.ends_with(&ends));
        ensure(own, || format!("no event says {begins:?} and {ends:?}: {events:?}"))
    })
    .await?;
    load::goes_on(world).await?;
    labelled(world).await?;
    // It is refused until it is proved that the node missed nothing.
    until("the old primary to be taken back", WHOLE, || world.ask_for("attach", &index)).await?;
    load::unharmed(world).await?;
    world.same_copies(&copies).await
}

/// What the record says of a node, as the label of its pod has it.
fn said_of(record: &Record, node: u8) -> &'static str {
    if record.attached.iter().all(|member| member.index != node) {
        "detached"
    } else if record.primary == node {
        "primary"
    } else {
        "standby"
    }
}

/// The label of each node's pod says what the record does.
async fn labelled(world: &World) -> Outcome {
    until("the role labels to be as the record", WHOLE, || async {
        let record = world.record().await?;
        for node in NODES {
            let label = role(&world.pods().get(&names::node_pod(POOL, node)).await?);
            let said = said_of(&record, node);
            ensure(label == said, || {
                format!("the role of node {node} is {label:?}, not {said:?}: {record:?}")
            })?;
        }
        Ok(())
    })
    .await
}

/// Labels say who the primary is, and the columns for people tell of the last change.
pub async fn shown(world: &World) -> Outcome {
    labelled(world).await?;
    until("the epoch and the last failover in their columns", WHOLE, || async {
        let epoch = world.record().await?.epoch.to_string();
        let table = world.here(&["get", "pgpool", POOL, "-o", "wide"]).await?;
        let ago = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
        let known =
            under(&table, "EPOCH") == Some(epoch.as_str()) && under(&table, "LAST FAILOVER").is_some_and(ago);
        ensure(known, || format!("epoch {epoch}; {table}"))
    })
    .await
}

/// What stands in a column of the only row of kubectl's table: each begins where its head does.
fn under<'t>(table: &'t str, head: &str) -> Option<&'t str> {
    let (heads, row) = table.split_once('\n')?;
    row.get(heads.find(head)?..)?.split_whitespace().next()
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
