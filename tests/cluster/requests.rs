//! What people ask for by annotation, under load.
use pgpool_operator::names;

use super::harness::{Outcome, ensure};
use super::load;
use super::pool::{WHOLE, attached, epoch, is_ready, role, told};
use super::world::{World, until};

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
        until("its pod to say that it doesn't serve", WHOLE, || async {
            let pod = world.pods().get(&names::node_pod(world.pool, node)).await?;
            ensure(!is_ready(&pod), || "it is ready".to_owned())
        })
        .await?;
        world.ask_for("attach", &node.to_string()).await?;
        load::unharmed(world).await?;
        for (reason, words) in [
            ("RequestAccepted", format!("detach={node}")),
            ("NodeDetached", format!("node {node} is detached")),
            ("NodeAttached", format!("node {node} is attached")),
        ] {
            tells(world, reason, &words).await?;
        }
        let after = world.incarnations().await?;
        ensure(before == after, || format!("copied without need: {before:?} became {after:?}"))?;
    }
    Ok(())
}

/// An event with this reason has these words.
async fn tells(world: &World, reason: &str, words: &str) -> Outcome {
    let all = world.events(reason).await?;
    ensure(all.iter().any(|note| note.contains(words)), || {
        format!("no event {reason} has {words:?}: {all:?}")
    })
}

/// What the status says of each node, and of how far they are apart.
async fn described(world: &World) -> Outcome {
    until("the nodes' positions", WHOLE, || async {
        let status = world.status().await?;
        for node in &status.nodes {
            let place = node.kubernetes_node.is_some() && node.timeline.is_some() && node.lsn.is_some();
            let lag = node.primary || (node.lag_bytes.is_some() && node.lag_seconds.is_some());
            ensure(place && lag, || format!("{node:?}"))?;
        }
        ensure(status.lag.is_some(), || "the status says nothing of the lag".to_owned())
    })
    .await
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
        tells(world, "RecoveryStarted", &format!("node {node}")).await?;
        tells(world, "RecoveryFinished", &format!("node {node} is attached again")).await?;
    }
    described(world).await
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
        ("fence", "0", "node 0 is the primary: hand over first"),
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
    let same = epoch(&after) == epoch(&before) && after.recovery.is_none() && after.fenced.is_empty();
    ensure(same, || told(&after))?;
    // The last answer may stand in status a moment before its event is there.
    until("an event of each refusal", WHOLE, || async {
        let events = world.events("RequestRefused").await?;
        for (request, value, reason) in cases {
            let begins = format!("{request}={value}: ");
            let own = events.iter().any(|note| note.starts_with(&begins) && note.contains(reason));
            ensure(own, || format!("no event refuses {begins}{reason}: {events:?}"))?;
        }
        Ok(())
    })
    .await
}
