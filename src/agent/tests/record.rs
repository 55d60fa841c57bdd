//! The record is changed by compare-and-swap alone (`Rule::CompareAndSwap`), and only by a record of this pool that is not
//! older than what this node has seen.
use axum::http::StatusCode;

use super::*;
use crate::agent::node::StepError;
use crate::agent::record::RecordError;
use crate::archive::NodeCount;
use crate::membership::record;

#[tokio::test]
async fn a_decision_is_never_written_over_a_newer_record() {
    let api = Api::start(object(Some(serving(&[0, 1, 2])))).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    let known = agent.node.record().cloned().unwrap();
    let newer = record::shrink(&known, 2, "somebody else was first").unwrap();
    api.write(newer.clone());
    let decided = record::shrink(&known, 1, "decided by what was read").unwrap();
    agent.node.write_record(decided.clone()).await.unwrap();
    assert_eq!(api.sent(), [decided], "it was tried once");
    assert_eq!(api.record(), newer, "and not taken");
    assert_eq!(agent.node.record(), Some(&newer), "what stands there was read again");
    assert!(!agent.node.stale);
}

#[tokio::test]
async fn a_write_carries_the_version_that_was_read_and_its_answer_is_taken_over() {
    let api = Api::start(object(Some(serving(&[0, 1, 2])))).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    let decided = record::shrink(agent.node.record().unwrap(), 1, "it is silent").unwrap();
    agent.node.write_record(decided.clone()).await.unwrap();
    assert_eq!((api.record(), agent.node.record()), (decided.clone(), Some(&decided)));
    let next = record::shrink(&decided, 2, "so is this one").unwrap();
    agent.node.write_record(next.clone()).await.unwrap();
    assert_eq!(api.record(), next, "the answer brought the version for the next");
    assert_eq!(agent.node.volume.node().unwrap().unwrap().epoch, 7, "the volume has seen what was written");
}

#[tokio::test]
async fn a_write_that_may_still_land_is_an_error_and_what_stands_there_is_read() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    let known = agent.node.record().cloned().unwrap();
    api.before_write(|_| Some(StatusCode::GATEWAY_TIMEOUT));
    let decided = record::shrink(&known, 1, "it is silent").unwrap();
    let error = agent.node.write_record(decided).await.unwrap_err();
    assert!(matches!(error, StepError::Record(RecordError::Away(_))), "{error}");
    assert_eq!(agent.node.record(), Some(&known));
    api.before_write(|_| Some(StatusCode::UNPROCESSABLE_ENTITY));
    let error = agent.node.write_record(record::touch(&known, "").unwrap()).await.unwrap_err();
    assert!(matches!(error, StepError::Record(RecordError::Refused(_))), "{error}");
}

#[tokio::test]
async fn a_record_that_is_older_than_the_volume_or_another_pools_is_not_taken_over() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(1, &api);
    agent.read().await;
    assert_eq!(agent.node.foreign, None);
    // Restored from a backup; the agent is started again meanwhile: the volume alone remembers.
    api.write(Record { epoch: 4, ..serving(&[0, 1]) });
    agent.read().await;
    let mut agent = agent.restarted(&api);
    agent.read().await;
    let why = agent.node.foreign.clone().unwrap();
    assert!(why.contains("epoch 4") && why.contains("seen 5"), "{why}");
    assert_eq!(agent.node.record(), None, "it isn't taken over");
    // Made anew, under another id.
    let mut other = object(Some(serving(&[0, 1])));
    other.spec.pool_uid = "another".to_owned();
    api.replace(other);
    let mut agent = agent.restarted(&api);
    agent.read().await;
    let why = agent.node.foreign.clone().unwrap();
    assert!(why.contains("belongs to pool another"), "{why}");
    // Whoever runs meanwhile is stopped, and a person is called; it is no reason to start anything.
    agent.node.start().await.unwrap();
    let report = agent.node.shared.report();
    assert!(report.needs_person && report.message == why, "{}", report.message);
    assert_eq!(report.incarnation, Some(member(1).incarnation), "it isn't taken for a node without data");
    assert_eq!((report.epoch, report.seen), (0, 5), "what the volume has seen is told");
    agent.node.shared.lock().report.open = true;
    agent.node.fence(&why).await.unwrap();
    assert!(!agent.node.shared.lock().report.open);
    assert!(api.sent().is_empty());
    // What is right again is taken over again.
    api.replace(object(Some(serving(&[0, 1]))));
    let mut agent = agent.restarted(&api);
    agent.read().await;
    assert_eq!((agent.node.foreign.as_deref(), agent.node.record()), (None, Some(&serving(&[0, 1]))));
}

#[tokio::test]
async fn a_record_that_was_refused_stays_so_however_far_it_goes_on() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    assert!(!agent.node.shared.report().put_back);
    api.write(Record { epoch: 4, ..serving(&[0, 1]) });
    agent.read().await;
    assert!(agent.node.foreign.is_some() && agent.node.shared.report().put_back);
    // Another node went on from there: it may lack what this one has, which must not be copied over.
    api.write(Record { epoch: 9, ..serving(&[1]) });
    let mut agent = agent.restarted(&api);
    assert!(agent.node.shared.report().put_back, "before anything is read");
    agent.read().await;
    assert!(agent.node.foreign.clone().unwrap().contains("epoch 4"));
    assert_eq!(agent.node.record(), None);
    api.write(serving(&[0, 1]));
    let mut agent = agent.restarted(&api);
    agent.read().await;
    assert_eq!((agent.node.foreign.as_deref(), agent.node.record()), (None, Some(&serving(&[0, 1]))));
    assert!(!agent.node.shared.report().put_back);
    let agent = agent.restarted(&api);
    assert!(!agent.node.shared.report().put_back, "it is over for good");
}

#[tokio::test]
async fn a_record_that_is_older_than_what_another_node_has_seen_is_not_written_over_and_not_taken_over() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    let known = agent.node.record().cloned().unwrap();
    // Node 1 knows more, and refuses this record; without it the epoch would rise to what it knows.
    agent.node.shared.lock().told.hear(known.epoch + 1, 1, clock::now());
    let decided = record::shrink(&known, 1, "it serves nobody").unwrap();
    agent.node.write_record(decided).await.unwrap();
    assert!(api.sent().is_empty(), "what was read may be old");
    let why = agent.node.foreign.clone().unwrap();
    assert!(why.contains("epoch 5, node 1 has seen 6"), "{why}");
    assert_eq!(agent.node.record(), Some(&known));
    // It stays known: node 1 may be away when this agent is started again.
    let mut agent = agent.restarted(&api);
    agent.read().await;
    assert!(agent.node.foreign.clone().unwrap().contains("this node has seen 6"));
}

#[tokio::test]
async fn a_record_that_went_on_from_an_older_state_to_the_epoch_that_was_seen_is_not_taken_over() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    api.write(serving(&[0]));
    agent.read().await;
    let why = agent.node.foreign.clone().unwrap();
    assert!(why.contains("the record at epoch 5 is another one"), "{why}");
    assert_eq!(agent.node.record(), Some(&serving(&[0, 1])));
}

#[tokio::test]
async fn a_spoilt_node_file_is_an_error_and_nothing_is_taken_over() {
    let api = Api::start(object(Some(serving(&[0, 1])))).await;
    let mut agent = Agent::new(1, &api);
    fs::write(agent.volume.path().join("pgdata/pgpool_node.json"), "{\"poolUid\":").unwrap();
    agent.node.stale = true;
    let error = agent.node.read_record().await.unwrap_err();
    assert!(matches!(error, StepError::Volume(_)), "{error}");
    assert!(
        agent.node.record().is_none() && agent.node.start().await.unwrap() == super::super::node::Next::Wait
    );
}

#[tokio::test]
async fn how_many_nodes_there_are_is_noted_for_the_search_of_archived_wal() {
    let mut wished = object(Some(serving(&[0, 1])));
    let api = Api::start(wished.clone()).await;
    let mut agent = Agent::new(1, &api);
    let noted = |agent: &Agent| {
        let text = fs::read(agent.conf(names::NODE_COUNT)).unwrap();
        serde_json::from_slice::<NodeCount>(&text).unwrap().nodes
    };
    agent.read().await;
    assert_eq!(noted(&agent), 3);
    wished.spec.nodes = 5;
    api.replace(wished);
    agent.read().await;
    assert_eq!(noted(&agent), 5);
    assert_eq!(agent.node.shared.report().nodes, Some(5), "fronts hear of it, too");
    // One that is lost, or spoilt, is written anew.
    fs::write(agent.conf(names::NODE_COUNT), "{").unwrap();
    agent.read().await;
    assert_eq!(noted(&agent), 5);
    // What can't be noted holds up nothing.
    fs::remove_file(agent.conf(names::NODE_COUNT)).unwrap();
    fs::create_dir(agent.conf(names::NODE_COUNT)).unwrap();
    agent.read().await;
    assert_eq!(agent.node.record().map(|record| record.epoch), Some(5));
}
