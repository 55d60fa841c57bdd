//! What a node says moves clients on by itself, at once: nothing here comes by looking again after a while, which in these
//! tests is done once an hour.
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const NEVER: Intervals = Intervals { asks: (HOUR, HOUR), look: HOUR };

async fn pool(roles: &[Role]) -> Arc<Pool> {
    Arc::new(Pool::at(roles, 100, None, Limits::default(), NEVER).await)
}

/// A client that waits for a primary; then the node that it has come to.
async fn held(pool: &Arc<Pool>, before: u32) -> JoinHandle<u8> {
    let waits = Arc::clone(pool);
    let client = tokio::spawn(async move { waits.connect(waits.primary).await.1 });
    pool.counts(&format!("pgpool_front_held_total{{route=\"primary\"}} {}", before + 1)).await;
    client
}

/// Waits until somebody is let in at the primary.
async fn has_a_primary(pool: &Pool) {
    let mut changes = pool.hub.changes();
    while pool.hub.take(Kind::Primary, &[]).is_none() {
        timeout(PATIENCE, changes.changed()).await.expect("it goes on").unwrap();
    }
}

/// How soon is printed; how soon it has to be is for `cargo xtask bench failover`, on a machine that does nothing else.
#[tokio::test]
async fn a_front_follows_what_the_agents_say() {
    let pool = pool(&[Role::Primary, Role::Standby]).await;
    let (mut shut, mut opened) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..20 {
        let then = clock::now();
        pool.say(0, |said| said.open = false);
        pool.has_no_primary().await;
        shut = shut.max(clock::now().since(then));
        let then = clock::now();
        pool.say(0, |said| said.open = true);
        has_a_primary(&pool).await;
        opened = opened.max(clock::now().since(then));
    }
    println!("known at the latest after {shut:?} that a gate was shut, after {opened:?} that it was opened");
}

#[tokio::test]
async fn a_held_client_goes_on_when_a_node_says_that_it_is_the_primary() {
    let pool = pool(&[Role::Standby, Role::Standby]).await;
    for (round, node) in (0..).zip([0_u8, 1, 0]) {
        let client = held(&pool, round).await;
        let (new, old) = (usize::from(node), usize::from(1 - node));
        let epoch = 4 + i64::from(round);
        pool.say(new, |said| (said.role, said.epoch, said.open) = (Role::Primary, epoch, true));
        assert_eq!(timeout(PATIENCE, client).await.expect("it is still held").unwrap(), node);
        // It leaves its office, and nobody has taken it yet.
        pool.say(new, |said| (said.role, said.open) = (Role::Stopped, false));
        pool.say(old, |said| said.epoch = epoch);
        timeout(PATIENCE, pool.has_no_primary()).await.unwrap();
    }
}

#[tokio::test]
async fn a_gate_that_opens_lets_a_held_client_through() {
    let pool = pool(&[Role::Primary, Role::Standby]).await;
    pool.say(0, |said| said.open = false);
    pool.has_no_primary().await;
    let client = held(&pool, 0).await;
    // A lease by itself opens nothing, nor does an epoch.
    pool.say(0, |said| said.epoch = 4);
    pool.say(1, |said| said.epoch = 4);
    assert!(!client.is_finished());
    pool.say(0, |said| said.open = true);
    assert_eq!(timeout(PATIENCE, client).await.expect("it is still held").unwrap(), 0);
}

#[tokio::test]
async fn a_session_that_waits_goes_on_at_the_next_primary() {
    let pool = pool(&[Role::Primary, Role::Standby]).await;
    let (mut session, node) = pool.connect(pool.primary).await;
    assert_eq!(node, 0);
    pool.say(0, |said| said.draining = true);
    // Before the front has heard of it, the node would be asked.
    pool.counts("pgpool_front_sessions_held_total{route=\"primary\",node=\"0\",reason=\"leaving\"} 1").await;
    session.write_all(&encode(b'Q', b"INSERT 0 1\0")).await.unwrap();
    pool.say(0, |said| (said.role, said.open) = (Role::Stopped, false));
    pool.say(1, |said| (said.role, said.epoch) = (Role::Primary, 5));
    assert_eq!(settled(&mut session).await, 1);
    assert_eq!((hear(&mut session).await.tag, hear(&mut session).await.tag), (b'C', b'Z'));
}
