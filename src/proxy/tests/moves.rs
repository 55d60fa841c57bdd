//! What becomes of sessions whose node can't be spoken to, and of requests to cancel them.
use super::*;

/// A session that has something at its node.
async fn keep_something(session: &mut Session) {
    assert_eq!(ask(session, "SET").await.tag, b'C');
    assert_eq!(hear(session).await.tag, b'Z');
}

/// One that is in a transaction.
async fn begin(session: &mut Session) {
    assert_eq!(ask(session, "BEGIN").await.tag, b'C');
    assert_eq!(hear(session).await.body, b"T");
}

/// Asks something; the session has gone to another node for it: which.
async fn moved(session: &mut Session) -> u8 {
    session.write_all(&encode(b'Q', b"SELECT\0")).await.unwrap();
    let node = settled(session).await;
    assert_eq!((hear(session).await.tag, hear(session).await.tag), (b'C', b'Z'));
    node
}

/// The hint that a session was ended with.
async fn hint(session: &mut Session) -> String {
    let said = hear(session).await;
    assert_eq!(message::error_texts(&said.body).0, "57P01");
    let hint = said.body.split(|b| *b == 0).find_map(|field| field.strip_prefix(b"H"));
    String::from_utf8(hint.unwrap_or_default().to_vec()).unwrap()
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
async fn a_switchover_is_not_noticed_between_two_transactions() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut idle, _) = pool.connect(pool.primary).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    begin(&mut busy).await;
    pool.say(0, |said| said.draining = true);
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
    pool.nodes[0].mute.store(true, Ordering::SeqCst);
    pool.say(0, |said| said.lease_ms = 0);
    pool.has_no_primary().await;
    writer.write_all(&encode(b'Q', b"COMMIT\0")).await.unwrap();
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"lapsed\"} 1").await;
    pool.say(0, |said| said.lease_ms = LEASE_MS);
    pool.nodes[0].mute.store(false, Ordering::SeqCst);
    assert_eq!((hear(&mut writer).await.tag, hear(&mut writer).await.body), (b'C', b"I".to_vec()));
}

#[tokio::test]
async fn silence_longer_than_that_ends_sessions() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = pool.connect(pool.primary).await;
    keep_something(&mut writer).await;
    pool.say(0, |said| said.lease_ms = 1500);
    pool.nodes[0].mute.store(true, Ordering::SeqCst);
    let begun = clock::now();
    assert_eq!(ended(&mut writer).await, "57P01");
    let took = clock::now().since(begun);
    assert!(took >= lease::PATIENCE && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn a_cancel_request_reaches_the_node_of_its_session_and_no_other() {
    let pool = Pool::start(&POOL, 100).await;
    let (_one, node, key) = pool.log_in(pool.read).await;
    let (_other, _, other) = pool.log_in(pool.read).await;
    assert_ne!(key, other);
    assert_eq!(key[..4], [0, 0, 0, node], "the process is the node's own");
    let cancel = async |key: &[u8]| {
        let mut socket = TcpStream::connect(pool.read).await.unwrap();
        socket.write_all(&[&[0, 0, 0, 16, 4, 210, 22, 46], key].concat()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.is_empty());
    };
    // One that nobody knows is asked of the other fronts: here of the front itself, which asks nobody.
    cancel(&[0, 0, 0, node, 7, 7, 7, 7]).await;
    assert!(HEARD.lock().unwrap().is_empty(), "what the node has given isn't the client's");
    cancel(&key).await;
    let heard = std::mem::take(&mut *HEARD.lock().unwrap());
    let request = [&[0, 0, 0, 16, 4, 210, 22, 46], [0, 0, 0, node, 7, 7, 7, 7].as_slice()].concat();
    assert_eq!(heard, [(node, request)]);
}
