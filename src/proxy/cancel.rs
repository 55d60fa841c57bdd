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
    time::{Instant, timeout, timeout_at},
};

use super::{
    Front,
    node::{NodeError, Secure},
    peers,
    route::Kind,
    session::dial,
};

/// Time for one node to take a request; the client waits no longer.
const LIMIT: Duration = Duration::from_secs(2);
/// Requests for one session that its node has not taken yet; another one would say nothing new.
const PENDING: u32 = 4;
/// The first message that asks for it: its length, and the code.
const REQUEST: [u8; 8] = [0, 0, 0, 16, 4, 210, 22, 46];

/// Process and secret, as in BackendKeyData of protocol 3.0.
pub type Key = [u8; 8];

/// A session, as one who cancels sees it.
#[derive(Clone)]
struct Target {
    kind: Kind,
    node: u8,
    theirs: Key,
    cancels: Arc<Cancels>,
}

/// Requests that were passed on to a session (R12). A commit that waits for the other nodes and is cancelled counts all
/// the same, and PostgreSQL answers it with success: whatever follows a request is believed only behind a later commit
/// that was not cancelled.
#[derive(Debug, Default)]
pub struct Cancels(Mutex<Doubt>);

#[derive(Debug, Default)]
struct Doubt {
    /// A COMMIT is under way: nothing is passed on.
    committing: bool,
    /// Requests that are on their way.
    pending: u32,
    /// One was passed on during what is under way.
    passed: bool,
}

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, Doubt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next success may be that of a commit that was cancelled.
    pub fn cast_doubt(&self) -> bool {
        self.lock().passed
    }

    /// Says whether a COMMIT is under way.
    pub fn commits(&self, now: bool) {
        self.lock().committing = now;
    }

    /// Nothing is under way: a request that has arrived did what it could.
    pub fn done(&self) {
        let mut doubt = self.lock();
        doubt.passed = doubt.pending > 0;
    }

    /// A request was passed on.
    #[cfg(any(test, fuzzing))]
    pub fn cast(&self) {
        self.lock().passed = true;
    }

    /// A request may be passed on, as long as this is kept; none while a COMMIT is under way, or enough are on their way.
    fn leaves(self: &Arc<Self>) -> Option<Leaving> {
        let mut doubt = self.lock();
        if doubt.committing || doubt.pending == PENDING {
            return None;
        }
        doubt.pending += 1;
        doubt.passed = true;
        Some(Leaving(Arc::clone(self)))
    }
}

/// A request on its way to a node.
struct Leaving(Arc<Cancels>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut doubt = self.0.lock();
        doubt.pending = doubt.pending.saturating_sub(1);
        doubt.passed = true;
    }
}

/// The sessions of this front, by the keys that their clients have.
#[derive(Default)]
pub struct Keys(Mutex<HashMap<Key, Target>>);

impl Keys {
    /// A key for a new session of this kind, which is on this node under that key.
    pub fn register(self: &Arc<Self>, kind: Kind, node: u8, theirs: Key) -> Registered {
        let cancels = Arc::<Cancels>::default();
        let mut all = self.lock();
        let mut key = theirs;
        loop {
            key[4..].copy_from_slice(&rand::random::<[u8; 4]>());
            if let std::collections::hash_map::Entry::Vacant(place) = all.entry(key) {
                place.insert(Target { kind, node, theirs, cancels: Arc::clone(&cancels) });
                drop(all);
                return Registered { keys: Arc::clone(self), kind, key, cancels };
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: Key) -> Option<Target> {
        self.lock().get(&key).cloned()
    }

    /// Requests for this session that are on their way.
    #[cfg(test)]
    pub fn pending(&self, key: Key) -> u32 {
        self.find(key).map_or(0, |target| target.cancels.lock().pending)
    }
}

/// A session that can be cancelled, until this is dropped.
pub struct Registered {
    keys: Arc<Keys>,
    kind: Kind,
    /// What its client has.
    pub key: Key,
    /// The requests that were passed on.
    pub cancels: Arc<Cancels>,
}

impl Registered {
    /// The session is on another node now.
    pub fn points_to(&self, node: u8, theirs: Key) {
        let target = Target { kind: self.kind, node, theirs, cancels: Arc::clone(&self.cancels) };
        self.keys.lock().insert(self.key, target);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

/// The key of a request; none in what is no request of protocol 3.0.
pub fn key_of(message: &[u8]) -> Option<Key> {
    message.strip_prefix(&REQUEST)?.try_into().ok()
}

/// Passes a request on, and waits until the node has taken it.
pub async fn pass_on(front: &Front, message: &[u8]) {
    let Some(key) = key_of(message) else { return };
    // Whoever sends one has proved nothing, and each costs a connection: only so many at once. Those that are for a
    // session of this front don't wait for those that may be for none.
    let turns = if front.keys.find(key).is_some() { &front.cancels } else { &front.questions };
    let Ok(Ok(_turn)) = timeout(LIMIT, turns.acquire()).await else { return };
    if !here(front, key).await {
        peers::cancel(front, key).await;
    }
}

/// Passes a request on if it is for a session of this front; says whether it is.
pub async fn here(front: &Front, key: Key) -> bool {
    let Some(Target { kind, node, theirs, cancels }) = front.keys.find(key) else { return false };
    let Some(leaving) = cancels.leaves() else { return true };
    let until = Instant::now() + LIMIT;
    let sent = timeout_at(until, send(front, node, theirs)).await;
    let error = match sent {
        Ok(Ok(connection)) => {
            front.hub.metrics.cancelled(kind, node);
            // A node that is slow to take it takes it later, and then it strikes later.
            let taken = tokio::spawn(is_taken(connection, leaving));
            timeout_at(until, taken).await.ok();
            return true;
        }
        Ok(Err(error)) => error,
        Err(_) => NodeError::Late,
    };
    tracing::debug!(node, %error, "a cancel request did not get there");
    true
}

/// Says it to a node.
async fn send(front: &Front, index: u8, key: Key) -> Result<Secure, NodeError> {
    let mut node = dial(front, index).await?;
    node.write_all(&[REQUEST, key].concat()).await?;
    node.flush().await?;
    Ok(node)
}

/// Waits until a node has taken a request; until then what its session is told is doubted. PostgreSQL says nothing, and
/// closes once it has done it. How it closes is of no interest.
async fn is_taken(mut node: Secure, leaving: Leaving) {
    let _ = node.read(&mut [0]).await;
    drop(leaving);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(keys: &Keys, key: Key) -> Option<(u8, Key)> {
        keys.find(key).map(|target| (target.node, target.theirs))
    }

    #[test]
    fn a_key_is_known_as_long_as_its_session() {
        let keys = Arc::new(Keys::default());
        let register = || keys.register(Kind::Read, 1, *b"pid1key1");
        let (one, other) = (register(), register());
        assert_ne!(one.key, other.key);
        assert!(one.key.starts_with(b"pid1"));
        assert_eq!(found(&keys, one.key), Some((1, *b"pid1key1")));
        one.points_to(2, *b"pid2key2");
        assert_eq!(found(&keys, one.key), Some((2, *b"pid2key2")));
        assert_eq!(found(&keys, other.key), Some((1, *b"pid1key1")));
        let gone = one.key;
        drop(one);
        assert_eq!(found(&keys, gone), None);
        assert_eq!(found(&keys, *b"pid1key1"), None, "the node's own means nothing");
    }

    #[test]
    fn a_request_is_of_protocol_3_0_or_none() {
        let request = |key: &[u8]| {
            let length = u32::try_from(8 + key.len()).unwrap();
            [length.to_be_bytes().as_slice(), &REQUEST[4..], key].concat()
        };
        assert_eq!(key_of(&request(b"pid1key1")), Some(*b"pid1key1"));
        for other in [b"".as_slice(), b"pid1", b"pid1key12", &[7; 260]] {
            assert_eq!(key_of(&request(other)), None, "{other:?}");
        }
    }

    #[test]
    fn what_follows_a_request_is_doubted_until_it_has_arrived_and_the_next_answer_is_over() {
        let cancels = Arc::<Cancels>::default();
        assert!(!cancels.cast_doubt());
        let leaving = cancels.leaves().unwrap();
        cancels.done();
        assert!(cancels.cast_doubt(), "it may hit what comes next");
        drop(leaving);
        assert!(cancels.cast_doubt());
        cancels.done();
        assert!(!cancels.cast_doubt());
        cancels.commits(true);
        assert!(cancels.leaves().is_none(), "a COMMIT isn't disturbed");
        assert!(!cancels.cast_doubt());
        cancels.commits(false);
        let leaving: Vec<_> = (0..PENDING).map(|_| cancels.leaves().unwrap()).collect();
        assert!(cancels.leaves().is_none(), "enough are on their way");
        drop(leaving);
        assert!(cancels.leaves().is_some());
    }
}
