//! Room for data and for archived WAL: what is told before it runs out, and what is never overwritten.
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pgpool_operator::names;
use serde_json::json;

use super::failover::{primary, standby};
use super::faults::spoil;
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::IMAGE;
use super::load;
use super::pool::WHOLE;
use super::world::{SPACE, World, until};

/// Namespace of the pods that make volumes with a real limit; they need more rights than others.
pub const DISKS: &str = "cluster-test-disks";
/// The pool on them, its class, and the folder on the machines.
const SMALL: &str = "small";
/// Its nodes.
const BOTH: [u8; 2] = [0, 1];
/// Where its volumes are on the machines.
const FOLDER: &str = "/opt/cluster-test-small";
/// MiB of each.
const SIZE: u32 = 256;
/// MiB that are left free: less than what the operator calls enough.
const LEFT: u64 = 40;
/// MiB in which no copy has room, be it of an empty pool.
const TIGHT: u64 = 12;

/// Runs a shell on a machine, by a pod there that may.
async fn on_machine(world: &World, machine: &str, script: &str) -> Outcome<String> {
    let enter = ["nsenter", "-t", "1", "-m", "--", "sh", "-c", script];
    world.kubectl(&[&["-n", DISKS, "exec", machine, "--"], &enter[..]].concat()).await
}

async fn limited_volume(world: &World, machine: &str) -> Outcome {
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": machine, "namespace": DISKS},
            "spec": {
                "nodeName": machine, "hostPID": true, "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "disk", "image": IMAGE, "command": ["sleep", "infinity"],
                    "securityContext": {"privileged": true},
                }],
            },
        }))
        .await?;
    let wait = ["wait", "--for=condition=Ready", "pod", machine, "--timeout=60s"];
    world.kubectl(&[&["-n", DISKS], &wait[..]].concat()).await?;
    let mount = format!(
        "mkdir -p {FOLDER} && (mountpoint -q {FOLDER} || mount -t tmpfs -o size={SIZE}m,mode=0777 small {FOLDER})"
    );
    on_machine(world, machine, &mount).await?;
    let here = json!([{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [machine]},
    ]}]);
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("{SMALL}-{machine}")},
            "spec": {
                "capacity": {"storage": format!("{SIZE}Mi")}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": SMALL,
                "local": {"path": FOLDER}, "nodeAffinity": {"required": {"nodeSelectorTerms": here}},
            },
        }))
        .await
        .map(drop)
}

/// Two machines.
async fn machines(world: &World) -> Outcome<[String; 2]> {
    let api: Api<Node> = Api::all(world.client.clone());
    let mut names = api.list(&ListParams::default()).await?.items.into_iter().map(|node| node.name_any());
    match (names.next(), names.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => failed("there are no two machines"),
    }
}

/// Removes what [`nearly_full`] made outside of the pool's namespace; also where there is nothing.
pub async fn sweep(world: &World) -> Outcome {
    let pods = world.kubectl(&["-n", DISKS, "get", "pods", "-o", "name"]).await?;
    for machine in pods.lines().filter_map(|name| name.strip_prefix("pod/")) {
        let script = format!("! mountpoint -q {FOLDER} || umount {FOLDER}; rm -rf {FOLDER}");
        on_machine(world, machine, &script).await?;
        world.kubectl(&["delete", "pv", &format!("{SMALL}-{machine}"), "--ignore-not-found"]).await?;
    }
    world.kubectl(&["delete", "storageclass", SMALL, "--ignore-not-found"]).await?;
    world.kubectl(&["delete", "namespace", DISKS, "--ignore-not-found", "--timeout=90s"]).await.map(drop)
}

/// What a shell prints in the Postgres container of a node of the small pool.
async fn shell(world: &World, node: u8, script: &str) -> Outcome<String> {
    let pod = names::node_pod(SMALL, node);
    world.here(&["exec", &pod, "-c", "postgres", "--", "sh", "-c", script]).await
}

/// The condition Degraded of the small pool: its answer and its message.
async fn degraded(world: &World) -> Outcome<String> {
    let path =
        "jsonpath={range .status.conditions[?(@.type=='Degraded')]}{.status} {.reason}: {.message}{end}";
    world.here(&["get", "pgpool", SMALL, "-o", path]).await
}

/// What leaves so many MiB of a volume free.
fn fill(left: u64) -> String {
    format!(
        "cd /var/lib/pgpool && free=$(df -m --output=avail . | tail -1) && \
         head -c $(( (free - {left}) * 1024 * 1024 )) /dev/zero > filler && df -m . | tail -1"
    )
}

/// A copy that has no room beside the old data: that is deleted first, once status says that it may be.
async fn no_room_for_both(world: &World) -> Outcome {
    let small = world.of_pool(SMALL, &BOTH)?;
    let before = small.whole(WHOLE).await?;
    let node = 1 - primary(&small).await?;
    let machine = small.machine_of(node).await?;
    shell(world, node, &fill(TIGHT)).await?;
    spoil(&small, node).await?;
    small
        .when("the old data to be given up", WHOLE, |status| {
            status.recovery.as_ref().is_some_and(|running| running.node == node && running.may_destroy)
        })
        .await?;
    let deleted = format!("cd {FOLDER} && grep '\"destroyed\":true' recovery.json && test ! -e pgdata.old");
    until("the old data to be deleted", WHOLE, || async {
        on_machine(world, &machine, &deleted).await.map(drop)
    })
    .await?;
    // The new copy needs some for its WAL.
    on_machine(world, &machine, &format!("rm {FOLDER}/filler")).await?;
    small.recovered(node, &before).await.map(drop)
}

/// A volume that is nearly full is told of while PostgreSQL still writes, be it a standby's or the primary's. Data for whose copy
/// there is no room is given up.
pub async fn nearly_full(world: &World) -> Outcome {
    world.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DISKS}})).await?;
    world
        .apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": SMALL},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        }))
        .await?;
    for machine in machines(world).await? {
        limited_volume(world, &machine).await?;
    }
    let storage = json!({"size": format!("{SIZE}Mi"), "storageClassName": SMALL, "whenDeleted": "Delete"});
    world
        .apply(&json!({
            "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
            "metadata": {"name": SMALL, "namespace": SPACE},
            "spec": {"nodes": BOTH.len(), "image": IMAGE, "storage": storage},
        }))
        .await?;
    world.here(&["wait", "--for=condition=Ready", "pgpool", SMALL, "--timeout=120s"]).await?;
    let first = primary(&world.of_pool(SMALL, &BOTH)?).await?;
    for node in [1 - first, first] {
        filled(world, first, node).await?;
    }
    no_room_for_both(world).await?;
    world.here(&["delete", "pgpool", SMALL, "--timeout=100s"]).await?;
    sweep(world).await
}

/// A node's volume is filled: that is told of, and the primary still writes. Nothing is told of it any more once it has room.
async fn filled(world: &World, first: u8, node: u8) -> Outcome {
    println!("    node {node}, the primary is {first}: {}", shell(world, node, &fill(LEFT)).await?);
    told(world, node).await?;
    let write = format!(
        "psql -XAtqc 'CREATE TABLE t{node} AS SELECT 1' && psql -XAtc 'SELECT count(*) FROM t{node}'"
    );
    let counted = shell(world, first, &write).await?;
    ensure(counted == "1", || format!("a write gave {counted}"))?;
    let now = primary(&world.of_pool(SMALL, &BOTH)?).await?;
    ensure(now == first, || format!("node {now} became the primary, node {first} was"))?;
    shell(world, node, "rm /var/lib/pgpool/filler").await?;
    until("the condition to go", WHOLE, || async {
        let now = degraded(world).await?;
        ensure(now.starts_with("False"), || now.clone())
    })
    .await
}

/// The condition and an event tell that the volume of this node of the small pool is nearly full.
async fn told(world: &World, node: u8) -> Outcome {
    let begins = format!("node {node}: ");
    let condition = format!("True VolumeNearlyFull: {begins}");
    let words = until("the condition Degraded", WHOLE, || async {
        let now = degraded(world).await?;
        ensure(now.starts_with(&condition), || now.clone())?;
        Ok(now)
    })
    .await?;
    println!("    {words}");
    // By its size: other pools have nodes of that index.
    let size = format!("of {SIZE} MiB free");
    until("the event", WHOLE, || async {
        let events = world.events("VolumeNearlyFull").await?;
        let own = events.iter().any(|note| note.starts_with(&begins) && note.contains(&size));
        ensure(own, || format!("{events:?}"))
    })
    .await
}

/// A WAL file that stands in the archive with other content is told of, and not overwritten.
pub async fn archive_conflict(world: &World) -> Outcome {
    let (first, node) = (primary(world).await?, standby(world).await?);
    // Each timeline has a folder; a segment's name begins with it.
    let sum = |name: String| async move {
        let script = format!("sha256sum < /var/lib/pgpool/archive/{}/{name}.lz4", &name[..8]);
        world.shell(node, &script).await
    };
    // Whole, but the content of another file.
    let planted = plant(world, first, node, "cat $(ls -t 0*.lz4 | head -1)").await?;
    let before = sum(planted.clone()).await?;
    switch(world, first).await?;
    let told = complaint(world, node, &planted).await?;
    println!("    {told}");
    let after = sum(planted.clone()).await?;
    ensure(before == after, || "the file in the archive was overwritten".to_owned())?;
    world.shell(node, &format!("rm /var/lib/pgpool/archive/{}/{planted}.lz4", &planted[..8])).await?;
    // The next segment wakes PostgreSQL's archiver, which otherwise waits a minute after three failures.
    switch(world, first).await?;
    until("the right file in the archive", WHOLE, || async {
        let now = sum(planted.clone()).await?;
        ensure(now != before, || "it is the wrong one".to_owned())
    })
    .await?;
    content_again(world).await?;
    load::unharmed(world).await
}

/// Puts what a shell in the archive prints to where the node's next WAL file is to be archived; gives the name of that.
pub async fn plant(world: &World, first: u8, node: u8, content: &str) -> Outcome<String> {
    switch(world, first).await?;
    until("a file in the archive", WHOLE, || async {
        let next = world.psql(first, "postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        // `ln` fails where the node was faster.
        let script = format!(
            "cd /var/lib/pgpool/archive/{} && {content} >.planted && ln .planted {next}.lz4 && rm .planted",
            &next[..8]
        );
        world.shell(node, &script).await.map(|_| next)
    })
    .await
}

/// The event that tells what is wrong with this file in the node's archive.
pub async fn complaint(world: &World, node: u8, file: &str) -> Outcome<String> {
    until("the event", WHOLE, || async {
        let events = world.events("ArchiveError").await?;
        let whose = format!("node {node}: ");
        let own = events.iter().find(|text| text.starts_with(&whose) && text.contains(file)).cloned();
        own.ok_or_else(|| Failure(format!("{events:?}")))
    })
    .await
}

/// Waits until no node complains of its archive any more.
pub async fn content_again(world: &World) -> Outcome {
    until("the condition to go", WHOLE, || async {
        let conditions = json!(world.status().await?.conditions).to_string();
        ensure(!conditions.contains("WAL archive"), || conditions.clone())
    })
    .await
}

/// Ends the primary's WAL segment.
pub async fn switch(world: &World, primary: u8) -> Outcome {
    let sql = "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()";
    world.psql(primary, "postgres", sql).await.map(drop)
}
