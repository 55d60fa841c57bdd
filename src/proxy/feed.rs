//! Hears what the nodes' agents say.
use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{abandoned::Abandoned, hub::Hub};
use crate::{
    clock,
    link::{Client, LinkError},
    messages::{Leftover, NodeReport},
    names,
};

/// Time for a connection and for an answer. A longer wait would outlast the usual lease.
const ANSWER: Duration = Duration::from_secs(1);
/// An agent says something at each heartbeat; after this silence its stream is taken for dead.
const SILENCE: Duration = Duration::from_secs(5);
/// Pauses before a stream is begun anew.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Pause between two looks for a node that the pool doesn't have.
const BEYOND: Duration = Duration::from_secs(30);
/// Leases are asked for a few times within their length, within these bounds.
pub const ASKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Between two tries to have sessions ended that were left.
const AGAIN: Duration = Duration::from_secs(1);
/// Questions within the length of a lease.
const ASKS_PER_LEASE: u32 = 5;

/// A node's agent: where it is and who it must be.
pub struct Agent {
    /// Index of the node.
    pub index: u8,
    /// Its host name.
    pub host: String,
    /// The pool that it must belong to.
    pub pool_uid: String,
    /// Host names of all nodes that there may be, by index.
    pub hosts: Arc<[String]>,
    /// Sessions that it may not know to be over.
    pub abandoned: Arc<Abandoned>,
    /// Bounds of the pause between two questions for its lease.
    pub asks: (Duration, Duration),
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{0} ended its stream")]
    Ended(String),
    #[error("{0} said nothing for {SILENCE:?}")]
    Silent(String),
    #[error("{host} says that it is node {index} of pool {uid}")]
    Other { host: String, index: u8, uid: String },
}

impl Agent {
    /// Follows the agent for ever. Of a node that the pool doesn't have, as far as is known, nothing is said.
    pub async fn follow(self, hub: Arc<Hub>, client: Client) {
        let mut nodes = hub.nodes();
        let mut pause = PAUSES.0;
        let mut last = String::new();
        loop {
            // Who said how many nodes there are may be behind.
            let _ = timeout(BEYOND, nodes.wait_for(|count| self.index < count.nodes)).await;
            let (heard, error) = Box::pin(self.listen(&hub, &client)).await;
            if heard {
                pause = PAUSES.0;
                last.clear();
            }
            let text = error.to_string();
            let count = *nodes.borrow();
            // Node 0 is always there; of others it is to be heard.
            let is_there = self.index == 0 || (count.told && self.index < count.nodes);
            if is_there && text != last {
                tracing::warn!(node = self.index, error = text, "a node isn't heard");
                last = text;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One connection, from its beginning to its end; true if anything was heard on it.
    async fn listen(&self, hub: &Hub, client: &Client) -> (bool, FeedError) {
        let opened = client.get_stream(&self.host, names::AGENT_PORT, "/v1/watch", ANSWER).await;
        let mut lines = match opened {
            Ok(lines) => pin!(lines),
            Err(error) => return (false, error.into()),
        };
        let mut heard = false;
        let changed = Notify::new();
        let mut last = None;
        let reading = async {
            loop {
                let line = timeout(SILENCE, lines.next()).await;
                let line = line.map_err(|_| FeedError::Silent(self.host.clone()))?;
                let line = line.ok_or_else(|| FeedError::Ended(self.host.clone()))?;
                let report: NodeReport = self.ours(line?)?;
                if !heard {
                    tracing::info!(node = self.index, "a node is heard");
                    heard = true;
                }
                hub.told(self.index, &report);
                self.pass_on(&report, client);
                // A lease comes only by a question: one that has just become possible isn't waited for.
                let now = Some((report.role, report.open, report.epoch));
                if std::mem::replace(&mut last, now) != now {
                    changed.notify_one();
                }
            }
        };
        let ended: Result<std::convert::Infallible, FeedError> = tokio::select! {
            ended = reading => ended,
            ended = self.ask(hub, client, &changed) => ended,
            never = self.tell(client) => match never {},
        };
        match ended {
            Err(error) => (heard, error),
        }
    }

    /// Where the primary sees its standbys: their names may be late.
    fn pass_on(&self, report: &NodeReport, client: &Client) {
        for replica in &report.replicas {
            if let (Some(host), Some(address)) = (self.hosts.get(usize::from(replica.index)), replica.address)
            {
                client.hint(host, address);
            }
        }
    }

    /// Asks for the lease again and again; only an agent of another pool ends this.
    async fn ask(
        &self,
        hub: &Hub,
        client: &Client,
        changed: &Notify,
    ) -> Result<std::convert::Infallible, FeedError> {
        let (shortest, longest) = self.asks;
        let mut pause = shortest;
        loop {
            let sent = clock::now();
            match client.get_json(&self.host, names::AGENT_PORT, "/v1/report", ANSWER).await {
                Ok(report) => {
                    let report: NodeReport = self.ours(report)?;
                    hub.answered(self.index, &report, sent);
                    pause =
                        (Duration::from_millis(report.lease_ms) / ASKS_PER_LEASE).clamp(shortest, longest);
                }
                Err(error) => tracing::debug!(node = self.index, %error, "a node doesn't answer"),
            }
            // Either is a reason to ask again.
            let _ = timeout(pause, changed.notified()).await;
        }
    }

    /// Says which sessions were left, until they are gone.
    async fn tell(&self, client: &Client) -> std::convert::Infallible {
        loop {
            let sessions = self.abandoned.of(self.index).await;
            let told =
                client.post_json(&self.host, names::AGENT_PORT, "/v1/abandoned", &sessions, ANSWER).await;
            match told {
                Ok(Leftover { busy, .. }) => {
                    self.abandoned.is_heard(self.index, &sessions, &busy);
                    if !busy.is_empty() {
                        sleep(AGAIN).await;
                    }
                }
                // Its agent is older and knows no such call.
                Err(error) if error.is_not_found() => self.abandoned.is_heard(self.index, &sessions, &[]),
                Err(error) => {
                    tracing::debug!(node = self.index, %error, "a node isn't told of sessions that were left");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    fn ours(&self, report: NodeReport) -> Result<NodeReport, FeedError> {
        if report.index == self.index && report.pool_uid == self.pool_uid {
            return Ok(report);
        }
        Err(FeedError::Other { host: self.host.clone(), index: report.index, uid: report.pool_uid })
    }
}
