//! What breaks by itself, under load. After each the pool is whole again without a hand.
use std::fs;
use std::time::Duration;

use kube::ResourceExt as _;
use pgpool_operator::api::v1alpha1::RecoveryStage;
use pgpool_operator::names;
use rustix::process::{Pid, Signal, kill_process};

use super::harness::{Failure, Outcome, ensure};
use super::load;
use super::pool::{WHOLE, attached, epoch, told};
use super::world::{POOL, SYSTEM, World, until};

/// A recovery that failed is tried again after a minute, and then takes its time.
const AFTER_BACK_OFF: Duration = Duration::from_secs(300);

/// The postmaster of a node, as the host numbers it: a `postgres` in the pod's own cgroup that the agent started.
async fn postmaster(world: &World, node: u8) -> Outcome<i32> {
    let uid = world.pods().get(&names::node_pod(POOL, node)).await?.uid().unwrap_or_default();
    let read = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let parent = |pid: i32| -> Option<i32> {
        let stat = read(pid, "stat");
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let found = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| read(*pid, "comm").trim() == "postgres" && read(*pid, "cgroup").contains(&uid))
        .find(|pid| parent(*pid).is_some_and(|parent| read(parent, "comm").starts_with("pgpool-operator")));
    found.ok_or_else(|| Failure(format!("node {node} has no postmaster")))
}

/// Kills a node's Postgres as the kernel would for want of memory; gives the number that it had.
async fn kill_postgres(world: &World, node: u8) -> Outcome<i32> {
    let number = postmaster(world, node).await?;
    let pid = Pid::from_raw(number).ok_or_else(|| Failure("no process".to_owned()))?;
    kill_process(pid, Signal::KILL)?;
    Ok(number)
}

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

/// The primary's Postgres that is killed is started again, behind the gate.
pub async fn primary_killed(world: &World) -> Outcome {
    restarted_in_place(world, 0).await
}

/// Spoils the data of a node so that nothing but a copy helps.
async fn spoil(world: &World, node: u8) -> Outcome {
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

/// Whatever a recovery is doing when the operator goes away, it ends well.
pub async fn operator_deleted(world: &World) -> Outcome {
    for stage in [RecoveryStage::Stopping, RecoveryStage::Copying, RecoveryStage::CatchingUp] {
        let before = world.status().await?;
        spoil(world, 2).await?;
        world.in_stage(2, stage).await?;
        let operator = ["-l", "app.kubernetes.io/instance=pgpool-operator"];
        world
            .kubectl(
                &[&["-n", SYSTEM, "delete", "pod", "--force", "--grace-period=0"], &operator[..]].concat(),
            )
            .await?;
        world.recovered(2, &before).await?;
        load::goes_on(world).await?;
        println!("    gone while {stage:?}: recovered");
    }
    load::unharmed(world).await
}

/// A recovery whose Job is killed in the middle is begun again.
pub async fn job_killed(world: &World) -> Outcome {
    let before = world.status().await?;
    spoil(world, 1).await?;
    world.in_stage(1, RecoveryStage::Copying).await?;
    let jobs = super::pool::selector("recovery");
    world.here(&["delete", "pod", "--force", "--grace-period=0", "-l", &jobs]).await?;
    let old = before.last_recovery.map(|last| last.id);
    world
        .when("a recovery that succeeds", AFTER_BACK_OFF, |status| {
            super::pool::is_whole(status)
                && status.last_recovery.as_ref().is_some_and(|l| l.succeeded && Some(&l.id) != old.as_ref())
        })
        .await?;
    load::unharmed(world).await
}

/// All pods of the pool at once, one node being detached by wish: it stays so, the others serve.
pub async fn all_pods_deleted(world: &World) -> Outcome {
    let copies = world.incarnations().await?;
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
    world.ask_for("attach", "2").await?;
    load::unharmed(world).await?;
    let after = world.incarnations().await?;
    ensure(copies == after, || format!("copied without need: {copies:?} became {after:?}"))
}
