//! Where sessions go, who gets none, and how they end.
use super::*;

#[tokio::test]
async fn sessions_go_where_their_port_says() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut writer, node) = pool.connect(pool.primary).await;
    assert_eq!(node, 0);
    assert!(echoes(&mut writer).await);
    let mut readers = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (reader, node) = pool.connect(pool.read).await;
        readers.push(reader);
        seen.push(node);
    }
    seen.push(0);
    seen.sort_unstable();
    assert_eq!(seen, [0, 0, 1, 1, 2, 2], "the fewest sessions first, the primary's writer counted");
    assert!(pool.health("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("pgpool_front_connections{route=\"primary\",node=\"0\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn sessions_are_spread_over_the_threads_of_both_ports() {
    let pool = Pool::start(&POOL, 100).await;
    let mut sessions = Vec::new();
    for to in [pool.primary, pool.read, pool.primary, pool.read, pool.primary, pool.read] {
        sessions.push(pool.connect(to).await.0);
    }
    assert_eq!(pool.threads.sessions(), [2, 2, 2]);
    for session in &mut sessions {
        assert!(echoes(session).await);
    }
    drop(sessions);
    pool.has_nobody().await;
}

#[tokio::test]
async fn a_client_is_held_until_there_is_a_primary_or_told_that_there_is_none() {
    let pool = Arc::new(Pool::start(&[Role::Stopped, Role::Standby], 100).await);
    let begun = clock::now();
    let mut told = pool.knock(pool.primary, &[("user", "app")]).await;
    assert_eq!(pool.connect(pool.read).await.1, 1);
    assert_eq!(ended(&mut told).await, "57P03");
    assert!(clock::now().since(begun) > Duration::from_secs(8));

    let held = pool.clone();
    let late = tokio::spawn(async move { held.connect(held.primary).await.1 });
    tokio::task::yield_now().await;
    pool.say(0, |said| said.role = Role::Primary);
    assert_eq!(late.await.unwrap(), 0);
}

#[tokio::test]
async fn whoever_goes_while_it_is_held_leaves_its_place() {
    let hold = Duration::from_secs(3600);
    let pool = Pool::with(&POOL[..2], 100, None, Limits { hold, ..Limits::default() }).await;
    // One waits between two transactions, one for another node.
    let (mut waiting, _) = pool.connect(pool.primary).await;
    pool.say(0, |said| said.draining = true);
    waiting.write_all(&encode(b'Q', b"SELECT\0")).await.unwrap();
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 1").await;
    let (mut homeless, node) = pool.connect(pool.read).await;
    assert_eq!(node, 1, "nobody new goes to one that hands over");
    pool.say(1, |said| said.open = false);
    pool.counts("pgpool_front_connections{route=\"read\",node=\"1\"} 0").await;
    homeless.write_all(&encode(b'Q', b"SELECT\0")).await.unwrap();
    pool.counts("pgpool_front_held_total{route=\"read\"} 1").await;
    // And one has not even logged in.
    let early = pool.knock(pool.primary, &[("user", "app")]).await;
    pool.counts("pgpool_front_held_total{route=\"primary\"} 1").await;
    drop((waiting, homeless, early));
    pool.has_nobody().await;
    assert_eq!(pool.front.arriving.available_permits(), 200);
    assert!(!pool.front.places.is_full());
}

#[tokio::test]
async fn a_node_that_takes_no_login_keeps_nobody_from_another_one() {
    let pool = Pool::start(&[Role::Primary, Role::Standby], 100).await;
    let (mut moving, node) = pool.connect(pool.read).await;
    let other = usize::from(1 - node);
    pool.nodes[other].manners.deaf.store(true, Ordering::SeqCst);
    let (mut reader, landed) = pool.connect(pool.read).await;
    assert_eq!(landed, node, "the other one is less busy, and doesn't answer");
    assert!(echoes(&mut reader).await && echoes(&mut moving).await);
}

#[tokio::test]
async fn a_full_front_says_so() {
    let pool = Pool::start(&POOL, 1).await;
    let (mut first, _) = pool.connect(pool.primary).await;
    let mut second = pool.knock(pool.primary, &[("user", "app")]).await;
    assert_eq!(ended(&mut second).await, "53300");
    assert!(echoes(&mut first).await);
    drop(first);
    while pool.health("/metrics").await.contains("connections{route=\"primary\",node=\"0\"} 1\n") {
        tokio::task::yield_now().await;
    }
    let mut third = pool.connect(pool.primary).await.0;
    assert!(echoes(&mut third).await);
}

#[tokio::test]
async fn a_user_has_no_more_than_its_connections() {
    let pool = Pool::with(&POOL, 100, Some(2), Limits::default()).await;
    let (one, _) = pool.connect(pool.primary).await;
    let (mut other, _) = pool.connect(pool.read).await;
    let mut third = pool.knock(pool.read, &[("user", "app")]).await;
    assert_eq!(
        prove(&mut third, "Secret").await,
        Err("28P01".into()),
        "who has proved nothing learns nothing"
    );
    let mut third = pool.knock(pool.primary, &[("user", "app")]).await;
    let said = prove_or_hear(&mut third, "secret").await.unwrap_err();
    assert_eq!(
        message::error_texts(&said.body),
        ("53300".to_owned(), "too many connections for role \"app\"".to_owned())
    );
    pool.counts("pgpool_front_connections_refused_total{route=\"primary\",reason=\"user_full\"} 1").await;
    assert!(echoes(&mut other).await);
    drop(one);
    pool.counts("pgpool_front_connections{route=\"primary\",node=\"0\"} 0").await;
    assert!(echoes(&mut pool.connect(pool.primary).await.0).await);
}

#[tokio::test]
async fn what_a_node_refuses_is_passed_on_and_counted() {
    let pool = Pool::start(&POOL, 100).await;
    for (code, reason) in [("53300", "node_full"), ("3D000", "node")] {
        *pool.nodes[0].manners.refuses.lock().unwrap() = Some(code);
        let mut refused = pool.knock(pool.primary, &[("user", "app")]).await;
        assert_eq!(prove(&mut refused, "secret").await, Err(code.to_owned()));
        let counted = "pgpool_front_connections_refused_total{route=\"primary\",reason=";
        pool.counts(&format!("{counted}\"{reason}\"}} 1")).await;
    }
}

#[tokio::test]
async fn what_is_passed_on_is_counted() {
    let pool = Pool::start(&POOL, 100).await;
    let (mut session, _) = pool.connect(pool.primary).await;
    // Each message is its kind, its length and its body.
    let [asked, answered] = [5 + "SELECT\0".len(), 5 + "SELECT\0".len() + 5 + "I".len()];
    let lines = |to_node: usize, to_client: usize, passed: usize| {
        let place = "route=\"primary\",node=\"0\"";
        [
            format!("pgpool_front_bytes_total{{{place},to=\"node\"}} {to_node}"),
            format!("pgpool_front_bytes_total{{{place},to=\"client\"}} {to_client}"),
            format!("pgpool_front_added_seconds_count{{{place}}} {passed}"),
        ]
    };
    for line in lines(0, 0, 0) {
        // What is said to log in isn't passed on.
        pool.counts(&line).await;
    }
    assert_eq!(ask(&mut session, "SELECT").await.tag, b'C');
    assert_eq!(hear(&mut session).await.tag, b'Z');
    // Once for the question, and once for the end of its answer.
    for line in lines(asked, answered, 2) {
        pool.counts(&line).await;
    }
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let pool = Pool::start(&POOL, 100).await;
    let told = async |user: &str, password: &str| {
        prove(&mut pool.knock(pool.primary, &[("user", user)]).await, password).await
    };
    assert_eq!(told("app", "secret").await, Ok(()));
    assert_eq!(told("app", "Secret").await, Err("28P01".into()));
    assert_eq!(told("nobody", "secret").await, Err("28P01".into()), "whose verifier is made up");
    let mut nameless = pool.knock(pool.primary, &[("database", "app")]).await;
    assert_eq!(ended(&mut nameless).await, "28000");
    let mut replica = pool.knock(pool.primary, &[("user", "app"), ("replication", "database")]).await;
    assert_eq!(ended(&mut replica).await, "0A000");
    let twice = [("user", "app"), ("replication", "off"), ("replication", "database")];
    assert_eq!(ended(&mut pool.knock(pool.primary, &twice).await).await, "08P01");
    for (reason, times) in [("password", 2), ("forbidden", 2), ("protocol", 1)] {
        let refused = "pgpool_front_connections_refused_total{route=\"primary\",reason=";
        pool.counts(&format!("{refused}\"{reason}\"}} {times}")).await;
    }
}

#[tokio::test]
async fn nothing_is_said_without_tls_and_nothing_before_it_counts() {
    let pool = Pool::start(&POOL, 100).await;
    let mut plain = TcpStream::connect(pool.primary).await.unwrap();
    let mut buffer = bytes::BytesMut::new();
    frontend::startup_message([("user", "app")], &mut buffer).unwrap();
    plain.write_all(&buffer).await.unwrap();
    let said = timeout(PATIENCE, message::read(&mut plain)).await.unwrap().unwrap();
    assert_eq!(message::error_texts(&said.body).0, "28000");

    // What comes unencrypted behind the question is taken for TLS, and is none (CVE-2021-23214).
    let mut sly = TcpStream::connect(pool.primary).await.unwrap();
    sly.write_all(&[SSL_REQUEST.as_slice(), &buffer].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, sly.read_to_end(&mut answer)).await.expect("it was left open").ok();
    assert_eq!(answer[0], b'S');
    assert!(!answer[1..].contains(&b'R') || answer[1] == 0x15, "an alert at most: {answer:?}");
}

#[tokio::test]
async fn whoever_says_nothing_takes_no_place() {
    let pool = Pool::start(&POOL, 1).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(pool.primary).await.unwrap());
        silent.push(TcpStream::connect(pool.read).await.unwrap());
    }
    let _unproved = pool.knock(pool.primary, &[("user", "app")]).await;
    assert!(echoes(&mut pool.connect(pool.primary).await.0).await);
}

#[tokio::test]
async fn a_front_that_is_shut_down_lets_sessions_finish() {
    let mut pool = Pool::start(&POOL, 100).await;
    let (mut idle, _) = pool.connect(pool.primary).await;
    let (mut busy, _) = pool.connect(pool.primary).await;
    busy.write_all(&encode(b'Q', b"")).await.unwrap();
    assert_eq!(message::read(&mut busy).await.unwrap().tag, b'Q');
    let mut unproved = pool.knock(pool.primary, &[("user", "app")]).await;
    assert_eq!(message::read(&mut unproved).await.unwrap().tag, b'R');
    pool.quit.take().unwrap().send(()).unwrap();
    while pool.health("/readyz").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
    let (mut latecomer, _) = pool.connect(pool.primary).await;
    assert!(echoes(&mut idle).await && echoes(&mut latecomer).await);
    drop(latecomer);
    // Who has nothing under way goes first, and knows that nothing was lost.
    let said = timeout(PATIENCE, message::read(&mut idle)).await.unwrap().unwrap();
    assert_eq!(message::error_texts(&said.body).0, "57P01");
    assert!(!String::from_utf8_lossy(&said.body).contains("committed or not"));
    drop(idle);
    assert!(echoes(&mut busy).await);
    let metrics = pool.health("/metrics").await;
    assert!(metrics.contains("pgpool_front_statements_total{route=\"primary\",node=\"0\"} 1\n"), "{metrics}");
    // Who stays to the end of the time is told so.
    let said = timeout(PATIENCE, message::read(&mut busy)).await.unwrap().unwrap();
    assert_eq!(message::error_texts(&said.body).0, "57P01");
    assert!(String::from_utf8_lossy(&said.body).contains("committed or not"));
    assert_eq!(ended(&mut unproved).await, "57P01");
    drop((busy, unproved));
    timeout(Duration::from_secs(10), &mut pool.running).await.expect("it waits for nobody").unwrap();
    assert!(TcpStream::connect(pool.primary).await.is_err());
}
