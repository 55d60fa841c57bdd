//! What goes when it is deleted, and what stays.
use super::harness::{Outcome, ensure};
use super::install;
use super::pool::WHOLE;
use super::strangers::{ELSEWHERE, OTHER};
use super::world::{POOL, RELEASE, SPACE, SYSTEM, World, until};

/// Everything namespaced that a pool is made of.
const KINDS: &str = "statefulsets,deployments,jobs,pods,services,secrets,configmaps,serviceaccounts,roles,\
                     rolebindings,poddisruptionbudgets,networkpolicies,pgpoolmemberships";

/// An upgrade of the operator to itself leaves the pool as it is.
pub async fn upgrade(world: &World) -> Outcome {
    let before = world.record().await?;
    install::helm(world).await?;
    let after = world.whole(WHOLE).await?;
    ensure(after.membership.as_ref().is_some_and(|m| m.epoch == before.epoch), || format!("{after:?}"))
}

/// Objects of a pool that are left.
async fn left(world: &World, pool: &str, kinds: &str) -> Outcome<Vec<String>> {
    let label = format!("{}={pool}", pgpool_operator::names::LABEL_POOL);
    let list = world.here(&["get", kinds, "-l", &label, "-o", "name"]).await?;
    Ok(list.lines().map(str::to_owned).collect())
}

async fn gone(world: &World, pool: &str) -> Outcome {
    world.here(&["delete", "pgpool", pool, "--timeout=100s"]).await?;
    until(&format!("pool {pool} to be gone"), WHOLE, || async {
        let left = left(world, pool, KINDS).await?;
        ensure(left.is_empty(), || format!("left: {left:?}"))
    })
    .await
}

/// A deleted pool leaves nothing, or nothing but its volumes, by its policy.
pub async fn pools(world: &World) -> Outcome {
    gone(world, OTHER).await?;
    until("the volumes to be gone", WHOLE, || async {
        let left = left(world, OTHER, "pvc").await?;
        ensure(left.is_empty(), || format!("left: {left:?}"))
    })
    .await?;
    world.here(&["delete", "pod", "load", "client", "--ignore-not-found"]).await?;
    gone(world, POOL).await?;
    let kept = left(world, POOL, "pvc").await?;
    ensure(kept.len() == 3, || format!("volumes that stay: {kept:?}"))
}

/// Uninstalling the chart keeps the definitions and the data.
pub async fn uninstall(world: &World) -> Outcome {
    world.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait"]).await?;
    world
        .kubectl(&["get", "crd", "pgpools.pgpool-operator.dev", "pgpoolmemberships.pgpool-operator.dev"])
        .await?;
    let kept = left(world, POOL, "pvc").await?;
    ensure(kept.len() == 3, || format!("volumes that stay: {kept:?}"))
}

/// Removes everything that the scenario made, whatever state it is in.
pub async fn sweep(world: &World) -> Outcome {
    let pools = ["delete", "pgpool", "--all", "-n", SPACE, "--ignore-not-found", "--timeout=60s"];
    if world.kubectl(&["get", "crd", "pgpools.pgpool-operator.dev"]).await.is_ok() {
        world.kubectl(&pools).await?;
    }
    for space in [SPACE, ELSEWHERE] {
        world.kubectl(&["delete", "namespace", space, "--ignore-not-found", "--timeout=90s"]).await?;
    }
    world.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--ignore-not-found", "--wait"]).await?;
    world.kubectl(&["delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=90s"]).await?;
    let crds = ["pgpools.pgpool-operator.dev", "pgpoolmemberships.pgpool-operator.dev"];
    world.kubectl(&[&["delete", "crd", "--ignore-not-found"], &crds[..]].concat()).await.map(drop)
}
