//! What has been acknowledged, for readers to look for. Pure: no clock, no I/O, bounded memory.

pub mod id;
pub mod latency;
pub mod stats;

use std::collections::VecDeque;

use rand::Rng;

use crate::clock::Micros;
use crate::ops::Action;
use id::Id;

/// How many of the newest acknowledged writes are kept.
const RECENT: usize = 65_536;

/// How many older ones are kept, as a uniform sample of all that fell out of the newest.
const SAMPLE: usize = 65_536;

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Which one.
    pub id: Id,
    /// What it did.
    pub action: Action,
    /// When its acknowledgement was received (monotonic).
    pub since_us: Micros,
}

/// Something that every read sent from now on must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The write that the claim rests on.
    pub write: Acked,
    /// For a counter: the value that it has at least; zero for writes that leave a row.
    pub at_least: u64,
}

/// The acknowledged writes of this process.
#[derive(Debug, Default)]
pub struct History {
    recent: VecDeque<Acked>,
    sample: Vec<Acked>,
    retired: u64,
    counters: Vec<u64>,
}

impl History {
    /// Takes note of an acknowledgement.
    pub fn acked(&mut self, write: Acked, rng: &mut impl Rng) {
        if let Action::Increment { counter } = write.action {
            let index = counter as usize;
            if self.counters.len() <= index {
                self.counters.resize(index + 1, 0);
            }
            self.counters[index] += 1;
        }
        self.recent.push_back(write);
        if self.recent.len() > RECENT
            && let Some(old) = self.recent.pop_front()
        {
            self.retire(old, rng);
        }
    }

    fn retire(&mut self, old: Acked, rng: &mut impl Rng) {
        self.retired += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(old);
            return;
        }
        let slot = rng.random_range(0..self.retired);
        if let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.sample.get_mut(slot)) {
            *place = old;
        }
    }

    /// Chooses a write to look for: half of the time the newest (the hardest to have everywhere), else one of
    /// the newest hundred, of all that are kept, or of the sample of old ones.
    pub fn pick(&self, rng: &mut impl Rng) -> Option<Claim> {
        let newest = self.recent.len();
        if newest == 0 {
            return None;
        }
        let write = match rng.random_range(0..10_u32) {
            0..5 => self.recent.back(),
            5..8 => self.recent.get(rng.random_range(newest.saturating_sub(100)..newest)),
            8 => self.recent.get(rng.random_range(0..newest)),
            _ if self.sample.is_empty() => self.recent.front(),
            _ => self.sample.get(rng.random_range(0..self.sample.len())),
        };
        write.map(|write| Claim { write: *write, at_least: self.floor(write.action) })
    }

    fn floor(&self, action: Action) -> u64 {
        match action {
            Action::Increment { counter } => self.counters.get(counter as usize).copied().unwrap_or(0),
            Action::Transfer { .. } | Action::Append { .. } | Action::Unique => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn unique(id: u128) -> Acked {
        Acked { id: Id(id), action: Action::Unique, since_us: 0 }
    }

    proptest! {
        #[test]
        fn only_acknowledged_writes_are_picked_and_counters_have_their_floor(
            actions in prop::collection::vec(prop::option::of(0..4_u32), 1..200),
            seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut history = History::default();
            let mut increments = [0; 4];
            for (id, counter) in actions.iter().enumerate() {
                let action = counter.map_or(Action::Unique, |counter| Action::Increment { counter });
                if let Some(counter) = counter {
                    increments[*counter as usize] += 1;
                }
                history.acked(Acked { action, ..unique(id as u128) }, &mut rng);
                let claim = history.pick(&mut rng).unwrap();
                prop_assert!(claim.write.id.0 <= id as u128);
                if let Action::Increment { counter } = claim.write.action {
                    prop_assert_eq!(claim.at_least, increments[counter as usize]);
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_old_writes_are_still_picked() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut history = History::default();
        let all = (RECENT + 3 * SAMPLE) as u128;
        for id in 0..all {
            history.acked(unique(id), &mut rng);
        }
        assert_eq!((history.recent.len(), history.sample.len()), (RECENT, SAMPLE));
        let oldest = (0..2000).filter_map(|_| history.pick(&mut rng)).map(|claim| claim.write.id.0).min();
        assert!(oldest.unwrap() < all / 4);
    }

    #[test]
    fn nothing_acknowledged_nothing_picked() {
        assert!(History::default().pick(&mut StdRng::seed_from_u64(1)).is_none());
    }
}
