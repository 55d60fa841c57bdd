//! WAL that a node needs and only another one's archive has, and what archives keep while a node is copied.
use pgpool_operator::names;

use super::failover::{primary, standby};
use super::harness::{Failure, Outcome, ensure};
use super::load;
use super::pool::{NODES, WHOLE, attached};
use super::processes::postmaster;
use super::volumes::switch;
use super::world::{World, until};

/// Segments that the primary ends between two looks: it keeps some of the last ones, whoever needs them.
const SEGMENTS: usize = 4;

/// Whether a file is on a node's volume.
async fn is_there(world: &World, node: u8, path: &str) -> Outcome<bool> {
    let script = format!("if test -e /var/lib/pgpool/{path}; then echo yes; else echo no; fi");
    Ok(world.shell(node, &script).await? == "yes")
}

/// Whether a node's archive has a segment.
async fn archives(world: &World, node: u8, segment: &str) -> Outcome<bool> {
    is_there(world, node, &format!("archive/{}/{segment}.lz4", &segment[..8])).await
}

/// A standby that was stopped comes back by WAL that neither it nor the primary has any more, in its archive or elsewhere:
/// the third node's archive has it.
pub async fn of_another_node(world: &World) -> Outcome {
    world.whole(WHOLE).await?;
    let before = world.incarnations().await?;
    let (first, away) = (primary(world).await?, standby(world).await?);
    let third = NODES.into_iter().find(|node| ![first, away].contains(node));
    let third = third.ok_or_else(|| Failure("there is no third node".to_owned()))?;
    world.ask_for("fence", &away.to_string()).await?;
    let lacking = left_to_one(world, first, away, third).await;
    world.ask_for("fence", "off").await?;
    let segment = lacking?;
    load::unharmed(world).await?;
    let after = world.incarnations().await?;
    ensure(before == after, || format!("node {away} was copied: {before:?} became {after:?}"))?;
    let line = taken_from(world, away, third, &segment).await?;
    println!("    {line}");
    Ok(())
}

/// Sees to it that a segment which the stopped node lacks is in the third one's archive alone; gives its name.
async fn left_to_one(world: &World, first: u8, away: u8, third: u8) -> Outcome<String> {
    world.when("the fenced node to leave", WHOLE, |status| !attached(status).contains(&away)).await?;
    until("its PostgreSQL to stop", WHOLE, || async {
        let runs = postmaster(world, away).await.is_ok();
        ensure(!runs, || format!("the PostgreSQL of node {away} runs"))
    })
    .await?;
    // It is not whole yet, so whoever is stopped lacks the rest of it.
    let asks = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let segment = world.psql(first, "postgres", asks).await?;
    switch(world, first).await?;
    until("the segment in two archives", WHOLE, || async {
        for node in [first, third] {
            ensure(archives(world, node, &segment).await?, || format!("not in that of node {node}"))?;
        }
        Ok(())
    })
    .await?;
    // Whole segments, not the history of timelines. Those before it were archived before it.
    let whole = "?".repeat(24);
    world.shell(first, &format!("rm -f /var/lib/pgpool/archive/*/{whole}.lz4")).await?;
    until("the primary to have it no more", WHOLE, || forgotten(world, first, away, &segment)).await?;
    for (node, wanted) in [(first, false), (away, false), (third, true)] {
        let found = archives(world, node, &segment).await?;
        ensure(found == wanted, || format!("{segment} in the archive of node {node}: {found}"))?;
    }
    Ok(segment)
}

/// Whether the primary has removed a segment from where standbys stream it; it writes more, which lets it do so.
async fn forgotten(world: &World, first: u8, away: u8, segment: &str) -> Outcome {
    for _ in 0..SEGMENTS {
        switch(world, first).await?;
    }
    world.psql(first, "postgres", "CHECKPOINT").await?;
    // Its agent makes the slot anew, which then holds back what comes from the last checkpoint on.
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}' AND NOT active",
        names::slot(away)
    );
    world.psql(first, "postgres", &sql).await?;
    let kept = is_there(world, first, &format!("pgdata/pg_wal/{segment}")).await?;
    ensure(!kept, || format!("{segment} is in its pg_wal"))
}

/// The line in the log of a node by which it took a segment from the archive of another.
async fn taken_from(world: &World, node: u8, from: u8, segment: &str) -> Outcome<String> {
    let host = format!("{}.", names::node_pod(world.pool, from));
    let pod = names::node_pod(world.pool, node);
    let log = world.here(&["logs", &pod, "-c", "postgres", "--since=10m"]).await?;
    let told = |line: &&str| line.contains("another node's archive") && line.contains(segment);
    let line = log.lines().find(|line| told(line) && line.contains(&host));
    line.map(str::to_owned).ok_or_else(|| {
        let others: Vec<&str> = log.lines().filter(|line| line.contains(segment)).collect();
        Failure(format!("node {node} did not take {segment} from node {from}: {others:?}"))
    })
}

/// Waits until the archive of a node keeps what it gets whatever its age and size, or no longer does.
pub async fn keep_all(world: &World, node: u8, wish: bool) -> Outcome {
    until("the wish for archived WAL", WHOLE, || async {
        let policy = world.shell(node, "cat /var/lib/pgpool/archive/policy.json").await?;
        ensure(policy.contains("keepSince") == wish, || policy.clone())
    })
    .await
}
