//! Beats, leases, votes and reports as the agent's handlers have them: the state behind the lock.
use super::*;
use crate::agent::shared::Inner;
use crate::membership::handover::Answers;
use crate::membership::lease::ReadLease;

/// What node 1 shares: a standby that is attached, or not, and streams.
fn standby(record: Record) -> (TempDir, Arc<Shared>) {
    let dir = tempfile::tempdir().unwrap();
    let shared = shared(1, &dir);
    let mut inner = shared.lock();
    inner.report.role = Role::Standby;
    inner.report.epoch = record.epoch;
    inner.report.lsn = Some(60);
    inner.member = Some(member(1));
    inner.report.incarnation = Some(member(1).incarnation);
    inner.record = Some(record);
    drop(inner);
    (dir, shared)
}

/// Of which records answers are noted.
fn noted(answers: &Answers) -> Vec<(i64, Moment)> {
    answers.all().iter().map(|answered| (answered.record.epoch, answered.at)).collect()
}

/// Lets a beat come in that echoes the last answer, and gives the next answer.
fn beaten(inner: &mut Inner, now: u64, epoch: i64, answer: &Answer) -> Answer {
    inner.beat(at(now), &beat(epoch, Some(answer.stamp.clone())))
}

#[test]
fn only_an_answer_under_the_epoch_of_the_beat_is_noted() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    for epoch in [4, 6] {
        assert_eq!(inner.beat(at(1000), &beat(epoch, None)).epoch, 5, "it says what it knows");
    }
    assert!(noted(&inner.answers).is_empty());
    inner.beat(at(2000), &beat(5, None));
    assert_eq!(noted(&inner.answers), [(5, at(2000))]);
    // A node that is none of the record's answers too: a write may still put it there.
    inner.record = Some(Record { epoch: 6, ..serving(&[0, 2]) });
    inner.beat(at(2500), &beat(6, None));
    assert_eq!(noted(&inner.answers), [(5, at(2000)), (6, at(2500))]);
}

#[test]
fn an_answer_tells_the_latest_epoch_that_is_known_of() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    let answer = inner.beat(at(1000), &beat(5, None));
    assert_eq!((answer.epoch, answer.seen), (5, 5));
    inner.told.hear(9, 2, at(1500));
    let answer = inner.beat(at(2000), &beat(5, None));
    assert_eq!((answer.epoch, answer.seen), (5, 9), "though its own record is the older one");
    assert_eq!(inner.report_at(at(2000)).seen, 9);
    let heard = Answer { seen: 12, ..answer };
    inner.answered(at(2500), &beat(5, None), heard);
    assert_eq!(inner.report_at(at(2500)).seen, 12, "a primary passes on what it was answered");
}

#[test]
fn a_beat_of_another_epoch_or_start_gives_no_lease() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    let mut answer = inner.beat(at(1000), &beat(5, None));
    for (now, epoch) in [(1100, 4), (1200, 6)] {
        answer = beaten(&mut inner, now, epoch, &answer);
        assert!(!inner.lease.valid(at(now)), "epoch {epoch}");
    }
    answer = beaten(&mut inner, 1300, 5, &answer);
    assert_eq!(inner.lease.rest(at(1300)), Duration::from_millis(1900), "from the stamp on");
    // Its Postgres is started again.
    inner.lease = ReadLease::new("the next start");
    beaten(&mut inner, 1400, 5, &answer);
    assert!(!inner.lease.valid(at(1400)), "the stamp is of the start before");
}

#[test]
fn a_lease_is_taken_only_by_an_attached_standby_from_the_primary_of_the_record() {
    let take = |change: fn(&mut Inner), from: u8| {
        let (_dir, shared) = standby(serving(&[0, 1]));
        let mut inner = shared.lock();
        change(&mut inner);
        let first = inner.beat(at(1000), &beat(5, None));
        let echo = Some(first.stamp);
        inner.beat(at(1100), &Beat { from, ..beat(5, echo) });
        inner.lease.valid(at(1100))
    };
    assert!(take(|_| {}, 0));
    assert!(!take(|_| {}, 2), "from another node");
    assert!(!take(|inner| inner.record = Some(serving(&[0, 2])), 0), "not attached");
    let another =
        |inner: &mut Inner| inner.member = Some(Member { incarnation: "other".into(), ..member(1) });
    assert!(!take(another, 0), "another copy than the record's");
    assert!(!take(|inner| inner.report.role = Role::Stopped, 0), "its Postgres isn't running");
    assert!(!take(|inner| inner.ending = true, 0), "its pod is being stopped");
    assert!(!take(|inner| inner.report.lsn = Some(49), 0), "it has not applied what was acknowledged");
}

#[test]
fn after_the_word_no_beat_from_before_gives_a_lease() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    let first = inner.beat(at(1000), &beat(5, None));
    assert!(first.serves_nobody, "the gate is shut, and there is no lease yet");
    let second = beaten(&mut inner, 1100, 5, &first);
    assert!(!second.serves_nobody, "the gate may be opened at any moment");
    inner.report.open = true;
    let third = beaten(&mut inner, 1200, 5, &second);
    assert!(inner.lease.valid(at(1200)) && !third.serves_nobody);
    // Its Postgres ends.
    inner.report.role = Role::Stopped;
    inner.report.open = false;
    let word = inner.beat(at(1300), &beat(5, None));
    assert!(word.serves_nobody && !inner.lease.valid(at(1300)));
    // Up again in the same start of the agent; a beat that was sent before the word comes late.
    inner.report.role = Role::Standby;
    let late = beaten(&mut inner, 1400, 5, &third);
    assert!(late.serves_nobody && !inner.lease.valid(at(1400)), "the primary no longer waits for it");
    beaten(&mut inner, 1500, 5, &late);
    assert!(inner.lease.valid(at(1500)), "what echoes the word is a new lease");
}

#[test]
fn a_gate_that_is_shut_while_the_lease_lasts_is_no_word() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    inner.report.open = true;
    let first = inner.beat(at(1000), &beat(5, None));
    beaten(&mut inner, 1000, 5, &first);
    inner.report.open = false;
    let shut = inner.beat(at(2999), &beat(4, None));
    assert!(!shut.serves_nobody, "a session that was there may still be answered");
    assert!(inner.beat(at(3000), &beat(4, None)).serves_nobody, "the lease is over");
}

#[test]
fn the_longest_lease_that_was_named_is_kept_before_the_beat_is_answered() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    let long = Beat { longest_ms: 9000, ..beat(5, None) };
    assert_eq!(inner.longest_to_write(at(1000), &long), Some(9000));
    inner.longest_written = 9000;
    inner.beat(at(1000), &long);
    assert_eq!(inner.longest_to_write(at(1100), &long), None, "it stands in the volume");
    assert_eq!(inner.longest_lease(2000), Duration::from_secs(9));
    assert_eq!(inner.longest_to_write(at(1200), &beat(5, None)), None, "a longer one may be alive");
    inner.member = None;
    let longer = Beat { lease_ms: 10_000, ..long };
    assert_eq!(inner.longest_to_write(at(1200), &longer), None, "without a copy it is nobody's successor");
}

#[test]
fn a_report_offers_reads_only_under_the_lease_and_while_attached() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    inner.report.open = true;
    let open = |inner: &mut Inner, now: u64| {
        let report = inner.report_at(at(now));
        (report.open, report.lease_ms)
    };
    assert_eq!(open(&mut inner, 1000), (false, 0), "no lease yet");
    let first = inner.beat(at(1000), &beat(5, None));
    beaten(&mut inner, 1100, 5, &first);
    assert_eq!(open(&mut inner, 1200), (true, 1800));
    inner.record = Some(Record { epoch: 6, ..serving(&[0]) });
    assert!(!open(&mut inner, 1200).0, "it was removed");
    inner.record = Some(serving(&[0, 1]));
    inner.ending = true;
    assert!(!open(&mut inner, 1200).0, "its pod is being stopped");
    inner.ending = false;
    assert_eq!(open(&mut inner, 3000), (false, 0), "it has lapsed");
    inner.report.role = Role::Stopped;
    assert_eq!(inner.report_at(at(1200)).lease_ms, 0);
}

#[test]
fn votes_count_for_their_election_and_replace_one_another() {
    let (_dir, shared) = standby(Record { phase: Phase::Electing, ..serving(&[0, 1, 2]) });
    let mut inner = shared.lock();
    assert!(inner.vote(at(1000), vote(2, 5, 40)));
    assert!(!inner.vote(at(1100), vote(2, 5, 40)), "nothing new");
    assert_eq!(inner.votes.iter().map(|heard| heard.at).collect::<Vec<_>>(), [at(1100)], "but heard again");
    assert!(inner.vote(at(1200), vote(2, 5, 50)), "one for each node, the last that was heard");
    assert_eq!(inner.votes.len(), 1);
    assert_eq!(inner.own_vote(5), None, "another node's is not its own");
    inner.vote(at(1300), vote(1, 5, 45));
    assert_eq!(inner.own_vote(5).map(|own| own.lsn), Some(45));
    assert_eq!((inner.own_vote(4), inner.own_vote(6)), (None, None), "it was given for one epoch");
    inner.ending = true;
    assert_eq!(inner.own_vote(5), None, "it could not take office any more");
}

#[test]
fn silence_begins_anew_with_each_office() {
    let (_dir, shared) = standby(serving(&[0, 1]));
    let mut inner = shared.lock();
    inner.watched = at(1000);
    inner.beat(at(5000), &Beat { from: 2, ..beat(5, None) });
    assert_eq!(inner.beaten, None, "another node's beat is no sign of the primary");
    inner.beat(at(6000), &beat(4, None));
    assert!(inner.beaten_lately(at(10_999)) && !inner.beaten_lately(at(11_000)));
    inner.watch_anew(at(7500));
    assert_eq!((inner.silence, inner.beaten, inner.watched), (Duration::from_millis(1500), None, at(7500)));
    inner.watch_anew(at(8000));
    assert_eq!(inner.silence, Duration::from_millis(500), "nothing was heard of this office");
}
