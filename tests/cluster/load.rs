//! The load that runs through all faults, and the judgement of it.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::compare;
use super::harness::{Failure, Outcome, ensure, failed};
use super::install::{authority, locked, login};
use super::pool::{NODES, WHOLE};
use super::world::{POOL, SPACE, World, call, output, until};

/// The pod of the load.
pub const POD: &str = "load";
/// Its control port.
const PORT: u16 = 8080;
/// Acknowledged writes that count as going on.
const GOING_ON: u64 = 40;
/// Reads that a node has at least answered where it is said that it was read.
const READ: u64 = 5;
/// Time for writes to go on, after a fault whose end was seen.
const GOES_ON: Duration = Duration::from_secs(45);
/// Longest time for one answer of the control port.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest time for a dump, and for a checker of histories. The step has a limit of its own.
const CHECKED: Duration = Duration::from_secs(1800);
/// How long porcupine may search: less than that.
const SEARCHED: [&str; 2] = ["-limit", "25m"];
/// How it writes and reads. Several such loads share two processors with their clusters: a login costs more than a hundred reads.
const PACE: [&str; 14] = [
    "--writers",
    "4",
    "--readers",
    "3",
    "--read-pause-ms",
    "80",
    "--session-reads",
    "60",
    "--registers",
    "8",
    "--register-writers",
    "4",
    "--register-readers",
    "2",
];

/// Clients of the registers: writers, and readers at each of the two Services.
const CLIENTS: u64 = 4 + 2 * 2;
/// As many operations on registers are recorded: porcupine needs memory by the square of their number.
const OPERATIONS: u64 = 200_000;
/// Milliseconds from one beat of those clients to the next: some twelve writes and twelve snapshots a second.
const BEAT: u64 = 320;

/// Milliseconds between two writes of a writer.
const WRITE_PAUSE: &str = "80";
/// The same of a load that may run for hours: what it writes has to fit onto small volumes, and is looked for row by row.
const LONG_WRITE_PAUSE: &str = "160";

/// Starts the load: it writes by `demo`, and looks by `demo-ro` for what was acknowledged.
pub async fn start(world: &World) -> Outcome {
    start_writing(world, WRITE_PAUSE, BEAT).await
}

/// Starts a load that may run for hours, and of which operations on registers are recorded to the end.
pub async fn start_for_long(world: &World) -> Outcome {
    start_writing(world, LONG_WRITE_PAUSE, lasting(world.chaos.longest().as_secs())).await
}

/// The shortest beat by which operations can be recorded for so many seconds.
fn lasting(seconds: u64) -> u64 {
    (seconds * 1000 * CLIENTS).div_ceil(OPERATIONS).max(BEAT)
}

async fn start_writing(world: &World, pause: &str, beat: u64) -> Outcome {
    let (control, beat, operations) = (PORT.to_string(), beat.to_string(), OPERATIONS.to_string());
    let read = format!("{POOL}-ro");
    let mut args = vec![
        "run",
        "--prepare",
        "--write-host",
        POOL,
        "--read-host",
        &read,
        "--journal",
        "/journal/journal",
        "--control",
        &control,
        "--keep-serving",
    ];
    args.extend([
        "--write-pause-ms",
        pause,
        "--register-beat-ms",
        &beat,
        "--register-operations",
        &operations,
    ]);
    args.extend(PACE);
    let container = json!({
        "name": "load", "image": "localhost/pgpool-workload:dev", "args": args, "env": login(POOL),
        "securityContext": locked(),
        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}, {"name": "journal", "mountPath": "/journal"}],
    });
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": SPACE},
            "spec": {
                // Beside the primary, whose machine is never lost here: what the load remembers is in its pod.
                "nodeName": world.machine_of(0).await?,
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [authority(POOL), {"name": "journal", "emptyDir": {}}],
            },
        }))
        .await?;
    until("the load to write", GOES_ON, || async {
        let acked = acked(&summary(world).await?);
        ensure(acked > GOING_ON, || format!("{acked} writes"))
    })
    .await?;
    world.compared.under_load(true);
    Ok(())
}

/// What every fault must leave: a whole pool, writes that go on, and no read that missed an acknowledged write.
pub async fn unharmed(world: &World) -> Outcome {
    world.whole(WHOLE).await?;
    goes_on(world).await
}

/// Writes go on. Needs no API server.
pub async fn writes_go_on(world: &World) -> Outcome {
    let before = acked(&summary(world).await?);
    until("the load to go on", GOES_ON, || async {
        let now = acked(&summary(world).await?);
        ensure(now >= before + GOING_ON, || format!("{before} writes before, now {now}"))
    })
    .await
}

/// Writes go on, and no read missed an acknowledged write.
pub async fn goes_on(world: &World) -> Outcome {
    let before = summary(world).await?;
    let fresh = |summary: &Value| summary["reads"]["fresh"].as_u64().unwrap_or_default();
    let now = until("the load to go on", GOES_ON, || async {
        let now = summary(world).await?;
        let written = acked(&now) >= acked(&before) + GOING_ON;
        ensure(written && fresh(&now) > fresh(&before), || format!("before {before}, now {now}"))?;
        Ok(now)
    })
    .await?;
    ensure(now["reads"]["stale"] == 0, || format!("reads: {}, stale: {}", now["reads"], now["stale"]))
}

/// The same again and again for so long.
pub async fn goes_on_for(world: &World, time: Duration) -> Outcome {
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        goes_on(world).await?;
    }
    Ok(())
}

/// Ends the load, dumps every node, and has everything looked for everywhere.
pub async fn judge(world: &World) -> Outcome {
    let (end, journal) = ended(world).await?;
    println!(
        "    writes {}, reads {}, longest time without an acknowledgement {} ms",
        end["writes"], end["reads"], end["longest_stall"]["ms"]
    );
    let script = call(&checker()?, &["dump-sql"], None).await?;
    let mut dumps = Vec::new();
    for node in NODES {
        let path = world.scratch.path().join(format!("node-{node}"));
        dump(node, &script, &path).await?;
        dumps.push(path);
    }
    let report = check(&journal, &dumps).await?;
    let (acked, compared) = (&report["acked"], &report["comparison"]["rows"]);
    println!("    checked: {acked} acknowledged writes on {} nodes; {compared} rows compared", dumps.len());
    ensure(report["good"] == true && acked.as_u64() > Some(GOING_ON), || report.to_string())?;
    seeded(&journal, &dumps).await?;
    compare::judge(world).await?;
    everywhere(world, &end).await
}

/// Every node was read, or what was read says nothing of it. A front sends readers where it has the fewest sessions, so a
/// node that was the primary from first to last, with all the writers, may have had none.
async fn everywhere(world: &World, end: &Value) -> Outcome {
    let read = read_by(end);
    println!("    reads by node: {read:?}");
    if world.chaos.only.is_some() {
        // One round is over before readers have been everywhere.
        return Ok(());
    }
    let record = world.record().await?;
    let always = (record.timeline == 1).then_some(record.primary);
    for node in NODES.into_iter().filter(|node| Some(*node) != always) {
        let count = read.get(format!("{POOL}-{node}").as_str()).copied().unwrap_or_default();
        ensure(count > READ, || format!("node {node} was read {count} times: {}", end["reads_by_node"]))?;
    }
    Ok(())
}

/// How many reads each node has answered. It is counted by address and name, and each pod of it has another address.
fn read_by(end: &Value) -> BTreeMap<&str, u64> {
    let mut nodes: BTreeMap<&str, u64> = BTreeMap::new();
    for (who, count) in end["reads_by_node"].as_object().into_iter().flatten() {
        let name = who.rsplit_once('/').map_or(who.as_str(), |(_, name)| name);
        *nodes.entry(name).or_default() += count.as_u64().unwrap_or_default();
    }
    nodes
}

/// Ends the load if it still runs; its summary, and its journal.
async fn ended(world: &World) -> Outcome<(Value, PathBuf)> {
    ask(world, "POST", "/stop").await?;
    let end = until("the end of the load", WHOLE, || async {
        let now = summary(world).await?;
        ensure(now["finished"] == true, || "it still runs".to_owned())?;
        Ok(now)
    })
    .await?;
    world.compared.under_load(false);
    let journal = world.scratch.path().join("journal");
    tokio::fs::write(&journal, ask(world, "GET", "/journal").await?).await?;
    Ok((end, journal))
}

/// Has the history of the registers judged by a checker that isn't ours, and the snapshots of several nodes compared.
pub async fn registers(world: &World) -> Outcome {
    let (end, journal) = ended(world).await?;
    let linear = linear(&journal).await?;
    let snapshots = report(&checker()?, &["registers", "--journal", &journal.display().to_string()]).await?;
    let (checked, compared) = (&linear["verdict"], &snapshots["verdict"]);
    ensure(linear["good"] == true && snapshots["good"] == true, || {
        format!("histories: {checked}, snapshots: {compared}, recorded: {}", end["registers"])
    })?;
    let sum = |what: fn(&Value) -> &Value| -> u64 {
        let runs = snapshots["runs"].as_object().into_iter().flatten();
        runs.filter_map(|(_, run)| what(run).as_u64()).sum()
    };
    let registers = linear["registers"].as_array().map_or(0, Vec::len);
    let operations = linear["operations"].as_u64().unwrap_or_default();
    println!(
        "    linearizable: {operations} operations on {registers} registers, {} long forks among {} pairs of snapshots",
        sum(|run| &run["long_forks"]["count"]),
        sum(|run| &run["pairs"]),
    );
    println!(
        "    {} snapshots showed less than one on another node before; writes of unknown outcome: {}, of which {} were \
         shown and then lost; {} s to check",
        sum(|run| &run["went_back"]),
        linear["unknown"],
        linear["lost_unacknowledged"],
        linear["seconds"]
    );
    let seconds = linear["recorded_seconds"].as_f64().unwrap_or_default();
    println!("    recorded over {seconds:.0} s{}", cut_short(&end["registers"]));
    ensure(operations > GOING_ON && registers > 0, || linear.to_string())?;
    stale_read_found(&journal).await
}

/// That operations weren't recorded to the end of the load, where that is so.
fn cut_short(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    let recorded: u64 = counts.filter_map(|(_, count)| count.as_u64()).sum();
    if recorded < OPERATIONS {
        return String::new();
    }
    format!(", and NOT TO THE END of the load: no more than {OPERATIONS} operations are recorded")
}

/// What porcupine says about a journal.
async fn linear(journal: &Path) -> Outcome<Value> {
    let journal = journal.display().to_string();
    report(&linearizable()?, &[&SEARCHED[..], &[journal.as_str()]].concat()).await
}

/// A snapshot that shows none of the writes must be found by both: a check that can't fail is none.
async fn stale_read_found(journal: &Path) -> Outcome {
    let text = tokio::fs::read_to_string(journal).await?;
    let is_read = |line: &&str| line.starts_with("{\"register\":") && line.contains("\"shown\":[[");
    let Some(last) = text.lines().rev().find(is_read) else {
        return failed("the journal has no snapshot");
    };
    let mut line: Value = serde_json::from_str(last)?;
    let shown = line["register"]["read"]["shown"].as_array_mut();
    shown.into_iter().flatten().for_each(|register| *register = json!([0, 0]));
    let path = journal.with_extension("stale");
    tokio::fs::write(&path, text.replacen(last, &line.to_string(), 1)).await?;
    let linear = linear(&path).await?;
    let snapshots = report(&checker()?, &["registers", "--journal", &path.display().to_string()]).await?;
    // In these words: a search that was given up, say, isn't good either.
    let node = line["register"]["read"]["node"].as_str().unwrap_or_default();
    let found =
        says(&linear, &format!(" is not linearizable at node {node} ")) && says(&snapshots, "STALE: ");
    ensure(found, || {
        format!("a stale read isn't found: {}, {}; {line}", linear["verdict"], snapshots["verdict"])
    })
}

/// Whether a checker finds fault in these words.
fn says(report: &Value, words: &str) -> bool {
    let lines = report["verdict"].as_array().into_iter().flatten();
    report["good"] == false && lines.filter_map(Value::as_str).any(|line| line.contains(words))
}

/// What a checker prints, good or bad.
async fn report(program: &str, args: &[&str]) -> Outcome<Value> {
    let output = output(CHECKED, program, args, None).await?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let words = String::from_utf8_lossy(&output.stderr);
        Failure(format!("{program} gives no report: {error}; {}: {words}", output.status))
    })
}

/// The program that asks porcupine.
fn linearizable() -> Outcome<String> {
    let set = std::env::var("PGPOOL_LINEARIZABLE");
    set.map_err(|_| Failure("PGPOOL_LINEARIZABLE isn't set: `cargo xtask test cluster` does it".to_owned()))
}

/// One row less on one node must be found: a check that can't fail is none.
async fn seeded(journal: &Path, dumps: &[PathBuf]) -> Outcome {
    let text = tokio::fs::read_to_string(&dumps[2]).await?;
    let Some(row) = text.lines().rev().find(|line| line.starts_with('(')) else {
        return failed("the dump has no row");
    };
    let poorer: String = text.lines().filter(|line| *line != row).flat_map(|line| [line, "\n"]).collect();
    let path = dumps[2].with_extension("poorer");
    tokio::fs::write(&path, poorer).await?;
    let report = check(journal, &[dumps[0].clone(), dumps[1].clone(), path]).await?;
    let found = says(&report, "DIFFERENT");
    ensure(found, || format!("the checker doesn't miss the row {row}: {}", report["verdict"]))
}

/// The checker's report, good or bad.
async fn check(journal: &Path, dumps: &[PathBuf]) -> Outcome<Value> {
    let named: Vec<String> = dumps
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            format!("{name}={}", path.display())
        })
        .collect();
    let journal = journal.display().to_string();
    let mut args = vec!["check", "--journal", &journal, "--dump"];
    args.extend(named.iter().map(String::as_str));
    report(&checker()?, &args).await
}

/// The checker of the journals, which `cargo xtask test cluster` builds and names.
fn checker() -> Outcome<String> {
    std::env::var("PGPOOL_WORKLOAD").map_err(|_| {
        Failure(
            "PGPOOL_WORKLOAD names no program: the load is checked by cargo xtask test cluster".to_owned(),
        )
    })
}

/// Writes what the dump script prints on a node, as superuser by its socket, into a file.
async fn dump(node: u8, script: &str, path: &Path) -> Outcome {
    let pod = pgpool_operator::names::node_pod(POOL, node);
    let args =
        ["-n", SPACE, "exec", "-i", &pod, "-c", "postgres", "--", "psql", "-X", "-d", "app", "-f", "-"];
    let mut command = Command::new("kubectl");
    command.args(args).stdin(Stdio::piped()).stdout(std::fs::File::create(path)?).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
        stdin.write_all(b"\n").await?;
    }
    let status = tokio::time::timeout(CHECKED, child.wait()).await??;
    ensure(status.success(), || format!("dump of node {node}: {status}"))
}

/// How many writes were acknowledged so far. Needs no API server.
pub async fn written(world: &World) -> Outcome<u64> {
    Ok(acked(&summary(world).await?))
}

/// The longest time without an acknowledged write so far, in milliseconds.
pub async fn longest_stall(world: &World) -> Outcome<u64> {
    Ok(summary(world).await?["longest_stall"]["ms"].as_u64().unwrap_or_default())
}

fn acked(summary: &Value) -> u64 {
    summary["writes"]["acked"].as_u64().unwrap_or_default()
}

async fn summary(world: &World) -> Outcome<Value> {
    Ok(serde_json::from_slice(&ask(world, "GET", "/summary").await?)?)
}

/// Address of the load's pod, asked for once: it must be known while the API server is away.
static ADDRESS: OnceCell<String> = OnceCell::const_new();

async fn address(world: &World) -> Outcome<String> {
    let status = world.pods().get(POD).await?.status.unwrap_or_default();
    let phase = status.phase;
    status.pod_ip.ok_or_else(|| Failure(format!("the pod of the load has no address: {phase:?}")))
}

/// Asks the load's control port.
async fn ask(world: &World, method: &str, path: &str) -> Outcome<Vec<u8>> {
    let ip = ADDRESS.get_or_try_init(|| address(world)).await?;
    let exchange = async {
        let mut stream = TcpStream::connect((ip.as_str(), PORT)).await?;
        stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: load\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER, exchange).await??;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    match head {
        Some(end) if answer.starts_with(b"HTTP/1.1 200 ") => Ok(answer[end + 4..].to_vec()),
        _ => failed(format!("the load answers {}", String::from_utf8_lossy(&answer))),
    }
}
