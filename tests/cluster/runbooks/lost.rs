//! A machine doesn't come back: its pods are let go, or it leaves the cluster with the volumes that were on it.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::NodeState;
use pgpool_operator::names;

use super::page::Page;
use super::{SILENT, of_node};
use crate::faults::claim;
use crate::harness::{Outcome, ensure, failed};
use crate::load;
use crate::machines::{self, standby_away_from_load};
use crate::pool::WHOLE;
use crate::processes::uid_of;
use crate::world::{POOL, RELEASE, SYSTEM, World, until};

/// Time until Kubernetes has let a pod of a lost machine go, which it looks for every 20 s, and not before 40 s have passed.
const LET_GO: Duration = Duration::from_secs(200);

/// A machine that is off is marked as out of service: the pod of its node ends, and starts where its volume is once the mark is
/// taken away.
pub async fn out_of_service(world: &World) -> Outcome {
    let page = Page::open("machine-lost")?;
    let node = standby_away_from_load(world).await?;
    let (machine, copies) = (machines::of_node(world, node).await?, world.incarnations().await?);
    let (pod, uid) = (names::node_pod(POOL, node), uid_of(world, node).await?);
    let values = [("MACHINE", machine.as_str())];
    operator_elsewhere(world, &machine).await?;
    machines::fault(&["kill", &machine]).await?;
    let ended = async {
        told(world, &page, node, &machine).await?;
        page.types("out-of-service=", &values).await?;
        until("Kubernetes to end the pod", LET_GO, || async {
            let now = world.pods().get_opt(&pod).await?.and_then(|pod| pod.metadata.uid);
            ensure(now.as_ref() != Some(&uid), || "the old one is there".to_owned())
        })
        .await?;
        load::goes_on(world).await
    }
    .await;
    machines::fault(&["start", &machine]).await?;
    let back = machines::ready(world, &machine).await;
    let cleared = page.types("out-of-service-", &values).await;
    ended?;
    back?;
    cleared?;
    load::unharmed(world).await?;
    let now = world.incarnations().await?;
    ensure(now == copies, || format!("copied without need: {copies:?} became {now:?}"))
}

/// A machine is removed from the cluster: the volume on it is held for lost, its claim is deleted, and the node is copied onto
/// another one. There are but three machines, so that is on the same, which joins anew.
pub async fn gone_for_good(world: &World) -> Outcome {
    let page = Page::open("machine-lost")?;
    let node = standby_away_from_load(world).await?;
    let machine = machines::of_node(world, node).await?;
    let (before, copies) = (world.status().await?, world.incarnations().await?);
    let (old, _) = claim(world, node).await?;
    operator_elsewhere(world, &machine).await?;
    machines::fault(&["kill", &machine]).await?;
    let replaced = async {
        told(world, &page, node, &machine).await?;
        page.types("delete node MACHINE", &[("MACHINE", machine.as_str())]).await?;
        until("another claim", LET_GO, || async {
            let (now, _) = claim(world, node).await?;
            ensure(now != old, || "the old one is there".to_owned())
        })
        .await?;
        given_up(world, &page, node).await?;
        load::goes_on(world).await
    }
    .await;
    machines::fault(&["start", &machine]).await?;
    let back = machines::ready(world, &machine).await;
    replaced?;
    back?;
    world.recovered(node, &before).await?;
    load::unharmed(world).await?;
    let now = world.incarnations().await?;
    ensure(now.get(&node) != copies.get(&node), || format!("{copies:?} became {now:?}"))
}

/// The machine isn't Ready, and the pool says of its node what the page says.
async fn told(world: &World, page: &Page, node: u8, machine: &str) -> Outcome {
    page.says(&format!("its state is `Unreachable`, with reason `{SILENT}`"))?;
    world
        .when("the node to be told of as lost", WHOLE, |status| {
            of_node(status, node)
                .is_some_and(|its| its.state == NodeState::Unreachable && its.reason == SILENT)
        })
        .await?;
    let machine = format!("node/{machine}");
    let unknown = ["wait", "--for=condition=Ready=Unknown", &machine, "--timeout=60s"];
    world.kubectl(&unknown).await.map(drop)
}

/// The event says why the volume is held for lost.
async fn given_up(world: &World, page: &Page, node: u8) -> Outcome {
    const WHY: &str = "which is no longer part of the cluster";
    page.says(WHY)?;
    let events = world.events("RecoveryStarted").await?;
    let told = |note: &&String| note.contains(&format!("recovery of node {node}")) && note.contains(WHY);
    let Some(event) = events.iter().find(told) else {
        return failed(format!("no event tells of it: {events:?}"));
    };
    println!("    {event}");
    Ok(())
}

/// The operator runs on another machine: else minutes pass until it is started elsewhere, before anything can be seen.
async fn operator_elsewhere(world: &World, machine: &str) -> Outcome {
    let (own, here) = (format!("app.kubernetes.io/instance={RELEASE}"), format!("spec.nodeName={machine}"));
    let deployment = format!("deployment/{RELEASE}");
    world.kubectl(&["cordon", machine]).await?;
    let moved = async {
        world.kubectl(&["-n", SYSTEM, "delete", "pod", "-l", &own, "--field-selector", &here]).await?;
        world.kubectl(&["-n", SYSTEM, "rollout", "status", &deployment, "--timeout=100s"]).await
    }
    .await;
    world.kubectl(&["uncordon", machine]).await?;
    moved.map(drop)
}
