//! What holds of every election and of every taking of office.
use std::cmp::Reverse;
use std::time::Duration;

use pgpool_operator::api::v1alpha1::{Member, Phase, Record};
use pgpool_operator::clock::Moment;
use pgpool_operator::membership::election::{Booth, Heard, choose};
use pgpool_operator::membership::handover::{Answers, Handover};
use pgpool_operator::membership::lease::waited;
use pgpool_operator::membership::record::{check, depose, elect};
use pgpool_operator::messages::{Standing, Vote};
use proptest::prelude::*;

use crate::views::{NODES, NOW, ago, member};

const PATIENCE: Duration = Duration::from_millis(1500);
const LEASE: Duration = Duration::from_secs(2);

/// Node 0 is, or was, the primary.
fn serving(attached: &[bool]) -> Record {
    let others = (1..NODES).filter(|i| attached[usize::from(*i)]).map(|i| member(i, 1));
    Record {
        epoch: 7,
        phase: Phase::Serving,
        primary: 0,
        attached: std::iter::once(member(0, 1)).chain(others).collect(),
        timeline: 3,
        fork_lsn: "0/0".to_owned(),
        successor: None,
        stopped: false,
        reason: String::new(),
    }
}

prop_compose! {
    fn vote(index: u8)(
        epoch in 7..10i64, copy in 1..3u8, office in any::<bool>(), timeline in 2..4u32, lsn in 0..4u64,
        gated_ms in 0..3u64, age in 0..3000u64,
    ) -> Heard {
        let standing = match (index, office) {
            (0, true) => Standing::InOffice,
            (0, false) => Standing::Stopped,
            _ => Standing::Standby,
        };
        let incarnation = member(index, copy).incarnation;
        let vote = Vote { pool_uid: String::new(), epoch, index, incarnation, standing, timeline, lsn, gated_ms };
        Heard { vote, at: ago(age) }
    }
}

prop_compose! {
    fn votes()(list in (vote(0), vote(1), vote(2), vote(3)), heard in prop::collection::vec(any::<bool>(), 4)) -> Vec<Heard> {
        let list = [list.0, list.1, list.2, list.3];
        list.into_iter().zip(heard).filter(|(_, heard)| *heard).map(|(vote, _)| vote).collect()
    }
}

fn chosen(record: &Record, me: &Member, votes: &[Heard], waited: u64) -> Option<Record> {
    choose(&Booth { now: NOW, me, record, since: ago(waited), votes, patience: PATIENCE })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_choice_is_of_those_who_voted_and_are_not_ahead(
        attached in prop::collection::vec(any::<bool>(), 4), votes in votes(), me in 0..NODES, waited in 0..8000u64,
    ) {
        let record = depose(&serving(&attached), None, false, "").unwrap();
        if let Some(new) = chosen(&record, &member(me, 1), &votes, waited) {
            prop_assert_eq!(check(Some(&record), &new, 0, false), Ok(()));
            prop_assert_eq!((new.primary, new.phase), (me, Phase::Serving));
            let given = |m: &Member| votes.iter().map(|h| &h.vote)
                .find(|v| v.index == m.index && v.incarnation == m.incarnation && v.epoch == record.epoch);
            let mine = given(&member(me, 1)).expect("the chosen one has voted");
            for m in &new.attached {
                let vote = given(m).expect("who is in the choice has voted");
                prop_assert!(me == 0 || (vote.timeline, vote.lsn) <= (mine.timeline, mine.lsn), "{m:?} is ahead");
                prop_assert!(me == 0 || m.index != 0, "the old primary is left out unless it stays");
            }
        }
    }

    #[test]
    fn with_all_votes_exactly_one_chooses_at_once(
        attached in prop::collection::vec(any::<bool>(), 4), lsns in prop::collection::vec(0..4u64, 4),
        gates in prop::collection::vec(0..3u64, 4), alive in any::<bool>(),
    ) {
        let record = depose(&serving(&attached), None, false, "").unwrap();
        prop_assume!(alive || record.attached.len() > 1);
        let votes: Vec<Heard> = record.attached.iter().filter(|m| m.index != 0 || alive).map(|m| {
            let standing = if m.index == 0 { Standing::InOffice } else { Standing::Standby };
            let (index, incarnation) = (m.index, m.incarnation.clone());
            let (lsn, gated_ms) = (lsns[usize::from(index)], gates[usize::from(index)]);
            let vote = Vote { pool_uid: String::new(), epoch: 8, index, incarnation, standing, timeline: 3, lsn, gated_ms };
            Heard { vote, at: NOW }
        }).collect();
        let chosen: Vec<Record> = record.attached.iter().filter_map(|m| chosen(&record, m, &votes, 0)).collect();
        prop_assert_eq!(chosen.len(), 1);
        // Of those that are as far, the one that can open first.
        let rank = |index: &u8| (Reverse(lsns[usize::from(*index)]), gates[usize::from(*index)], *index);
        let standbys = record.attached.iter().map(|m| m.index).filter(|index| *index != 0);
        let best = if alive { Some(0) } else { standbys.min_by_key(rank) };
        prop_assert_eq!(Some(chosen[0].primary), best);
    }

    /// The wait covers what each office before could last grant; to have answered more never shortens it.
    #[test]
    fn a_new_primary_waits_for_every_office_before(
        sets in prop::collection::vec((prop::collection::vec(any::<bool>(), 4), 0..5000u64), 1..4),
        choice in prop::collection::vec(any::<bool>(), 4), word in any::<bool>(),
    ) {
        let (mut sets, mut answers) = (sets, Answers::default());
        sets.sort_by_key(|s| Reverse(s.1));
        let mut least = Moment::ZERO;
        let last = serving(&[true; 4]);
        let election = depose(&last, None, word, "").unwrap();
        let with = election.attached.iter().filter(|m| m.index == 1 || (m.index > 1 && choice[usize::from(m.index)]));
        let new = elect(&election, 1, with.cloned().collect(), 0, "").unwrap();
        for (attached, age) in &sets {
            let office = serving(attached);
            answers.note(&office, ago(*age), LEASE);
            let outside = office.attached.iter().any(|m| m.index != 0 && !new.attached.contains(m));
            let span = if outside { waited(LEASE) * 2 } else if word { Duration::ZERO } else { waited(LEASE) };
            let until = ago(*age).after(span);
            least = if span.is_zero() || until <= NOW { least } else { least.max(until) };
            let over = Handover::new(&answers, Moment::ZERO, Some(&election), &new, LEASE).over_at();
            prop_assert!(over >= least, "over at {over:?}, and alive until {least:?}");
        }
    }
}
