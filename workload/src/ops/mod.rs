//! The writes: what they are (pure), how they run ([`execute`]), the schema that they need ([`schema`]).

pub mod execute;
pub mod schema;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// What one write does. Every kind but an increment leaves a row with the write's own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Moves money in an explicit transaction; the sum of all balances never changes.
    Transfer {
        /// Account that pays.
        from: u32,
        /// Account that receives.
        to: u32,
        /// How much, above zero.
        amount: u32,
    },
    /// Appends to a list, whose positions are 1, 2, 3 … without a gap.
    Append {
        /// Which list.
        list: u32,
    },
    /// Inserts one unique id.
    Unique,
    /// Adds one to a counter of this run.
    Increment {
        /// Which counter.
        counter: u32,
    },
}

impl Action {
    /// A mix of all kinds: three of ten each of transfers, appends and ids, one of ten increments.
    pub fn random(rng: &mut impl Rng, sizes: Sizes) -> Self {
        match rng.random_range(0..10_u32) {
            0..3 => Self::transfer(rng, sizes.accounts),
            3..6 => Self::Append { list: rng.random_range(0..sizes.lists.max(1)) },
            6..9 => Self::Unique,
            _ => Self::Increment { counter: rng.random_range(0..sizes.counters.max(1)) },
        }
    }

    fn transfer(rng: &mut impl Rng, accounts: u32) -> Self {
        let accounts = accounts.max(2);
        let from = rng.random_range(0..accounts);
        let to = (from + rng.random_range(1..accounts)) % accounts;
        Self::Transfer { from, to, amount: rng.random_range(1..=100) }
    }

    /// The kind in one word.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Transfer { .. } => "transfer",
            Self::Append { .. } => "append",
            Self::Unique => "unique",
            Self::Increment { .. } => "increment",
        }
    }
}

/// How much there is to contend for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bank accounts, numbered from zero.
    pub accounts: u32,
    /// Lists.
    pub lists: u32,
    /// Counters of each run.
    pub counters: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn a_write_stays_within_its_sizes(seed: u64, accounts in 2..50_u32, lists in 1..50_u32, counters in 1..50_u32) {
            let mut rng = StdRng::seed_from_u64(seed);
            match Action::random(&mut rng, Sizes { accounts, lists, counters }) {
                Action::Transfer { from, to, amount } => {
                    prop_assert!(from != to && from < accounts && to < accounts && amount > 0);
                }
                Action::Append { list } => prop_assert!(list < lists),
                Action::Increment { counter } => prop_assert!(counter < counters),
                Action::Unique => {}
            }
        }
    }
}
