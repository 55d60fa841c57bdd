//! A histogram of durations in bounded memory: 16 buckets to each power of two, so a percentile is read with
//! an error under 6.25 %. Pure.

use crate::clock::Micros;

const SUB: u64 = 16;
const BUCKETS: usize = 61 * 16;

/// Durations counted by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Micros,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, value: Micros) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// The largest duration counted.
    pub fn max(&self) -> Micros {
        self.max
    }

    /// The duration that `per_mille` thousandths of all stay at or under, rounded up to its bucket's upper edge
    /// (never above the largest one seen); zero if nothing was counted.
    pub fn at(&self, per_mille: u64) -> Micros {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: Micros) -> usize {
    let index = if value < SUB {
        value
    } else {
        let shift = u64::from(value.ilog2()) - 4;
        (shift + 1) * SUB + ((value >> shift) - SUB)
    };
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn upper_edge(index: usize) -> Micros {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let shift = index / SUB - 1;
    let low = (index % SUB + SUB) << shift;
    low + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_has_a_bucket_that_holds_it(value: u64) {
            let index = bucket(value);
            prop_assert!(index < BUCKETS);
            prop_assert!(upper_edge(index) >= value);
            prop_assert!(index == 0 || upper_edge(index - 1) < value);
        }

        #[test]
        fn a_percentile_is_near_the_true_one(mut values in prop::collection::vec(0..10_000_000_u64, 1..300), per_mille in 1..=1000_u64) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.add(*value);
            }
            values.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let read = histogram.at(per_mille);
            prop_assert!(read >= exact && read <= exact + exact / 16 + 1, "{} for {}", read, exact);
        }
    }

    #[test]
    fn nothing_counted_reads_zero() {
        assert_eq!(Histogram::default().at(990), 0);
    }
}
