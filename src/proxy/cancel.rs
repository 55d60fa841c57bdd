//! Cancel requests (PostgreSQL documentation, "Canceling Requests in Progress").
//!
//! A client has a key of the front's own: its node's process, which programs compare with `pg_backend_pid()` and with
//! the sender of a notification, and a secret that no node knows. So the key stays when the session is moved. A request
//! may come to another front than the session's: what isn't known here is asked of the others.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Front, node::NodeError, peers, route::Kind, session::dial};

/// Time for one node to take a request.
const LIMIT: Duration = Duration::from_secs(2);
/// The first message that asks for it: its length, and the code.
const REQUEST: [u8; 8] = [0, 0, 0, 16, 4, 210, 22, 46];

/// Process and secret, as in BackendKeyData of protocol 3.0.
pub type Key = [u8; 8];

/// The node of a session, and by what its statements are cancelled there.
type Target = (u8, Key);

/// The sessions of this front, by the keys that their clients have.
#[derive(Debug, Default)]
pub struct Keys(Mutex<HashMap<Key, Target>>);

impl Keys {
    /// A key for a new session, which is on this node under that key.
    pub fn register(self: &Arc<Self>, node: u8, theirs: Key) -> Registered {
        let mut all = self.lock();
        let mut key = theirs;
        loop {
            key[4..].copy_from_slice(&rand::random::<[u8; 4]>());
            if let std::collections::hash_map::Entry::Vacant(place) = all.entry(key) {
                place.insert((node, theirs));
                drop(all);
                return Registered { keys: Arc::clone(self), key };
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: Key) -> Option<Target> {
        self.lock().get(&key).copied()
    }
}

/// A session that can be cancelled, until this is dropped.
#[derive(Debug)]
pub struct Registered {
    keys: Arc<Keys>,
    /// What its client has.
    pub key: Key,
}

impl Registered {
    /// The session is on another node now.
    pub fn points_to(&self, node: u8, theirs: Key) {
        self.keys.lock().insert(self.key, (node, theirs));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

/// Passes a request on, and waits until the node has taken it.
pub async fn pass_on(front: &Front, kind: Kind, message: &[u8]) {
    let Some(key) = message.strip_prefix(&REQUEST).and_then(|key| Key::try_from(key).ok()) else { return };
    // Whoever sends one has proved nothing, and each costs a connection: only so many at once.
    let Ok(Ok(_turn)) = timeout(LIMIT, front.cancels.acquire()).await else { return };
    front.hub.metrics.cancelled(kind);
    if !here(front, key).await {
        peers::cancel(front, key).await;
    }
}

/// Passes a request on if it is for a session of this front; says whether it is.
pub async fn here(front: &Front, key: Key) -> bool {
    let Some((node, theirs)) = front.keys.find(key) else { return false };
    match timeout(LIMIT, to_node(front, node, theirs)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(node, %error, "a cancel request did not get there"),
        Err(_) => tracing::debug!(node, "a node takes no cancel request"),
    }
    true
}

async fn to_node(front: &Front, index: u8, key: Key) -> Result<(), NodeError> {
    let mut node = dial(front, index).await?;
    node.write_all(&[REQUEST, key].concat()).await?;
    node.flush().await?;
    // PostgreSQL says nothing, and closes once it has done it. How it closes is of no interest.
    let _ = node.read(&mut [0]).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_as_long_as_its_session() {
        let keys = Arc::new(Keys::default());
        let (one, other) = (keys.register(1, *b"pid1key1"), keys.register(1, *b"pid1key1"));
        assert_ne!(one.key, other.key);
        assert!(one.key.starts_with(b"pid1"));
        assert_eq!(keys.find(one.key), Some((1, *b"pid1key1")));
        one.points_to(2, *b"pid2key2");
        assert_eq!(keys.find(one.key), Some((2, *b"pid2key2")));
        assert_eq!(keys.find(other.key), Some((1, *b"pid1key1")));
        let gone = one.key;
        drop(one);
        assert_eq!(keys.find(gone), None);
        assert_eq!(keys.find(*b"pid1key1"), None, "the node's own means nothing");
    }
}
