//! A standby that gives no session, not even to its own agent (R2, R7).
//!
//! It may do so for ever. A standby that was started again opens by a list of the transactions that ran; where each list
//! since its latest restartpoint was too long to be whole, it waits for WAL that only a primary could write (PostgreSQL
//! docs, "Hot Standby", Administrator's Overview). It streams, applies and confirms all the while, so it counts, and may be
//! the last that has all that was acknowledged. What it has can be said without a session: with its Postgres stopped,
//! nothing is received any more, and the end of its WAL is its position.
use std::time::Duration;

use crate::api::v1alpha1::{Member, Phase, Record};

/// After so many times R without an outcome it is stopped to vote. Who has opened has voted, and after R has chosen; a stopped
/// primary, which may not be able to start, waits longer.
const PATIENCE: u32 = 2;

/// What is known of it.
#[derive(Clone, Debug)]
pub struct UnseenView<'a> {
    /// The record, by a consistent read or by the watch.
    pub record: &'a Record,
    /// This node and its copy of the data.
    pub me: &'a Member,
    /// Whether it has voted in this election.
    pub voted: bool,
    /// How long it has known of the election.
    pub waited: Duration,
    /// R.
    pub patience: Duration,
}

/// What its agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// Waits for a session.
    Wait,
    /// Looks whether the primary is silent.
    Watch,
    /// Promotes it: it was chosen. All that it has is replayed first, and until it gives a session, and takes the office in
    /// order, N is a name that nobody has.
    Promote,
    /// It was chosen, and deposed again before it took office: says that it is there.
    Stand,
    /// Says again how far it is.
    Vote,
    /// Stops it, and says then how far it is.
    StopToVote,
}

/// What the agent of a standby does that gives no session.
pub fn unseen(view: &UnseenView<'_>) -> Unseen {
    if !view.record.attached.contains(view.me) {
        return Unseen::Wait;
    }
    match (view.record.phase, view.record.primary == view.me.index) {
        (Phase::Serving, true) => Unseen::Promote,
        (Phase::Serving, false) => Unseen::Watch,
        (Phase::Electing, true) => Unseen::Stand,
        (Phase::Electing, false) if view.voted => Unseen::Vote,
        (Phase::Electing, false) if view.waited > view.patience * PATIENCE => Unseen::StopToVote,
        (Phase::Electing, false) => Unseen::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(index: u8) -> Member {
        Member { index, incarnation: format!("copy{index}") }
    }

    fn record(phase: Phase, primary: u8) -> Record {
        Record {
            epoch: 7,
            phase,
            primary,
            attached: vec![member(0), member(1)],
            timeline: 3,
            fork_lsn: "0/0".to_owned(),
            successor: None,
            stopped: false,
            reason: String::new(),
        }
    }

    fn says(record: &Record, me: &Member, voted: bool, waited: u64) -> Unseen {
        let (waited, patience) = (Duration::from_millis(waited), Duration::from_millis(1500));
        unseen(&UnseenView { record, me, voted, waited, patience })
    }

    #[test]
    fn it_votes_once_nobody_else_has_chosen_and_before_a_stopped_primary_takes_itself() {
        let record = record(Phase::Electing, 0);
        assert_eq!(says(&record, &member(1), false, 3000), Unseen::Wait);
        assert_eq!(says(&record, &member(1), false, 3001), Unseen::StopToVote);
        assert_eq!(says(&record, &member(1), true, 0), Unseen::Vote, "with a session that it had before");
        assert_eq!(says(&record, &member(0), false, 0), Unseen::Stand);
    }

    #[test]
    fn it_watches_its_primary_and_is_promoted_when_it_is_chosen() {
        assert_eq!(says(&record(Phase::Serving, 0), &member(1), false, 0), Unseen::Watch);
        assert_eq!(says(&record(Phase::Serving, 1), &member(1), false, 0), Unseen::Promote);
    }

    #[test]
    fn one_that_the_record_does_not_count_waits() {
        let other = Member { incarnation: "other".to_owned(), ..member(1) };
        for phase in [Phase::Serving, Phase::Electing] {
            for primary in [0, 1] {
                assert_eq!(says(&record(phase, primary), &other, false, 90_000), Unseen::Wait);
                assert_eq!(says(&record(phase, primary), &member(2), true, 90_000), Unseen::Wait);
            }
        }
    }
}
