//! What becomes of sessions whose node can't be spoken to, and of requests to cancel them.
use super::*;
use crate::messages::LAPSED_FOR;

/// A session that has something at its node.
pub async fn keep_something(session: &mut Session) {
    assert_eq!(ask(session, "SET").await.tag, b'C');
    assert_eq!(hear(session).await.tag, b'Z');
}

/// One that is in a transaction.
pub async fn begin(session: &mut Session) {
    assert_eq!(ask(session, "BEGIN").await.tag, b'C');
    assert_eq!(hear(session).await.body, b"T");
}

/// Asks something; the session has gone to another node for it: which.
pub async fn moved(session: &mut Session) -> u8 {
    session.write_all(&encode(b'Q', b"SELECT\0")).await.unwrap();
    let node = settled(session).await;
    assert_eq!((hear(session).await.tag, hear(session).await.tag), (b'C', b'Z'));
    node
}

/// Message and hint that a session was ended with.
pub async fn farewell(session: &mut Session) -> (String, String) {
    let said = hear(session).await;
    let (code, text) = message::error_texts(&said.body);
    assert_eq!(code, "57P01", "{text}");
    let hint = said.body.split(|b| *b == 0).find_map(|field| field.strip_prefix(b"H"));
    (text, String::from_utf8(hint.unwrap_or_default().to_vec()).unwrap())
}

/// The hint alone.
async fn hint(session: &mut Session) -> String {
    farewell(session).await.1
}

#[tokio::test]
async fn a_node_that_leaves_takes_along_only_who_has_something_there() {
    let pool = Pool::start(&POOL, 100).await;
    let mut readers = HashMap::new();
    for _ in 0..6 {
        let (reader, node) = pool.connect(pool.read).await;
        readers.entry(node).or_insert_with(Vec::new).push(reader);
    }
    // Another epoch by itself changes nothing: it changes with every node that comes or goes.
    pool.say(0, |said| said.epoch = 4);
    let [bare, keeping] = &mut readers.get_mut(&2).unwrap()[..] else { panic!("two on each") };
    keep_something(keeping).await;
    pool.say(2, |said| said.open = false);
    let told = hint(keeping).await;
    assert!(told.contains("nothing was under way") && told.contains("settings of its own"), "{told}");
    assert_ne!(moved(bare).await, 2);
    assert!(echoes(bare).await);

    // A standby that was restarted: whoever was connected before was so to another process.
    let [bare, busy] = &mut readers.get_mut(&1).unwrap()[..2] else { panic!("two on each") };
    begin(busy).await;
    pool.say(1, |said| said.boot = "b2".into());
    assert!(hint(busy).await.contains("committed or not"));
    moved(bare).await;
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("connections_dropped_total{route=\"read\",node=\"1\"} 1\n"), "{metrics}");
    assert!(metrics.contains("connections{route=\"read\",node=\"2\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_node_is_told_which_sessions_were_broken_off_until_they_are_gone() {
    let mut pool = Pool::start(&POOL, 100).await;
    let (session, node) = pool.connect(pool.read).await;
    let (mut session, node) = match node {
        // The process that the fake nodes name is their index.
        0 => pool.connect(pool.read).await,
        _ => (session, node),
    };
    assert_ne!(node, 0);
    begin(&mut session).await;
    pool.say(usize::from(node), |said| said.open = false);
    assert_eq!(ended(&mut session).await, "57P01");
    let told = pool.nodes[usize::from(node)].abandoned.wait_for(|told| told.len() > 1);
    let told = timeout(PATIENCE, told).await.expect("the node was not told again").unwrap();
    let [first, second] = &told[..] else { panic!("{told:?}") };
    assert_eq!(first, second, "it was busy");
    let [session] = &first[..] else { panic!("{first:?}") };
    assert_eq!((session.pid, session.boot.as_str()), (i32::from(node), "b1"));
    assert!(session.port > 0);
}

#[tokio::test]
async fn nothing_is_said_within_a_message_that_a_client_did_not_take() {
    let pool = Pool::start(&[Role::Primary, Role::Standby], 100).await;
    let (mut session, node) = pool.connect(pool.read).await;
    let next = 1 - node;
    // More than the kernel keeps for a client that doesn't read.
    pool.nodes[usize::from(next)].manners.talks.store(220, Ordering::SeqCst);
    pool.say(usize::from(node), |said| said.open = false);
    // Until the front has heard of it, a statement is still sent there.
    pool.counts(&format!("pgpool_front_connections{{route=\"read\",node=\"{node}\"}} 0")).await;
    session.write_all(&encode(b'Q', b"SELECT\0")).await.unwrap();
    pool.counts(&format!("pgpool_front_connections_dropped_total{{route=\"read\",node=\"{next}\"}} 1")).await;
    let mut said = Vec::new();
    timeout(PATIENCE, session.read_to_end(&mut said)).await.expect("it was left open").ok();
    assert!(said.starts_with(b"S") && said.len() < 220 * 60_000, "{} bytes", said.len());
    assert!(!said.windows(5).any(|text| text == b"57P01"), "behind a part of a message");
}

#[tokio::test]
async fn a_switchover_is_not_noticed_between_two_transactions() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut idle, _) = pool.connect(pool.primary).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    begin(&mut busy).await;
    pool.say(0, |said| said.draining = true);
    // Until the front has heard of it, a statement isn't held.
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 1").await;
    // The transaction may end; the next one waits.
    assert_eq!(ask(&mut busy, "COMMIT").await.tag, b'C');
    assert_eq!(hear(&mut busy).await.body, b"I");
    for session in [&mut idle, &mut busy] {
        session.write_all(&encode(b'Q', b"INSERT 0 1\0")).await.unwrap();
    }
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 2").await;
    pool.say(0, |said| (said.role, said.open) = (Role::Stopped, false));
    pool.say(1, |said| (said.role, said.epoch) = (Role::Primary, 5));
    for session in [&mut idle, &mut busy] {
        assert_eq!(settled(session).await, 1);
        assert_eq!((hear(session).await.tag, hear(session).await.tag), (b'C', b'Z'));
        assert!(echoes(session).await);
    }
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("sessions_moved_total{route=\"primary\",node=\"1\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn a_node_that_ends_sessions_is_believed_when_it_ends_itself() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut bare, _) = pool.connect(pool.primary).await;
    let (mut keeping, _) = pool.connect(pool.primary).await;
    keep_something(&mut keeping).await;
    pool.say(0, |said| said.draining = true);
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 2").await;
    pool.nodes[0].ends.send_replace(());
    assert!(hint(&mut keeping).await.contains("settings of its own"));
    pool.say(0, |said| (said.role, said.open) = (Role::Stopped, false));
    pool.say(1, |said| (said.role, said.epoch) = (Role::Primary, 5));
    assert_eq!(moved(&mut bare).await, 1);
    // One that goes on serving has ended this session alone, and says why.
    pool.nodes[1].ends.send_replace(());
    let said = hear(&mut bare).await;
    assert_eq!(message::error_texts(&said.body), ("57P01".into(), "by the node".into()));
}

#[tokio::test]
async fn what_was_prepared_before_is_not_asked_of_another_node() {
    let pool = Pool::start(&POOL, 100).await;
    for waiting in [encode(b'B', b"\0\0\0\0\0\0\0\0"), encode(b'Q', b"SELECT lastval()\0")] {
        let (mut session, node) = pool.connect(pool.read).await;
        pool.say(usize::from(node), |said| said.open = false);
        pool.counts(&format!("pgpool_front_connections{{route=\"read\",node=\"{node}\"}} 0")).await;
        session.write_all(&waiting).await.unwrap();
        assert!(hint(&mut session).await.contains("nothing was under way"));
    }
}

#[tokio::test]
async fn a_switchover_that_is_given_up_lets_sessions_go_on() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut session, _) = pool.connect(pool.primary).await;
    keep_something(&mut session).await;
    pool.say(0, |said| said.draining = true);
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 1").await;
    pool.say(0, |said| said.draining = false);
    assert!(echoes(&mut session).await);
}

#[tokio::test]
async fn a_statement_waits_for_a_lease_that_lapsed() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = pool.connect(pool.primary).await;
    begin(&mut writer).await;
    // Lines of the stream shorten a lease, and only answers lengthen it.
    pool.nodes[0].manners.mute.store(true, Ordering::SeqCst);
    pool.say(0, |said| said.lease_ms = 0);
    pool.has_no_primary().await;
    writer.write_all(&encode(b'Q', b"COMMIT\0")).await.unwrap();
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"lapsed\"} 1").await;
    pool.say(0, |said| said.lease_ms = LEASE_MS);
    pool.nodes[0].manners.mute.store(false, Ordering::SeqCst);
    assert_eq!((hear(&mut writer).await.tag, hear(&mut writer).await.body), (b'C', b"I".to_vec()));
    pool.counts("pgpool_front_leases_lapsed_total{route=\"primary\",node=\"0\"} 1").await;
}

#[tokio::test]
async fn silence_longer_than_that_ends_sessions() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = pool.connect(pool.primary).await;
    keep_something(&mut writer).await;
    pool.say(0, |said| said.lease_ms = 1500);
    pool.nodes[0].manners.mute.store(true, Ordering::SeqCst);
    let begun = clock::now();
    assert_eq!(ended(&mut writer).await, "57P01");
    let took = clock::now().since(begun);
    assert!(took >= LAPSED_FOR && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn a_cancel_request_reaches_the_node_of_its_session_and_no_other() {
    let pool = Pool::start(&POOL, 100).await;
    let (_one, node, key) = pool.log_in(pool.read).await;
    let (_other, _, other) = pool.log_in(pool.read).await;
    assert_ne!(key, other);
    assert_eq!(key[..4], [0, 0, 0, node], "the process is the node's own");
    // One that nobody knows is asked of the other fronts: here of the front itself, which asks nobody.
    cancel(&pool, [0, 0, 0, node, 7, 7, 7, 7]).await;
    let heard =
        || -> Vec<Vec<u8>> { pool.nodes.iter().flat_map(|n| n.heard.lock().unwrap().clone()).collect() };
    assert!(heard().is_empty(), "what the node has given isn't the client's");
    cancel(&pool, key).await;
    let request = [&[0, 0, 0, 16, 4, 210, 22, 46], [0, 0, 0, node, 7, 7, 7, 7].as_slice()].concat();
    assert_eq!(heard(), std::slice::from_ref(&request));
    assert_eq!(*pool.nodes[usize::from(node)].heard.lock().unwrap(), [request]);
}

/// Sends a request, until the front has passed it on.
pub async fn cancel(pool: &Pool, key: [u8; 8]) {
    let mut socket = TcpStream::connect(pool.read).await.unwrap();
    socket.write_all(&[[0, 0, 0, 16, 4, 210, 22, 46], key].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn success_after_a_cancel_request_is_believed_behind_a_barrier() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut session, _, key) = pool.log_in(pool.primary).await;
    cancel(&pool, key).await;
    let barriers = "pgpool_front_barriers_total{route=\"primary\",node=\"0\"} 2";
    for _ in 0..2 {
        assert_eq!(ask(&mut session, "INSERT 0 1").await.tag, b'C');
        assert_eq!(hear(&mut session).await.tag, b'Z');
        // One for the command and one for the end; what comes later is beyond doubt.
        pool.counts(barriers).await;
    }
    // What has failed was not committed.
    cancel(&pool, key).await;
    assert_eq!(ask(&mut session, "DO").await.tag, b'C');
    pool.counts(&barriers.replace("} 2", "} 4")).await;
    assert_eq!(hear(&mut session).await.tag, b'Z');
    cancel(&pool, key).await;
    assert_eq!(ask(&mut session, "DO it").await.tag, b'E');
    assert_eq!(hear(&mut session).await.tag, b'Z');
    pool.counts(&barriers.replace("} 2", "} 4")).await;
}

#[tokio::test]
async fn a_cancel_request_casts_doubt_until_its_node_has_taken_it() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut session, _, key) = pool.log_in(pool.primary).await;
    pool.nodes[0].manners.busy.send_replace(true);
    // Its client waits for no more than a moment; the request may strike at any time.
    cancel(&pool, key).await;
    let insert = async |session: &mut Session, barriers| {
        assert_eq!(ask(session, "INSERT 0 1").await.tag, b'C');
        assert_eq!(hear(session).await.tag, b'Z');
        pool.counts(&format!("pgpool_front_barriers_total{{route=\"primary\",node=\"0\"}} {barriers}")).await;
    };
    for barriers in [2, 4, 6] {
        insert(&mut session, barriers).await;
    }
    pool.nodes[0].manners.busy.send_replace(false);
    pool.has_passed_on(key).await;
    for barriers in [8, 8] {
        insert(&mut session, barriers).await;
    }
    pool.counts("pgpool_front_cancels_total{route=\"primary\",node=\"0\"} 1").await;
}

#[tokio::test]
async fn less_than_the_promise_is_refused() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut session, _) = pool.connect(pool.primary).await;
    let refused = ask(&mut session, "SET synchronous_commit = off").await;
    let [code, text, _] = refusal::SETTING;
    let why = (code.to_owned(), text.to_owned());
    assert_eq!((refused.tag, message::error_texts(&refused.body)), (b'E', why.clone()));
    assert_eq!(hear(&mut session).await.tag, b'Z');
    assert_eq!(ask(&mut session, "SET synchronous_commit = remote_apply").await.tag, b'C');
    assert_eq!(hear(&mut session).await.tag, b'Z');
    // The same with parameters, though these fit nothing that the node could read; what follows is skipped.
    let set = b"s1\0select set_config('synchronous_commit', $1, true)\0\0\x01\0\0\0\x19";
    let bind = b"\0s1\0\0\0\0\x01\0\0\0\x03off\0\0";
    let batch = [encode(b'P', set), encode(b'D', b"Ss1\0"), encode(b'B', bind), encode(b'S', b"")].concat();
    session.write_all(&[batch, encode(b'Q', b"DO it\0")].concat()).await.unwrap();
    let refused = hear(&mut session).await;
    assert_eq!((refused.tag, message::error_texts(&refused.body)), (b'E', why));
    assert_eq!(hear(&mut session).await.tag, b'Z');
    let failed = hear(&mut session).await;
    assert_eq!(message::error_texts(&failed.body).0, "P0001", "an error of another kind stays what it is");
    assert_eq!(hear(&mut session).await.tag, b'Z');
    let long = format!("{}; SET synchronous_commit = off\0", " ".repeat(40_000));
    session.write_all(&encode(b'Q', long.as_bytes())).await.unwrap();
    assert_eq!(ended(&mut session).await, "0A000");
    let asked = [("user", "app"), ("options", "-c synchronous_commit=local")];
    assert_eq!(ended(&mut pool.knock(pool.primary, &asked).await).await, "0A000");
}
