//! The primary and the other nodes: epoch tables are compared before one is added (`Rule::TablesCompared`), and beats go out
//! only from an office that can be served.
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::postgres::{Rows, Value, session};
use super::*;
use crate::agent::http;
use crate::agent::node::Next;
use crate::archive::Store;
use crate::link::LinkError;
use crate::membership::joining::TableCheck;
use crate::membership::names::Names;

/// An epoch table whose rows have these nonces.
fn table(nonces: &'static [&'static str]) -> impl FnMut(&str) -> Rows {
    move |question| {
        assert!(question.contains("ORDER BY id"), "the whole table: {question}");
        let names = vec!["id", "epoch", "timeline", "nonce", "fork_xid"];
        let row = |(id, nonce): (i64, &&'static str)| {
            vec![Value::Int8(id), Value::Int8(5), Value::Int8(3), Value::Text(nonce), Value::Text("7")]
        };
        Rows(names, (1..).zip(nonces).map(row).collect())
    }
}

/// The agent of node 1, as its port is heard by the others.
struct Other {
    at: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
    _dirs: [TempDir; 2],
}

async fn other(authority: &Authority) -> Other {
    let (identity, tls) = authority.identity(&format!("{UID}/node/1"), &[host(1).as_str()]);
    let volume = tempfile::tempdir().unwrap();
    let shared = shared(1, &volume);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let router = http::router(Arc::clone(&shared), Store::new(&volume.path().join("archive")));
    let serving = crate::link::serve(listener, identity, UID.to_owned(), router, CancellationToken::new());
    Other { at, shared, _serving: AbortOnDropHandle::new(tokio::spawn(serving)), _dirs: [tls, volume] }
}

/// The primary of a pool of one, which would add node 1.
async fn primary(authority: &Authority, others: HashMap<String, SocketAddr>) -> (Api, Agent) {
    let api = Api::start(object(Some(serving(&[0])))).await;
    let agent = Agent::new(0, &api);
    let (volume, node) = (agent.volume, agent.node);
    drop(node);
    let mut agent = Agent::on(volume, 0, &api, others, authority);
    agent.knows_its_copy();
    agent.read().await;
    agent.node.names = Names::at_start(&serving(&[0]), 0, None, 2000);
    let office = agent.node.new_office(clock::now(), None);
    let mut inner = agent.node.shared.lock();
    inner.office = office;
    inner.report.role = Role::Primary;
    drop(inner);
    (api, agent)
}

/// What the primary has found of node 1's table.
fn compared(agent: &Agent) -> Option<(String, TableCheck)> {
    let inner = agent.node.shared.lock();
    let other = inner.office.as_ref().unwrap().others.get(&1)?;
    other.table.as_ref().map(|table| (table.incarnation.clone(), table.check.clone()))
}

#[tokio::test]
async fn the_whole_table_of_a_node_is_fetched_and_compared() {
    let authority = Authority::new();
    let other = other(&authority).await;
    let (_api, mut agent) = primary(&authority, HashMap::from([(host(1), other.at)])).await;
    let ours = session(table(&["a", "b"])).await;
    let copy = member(1).incarnation;
    for (theirs, check, next) in [
        (&["a", "b"][..], TableCheck::Equal { newest: 2 }, Next::Again),
        (&["a"][..], TableCheck::Behind { newest: 1 }, Next::Wait),
    ] {
        other.shared.set_client(Some(session(table(theirs)).await));
        assert_eq!(agent.node.compare_table(&member(1), &ours).await.unwrap(), next);
        assert_eq!(compared(&agent), Some((copy.clone(), check)));
    }
    for theirs in [&["a", "c"][..], &["a", "b", "c"][..], &["b", "a"][..]] {
        other.shared.set_client(Some(session(table(theirs)).await));
        assert_eq!(agent.node.compare_table(&member(1), &ours).await.unwrap(), Next::Wait);
        let (_, check) = compared(&agent).unwrap();
        assert!(matches!(check, TableCheck::Different(_)), "{theirs:?}: {check:?}");
    }
}

#[tokio::test]
async fn a_table_that_cannot_be_fetched_is_no_equal_one() {
    let authority = Authority::new();
    let other = other(&authority).await;
    let (_api, mut agent) = primary(&authority, HashMap::from([(host(1), other.at)])).await;
    let ours = session(table(&[])).await;
    // Its Postgres isn't running.
    assert!(agent.node.compare_table(&member(1), &ours).await.is_err());
    assert_eq!(compared(&agent), None);
}

#[tokio::test]
async fn beats_go_out_only_from_an_office_and_only_while_its_postgres_answers() {
    let authority = Authority::new();
    let (_api, agent) = primary(&authority, HashMap::new()).await;
    let mut inner = agent.node.shared.lock();
    let now = clock::now();
    inner.office.as_mut().unwrap().open = true;
    inner.postgres_seen = now;
    let first = inner.beat_for(now, 1, Some(70)).unwrap();
    assert_eq!((first.epoch, first.from, first.echo, first.flush_lsn), (5, 0, None, 70));
    let limit = Duration::from_millis(1500);
    assert!(inner.beat_for(now.after(limit), 1, None).is_some());
    let late = now.after(limit + Duration::from_millis(1));
    assert!(inner.beat_for(late, 1, None).is_none(), "its Postgres hangs: another shall take over");
    inner.office.as_mut().unwrap().open = false;
    assert!(inner.beat_for(late, 1, None).is_some(), "one that is starting may replay for a while");
    inner.ending = true;
    assert!(inner.beat_for(now, 1, None).is_none());
    inner.ending = false;
    inner.report.role = Role::Standby;
    assert!(inner.beat_for(now, 1, None).is_none());
}

/// The answer of this copy of node 1, which follows.
fn answer(copy: &str, epoch: i64, millis: u64) -> Answer {
    Answer {
        pool_uid: UID.to_owned(),
        epoch,
        seen: epoch,
        index: 1,
        incarnation: Some(copy.to_owned()),
        stamp: stamp(copy, millis),
        role: Role::Standby,
        serves_nobody: false,
        leaving: false,
        join: Join::Proved,
        streaming: true,
        timeline: Some(3),
        replay_lsn: Some(70),
    }
}

#[tokio::test]
async fn a_beat_grants_a_lease_only_with_a_position_that_was_read_after_the_answer() {
    let authority = Authority::new();
    let (api, mut agent) = primary(&authority, HashMap::new()).await;
    api.write(Record { epoch: 6, ..serving(&[0, 1]) });
    agent.read().await;
    agent.node.names = Names::at_start(&api.record(), 0, None, 2000);
    let office = agent.node.new_office(clock::now(), None);
    let mut inner = agent.node.shared.lock();
    inner.office = office;
    let now = clock::now();
    let sent = inner.beat_for(now, 1, Some(70)).unwrap();
    assert!(inner.answered(now, &sent, answer("copy1", 6, 10)), "news");
    assert!(!inner.answered(now, &sent, answer("copy1", 6, 20)), "no news: nothing to wake the driver for");
    let blind = inner.beat_for(now, 1, None).unwrap();
    assert_eq!((blind.echo, blind.flush_lsn), (None, u64::MAX));
    let grant = inner.beat_for(now, 1, Some(80)).unwrap();
    assert_eq!(grant.echo, Some(stamp("copy1", 20)));
    // An answer under another epoch neither counts nor gets a lease.
    inner.answered(now, &grant, answer("copy1", 5, 30));
    assert_eq!(inner.beat_for(now, 1, Some(80)).unwrap().echo, None);
    // The report says what is left of the own lease, which rests on these answers.
    inner.answered(now, &grant, answer("copy1", 6, 40));
    assert_eq!(inner.report_at(now).lease_ms, 2000);
    assert_eq!(inner.report_at(now.after(LEASE)).lease_ms, 0);
}

/// Within L another copy answers in the node's place: a pod that was deleted by force may live on beside the next one, on a
/// machine that this primary doesn't reach. It may be chosen there, and counts from its own answers alone.
#[tokio::test]
async fn another_copy_in_a_nodes_place_keeps_no_lease_alive() {
    let authority = Authority::new();
    let (api, mut agent) = primary(&authority, HashMap::new()).await;
    api.write(Record { epoch: 6, ..serving(&[0, 1]) });
    agent.read().await;
    agent.node.names = Names::at_start(&api.record(), 0, None, 2000);
    let office = agent.node.new_office(clock::now(), None);
    let mut inner = agent.node.shared.lock();
    inner.office = office;
    let now = clock::now();
    let sent = inner.beat_for(now, 1, Some(70)).unwrap();
    inner.answered(now, &sent, answer("copy1", 6, 10));
    let later = now.after(Duration::from_millis(1500));
    inner.postgres_seen = later;
    let sent = inner.beat_for(later, 1, Some(70)).unwrap();
    inner.answered(later, &sent, answer("another", 6, 20));
    assert_eq!(
        inner.report_at(later).lease_ms,
        0,
        "the copy that the record counts was heard of, and isn't any more"
    );
    assert_eq!(inner.beat_for(later, 1, Some(70)).unwrap().echo, None);
    inner.answered(later, &sent, answer("copy1", 6, 30));
    assert_eq!(inner.report_at(later).lease_ms, 2000);
}

#[tokio::test]
async fn a_beat_is_answered_once_the_volume_has_how_long_its_leases_may_be() {
    let authority = Authority::new();
    let other = other(&authority).await;
    let (_api, agent) = primary(&authority, HashMap::from([(host(1), other.at)])).await;
    {
        let mut inner = other.shared.lock();
        (inner.member, inner.record) = (Some(member(1)), Some(serving(&[0, 1])));
    }
    let send = async |beat: Beat| -> Result<Answer, LinkError> {
        agent.node.link.post_json(&host(1), names::AGENT_PORT, "/v1/beat", &beat, PATIENCE).await
    };
    // The volume can't be written.
    assert!(send(beat(5, None)).await.is_err());
    assert!(other.shared.lock().answers.all().is_empty(), "nothing was answered");
    let conf = other.shared.env.volume.join("conf");
    fs::create_dir(&conf).unwrap();
    assert_eq!(send(beat(5, None)).await.unwrap().epoch, 5);
    assert_eq!(fs::read_to_string(conf.join("lease.json")).unwrap(), r#"{"leaseMs":2000}"#);
    assert_eq!(other.shared.lock().answers.all().len(), 1);
    // Whoever speaks for another node, or of another pool, is not heard.
    assert!(send(Beat { from: 2, ..beat(5, None) }).await.is_err());
    assert!(send(Beat { pool_uid: "another".to_owned(), ..beat(5, None) }).await.is_err());
}

#[tokio::test]
async fn a_vote_is_answered_by_the_own_one_of_the_same_election() {
    let authority = Authority::new();
    let other = other(&authority).await;
    let (_api, agent) = primary(&authority, HashMap::from([(host(1), other.at)])).await;
    let send = async |vote: Vote| -> Result<Option<Vote>, LinkError> {
        agent.node.link.post_json(&host(1), names::AGENT_PORT, "/v1/vote", &vote, PATIENCE).await
    };
    assert_eq!(send(vote(0, 6, 40)).await.unwrap(), None, "it has not voted yet");
    other.shared.lock().vote(clock::now(), vote(1, 6, 50));
    assert_eq!(send(vote(0, 6, 40)).await.unwrap(), Some(vote(1, 6, 50)));
    assert_eq!(send(vote(0, 7, 40)).await.unwrap(), None, "its vote was for the election before");
    let heard = |index: u8| other.shared.lock().votes.iter().any(|heard| heard.vote.index == index);
    assert!(heard(0));
    assert!(send(vote(2, 6, 40)).await.is_err() && !heard(2), "node 0 votes for itself alone");
    assert!(send(Vote { pool_uid: "another".to_owned(), ..vote(0, 6, 40) }).await.is_err());
}
