//! A voter follows nobody any more when it says how far it is (`Rule::VoteFenced`).
use std::collections::VecDeque;
use std::sync::Mutex;

use super::postgres::{Rows, Value, row, session};
use super::*;
use crate::agent::node::Next;
use crate::membership::record;
use crate::postgres::programs::Programs;

/// The election of an office over these.
fn electing(attached: &[u8]) -> Record {
    record::depose(&serving(attached), None, false, "a test").unwrap()
}

/// Node 1 in this election, with the programs of PostgreSQL known.
async fn voter(record: &Record) -> (Api, Agent) {
    let api = Api::start(object(Some(record.clone()))).await;
    let mut agent = Agent::new(1, &api);
    agent.knows_its_copy();
    agent.node.programs = Some(Programs::in_folder("/nowhere".into(), 17));
    agent.read().await;
    (api, agent)
}

/// What PostgreSQL says: whether it has drained, and how far it is.
fn says(drained: bool, replay: &'static str) -> Rows {
    row([("drained", Value::Bool(drained)), ("replay", Value::Text(replay))])
}

#[tokio::test]
async fn its_upstream_is_gone_from_the_configuration_before_it_looks_how_far_it_is() {
    let (_api, mut agent) = voter(&electing(&[0, 1, 2])).await;
    let conf = agent.conf("postgresql.conf");
    let client = session(move |question| {
        assert!(question.contains("pg_stat_wal_receiver"), "{question}");
        let text = fs::read_to_string(&conf).expect("written before it is asked");
        assert!(text.contains("primary_conninfo = ''") || !text.contains("primary_conninfo"), "{text}");
        assert!(text.contains("restore_command = ''") || !text.contains("restore_command"), "{text}");
        says(true, "0/3000100")
    })
    .await;
    let record = agent.node.record().cloned().unwrap();
    agent.node.vote_as_standby(&record, &client).await.unwrap();
    let own = agent.node.shared.lock().own_vote(6).unwrap();
    assert_eq!((own.standing, own.timeline, own.lsn), (Standing::Standby, 3, 0x0300_0100));
}

#[tokio::test]
async fn it_votes_only_once_nothing_is_received_and_all_is_applied_in_two_looks() {
    let (_api, mut agent) = voter(&electing(&[0, 1, 2])).await;
    let record = agent.node.record().cloned().unwrap();
    // The walreceiver goes, the startup process catches up; in between it looks once as if it had.
    let looks =
        [(false, "0/90"), (true, "0/90"), (false, "0/98"), (true, "0/A0"), (true, "0/B0"), (true, "0/B0")];
    let mut looks = VecDeque::from(looks);
    let left = Arc::new(Mutex::new(0));
    let told = Arc::clone(&left);
    let client = session(move |_| {
        let (drained, replay) = looks.pop_front().expect("it has voted");
        *told.lock().unwrap() = looks.len();
        says(drained, replay)
    })
    .await;
    agent.node.vote_as_standby(&record, &client).await.unwrap();
    assert_eq!(agent.node.shared.lock().own_vote(6).map(|own| own.lsn), Some(0xB0));
    assert_eq!(*left.lock().unwrap(), 0);
    // It says the same from then on, whatever PostgreSQL would say.
    agent.node.vote_as_standby(&record, &client).await.unwrap();
    assert_eq!(agent.node.shared.lock().own_vote(6).map(|own| own.lsn), Some(0xB0));
}

#[tokio::test]
async fn a_walreceiver_that_stays_keeps_it_from_voting() {
    let (api, mut agent) = voter(&electing(&[0, 1, 2])).await;
    let record = agent.node.record().cloned().unwrap();
    let client = session(|_| says(false, "0/90")).await;
    assert_eq!(agent.node.vote_as_standby(&record, &client).await.unwrap(), Next::Wait);
    assert_eq!(agent.node.shared.lock().own_vote(6), None);
    assert!(api.sent().is_empty(), "and it chooses nobody");
}

#[tokio::test]
async fn who_has_votes_of_all_standbys_and_is_the_furthest_writes_the_choice() {
    let (api, mut agent) = voter(&electing(&[0, 1, 2])).await;
    let record = agent.node.record().cloned().unwrap();
    let client = session(|_| says(true, "0/B0")).await;
    agent.node.vote_as_standby(&record, &client).await.unwrap();
    assert!(api.sent().is_empty(), "a vote is missing");
    // Given in another election, it doesn't count here.
    agent.node.shared.lock().vote(clock::now(), vote(2, 4, 0xA0));
    agent.node.vote_as_standby(&record, &client).await.unwrap();
    assert!(api.sent().is_empty());
    agent.node.shared.lock().vote(clock::now(), vote(2, 6, 0xA0));
    assert_eq!(agent.node.vote_as_standby(&record, &client).await.unwrap(), Next::Again);
    let choice = api.record();
    assert_eq!((choice.epoch, choice.phase, choice.primary, choice.timeline), (7, Phase::Serving, 1, 4));
    assert_eq!((choice.attached, choice.fork_lsn.as_str()), (members(&[1, 2]), "0/B0"));
}

#[tokio::test]
async fn votes_of_the_election_before_are_forgotten_with_the_next() {
    let (api, mut agent) = voter(&electing(&[0, 1, 2])).await;
    let record = agent.node.record().cloned().unwrap();
    let client = session(|_| says(true, "0/B0")).await;
    agent.node.vote_as_standby(&record, &client).await.unwrap();
    // The primary was alive, stayed, and is suspected again.
    let next = Record { epoch: 8, ..record };
    api.write(next.clone());
    agent.read().await;
    agent.node.shared.lock().vote(clock::now(), vote(2, 8, 0xA0));
    assert_eq!(agent.node.shared.lock().own_vote(8), None);
    let client = session(|_| says(false, "0/B0")).await;
    agent.node.vote_as_standby(&next, &client).await.unwrap();
    let inner = agent.node.shared.lock();
    assert_eq!(
        inner.votes.iter().map(|heard| (heard.vote.index, heard.vote.epoch)).collect::<Vec<_>>(),
        [(2, 8)]
    );
}

#[tokio::test]
async fn who_follows_whom_is_what_the_record_says() {
    let (api, mut agent) = voter(&serving(&[0, 1, 2])).await;
    let upstream = |agent: &Agent, role| agent.node.config(&member(1), role).unwrap().upstream;
    let follows = upstream(&agent, Role::Standby).unwrap();
    assert_eq!((follows.host, follows.application_name.as_str()), (host(0), "pgpool_1_copy1"));
    assert!(!follows.archives, "an attached node needs none, and would notice an election late");
    assert_eq!(upstream(&agent, Role::Primary), None);
    // In an election: those that vote follow nobody; a detached node goes on.
    for (record, follows) in [
        (electing(&[0, 1, 2]), false),
        (Record { epoch: 7, ..electing(&[0, 2]) }, true),
        (Record { epoch: 8, primary: 1, timeline: 4, ..serving(&[1, 2]) }, false),
        (Record { epoch: 9, primary: 2, timeline: 4, ..serving(&[1, 2]) }, true),
    ] {
        api.write(record);
        agent.read().await;
        assert_eq!(upstream(&agent, Role::Standby).is_some(), follows, "{:?}", agent.node.record());
    }
}
