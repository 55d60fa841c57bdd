//! Sessions that were broken off, until their nodes know.
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{cancel::Key, node};
use crate::messages::AbandonedSession;

/// Of one node so many are remembered; the oldest are forgotten first.
const MOST: usize = 10_000;

/// A session at a node, as the node itself would find it; none where its connection is gone already.
pub fn session(node: &node::Secure, boot: &str, key: Key) -> Option<AbandonedSession> {
    let [a, b, c, d, ..] = key;
    let port = node.get_ref().0.local_addr().ok()?.port();
    Some(AbandonedSession { boot: boot.to_owned(), pid: i32::from_be_bytes([a, b, c, d]), port })
}

/// What is still to be said to the nodes.
#[derive(Default)]
pub struct Abandoned {
    sessions: Mutex<BTreeMap<u8, VecDeque<AbandonedSession>>>,
    news: watch::Sender<()>,
}

impl Abandoned {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, VecDeque<AbandonedSession>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Node `index` has to hear that this session is over.
    pub fn note(&self, index: u8, session: AbandonedSession) {
        let mut all = self.lock();
        let sessions = all.entry(index).or_default();
        if sessions.len() == MOST {
            sessions.pop_front();
        }
        sessions.push_back(session);
        drop(all);
        self.news.send_replace(());
    }

    /// What node `index` has to hear, as soon as there is anything.
    pub async fn of(&self, index: u8) -> Vec<AbandonedSession> {
        let mut news = self.news.subscribe();
        loop {
            let sessions: Vec<AbandonedSession> =
                self.lock().get(&index).into_iter().flatten().cloned().collect();
            if !sessions.is_empty() {
                return sessions;
            }
            // The sender is this one's own.
            let _ = news.changed().await;
        }
    }

    /// Node `index` has heard this; these processes of it are still busy.
    pub fn is_heard(&self, index: u8, heard: &[AbandonedSession], busy: &[i32]) {
        if let Some(sessions) = self.lock().get_mut(&index) {
            sessions.retain(|session| busy.contains(&session.pid) || !heard.contains(session));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_is_told_what_it_has_not_heard() {
        let abandoned = Abandoned::default();
        let session = |pid| AbandonedSession { boot: "b".to_owned(), pid, port: 4000 };
        abandoned.note(1, session(7));
        abandoned.note(2, session(8));
        let told = abandoned.of(1).await;
        assert_eq!(told, [session(7)]);
        abandoned.note(1, session(9));
        abandoned.is_heard(1, &told, &[7]);
        assert_eq!(abandoned.of(1).await, [session(7), session(9)], "one is still busy");
        abandoned.is_heard(1, &told, &[]);
        assert_eq!(abandoned.of(1).await, [session(9)]);
        for pid in 0..=10_000 {
            abandoned.note(2, session(pid));
        }
        let told = abandoned.of(2).await;
        assert_eq!((told.len(), told[0].pid), (MOST, 1), "the oldest are forgotten");
    }
}
