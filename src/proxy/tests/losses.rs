//! What sessions are told whose node doesn't come back, and how long they wait for it.
use super::{
    moves::{begin, farewell, keep_something, moved},
    *,
};

/// These lines stand in the metrics now.
async fn has_counted(pool: &Pool, lines: &[&str]) {
    let metrics = pool.health("/metrics").await;
    for line in lines {
        assert!(metrics.contains(line), "{line} isn't in\n{metrics}");
    }
}

#[tokio::test]
async fn a_statement_whose_lease_does_not_come_back_is_never_sent() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, _) = pool.connect(pool.primary).await;
    let (mut keeping, _) = pool.connect(pool.primary).await;
    begin(&mut writer).await;
    keep_something(&mut keeping).await;
    // Lines of the stream shorten a lease, and only answers lengthen it.
    pool.nodes[0].manners.mute.store(true, Ordering::SeqCst);
    pool.say(0, |said| said.lease_ms = 0);
    pool.has_no_primary().await;
    writer.write_all(&encode(b'Q', b"COMMIT\0")).await.unwrap();
    keeping.write_all(&encode(b'Q', b"INSERT 0 1\0")).await.unwrap();
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"lapsed\"} 2").await;
    let (text, hint) = farewell(&mut writer).await;
    assert!(text.contains("its node has left its office or the pool"), "{text}");
    assert!(hint.contains("committed or not"), "{hint}");
    let (_, hint) = farewell(&mut keeping).await;
    assert!(hint.contains("nothing was under way") && hint.contains("settings of its own"), "{hint}");
    has_counted(
        &pool,
        &[
            // BEGIN and SET.
            "pgpool_front_statements_total{route=\"primary\",node=\"0\"} 2\n",
            "pgpool_front_connections_dropped_total{route=\"primary\",node=\"0\"} 2\n",
            "pgpool_front_leases_lapsed_total{route=\"primary\",node=\"0\"} 1\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_node_that_breaks_off_without_a_word_is_told_of() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut bare, _) = pool.connect(pool.primary).await;
    let (mut keeping, _) = pool.connect(pool.primary).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    keep_something(&mut keeping).await;
    begin(&mut busy).await;
    pool.nodes[0].manners.vanishes.send_replace(());
    let (text, hint) = farewell(&mut busy).await;
    assert_eq!(text, "terminating connection: its node is lost");
    assert!(hint.contains("committed or not"), "{hint}");
    let (text, hint) = farewell(&mut keeping).await;
    assert!(text.contains("or is lost"), "{text}");
    assert!(hint.contains("nothing was under way") && hint.contains("settings of its own"), "{hint}");
    // The front has noticed by itself, before anybody says anything of the node.
    pool.counts("pgpool_front_connections{route=\"primary\",node=\"0\"} 0").await;
    pool.say(0, |said| (said.role, said.open) = (Role::Stopped, false));
    pool.has_no_primary().await;
    pool.say(1, |said| (said.role, said.epoch) = (Role::Primary, 5));
    assert_eq!(moved(&mut bare).await, 1);
    assert!(echoes(&mut bare).await);
    has_counted(
        &pool,
        &[
            "pgpool_front_connections_dropped_total{route=\"primary\",node=\"0\"} 2\n",
            "pgpool_front_sessions_moved_total{route=\"primary\",node=\"1\"} 1\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_session_in_a_transaction_is_told_by_the_front_that_its_node_leaves() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    begin(&mut busy).await;
    pool.say(0, |said| said.draining = true);
    pool.has_no_primary().await;
    pool.nodes[0].ends.send_replace(());
    let (text, hint) = farewell(&mut busy).await;
    assert!(text.contains("its node has left its office or the pool"), "{text}");
    assert!(hint.contains("committed or not"), "{hint}");
    pool.counts("pgpool_front_connections_dropped_total{route=\"primary\",node=\"0\"} 1").await;
}

#[tokio::test]
async fn a_session_that_is_ended_alone_in_a_transaction_is_told_why_by_its_node() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    begin(&mut busy).await;
    pool.nodes[0].ends.send_replace(());
    assert_eq!(farewell(&mut busy).await, ("by the node".to_owned(), String::new()));
}

/// As long as sessions are held here: so short that a test can wait for its end, and long enough for a login.
const HOLD: Duration = Duration::from_secs(3);

async fn impatient() -> Pool {
    Pool::with(&POOL[..2], 100, None, Limits { hold: HOLD, ..Limits::default() }).await
}

#[tokio::test]
async fn a_session_is_not_held_for_ever_by_a_node_that_hands_over() {
    let pool = impatient().await;
    let (mut session, _) = pool.connect(pool.primary).await;
    let begun = clock::now();
    pool.say(0, |said| said.draining = true);
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 1").await;
    // Nothing changes with the node, which serves all the while: in the end it is asked.
    assert_eq!(ask(&mut session, "SELECT").await.tag, b'C');
    assert!(clock::now().since(begun) >= HOLD, "it was not held");
    assert_eq!(hear(&mut session).await.tag, b'Z');
    assert!(echoes(&mut session).await, "it isn't held once more");
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("sessions_moved_total{route=\"primary\",node=\"0\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_session_that_no_node_takes_in_time_is_told_so() {
    let pool = impatient().await;
    let (mut session, node) = pool.connect(pool.read).await;
    for index in 0..2 {
        pool.say(index, |said| said.open = false);
    }
    pool.counts("pgpool_front_serving_nodes{route=\"read\"} 0").await;
    pool.counts(&format!("pgpool_front_connections{{route=\"read\",node=\"{node}\"}} 0")).await;
    let begun = clock::now();
    session.write_all(&encode(b'Q', b"SELECT\0")).await.unwrap();
    let (text, hint) = farewell(&mut session).await;
    assert!(clock::now().since(begun) >= HOLD, "nobody was waited for");
    assert!(text.contains("its node has left its office or the pool"), "{text}");
    assert!(hint.contains("nothing was under way. No other node took the session in time"), "{hint}");
    pool.counts(&format!("pgpool_front_connections_dropped_total{{route=\"read\",node=\"{node}\"}} 1")).await;
}
