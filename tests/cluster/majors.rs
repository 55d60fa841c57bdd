//! A second pool in the first one's namespace, on another major version of PostgreSQL.
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::failover::{primary, taken_over};
use super::faults::spoil;
use super::harness::{Failure, Outcome, ensure};
use super::pool::{WHOLE, attached, told};
use super::processes::kill_postgres;
use super::world::{SPACE, World, until};

/// The pool.
pub const OTHER: &str = "other";
/// Its image.
pub const OTHER_IMAGE: &str = "localhost/postgres:15";
/// The Secret with the SQL that it starts with, and the priority class of its pods.
pub const START: &str = "other-start";
/// That class.
pub const CLASS: &str = "cluster-test-databases";
/// Its nodes.
const BOTH: [u8; 2] = [0, 1];
/// MiB that the archive of a node may take.
const ARCHIVE: u64 = 32;
/// 12 MiB of a segment of 16 that no compression makes less of.
pub const FILL: &str = "SELECT pg_logical_emit_message(false, 'test', (SELECT string_agg(sha256((g::text || random())::bytea), '') \
                FROM generate_series(1, 12 * 32768) g)), pg_switch_wal()";

fn spec() -> Value {
    let linux =
        json!([{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]);
    json!({
        "nodes": BOTH.len(), "image": OTHER_IMAGE, "imagePullSecrets": [{"name": "registry"}],
        "storage": {"size": "1Gi", "whenDeleted": "Delete"},
        "walArchive": {"maxSize": format!("{ARCHIVE}Mi")},
        "failure": {"detachAfter": "3s", "lease": "4s", "grace": "6s"},
        "bootstrap": {"sql": {"secret": {"name": START, "key": "start.sql"}}},
        "priorityClass": CLASS,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": linux}}},
    })
}

/// It becomes Ready, and is as it was asked for.
pub async fn another(world: &World) -> Outcome {
    let other = world.of_pool(OTHER, &BOTH)?;
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": CLASS}, "value": 1000,
    });
    world.apply(&class).await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": START, "namespace": SPACE},
        "stringData": {"start.sql": "CREATE TABLE start AS SELECT 'from a Secret' AS said;"},
    });
    world.feed(&["apply", "-f", "-"], &secret.to_string()).await?;
    world
        .apply(&json!({
            "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
            "metadata": {"name": OTHER, "namespace": SPACE}, "spec": spec(),
        }))
        .await?;
    world.here(&["wait", "--for=condition=Ready", "pgpool", OTHER, "--timeout=120s"]).await?;
    for node in BOTH {
        let said = other
            .psql(
                node,
                "app",
                "SELECT said || ' on ' || current_setting('server_version_num')::int / 10000 FROM start",
            )
            .await?;
        ensure(said == "from a Secret on 15", || format!("node {node}: {said}"))?;
    }
    let (nodes, fronts) = (other.alive("node").await?, other.alive("proxy").await?);
    ensure(nodes.len() == BOTH.len() && !fronts.is_empty(), || format!("{} fronts", fronts.len()))?;
    nodes.into_iter().chain(fronts).try_for_each(as_asked)
}

/// Whether a pod has what the spec says of all pods.
fn as_asked(pod: Pod) -> Outcome {
    let pod = pod.spec.unwrap_or_default();
    let affinity = pod.affinity.and_then(|affinity| affinity.node_affinity);
    let pull = pod.image_pull_secrets.unwrap_or_default();
    let asked = pod.priority_class_name.as_deref() == Some(CLASS)
        && affinity.is_some()
        && pull.iter().any(|secret| secret.name == "registry");
    ensure(asked, || format!("{:?}, {affinity:?}, {pull:?}", pod.priority_class_name))
}

/// Names of the WAL segments in a node's archive, the oldest first, and the KiB that they take.
pub async fn archived(other: &World, node: u8) -> Outcome<(Vec<String>, u64)> {
    let script = "cd /var/lib/pgpool/archive && find . -name '*.lz4' -printf '%f\\n' | sort; echo; du -sk .";
    let said = other.shell(node, script).await?;
    let (names, size) = said.split_once("\n\n").unwrap_or(("", said.trim()));
    let size = size.split_whitespace().next().and_then(|size| size.parse().ok()).unwrap_or(u64::MAX);
    Ok((names.lines().map(str::to_owned).collect(), size))
}

/// Old segments make room for new ones on every node.
pub async fn archive_size(world: &World) -> Outcome {
    let other = world.of_pool(OTHER, &BOTH)?;
    other.psql(0, "postgres", FILL).await?;
    let first = until("a segment in every archive", WHOLE, || async {
        let mut first = Vec::new();
        for node in BOTH {
            let (names, _) = archived(&other, node).await?;
            ensure(!names.is_empty(), || format!("nothing in the archive of node {node}"))?;
            first.extend(names.first().cloned());
        }
        Ok(first)
    })
    .await?;
    for _ in 0..4 {
        other.psql(0, "postgres", FILL).await?;
    }
    for (node, first) in BOTH.into_iter().zip(first) {
        let (names, size) = until("the oldest segment to be dropped", WHOLE, || async {
            let (names, size) = archived(&other, node).await?;
            let dropped = !names.contains(&first) && size <= ARCHIVE << 10;
            ensure(dropped, || format!("node {node}: {names:?}, {size} KiB"))?;
            Ok((names, size))
        })
        .await?;
        ensure(!names.is_empty(), || format!("node {node} keeps nothing"))?;
        println!("    node {node} keeps {} segments, {size} KiB of {} KiB", names.len(), ARCHIVE << 10);
    }
    Ok(())
}

/// Volumes whose class doesn't let them grow stay, and that is told with the way out.
pub async fn fixed_size(world: &World) -> Outcome {
    let spec = r#"{"spec":{"storage":{"size":"2Gi"}}}"#;
    world.here(&["patch", "pgpool", OTHER, "--type=merge", "-p", spec]).await?;
    let told = until("the event", WHOLE, || async {
        let events = world.events("VolumeNotExpandable").await?;
        events.into_iter().next().ok_or_else(|| Failure("none".to_owned()))
    })
    .await?;
    println!("    {told}");
    ensure(told.contains("replace-volume"), || told.clone())
}

/// Its standby is recovered by a copy, and takes over from its primary, which comes back.
pub async fn recovered(world: &World) -> Outcome {
    let other = world.of_pool(OTHER, &BOTH)?;
    let (before, old) = (other.status().await?, other.incarnations().await?);
    spoil(&other, 1).await?;
    other.recovered(1, &before).await?;
    let new = other.incarnations().await?;
    ensure(new.get(&1) != old.get(&1), || format!("nothing was copied: {old:?}, {new:?}"))?;
    other.psql(0, "app", "INSERT INTO start VALUES ('kept')").await?;
    let first = primary(&other).await?;
    // As `archive_timeout` does it: behind that, no segment may be there yet in which the end of the WAL could be seen.
    other.psql(first, "app", "SELECT pg_switch_wal()").await?;
    // No commit waits for that, and who has more WAL than the next primary needs a copy.
    let has_all = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_flush_lsn()";
    until("the standby to have the switch", WHOLE, || async {
        let count = other.psql(first, "app", has_all).await?;
        ensure(count == "1", || format!("{count} standbys have it"))
    })
    .await?;
    kill_postgres(&other, first).await?;
    let second = taken_over(&other, first).await?;
    other.whole(WHOLE).await?;
    let after = other.incarnations().await?;
    ensure(after == new, || format!("the old primary was copied: {new:?} became {after:?}"))?;
    for node in BOTH {
        let said = other.psql(node, "app", "SELECT count(*) FROM start").await?;
        ensure(said == "2", || format!("node {node} has {said} rows"))?;
    }
    other.ask_for("switchover", &first.to_string()).await?;
    let third = taken_over(&other, second).await?;
    ensure(third == first, || format!("node {third} took over"))?;
    other.whole(WHOLE).await.map(drop)
}

/// A role that gives up the promise for its own commits is told of, until it no longer does.
pub async fn unsafe_setting(world: &World) -> Outcome {
    let other = world.of_pool(OTHER, &BOTH)?;
    let node = primary(&other).await?;
    let told = async |wish: bool| {
        let what = if wish { "the condition" } else { "the condition to go" };
        until(what, WHOLE, || async {
            let conditions = json!(other.status().await?.conditions).to_string();
            let told = conditions.contains("run ALTER ROLE app RESET synchronous_commit");
            ensure(told == wish, || conditions.clone())
        })
        .await
    };
    other.psql(node, "app", "ALTER ROLE app SET synchronous_commit = off").await?;
    told(true).await?;
    until("the event", WHOLE, || async {
        let events = world.events("UnsafeSetting").await?;
        ensure(events.len() == 1, || format!("{events:?}"))
    })
    .await?;
    other.psql(node, "app", "ALTER ROLE app RESET synchronous_commit").await?;
    told(false).await
}

/// With any isolation of the users' roles the standbys are looked after; a role that may make roles needs 16.
pub async fn hostile_settings(world: &World) -> Outcome {
    let other = world.of_pool(OTHER, &BOTH)?;
    let node = primary(&other).await?;
    for setting in ["default_transaction_isolation = serializable", "default_transaction_read_only = on"] {
        other.psql(node, "app", &format!("ALTER ROLE postgres SET {setting}")).await?;
    }
    let before = other.status().await?;
    spoil(&other, 1 - node).await?;
    other.recovered(1 - node, &before).await?;
    for name in ["default_transaction_isolation", "default_transaction_read_only"] {
        let reset = format!("BEGIN READ WRITE; ALTER ROLE postgres RESET {name}; COMMIT");
        other.psql(node, "app", &reset).await?;
    }
    let users = |users: Value| json!({"spec": {"users": users}}).to_string();
    let patch = users(json!([{"name": "maker", "createRole": true}]));
    world.here(&["patch", "pgpool", OTHER, "--type=merge", "-p", &patch]).await?;
    until("the refusal", WHOLE, || async {
        let conditions = json!(other.status().await?.conditions).to_string();
        ensure(conditions.contains("createRole is for PostgreSQL 16"), || conditions.clone())
    })
    .await?;
    until("the event", WHOLE, || async {
        let events = world.events("RolesNotMade").await?;
        let own = |note: &String| note.starts_with("role maker: ") && note.contains("createRole");
        ensure(events.iter().any(own), || format!("{events:?}"))
    })
    .await?;
    world.here(&["patch", "pgpool", OTHER, "--type=merge", "-p", &users(json!([]))]).await?;
    other.whole(WHOLE).await.map(drop)
}

/// The only attached node can't be taken out.
pub async fn only_node(world: &World) -> Outcome {
    let other = world.of_pool(OTHER, &BOTH)?;
    let (first, second) = match primary(&other).await? {
        0 => (0, 1),
        _ => (1, 0),
    };
    other.ask_for("detach", &second.to_string()).await?;
    other.when("one node", WHOLE, |status| attached(status) == [first]).await?;
    let why = format!("node {first} is the only attached node: it holds the last good copy of the data");
    for request in ["detach", "recover", "fence", "replace-volume"] {
        let answer = other.ask(request, &first.to_string()).await?;
        let refused = !answer.accepted && answer.message == why;
        ensure(refused, || format!("{request} of the only attached node: {answer:?}"))?;
        println!("    {request}: {}", answer.message);
    }
    let status = other.status().await?;
    ensure(attached(&status) == [first], || told(&status))?;
    other.ask_for("attach", &second.to_string()).await?;
    other.whole(WHOLE).await.map(drop)
}
