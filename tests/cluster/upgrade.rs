//! The operator is upgraded from its first release under load, as docs/runbooks/change.md says: definitions, operator, fronts and
//! agents become today's, the nodes one at a time, and the pool goes on with what that release has made.
//!
//! Where the sources of that release are named, its chart is what the scenario begins with, and not today's
//! ([`install::begin`]): the older definitions come first, and no operator of today has seen the pool.
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pgpool_operator::api::v1alpha1::PgPoolStatus;
use serde_json::json;
use tokio::time::Instant;

use super::failover::standby;
use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::{NODES, WHOLE, attached, selector};
use super::processes::program_of;
use super::world::{RELEASE, SPACE, SYSTEM, World, checkout, until};
use super::{changes, install, load, manifests};

/// Names the folder of the first release's sources.
const SOURCES: &str = "PGPOOL_FIRST_RELEASE";
/// The image of that release.
const FIRST: &str = "image.tag=first";
/// Today's.
const TODAY: &str = "image.tag=dev";
/// Pods that run our program: the operator, the nodes, two fronts.
const PODS: usize = 1 + NODES.len() + 2;
/// Time until all of them run today's: the nodes are taken in turn, and each front lets its sessions end.
const UPGRADED: Duration = Duration::from_secs(400);

/// The folder of the first release's sources, where an upgrade from it was asked for.
pub fn sources() -> Option<PathBuf> {
    env::var_os(SOURCES).map(PathBuf::from)
}

/// Installs the chart of the first release, and its definitions with it.
pub async fn begin(world: &World, sources: &Path) -> Outcome {
    install::helm_of(world, &sources.join(install::CHART), &[FIRST]).await
}

/// The upgrade; then a switchover and two recoveries under the new operator; then the verdict on all that was written and read since
/// the first release.
pub async fn from_the_first_release(world: &World) -> Outcome {
    let Some(sources) = sources() else {
        return failed(format!("{SOURCES} isn't set: `cargo xtask test cluster::upgrade::` does it"));
    };
    let done = Box::pin(upgraded(world, &sources)).await;
    // Whatever failed, what was lost by then is told, too.
    let judged = Box::pin(judged(world)).await;
    match (done, judged) {
        (Err(Failure(first)), Err(Failure(second))) => failed(format!("{first}\n    {second}")),
        (done, judged) => done.and(judged),
    }
}

async fn upgraded(world: &World, sources: &Path) -> Outcome {
    let copies = world.incarnations().await?;
    brought_up_to_date(world).await?;
    let now = world.incarnations().await?;
    ensure(now == copies, || format!("copied without need: {copies:?} became {now:?}"))?;
    manifests_are_taken(world, sources).await?;
    changes::switchover(world).await?;
    recovered(world).await?;
    copied(world).await
}

async fn judged(world: &World) -> Outcome {
    load::judge(world).await?;
    load::registers(world).await
}

/// The chart is upgraded, and waits for the operator; that takes fronts and nodes along, and says when it is done.
async fn brought_up_to_date(world: &World) -> Outcome {
    let old = until("one program in all pods", WHOLE, || one_program(world)).await?;
    let (stood, since) = (load::longest_stall(world).await?, Instant::now());
    helm_upgrade(world).await?;
    let operator = since.elapsed();
    let new = until("today's program in all pods", UPGRADED, || async {
        let new = one_program(world).await?;
        ensure(new != old, || format!("all run {old}, the first release's"))?;
        Ok(new)
    })
    .await?;
    until("the operator to say that it is done", WHOLE, || async {
        let told = world.events("RollingFinished").await?;
        ensure(!told.is_empty(), || "no event RollingFinished".to_owned())
    })
    .await?;
    load::unharmed(world).await?;
    let stall = load::longest_stall(world).await?;
    println!(
        "    program {old} became {new}: the operator's after {:.0} s, all after {:.0} s",
        operator.as_secs_f64(),
        since.elapsed().as_secs_f64()
    );
    println!("    longest time without an acknowledgement: {stood} ms before, {stall} ms by then");
    Ok(())
}

/// As a person upgrades it.
async fn helm_upgrade(world: &World) -> Outcome {
    let chart = checkout(install::CHART).display().to_string();
    let upgrade = ["upgrade", RELEASE, &chart, "--namespace", SYSTEM, "--reset-then-reuse-values"];
    world.helm(&[&upgrade[..], &["--set", TODAY, "--wait", "--timeout", "2m"]].concat()).await?;
    install::established(world).await
}

/// The program that the operator, all nodes and all fronts run, those that are going among them.
async fn one_program(world: &World) -> Outcome<String> {
    let all = programs(world).await?;
    let kinds: BTreeSet<&String> = all.values().collect();
    match kinds.first() {
        Some(only) if kinds.len() == 1 && all.len() == PODS => Ok((*only).clone()),
        _ => failed(format!("{all:?}")),
    }
}

/// The program of each pod, by the first digits of its digest.
async fn programs(world: &World) -> Outcome<BTreeMap<String, String>> {
    let operators: Api<Pod> = Api::namespaced(world.client.clone(), SYSTEM);
    let operator = format!("app.kubernetes.io/instance={RELEASE}");
    let mut pods = operators.list(&ListParams::default().labels(&operator)).await?.items;
    for part in ["node", "proxy"] {
        pods.extend(world.pods().list(&ListParams::default().labels(&selector(part))).await?.items);
    }
    let mut all = BTreeMap::new();
    for pod in pods {
        let sum = program_of(&pod).await?;
        all.insert(pod.name_any(), format!("{sum:.12}"));
    }
    Ok(all)
}

/// What people have written for the first release is still taken: its examples for new pools, and this pool's own manifest.
async fn manifests_are_taken(world: &World, sources: &Path) -> Outcome {
    let mut pools = vec![("this pool's manifest".to_owned(), install::pool())];
    for (file, mut object) in manifests::examples_in(&sources.join("examples")) {
        if object["kind"] == "PgPool" {
            // Another pool than the one that is there.
            object["metadata"]["name"] = json!("example");
            object["metadata"]["namespace"] = json!(SPACE);
            pools.push((file, object));
        }
    }
    ensure(pools.len() > 1, || "the first release has no examples".to_owned())?;
    for (file, object) in &pools {
        let taken = world.feed(&["apply", "--dry-run=server", "-f", "-"], &object.to_string()).await;
        taken.map_err(|Failure(why)| Failure(format!("{file}: {why}")))?;
    }
    println!("    {} manifests of the first release are taken", pools.len());
    Ok(())
}

/// A recovery on request, of a node that has missed nothing.
async fn recovered(world: &World) -> Outcome {
    let (node, before) = (standby(world).await?, world.status().await?);
    world.ask_for("recover", &node.to_string()).await?;
    let status = world.recovered(node, &before).await?;
    tell(&status);
    load::unharmed(world).await
}

/// A recovery with a copy: the Job and the donor are today's, and so is the claim, the data is not.
async fn copied(world: &World) -> Outcome {
    let (node, before, old) = (standby(world).await?, world.status().await?, world.incarnations().await?);
    world.ask_for("detach", &node.to_string()).await?;
    world.when("the node to leave", WHOLE, |status| !attached(status).contains(&node)).await?;
    world.ask_for("replace-volume", &node.to_string()).await?;
    let status = world.recovered(node, &before).await?;
    tell(&status);
    load::unharmed(world).await?;
    let new = world.incarnations().await?;
    ensure(new.get(&node) != old.get(&node), || format!("{old:?} became {new:?}"))
}

fn tell(status: &PgPoolStatus) {
    if let Some(last) = &status.last_recovery {
        println!("    node {}: {:.1} s: {}", last.node, last.seconds, last.message);
    }
}
