//! `cargo xtask bench`: what a pool costs and how long it stands still, beside what could do the same. `failover`,
//! `cost`, `front` and `operator` have files of their own; the rest here is `recovery`, beside the tools that could do its work alone.
//!
//! Everything is measured in one run, one after the other and in turn, since a figure from another hour of a
//! shared machine says nothing: whole recoveries, `pg_basebackup` alone with the recovery's own options, and
//! `tar` over TLS, all from the same donor to the Kubernetes node of the same standby.

mod copies;
mod cost;
mod failover;
mod fill;
mod front;
mod operator;
mod peer;
mod pool;
mod recovery;
mod report;
mod stall;
mod watch;

use std::fs;

use clap::Args;

use crate::cargo::Profile;
use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster, TOLERATION};
use crate::demo::{self, Target};
use crate::error::{OnFile, Result, refused};
use crate::images::{self, Form};
use crate::interrupt;
use crate::programs::Programs;
use crate::progress::{print, say, step};
use copies::Copier;
pub use cost::{Options as CostOptions, cost};
pub use failover::{Options as FailoverOptions, failover};
pub use front::{Options as FrontOptions, front};
pub use operator::{Options as OperatorOptions, operator};
pub use pool::{NAME, PROGRAMS, Pool};

/// Namespace of the pool whose nodes are recovered.
const NAMESPACE: &str = "pgpool-bench";
/// Namespace of the pools that are only made.
const NAMESPACE_NEW: &str = "pgpool-bench-new";
/// Node that is recovered.
const NODE: u8 = 2;
/// Node that is copied from: the one that the operator chooses, the standby that is left.
const DONOR: u8 = 1;
/// Volume of the pools that are only made, as in examples/demo.yaml.
const SMALL: &str = "1Gi";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Sizes of the table, such as 300M or 1G,5G (powers of ten); the smallest first
    #[arg(long, value_delimiter = ',', default_value = "1G,5G", value_parser = fill::size)]
    size: Vec<u64>,
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "bench")]
    name: String,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How many new pools are timed from apply to Ready; as many as there are runs unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=100))]
    new_pools: Option<u32>,
}

/// One turn of all three.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Bytes of the donor's data directory without its WAL, before the turn.
    pub data: u64,
    /// The recovery.
    pub whole: recovery::Whole,
    /// Seconds of `pg_basebackup` alone.
    pub basebackup: f64,
    /// Seconds of `tar` over TLS.
    pub tar: f64,
    /// The machine's load before each of the three, in the order of [`Way`].
    pub load: [f64; 3],
}

/// Measures and prints.
pub fn recovery(options: &Options) -> Result<()> {
    on_cluster(&options.name, |cluster| measure(options, cluster))
}

/// Does the work on a cluster; what was made for it is removed, also when it fails or is interrupted.
pub fn on_cluster(name: &str, work: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    interrupt::remember()?;
    let cluster = Cluster::named(name)?;
    let ours = cluster::enter::kubectl(&cluster).is_err();
    let result = work(&cluster);
    interrupt::forget();
    let cleaned = if ours { cluster::down(&cluster) } else { forget(cluster) };
    result.and(cleaned)
}

/// Removes the namespaces from a cluster that was there before.
fn forget(cluster: Cluster) -> Result<()> {
    let target = Target::Embedded(cluster);
    [NAMESPACE, NAMESPACE_NEW].map(|name| Pool::new(&target, name).remove()).into_iter().collect()
}

/// Brings the cluster up with this checkout's images, as users run them, and the operator.
fn prepare(cluster: &Cluster) -> Result<Target> {
    prepare_as(cluster, Profile::Release)
}

/// The same with programs of that profile.
pub fn prepare_as(cluster: &Cluster, profile: Profile) -> Result<Target> {
    cluster::up(cluster, TOLERATION)?;
    let programs = Programs::build()?;
    let own = step("images", || images::of_the_checkout(&programs, Form::WithoutRoot, profile))?;
    let fresh = step("images into the nodes", || cluster::load(cluster, &own))? > 0;
    let target = Target::Embedded(Cluster::named(cluster.name())?);
    step("operator", || demo::install(&target, fresh))?;
    Ok(target)
}

fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = prepare(cluster)?;
    let new = 1..=options.new_pools.unwrap_or(options.runs);
    let new = new.map(|run| apply_to_ready(&target, run)).collect::<Result<Vec<f64>>>()?;
    if !new.is_empty() {
        print(report::ready_table(&new));
        print(report::ready_json(&new).to_string());
    }
    let mut sizes = options.size.clone();
    sizes.sort_unstable();
    let largest = sizes.last().copied().unwrap_or_default();
    let pool = Pool::new(&target, NAMESPACE);
    step("pool of three nodes", || pool.create(&fill::storage_for(largest)))?;
    for size in sizes {
        measure_size(&pool, size, options.runs)?;
    }
    pool.remove()
}

fn apply_to_ready(target: &Target, run: u32) -> Result<f64> {
    let pool = Pool::new(target, NAMESPACE_NEW);
    // What is left of another pool would be measured too: ending pods, volumes.
    pool.remove()?;
    let watch = Stopwatch::start();
    step(&format!("apply to Ready, {run}"), || pool.create(SMALL))?;
    let seconds = watch.elapsed().as_secs_f64();
    pool.remove()?;
    Ok(seconds)
}

fn measure_size(pool: &Pool<'_>, size: u64, runs: u32) -> Result<()> {
    fill::fill(pool, size)?;
    let copier = Copier::start(pool, NODE)?;
    let mut turns = Vec::new();
    for run in 1..=runs {
        say(format!("turn {run} of {runs}"));
        turns.push(turn(pool, &copier, run)?);
    }
    copier.stop()?;
    print(report::table(size, &turns));
    print(report::json(size, &turns).to_string());
    Ok(())
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Basebackup,
    Tar,
}

/// Each is first, second and last in its turns, so that what changes from one to the next (caches, other work
/// on the machine) favours none of them.
fn order(run: u32) -> [Way; 3] {
    let mut ways = [Way::Whole, Way::Basebackup, Way::Tar];
    ways.rotate_left(run as usize % 3);
    ways
}

fn turn(pool: &Pool<'_>, copier: &Copier<'_>, run: u32) -> Result<Turn> {
    let data = pool.data_bytes(DONOR)?;
    let (mut whole, mut basebackup, mut tar, mut loads) = (None, 0.0, 0.0, [0.0; 3]);
    for way in order(run) {
        pool.settle()?;
        if way == Way::Whole {
            recovery::spoil(pool, NODE)?;
        }
        loads[way as usize] = load()?;
        match way {
            Way::Whole => whole = Some(recovery::whole(pool, NODE)?),
            Way::Basebackup => basebackup = step("pg_basebackup alone", || copier.basebackup(DONOR))?,
            Way::Tar => tar = step("tar over TLS", || copier.tar(DONOR, data))?,
        }
    }
    match whole {
        Some(whole) if whole.donor == DONOR => Ok(Turn { data, whole, basebackup, tar, load: loads }),
        _ => refused(format!("the recovery copied another node than {DONOR}, so nothing can be compared")),
    }
}

/// The machine's load: mean number of processes that run or wait, over the last minute (proc(5)).
fn load() -> Result<f64> {
    let path = "/proc/loadavg";
    let text = fs::read_to_string(path).on("read", path)?;
    Ok(text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_takes_each_place_once_in_three_turns() {
        for place in 0..3 {
            let mut ways: Vec<Way> = (1..=3).map(|run| order(run)[place]).collect();
            ways.sort_unstable_by_key(|way| *way as usize);
            assert_eq!(ways, [Way::Whole, Way::Basebackup, Way::Tar]);
        }
    }
}
