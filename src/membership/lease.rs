//! Leases: who may answer reads, and until when (R3, R4).
//!
//! A standby stamps each answer with its own clock ([`ReadLease::answer`]). The primary's next beat
//! echoes the stamp and so grants a lease that runs from the *stamp*, on the standby's clock. The
//! primary counts from the moment it *sent* that beat, which is later ([`Contact::lease_over`]). So
//! however late messages arrive, the lease is over at the standby before the primary thinks so.
//!
//! One beat at a time is under way to each node, and an answer counts only for the beat under way:
//! answers are then noted in the order of the beats.
use std::time::Duration;

use super::rules::{Rule, Rules};
use crate::clock::Moment;
use crate::messages::{Answer, Beat, Stamp};

/// Clocks of two machines drift apart by less than 1 / this.
const DRIFT_PART: u32 = 100;

/// How long a primary waits for a lease of that length to be over, whatever the holder's clock does.
pub fn waited(length: Duration) -> Duration {
    length + length / DRIFT_PART
}

/// The longest lease that may be alive, as a node knows it from the beats that it hears: all leases of an office are as
/// long as its beats say, and one that was given before a beat that names a shorter one is over, and what a front knows of
/// it too, two such lengths after that beat at the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongestLease {
    length_ms: u32,
    heard: Moment,
}

impl LongestLease {
    /// Takes over a length that a beat names, or the volume.
    pub fn hear(&mut self, length_ms: u32, now: Moment) {
        let before = Duration::from_millis(u64::from(self.length_ms));
        if length_ms >= self.length_ms || now > self.heard.after(waited(before) * 2) {
            *self = Self { length_ms, heard: now };
        }
    }

    /// Its length in milliseconds.
    pub fn length_ms(&self) -> u32 {
        self.length_ms
    }
}

/// A lease that a node may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// When the beat that granted it was sent.
    pub sent: Moment,
    /// When it, and every lease that was given before it, is over for certain: a shorter one doesn't end a longer one.
    pub until: Moment,
    /// The stamp that the beat echoed; none for a lease given by an earlier start of this agent.
    pub echo: Option<Stamp>,
    /// The copy of the data that it was given to; none where leases of several may be alive, so that the word of one
    /// wouldn't do.
    pub copy: Option<String>,
}

/// What a primary knows of another node by its beats; one for each index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contact {
    /// The last answer.
    pub answer: Option<Answer>,
    /// When the beat was sent that it answered.
    pub heard: Option<Moment>,
    /// When the newest beat was sent whose answer counts (R4: same epoch).
    pub counted: Option<Moment>,
    /// The copy of the data that gave this answer.
    pub counted_copy: Option<String>,
    /// The last lease given.
    pub granted: Option<Grant>,
}

impl Contact {
    /// A node whose name stood in N when this agent started: it counts as holding a lease given at
    /// that moment, of the longest length that was in use ([`super::names::Names::lease_ms`]). `copy` is the one that
    /// the name was of, if there was but one.
    pub fn inherited(copy: Option<String>, started: Moment, lease_ms: u32) -> Self {
        let length = Duration::from_millis(u64::from(lease_ms));
        let until = started.after(waited(length));
        Self { granted: Some(Grant { sent: started, until, echo: None, copy }), ..Self::default() }
    }

    /// Notes that a beat is about to be sent; called before it goes out.
    pub fn sent(&mut self, at: Moment, beat: &Beat) {
        if let Some(echo) = &beat.echo {
            let length = Duration::from_millis(u64::from(beat.lease_ms));
            let alive = |grant: &&Grant| grant.until > at && !self.gave_word(grant);
            let before = self.granted.as_ref().filter(alive);
            let until = at.after(waited(length)).max(before.map_or(Moment::ZERO, |grant| grant.until));
            let copy = self.answer.as_ref().and_then(|answer| answer.incarnation.clone());
            let copy = copy.filter(|copy| before.is_none_or(|grant| grant.copy.as_ref() == Some(copy)));
            self.granted = Some(Grant { sent: at, until, echo: Some(echo.clone()), copy });
        }
    }

    /// Notes the answer to the beat that was sent at `sent`, under `epoch`.
    pub fn answered(&mut self, sent: Moment, epoch: i64, answer: Answer) {
        self.answered_with(sent, epoch, answer, Rules::ALL);
    }

    /// [`Self::answered`] under other rules; for tests.
    pub fn answered_with(&mut self, sent: Moment, epoch: i64, answer: Answer, rules: Rules) {
        if answer.epoch == epoch || !rules.has(Rule::AnswerOfThisEpoch) {
            self.counted = Some(sent);
            self.counted_copy.clone_from(&answer.incarnation);
        }
        self.heard = Some(sent);
        self.answer = Some(answer);
    }

    /// Whether no lease given to the node can be alive any more: the last one has been waited out,
    /// or the node has said that it serves nobody, after what the last one echoed.
    pub fn lease_over(&self, now: Moment) -> bool {
        self.lease_rest(now).is_zero()
    }

    /// How long until no lease given to the node can be alive any more.
    pub fn lease_rest(&self, now: Moment) -> Duration {
        let Some(grant) = &self.granted else { return Duration::ZERO };
        if self.gave_word(grant) { Duration::ZERO } else { grant.until.since(now) }
    }

    /// An agent that has not the volume yet, or has another, speaks for its own Postgres alone: the one that holds the lease
    /// may be alive, on a machine that was cut off or beside it, until its pod has ended there too.
    fn gave_word(&self, grant: &Grant) -> bool {
        let same = |a: &&Answer| a.serves_nobody && a.incarnation.is_some() && a.incarnation == grant.copy;
        let Some(answer) = self.answer.as_ref().filter(same) else { return false };
        match &grant.echo {
            None => true,
            Some(echo) => echo.boot != answer.stamp.boot || echo.millis < answer.stamp.millis,
        }
    }
}

/// The primary's own lease (R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnLease {
    /// No other node counts: none is needed.
    Alone,
    /// Every other node that counts has answered lately enough.
    Until(Moment),
    /// One has not: no reads, and no leases for others.
    Lapsed,
}

impl OwnLease {
    /// Whether it is good now.
    pub fn is_good(self) -> bool {
        self != Self::Lapsed
    }

    /// What is left of it, at most `length`.
    pub fn rest(self, now: Moment, length: Duration) -> Duration {
        match self {
            Self::Alone => length,
            Self::Until(end) => end.since(now).min(length),
            Self::Lapsed => Duration::ZERO,
        }
    }
}

/// The own lease of a primary. `counted` has, for each other node of record ∪ N, when the newest beat
/// was sent that the node answered ([`Contact::counted`]).
pub fn own(now: Moment, counted: impl IntoIterator<Item = Option<Moment>>, length: Duration) -> OwnLease {
    let mut end = None;
    for sent in counted {
        let Some(sent) = sent else { return OwnLease::Lapsed };
        let until = sent.after(length);
        end = Some(end.map_or(until, |e: Moment| e.min(until)));
    }
    match end {
        None => OwnLease::Alone,
        Some(until) if until > now => OwnLease::Until(until),
        Some(_) => OwnLease::Lapsed,
    }
}

/// The read lease of a standby, in one start of its Postgres. A new start begins with a new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadLease {
    /// The start of Postgres that it belongs to.
    pub boot: String,
    /// Millis of the last answer that said "I serve nobody": older stamps grant nothing any more.
    pub word: Option<u64>,
    /// The primary's flush position, known to be taken after this start.
    pub target: Option<u64>,
    /// Whether all up to there was applied.
    pub caught_up: bool,
    /// When it ends.
    pub until: Option<Moment>,
}

impl ReadLease {
    /// None yet, for a start of Postgres.
    pub fn new(boot: &str) -> Self {
        Self { boot: boot.to_owned(), word: None, target: None, caught_up: false, until: None }
    }

    /// The start of Postgres that it belongs to.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The stamp of an answer that is sent now. With `serves_nobody` the answer ends the lease, and
    /// stamps given before it grant none any more.
    pub fn answer(&mut self, now: Moment, serves_nobody: bool) -> Stamp {
        let millis = now.as_millis();
        if serves_nobody {
            self.word = Some(millis);
            self.until = None;
        }
        Stamp { boot: self.boot.clone(), millis }
    }

    /// A beat of the pool's primary has arrived. `known` is the epoch of the newest record that the
    /// node knows; `replay_lsn` was read after the beat came in.
    pub fn beat(&mut self, now: Moment, beat: &Beat, known: i64, replay_lsn: Option<u64>) {
        self.beat_with(now, beat, known, replay_lsn, Rules::ALL);
    }

    /// [`Self::beat`] under other rules; for tests.
    pub fn beat_with(&mut self, now: Moment, beat: &Beat, known: i64, replay_lsn: Option<u64>, rules: Rules) {
        let Some(echo) = beat.echo.as_ref().filter(|_| beat.epoch == known) else { return };
        let this_boot = echo.boot == self.boot || !rules.has(Rule::LeaseOfThisBoot);
        if !this_boot || self.word.is_some_and(|word| echo.millis < word) {
            return;
        }
        // The beat echoes a stamp of this start, so its flush position was taken after the start:
        // it covers all that was acknowledged on the word of an earlier start of this node.
        let target = *self.target.get_or_insert(beat.flush_lsn);
        self.caught_up |= replay_lsn.is_some_and(|lsn| lsn >= target) || !rules.has(Rule::LeaseCaughtUp);
        if !self.caught_up {
            return;
        }
        let from = if rules.has(Rule::LeaseFromStamp) { Moment::from_millis(echo.millis) } else { now };
        let until = from.after(Duration::from_millis(u64::from(beat.lease_ms)));
        self.until = Some(self.until.map_or(until, |old| old.max(until)));
    }

    /// Whether the node's answers count now.
    pub fn valid(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// What is left of it.
    pub fn rest(&self, now: Moment) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Join, Role};

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn beat(echo: Option<Stamp>, flush_lsn: u64) -> Beat {
        Beat {
            pool_uid: String::new(),
            epoch: 3,
            from: 0,
            echo,
            lease_ms: 2000,
            longest_ms: 2000,
            flush_lsn,
            system_id: None,
        }
    }

    fn answer(stamp: Stamp, epoch: i64, serves_nobody: bool) -> Answer {
        Answer {
            pool_uid: String::new(),
            epoch,
            seen: epoch,
            index: 1,
            incarnation: Some("copy1".to_owned()),
            stamp,
            role: Role::Standby,
            serves_nobody,
            leaving: false,
            join: Join::Proved,
            streaming: true,
            timeline: Some(1),
            replay_lsn: None,
        }
    }

    #[test]
    fn a_shorter_lease_does_not_end_a_longer_one() {
        let at = Moment::from_millis;
        let stamp = |millis| Stamp { boot: "b".to_owned(), millis };
        let long = Beat { lease_ms: 10_000, ..beat(Some(stamp(1)), 0) };
        let mut contact = Contact::default();
        contact.answered(at(900), 3, answer(stamp(1), 3, false));
        contact.sent(at(1_000), &long);
        contact.sent(at(1_500), &beat(Some(stamp(2)), 0));
        assert_eq!(
            contact.lease_rest(at(2_000)),
            Duration::from_millis(9_100),
            "10 s and their drift from 1 s on"
        );
        let word = answer(stamp(3), 3, true);
        contact.answered(at(1_500), 3, word);
        assert!(contact.lease_over(at(2_000)));
        contact.sent(at(2_100), &beat(Some(stamp(4)), 0));
        assert_eq!(
            contact.lease_rest(at(2_100)),
            Duration::from_millis(2_020),
            "what was given before its word is over"
        );
    }

    #[test]
    fn a_longer_lease_is_remembered_until_none_can_be_alive() {
        let at = Moment::from_millis;
        let mut longest = LongestLease::default();
        longest.hear(10_000, at(1_000));
        longest.hear(2_000, at(21_000));
        assert_eq!(longest.length_ms(), 10_000, "one given just before may live on, and a front may know it");
        longest.hear(2_000, at(21_201));
        assert_eq!(longest.length_ms(), 2_000);
        longest.hear(3_000, at(21_202));
        assert_eq!(longest.length_ms(), 3_000);
    }

    #[test]
    fn a_lease_runs_from_the_stamp_once_the_node_has_caught_up() {
        let mut lease = ReadLease::new("b1");
        let stamp = lease.answer(at(1000), false);
        lease.beat(at(1500), &beat(Some(stamp.clone()), 50), 3, Some(40));
        assert!(!lease.valid(at(1500)), "it has not applied what was acknowledged");
        lease.beat(at(1600), &beat(Some(stamp.clone()), 90), 3, Some(50));
        assert!(lease.valid(at(2999)) && !lease.valid(at(3000)), "the first position counts");
        lease.beat(at(1700), &beat(Some(lease.clone().answer(at(1650), false)), 90), 2, Some(99));
        assert_eq!(
            lease.rest(at(1700)),
            Duration::from_millis(1300),
            "a beat of another epoch grants nothing"
        );
        let other = Stamp { boot: "b0".to_owned(), millis: 1690 };
        lease.beat(at(1700), &beat(Some(other), 90), 3, Some(99));
        assert_eq!(lease.rest(at(1700)), Duration::from_millis(1300), "nor does a stamp of another start");
    }

    #[test]
    fn the_word_ends_the_lease_on_both_sides() {
        let mut lease = ReadLease::new("b1");
        let mut contact = Contact::default();
        let first = lease.answer(at(1000), false);
        contact.answered(at(7000), 3, answer(first.clone(), 3, false));
        let grant = beat(Some(first), 5);
        contact.sent(at(7250), &grant);
        lease.beat(at(1250), &grant, 3, Some(5));
        assert!(lease.valid(at(1300)) && !contact.lease_over(at(7300)));
        let word = lease.answer(at(1300), true);
        contact.answered(at(7300), 3, answer(word.clone(), 3, true));
        assert!(!lease.valid(at(1301)) && contact.lease_over(at(7301)));
        lease.beat(at(1400), &grant, 3, Some(5));
        assert!(!lease.valid(at(1401)), "the old beat, late, grants nothing after the word");
        let again = beat(Some(word), 5);
        contact.sent(at(7500), &again);
        lease.beat(at(1500), &again, 3, Some(5));
        assert!(lease.valid(at(1501)) && !contact.lease_over(at(7501)), "an echo of the word is a new lease");
        assert!(!contact.lease_over(at(7500 + 2019)) && contact.lease_over(at(7500 + 2020)));
    }

    /// A pod that was deleted by force may be alive beside the one that took its place, with or without the volume.
    #[test]
    fn only_the_copy_that_holds_the_lease_can_give_the_word() {
        let stamp = |boot: &str, millis| Stamp { boot: boot.to_owned(), millis };
        let said = |copy: Option<&str>, stamp: Stamp, nobody| Answer {
            incarnation: copy.map(str::to_owned),
            ..answer(stamp, 3, nobody)
        };
        let mut contact = Contact::default();
        contact.answered(at(1000), 3, said(Some("copy1"), stamp("b1", 1), false));
        contact.sent(at(1000), &beat(Some(stamp("b1", 1)), 5));
        for other in [None, Some("copy2")] {
            contact.answered(at(1100), 3, said(other, stamp("b2", 2), true));
            assert!(!contact.lease_over(at(3019)) && contact.lease_over(at(3020)), "{other:?}");
        }
        // The other copy is attached in the end, and gets leases: its word is not the first one's.
        let mut both = contact.clone();
        both.sent(at(1200), &beat(Some(stamp("b2", 2)), 5));
        both.answered(at(1300), 3, said(Some("copy2"), stamp("b2", 3), true));
        assert!(!both.lease_over(at(3219)) && both.lease_over(at(3220)));
        // Once none of the first can be alive it is.
        contact.sent(at(3020), &beat(Some(stamp("b2", 2)), 5));
        contact.answered(at(3100), 3, said(Some("copy2"), stamp("b2", 3), true));
        assert!(contact.lease_over(at(3100)));
        let inherited = Contact::inherited(Some("copy1".to_owned()), at(1000), 2000);
        let word = |copy| Contact { answer: Some(said(copy, stamp("b3", 9), true)), ..inherited.clone() };
        assert!(word(Some("copy1")).lease_over(at(1100)));
        assert!(!word(Some("copy2")).lease_over(at(1100)) && !word(None).lease_over(at(1100)));
    }

    #[test]
    fn the_own_lease_ends_with_the_oldest_answer() {
        let length = Duration::from_secs(2);
        assert_eq!(own(at(5000), [], length), OwnLease::Alone);
        assert_eq!(own(at(5000), [Some(at(4000)), Some(at(3500))], length), OwnLease::Until(at(5500)));
        assert_eq!(own(at(5500), [Some(at(4000)), Some(at(3500))], length), OwnLease::Lapsed);
        assert_eq!(own(at(5000), [Some(at(4000)), None], length), OwnLease::Lapsed);
        assert_eq!(OwnLease::Until(at(5500)).rest(at(5000), length), Duration::from_millis(500));
    }

    #[test]
    fn a_restarted_primary_reckons_with_a_lease() {
        let contact = Contact::inherited(None, at(1000), 2000);
        assert!(!contact.lease_over(at(3019)) && contact.lease_over(at(3020)));
    }
}
