//! The ways from the client to the same PostgreSQL.

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the node itself.
    Direct,
    /// Through the front of the pool.
    Front,
    /// Through PgBouncer, one server connection for each session.
    PgBouncer,
    /// Through pgpool-II, one process and server connection for each session.
    Pgpool,
}

/// All, in the order of the tables.
pub const WAYS: [Way; 4] = [Way::Direct, Way::Front, Way::PgBouncer, Way::Pgpool];
/// Those with a program of their own.
pub const BETWEEN: [Way; 3] = [Way::Front, Way::PgBouncer, Way::Pgpool];

impl Way {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Front => "front",
            Self::PgBouncer => "PgBouncer",
            Self::Pgpool => "pgpool-II",
        }
    }
}

/// Each has each place once in four turns, so that what changes from one to the next favours none.
pub fn order(turn: usize) -> [Way; 4] {
    let mut ways = WAYS;
    ways.rotate_left(turn % WAYS.len());
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_each_place_once_in_four_turns() {
        for place in 0..4 {
            let mut ways: Vec<Way> = (1..=4).map(|turn| order(turn)[place]).collect();
            ways.sort_unstable_by_key(|way| *way as usize);
            assert_eq!(ways, WAYS);
        }
    }
}
