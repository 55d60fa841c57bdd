//! Whether the copy in the volume may follow (`Rule::JoinProved`): by what its control file, its WAL and the history say.
//! PostgreSQL's programs are shell scripts that say what a test wants.
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::agent::node::{Next, StepError};
use crate::archive::Lineage;
use crate::membership::starting;
use crate::postgres::programs::Programs;

/// What `pg_controldata` says of a copy whose Postgres was this, on timeline 2.
pub(super) fn control(state: &str) -> String {
    format!(
        "Database system identifier:           7571234567890123456\n\
         Database cluster state:               {state}\n\
         Latest checkpoint's REDO location:    0/3000028\n\
         Latest checkpoint's TimeLineID:       2\n\
         Minimum recovery ending location:     0/0\n\
         Min recovery ending loc's timeline:   0\n"
    )
}

/// Programs that say that the WAL ends there.
pub(super) fn programs(folder: &Path, control: &str, end: &str) -> Programs {
    let waldump = format!(
        "echo 'WAL statistics between 0/28 and {end}:'; \
         echo 'pg_waldump: error: error in WAL record at 0/28: invalid record length at {end}: wanted 24' >&2; exit 1"
    );
    for (name, text) in [("pg_controldata", format!("cat <<'END'\n{control}END")), ("pg_waldump", waldump)] {
        script(&folder.join(name), &text);
    }
    Programs::in_folder(folder.to_owned(), 17)
}

/// Written by another process: a file that is open for writing in a child of this one, as that of another test, can't be
/// run.
pub(super) fn script(path: &Path, text: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("#!/bin/sh\n{text}\n");
    std::io::Write::write_all(&mut writer.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// Node 1 with such a copy, in a pool whose record is `record`; timeline 2 was left for 3 at 0/3000060.
pub(super) async fn holding(record: Record, state: &str, end: &str) -> (Api, Agent, TempDir) {
    let api = Api::start(object(Some(record))).await;
    let mut agent = Agent::new(1, &api);
    let folder = tempfile::tempdir().unwrap();
    agent.node.programs = Some(programs(folder.path(), &control(state), end));
    let history = "1\t0/2000000\tno\n2\t0/3000060\tno\n";
    for (name, content) in [("00000003.history", history), ("000000020000000000000003", "")] {
        fs::write(agent.volume.path().join("pgdata/pg_wal").join(name), content).unwrap();
    }
    agent.read().await;
    (api, agent, folder)
}

/// What the others hear of it.
fn join(agent: &Agent) -> Join {
    agent.node.shared.lock().report.join.clone()
}

#[tokio::test]
async fn an_old_primary_with_wal_past_the_fork_is_not_started() {
    for (record, says) in
        [(serving(&[0, 2]), "waits for a recovery"), (serving(&[0, 1, 2]), "waits to be removed")]
    {
        let (api, mut agent, _programs) = holding(record, "in production", "0/3000068").await;
        assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
        assert!(matches!(join(&agent), Join::NeedsCopy(why) if why.contains("past the fork")));
        let report = agent.node.shared.report();
        assert!(report.message.starts_with(says) && report.role == Role::Stopped, "{}", report.message);
        assert!(!agent.volume.path().join("pgdata/standby.signal").exists());
        assert!(api.sent().is_empty());
    }
}

#[tokio::test]
async fn an_old_primary_whose_wal_ends_at_the_fork_may_follow() {
    let (_api, mut agent, _programs) = holding(serving(&[0, 2]), "in production", "0/3000060").await;
    let (_, proved) = agent.node.examine(Some(&serving(&[0, 2]))).await.unwrap();
    assert_eq!(proved, Join::Proved);
    // What no archive may give is noted first.
    let noted = fs::read(agent.conf(names::LINEAGE)).unwrap();
    let branches = serde_json::from_slice::<Lineage>(&noted).unwrap().branches;
    let ends: Vec<(u32, Option<u64>)> = branches.iter().map(|branch| (branch.timeline, branch.end)).collect();
    assert_eq!(ends, [(1, Some(0x0200_0000)), (2, Some(0x0300_0060)), (3, None)]);
}

#[tokio::test]
async fn a_person_is_called_where_no_primary_would_remove_it() {
    let (_api, mut agent, _programs) = holding(serving(&[0, 1, 2]), "in production", "0/3000068").await;
    let told = |agent: &Agent| {
        let report = agent.node.shared.report();
        (report.needs_person, report.message.contains("nobody removes"))
    };
    assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
    assert_eq!(told(&agent), (false, false));
    let long_ago = Moment::from_millis(clock::now().as_millis() - 61_000);
    agent.node.shared.lock().agent_started = long_ago;
    agent.node.start().await.unwrap();
    assert_eq!(told(&agent), (true, true));
    agent.node.shared.lock().beaten = Some(clock::now());
    agent.node.start().await.unwrap();
    assert_eq!(told(&agent), (false, false), "it is heard again");
}

#[tokio::test]
async fn wal_with_a_gap_proves_nothing() {
    let (_api, mut agent, _programs) = holding(serving(&[0, 2]), "in production", "0/3000060").await;
    fs::write(agent.volume.path().join("pgdata/pg_wal/000000020000000000000005"), "").unwrap();
    assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
    assert!(matches!(join(&agent), Join::NeedsCopy(why) if why.contains("is not known")));
    // What can't be read isn't taken for nothing.
    let wal = agent.volume.path().join("pgdata/pg_wal");
    fs::remove_dir_all(&wal).unwrap();
    fs::write(&wal, "").unwrap();
    assert!(matches!(agent.node.start().await, Err(StepError::Volume(_))));
}

#[tokio::test]
async fn without_the_history_nothing_is_proved() {
    let (_api, mut agent, _programs) = holding(serving(&[0, 2]), "in production", "0/3000060").await;
    fs::remove_file(agent.volume.path().join("pgdata/pg_wal/00000003.history")).unwrap();
    assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
    assert_eq!(join(&agent), Join::Unknown, "nobody could be asked");
}

#[tokio::test]
async fn a_copy_that_wrote_the_primarys_timeline_itself_or_a_later_one_is_not_started() {
    for (timeline, why) in [(2, "itself"), (1, "it is on timeline 2")] {
        let record = Record { timeline, ..serving(&[0, 2]) };
        let (_api, mut agent, _programs) = holding(record, "in production", "0/3000060").await;
        assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
        assert!(matches!(join(&agent), Join::NeedsCopy(said) if said.contains(why)), "{why}");
    }
}

#[tokio::test]
async fn a_control_file_that_cannot_be_read_proves_nothing() {
    let (_api, mut agent, folder) = holding(serving(&[0, 2]), "in production", "0/3000060").await;
    agent.node.programs = Some(programs(folder.path(), "what is this\n", "0/3000060"));
    assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
    assert!(matches!(join(&agent), Join::NeedsCopy(why) if why.contains("control file")));
}

#[tokio::test]
async fn another_pools_copy_is_not_even_looked_at() {
    let record = serving(&[0, 2]);
    let (_api, mut agent, _programs) = holding(record.clone(), "in production", "0/3000060").await;
    let other = NodeFile { pool_uid: "earlier".to_owned(), epoch: 90, ..node_file(1, 90) };
    let write = |file: &NodeFile| {
        let path = agent.volume.path().join("pgdata/pgpool_node.json");
        fs::write(path, serde_json::to_vec(file).unwrap()).unwrap();
    };
    write(&other);
    agent.node.start().await.unwrap();
    let report = agent.node.shared.report();
    assert_eq!(report.join, Join::Unknown);
    assert!(report.needs_person && report.message.contains("belongs to pool earlier"), "{}", report.message);
    // Another node's volume of this pool is no better.
    write(&node_file(2, 1));
    agent.node.start().await.unwrap();
    let report = agent.node.shared.report();
    assert!(report.needs_person && report.message.contains("belongs to node 2"), "{}", report.message);
    // Only where this pool takes over an earlier one's data is it one that a recovery may replace.
    let mut adopting = object(Some(record));
    (adopting.spec.adopts, adopting.spec.bootstrap) = (true, 0);
    write(&other);
    agent.node.take(adopting, clock::now()).unwrap();
    agent.node.start().await.unwrap();
    let report = agent.node.shared.report();
    assert_eq!(report.join, Join::NeedsCopy(starting::EARLIER.to_owned()));
    assert!(report.message.contains("waits for a recovery"), "{}", report.message);
}

/// What the primary says of its data.
fn hears(agent: &Agent, system_id: Option<u64>) {
    agent.node.shared.lock().beat(clock::now(), &Beat { system_id, ..beat(5, None) });
}

#[tokio::test]
async fn data_of_another_database_system_is_neither_started_nor_copied_over() {
    // By its timeline and the end of its WAL it might follow, or would need a copy.
    for state in ["in archive recovery", "in production"] {
        let (api, mut agent, _programs) =
            holding(Record { timeline: 2, ..serving(&[0, 2]) }, state, "0/0").await;
        hears(&agent, Some(7_000_000_000_000_000_001));
        assert_eq!(agent.node.start().await.unwrap(), Next::Wait);
        let report = agent.node.shared.report();
        assert!(report.needs_person && report.join == Join::Unknown, "{state}: {}", report.message);
        assert!(report.message.contains("7571234567890123456, the primary's of 7000000000000000001"));
        assert_eq!((report.role, api.sent()), (Role::Stopped, Vec::new()));
        // An agent of an earlier version doesn't say; what was known stays.
        hears(&agent, None);
        agent.node.start().await.unwrap();
        assert!(agent.node.shared.report().needs_person);
        hears(&agent, Some(7_571_234_567_890_123_456));
        let record = agent.node.record().cloned().unwrap();
        let control = agent.node.control().await.unwrap();
        assert_eq!(agent.node.of_another_system(Some(&record), control.as_ref()), None);
    }
}

/// Node 1 has voted on timeline 2, and was started again before it read that node 0 was chosen for timeline 3. It has nobody
/// to ask, and this of the history noted itself.
async fn voted(record: Record, state: &str, end: &str, noted: &str) -> (Api, Agent, TempDir) {
    let (api, agent, programs) = holding(record, state, end).await;
    fs::remove_file(agent.volume.path().join("pgdata/pg_wal/00000003.history")).unwrap();
    if !noted.is_empty() {
        fs::write(
            agent.conf(names::LINEAGE),
            format!(r#"{{"segment_bytes":16777216,"branches":[{noted}]}}"#),
        )
        .unwrap();
    }
    agent.knows_its_copy();
    (api, agent, programs)
}

/// Timelines and their ends, as noted for `restore-wal`.
fn lineage(agent: &Agent) -> Vec<(u32, Option<u64>)> {
    let noted = fs::read(agent.conf(names::LINEAGE)).unwrap();
    let branches = serde_json::from_slice::<Lineage>(&noted).unwrap().branches;
    branches.iter().map(|branch| (branch.timeline, branch.end)).collect()
}

#[tokio::test]
async fn a_voter_that_never_read_the_choice_follows_by_what_the_record_says_of_it() {
    let record = serving(&[0, 1, 2]);
    let first = r#"{"timeline":1,"end":33554432},{"timeline":2,"end":null}"#;
    for (noted, ends) in [
        (first, vec![(1, Some(0x0200_0000)), (2, Some(0x0300_0060)), (3, None)]),
        // What it has noted says nothing of its own timeline, or nothing at all.
        (r#"{"timeline":1,"end":null}"#, vec![(1, Some(0x0300_0060)), (3, None)]),
        ("", vec![(3, None)]),
    ] {
        let (_api, mut agent, _programs) =
            voted(record.clone(), "in archive recovery", "0/3000060", noted).await;
        let (_, join) = agent.node.examine(Some(&record)).await.unwrap();
        assert_eq!(join, Join::Proved, "{noted}");
        // No archive may give it what lies past the fork.
        assert_eq!(lineage(&agent), ends);
        // Looked at again, it is the same.
        assert_eq!(agent.node.examine(Some(&record)).await.unwrap().1, Join::Proved);
    }
    // What it has noted of an office that it had nothing of is the stricter.
    let stricter = r#"{"timeline":2,"end":50331704},{"timeline":3,"end":null}"#;
    let (_api, mut agent, _programs) =
        voted(record.clone(), "in archive recovery", "0/3000060", stricter).await;
    let (_, join) = agent.node.examine(Some(&record)).await.unwrap();
    assert!(matches!(join, Join::NeedsCopy(why) if why.contains("past the fork at 0/3000038")));
}

#[tokio::test]
async fn the_records_fork_proves_nothing_of_a_node_that_has_not_voted() {
    let first = r#"{"timeline":1,"end":33554432},{"timeline":2,"end":null}"#;
    for (record, state) in [(serving(&[0, 2]), "in archive recovery"), (serving(&[0, 1, 2]), "in production")]
    {
        let (_api, mut agent, _programs) = voted(record.clone(), state, "0/3000060", first).await;
        assert_eq!(agent.node.examine(Some(&record)).await.unwrap().1, Join::Unknown, "{state}");
        assert_eq!(lineage(&agent), [(1, Some(0x0200_0000)), (2, None)], "nothing is noted of it");
    }
    let record = serving(&[0, 1, 2]);
    let (_api, mut agent, _programs) = voted(record.clone(), "in archive recovery", "0/3000068", first).await;
    let (_, join) = agent.node.examine(Some(&record)).await.unwrap();
    assert!(matches!(join, Join::NeedsCopy(why) if why.contains("past the fork")));
}
