//! Which node a new session goes to, and which sessions may stay. Pure.
use std::cmp::Ordering;

use super::table::{Entry, Table};
use crate::{clock::Moment, messages::Role};

/// What a client asked for by the port that it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The primary.
    Primary,
    /// Any node that may be read from, the primary among them.
    Read,
}

impl Kind {
    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Read => "read",
        }
    }
}

/// True while the node's answers count for such a session: it is open, under a lease, and the primary
/// where one is wanted. A node that leaves the record is shut and loses its lease before anything is
/// acknowledged without it (R1), so these two say all that an epoch could.
pub fn serves(entry: &Entry, kind: Kind, now: Moment) -> bool {
    fits(entry, kind) && entry.lease > now
}

/// The same, were its lease to stand.
pub fn fits(entry: &Entry, kind: Kind) -> bool {
    entry.open
        && match kind {
            Kind::Primary => entry.role == Role::Primary,
            Kind::Read => entry.role != Role::Stopped,
        }
}

/// The node for a new session: of those that serve it and know the latest epoch among them the one that has the fewest
/// sessions for its weight; of equals, each in its turn. Who has weight 0 comes last. `busy` counts a node's sessions,
/// `tried` are those that could not be reached just now.
pub fn choose(
    table: &Table,
    kind: Kind,
    now: Moment,
    busy: impl Fn(u8) -> usize,
    tried: &[u8],
    turn: usize,
) -> Option<u8> {
    let serving = || table.nodes().filter(move |(_, entry)| serves(entry, kind, now));
    let epoch = serving().map(|(_, entry)| entry.epoch).max()?;
    let fit: Vec<(u8, (u32, usize))> = serving()
        .filter(|(index, entry)| entry.epoch == epoch && !entry.draining && !tried.contains(index))
        .map(|(index, entry)| (index, (entry.weight, busy(index))))
        .collect();
    let least = fit.iter().map(|(_, bears)| *bears).min_by(|one, other| by_burden(*one, *other))?;
    let equals: Vec<u8> = fit
        .into_iter()
        .filter(|(_, bears)| by_burden(*bears, least).is_eq())
        .map(|(index, _)| index)
        .collect();
    equals.get(turn.checked_rem(equals.len())?).copied()
}

/// Compares what two nodes, of which weight and sessions are given, would bear with one session more: sessions over
/// weight, without dividing.
fn by_burden((weight, busy): (u32, usize), (other_weight, other_busy): (u32, usize)) -> Ordering {
    let with_one = |busy: usize| busy.saturating_add(1) as u128;
    let [burden, other_burden] =
        [with_one(busy) * u128::from(other_weight), with_one(other_busy) * u128::from(weight)];
    // Of two without any weight the less busy one; of one without and one with, the latter: its side is 0.
    match (weight, other_weight) {
        (0, 0) => busy.cmp(&other_busy),
        _ => burden.cmp(&other_burden),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::table::tests::report;

    const ROLES: [Role; 3] = [Role::Stopped, Role::Primary, Role::Standby];
    const KINDS: [Kind; 2] = [Kind::Primary, Kind::Read];

    fn pool(nodes: &[(Role, i64, bool, u64)]) -> Table {
        let mut table = Table::new();
        for (index, (role, epoch, open, lease)) in (0..).zip(nodes) {
            let mut said = report(index, *role, *epoch, *lease);
            said.open = *open;
            table.told(index, &said, Moment::ZERO);
            table.answered(index, &said, Moment::ZERO);
        }
        table
    }

    fn pick(table: &Table, kind: Kind, turn: usize) -> Option<u8> {
        choose(table, kind, Moment::from_millis(1000), |_| 0, &[], turn)
    }

    #[test]
    fn the_primary_is_the_open_one_of_the_latest_epoch() {
        let standby = (Role::Standby, 5, true, 2000);
        let table = pool(&[(Role::Primary, 4, true, 2000), (Role::Primary, 5, true, 2000), standby]);
        assert_eq!(pick(&table, Kind::Primary, 0), Some(1));
        let table = pool(&[(Role::Primary, 5, false, 2000), standby]);
        assert_eq!(pick(&table, Kind::Primary, 0), None, "shut");
        let table = pool(&[(Role::Primary, 5, true, 1000), standby]);
        assert_eq!(pick(&table, Kind::Primary, 0), None, "its lease is over");
        let mut table = Table::new();
        let mut leaving = report(0, Role::Primary, 5, 2000);
        leaving.draining = true;
        table.told(0, &leaving, Moment::ZERO);
        table.answered(0, &leaving, Moment::ZERO);
        assert_eq!(pick(&table, Kind::Primary, 0), None, "it hands over");
    }

    #[test]
    fn reads_take_turns_and_prefer_the_idle() {
        let node = (Role::Standby, 5, true, 2000);
        let table = pool(&[(Role::Primary, 5, true, 2000), node, node, (Role::Standby, 4, true, 2000)]);
        let turns: Vec<_> = (0..6).filter_map(|turn| pick(&table, Kind::Read, turn)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        let busy = |index| if index == 2 { 0 } else { 9 };
        let now = Moment::from_millis(1);
        assert_eq!(choose(&table, Kind::Read, now, busy, &[], 0), Some(2));
        assert_eq!(choose(&table, Kind::Read, now, busy, &[2, 0], 0), Some(1));
        assert_eq!(choose(&table, Kind::Read, now, busy, &[0, 1, 2], 0), None, "never an older epoch");
    }

    #[test]
    fn weights_share_out_the_sessions() {
        let node = (Role::Standby, 5, true, 2000);
        let mut table = Table::new();
        for (index, weight) in (0..).zip([1, 3, 0, 2]) {
            let mut said = report(index, node.0, node.1, node.3);
            said.weight = weight;
            table.told(index, &said, Moment::ZERO);
            table.answered(index, &said, Moment::ZERO);
        }
        let now = Moment::from_millis(1);
        let mut sessions = [0; 4];
        for turn in 0..60 {
            let busy = |index: u8| sessions[usize::from(index)];
            let chosen = choose(&table, Kind::Read, now, busy, &[], turn).unwrap();
            sessions[usize::from(chosen)] += 1;
        }
        assert_eq!(sessions, [10, 30, 0, 20]);
        assert_eq!(choose(&table, Kind::Read, now, |_| 9, &[0, 1, 3], 0), Some(2), "where there is no other");
        let one_by_one: Vec<_> =
            (0..4).filter_map(|turn| choose(&table, Kind::Read, now, |_| 0, &[1], turn)).collect();
        assert_eq!(one_by_one, [3, 3, 3, 3], "weights are of sessions that are open at once");
    }

    proptest! {
        #[test]
        fn whoever_is_chosen_serves_and_somebody_is_chosen_if_any_serves(
            nodes in prop::collection::vec((0usize..3, 1i64..4, any::<bool>(), 0u64..20), 0..6),
            now in 0u64..20,
            kind in 0usize..2,
            turn in any::<usize>(),
            loads in prop::collection::vec(0usize..3, 6),
        ) {
            let nodes: Vec<_> = nodes.into_iter().map(|(r, e, o, l)| (ROLES[r], e, o, l)).collect();
            let (table, now, kind) = (pool(&nodes), Moment::from_millis(now), KINDS[kind]);
            let chosen = choose(&table, kind, now, |index| loads[usize::from(index)], &[], turn);
            let serving: Vec<u8> =
                table.nodes().filter(|(_, e)| serves(e, kind, now)).map(|(index, _)| index).collect();
            prop_assert_eq!(chosen.is_some(), !serving.is_empty());
            if let Some(chosen) = chosen {
                prop_assert!(serving.contains(&chosen));
                let entry = table.get(chosen).unwrap();
                for other in serving {
                    let rival = table.get(other).unwrap();
                    prop_assert!(rival.epoch <= entry.epoch);
                    if rival.epoch == entry.epoch {
                        prop_assert!(loads[usize::from(chosen)] <= loads[usize::from(other)]);
                    }
                }
            }
        }
    }
}
