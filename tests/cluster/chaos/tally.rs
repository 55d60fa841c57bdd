//! How long the pool took to be whole again, by kind of fault.
use std::collections::BTreeMap;
use std::time::Duration;

use super::draw::Kind;

/// Times by kind; that of a round of two faults counts for both, as far as they were made.
#[derive(Default)]
pub struct Tally(BTreeMap<Kind, Vec<Duration>>);

impl Tally {
    /// Counts a round in which these were made, after which the pool took so long.
    pub fn add(&mut self, made: &[Kind], took: Duration) {
        for kind in made {
            self.0.entry(*kind).or_default().push(took);
        }
    }

    /// A table, in the order of the kinds.
    pub fn lines(&self) -> Vec<String> {
        let head = format!("{:<30} {:>5} {:>9} {:>10}", "fault", "times", "median s", "longest s");
        let line = |(kind, times): (&Kind, &Vec<Duration>)| {
            let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
            seconds.sort_by(f64::total_cmp);
            let median = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
            let longest = seconds.last().copied().unwrap_or_default();
            format!("{kind:<30} {:>5} {median:>9.1} {longest:>10.1}", seconds.len())
        };
        [head].into_iter().chain(self.0.iter().map(line)).collect()
    }
}
