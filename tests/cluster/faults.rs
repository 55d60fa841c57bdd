//! What breaks by itself, under load. After each the pool is whole again without a hand.
use pgpool_operator::names;

use super::harness::{Outcome, ensure};
use super::load;
use super::pool::{WHOLE, attached, epoch, told};
use super::processes::{kill_postgres, postmaster};
use super::world::{POOL, World, until};

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
    world.shell(node, "cd /var/lib/pgpool/pgdata && mv global global.lost && mv base base.lost").await?;
    kill_postgres(world, node).await.map(drop)
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

/// A standby whose claim and volume are gone gets new ones.
pub async fn volume_lost(world: &World) -> Outcome {
    let (before, old) = (world.status().await?, world.incarnations().await?);
    let claim = names::claim(POOL, 1);
    world.here(&["delete", "pvc", &claim, "--wait=false"]).await?;
    world.here(&["delete", "pod", &names::node_pod(POOL, 1), "--wait=false"]).await?;
    world.recovered(1, &before).await?;
    load::unharmed(world).await?;
    let new = world.incarnations().await?;
    ensure(new.get(&1) != old.get(&1), || format!("{old:?} became {new:?}"))
}

/// All pods of the pool at once, one node being detached by wish: it stays so, the others serve.
pub async fn all_pods_deleted(world: &World) -> Outcome {
    world.ask_for("detach", "2").await?;
    let left = world.when("node 2 to leave", WHOLE, |status| attached(status) == [0, 1]).await?;
    let nodes = super::pool::selector("node");
    world.here(&["delete", "pod", "--force", "--grace-period=0", "-l", &nodes]).await?;
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
