//! The end of the agent: a primary hands over, Postgres stops in order, a standby waits until the record is without it.
use super::node::{IDLE, Node};
use super::server::Stop;
use super::switchover::Wanted;
use crate::clock;
use crate::messages::Role;

impl Node {
    /// Stops Postgres because the pod is going. A standby then answers beats with that until it is removed, so that
    /// nobody waits for it to be found silent.
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
        // One that was chosen is the primary, though it may not have taken office.
        let chosen = self.record().is_some_and(|record| record.primary == self.me());
        let standby = self.role == Role::Standby && !chosen;
        if let Err(error) = self.end_postgres(Stop::Fast).await {
            tracing::warn!(%error, "the record isn't waited for");
            return;
        }
        if standby {
            self.wait_until_removed().await;
        } else {
            self.say_stopped().await;
        }
    }

    /// The Postgres of the primary has ended with its pod: whoever is attached shall not have to find out.
    async fn say_stopped(&mut self) {
        self.stale = true;
        let read = self.read_record().await;
        let alone = self.record().is_none_or(|record| record.attached.len() < 2);
        if read.is_err() || self.stale || alone || self.is_held() {
            return;
        }
        if let Err(error) = self.give_word(&Wanted::for_the_pod()).await {
            tracing::warn!(%error, "the others have to find out that this primary has stopped");
        }
    }

    /// A primary hands over before it stops; where it can't, the others choose without its help.
    async fn leave_office(&mut self) {
        let Some(client) = self.shared.client() else { return };
        self.stale = true;
        let read = self.read_record().await;
        let handed = match read {
            Ok(()) if self.is_held() => Ok(Err("the record is held as it is".to_owned())),
            Ok(()) => self.hand_over(&Wanted::for_the_pod(), &client).await,
            Err(error) => Err(error),
        };
        match handed {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::info!(why, "nothing is handed over"),
            Err(error) => tracing::warn!(%error, "the handover failed"),
        }
    }

    /// Whether the record shall stay as it is: the pool is being deleted, and its volumes stay. Whoever left it now would be
    /// said to lack commits that it has.
    fn is_held(&self) -> bool {
        self.object.as_ref().is_some_and(|(object, _)| object.spec.suspend)
    }

    async fn wait_until_removed(&mut self) {
        let patience =
            self.object.as_ref().map_or(IDLE, |(object, _)| object.spec.timings.detach_after() * 2);
        let limit = clock::now().after(patience);
        while clock::now() < limit && self.shared.lock().attached() && !self.is_held() {
            let _ = tokio::time::timeout(IDLE, self.shared.wake.notified()).await;
            self.stale = true;
            if self.read_record().await.is_err() {
                return;
            }
        }
    }
}
