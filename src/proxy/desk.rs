//! What the front asks the nodes' agents about logins, and what it remembers of nodes that take none.
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use super::node::NodeError;
use crate::{
    link::{Client, LinkError},
    messages::{LoginAnswer, LoginQuestion},
    names::{self, MAX_NODES},
};

/// Time for an answer of a node's agent.
const ANSWER: Duration = Duration::from_secs(1);
/// Questions that a node's agent is asked at once. Whoever asks has proved nothing yet, and the agent has leases to
/// give.
const AT_ONCE: usize = 8;

/// Asks by connections of its own, so that a crowd of logins delays no question for a lease.
pub struct Desk {
    link: Client,
    /// By node.
    turns: Vec<Semaphore>,
    /// Why nodes took no login, the last time.
    said: Mutex<BTreeMap<u8, String>>,
}

impl Desk {
    /// Asks by connections like those of `link`.
    pub fn new(link: Client) -> Self {
        let turns = (0..MAX_NODES).map(|_| Semaphore::new(AT_ONCE)).collect();
        Self { link, turns, said: Mutex::default() }
    }

    /// Asks a node's agent what is stored of a role's password.
    pub async fn verifier(
        &self,
        index: u8,
        host: &str,
        question: &LoginQuestion,
    ) -> Result<LoginAnswer, LinkError> {
        let late =
            || LinkError::Timeout { host: host.to_owned(), path: "/v1/login".to_owned(), after: ANSWER };
        // A semaphore that is never closed gives a turn, or time runs out.
        let turn = match self.turns.get(usize::from(index)) {
            Some(turns) => timeout(ANSWER, turns.acquire()).await.map_err(|_| late())?.ok(),
            None => None,
        };
        let answer = self.link.post_json(host, names::AGENT_PORT, "/v1/login", question, ANSWER).await;
        drop(turn);
        answer
    }

    /// A node has taken a login.
    pub fn takes_logins(&self, index: u8) {
        if self.said().remove(&index).is_some() {
            tracing::info!(node = index, "a node takes logins again");
        }
    }

    /// A node has taken no login for reasons of its own; said once for each reason.
    pub fn refuses_logins(&self, index: u8, error: &NodeError) {
        let error = error.to_string();
        let news = self.said().insert(index, error.clone()).is_none_or(|former| former != error);
        if news {
            tracing::warn!(node = index, error, "a node takes no login");
        }
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<u8, String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
