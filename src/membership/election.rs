//! Choosing another primary (R2): who suspects, who is chosen, who is left out.
//!
//! The node that is chosen writes its choice itself. It has then fenced itself, knows that it is well, and
//! beats from the moment that its write has landed.
use std::cmp::Reverse;
use std::time::Duration;

use super::record;
use super::rules::{Rule, Rules};
use crate::api::v1alpha1::{Member, Phase, Record};
use crate::clock::Moment;
use crate::messages::{Standing, Vote};

/// After so many times R whoever should choose itself and doesn't is passed over by the next one.
const SECOND: u32 = 3;
/// After so many times R also a primary that is alive and can't write, or standbys that can't.
const LAST: u32 = 6;

/// What an attached standby knows of the primary in office.
#[derive(Clone, Debug)]
pub struct Suspicion<'a> {
    /// Now.
    pub now: Moment,
    /// This node and its copy of the data.
    pub me: &'a Member,
    /// The record, by a consistent read made after the silence or the end was noticed.
    pub record: &'a Record,
    /// When a beat of this primary's last came in, or since when one could have.
    pub beaten: Moment,
    /// G.
    pub grace: Duration,
    /// Why the primary is known to be gone, if it is: nothing has to be waited for then.
    pub gone: Option<&'a str>,
}

/// The record that begins an election, if this node asks for one.
pub fn suspect(view: &Suspicion<'_>) -> Option<Record> {
    let record = view.record;
    let mine = record.attached.contains(view.me) && record.primary != view.me.index;
    if record.phase != Phase::Serving || !mine {
        return None;
    }
    let silence = view.now.since(view.beaten);
    let text = match view.gone {
        Some(why) => format!("node {}, the primary, is gone: {why}", record.primary),
        None if silence > view.grace => {
            format!("node {}, the primary, has been silent for {} ms", record.primary, view.grace.as_millis())
        }
        None => return None,
    };
    record::depose(record, None, false, &text).ok()
}

/// A vote, and when it came in; a vote is sent again and again while its sender lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What was said.
    pub vote: Vote,
    /// When it was heard last.
    pub at: Moment,
}

/// What a voter knows.
#[derive(Clone, Debug)]
pub struct Booth<'a> {
    /// Now.
    pub now: Moment,
    /// This node and its copy of the data.
    pub me: &'a Member,
    /// The record of the election, by a consistent read.
    pub record: &'a Record,
    /// When this node first knew of the election, or last failed to reach the API in it.
    pub since: Moment,
    /// Votes heard, its own among them: at most one for each index.
    pub votes: &'a [Heard],
    /// How long voters wait for those who are missing (R).
    pub patience: Duration,
}

/// Whether somebody would be passed over by now: not before it is certain that the record could have been written meanwhile.
pub fn is_late(booth: &Booth<'_>) -> bool {
    booth.now.since(booth.since) > booth.patience * SECOND
}

/// The record that ends the election, if this node is chosen and may say so now.
pub fn choose(booth: &Booth<'_>) -> Option<Record> {
    choose_with(booth, Rules::ALL)
}

/// [`choose`] under other rules; for tests.
pub fn choose_with(booth: &Booth<'_>, rules: Rules) -> Option<Record> {
    let record = booth.record;
    if record.phase != Phase::Electing {
        return None;
    }
    let votes = counted(booth, rules);
    let mine = votes.iter().find(|v| v.index == booth.me.index)?;
    let waited = booth.now.since(booth.since);
    match mine.standing {
        Standing::InOffice => incumbent(booth, &votes, waited),
        Standing::Stopped => last_resort(booth, &votes, waited),
        Standing::Standby => standby(booth, &votes, mine, waited, rules),
    }
}

/// Votes of this election by copies that the record counts, heard lately.
fn counted<'a>(booth: &Booth<'a>, rules: Rules) -> Vec<&'a Vote> {
    let record = booth.record;
    let known =
        |v: &Vote| record.attached.iter().any(|m| m.index == v.index && m.incarnation == v.incarnation);
    let in_place = |v: &Vote| (v.standing == Standing::Standby) == (v.index != record.primary);
    let fresh = |h: &Heard| booth.now.since(h.at) <= booth.patience;
    let votes = booth.votes.iter().filter(|h| fresh(h)).map(|h| &h.vote);
    votes
        .filter(|v| v.epoch == record.epoch || !rules.has(Rule::VoteOfThisEpoch))
        .filter(|v| known(v) && in_place(v))
        .collect()
}

/// Whether every attached standby has voted.
fn complete(booth: &Booth<'_>, votes: &[&Vote]) -> bool {
    let record = booth.record;
    record
        .attached
        .iter()
        .filter(|m| m.index != record.primary)
        .all(|m| votes.iter().any(|v| v.index == m.index))
}

/// A primary that is alive after all stays: whoever has voted has nothing that it lacks, whatever it has
/// written since.
fn incumbent(booth: &Booth<'_>, votes: &[&Vote], waited: Duration) -> Option<Record> {
    if !complete(booth, votes) && waited <= booth.patience {
        return None;
    }
    elect(booth, votes, booth.me.index, 0, "it is alive")
}

/// A stopped primary has all that was acknowledged, but may have more, and may take long to start.
fn last_resort(booth: &Booth<'_>, votes: &[&Vote], waited: Duration) -> Option<Record> {
    let alone = !votes.iter().any(|v| v.standing == Standing::Standby);
    let mine: Vec<&Vote> = votes.iter().copied().filter(|v| v.index == booth.me.index).collect();
    let standbys = booth.record.attached.iter().any(|m| m.index != booth.record.primary);
    // One that gives no session is stopped first to vote, and all its WAL is looked through.
    if alone && waited > booth.patience * if standbys { LAST } else { SECOND } {
        return elect(booth, votes, booth.me.index, 0, "no attached standby is left");
    }
    // Those that vote can't write: what they have is copied from here once they can.
    (waited > booth.patience * LAST)
        .then(|| elect(booth, &mine, booth.me.index, 0, "no standby chose itself"))?
}

fn standby(
    booth: &Booth<'_>,
    votes: &[&Vote],
    mine: &Vote,
    waited: Duration,
    rules: Rules,
) -> Option<Record> {
    let in_office = votes.iter().any(|v| v.standing == Standing::InOffice);
    // It says that it is alive, and should have chosen itself: it can't write. Whoever takes over waits for its leases, and no
    // commit of it can be acknowledged any more without those who vote.
    if in_office && rules.has(Rule::IncumbentFirst) && waited <= booth.patience * LAST {
        return None;
    }
    if !complete(booth, votes) && waited <= booth.patience {
        return None;
    }
    // Whoever is furthest, and so on down the list: one that can't write its choice must not keep the
    // others waiting for ever. A node that isn't the furthest leaves out those who are ahead of it.
    let best =
        votes.iter().filter(|v| v.standing == Standing::Standby).max_by_key(|v| rank(booth, v, rules))?;
    let late = waited > booth.patience * SECOND;
    if best.index != mine.index && !late {
        return None;
    }
    let ahead = |v: &Vote| (v.timeline, v.lsn) > (mine.timeline, mine.lsn) && rules.has(Rule::AttachNotAhead);
    let with: Vec<&Vote> = votes
        .iter()
        .copied()
        .filter(|v| v.standing == Standing::Standby || !rules.has(Rule::IncumbentFirst))
        .filter(|v| !ahead(v))
        .collect();
    elect(booth, &with, mine.index, mine.lsn, "it has all that was acknowledged")
}

/// The order among standbys: the furthest first, of equals the one that was named, then the one that can open
/// first, then the lowest index.
fn rank(booth: &Booth<'_>, vote: &Vote, rules: Rules) -> (u32, u64, bool, Reverse<u64>, u8) {
    let named = booth.record.successor == Some(vote.index);
    let (timeline, lsn) = if rules.has(Rule::ChooseFurthest) { (vote.timeline, vote.lsn) } else { (0, 0) };
    (timeline, lsn, named, Reverse(vote.gated_ms), u8::MAX - vote.index)
}

fn elect(booth: &Booth<'_>, votes: &[&Vote], primary: u8, fork: u64, why: &str) -> Option<Record> {
    let with_vote = |m: &&Member| votes.iter().any(|v| v.index == m.index);
    let attached: Vec<Member> = booth.record.attached.iter().filter(with_vote).cloned().collect();
    let text = format!("node {primary} chosen: {why} ({})", booth.record.reason);
    record::elect(booth.record, primary, attached, fork, &text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn member(index: u8) -> Member {
        Member { index, incarnation: format!("copy{index}") }
    }

    fn electing(attached: &[u8], successor: Option<u8>) -> Record {
        Record {
            epoch: 7,
            phase: Phase::Electing,
            primary: 0,
            attached: attached.iter().map(|i| member(*i)).collect(),
            timeline: 3,
            fork_lsn: "0/0".to_owned(),
            successor,
            stopped: false,
            reason: "x".to_owned(),
        }
    }

    fn vote(index: u8, standing: Standing, lsn: u64) -> Heard {
        let vote = Vote {
            pool_uid: String::new(),
            epoch: 7,
            index,
            incarnation: member(index).incarnation,
            standing,
            timeline: 3,
            lsn,
            gated_ms: 0,
        };
        Heard { vote, at: at(10_000) }
    }

    fn chosen(record: &Record, me: u8, votes: &[Heard], now: u64) -> Option<Record> {
        let (me, patience) = (member(me), Duration::from_millis(1500));
        let votes: Vec<Heard> = votes.iter().cloned().map(|v| Heard { at: at(now), ..v }).collect();
        choose(&Booth { now: at(now), me: &me, record, since: at(10_000), votes: &votes, patience })
    }

    #[test]
    fn the_furthest_is_chosen_at_once_when_all_have_voted() {
        use Standing::Standby;
        let record = electing(&[0, 1, 2], None);
        let votes = [vote(1, Standby, 40), vote(2, Standby, 50)];
        assert_eq!(chosen(&record, 1, &votes, 10_000), None);
        let new = chosen(&record, 2, &votes, 10_000).unwrap();
        assert_eq!((new.primary, new.timeline, new.epoch, new.fork_lsn.as_str()), (2, 4, 8, "0/32"));
        assert_eq!(new.attached, [member(1), member(2)]);
        let tie = [vote(1, Standby, 50), vote(2, Standby, 50)];
        assert_eq!(chosen(&record, 1, &tie, 10_000).map(|r| r.primary), Some(1));
        let named = electing(&[0, 1, 2], Some(2));
        assert_eq!(chosen(&named, 1, &tie, 10_000), None);
        assert_eq!(chosen(&named, 2, &tie, 10_000).map(|r| r.primary), Some(2));
        let mut fresh = tie.clone();
        fresh[0].vote.gated_ms = 900;
        assert_eq!(chosen(&record, 1, &fresh, 10_000), None, "its agent was started a moment ago");
        assert_eq!(chosen(&record, 2, &fresh, 10_000).map(|r| r.primary), Some(2));
    }

    #[test]
    fn a_missing_vote_is_waited_for_and_then_left_out() {
        use Standing::Standby;
        let record = electing(&[0, 1, 2], None);
        let votes = [vote(2, Standby, 50)];
        assert_eq!(chosen(&record, 2, &votes, 11_500), None);
        assert_eq!(chosen(&record, 2, &votes, 11_501).unwrap().attached, [member(2)]);
        let both = [vote(1, Standby, 40), vote(2, Standby, 50)];
        assert_eq!(chosen(&record, 1, &both, 14_500), None);
        let late = chosen(&record, 1, &both, 14_501).unwrap();
        assert_eq!((late.primary, late.attached), (1, vec![member(1)]), "those ahead are left out");
    }

    #[test]
    fn a_primary_that_is_alive_stays_and_a_stopped_one_is_the_last_resort() {
        use Standing::{InOffice, Standby, Stopped};
        let record = electing(&[0, 1], None);
        let votes = [vote(0, InOffice, 0), vote(1, Standby, 50)];
        assert_eq!(chosen(&record, 1, &votes, 19_000), None);
        let stays = chosen(&record, 0, &votes, 10_000).unwrap();
        assert_eq!((stays.primary, stays.timeline, stays.attached.len()), (0, 3, 2));
        let stopped = [vote(0, Stopped, 0)];
        assert_eq!(chosen(&record, 0, &stopped, 19_000), None, "one that gives no session votes late");
        let alone = chosen(&record, 0, &stopped, 19_001).unwrap();
        assert_eq!((alone.primary, alone.attached), (0, vec![member(0)]));
        let only = electing(&[0], None);
        assert_eq!(chosen(&only, 0, &stopped, 14_500), None);
        assert!(chosen(&only, 0, &stopped, 14_501).is_some(), "nobody else could vote");
        let with = [vote(0, Stopped, 0), vote(1, Standby, 50)];
        assert_eq!(chosen(&record, 0, &with, 19_000), None);
        assert_eq!(chosen(&record, 1, &with, 10_000).unwrap().attached, [member(1)]);
    }

    #[test]
    fn whoever_votes_and_cannot_write_its_choice_does_not_block_the_others_for_ever() {
        use Standing::{InOffice, Standby, Stopped};
        let record = electing(&[0, 1], None);
        let alive = [vote(0, InOffice, 0), vote(1, Standby, 50)];
        let new = chosen(&record, 1, &alive, 19_001).unwrap();
        assert_eq!((new.primary, new.attached), (1, vec![member(1)]));
        let stopped = [vote(0, Stopped, 0), vote(1, Standby, 50)];
        let new = chosen(&record, 0, &stopped, 19_001).unwrap();
        assert_eq!(
            (new.primary, new.attached),
            (0, vec![member(0)]),
            "who could not choose itself is copied anew"
        );
    }

    #[test]
    fn what_does_not_belong_to_this_election_does_not_count() {
        let record = electing(&[0, 1], None);
        let mut other = vote(1, Standing::Standby, 50);
        other.vote.epoch = 6;
        assert_eq!(chosen(&record, 1, &[other], 20_000), None);
        let mut replaced = vote(1, Standing::Standby, 50);
        replaced.vote.incarnation = "other".to_owned();
        assert_eq!(chosen(&record, 1, &[replaced], 20_000), None);
        assert_eq!(chosen(&record, 2, &[vote(2, Standing::Standby, 50)], 20_000), None);
    }

    #[test]
    fn a_silent_primary_is_deposed_after_the_grace_and_a_dead_one_at_once() {
        let record = Record { phase: Phase::Serving, ..electing(&[0, 1], None) };
        let ask = |me: u8, now: u64, gone: Option<&str>| {
            let me = member(me);
            let grace = Duration::from_secs(3);
            suspect(&Suspicion { now: at(now), me: &me, record: &record, beaten: at(1000), grace, gone })
        };
        assert_eq!(ask(1, 4000, None), None);
        let new = ask(1, 4001, None).unwrap();
        assert_eq!((new.epoch, new.phase, new.primary, new.attached.len()), (8, Phase::Electing, 0, 2));
        assert!(ask(1, 1001, Some("its port is closed")).is_some());
        assert_eq!(ask(0, 9000, None), None, "the primary does not depose itself so");
        assert_eq!(ask(2, 9000, None), None, "a detached node asks for nothing");
    }
}
