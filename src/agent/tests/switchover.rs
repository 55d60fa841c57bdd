//! What forbids a handover: `minAttached` does where somebody wishes one (R15), and never where the pod is being stopped.
use super::*;
use crate::agent::switchover::Wanted;

/// Node 0 in office over these, in a pool that shall keep two.
async fn primary(attached: &[u8]) -> (Api, Agent) {
    let mut pool = object(Some(serving(attached)));
    pool.spec.min_attached = 2;
    let api = Api::start(pool).await;
    let mut agent = Agent::new(0, &api);
    agent.read().await;
    (api, agent)
}

/// A handover to node 1.
fn wanted(ending: bool) -> Wanted {
    Wanted { to: Some(1), why: "a test".to_owned(), ending }
}

#[tokio::test]
async fn too_few_nodes_forbid_a_wished_handover_and_none_before_a_stop() {
    let (_api, agent) = primary(&[0, 1]).await;
    let why = agent.node.cannot(&wanted(false)).unwrap();
    assert!(why.contains("minAttached (2)"), "{why}");
    assert_eq!(agent.node.cannot(&wanted(true)), None, "the node goes either way");
    let (_api, agent) = primary(&[0, 1, 2]).await;
    for ending in [false, true] {
        assert_eq!(agent.node.cannot(&wanted(ending)), None, "two stay: {ending}");
    }
}
