//! Two fronts of one pool: a client's request may come to either.
use super::{moves::cancel, *};
use crate::messages::{CancelAnswer, CancelQuestion};

/// What the nodes have heard since this was looked at.
fn heard(pool: &Pool) -> Vec<Vec<u8>> {
    pool.nodes.iter().flat_map(|node| std::mem::take(&mut *node.heard.lock().unwrap())).collect()
}

#[tokio::test]
async fn a_cancel_request_finds_its_session_at_another_front() {
    let (one, other) = Pool::pair(&POOL).await;
    let ways = [(&one, &other, one.read, "read"), (&other, &one, other.primary, "primary")];
    for (owner, asked, to, route) in ways {
        let (_session, node, key) = owner.log_in(to).await;
        cancel(asked, key).await;
        let counted = format!("pgpool_front_cancels_total{{route=\"{route}\",node=\"{node}\"}}");
        owner.counts(&format!("{counted} 1")).await;
        // Its node ends the connection once it has heard.
        owner.has_passed_on(key).await;
        let request = [&[0, 0, 0, 16, 4, 210, 22, 46], [0, 0, 0, node, 7, 7, 7, 7].as_slice()].concat();
        assert_eq!(heard(&one), [request], "once, and with the key that the node has given");
        let metrics = asked.health("/metrics").await;
        assert!(metrics.contains(&format!("{counted} 0\n")), "it has only asked: {metrics}");
    }
    // One that neither knows is asked of both, and of no node.
    for asked in [&one, &other] {
        cancel(asked, [0, 0, 0, 0, 7, 7, 7, 7]).await;
    }
    assert!(heard(&one).is_empty());
}

#[tokio::test]
async fn only_a_front_may_have_a_front_cancel_anything() {
    let pool = Pool::start(&POOL, 100).await;
    let (_session, node, key) = pool.log_in(pool.primary).await;
    let ask = async |who: &str| {
        let (identity, _dir) = pool.site.authority.identity(who, &[]);
        let book = Book::Fixed(Arc::new(HashMap::from([(PEERS.to_owned(), pool.peers)])));
        let (client, question) = (Client::with_book(identity, book), CancelQuestion { key });
        let answer = client.post_json(PEERS, names::AGENT_PORT, "/v1/cancel", &question, PATIENCE).await;
        answer.map(|CancelAnswer { known }| known)
    };
    let counted = format!("pgpool_front_cancels_total{{route=\"primary\",node=\"{node}\"}}");
    for who in ["u/node/0", "u/node/1", "u/recovery", "u/operator"] {
        let refused = ask(who).await.unwrap_err();
        assert!(matches!(refused, LinkError::Status { status: 403, .. }), "{who}: {refused}");
    }
    assert!(heard(&pool).is_empty());
    assert!(pool.health("/metrics").await.contains(&format!("{counted} 0\n")));
    assert!(ask("u/proxy").await.unwrap());
    pool.counts(&format!("{counted} 1")).await;
}
