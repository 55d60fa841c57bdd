//! Taking office: what outlives a start of the agent (`Rule::OfficeWaitSurvives`, `Rule::RestartCountsLeases`), what counts
//! as an answer (`Rule::AttachedIsAnswer`), and the timeline that is this office's alone (`Rule::TimelineReserved`).
use super::postgres::{Rows, Value, row, session};
use super::*;
use crate::agent::node::StepError;
use crate::agent::office::OfficeError;
use crate::membership::handover::Rest;
use crate::membership::lease::waited;
use crate::membership::names::{Listed, Names};
use crate::membership::primary::Action;
use crate::membership::record;

/// Node 1 was chosen, after node 0 gave its word.
fn chosen(attached: &[u8]) -> Record {
    let election = record::depose(&serving(&[0, 1, 2]), None, true, "it has stopped").unwrap();
    record::elect(&election, 1, members(attached), 0x0300_0100, "a test").unwrap()
}

/// The agent of node 1, which has read that.
async fn successor(record: &Record) -> (Api, Agent) {
    let api = Api::start(object(Some(record.clone()))).await;
    let mut agent = Agent::new(1, &api);
    agent.knows_its_copy();
    agent.read().await;
    (api, agent)
}

#[tokio::test]
async fn an_office_that_was_open_waits_no_more_and_any_other_does() {
    let record = chosen(&[1, 2]);
    let (api, agent) = successor(&record).await;
    assert!(agent.node.handover(&record).unwrap().is_some());
    agent.node.note_opened(record.timeline).unwrap();
    assert_eq!(agent.node.handover(&record).unwrap(), None);
    let agent = agent.restarted(&api);
    assert_eq!(agent.node.handover(&record).unwrap(), None, "its volume remembers");
    let next = Record { timeline: 5, ..record };
    assert!(agent.node.handover(&next).unwrap().is_some(), "another office");
    fs::write(agent.conf("office.json"), "{\"timeline\"").unwrap();
    assert!(matches!(agent.node.handover(&next), Err(StepError::Volume(_))), "spoilt");
}

#[tokio::test]
async fn nobody_is_let_in_before_the_volume_has_it() {
    let record = chosen(&[1, 2]);
    let (_api, mut agent) = successor(&record).await;
    agent.node.names = Names::at_start(&record, 1, None, 2000);
    let office = agent.node.new_office(clock::now(), None).unwrap();
    // A directory in the place of the file.
    fs::create_dir(agent.conf("office.json")).unwrap();
    let client = session(|_| row([("bootstrapped", Value::Bool(true))])).await;
    let done = agent.node.act(Action::Open, &office, &client).await;
    assert!(matches!(done, Err(StepError::Volume(_))));
    assert!(!agent.node.shared.lock().report.open);
    fs::remove_dir(agent.conf("office.json")).unwrap();
    agent.node.act(Action::Open, &office, &client).await.unwrap();
    assert!(agent.node.shared.lock().report.open);
    assert_eq!(fs::read_to_string(agent.conf("office.json")).unwrap(), r#"{"timeline":4}"#);
}

#[tokio::test]
async fn an_agent_that_was_started_again_assumes_the_worst_from_then_on() {
    let record = chosen(&[1, 2]);
    let (api, agent) = successor(&record).await;
    let mut agent = agent.restarted(&api);
    agent.knows_its_copy();
    agent.read().await;
    let handover = agent.node.handover(&record).unwrap().unwrap();
    let started = agent.node.shared.lock().agent_started;
    // Whatever it answered is forgotten, and that its primary gave its word: standbys may answer for two leases.
    assert!(handover.waits.contains(&(Rest::Standbys, started)), "{handover:?}");
    assert!(handover.over_at() >= started.after(waited(LEASE) * 2));
}

#[tokio::test]
async fn the_longest_lease_is_remembered_by_a_start_and_a_spoilt_file_is_an_error() {
    let record = chosen(&[1, 2]);
    let (api, agent) = successor(&record).await;
    crate::agent::lease::write(agent.volume.path(), 9000).unwrap();
    let agent = agent.restarted(&api);
    agent.node.remember_leases().unwrap();
    let handover = agent.node.handover(&record).unwrap().unwrap();
    assert_eq!(handover.lease, Duration::from_secs(9));
    assert_eq!(agent.node.shared.lock().longest_written, 9000);
    // As a primary it may have given longer ones.
    let names = Names { lease_ms: 12_000, ..Names::default() };
    fs::write(agent.conf("names.json"), serde_json::to_vec(&names).unwrap()).unwrap();
    let agent = agent.restarted(&api);
    agent.node.remember_leases().unwrap();
    assert_eq!(agent.node.handover(&record).unwrap().unwrap().lease, Duration::from_secs(12));
    for name in ["lease.json", "names.json"] {
        let good = fs::read(agent.conf(name)).unwrap();
        fs::write(agent.conf(name), "{").unwrap();
        let error = agent.node.remember_leases().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        fs::write(agent.conf(name), good).unwrap();
    }
    agent.node.remember_leases().unwrap();
}

#[tokio::test]
async fn to_learn_that_it_is_attached_counts_as_an_answer() {
    let api = Api::start(object(Some(serving(&[0, 2])))).await;
    let mut agent = Agent::new(1, &api);
    agent.knows_its_copy();
    agent.read().await;
    let answers = |agent: &Agent| {
        let inner = agent.node.shared.lock();
        inner.answers.all().iter().map(|a| (a.record.epoch, a.at)).collect::<Vec<_>>()
    };
    assert!(answers(&agent).is_empty(), "it isn't attached");
    let before = clock::now();
    api.write(record::grow(&serving(&[0, 2]), member(1), "added").unwrap());
    agent.read().await;
    let [(6, first)] = answers(&agent)[..] else { panic!("{:?}", answers(&agent)) };
    assert!(first >= before);
    // Read again, and changed in the rest: it was attached before.
    agent.read().await;
    api.write(record::shrink(&api.record(), 2, "removed").unwrap());
    agent.read().await;
    assert_eq!(answers(&agent), [(6, first)]);
    // What the primary gave before it was attached is waited for by that, should it be chosen.
    let election = record::depose(&api.record(), None, false, "").unwrap();
    let choice = record::elect(&election, 1, members(&[1]), 0, "").unwrap();
    let handover = agent.node.handover(&choice).unwrap().unwrap();
    assert!(handover.waits.contains(&(Rest::Standbys, first)), "node 2 was attached then: {handover:?}");
}

#[tokio::test]
async fn another_copy_of_this_node_is_not_this_node() {
    let api = Api::start(object(Some(serving(&[0, 2])))).await;
    let mut agent = Agent::new(1, &api);
    agent.knows_its_copy();
    agent.read().await;
    let other = Member { index: 1, incarnation: "other".to_owned() };
    api.write(record::grow(&serving(&[0, 2]), other, "added").unwrap());
    agent.read().await;
    let inner = agent.node.shared.lock();
    assert!(!inner.attached() && inner.answers.all().is_empty());
}

#[tokio::test]
async fn a_primary_that_was_started_again_reckons_with_a_lease_of_everyone_in_its_names() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(0, &api);
    // Node 2 has left the record, and not yet N; the leases were longer then.
    let listed = Listed { member: member(2), epoch: 3 };
    let stood = Names { listed: vec![listed], filler: None, lease_ms: 9000 };
    fs::write(agent.conf("names.json"), serde_json::to_vec(&stood).unwrap()).unwrap();
    agent.read().await;
    agent.node.load_names().unwrap();
    let now = clock::now();
    let office = agent.node.new_office(now, None).unwrap();
    assert_eq!(office.others.keys().copied().collect::<Vec<_>>(), [1, 2]);
    for (index, other) in &office.others {
        assert_eq!(other.contact.lease_rest(now), waited(Duration::from_secs(9)), "node {index}");
    }
    let stands: Names = serde_json::from_slice(&fs::read(agent.conf("names.json")).unwrap()).unwrap();
    assert_eq!(stands, agent.node.names, "who was added stands in the volume before the start");
    assert!(stands.holds(&member(1)) && stands.holds(&member(2)));
    fs::write(agent.conf("names.json"), "{\"listed\":").unwrap();
    assert!(matches!(agent.node.load_names(), Err(StepError::Volume(_))), "spoilt: no start without them");
}

#[tokio::test]
async fn the_numbers_below_the_reserved_timeline_are_taken_and_the_number_itself_is_free() {
    let record = chosen(&[1, 2]);
    let (_api, agent) = successor(&record).await;
    let wal = agent.volume.path().join("pgdata/pg_wal");
    let file = |n: u32| wal.join(format!("{n:08X}.history"));
    fs::write(file(3), "1\t0/2000000\tno\n2\t0/3000060\tno\n").unwrap();
    fs::write(file(12), "left by a promotion that never ended").unwrap();
    agent.node.make_room(12).unwrap();
    for n in (2..12).filter(|n| *n != 3) {
        let text = fs::read_to_string(file(n)).unwrap();
        assert!(
            crate::membership::joining::parse_history(&text).unwrap().is_empty(),
            "nothing follows {n}: {text}"
        );
    }
    assert!(fs::read_to_string(file(3)).unwrap().starts_with("1\t0/2000000"), "what is known of it stays");
    assert!(!file(12).exists() && !file(13).exists());
    agent.node.make_room(12).unwrap();
}

/// A primary that writes this timeline.
fn writes(timeline: i64) -> impl FnMut(&str) -> Rows {
    move |question| match question {
        q if q.contains("pg_is_in_recovery") => row([("pg_is_in_recovery", Value::Bool(false))]),
        q if q.contains("pg_walfile_name") => {
            row([("flush", Value::Text("0/3000200")), ("timeline", Value::Int8(timeline))])
        }
        _ => Rows(Vec::new(), Vec::new()),
    }
}

#[tokio::test]
async fn a_promotion_to_another_timeline_than_the_reserved_one_is_no_office() {
    let record = chosen(&[1, 2]);
    let (_api, mut agent) = successor(&record).await;
    let right = session(writes(4)).await;
    assert!(agent.node.promoted(&record, &right).await.unwrap().is_ok());
    let wrong = session(writes(3)).await;
    let found = agent.node.promoted(&record, &wrong).await.unwrap();
    assert!(matches!(found, Err(OfficeError::Timeline { found: 3, wanted: 4 })));
    // Nobody is let in: it gives its word and asks for another primary.
    agent.node.take_office(&record, &wrong).await.unwrap();
    assert_eq!(agent.node.role, Role::Stopped);
    assert_eq!(agent.node.word().unwrap(), Some(record.epoch));
    assert!(!agent.node.shared.lock().report.open && agent.node.opened().unwrap().is_none());
}

#[tokio::test]
async fn a_chosen_node_is_the_primary_for_everybody_before_it_is_promoted() {
    let record = chosen(&[1, 2]);
    let (_api, mut agent) = successor(&record).await;
    let names = agent.conf("names.json");
    let shared = Arc::clone(&agent.node.shared);
    let mut answers = writes(4);
    let client = session(move |question| {
        let stood: Names = serde_json::from_slice(&fs::read(&names).unwrap()).unwrap();
        assert!(stood.holds(&member(2)) && !stood.holds(&member(0)), "N is in the volume");
        let inner = shared.lock();
        assert!(inner.report.role == Role::Primary && !inner.report.open && inner.office.is_some());
        drop(inner);
        answers(question)
    })
    .await;
    agent.node.take_office(&record, &Arc::clone(&client)).await.unwrap();
    assert_eq!(agent.node.role, Role::Primary);
    let inner = agent.node.shared.lock();
    let office = inner.office.as_ref().unwrap();
    assert!(!office.open && office.handover.is_some(), "behind its gate");
}

#[tokio::test]
async fn another_copy_than_the_chosen_one_takes_no_office() {
    let mut record = chosen(&[1, 2]);
    record.attached[0].incarnation = "other".to_owned();
    let (api, mut agent) = successor(&record).await;
    let client = session(|question| panic!("{question}")).await;
    agent.node.take_office(&record, &client).await.unwrap();
    assert!(agent.node.shared.lock().office.is_none());
    assert!(api.sent().is_empty());
}
