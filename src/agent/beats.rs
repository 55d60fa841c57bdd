//! The primary's beats to the other nodes (R3, R4): one at a time to each.
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::shared::Shared;
use super::sql;
use crate::clock;
use crate::link::Client;
use crate::messages::{Answer, Beat};
use crate::names;

/// The beats of one node's time as a primary; they end with this.
pub struct Beats {
    tasks: Vec<JoinHandle<()>>,
    /// What they were started with; other values need others.
    pub key: (String, u8, u32),
}

impl Drop for Beats {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts beating every other node each `heartbeat_ms`.
pub fn start(shared: &Arc<Shared>, link: &Client, domain: &str, nodes: u8, heartbeat_ms: u32) -> Beats {
    let others = (0..nodes).filter(|k| *k != shared.env.index);
    let tasks = others
        .map(|index| {
            let host = names::node_host(&shared.env.pool, index, domain);
            tokio::spawn(run(Arc::clone(shared), link.clone(), host, index, heartbeat_ms))
        })
        .collect();
    Beats { tasks, key: (domain.to_owned(), nodes, heartbeat_ms) }
}

async fn run(shared: Arc<Shared>, link: Client, host: String, index: u8, heartbeat_ms: u32) {
    let mut ticks = interval(Duration::from_millis(u64::from(heartbeat_ms)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        one(&shared, &link, &host, index).await;
    }
}

/// The flush position, read now: after the answer whose stamp the next beat echoes.
async fn flush_lsn(shared: &Shared) -> Option<u64> {
    let client = shared.client()?;
    let question = client.ask_one("SELECT pg_current_wal_flush_lsn()::text AS flush");
    let row = sql::within(question).await.ok()?;
    sql::position(&row, "flush")
}

async fn one(shared: &Shared, link: &Client, host: &str, index: u8) {
    let flush = flush_lsn(shared).await;
    let sent = clock::now();
    if flush.is_some() {
        shared.lock().postgres_seen = sent;
    }
    // Noted as sent before it goes out: from then on its lease counts as given.
    let Some(beat) = shared.lock().beat_for(sent, index, flush) else { return };
    let limit = Duration::from_millis(u64::from(beat.lease_ms));
    match link.post_json::<Beat, Answer>(host, names::AGENT_PORT, "/v1/beat", &beat, limit).await {
        Ok(answer) if answer.pool_uid == beat.pool_uid && answer.index == index => {
            if shared.lock().answered(sent, &beat, answer) {
                shared.wake.notify_one();
            }
        }
        Ok(_) => tracing::warn!(index, "a beat was answered by somebody else"),
        Err(error) => tracing::debug!(index, %error, "beat"),
    }
}
