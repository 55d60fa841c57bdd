//! `cargo xtask bench front`: what the front costs beside PgBouncer and pgpool-II.
//!
//! One client's pod goes to the same primary of the same pool, by itself and through each of the three, which are pods on
//! one Kubernetes node. All sides are encrypted: the front takes no client and the nodes take nobody without TLS. In each
//! turn all ways are measured one after the other, in another order than in the turn before: what other work on the
//! machine changes, it changes for all.

mod calls;
mod idle;
mod load;
mod peers;
pub(super) mod process;
mod report;
mod stage;
mod way;

use clap::Args;
use serde_json::json;

use super::pool::Pool;
use super::{NAMESPACE, on_cluster, prepare};
use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster};
use crate::error::Result;
use crate::images;
use crate::interrupt;
use crate::programs::Programs;
use crate::progress::{print, say, step};
use calls::Counter;
use load::{Cell, KINDS, Turn};
use report::Calls;
use stage::Stage;
use way::{BETWEEN, WAYS, Way, order};

/// Volume of each node.
const STORAGE: &str = "8Gi";
/// Sessions that the node and the front take besides those that are measured.
const SPARE: u32 = 100;
/// Idle sessions of a peer: what one adds doesn't hang on how many there are, and PgBouncer takes seconds for each.
const PEER_SESSIONS: u32 = 100;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of clients at once
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=200))]
    clients: Vec<u32>,
    /// How long each turn is, in seconds: pgbench tells once a second, and what is between is counted
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=3600))]
    seconds: u32,
    /// How often each is measured
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// pgbench's scale: 100,000 accounts each; more than clients, lest they wait for each other's branch
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// Idle sessions whose memory is measured; none with 0
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=5000))]
    sessions: u32,
    /// Threads of the front, by `limits.cpu` of its pod; as many as there are cores unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "bench")]
    name: String,
}

/// Measures and prints.
pub fn front(options: &Options) -> Result<()> {
    on_cluster(&options.name, |cluster| measure(options, cluster))
}

/// The turns of a cell, each in the order of [`WAYS`].
pub type Turns = Vec<[Turn; 4]>;

fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = prepare(cluster)?;
    let image = images::of_the_peers(&Programs::build()?)?;
    step("PgBouncer and pgpool-II into the nodes", || cluster::load(cluster, &[image]))?;
    let pool = Pool::new(&target, NAMESPACE);
    let clients = options.clients.iter().copied().max().unwrap_or(1);
    step("a pool", || {
        pool.create_with(STORAGE, &spec(clients.max(options.sessions) + SPARE, options.threads))
    })?;
    let mut stage = Stage::set(&pool, clients)?;
    step("pgbench's tables", || stage.fill(options.scale))?;
    let legs = WAYS.map(|way| stage.legs(way));
    print(report::head(&stage.versions()?, &stage.places(), legs)?);
    turns(options, &stage)?;
    system_calls(&stage)?;
    if options.sessions > 0 {
        memory(&mut stage, options.sessions)?;
    }
    pool.remove()
}

/// One front, so that all goes through it.
fn spec(sessions: u32, threads: Option<u32>) -> serde_json::Value {
    let limits = threads.map(|threads| json!({ "cpu": threads.to_string() }));
    json!({ "proxy": { "replicas": 1, "maxConnections": sessions, "resources": { "limits": limits.unwrap_or(json!({})) } },
        "postgres": { "parameters": { "max_connections": sessions.to_string() } } })
}

fn turns(options: &Options, stage: &Stage<'_>) -> Result<()> {
    let mut all: Vec<(Cell, Turns)> = Vec::new();
    let mut count = 0;
    for (script, protocol) in KINDS {
        for clients in &options.clients {
            let cell = Cell { script, protocol, clients: *clients };
            let turns = step(&cell.name(), || {
                let each = 0..options.runs;
                each.map(|_| {
                    count += 1;
                    one_turn(stage, cell, options.seconds, count)
                })
                .collect::<Result<Turns>>()
            })?;
            print(report::cell(cell, &turns));
            print(report::cell_json(cell, &turns).to_string());
            all.push((cell, turns));
        }
    }
    print(report::matrix(&options.clients, &all));
    Ok(())
}

fn one_turn(stage: &Stage<'_>, cell: Cell, seconds: u32, count: usize) -> Result<[Turn; 4]> {
    let mut turns = [Turn { cpu: 0.0, latency: 0.0, rate: 0.0 }; 4];
    for way in order(count) {
        turns[way as usize] = load::turn(stage, way, cell, seconds)?;
    }
    Ok(turns)
}

fn system_calls(stage: &Stage<'_>) -> Result<()> {
    let counter = Counter::choose()?;
    let mut all = Vec::new();
    for way in BETWEEN {
        all.push(step(&format!("system calls of {}", way.name()), || calls_of(stage, counter, way))?);
    }
    print(report::calls(counter, &all));
    print(report::calls_json(counter, &all).to_string());
    Ok(())
}

fn calls_of(stage: &Stage<'_>, counter: Counter, way: Way) -> Result<Calls> {
    let each = KINDS
        .map(|(script, protocol)| calls::calls(stage, counter, way, Cell { script, protocol, clients: 1 }));
    let each = each.into_iter().collect::<Result<Vec<f64>>>()?;
    let (watch, before) = (Stopwatch::start(), used(stage, way)?);
    let idle = calls::idle(stage, counter, way)?;
    let idle_cpu = (used(stage, way)? - before) / watch.elapsed().as_secs_f64();
    Ok(Calls { way, each, idle, idle_cpu })
}

/// Processor seconds of the program between.
fn used(stage: &Stage<'_>, way: Way) -> Result<f64> {
    stage.processes(way)?.map_or(Ok(0.0), |processes| processes.cpu())
}

fn memory(stage: &mut Stage<'_>, sessions: u32) -> Result<()> {
    let mut all = Vec::new();
    for (way, tls) in BETWEEN.iter().flat_map(|way| [(*way, true), (*way, false)]) {
        // The front takes no client without.
        if way == Way::Front && !tls {
            continue;
        }
        let sessions = if way == Way::Front { sessions } else { sessions.min(PEER_SESSIONS) };
        let side = if tls { "with" } else { "without" };
        let name = format!("{sessions} idle sessions of {}, {side} TLS", way.name());
        match step(&name, || idle::idle(stage, way, tls, sessions)) {
            Ok(idle) => all.extend(idle.inspect(|idle| say(report::one_memory(idle)))),
            // What a peer can't hold is no reason to lose the others' figures.
            Err(e) if way != Way::Front => {
                interrupt::check()?;
                say(format!("  no figure for {name}: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    print(report::memory(&all));
    print(report::memory_json(&all).to_string());
    Ok(())
}
