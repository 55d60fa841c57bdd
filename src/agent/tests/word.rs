//! The word of a primary whose Postgres has ended stands in the volume before anybody can hear it, and binds the agent that
//! is started after it was given (`Rule::WordSurvives`).
use axum::http::StatusCode;

use super::*;
use crate::agent::node::{Next, StepError};

/// A primary whose Postgres has ended, in a pool of two.
async fn ended(api: &Api) -> Agent {
    let mut agent = Agent::new(0, api);
    agent.read().await;
    agent.node.ended = true;
    agent
}

#[tokio::test]
async fn the_word_is_in_the_volume_before_it_can_be_heard() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = ended(&api).await;
    let file = agent.conf("word.json");
    api.before_write(move |write| {
        let stood = fs::read_to_string(&file).expect("written before it is said");
        assert_eq!(stood, r#"{"epoch":5}"#);
        assert!(write.status.as_ref().unwrap().stopped);
        None
    });
    assert_eq!(agent.node.start().await.unwrap(), Next::Again);
    let record = api.record();
    assert_eq!((record.phase, record.stopped, record.epoch), (Phase::Electing, true, 6));
    assert_eq!(agent.node.word().unwrap(), Some(5));
}

#[tokio::test]
async fn a_word_that_cannot_be_written_is_not_given_and_an_election_is_asked_for_all_the_same() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = ended(&api).await;
    // A directory in the place of the file that is written before it is renamed.
    fs::create_dir(agent.conf("word.tmp")).unwrap();
    assert_eq!(agent.node.start().await.unwrap(), Next::Again);
    let record = api.record();
    assert_eq!((record.phase, record.epoch), (Phase::Electing, 6));
    assert!(!record.stopped, "its leases are waited for");
    assert_eq!(agent.node.word().unwrap(), None);
}

/// Programs of PostgreSQL, but for `postgres`.
async fn cannot_start(record: &Record) -> (Api, Agent, TempDir) {
    let api = Api::start(object(Some(record.clone()))).await;
    let mut agent = Agent::new(0, &api);
    let folder = tempfile::tempdir().unwrap();
    let data = copies::control("in production");
    agent.node.programs = Some(copies::programs(folder.path(), &data, "0/3000060"));
    // A directory in the place of a file that each start writes.
    fs::create_dir(agent.conf("names.tmp")).unwrap();
    agent.read().await;
    (api, agent, folder)
}

#[tokio::test]
async fn a_primary_that_cannot_even_be_started_leaves_its_office_to_the_others() {
    let record = Record { timeline: 2, ..serving(&[0, 1]) };
    let (api, mut agent, _programs) = cannot_start(&record).await;
    assert!(matches!(agent.node.start().await, Err(StepError::Volume(_))));
    assert!(api.sent().is_empty() && agent.node.ended && agent.node.stale);
    // Nothing is said before a read that was made since.
    agent.node.retry_at = Moment::ZERO;
    assert!(matches!(agent.node.start().await, Err(StepError::Volume(_))));
    assert!(api.sent().is_empty());
    agent.read().await;
    agent.node.retry_at = Moment::ZERO;
    assert_eq!(agent.node.start().await.unwrap(), Next::Again);
    assert_eq!((api.record().phase, api.record().stopped), (Phase::Electing, true));
}

#[tokio::test]
async fn who_is_alone_tries_again_and_calls_a_person_after_a_while() {
    let record = Record { timeline: 2, ..serving(&[0]) };
    let (api, mut agent, _programs) = cannot_start(&record).await;
    for started in 1..60 {
        agent.node.retry_at = Moment::ZERO;
        assert!(matches!(agent.node.start().await, Err(StepError::Volume(_))));
        assert_eq!(agent.node.failed_starts, started);
        assert!(agent.node.retry_at <= clock::now().after(Duration::from_secs(30)));
        agent.read().await;
        agent.node.retry_at = clock::now().after(PATIENCE);
        assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
        assert_eq!(agent.node.shared.report().needs_person, started > 5, "{started}");
    }
    assert_eq!(api.record(), record, "there is nobody to leave it to");
    agent.node.failed_starts = 0;
    agent.node.say_starting();
    assert!(!agent.node.shared.report().needs_person);
}

#[tokio::test]
async fn a_word_that_was_not_heard_binds_the_next_start_of_the_agent() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = ended(&api).await;
    api.before_write(|_| Some(StatusCode::SERVICE_UNAVAILABLE));
    assert!(matches!(agent.node.start().await, Err(StepError::Record(_))));
    assert_eq!(api.record(), serving(&[0, 1]), "the write may have been lost, or may land later");
    api.before_write(|_| None);
    let mut agent = agent.restarted(&api);
    agent.read().await;
    assert!(!agent.node.ended, "of its own it knows nothing");
    agent.node.start().await.unwrap();
    let record = api.record();
    assert_eq!(
        (record.phase, record.stopped),
        (Phase::Electing, true),
        "it says it again, and starts nothing"
    );
}

#[tokio::test]
async fn a_word_binds_in_its_epoch_alone() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = ended(&api).await;
    api.before_write(|_| Some(StatusCode::SERVICE_UNAVAILABLE));
    agent.node.start().await.unwrap_err();
    api.before_write(|_| None);
    // Another write was first: this node stayed, or was chosen again.
    api.write(Record { epoch: 7, ..serving(&[0, 1]) });
    let mut agent = agent.restarted(&api);
    agent.read().await;
    let before = api.sent().len();
    agent.node.start().await.unwrap();
    assert_eq!((api.sent().len(), api.record().phase), (before, Phase::Serving));
}

#[tokio::test]
async fn a_spoilt_word_starts_nothing() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let agent = Agent::new(0, &api);
    for spoilt in ["", "{\"epoch\":", "{\"epoch\":\"five\"}", "{}"] {
        fs::write(agent.conf("word.json"), spoilt).unwrap();
        let error = agent.node.word().unwrap_err();
        assert!(error.to_string().contains("word.json"), "{spoilt:?}: {error}");
    }
    let mut agent = agent.restarted(&api);
    agent.read().await;
    assert!(matches!(agent.node.start().await, Err(StepError::Volume(_))));
    assert!(api.sent().is_empty(), "nor is it given anew");
}

#[tokio::test]
async fn a_handover_says_so_even_if_the_record_was_written_meanwhile() {
    let api = Api::start(object(Some(serving(&[0, 1, 2])))).await;
    let mut agent = ended(&api).await;
    api.write(crate::membership::record::shrink(&serving(&[0, 1, 2]), 2, "removed meanwhile").unwrap());
    let wanted = crate::agent::switchover::Wanted { to: Some(1), why: "a test".to_owned(), ending: false };
    agent.node.give_word(&wanted).await.unwrap();
    let record = api.record();
    assert_eq!((record.epoch, record.stopped, record.successor), (7, true, Some(1)));
    assert_eq!(record.attached, members(&[0, 1]), "the removal stands");
    assert_eq!(agent.node.word().unwrap(), Some(6), "the word is for the epoch that the election ended");
    // And never in an office that is another's.
    let mut agent = agent.restarted(&api);
    api.write(Record { epoch: 8, primary: 1, timeline: 4, ..serving(&[1]) });
    agent.read().await;
    agent.node.give_word(&wanted).await.unwrap();
    assert_eq!((api.record().epoch, agent.node.word().unwrap()), (8, Some(6)));
}
