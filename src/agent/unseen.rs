//! A standby that gives no session, not even to this agent ([`crate::membership::unseen`]): how it is voted for, and promoted.
use std::fs;
use std::time::Duration;

use super::node::{Next, Node, StepError};
use super::postgres::PostgresError;
use super::server::PROMOTE;
use super::volume::VolumeError;
use crate::api::v1alpha1::{Phase, Record};
use crate::clock;
use crate::membership::unseen::{Unseen, UnseenView, unseen};
use crate::messages::{Role, Standing};

impl Node {
    /// A running standby has given no session. `replaying` says that it replays and lets nobody in.
    pub(super) async fn without_session(
        &mut self,
        record: &Record,
        replaying: bool,
    ) -> Result<Next, StepError> {
        if record.phase == Phase::Electing {
            self.note_election(record);
        } else if record.primary != self.me() {
            if self.followed != Some((record.primary, record.timeline)) {
                // What it has may go past the fork: that is looked at with Postgres stopped (R8, R9).
                return self.stop_and_think("another primary is in office").await;
            }
            if replaying {
                self.follow_address(record).await?;
            }
        }
        match self.unseen_action(record) {
            Unseen::Wait => Ok(Next::Wait),
            Unseen::Watch => Ok(self.watch_primary(record).await?.unwrap_or(Next::Wait)),
            Unseen::Promote => self.promote_unseen(record, replaying).await,
            Unseen::Stand => self.vote_as_primary(record, Standing::Stopped).await,
            Unseen::Vote => self.count(record).await,
            Unseen::StopToVote => {
                self.election.iter_mut().for_each(|election| election.unseen = true);
                // That says nothing of its data.
                self.failed_starts = 0;
                self.stop_and_think(
                    "a primary is being chosen and postgres gives no session: stopped to vote",
                )
                .await
            }
        }
    }

    /// Has a Postgres that replays look for its primary where that is now. Whether it has read its files nothing can show, nor whether
    /// it gets WAL: a primary that is found elsewhere than before gives it none.
    async fn follow_address(&mut self, record: &Record) -> Result<(), StepError> {
        self.ask_primary(record);
        if !self.finds_primary_elsewhere(record.primary) {
            return Ok(());
        }
        let Some(member) = self.shared.lock().member.clone() else { return Ok(()) };
        let (Some(config), Some(programs)) = (self.config(&member, Role::Standby), self.programs.clone())
        else {
            return Ok(());
        };
        self.conf.write(config, &programs, &self.volume.data()).await?;
        if let Some(pg) = self.pg.as_ref().filter(|_| self.conf.owed) {
            pg.server.reload().map_err(PostgresError::from)?;
            self.conf.owed = false;
        }
        Ok(())
    }

    fn unseen_action(&self, record: &Record) -> Unseen {
        let Some(patience) = self.object.as_ref().map(|(object, _)| object.spec.timings.detach_after())
        else {
            return Unseen::Wait;
        };
        let waited = self.election.as_ref().map_or(Duration::ZERO, |e| clock::now().since(e.since));
        let inner = self.shared.lock();
        let Some(me) = inner.member.as_ref() else { return Unseen::Wait };
        let voted = inner.own_vote(record.epoch).is_some();
        unseen(&UnseenView { record, me, voted, waited, patience })
    }

    /// Whether it was stopped to vote in the election that the record speaks of: it is started again when that is over.
    pub(super) fn votes_unseen(&self) -> bool {
        self.election
            .as_ref()
            .is_some_and(|election| election.unseen && self.record() == Some(&election.record))
    }

    /// Votes with Postgres stopped. All that was acknowledged is in this copy's WAL, and it receives nothing.
    pub(super) async fn vote_unseen(&mut self) -> Result<Next, StepError> {
        let Some(record) = self.record().cloned() else { return Ok(Next::Wait) };
        self.note_election(&record);
        if self.shared.lock().own_vote(record.epoch).is_none() {
            let Some(end) = self.end_of_wal().await? else {
                self.call_person(
                    "a primary is being chosen: this node counts, its Postgres gives no session, and the end of its WAL \
                     can't be told, so it can't vote",
                );
                return Ok(Next::Wait);
            };
            self.cast(&record, Standing::Standby, record.timeline, end);
        }
        self.say("a primary is being chosen: votes with its Postgres stopped, which gave no session");
        self.count(&record).await
    }

    /// Where the valid WAL of the stopped copy ends.
    async fn end_of_wal(&mut self) -> Result<Option<u64>, StepError> {
        let Some(control) = self.control().await? else { return Ok(None) };
        let held = self.held_timeline(u32::MAX)?;
        let newest = control.newest_timeline(held);
        let history = self.streamed_history(newest).unwrap_or_default();
        let end = self.wal_end(newest, control.looked_from(held, &history)).await?;
        // Less than what its data needs is no end.
        Ok(end.filter(|end| *end >= control.min_recovery_end.max(control.redo)))
    }

    /// Promotes the copy that was chosen. PostgreSQL replays all that there is first. N still has the name of nobody in it: no
    /// commit is acknowledged until the office is taken in order. Others that are attached have to hear meanwhile that
    /// somebody is there; not for ever, since they could do it, too.
    async fn promote_unseen(&mut self, record: &Record, replaying: bool) -> Result<Next, StepError> {
        // The only node that is left may take as long as it needs.
        let others = record.attached.len() > 1;
        if others {
            let begun = self.chosen_since(record.epoch);
            if let Some(next) = self.give_up_office(begun).await? {
                return Ok(next);
            }
        }
        if !replaying || !self.promotes_first(record.timeline) {
            return Ok(Next::Wait);
        }
        if others {
            self.begin_office(record)?;
        }
        let told = self.tell_to_promote(record);
        if told.is_err() {
            // It wasn't told: the next step tries again.
            self.promoting = None;
        }
        told.map(|()| Next::Wait)
    }

    fn tell_to_promote(&self, record: &Record) -> Result<(), StepError> {
        let Some(pg) = &self.pg else { return Ok(()) };
        tracing::info!(timeline = record.timeline, "promotes a copy that gives no session");
        self.make_room(record.timeline)?;
        let path = self.volume.data().join(PROMOTE);
        fs::write(&path, b"").map_err(|source| VolumeError::File { path, source })?;
        Ok(pg.server.promote().map_err(PostgresError::from)?)
    }
}
