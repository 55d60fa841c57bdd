//! `cargo xtask test`: every check of the project, in one order, with one sum at the end.

mod steps;
mod tally;

use clap::ValueEnum;

use crate::cargo::Profile;
use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster, TOLERATION};
use crate::error::Result;
use crate::images::{self, Form};
use crate::programs::Programs;
use crate::progress::{print, say, step};

use tally::Tally;

/// A named part of the checks, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Name {
    /// Format of the sources
    Fmt,
    /// Lints, as errors
    Clippy,
    /// Unit, property, model, golden, layering and drift tests
    Unit,
    /// The chart: lint, rendering
    Helm,
    /// Tests against a real API server
    Api,
    /// Tests on the whole cluster
    Cluster,
}

impl Name {
    fn needs_cluster(self) -> bool {
        matches!(self, Self::Api | Self::Cluster)
    }

    fn text(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The cluster of the tests.
const CLUSTER: &str = "test";

/// Runs the named steps, or all. True when all passed. The sum is the very last line.
pub fn run(names: &[Name], keep: bool) -> bool {
    let mut chosen: Vec<Name> =
        if names.is_empty() { Name::value_variants().to_vec() } else { names.to_vec() };
    chosen.sort_unstable();
    chosen.dedup();
    let (with_cluster, without): (Vec<Name>, Vec<Name>) = chosen.iter().partition(|n| n.needs_cluster());
    let mut results: Vec<(Name, Tally)> =
        without.iter().map(|name| (*name, timed(*name, steps::run))).collect();
    results.extend(on_cluster(&with_cluster, keep));
    let total = results.iter().fold(Tally::default(), |sum, (_, tally)| sum + *tally);
    say("");
    for (name, tally) in &results {
        say(format!("{:<8} {tally}", name.text()));
    }
    print(total.to_string());
    total.good()
}

/// Runs one step; an error of the step itself is one failure.
fn timed(name: Name, work: impl FnOnce(Name) -> Result<Tally>) -> Tally {
    let watch = Stopwatch::start();
    say(format!("== {}", name.text()));
    let tally = work(name).unwrap_or_else(|e| {
        say(format!("error: {e}"));
        Tally::FAILURE
    });
    say(format!("== {}: {tally} ({:.1} s)", name.text(), watch.elapsed().as_secs_f64()));
    tally
}

/// Runs steps on a fresh cluster, which goes afterwards whatever happened.
fn on_cluster(names: &[Name], keep: bool) -> Vec<(Name, Tally)> {
    if names.is_empty() {
        return Vec::new();
    }
    let ready = Cluster::named(CLUSTER).and_then(|cluster| bring_up(&cluster).map(|()| cluster));
    let cluster = match ready {
        Ok(cluster) => cluster,
        Err(e) => {
            say(format!("error: no cluster: {e}"));
            take_down(keep);
            return names.iter().map(|name| (*name, Tally::FAILURE)).collect();
        }
    };
    let inside = |name| steps::run_inside(name, &cluster);
    let mut results: Vec<(Name, Tally)> = names.iter().map(|name| (*name, timed(*name, inside))).collect();
    if !take_down(keep)
        && let Some((_, last)) = results.last_mut()
    {
        *last = *last + Tally::FAILURE;
    }
    results
}

fn bring_up(cluster: &Cluster) -> Result<()> {
    step("cluster of the tests", || {
        cluster::down(cluster)?;
        cluster::up(cluster, TOLERATION)?;
        let programs = Programs::build()?;
        let mut own = images::of_the_checkout(&programs, Form::WithoutRoot, Profile::Dev)?;
        own.push(images::of_the_next_release(&programs, Form::WithoutRoot)?);
        cluster::load(cluster, &own).map(drop)
    })
}

/// False when something of the cluster may be left.
fn take_down(keep: bool) -> bool {
    if keep {
        say(format!("cluster {CLUSTER} stays: cargo xtask cluster down --name {CLUSTER} removes it"));
        return true;
    }
    match Cluster::named(CLUSTER).and_then(|cluster| cluster::down(&cluster)) {
        Ok(()) => true,
        Err(e) => {
            say(format!("error: cluster {CLUSTER} could not be removed: {e}"));
            false
        }
    }
}
