//! etcd is restored from an older backup while a pool goes on, and a person brings its data back (docs/runbooks/etcd-restored.md).
//!
//! All that Kubernetes knows goes back with it: objects that were made since are forgotten, and pods killed that are none any
//! more. So these two steps run alone, in this order. The pool of the scenario and its load go on: that nothing has changed
//! for them between backup and restore is looked at before it.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Health;
use pgpool_operator::names;
use serde_json::{Value, json};

use super::failover::{primary, standby, taken_over};
use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::{NODES, WHOLE, told};
use super::world::{POOL, RELEASE, SPACE, SYSTEM, World, until};
use super::{install, load, machines};

/// The pool that this is about.
const RESTORED: &str = "restored";
/// The pod that reads from it all the while.
const READER: &str = "restored-reader";
/// Rows of the pool's table before the backup, and as many that come after it.
const ROWS: u32 = 1000;
/// What is read.
const COUNT: &str = "SELECT count(*) FROM kept";
/// Time for a backup or a restore, until the API server answers again and DNS is ready.
const COPIED: Duration = Duration::from_secs(400);

/// The manifest, as a person has it in a file.
fn pool(when_deleted: &str) -> Value {
    let mut pool = install::pool();
    pool["metadata"]["name"] = json!(RESTORED);
    pool["spec"]["storage"]["whenDeleted"] = json!(when_deleted);
    pool
}

/// What fills the table, behind this row.
fn rows(behind: u32) -> String {
    let (first, last) = (behind + 1, behind + ROWS);
    format!("SELECT n, md5(n::text) AS said FROM generate_series({first}, {last}) n")
}

/// Nodes that have seen a later epoch than a restored record stop their PostgreSQL and call a person; until then every answer
/// has all that was committed.
pub async fn person_called(world: &World) -> Outcome {
    let other = world.of_pool(RESTORED, &NODES)?;
    world.apply(&pool("Delete")).await?;
    other.whole(WHOLE).await?;
    let first = primary(&other).await?;
    let table = format!("CREATE TABLE kept AS {}; GRANT SELECT ON kept TO app", rows(0));
    other.psql(first, "app", &table).await?;
    // Made before the backup: else its pod would be none that Kubernetes knows.
    make_reader(world).await?;
    world.whole(WHOLE).await?;
    let untouched = world.record().await?.epoch;
    machines::cluster_command(COPIED, "etcd", &["save"]).await?;

    let last = hand_over(&other, first).await?;
    other.psql(last, "app", &format!("INSERT INTO kept {}", rows(ROWS))).await?;
    let seen = noted(&other).await?;
    start_reading(world).await?;
    let now = world.record().await?.epoch;
    ensure(now == untouched, || {
        format!(
            "pool {POOL} came from epoch {untouched} to {now} since the backup: a restore would stop it as well"
        )
    })?;
    machines::cluster_command(COPIED, "etcd", &["restore"]).await?;

    machines::api_back(world).await?;
    let record = other.record().await?;
    ensure(record.epoch < seen && record.primary == first, || format!("epoch {seen} was seen: {record:?}"))?;
    all_stopped(&other, record.epoch, seen).await?;
    println!("    {}", never_stale(world).await?);
    world.here(&["delete", "pod", READER]).await?;
    load::unharmed(world).await
}

/// The pod that stands for an application.
async fn make_reader(world: &World) -> Outcome {
    world.apply(&install::client_pod(READER, SPACE, Some(RESTORED))).await?;
    world.here(&["wait", "--for=condition=Ready", "pod", READER, "--timeout=60s"]).await.map(drop)
}

/// The Services that are read from.
fn hosts() -> [String; 2] {
    [RESTORED.to_owned(), names::read_service(RESTORED)]
}

/// psql in the reader's pod, for its shell.
fn question(host: &str) -> String {
    format!("timeout 20 psql -XAtq -d 'host={host} sslmode=verify-full connect_timeout=5' -c '{COUNT}'")
}

/// It reads by both Services without end, and notes each answer, or `-` where it got none. Nothing of that needs the API server.
async fn start_reading(world: &World) -> Outcome {
    for host in hosts() {
        let ask = question(&host);
        let script = format!(
            "(while sleep 0.5; do {ask} || echo -; done) >/tmp/{host} 2>/tmp/{host}.errors </dev/null &"
        );
        world.here(&["exec", READER, "--", "sh", "-c", &script]).await?;
    }
    until("the first answers", WHOLE, || never_stale(world)).await.map(drop)
}

/// Each answer of both Services had every row; gives how many there were.
async fn never_stale(world: &World) -> Outcome<String> {
    let all = (2 * ROWS).to_string();
    let mut found = Vec::new();
    for host in hosts() {
        let said = world.here(&["exec", READER, "--", "cat", &format!("/tmp/{host}")]).await?;
        let (whole, less): (Vec<&str>, Vec<&str>) =
            said.lines().filter(|line| *line != "-").partition(|line| *line == all);
        ensure(less.is_empty(), || format!("{host} answered {less:?} and not {all}"))?;
        ensure(!whole.is_empty(), || format!("{host} has not answered"))?;
        found.push(format!("{host} answered {} of {} questions", whole.len(), said.lines().count()));
    }
    Ok(found.join(", "))
}

/// The primary hands over, and the pool is whole again.
async fn hand_over(other: &World, first: u8) -> Outcome<u8> {
    let to = standby(other).await?.to_string();
    // The operator may have lost its lease while etcd was down.
    until("the request to be taken on", WHOLE, || other.ask_for("switchover", &to)).await?;
    let last = taken_over(other, first).await?;
    other.whole(WHOLE).await?;
    Ok(last)
}

/// The epoch of the record, once every node has noted it.
async fn noted(other: &World) -> Outcome<i64> {
    let epoch = other.record().await?.epoch;
    until("each node to note the epoch", WHOLE, || async {
        for node in NODES {
            let noted = Found::of(other, node).await?.epoch;
            ensure(noted == epoch, || {
                format!("node {node} has noted epoch {noted}, the record is at {epoch}")
            })?;
        }
        Ok(epoch)
    })
    .await
}

/// Every node says why it needs a person, in its status and in an event, and serves nobody.
async fn all_stopped(other: &World, epoch: i64, seen: i64) -> Outcome {
    let why = format!("the record is at epoch {epoch}, this node has seen {seen}: it was lost or restored");
    until("each node to call a person", WHOLE, || async {
        let (status, events) = (other.status().await?, other.events("NeedsPerson").await?);
        for node in NODES {
            let event = format!("node {node} needs a person: {why}");
            ensure(events.contains(&event), || format!("no event of node {node} among {events:?}"))?;
            let reason = status.nodes.iter().find(|its| its.index == node).map(|its| its.reason.as_str());
            ensure(reason == Some(why.as_str()), || told(&status))?;
        }
        ensure(status.phase == Some(Health::Unavailable), || told(&status))
    })
    .await?;
    println!("    {why}");
    for node in NODES {
        match other.psql(node, "app", COUNT).await {
            Ok(said) => return failed(format!("PostgreSQL of node {node} runs: {said}")),
            Err(Failure(words)) => {
                ensure(words.contains("Is the server running"), || format!("node {node}: {words}"))?;
            }
        }
    }
    for host in hosts() {
        let script = format!("{} 2>&1 || echo refused", question(&host));
        let said = other.here(&["exec", READER, "--", "sh", "-c", &script]).await?;
        ensure(said.ends_with("refused"), || format!("{host} serves: {said}"))?;
    }
    Ok(())
}

/// What a person finds in the volume of a node.
struct Found {
    /// Highest epoch that it has seen.
    epoch: i64,
    /// Timeline of the last office that it opened.
    office: Option<u64>,
    /// Timeline of its data: the highest that the control file names.
    timeline: u64,
}

impl Found {
    /// Looks by the commands of the runbook.
    async fn of(other: &World, node: u8) -> Outcome<Self> {
        let script = "cd /var/lib/pgpool; cat pgdata/pgpool_node.json; echo; cat conf/office.json || echo null; echo; \
                      /usr/lib/postgresql/*/bin/pg_controldata pgdata | grep -i timeline";
        let said = other.shell(node, script).await?;
        let mut lines = said.lines().filter(|line| !line.is_empty());
        let mut json = || serde_json::from_str::<Value>(lines.next().unwrap_or_default());
        let (file, office) = (json()?, json()?);
        let timelines = lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        let timeline = timelines.max();
        match (file["epoch"].as_i64(), timeline) {
            (Some(epoch), Some(timeline)) => {
                Ok(Self { epoch, office: office["timeline"].as_u64(), timeline })
            }
            _ => failed(format!("node {node}: {said}")),
        }
    }
}

/// The last primary, as the runbook says: its last office has the highest timeline, and its own data is on that.
async fn last_primary(other: &World) -> Outcome<(u8, Found)> {
    let mut last: Option<(u8, Found)> = None;
    for node in NODES {
        let found = Found::of(other, node).await?;
        let (epoch, office, timeline) = (found.epoch, found.office, found.timeline);
        println!("    node {node}: epoch {epoch}, last office {office:?}, timeline {timeline}");
        if found.office > last.as_ref().and_then(|(_, last)| last.office) {
            last = Some((node, found));
        }
    }
    let Some((node, found)) = last else { return failed("no node was ever the primary") };
    ensure(found.office == Some(found.timeline), || {
        format!("node {node} was the primary on timeline {:?}, and is on {}", found.office, found.timeline)
    })?;
    Ok((node, found))
}

/// A person finds the last primary, takes the pool apart and makes it again from that node's data, which is all there.
pub async fn brought_back(world: &World) -> Outcome {
    let other = world.of_pool(RESTORED, &NODES)?;
    let (chosen, found) = last_primary(&other).await?;
    let record = other.record().await?;
    ensure(record.primary != chosen, || format!("the restored record would have told: {record:?}"))?;
    taken_apart(world).await?;

    world.apply(&pool("Retain")).await?;
    let claim = names::claim(RESTORED, chosen);
    let status = other
        .when("the old volumes to be told of", WHOLE, |status| {
            status.conditions.iter().any(|c| c.reason == "OldVolumesFound" && c.message.contains(&claim))
        })
        .await?;
    for condition in status.conditions.iter().filter(|c| c.reason == "OldVolumesFound") {
        println!("    {}", condition.message);
    }
    let answer = other.ask("release", &chosen.to_string()).await?;
    println!("    {}", answer.message);
    ensure(answer.accepted, || format!("{answer:?}"))?;
    let first = other.when_record("the first record", WHOLE, |_| true).await?;
    let goes_on =
        first.primary == chosen && first.epoch > found.epoch && u64::from(first.timeline) > found.timeline;
    ensure(goes_on, || format!("after epoch {}, timeline {}: {first:?}", found.epoch, found.timeline))?;
    other.whole(WHOLE).await?;
    all_rows(&other).await?;

    let spec = r#"{"spec":{"storage":{"whenDeleted":"Delete"}}}"#;
    world.here(&["patch", "pgpool", RESTORED, "--type=merge", "-p", spec]).await?;
    world.here(&["delete", "pgpool", RESTORED, "--timeout=100s"]).await?;
    load::unharmed(world).await
}

/// Every node has every row that was committed, those after the backup too, and can be written to by the primary.
async fn all_rows(other: &World) -> Outcome {
    let all = 2 * ROWS;
    let sql = format!(
        "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM generate_series(1, {all}) g \
         JOIN kept ON kept.n = g AND kept.said = md5(g::text))"
    );
    for node in NODES {
        let held = other.psql(node, "app", &sql).await?;
        ensure(held == format!("{all}|{all}"), || {
            format!("node {node} holds {held}, {all} rows were committed")
        })?;
    }
    let node = primary(other).await?;
    other.psql(node, "app", &format!("INSERT INTO kept {}", rows(all))).await.map(drop)
}

/// The pool is deleted, its volumes stay, and no node of it is started in between: the operator is away until it is to go.
async fn taken_apart(world: &World) -> Outcome {
    let operator = format!("deployment/{RELEASE}");
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        world.kubectl(&["-n", SYSTEM, "scale", &operator, &replicas]).await
    };
    let replicas =
        world.kubectl(&["-n", SYSTEM, "get", &operator, "-o", "jsonpath={.spec.replicas}"]).await?;
    scale("0").await?;
    let done = deleted_without_operator(world).await;
    // Other pools need it, whatever came of this one.
    scale(&replicas).await?;
    done?;
    world.kubectl(&["-n", SYSTEM, "rollout", "status", &operator, "--timeout=100s"]).await?;
    world.here(&["wait", "--for=delete", &format!("pgpool/{RESTORED}"), "--timeout=100s"]).await.map(drop)
}

/// Everything of it that comes before the operator may go on.
async fn deleted_without_operator(world: &World) -> Outcome {
    let operator = format!("app.kubernetes.io/instance={RELEASE}");
    no_pods(world, SYSTEM, &operator).await?;
    let sets = NODES.map(|node| names::stateful_set(RESTORED, node));
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    world.here(&[&["scale", "statefulset", "--replicas=0"], &sets[..]].concat()).await?;
    let nodes = format!("{}={RESTORED},{}=node", names::LABEL_POOL, names::LABEL_PART);
    no_pods(world, SPACE, &nodes).await?;
    let spec = r#"{"spec":{"storage":{"whenDeleted":"Retain"}}}"#;
    world.here(&["patch", "pgpool", RESTORED, "--type=merge", "-p", spec]).await?;
    world.here(&["delete", "pgpool", RESTORED, "--wait=false"]).await.map(drop)
}

async fn no_pods(world: &World, space: &str, labels: &str) -> Outcome {
    until("the end of pods", WHOLE, || async {
        let pods = world.kubectl(&["-n", space, "get", "pods", "-l", labels, "-o", "name"]).await?;
        ensure(pods.is_empty(), || pods.clone())
    })
    .await
}
