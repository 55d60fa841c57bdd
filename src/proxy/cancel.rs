//! Cancel requests (PostgreSQL documentation, "Canceling Requests in Progress").
//!
//! A client has the key that its node gave it, and whichever front its request comes to passes it on to every node that
//! the session may be on: there the key fits one session or none.
use std::time::Duration;

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Front, node::NodeError, route::Kind, session::dial};

/// Time for one node to take a request.
const LIMIT: Duration = Duration::from_secs(2);

/// Passes a request on, and waits until the nodes have taken it.
pub async fn pass_on(front: &Front, kind: Kind, message: &[u8]) {
    // Whoever sends one has proved nothing, and each costs a login at every node: only so many at once.
    let Ok(Ok(_turn)) = timeout(LIMIT, front.cancels.acquire()).await else { return };
    front.hub.metrics.cancelled(kind);
    let one = async |index: u8| {
        let passed = timeout(LIMIT, to_node(front, index, message)).await;
        if let Ok(Err(error)) = passed {
            tracing::debug!(node = index, %error, "a cancel request did not get there");
        }
    };
    join_all(front.hub.serving(kind).into_iter().map(one)).await;
}

async fn to_node(front: &Front, index: u8, message: &[u8]) -> Result<(), NodeError> {
    let mut node = dial(front, index).await?;
    node.write_all(message).await?;
    node.flush().await?;
    // PostgreSQL says nothing, and closes once it has done it. How it closes is of no interest.
    let _ = node.read(&mut [0]).await;
    Ok(())
}
