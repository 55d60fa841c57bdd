//! Counting what passed and what failed.

use std::fmt;
use std::ops::Add;

/// Numbers of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
}

impl Tally {
    /// A step that counts as one, and passed.
    pub const SUCCESS: Self = Self { passed: 1, failed: 0 };
    /// A step that counts as one, and failed.
    pub const FAILURE: Self = Self { passed: 0, failed: 1 };

    /// Reads a line such as `test result: ok. 3 passed; 1 failed; 0 ignored; …`.
    pub fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let part = counts.split(';').find_map(|part| part.trim().strip_suffix(what))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: count("passed")?, failed: count("failed")? })
    }

    /// What a run of tests counts as: one that ended in error without a failed test (it did not build, or died)
    /// has failed once, and so has one without any test.
    pub fn of_run(self, succeeded: bool) -> Self {
        let nothing = self.passed + self.failed == 0;
        if (!succeeded && self.failed == 0) || nothing { self + Self::FAILURE } else { self }
    }

    /// Whether something ran and nothing failed.
    pub fn good(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_test_harness_are_summed_and_others_are_not() {
        let output = "running 3 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
a test that prints: test result: ok. nonsense";
        let sum = output.lines().filter_map(Tally::of_line).fold(Tally::default(), Add::add);
        assert_eq!(sum, Tally { passed: 12, failed: 3 });
        assert_eq!(sum.to_string(), "12 passed, 3 failed");
    }

    #[test]
    fn a_run_that_broke_or_did_nothing_is_a_failure() {
        let some = Tally { passed: 5, failed: 0 };
        assert!(some.of_run(true).good());
        assert_eq!(some.of_run(false), Tally { passed: 5, failed: 1 });
        assert_eq!(Tally::default().of_run(true), Tally::FAILURE);
        assert_eq!(Tally { passed: 1, failed: 2 }.of_run(false), Tally { passed: 1, failed: 2 });
        assert!(!Tally::default().good());
    }
}
