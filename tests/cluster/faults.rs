//! What breaks by itself, under load. After each the pool is whole again without a hand.
use kube::ResourceExt as _;
use pgpool_operator::names;

use super::harness::{Failure, Outcome, ensure};
use super::pool::{WHOLE, attached, epoch, told};
use super::processes::{kill_if_there, kill_postgres, postmaster};
use super::world::{POOL, World, until};
use super::{changes, load};

/// Kills a node's Postgres, and waits until another runs and nothing was copied.
async fn restarted_in_place(world: &World, node: u8) -> Outcome {
    let before = world.incarnations().await?;
    let old = kill_postgres(world, node).await?;
    until("another Postgres", WHOLE, || async {
        let new = postmaster(world, node).await?;
        ensure(new != old, || "the old one is still there".to_owned())
    })
    .await?;
    // The node may have been out of the record for a moment; what counts is that the same copies are back.
    until("the same copies to be attached", WHOLE, || async {
        let after = world.incarnations().await?;
        ensure(before == after, || format!("{before:?} became {after:?}"))
    })
    .await?;
    load::unharmed(world).await
}

/// A standby's Postgres that is killed comes back by itself, without a copy.
pub async fn standby_killed(world: &World) -> Outcome {
    restarted_in_place(world, 1).await
}

/// Spoils the data of a node so that nothing but a copy helps.
pub async fn spoil(world: &World, node: u8) -> Outcome {
    let old = postmaster(world, node).await?;
    world.shell(node, "cd /var/lib/pgpool/pgdata && mv global global.lost && mv base base.lost").await?;
    // It may have ended by itself: the next page that it looks for is missing.
    kill_if_there(old)
}

/// Says whether recoveries begin by themselves.
async fn automatic(world: &World, wish: bool) -> Outcome {
    let patch = format!(r#"{{"spec":{{"recovery":{{"automatic":{wish}}}}}}}"#);
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch]).await.map(drop)
}

/// A standby whose files are lost waits for a person where people want that, who is told.
pub async fn recovery_by_hand(world: &World) -> Outcome {
    let before = world.status().await?;
    automatic(world, false).await?;
    let asked = asked_for(world).await;
    automatic(world, true).await?;
    asked?;
    world.recovered(2, &before).await?;
    load::unharmed(world).await
}

async fn asked_for(world: &World) -> Outcome {
    spoil(world, 2).await?;
    let needed = until("the event", WHOLE, || async {
        let events = world.events("RecoveryNeeded").await?;
        let own = events.into_iter().find(|note| note.contains("node 2") && note.contains("recover=2"));
        own.ok_or_else(|| Failure("nobody is told".to_owned()))
    })
    .await?;
    println!("    {needed}");
    load::goes_on(world).await?;
    let status = world.status().await?;
    ensure(attached(&status) == [0, 1] && status.recovery.is_none(), || told(&status))?;
    let unproved = world.ask("attach", "2").await?;
    ensure(!unproved.accepted && unproved.message.contains("use recover=2"), || format!("{unproved:?}"))?;
    world.ask_for("recover", "2").await
}

/// A standby whose files are lost is recovered without being asked; meanwhile no other recovery is taken on.
pub async fn data_lost(world: &World) -> Outcome {
    let (before, old) = (world.status().await?, world.incarnations().await?);
    spoil(world, 2).await?;
    world.when("a recovery to begin", WHOLE, |status| status.recovery.is_some()).await?;
    let second = world.ask("recover", "1").await?;
    ensure(!second.accepted && second.message.contains("one recovery at a time"), || {
        format!("a second recovery beside the first: {second:?}")
    })?;
    let status = world.recovered(2, &before).await?;
    load::unharmed(world).await?;
    let new = world.incarnations().await?;
    ensure(new.get(&2) != old.get(&2) && new.get(&1) == old.get(&1), || format!("{old:?} became {new:?}"))?;
    if let Some(last) = status.last_recovery {
        println!("    {} bytes in {:.1} s: {}", last.bytes, last.seconds, last.message);
    }
    Ok(())
}

/// The claim of a node, as the API server counts it, and the name of its volume.
pub async fn claim(world: &World, node: u8) -> Outcome<(String, String)> {
    let path = "jsonpath={.metadata.uid} {.spec.volumeName}";
    let said = world.here(&["get", "pvc", &names::claim(POOL, node), "-o", path]).await?;
    let (uid, volume) = said.split_once(' ').unwrap_or_default();
    Ok((uid.to_owned(), volume.to_owned()))
}

/// Node 1 gets another claim, and with it another copy.
async fn replaced(world: &World, lose: impl AsyncFnOnce(&str) -> Outcome) -> Outcome {
    let (before, old) = (world.status().await?, world.incarnations().await?);
    let (uid, volume) = claim(world, 1).await?;
    lose(&volume).await?;
    world.recovered(1, &before).await?;
    load::unharmed(world).await?;
    let new = world.incarnations().await?;
    ensure(new.get(&1) != old.get(&1), || format!("{old:?} became {new:?}"))?;
    let (now, _) = claim(world, 1).await?;
    ensure(now != uid, || "the claim is the old one".to_owned())
}

/// Deletes the claim of a node, and its pod, which keeps the claim.
pub async fn lose_claim(world: &World, node: u8) -> Outcome {
    for (kind, name) in [("pvc", names::claim(POOL, node)), ("pod", names::node_pod(POOL, node))] {
        world.here(&["delete", kind, &name, "--wait=false", "--ignore-not-found"]).await?;
    }
    Ok(())
}

/// A standby whose claim is gone gets a new one.
pub async fn volume_lost(world: &World) -> Outcome {
    replaced(world, async |_| lose_claim(world, 1).await).await
}

/// A claim whose volume is gone is proved lost: the operator deletes it, and makes another.
pub async fn claim_lost(world: &World) -> Outcome {
    replaced(world, async |volume| {
        world.kubectl(&["delete", "pv", volume, "--wait=false"]).await?;
        world
            .kubectl(&["patch", "pv", volume, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])
            .await?;
        world.here(&["delete", "pod", &names::node_pod(POOL, 1), "--wait=false"]).await.map(drop)
    })
    .await
}

/// A volume that a person gives up is replaced, once its node is detached.
pub async fn volume_replaced(world: &World) -> Outcome {
    let refused = world.ask("replace-volume", "1").await?;
    ensure(!refused.accepted && refused.message.contains("detach=1"), || format!("{refused:?}"))?;
    world.ask_for("detach", "1").await?;
    world.when("node 1 to leave", WHOLE, |status| attached(status) == [0, 2]).await?;
    replaced(world, async |_| world.ask_for("replace-volume", "1").await).await
}

/// Deletes every pod of the pool by force, fronts and nodes, and waits until others are there.
pub async fn every_pod_deleted(world: &World) -> Outcome {
    let (pods, fronts) = (changes::uids(world).await?, world.alive("proxy").await?);
    let all = format!("{}={POOL}", names::LABEL_POOL);
    world.here(&["delete", "pod", "--force", "--grace-period=0", "-l", &all]).await?;
    until("other pods of all nodes", WHOLE, || world.other_pods(&pods)).await?;
    until("other fronts", WHOLE, || async {
        let now = world.alive("proxy").await?;
        let old = now.iter().filter(|pod| fronts.iter().any(|front| front.uid() == pod.uid())).count();
        ensure(!now.is_empty() && old == 0, || format!("{old} of {} fronts are old ones", now.len()))
    })
    .await
}

/// All pods of the pool at once, one node being detached by wish: it stays so, the others serve.
pub async fn all_pods_deleted(world: &World) -> Outcome {
    world.ask_for("detach", "2").await?;
    let left = world.when("node 2 to leave", WHOLE, |status| attached(status) == [0, 1]).await?;
    every_pod_deleted(world).await?;
    load::goes_on(world).await?;
    let status = world
        .when("nodes 0 and 1 to serve", WHOLE, |status| {
            attached(status) == [0, 1] && epoch(status) >= epoch(&left) && status.recovery.is_none()
        })
        .await?;
    ensure(status.detached_by_wish == [2], || format!("node 2 doesn't stay out: {}", told(&status)))?;
    // It may have been ahead of the node that was chosen meanwhile: then only a recovery brings it back.
    let answer = world.ask("attach", "2").await?;
    if !answer.accepted {
        ensure(answer.message.contains("past the fork"), || format!("{answer:?}"))?;
        world.ask_for("recover", "2").await?;
    }
    load::unharmed(world).await
}
