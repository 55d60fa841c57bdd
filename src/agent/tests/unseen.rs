//! A standby that gives no session: how its agent votes for it, asks for an election, and promotes it.
use super::copies::{control, holding, programs, script};
use super::*;
use crate::agent::node::Next;
use crate::agent::postgres::Postgres;
use crate::agent::server::{PROMOTE, Stop};
use crate::membership::names::Names;
use crate::membership::record;

/// The election of node 0's office over all three.
fn electing() -> Record {
    record::depose(&serving(&[0, 1, 2]), None, false, "a test").unwrap()
}

/// Its Postgres gave no session, and was stopped to vote.
fn stopped_to_vote(agent: &mut Agent) {
    let record = agent.node.record().cloned().unwrap();
    agent.node.note_election(&record);
    agent.node.election.as_mut().unwrap().unseen = true;
}

/// A moment so long ago.
fn ago(millis: u64) -> Moment {
    Moment::from_millis(clock::now().as_millis() - millis)
}

#[tokio::test]
async fn stopped_to_vote_it_says_where_its_wal_ends_and_can_be_chosen() {
    let (api, mut agent, _programs) = holding(electing(), "in archive recovery", "0/3000060").await;
    stopped_to_vote(&mut agent);
    assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
    let own = agent.node.shared.lock().own_vote(6).unwrap();
    assert_eq!((own.standing, own.timeline, own.lsn), (Standing::Standby, 3, 0x0300_0060));
    assert!(api.sent().is_empty(), "a vote is missing");
    agent.node.shared.lock().vote(clock::now(), vote(2, 6, 0xA0));
    assert_eq!(agent.node.start().await.unwrap(), Next::Again);
    let choice = api.record();
    assert_eq!((choice.epoch, choice.phase, choice.primary, choice.timeline), (7, Phase::Serving, 1, 4));
    assert_eq!((choice.attached, choice.fork_lsn.as_str()), (members(&[1, 2]), "0/3000060"));
    assert!(!agent.node.votes_unseen(), "it is started again");
}

#[tokio::test]
async fn it_is_kept_stopped_for_that_election_alone() {
    for epoch in [None, Some(4)] {
        let (api, mut agent, _programs) = holding(electing(), "in archive recovery", "0/3000060").await;
        if let Some(epoch) = epoch {
            agent.node.note_election(&Record { epoch, ..electing() });
            agent.node.election.as_mut().unwrap().unseen = true;
        }
        // A directory in the place of a file that each start writes.
        fs::create_dir(agent.conf("names.tmp")).unwrap();
        assert!(agent.node.start().await.is_err(), "{epoch:?}");
        assert!(agent.node.shared.lock().own_vote(6).is_none() && api.sent().is_empty());
    }
}

#[tokio::test]
async fn whose_wal_has_no_end_that_can_be_told_calls_a_person_and_does_not_vote() {
    // The second is less than what its data needs.
    for end in ["", "0/3000000"] {
        let record = Record { timeline: 2, ..electing() };
        let (api, mut agent, folder) = holding(record, "in archive recovery", end).await;
        stopped_to_vote(&mut agent);
        assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
        let report = agent.node.shared.report();
        assert!(report.needs_person && report.message.contains("can't vote"), "{}", report.message);
        assert!(agent.node.shared.lock().own_vote(6).is_none() && api.sent().is_empty());
        agent.node.programs = Some(programs(folder.path(), &control("in archive recovery"), "0/3000028"));
        agent.node.start().await.unwrap();
        assert_eq!(agent.node.shared.lock().own_vote(6).map(|own| own.lsn), Some(0x0300_0028));
        assert!(!agent.node.shared.report().needs_person);
    }
}

#[tokio::test]
async fn it_is_stopped_once_nobody_else_has_chosen() {
    let (_api, mut agent, _programs) = holding(electing(), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    (agent.node.role, agent.node.failed_starts) = (Role::Standby, 4);
    assert_eq!(agent.node.without_session(&electing(), true).await.unwrap(), Next::Wait);
    assert!(!agent.node.votes_unseen() && agent.node.failed_starts == 4);
    agent.node.election.as_mut().unwrap().since = ago(3100);
    assert_eq!(agent.node.without_session(&electing(), true).await.unwrap(), Next::Again);
    assert!(agent.node.votes_unseen());
    assert_eq!(agent.node.failed_starts, 0, "no reason for a copy");
    // A vote from before its session was lost stands, and counts.
    let (api, mut agent, _programs) = holding(electing(), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    let now = clock::now();
    agent.node.shared.lock().vote(now, vote(1, 6, 0xB0));
    agent.node.shared.lock().vote(now, vote(2, 6, 0xA0));
    assert_eq!(agent.node.without_session(&electing(), false).await.unwrap(), Next::Again);
    assert_eq!((api.record().primary, api.record().fork_lsn.as_str()), (1, "0/B0"));
}

#[tokio::test]
async fn it_asks_for_an_election_when_its_primary_is_silent() {
    let (api, mut agent, _programs) = holding(serving(&[0, 1, 2]), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    agent.node.role = Role::Standby;
    agent.node.followed = Some((0, serving(&[0, 1, 2]).timeline));
    agent.node.shared.lock().watched = ago(2000);
    assert_eq!(agent.node.without_session(&serving(&[0, 1, 2]), true).await.unwrap(), Next::Wait);
    assert!(api.sent().is_empty());
    agent.node.shared.lock().watched = ago(3100);
    agent.node.without_session(&serving(&[0, 1, 2]), true).await.unwrap();
    assert_eq!((api.record().phase, api.record().epoch), (Phase::Electing, 6));
}

/// Node 1 was chosen, with these; its Postgres is a program that notes when it is told to look for the file.
async fn chosen(attached: &[u8]) -> (Record, Api, Agent, TempDir) {
    let record = record::elect(&electing(), 1, members(attached), 0x0300_0060, "a test").unwrap();
    let (api, mut agent, folder) = holding(record.clone(), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    run_elephant(&mut agent, &folder, "USR1").await;
    (record, api, agent, folder)
}

/// Its Postgres is a program that notes when it gets this signal.
async fn run_elephant(agent: &mut Agent, folder: &TempDir, signal: &str) {
    let program = folder.path().join("elephant");
    let text = format!(
        "trap ': > \"$0.told\"' {signal}; trap 'exit 0' QUIT; : > \"$0.ready\"; while :; do sleep 0.02; done"
    );
    script(&program, &text);
    agent.node.pg = Some(Postgres::start(&program, &agent.node.files(), &agent.node.conf).unwrap());
    agent.node.role = Role::Standby;
    appears(&program.with_extension("ready")).await;
}

#[tokio::test]
async fn under_another_primary_it_is_stopped_and_looked_at() {
    let record = serving(&[0, 2]);
    let (_api, mut agent, _programs) = holding(record.clone(), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    agent.node.followed = Some((2, 2));
    assert_eq!(agent.node.without_session(&record, true).await.unwrap(), Next::Again);
    assert!(agent.node.stale && agent.node.shared.report().message.contains("another primary"));
    agent.node.followed = Some((0, record.timeline));
    assert_eq!(agent.node.without_session(&record, true).await.unwrap(), Next::Wait);
}

#[tokio::test]
async fn it_follows_its_primary_to_another_address() {
    let record = serving(&[0, 2]);
    let (_api, mut agent, folder) = holding(record.clone(), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    run_elephant(&mut agent, &folder, "HUP").await;
    agent.node.followed = Some((0, record.timeline));
    agent.node.without_session(&record, true).await.unwrap();
    assert!(!agent.conf("postgresql.conf").exists(), "where it is nobody has said");
    let host = names::node_host("heron", 0, &spec().domain);
    agent.node.link.proved().note(&host, "10.9.8.7".parse().unwrap());
    agent.node.without_session(&record, false).await.unwrap();
    assert!(!agent.conf("postgresql.conf").exists(), "one that begins to start could be ended by the signal");
    agent.node.without_session(&record, true).await.unwrap();
    let text = fs::read_to_string(agent.conf("postgresql.conf")).unwrap();
    assert!(text.contains("hostaddr=''10.9.8.7''") && !agent.node.conf.owed, "{text}");
    appears(&folder.path().join("elephant.told")).await;
    agent.node.end_postgres(Stop::Immediate).await.unwrap();
}

#[tokio::test]
async fn a_promotion_that_could_not_be_told_is_told_again() {
    let (record, _api, mut agent, folder) = chosen(&[1]).await;
    let promote = agent.volume.path().join("pgdata").join(PROMOTE);
    // A directory in the place of the file.
    fs::create_dir(&promote).unwrap();
    assert!(agent.node.without_session(&record, true).await.is_err());
    fs::remove_dir(&promote).unwrap();
    agent.node.without_session(&record, true).await.unwrap();
    assert!(promote.exists());
    appears(&folder.path().join("elephant.told")).await;
    agent.node.end_postgres(Stop::Immediate).await.unwrap();
}

/// Waits for a file.
async fn appears(path: &std::path::Path) {
    let there = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("it was told");
}

#[tokio::test]
async fn chosen_it_is_promoted_once_it_replays_and_beats_meanwhile() {
    let (record, api, mut agent, folder) = chosen(&[1, 2]).await;
    let promote = agent.volume.path().join("pgdata").join(PROMOTE);
    assert_eq!(agent.node.without_session(&record, false).await.unwrap(), Next::Wait);
    assert!(!promote.exists(), "it doesn't know yet which timeline it follows");
    agent.node.without_session(&record, true).await.unwrap();
    assert!(promote.exists());
    appears(&folder.path().join("elephant.told")).await;
    let stood: Names = serde_json::from_slice(&fs::read(agent.conf("names.json")).unwrap()).unwrap();
    assert!(stood.holds(&member(2)), "N is in the volume");
    {
        let inner = agent.node.shared.lock();
        assert!(inner.office.is_some() && inner.report.role == Role::Primary && !inner.report.open);
    }
    // Asked again in the same start, PostgreSQL would find what it has just made taken away.
    fs::remove_file(&promote).unwrap();
    agent.node.without_session(&record, true).await.unwrap();
    assert!(!promote.exists() && api.sent().is_empty());
    // It leaves the office to the other one after a while.
    agent.node.chosen = Some((record.epoch, ago(20_100)));
    agent.node.without_session(&record, true).await.unwrap();
    assert_eq!((api.record().phase, api.record().stopped), (Phase::Electing, true));
    assert_eq!((agent.node.word().unwrap(), agent.node.role), (Some(record.epoch), Role::Stopped));
    assert!(agent.node.pg.is_none());
}

#[tokio::test]
async fn who_is_alone_takes_as_long_as_it_needs() {
    let (record, api, mut agent, folder) = chosen(&[1]).await;
    agent.node.without_session(&record, true).await.unwrap();
    appears(&folder.path().join("elephant.told")).await;
    agent.node.chosen = Some((record.epoch, ago(20_100)));
    assert_eq!(agent.node.without_session(&record, true).await.unwrap(), Next::Wait);
    assert!(api.sent().is_empty() && agent.node.pg.is_some());
    agent.node.end_postgres(Stop::Immediate).await.unwrap();
}

#[tokio::test]
async fn deposed_before_it_took_office_it_says_that_it_is_there() {
    let record = record::elect(&electing(), 1, members(&[1, 2]), 0x0300_0060, "a test").unwrap();
    let record = record::depose(&record, None, false, "it was silent").unwrap();
    let (_api, mut agent, _programs) = holding(record.clone(), "in archive recovery", "0/3000060").await;
    agent.knows_its_copy();
    agent.node.without_session(&record, true).await.unwrap();
    let own = agent.node.shared.lock().own_vote(record.epoch).map(|own| (own.standing, own.lsn));
    assert_eq!(own, Some((Standing::Stopped, 0)));
}
