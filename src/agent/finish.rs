//! The end of the agent: a primary hands over, a standby leaves the record, Postgres stops in order.
use std::time::Duration;

use super::node::{IDLE, Node};
use super::server::Stop;
use super::switchover::Wanted;
use crate::api::v1alpha1::{Phase, Record, Timings};
use crate::clock::{self, Moment};
use crate::messages::Role;

/// Longest time for being removed before Postgres is stopped: the pod's grace period has to do for both.
const LEAVE: Duration = Duration::from_secs(5);
/// Tries to say that this primary has stopped, should others write the record meanwhile.
const WORDS: usize = 5;

impl Node {
    /// Stops Postgres because the pod is going. A standby first gets itself out of the record, so that nobody
    /// waits for it to be found silent.
    pub(super) async fn finish(mut self) {
        if self.role == Role::Primary {
            self.leave_office().await;
        }
        self.shared.lock().ending = true;
        self.shared.changed();
        if self.pg.is_none() {
            return;
        }
        self.say("stopping");
        // A node that was chosen and has not promoted yet is no standby any more: nobody could remove it.
        let chosen = self.record().is_some_and(|r| r.primary == self.me());
        let standby = self.role == Role::Standby && !chosen;
        let patience = self.timing(Timings::detach_after) * 2;
        let limit = clock::now().after(patience.min(LEAVE));
        if standby {
            self.leave(limit).await;
        }
        if let Err(error) = self.end_postgres(Stop::Fast).await {
            tracing::warn!(%error, "the record isn't waited for");
            return;
        }
        if standby {
            self.wait_until_removed(limit).await;
        } else {
            self.say_stopped().await;
        }
    }

    fn timing(&self, which: fn(&Timings) -> Duration) -> Duration {
        self.object.as_ref().map_or(IDLE, |(object, _)| which(&object.spec.timings))
    }

    /// A standby serves nobody any more, says that it leaves, and is removed while it still streams: no commit
    /// waits for it.
    async fn leave(&mut self, limit: Moment) {
        let Some(pg) = self.pg.as_mut() else { return };
        if let Err(error) = pg.shut(&self.conf).await {
            tracing::warn!(%error, "stops before it is removed");
            return;
        }
        {
            let mut inner = self.shared.lock();
            inner.report.open = false;
            inner.left = true;
        }
        self.shared.changed();
        self.wait_until_removed(limit).await;
        // The record comes before N (R1), and nobody tells a standby when PostgreSQL uses the shorter list.
        tokio::time::sleep(self.timing(Timings::heartbeat)).await;
    }

    /// The Postgres of the primary has ended with its pod: whoever is attached shall not have to find out.
    async fn say_stopped(&mut self) {
        for _ in 0..WORDS {
            self.stale = true;
            let read = self.read_record().await;
            let me = self.me();
            let in_office = |r: &Record| r.phase == Phase::Serving && r.primary == me && r.attached.len() > 1;
            if read.is_err() || self.stale || !self.record().is_some_and(in_office) {
                return;
            }
            if let Err(error) = self.depose_self(None, "its pod is being stopped").await {
                tracing::warn!(%error, "the others have to find out that this primary has stopped");
                return;
            }
        }
    }

    /// A primary hands over before it stops; where it can't, the others choose without its help.
    async fn leave_office(&mut self) {
        let Some(client) = self.shared.client() else { return };
        let wanted = Wanted { to: None, why: "its pod is being stopped".into(), ending: true };
        self.stale = true;
        let read = self.read_record().await;
        let handed = match read {
            Ok(()) => self.hand_over(&wanted, &client).await,
            Err(error) => Err(error),
        };
        match handed {
            Ok(Ok(())) => self.say_stopped().await,
            Ok(Err(why)) => tracing::info!(why, "nothing is handed over"),
            Err(error) => tracing::warn!(%error, "the handover failed"),
        }
    }

    /// Waits until the primary has removed this node, as long as it can.
    async fn wait_until_removed(&mut self, limit: Moment) {
        while clock::now() < limit && self.shared.lock().attached() {
            let serving = self.record().is_some_and(|r| r.phase == Phase::Serving && r.primary != self.me());
            if !serving {
                return;
            }
            let _ = tokio::time::timeout(IDLE, self.shared.wake.notified()).await;
            self.stale = true;
            if self.read_record().await.is_err() {
                return;
            }
        }
    }
}
