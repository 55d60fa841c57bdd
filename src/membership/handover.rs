//! Taking office (R4): until when a new primary stays behind its gate, so that nobody still answers for an
//! office before it.
//!
//! Every primary before needs the answers of this node, since it was attached: it may serve reads and give
//! leases only while each node of record ∪ N answered a beat that it sent less than L ago. So all that may
//! still be answered was granted at most L after this node last answered under the record of that office; a
//! read lease given then lasts another L. It is not the last record alone that counts: a node that was
//! removed just before the election may hold a lease, and so may the primary of an office before one that
//! never opened.
use std::time::Duration;

use super::lease::waited;
use super::rules::{Rule, Rules};
use crate::api::v1alpha1::{Phase, Record};
use crate::clock::Moment;

/// When this node last answered a beat under a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The record that it knew then.
    pub record: Record,
    /// When.
    pub at: Moment,
}

/// The answers of this node to the primaries before, of which some may still make use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers(Vec<Answered>);

impl Answers {
    /// Notes that a beat of the epoch of `record` is answered now; also called when this node first learns
    /// that it is attached, since leases from before needed no answer of it. `lease` is the longest L in use.
    pub fn note(&mut self, record: &Record, now: Moment, lease: Duration) {
        let same = |a: &Answered| a.record.primary == record.primary && a.record.attached == record.attached;
        self.0.retain(|a| !same(a) && a.at.after(waited(lease) * 2) > now);
        self.0.push(Answered { record: record.clone(), at: now });
    }

    /// What is noted, the newest last.
    pub fn all(&self) -> &[Answered] {
        &self.0
    }
}

impl FromIterator<Answered> for Answers {
    fn from_iter<T: IntoIterator<Item = Answered>>(answers: T) -> Self {
        Self(answers.into_iter().collect())
    }
}

/// What is left of the offices before, as the node that was chosen knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Who may still answer, under what was granted at most L after that moment.
    pub waits: Vec<(Rest, Moment)>,
    /// The longest lease that may be alive, L.
    pub lease: Duration,
}

/// Who may still answer for an office before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rest {
    /// Nobody: all who were attached are in the choice, but for one whose agent gave its word (R5).
    Nobody,
    /// A primary before, under its own lease.
    Primary,
    /// Standbys that are not in the choice, under leases that it gave.
    Standbys,
}

impl Rest {
    /// Of the office of `record`, once `choice` is made. The Postgres of `stopped` has ended, on the word of its
    /// agent: whatever it held before is over.
    fn of(record: &Record, stopped: Option<u8>, choice: &Record) -> Self {
        let alive = |index: u8| stopped != Some(index) && !choice.attached.iter().any(|m| m.index == index);
        if record.attached.iter().any(|m| m.index != record.primary && alive(m.index)) {
            return Self::Standbys;
        }
        if alive(record.primary) { Self::Primary } else { Self::Nobody }
    }
}

impl Handover {
    /// Of the offices before `choice`. `started` is the start of this node's agent: what it answered before
    /// that is forgotten, so the worst is assumed. `election` is the record that `choice` replaced, if known.
    pub fn new(
        answers: &Answers,
        started: Moment,
        election: Option<&Record>,
        choice: &Record,
        lease: Duration,
    ) -> Self {
        Self::new_with(answers, started, election, choice, lease, Rules::ALL)
    }

    /// [`Self::new`] under other rules; for tests.
    pub fn new_with(
        answers: &Answers,
        started: Moment,
        election: Option<&Record>,
        choice: &Record,
        lease: Duration,
        rules: Rules,
    ) -> Self {
        let ended = |e: &&Record| e.phase == Phase::Electing && e.epoch + 1 == choice.epoch && e.stopped;
        let stopped = election.filter(ended).map(|e| e.primary);
        let last = election.filter(|_| !rules.has(Rule::EveryOffice));
        let known =
            answers.all().iter().map(|a| (Rest::of(last.unwrap_or(&a.record), stopped, choice), a.at));
        Self { waits: known.chain([(Rest::Standbys, started)]).collect(), lease }
    }

    /// When nobody can answer for an office before any more.
    pub fn over_at(&self) -> Moment {
        self.over_at_with(Rules::ALL)
    }

    /// [`Self::over_at`] under other rules; for tests.
    pub fn over_at_with(&self, rules: Rules) -> Moment {
        let ends = self.waits.iter().map(|(rest, at)| match rest {
            Rest::Standbys if rules.has(Rule::OfficeWaitsForStandbys) => at.after(waited(self.lease) * 2),
            Rest::Primary | Rest::Standbys if rules.has(Rule::OfficeWaitsForPrimary) => {
                at.after(waited(self.lease))
            }
            _ => Moment::ZERO,
        });
        ends.max().unwrap_or(Moment::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::Member;
    use crate::membership::record;

    const LEASE: Duration = Duration::from_secs(2);

    fn serving(attached: &[u8]) -> Record {
        let member = |index| Member { index, incarnation: format!("copy{index}") };
        let mut record = record::first(member(0), 1, 0);
        record.attached = attached.iter().map(|i| member(*i)).collect();
        record
    }

    fn choice(election: &Record, primary: u8, attached: &[u8]) -> Record {
        let with = election.attached.iter().filter(|m| attached.contains(&m.index)).cloned().collect();
        record::elect(election, primary, with, 0, "").unwrap()
    }

    /// When it is over for a node that answered at 100 s under the office of nodes 0 (its primary), 1 and 2.
    fn over(stopped: bool, attached: &[u8]) -> Moment {
        let office = serving(&[0, 1, 2]);
        let election = record::depose(&office, None, stopped, "").unwrap();
        let mut answers = Answers::default();
        answers.note(&office, Moment::from_millis(100_000), LEASE);
        let choice = choice(&election, 1, attached);
        Handover::new(&answers, Moment::ZERO, Some(&election), &choice, LEASE).over_at()
    }

    #[test]
    fn the_word_of_the_old_primary_spares_the_wait_unless_a_standby_is_left_out() {
        assert!(over(true, &[1, 2]) < Moment::from_millis(10_000));
        assert_eq!(over(false, &[1, 2]), Moment::from_millis(102_020));
        assert_eq!(over(true, &[1]), Moment::from_millis(104_040));
    }

    #[test]
    fn a_node_that_was_removed_just_before_is_waited_for() {
        let (office, now) = (serving(&[0, 1, 2]), Moment::from_millis(100_000));
        let mut answers = Answers::default();
        answers.note(&office, now, LEASE);
        let removed = record::shrink(&office, 2, "").unwrap();
        answers.note(&removed, now.after(Duration::from_millis(100)), LEASE);
        let election = record::depose(&removed, None, true, "").unwrap();
        let choice = choice(&election, 1, &[1]);
        let handover = Handover::new(&answers, Moment::ZERO, Some(&election), &choice, LEASE);
        assert_eq!(handover.over_at(), Moment::from_millis(104_040));
        answers.note(&removed, now.after(LEASE * 3), LEASE);
        assert_eq!(answers.all().len(), 1, "what is long ago is forgotten");
    }

    #[test]
    fn the_primary_before_an_office_that_never_opened_is_waited_for() {
        let (office, now) = (serving(&[0, 1, 2]), Moment::from_millis(100_000));
        let mut answers = Answers::default();
        answers.note(&office, now, LEASE);
        let first = choice(&record::depose(&office, None, false, "").unwrap(), 1, &[1, 2]);
        let again = record::depose(&first, None, true, "its promotion failed").unwrap();
        let second = choice(&again, 2, &[2]);
        let handover = Handover::new(&answers, Moment::ZERO, Some(&again), &second, LEASE);
        assert_eq!(handover.over_at(), Moment::from_millis(102_020));
    }

    #[test]
    fn after_a_start_of_the_agent_the_worst_is_assumed() {
        let election = record::depose(&serving(&[0, 1]), None, true, "").unwrap();
        let choice = choice(&election, 1, &[1]);
        let started = Moment::from_millis(1000);
        let handover = Handover::new(&Answers::default(), started, Some(&election), &choice, LEASE);
        assert_eq!(handover.over_at(), Moment::from_millis(5040));
    }
}
