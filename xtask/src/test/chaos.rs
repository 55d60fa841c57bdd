//! `cargo xtask chaos`: faults at random under load, on a cluster of its own (act `chaos` of tests/cluster).

use clap::Args;

use super::Name;
use super::stage::{self, Part, Play};
use crate::interrupt;
use crate::progress::{print, say};

/// The act of the cluster test.
pub const ACT: &str = "chaos";
/// Its cluster.
const CLUSTER: &str = "chaos";
/// MiB of each node's volume, a file system of its own: one that is filled must fill nothing else.
pub const VOLUMES: u32 = 1536;

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
    let part = Part { name: Name::Cluster, words: options.words(), label: String::new() };
    let play = Play { cluster: CLUSTER, over_remains: false, volumes: Some(VOLUMES), parts: vec![part] };
    let tally = stage::alone(&play, options.keep);
    print(tally.to_string());
    tally.good()
}

impl Options {
    /// What the whole test makes of it beside its other acts: each run the same list, and no round begins that nobody has time for.
    pub fn of_the_whole_test() -> Self {
        Self { faults: 30, seed: Some(21), minutes: Some(10), only: None, keep: false }
    }

    /// Arguments of the test program.
    pub fn words(&self) -> Vec<String> {
        // The cluster goes with all that is on it: the test needn't take it away first.
        let mut words = vec!["--act".to_owned(), ACT.to_owned(), "--keep".to_owned()];
        let numbers = [
            ("--faults", Some(u64::from(self.faults))),
            ("--seed", self.seed),
            ("--minutes", self.minutes),
            ("--only", self.only.map(u64::from)),
        ];
        for (flag, number) in numbers {
            words.extend(number.into_iter().flat_map(|number| [flag.to_owned(), number.to_string()]));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_told_what_was_asked_for() {
        let all = Options { faults: 500, seed: Some(7), minutes: Some(90), only: Some(3), keep: false };
        assert_eq!(all.words().join(" "), "--act chaos --keep --faults 500 --seed 7 --minutes 90 --only 3");
        let few = Options { faults: 30, seed: None, minutes: None, only: None, keep: true };
        assert_eq!(few.words().join(" "), "--act chaos --keep --faults 30");
    }
}
