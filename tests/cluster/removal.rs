//! What goes when it is deleted, and what stays.
use std::collections::BTreeSet;

use pgpool_operator::names;
use serde_json::json;
use tokio::time::Instant;

use super::failover::{primary, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::majors::{self, OTHER};
use super::pool::{NODES, WHOLE, selector};
use super::processes::kill_postgres;
use super::strangers::ELSEWHERE;
use super::world::{POOL, RELEASE, SPACE, SYSTEM, World, until};
use super::{clients, install, recoveries, volumes};

/// An operator that shall look after one namespace leaves the pools of others alone, until it shall look everywhere.
pub async fn watched_namespaces(world: &World) -> Outcome {
    install::helm_with(world, &[&format!("watchNamespaces={{{SPACE}}}")]).await?;
    world.apply(&install::namespace(ELSEWHERE)).await?;
    let pool = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
        "metadata": {"name": POOL, "namespace": ELSEWHERE},
        "spec": {"nodes": 1, "image": install::IMAGE, "storage": {"size": "1Gi", "whenDeleted": "Delete"}},
    });
    world.apply(&pool).await?;
    let touched = || async {
        let path = ["get", "pgpool", POOL, "-o", "jsonpath={.metadata.finalizers}{.status}"];
        let pool = world.kubectl(&[&["-n", ELSEWHERE], &path[..]].concat()).await?;
        let parts = ["get", "statefulsets,services,secrets,pvc", "-o", "name"];
        Ok::<_, Failure>(pool + &world.kubectl(&[&["-n", ELSEWHERE], &parts[..]].concat()).await?)
    };
    // Once it has answered a later question of the pool that it looks after, it would have seen the other one.
    for value in ["8", "9"] {
        let answer = world.ask("recover", value).await?;
        ensure(!answer.accepted, || format!("{answer:?}"))?;
    }
    let seen = touched().await?;
    ensure(seen.is_empty(), || format!("a pool elsewhere was touched: {seen}"))?;
    let may = ["auth", "can-i", "create", "statefulsets", "-n", ELSEWHERE];
    let account = format!("--as=system:serviceaccount:{SYSTEM}:{RELEASE}");
    let answer = world.kubectl(&[&may[..], &[&account]].concat()).await;
    ensure(answer.as_ref().is_err_and(|no| no.0.contains("no")), || format!("its rights: {answer:?}"))?;
    install::helm(world).await?;
    until("the pool elsewhere to be taken up", WHOLE, || async {
        let seen = touched().await?;
        ensure(seen.contains(&names::stateful_set(POOL, 0)), || seen.clone())
    })
    .await?;
    let delete = ["delete", "pgpool", POOL, "--timeout=100s"];
    world.kubectl(&[&["-n", ELSEWHERE], &delete[..]].concat()).await?;
    world.whole(WHOLE).await.map(drop)
}

/// An upgrade of the operator to itself leaves the pool as it is.
pub async fn upgrade(world: &World) -> Outcome {
    let before = world.record().await?;
    install::helm(world).await?;
    let after = world.whole(WHOLE).await?;
    ensure(after.membership.as_ref().is_some_and(|m| m.epoch == before.epoch), || format!("{after:?}"))
}

/// An operator that is uninstalled leaves its pools as they are: another primary takes over without it, and once it is
/// installed again it goes on where it was.
pub async fn uninstalled_under_a_pool(world: &World) -> Outcome {
    let before = world.record().await?;
    world.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait"]).await?;
    let alone = async {
        kill_postgres(world, before.primary).await?;
        let now = taken_over(world, before.primary).await?;
        let sql = "CREATE TABLE alone AS SELECT 'alone' AS said; SELECT said FROM alone";
        let said = install::as_app(world, POOL, sql).await?;
        ensure(said == "alone", || format!("under node {now}: {said:?}"))
    }
    .await;
    install::helm(world).await?;
    alone?;
    world.whole(WHOLE).await.map(drop)
}

/// Kinds that tell of what happened, and stay for their time.
const TALES: [&str; 2] = ["events", "events.events.k8s.io"];

/// Everything that stands in the pool's namespace, of every kind that the API server has, whatever its labels.
pub async fn everything(world: &World) -> Outcome<BTreeSet<String>> {
    let kinds = world.kubectl(&["api-resources", "--namespaced", "--verbs=list", "-o", "name"]).await?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !TALES.contains(kind)).collect();
    let list = world.here(&["get", &kinds.join(","), "-o", "name", "--ignore-not-found"]).await?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Notes what stands in a fresh namespace, once Kubernetes has put into it what it puts into each.
pub async fn note_before(world: &World) -> Outcome {
    let found = until("what Kubernetes puts into a namespace", WHOLE, || async {
        let found = everything(world).await?;
        let own = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
        ensure(own.iter().all(|name| found.contains(*name)), || format!("{found:?}"))?;
        Ok(found)
    })
    .await?;
    // Noted once; a second time there would be the pool.
    world.before.get_or_init(|| found);
    Ok(())
}

/// Waits until the namespace holds what it held before the first pool, and these claims.
async fn nothing_left_but(world: &World, claims: &[String]) -> Outcome {
    let before = world.before.get().cloned().unwrap_or_default();
    until("the namespace to be as it was", WHOLE, || async {
        let now = everything(world).await?;
        let left: Vec<&String> = now.iter().filter(|name| !before.contains(*name)).collect();
        let wish: Vec<&String> = claims.iter().collect();
        ensure(left == wish, || format!("left: {left:?}"))
    })
    .await
}

/// The volumes of the pool's namespace, by the names of their claims.
async fn volumes_of(world: &World) -> Outcome<Vec<String>> {
    let path = format!("jsonpath={{.items[?(@.spec.claimRef.namespace=='{SPACE}')].spec.claimRef.name}}");
    let list = world.kubectl(&["get", "pv", "-o", &path]).await?;
    let mut list: Vec<String> = list.split_whitespace().map(str::to_owned).collect();
    list.sort();
    Ok(list)
}

fn kept() -> Vec<String> {
    NODES.map(|node| names::claim(POOL, node)).to_vec()
}

/// A digest of every row of every table in the application's database, wherever a scan begins: what psql prints of it.
const HELD: &str = "SELECT count(*), md5(string_agg(t.name || t.digest, '' ORDER BY t.name)) FROM (
    SELECT c.oid::regclass::text AS name, query_to_xml(format(
        'SELECT count(*), md5(string_agg(md5(r::text), NULL ORDER BY md5(r::text))) AS digest FROM %s r',
        c.oid::regclass), true, true, '')::text AS digest
    FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema|pgpool_)') t";

/// Notes what the pool holds before it is deleted; nobody writes any more.
async fn note_held(world: &World) -> Outcome {
    if world.here(&["get", "pgpool", POOL, "--ignore-not-found", "-o", "name"]).await?.is_empty() {
        return Ok(());
    }
    let node = primary(world).await?;
    // Also where no load has been.
    let own =
        "CREATE TABLE IF NOT EXISTS kept AS SELECT n, md5(n::text) AS said FROM generate_series(1, 1000) n";
    world.psql(node, "app", own).await?;
    let held = world.psql(node, "app", HELD).await?;
    println!("    tables and their digest: {held}");
    world.held.get_or_init(|| held);
    Ok(())
}

/// Deleted pools leave nothing of any kind, or nothing but their volumes, by their policy.
pub async fn pools(world: &World) -> Outcome {
    // What the steps before made, and left when they failed. A pool waits for every pod that carries its label.
    world.here(&["delete", "pod", "load", "client", "disguised", "witness", "--ignore-not-found"]).await?;
    // Where these steps are named alone the load has written until here.
    world.compared.under_load(false);
    world.here(&["delete", "secret", "half", majors::START, "--ignore-not-found"]).await?;
    world.here(&["delete", "pod,configmap", "-l", clients::LABEL]).await?;
    note_held(world).await?;
    world.here(&["delete", "pgpool", OTHER, POOL, "--ignore-not-found", "--timeout=100s"]).await?;
    let claims: Vec<String> = kept().iter().map(|name| format!("persistentvolumeclaim/{name}")).collect();
    nothing_left_but(world, &claims).await?;
    until("the volumes to be gone or kept", WHOLE, || async {
        let found = volumes_of(world).await?;
        ensure(found == kept(), || format!("volumes that stay: {found:?}"))
    })
    .await
}

/// A pool of the same name doesn't take the volumes that stayed for its own: no record speaks for their data.
pub async fn old_volumes(world: &World) -> Outcome {
    world.apply(&install::pool()).await?;
    world
        .when("the old volumes to be told of", WHOLE, |status| {
            status.conditions.iter().any(|c| c.type_ == "Degraded" && c.reason == "OldVolumesFound")
        })
        .await?;
    let pods = world.here(&["get", "pods", "-l", &selector("node"), "-o", "name"]).await?;
    ensure(pods.is_empty(), || format!("nodes were started: {pods}"))?;
    world.here(&["delete", "pgpool", POOL, "--timeout=100s"]).await?;
    let claims: Vec<String> = kept().iter().map(|name| format!("persistentvolumeclaim/{name}")).collect();
    nothing_left_but(world, &claims).await
}

/// What the last record said of each volume that stayed.
async fn last_words(world: &World) -> Outcome<Vec<(u8, String)>> {
    let mut all = Vec::new();
    for node in NODES {
        let path = "jsonpath={.metadata.annotations.pgpool-operator\\.dev/last-record}";
        all.push((node, world.here(&["get", "pvc", &names::claim(POOL, node), "-o", path]).await?));
    }
    Ok(all)
}

/// A person says with which node's data to go on: it is all there, and the other nodes are copied from it.
pub async fn taken_up(world: &World) -> Outcome {
    let said = last_words(world).await?;
    println!("    volumes: {said:?}");
    // Node 0 begins any other pool; here it does only if the others had left before the end.
    let complete = |(_, last): &&(u8, String)| last.ends_with(", attached") || last.ends_with(", primary");
    let chosen = said.iter().filter(complete).max_by_key(|(node, _)| *node);
    let Some((chosen, last)) = chosen else { return failed(format!("no volume is complete: {said:?}")) };
    world.apply(&install::pool()).await?;
    let told = format!("{} ({last})", names::claim(POOL, *chosen));
    world
        .when("the old volumes to be told of", WHOLE, |status| {
            status.conditions.iter().any(|c| c.reason == "OldVolumesFound" && c.message.contains(&told))
        })
        .await?;
    let answer = world.ask("switchover", "1").await?;
    ensure(!answer.accepted && answer.message.contains("no node yet"), || format!("{answer:?}"))?;
    let since = Instant::now();
    world.ask_for("release", &chosen.to_string()).await?;
    let first = world.when_record("the first record", WHOLE, |_| true).await?;
    ensure(first.primary == *chosen && first.timeline > 1, || format!("{first:?}"))?;
    let before: i64 = last.split([' ', ',']).nth(1).and_then(|epoch| epoch.parse().ok()).unwrap_or(i64::MAX);
    // It is above all that the copy has seen, which may lack the last change: its agent may have been stopped before it read that.
    ensure(first.epoch >= before, || format!("epoch {} after {last}", first.epoch))?;
    world.whole(WHOLE).await?;
    println!("    release to Ready: {:.1} s", since.elapsed().as_secs_f64());
    let held = world.held.get().cloned().unwrap_or_default();
    for node in NODES {
        let found = world.psql(node, "app", HELD).await?;
        ensure(found == held, || format!("node {node} holds {found}, the pool held {held}"))?;
    }
    let answer = world.ask("release", "0").await?;
    ensure(!answer.accepted && answer.message.contains("has its data"), || format!("{answer:?}"))?;
    written_through_the_service(world).await?;
    world.here(&["delete", "pod", install::CLIENT]).await?;
    world.here(&["delete", "pgpool", POOL, "--timeout=100s"]).await?;
    let claims: Vec<String> = kept().iter().map(|name| format!("persistentvolumeclaim/{name}")).collect();
    nothing_left_but(world, &claims).await
}

/// The new password opens the old data, and what is written is on every node.
async fn written_through_the_service(world: &World) -> Outcome {
    install::client(world).await?;
    let sql = "INSERT INTO again VALUES ('written') RETURNING said";
    let said =
        install::as_app(world, POOL, &format!("CREATE TABLE IF NOT EXISTS again (said text); {sql}")).await?;
    ensure(said == "written", || format!("{POOL} answered {said:?}"))?;
    for node in NODES {
        let found = world.psql(node, "app", "SELECT said FROM again").await?;
        ensure(found == "written", || format!("node {node}: {found:?}"))?;
    }
    Ok(())
}

/// Uninstalling the chart keeps the definitions and the data.
pub async fn uninstall(world: &World) -> Outcome {
    world.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--wait"]).await?;
    world
        .kubectl(&["get", "crd", "pgpools.pgpool-operator.dev", "pgpoolmemberships.pgpool-operator.dev"])
        .await?;
    let found = volumes_of(world).await?;
    ensure(found == kept(), || format!("volumes that stay: {found:?}"))
}

/// Removes everything that the scenario made, whatever state it is in.
pub async fn sweep(world: &World) -> Outcome {
    recoveries::release(world).await?;
    volumes::sweep(world).await?;
    let pools = ["delete", "pgpool", "--all", "-n", SPACE, "--ignore-not-found", "--timeout=60s"];
    if world.kubectl(&["get", "crd", "pgpools.pgpool-operator.dev"]).await.is_ok() {
        world.kubectl(&pools).await?;
    }
    let spaces = [ELSEWHERE, super::options::SPACE, super::bad_input::NARROW, super::observe::SPACE];
    for space in [SPACE].into_iter().chain(spaces) {
        world.kubectl(&["delete", "namespace", space, "--ignore-not-found", "--timeout=90s"]).await?;
    }
    world.kubectl(&["delete", "priorityclass", majors::CLASS, "--ignore-not-found"]).await?;
    world.kubectl(&["delete", "storageclass", super::options::CLASS, "--ignore-not-found"]).await?;
    world.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--ignore-not-found", "--wait"]).await?;
    world.kubectl(&["delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=90s"]).await?;
    let crds = ["pgpools.pgpool-operator.dev", "pgpoolmemberships.pgpool-operator.dev"];
    world.kubectl(&[&["delete", "crd", "--ignore-not-found"], &crds[..]].concat()).await.map(drop)
}
