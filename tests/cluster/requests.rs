//! What people ask for by annotation, under load.
use pgpool_operator::names;

use super::harness::{Outcome, ensure};
use super::load;
use super::pool::{WHOLE, attached, epoch, role, told};
use super::world::World;

/// A node that is detached stays so; attached again it needs no copy.
pub async fn detach_attach(world: &World) -> Outcome {
    for node in [2, 1] {
        let before = world.incarnations().await?;
        world.ask_for("detach", &node.to_string()).await?;
        let rest: Vec<u8> = [0, 1, 2].into_iter().filter(|other| *other != node).collect();
        world
            .when(&format!("node {node} to leave"), WHOLE, |status| {
                attached(status) == rest && status.detached_by_wish == [node]
            })
            .await?;
        load::goes_on(world).await?;
        let status = world.status().await?;
        ensure(attached(&status) == rest && status.recovery.is_none(), || {
            format!("node {node} doesn't stay out: {}", told(&status))
        })?;
        let label = role(&world.pods().get(&names::node_pod(world.pool, node)).await?);
        ensure(label == "detached", || format!("the role of node {node} is {label:?}"))?;
        world.ask_for("attach", &node.to_string()).await?;
        load::unharmed(world).await?;
        let after = world.incarnations().await?;
        ensure(before == after, || format!("copied without need: {before:?} became {after:?}"))?;
    }
    Ok(())
}

/// A recovery on request takes the cheapest copy that is proved to do: none, for a node that missed nothing.
pub async fn recover(world: &World) -> Outcome {
    for node in [1, 2] {
        let (before, old) = (world.status().await?, world.incarnations().await?);
        world.ask_for("recover", &node.to_string()).await?;
        let status = world.recovered(node, &before).await?;
        load::unharmed(world).await?;
        let new = world.incarnations().await?;
        ensure(new == old, || format!("{old:?} became {new:?}"))?;
        ensure(epoch(&status) > epoch(&before), || format!("it never left: {}", told(&status)))?;
        if let Some(last) = status.last_recovery {
            println!("    node {node}: {:.1} s: {}", last.seconds, last.message);
        }
    }
    Ok(())
}

/// What can't be done is refused with the reason, and changes nothing.
pub async fn refused(world: &World) -> Outcome {
    let before = world.status().await?;
    let cases = [
        ("recover", "9", "there is no node 9"),
        ("recover", "", "index of one node"),
        ("recover", "x", "index of one node"),
        ("recover", "1,2", "index of one node"),
        ("recover", "-1", "index of one node"),
        ("recover", "0", "primary"),
        ("fence", "x", "index of one node"),
        ("fence", "off", "no node is fenced"),
        ("switchover", "0", "the primary already"),
        ("switchover", "7", "there is no node 7"),
        ("restart", "later", "now"),
        ("detach", "3", "there is no node 3"),
        ("attach", "1", "attached already"),
        ("attach", "x", "index of one node"),
    ];
    for (request, value, reason) in cases {
        let answer = world.ask(request, value).await?;
        ensure(!answer.accepted && answer.message.contains(reason), || {
            format!("{request}={value}: {answer:?}, not a refusal that says {reason:?}")
        })?;
    }
    let after = world.status().await?;
    ensure(epoch(&after) == epoch(&before) && after.recovery.is_none(), || told(&after))?;
    let events = world.events("RequestRefused").await?;
    ensure(!events.is_empty(), || "no event tells of the refusals".to_owned())
}
