//! `cargo xtask test`: every check of the project, in one order, with one sum at the end. `cargo xtask chaos` beside it.

mod chaos;
mod demo;
mod examples;
mod loss;
mod stage;
mod steps;
mod tally;
mod traces;
mod wish;

use clap::ValueEnum;

use crate::builds;
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::progress::{print, say};

pub use chaos::{Options as ChaosOptions, run as chaos};
use tally::Tally;
pub use wish::Wish;
use wish::{Chosen, chosen};

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
    /// The demonstration in each way that it is called in, the examples, and what is left of it
    Demo,
    /// Tests against a real API server
    Api,
    /// Tests on the whole cluster
    Cluster,
}

impl Name {
    fn needs_cluster(self) -> bool {
        matches!(self, Self::Api | Self::Cluster)
    }

    /// Whether single tests of it can be asked for.
    fn has_tests(self) -> bool {
        matches!(self, Self::Unit | Self::Api | Self::Cluster)
    }

    fn text(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Runs what is asked for, or all. True when all passed. The sum is the very last line.
pub fn run(wishes: &[Wish], keep: bool) -> bool {
    if let Err(e) = builds::prune() {
        say(format!("old builds stay: {e}"));
    }
    let (with_cluster, without): (Vec<Chosen>, Vec<Chosen>) =
        chosen(wishes).into_iter().partition(|chosen| chosen.part.needs_cluster());
    let mut results: Vec<(Name, Tally)> = without
        .iter()
        .map(|chosen| (chosen.part, timed(&chosen.part.text(), || steps::run(chosen, keep))))
        .collect();
    results.extend(stage::run(&with_cluster, keep));
    let total = results.iter().fold(Tally::default(), |sum, (_, tally)| sum + *tally);
    say("");
    for (name, tally) in &results {
        say(format!("{:<8} {tally}", name.text()));
    }
    print(total.to_string());
    total.good()
}

/// Runs one step; an error of the step itself is one failure.
fn timed(name: &str, work: impl FnOnce() -> Result<Tally>) -> Tally {
    let watch = Stopwatch::start();
    say(format!("== {name}"));
    let tally = work().unwrap_or_else(|e| {
        say(format!("error: {e}"));
        Tally::FAILURE
    });
    say(format!("== {name}: {tally} ({:.1} s)", watch.elapsed().as_secs_f64()));
    tally
}
