//! `cargo xtask bench failover`: how long writes stand still when the primary is lost.
//!
//! One client commits without a pause and reconnects at once; its gaps are read from its own output. The new
//! primary's agent logs how the gap was spent; what is left of it is the front's and the client's.

use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::pool::{DATA, NAME, Pool};
use super::report::median;
use super::stall::{Client, Gap};
use super::watch::Watcher;
use super::{NAMESPACE, on_cluster, prepare};
use crate::cluster::faults::{self, Fault};
use crate::cluster::{Cluster, TOLERATION};
use crate::error::{Result, refused};
use crate::progress::{print, step, until_every};
use crate::run;

/// Nodes of the pool, one on each machine.
const NODES: u8 = 3;
/// How long a pool may take to be whole again.
const WHOLE: Duration = Duration::from_secs(600);
/// Each loss comes so long after the pool was whole: a loss within two leases of the one before is another case, since
/// agents that were just started have forgotten whose beats they answered and wait that long.
const SETTLED: Duration = Duration::from_secs(5);
/// How often it is looked at; each look starts a kubectl.
const LOOK: Duration = Duration::from_millis(500);
/// A front may know before the agent has written that it is open, in milliseconds.
const EARLIEST: f64 = 500.0;
/// Parts of a gap, as the new primary's agent names them.
const PARTS: [&str; 3] = ["election_ms", "promotion_ms", "opening_ms"];
/// All parts: what comes before the chosen node knows of an election (the end of the old primary, and detecting it),
/// those of the agent, and what comes after it has opened (the front, and the client's coming back).
const NAMES: [&str; 5] = ["before", "election", "promotion", "opening", "front"];

/// How the primary is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Loss {
    /// SIGKILL of its postmaster
    Postgres,
    /// Deletion of its pod, with grace
    Pod,
    /// Deletion of its pod by force
    Force,
    /// Power cut of its machine, client and fronts elsewhere
    Machine,
    /// Power cut of its machine, a front on it
    MachineWithFront,
    /// Switchover by annotation
    Switchover,
}

impl Loss {
    fn is_of_a_machine(self) -> bool {
        matches!(self, Self::Machine | Self::MachineWithFront)
    }
}

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How the primary is lost
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "postgres,pod,force,machine,machine-with-front,switchover"
    )]
    loss: Vec<Loss>,
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "bench")]
    name: String,
    /// How often each is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Size of the pool's WAL segments in megabytes: one is copied at each promotion and its rest sent at each orderly stop
    #[arg(long, default_value_t = 16)]
    wal_segment_size: u32,
}

/// One loss.
#[derive(Debug, Clone)]
struct Turn {
    gap: Gap,
    /// Milliseconds, in the order of [`NAMES`].
    parts: Vec<f64>,
    /// Milliseconds from the gate's opening until the last front knew of it.
    known: f64,
}

/// What the new primary's agent says of its coming into office.
struct Office {
    /// Its index.
    new: u8,
    /// Milliseconds, in the order of [`PARTS`].
    parts: Vec<f64>,
    /// When it was open, in milliseconds since 1970.
    open: f64,
}

/// The parts of a gap. All clocks are the one of this machine.
fn split(gap: &Gap, office: &Office) -> Vec<f64> {
    let front = gap.end - office.open;
    let told: f64 = office.parts.iter().sum();
    let before = gap.millis - told - front;
    [before].into_iter().chain(office.parts.iter().copied()).chain([front]).collect()
}

/// Measures and prints.
pub fn failover(options: &Options) -> Result<()> {
    on_cluster(&options.name, |cluster| measure(options, cluster))
}

fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = prepare(cluster)?;
    let pool = Pool::new(&target, NAMESPACE);
    let bootstrap = json!({ "bootstrap": { "walSegmentSize": options.wal_segment_size } });
    step("pool of three nodes", || pool.create_with("1Gi", &bootstrap))?;
    let client = step("client", || Client::start(&pool))?;
    for loss in &options.loss {
        let mut turns = Vec::new();
        for run in 1..=options.runs {
            turns.push(step(&format!("{loss:?} {run} of {}", options.runs), || {
                turn(&pool, cluster, &client, *loss)
            })?);
        }
        print(table(*loss, &turns));
        print(line(*loss, &turns).to_string());
    }
    client.stop()?;
    pool.remove()
}

/// Waits until the pool is whole, under another primary than `not`; gives the primary.
fn whole(pool: &Pool<'_>, not: Option<u8>) -> Result<u8> {
    let template = r#"{.status.conditions[?(@.type=="Ready")].status}|{.status.membership.attached}|{.status.membership.primary}"#;
    let mut watcher = Watcher::start(pool, &["pgpool", NAME], template)?;
    watcher.until(WHOLE, |line| {
        let (ready, rest) = line.split_once('|')?;
        let (attached, primary) = rest.split_once('|')?;
        let all = ready == "True" && attached.split(',').count() == 3;
        primary.parse().ok().filter(|primary| all && not != Some(*primary))
    })
}

/// The same by the record too: an operator that was lost with a machine tells of the pool as it was.
fn settled(pool: &Pool<'_>) -> Result<u8> {
    until_every(LOOK, "a record that says the same as the pool's status", WHOLE, || {
        let primary = whole(pool, None)?;
        let record = pool.object(&["pgpoolmembership", NAME])?;
        let status = &record["status"];
        let all = status["attached"].as_array().is_some_and(|attached| attached.len() == 3);
        let same = status["phase"] == "Serving" && status["primary"] == primary;
        Ok(if all && same { Ok(primary) } else { Err(status.to_string()) })
    })
}

fn machine_of(pool: &Pool<'_>, pod: &str) -> Result<String> {
    let pod = pool.object(&["pod", pod])?;
    Ok(pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
}

/// The node whose machine may be lost: the client isn't there, and a front is or isn't.
fn candidate(pool: &Pool<'_>, client: &Client<'_>, with_front: bool) -> Result<u8> {
    let fronts = fronts(pool)?;
    for node in 0..NODES {
        let machine = machine_of(pool, &Pool::pod(node))?;
        if machine != client.machine && fronts.contains(&machine) == with_front {
            return Ok(node);
        }
    }
    refused(format!("the client is on {}, fronts are on {fronts:?}: no other machine fits", client.machine))
}

/// Brings the office where the loss is to be; gives the primary.
fn placed(pool: &Pool<'_>, client: &Client<'_>, loss: Loss) -> Result<u8> {
    let primary = settled(pool)?;
    if !loss.is_of_a_machine() {
        return Ok(primary);
    }
    let wanted = candidate(pool, client, loss == Loss::MachineWithFront)?;
    if wanted != primary {
        // A node that has just come back is attached a moment before it serves.
        let ready =
            ["wait", "--for=condition=Ready", &format!("pod/{}", Pool::pod(wanted)), "--timeout=120s"];
        run::captured(&mut pool.kubectl(&ready)?)?;
        let mut record = Watcher::start(pool, &["pgpoolmembership", NAME], RECORD)?;
        switch_over(pool, wanted)?;
        record.until(WHOLE, |line| taken_over(line, primary))?;
        whole(pool, Some(primary))?;
    }
    settled(pool)
}

fn turn(pool: &Pool<'_>, cluster: &Cluster, client: &Client<'_>, loss: Loss) -> Result<Turn> {
    let old = placed(pool, client, loss)?;
    let machine = machine_of(pool, &Pool::pod(old))?;
    std::thread::sleep(SETTLED);
    client.forget()?;
    let mut record = Watcher::start(pool, &["pgpoolmembership", NAME], RECORD)?;
    lose(pool, cluster, old, loss)?;
    let taken = record.until(WHOLE, |line| taken_over(line, old));
    drop(record);
    if !loss.is_of_a_machine() {
        // Until then nothing is asked: each kubectl would take a processor from those who take over.
        whole(pool, Some(old))?;
    }
    let office = taken.and_then(|(new, timeline)| office(pool, new, timeline));
    // Writes stood still at least from the choice until the gate opened.
    let gap = match &office {
        Ok(office) => client.longest(office.parts.iter().skip(1).sum()),
        Err(_) => refused("nobody took over"),
    };
    if loss.is_of_a_machine() {
        faults::make(cluster, &Fault::Start { node: machine, service: None }, TOLERATION)?;
    }
    let (office, gap) = (office?, gap?);
    let known = known(pool, &office)?;
    Ok(Turn { parts: split(&gap, &office), gap, known })
}

/// When the last of the fronts that can be asked knew of the new primary, in milliseconds after it had opened.
fn known(pool: &Pool<'_>, office: &Office) -> Result<f64> {
    until_every(LOOK, "the fronts to know the new primary", WHOLE, || {
        let mut logs =
            pool.kubectl(&["logs", "--selector", "pgpool-operator.dev/part=proxy", "--tail=200"])?;
        // A machine that was lost a moment ago gives no logs yet.
        let said = run::output(&mut logs)?;
        if !said.status.success() {
            return Ok(Err(String::from_utf8_lossy(&said.stderr).into_owned()));
        }
        let log = String::from_utf8_lossy(&said.stdout);
        let since = log.lines().filter_map(|line| learned(line, office.new)).map(|at| at - office.open);
        // Earlier lines tell of earlier offices of the same node.
        let last = since.filter(|since| *since > -EARLIEST).reduce(f64::max);
        Ok(last.ok_or_else(|| "no front has said so".to_owned()))
    })
}

/// When a front knew that a node is the primary, by a line of its log.
fn learned(line: &str, node: u8) -> Option<f64> {
    let (at, fields) = logged(line)?;
    (fields["message"] == "the primary serves" && fields["node"] == node).then_some(at)
}

/// The moment of a line of a log, in milliseconds since 1970, and what it says.
fn logged(line: &str) -> Option<(f64, Value)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let at: Timestamp = value["timestamp"].as_str()?.parse().ok()?;
    Some((at.as_duration().as_millis_f64(), value["fields"].clone()))
}

/// The machines of the fronts, without those that are on their way out.
fn fronts(pool: &Pool<'_>) -> Result<Vec<String>> {
    let pods = pool.object(&["pods", "--selector", "pgpool-operator.dev/part=proxy"])?;
    let all = pods["items"].as_array().cloned().unwrap_or_default();
    let staying = all.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(staying.filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned)).collect())
}

fn lose(pool: &Pool<'_>, cluster: &Cluster, old: u8, loss: Loss) -> Result<()> {
    let pod = Pool::pod(old);
    match loss {
        Loss::Postgres => {
            pool.exec(old, &format!("kill -KILL \"$(head -n 1 {DATA}/postmaster.pid)\"")).map(drop)
        }
        Loss::Pod => run::captured(&mut pool.kubectl(&["delete", "pod", &pod, "--wait=false"])?).map(drop),
        Loss::Force => {
            let words = ["delete", "pod", &pod, "--force", "--grace-period=0"];
            run::captured(&mut pool.kubectl(&words)?).map(drop)
        }
        Loss::Machine | Loss::MachineWithFront => {
            let node = machine_of(pool, &pod)?;
            faults::make(cluster, &Fault::Kill { node }, TOLERATION)
        }
        Loss::Switchover => switch_over(pool, (old + 1) % NODES),
    }
}

fn switch_over(pool: &Pool<'_>, to: u8) -> Result<()> {
    let request = format!("pgpool-operator.dev/switchover={to}");
    run::captured(&mut pool.kubectl(&["annotate", "pgpool", NAME, &request])?).map(drop)
}

/// What is seen of the record at each change.
const RECORD: &str = "{.status.phase}|{.status.primary}|{.status.timeline}";

/// The index and the timeline of another primary in office.
fn taken_over(line: &str, old: u8) -> Option<(u8, u64)> {
    let [phase, primary, timeline] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
    let primary = primary.parse().ok().filter(|primary| *primary != old && phase == "Serving")?;
    Some((primary, timeline.parse().ok()?))
}

/// How the agent of the new primary says that it came into office.
fn office(pool: &Pool<'_>, new: u8, timeline: u64) -> Result<Office> {
    until_every(LOOK, "the new primary to be open", WHOLE, || {
        let pod = Pool::pod(new);
        let log =
            run::captured(&mut pool.kubectl(&["logs", &pod, "--container=postgres", "--tail=2000"])?)?;
        let told = log.lines().rev().find_map(|line| told_of(line, new, timeline));
        Ok(told.ok_or_else(|| format!("{pod} has not said so")))
    })
}

/// A line of the agent's log that tells of the office of a timeline.
fn told_of(line: &str, new: u8, timeline: u64) -> Option<Office> {
    let (open, fields) = logged(line)?;
    if fields["message"] != "took office" || fields["timeline"] != timeline {
        return None;
    }
    let parts = PARTS.iter().map(|part| fields[part].as_f64().unwrap_or(f64::NAN)).collect();
    Some(Office { new, parts, open })
}

fn table(loss: Loss, turns: &[Turn]) -> String {
    let each: Vec<String> = turns.iter().map(|t| format!("{:.0}", t.gap.millis)).collect();
    let part = |(i, name): (usize, &&str)| format!("{name} {:.0}", median(turns.iter().map(|t| t.parts[i])));
    let parts: Vec<String> = NAMES.iter().enumerate().map(part).collect();
    let known = median(turns.iter().map(|t| t.known));
    let mut words: Vec<&str> = turns.iter().flat_map(|t| t.gap.told.iter().map(String::as_str)).collect();
    words.sort_unstable();
    words.dedup();
    format!(
        "\n{loss:?}: writes stand still for {} ms\n  median {:.0} ms; of it {}; fronts knew after {known:.0} ms\n  the client was told: {}",
        each.join(" "),
        median(turns.iter().map(|t| t.gap.millis)),
        parts.join(", "),
        words.join(" | ")
    )
}

fn line(loss: Loss, turns: &[Turn]) -> Value {
    let each: Vec<Value> = turns
        .iter()
        .map(|t| json!({ "stallMs": t.gap.millis, "partsMs": t.parts, "knownMs": t.known }))
        .collect();
    json!({ "bench": "failover", "loss": format!("{loss:?}"), "turns": each,
        "medianMs": median(turns.iter().map(|t| t.gap.millis)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_primary_in_office_is_told_from_an_election() {
        assert_eq!(taken_over("Serving|1|4", 0), Some((1, 4)));
        for not in ["Electing|0|3", "Electing|1|3", "Serving|0|4", "||", "Serving|1|"] {
            assert_eq!(taken_over(not, 0), None, "{not}");
        }
    }

    #[test]
    fn what_the_agent_does_not_tell_comes_before_and_after_it() {
        let line = r#"{"timestamp":"1970-01-01T00:00:02.900Z","fields":{"message":"took office","timeline":4,
            "election_ms":100,"promotion_ms":200,"opening_ms":50}}"#;
        assert!(told_of(line, 1, 3).is_none());
        let office = told_of(line, 1, 4).unwrap();
        let front =
            r#"{"timestamp":"1970-01-01T00:00:02.910Z","fields":{"message":"the primary serves","node":1}}"#;
        assert_eq!(learned(front, 1).map(|at| at - office.open), Some(10.0));
        assert_eq!(learned(front, 2), None);
        let gap = Gap { millis: 1000.0, end: 2930.0, told: Vec::new() };
        assert_eq!(split(&gap, &office), [620.0, 100.0, 200.0, 50.0, 30.0]);
    }
}
