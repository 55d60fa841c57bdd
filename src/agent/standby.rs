//! A running standby: follows, says how far it is, lets clients in under a read lease (R3).
use std::sync::Arc;
use std::time::Duration;

use super::node::{Next, Node, StepError};
use super::observe;
use super::server::Stop;
use super::sql::Client;
use crate::api::v1alpha1::{Phase, Record};
use crate::clock::{self, Moment};
use crate::membership::standby::{StandbyAction, StandbyView, next};
use crate::messages::{Join, Role, Standing};

/// A detached standby that has got no WAL for so long, from anywhere, lacks some that nobody has any more.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// After so long its files are looked at again, once.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Slots and parameters are looked at this often.
const HOUSE_EVERY: Duration = Duration::from_secs(5);

/// How long a standby has got no WAL.
#[derive(Clone, Copy, Debug)]
pub struct Stuck {
    /// Since when.
    since: Moment,
    /// How far it had applied then.
    replay: Option<u64>,
    /// Whether that was long enough to look in the archives.
    lacks_wal: bool,
}

impl Node {
    /// One look at a running standby.
    pub(super) async fn standby_step(&mut self) -> Result<Next, StepError> {
        let Some(record) = self.record().cloned() else { return Ok(Next::Wait) };
        if self.is_fenced() {
            return self.stop_and_think("fenced by wish").await;
        }
        let attached = self.shared.lock().attached();
        let Some(pg) = self.pg.as_mut() else { return Ok(Next::Wait) };
        if pg.is_silent() && !attached {
            // That says nothing of its data.
            self.failed_starts = 0;
            return self.stop_and_think("postgres doesn't answer").await;
        }
        let Some(client) = pg.client().await else {
            if pg.is_broken() {
                self.failed_starts = super::start::BROKEN_AFTER;
                return self.stop_and_think("no session can be made: the data can't be read").await;
            }
            let replaying = pg.is_replaying();
            self.say_starting();
            return self.without_session(&record, replaying).await;
        };
        self.failed_starts = 0;
        self.shared.set_client(Some(client.clone()));
        let facts = observe::standby(&client).await?;
        let backups = observe::backups(&client).await?;
        {
            let mut inner = self.shared.lock();
            inner.report.streaming = facts.streaming;
            inner.report.timeline = facts.timeline;
            inner.report.lsn = facts.replay;
            inner.report.lag_ms = Some(facts.lag_ms);
            inner.report.backups = backups;
        }
        self.shared.lock().postgres_seen = clock::now();
        if let Some(next) = self.follow_office(&record, &client).await? {
            return Ok(next);
        }
        if self.notice_stuck(facts.streaming, facts.replay) {
            return self.stop_and_think("it gets no WAL: whether it may follow is looked at anew").await;
        }
        self.note_lineage(&record, &facts)?;
        self.keep_house(&record, &client).await?;
        if !facts.streaming {
            self.ask_primary(&record);
        }
        if let Some(next) = self.watch_primary(&record).await? {
            return Ok(next);
        }
        self.follow_settings(&record).await?;
        if self.wants_restart() {
            return self.restart_postgres("a restart was asked for").await;
        }
        self.move_gate(&record).await
    }

    /// What the record's office means for a running standby; none when it goes on as it is.
    async fn follow_office(
        &mut self,
        record: &Record,
        client: &Arc<Client>,
    ) -> Result<Option<Next>, StepError> {
        let attached = self.shared.lock().attached();
        let office = Some((record.primary, record.timeline));
        if record.phase == Phase::Electing {
            // The time of an election, in which nobody gives WAL, says nothing of the primary that comes of it.
            self.stuck = None;
            let voter = record.primary != self.me();
            return match (attached, voter) {
                (true, true) => Ok(Some(self.vote_as_standby(record, client).await?)),
                // Chosen before, and deposed again before it could take office.
                (true, false) => Ok(Some(self.vote_as_primary(record, Standing::Stopped).await?)),
                (false, _) => Ok(None),
            };
        }
        if record.primary == self.me() {
            return Ok(Some(self.take_office(record, client).await?));
        }
        if self.followed == office {
            return Ok(None);
        }
        if !attached {
            // What it has may go past the fork: that is looked at with Postgres stopped (R8, R9).
            return Ok(Some(self.stop_and_think("another primary is in office").await?));
        }
        // Before anything is fetched from an archive: the old primary's may go past the fork.
        self.extend_lineage(record)?;
        self.followed = office;
        Ok(None)
    }

    /// Slots for the day on which it takes office, and parameters that wait for a restart.
    async fn keep_house(&mut self, record: &Record, client: &Client) -> Result<(), StepError> {
        let now = clock::now();
        let Some(nodes) = self.object.as_ref().map(|(object, _)| object.spec.nodes) else { return Ok(()) };
        if now.since(self.slots_at) < HOUSE_EVERY {
            return Ok(());
        }
        debug_assert_ne!(record.primary, self.me());
        super::slots::release(client).await?;
        super::slots::ensure(client, self.me(), nodes, false).await?;
        // The primary may have been restarted with less: only then may this node have less, too.
        self.control().await?;
        let pending = observe::pending_restart(client).await?;
        self.note_parameters(pending, Vec::new());
        self.slots_at = now;
        Ok(())
    }

    /// Whether this node's Postgres shall not run.
    pub(super) fn is_fenced(&self) -> bool {
        let wished = self.object.as_ref().is_some_and(|(object, _)| object.spec.fenced.contains(&self.me()));
        wished && !self.shared.lock().attached()
    }

    /// Whether this very start of Postgres shall end.
    pub(super) fn wants_restart(&self) -> bool {
        let wish = self.object.as_ref().and_then(|(object, _)| object.spec.restart.as_ref());
        let boot = self.pg.as_ref().map(|pg| &pg.boot);
        wish.is_some_and(|w| w.node == self.me() && Some(&w.boot) == boot)
    }

    /// Restarts Postgres in place.
    pub(super) async fn restart_postgres(&mut self, why: &str) -> Result<Next, StepError> {
        tracing::info!(why, "restarts postgres");
        self.say(&format!("restarts postgres: {why}"));
        {
            let mut inner = self.shared.lock();
            inner.report.open = false;
            inner.report.restarting = true;
        }
        self.shared.changed();
        self.end_postgres(Stop::Fast).await?;
        self.ended = false;
        self.retry_at = clock::now();
        Ok(Next::Again)
    }

    /// Configuration that has changed is reloaded; the primary's address follows the record.
    pub(super) async fn follow_settings(&mut self, record: &Record) -> Result<(), StepError> {
        let Some(member) = self.shared.lock().member.clone() else { return Ok(()) };
        debug_assert_ne!(record.primary, member.index);
        self.find_upstream(record.primary);
        let (Some(config), Some(programs)) = (self.config(&member, Role::Standby), self.programs.clone())
        else {
            return Ok(());
        };
        self.conf.write(config, &programs, &self.volume.data()).await?;
        self.pay_reload().await
    }

    async fn move_gate(&mut self, record: &Record) -> Result<Next, StepError> {
        let (action, attached, why) = {
            let inner = self.shared.lock();
            let (Some(member), Some(pg)) = (inner.member.clone(), self.pg.as_ref()) else {
                return Ok(Next::Wait);
            };
            let view = StandbyView {
                now: clock::now(),
                me: &member,
                record,
                boot: &pg.boot,
                lease: &inner.lease,
                open: pg.is_open(),
            };
            // A gate that was left half moved is moved again, whichever way.
            let action = match next(&view) {
                StandbyAction::Keep if !pg.is_open() && !pg.is_shut() => StandbyAction::Shut,
                action => action,
            };
            (action, inner.attached(), describe(&inner))
        };
        let Some(pg) = self.pg.as_mut() else { return Ok(Next::Wait) };
        match action {
            StandbyAction::Open => pg.open(&self.conf).await?,
            StandbyAction::Shut => {
                self.shared.lock().report.open = false;
                self.shared.changed();
                pg.shut(&self.conf).await?;
            }
            StandbyAction::Keep => {}
        }
        let open = pg.is_open();
        self.shared.lock().report.open = open;
        if attached && open {
            self.forget_old_data();
        }
        self.note_refused();
        self.say(&why);
        Ok(Next::Wait)
    }

    /// Says whether PostgreSQL takes the user's parameters.
    pub(super) fn note_refused(&self) {
        self.shared.lock().report.refused_parameters = self.conf.refused().map(str::to_owned);
    }

    /// Says which parameters are loaded, and which of them wait for a restart: the one means little without the other.
    pub(super) fn note_parameters(&self, pending: Vec<String>, lowered: Vec<String>) {
        let loaded = self.conf.loaded();
        let mut inner = self.shared.lock();
        inner.report.pending_restart = pending;
        inner.report.lowered_limits = lowered;
        inner.report.loaded_parameters = loaded;
    }

    /// A detached standby that can't get on is said to need a copy; an attached one is removed first. True when
    /// it is time to look at its files again: they may say at once what else is only found out by waiting.
    fn notice_stuck(&mut self, streaming: bool, replay: Option<u64>) -> bool {
        let now = clock::now();
        let moving = self.stuck.is_none_or(|stuck| stuck.replay != replay);
        let primary_beats = self.shared.lock().beaten_lately(now);
        if streaming || moving || !primary_beats {
            // WAL from an archive moves it too: that goes on until the stream is there.
            let lacks_wal = !streaming && self.lacks_wal();
            self.stuck = Some(Stuck { since: now, replay, lacks_wal });
            if streaming {
                self.set_join(Join::Proved);
                self.looked_again = false;
            }
            return false;
        }
        let since = self.stuck.map_or(now, |stuck| stuck.since);
        if let Some(stuck) = &mut self.stuck {
            stuck.lacks_wal |= now.since(since) > LOOK_AGAIN_AFTER;
        }
        let mut inner = self.shared.lock();
        if inner.attached() {
            return false;
        }
        if now.since(since) > STUCK_AFTER {
            inner.report.join = Join::NeedsCopy("the WAL that it lacks is kept nowhere any more".into());
        }
        drop(inner);
        now.since(since) > LOOK_AGAIN_AFTER && !std::mem::replace(&mut self.looked_again, true)
    }

    /// The primary is there, and for a while no WAL has come from it: it may have been removed there.
    pub(super) fn lacks_wal(&self) -> bool {
        self.stuck.is_some_and(|stuck| stuck.lacks_wal)
    }

    /// The copy that a recovery replaced is kept until the new one is attached.
    fn forget_old_data(&self) {
        let old = self.volume.data_old();
        if !old.exists() {
            return;
        }
        // Renamed first: a run that is killed in the middle must not leave half a copy under a whole one's name.
        match self.volume.discard(&old) {
            Ok(trash) => drop(tokio::task::spawn_blocking(move || {
                if let Err(error) = std::fs::remove_dir_all(trash) {
                    tracing::warn!(%error, "a discarded copy of the data could not be removed");
                }
            })),
            Err(error) => tracing::warn!(%error, "the replaced copy of the data could not be removed"),
        }
    }

    /// Stops Postgres and says so until a person has looked; what was said stays.
    pub(super) async fn fence(&mut self, why: &str) -> Result<Next, StepError> {
        tracing::error!(why, "stopping postgres");
        self.shared.lock().report.open = false;
        self.shared.changed();
        if let Some(pg) = &self.pg {
            pg.stop(Stop::Immediate).await;
        }
        Ok(Next::Again)
    }

    /// R8: the record says something else than what runs here.
    pub(super) async fn stop_and_think(&mut self, why: &str) -> Result<Next, StepError> {
        tracing::warn!(why, "stopping postgres");
        self.say(why);
        {
            let mut inner = self.shared.lock();
            inner.report.open = false;
        }
        self.shared.changed();
        if let Some(pg) = &self.pg {
            pg.stop(Stop::Immediate).await;
        }
        self.stale = true;
        Ok(Next::Again)
    }
}

fn describe(inner: &super::shared::Inner) -> String {
    let attached = inner.attached();
    match (attached, inner.report.streaming) {
        (true, true) if inner.lease.valid(clock::now()) => "attached: follows the primary".into(),
        (true, _) => "attached, but without a read lease: serves nobody".into(),
        (false, true) => "detached: follows the primary, unseen by clients".into(),
        (false, false) => "detached: does not get the primary's WAL yet".into(),
    }
}
