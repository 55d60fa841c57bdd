//! `cargo xtask chaos`: faults at random under load, on a cluster of its own (act `chaos` of tests/cluster).

use clap::Args;

use super::Name;
use super::stage::{self, Part, Play};
use crate::interrupt;
use crate::progress::{print, say};

/// Its cluster.
const CLUSTER: &str = "chaos";
/// MiB of each node's volume, a file system of its own: one that is filled must fill nothing else.
const VOLUMES: u32 = 1536;

/// What is to happen.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Options {
    /// How many faults, one or two at once
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    faults: u32,
    /// What they are drawn from: the same seed gives the same list. Made up, and printed, where none is given
    #[arg(long)]
    seed: Option<u64>,
    /// Begin no more after so many minutes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// Make this one of the rounds alone, counted from 1
    #[arg(long, requires = "seed", value_parser = clap::value_parser!(u32).range(1..))]
    only: Option<u32>,
    /// Leave the cluster running, and what is on it
    #[arg(long)]
    keep: bool,
}

/// Makes the faults. True when all passed. The sum is the very last line.
pub fn run(options: &Options) -> bool {
    // Hours may pass until the end: the cluster goes also where nobody waits for it, and where somebody is impatient.
    if let Err(e) = interrupt::hold() {
        say(format!("error: {e}"));
    }
    let part = Part { name: Name::Cluster, words: words(options), label: String::new() };
    let play = Play { cluster: CLUSTER, over_remains: false, volumes: Some(VOLUMES), parts: vec![part] };
    let tally = stage::alone(&play, options.keep);
    print(tally.to_string());
    tally.good()
}

/// Arguments of the test program.
fn words(options: &Options) -> Vec<String> {
    // The cluster goes with all that is on it: the test needn't take it away first.
    let mut words = vec!["--act".to_owned(), "chaos".to_owned(), "--keep".to_owned()];
    let numbers = [
        ("--faults", Some(u64::from(options.faults))),
        ("--seed", options.seed),
        ("--minutes", options.minutes),
        ("--only", options.only.map(u64::from)),
    ];
    for (flag, number) in numbers {
        words.extend(number.into_iter().flat_map(|number| [flag.to_owned(), number.to_string()]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_told_what_was_asked_for() {
        let all = Options { faults: 500, seed: Some(7), minutes: Some(90), only: Some(3), keep: false };
        assert_eq!(words(&all).join(" "), "--act chaos --keep --faults 500 --seed 7 --minutes 90 --only 3");
        let few = Options { faults: 30, seed: None, minutes: None, only: None, keep: true };
        assert_eq!(words(&few).join(" "), "--act chaos --keep --faults 30");
    }
}
