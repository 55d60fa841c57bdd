//! A running standby: follows, says how far it is, lets clients in under a read lease (R3).
use std::time::Duration;

use super::node::{Next, Node, StepError};
use super::observe;
use super::server::Stop;
use crate::clock;
use crate::membership::standby::{StandbyAction, StandbyView, next};
use crate::messages::{Join, Role};

/// A detached standby that has got no WAL for so long, from anywhere, lacks some that nobody has any more.
const STUCK_AFTER: Duration = Duration::from_secs(60);

impl Node {
    /// One look at a running standby.
    pub(super) async fn standby_step(&mut self) -> Result<Next, StepError> {
        let Some(record) = self.record().cloned() else { return Ok(Next::Wait) };
        if record.primary == self.me() {
            return self.stop_and_think("the record names this node as the primary").await;
        }
        let Some(pg) = self.pg.as_mut() else { return Ok(Next::Wait) };
        let Some(client) = pg.client().await else {
            if pg.is_broken() {
                self.failed_starts = super::start::BROKEN_AFTER;
                return self.stop_and_think("no session can be made: the data can't be read").await;
            }
            self.say("postgres is starting");
            return Ok(Next::Wait);
        };
        self.failed_starts = 0;
        self.shared.set_client(Some(client.clone()));
        let facts = observe::standby(&client).await?;
        let backups = observe::backups(&client).await?;
        {
            let mut inner = self.shared.lock();
            inner.report.streaming = facts.streaming;
            inner.report.timeline = facts.timeline;
            inner.report.lsn = facts.replay.map(|l| l.0);
            inner.report.lag_ms = Some(facts.lag_ms);
            inner.report.backups = backups;
        }
        self.notice_stuck(facts.streaming, facts.replay.map(|l| l.0));
        self.follow_settings(&record).await?;
        self.move_gate(&record).await
    }

    /// Configuration that has changed is reloaded; the primary's address follows the record.
    async fn follow_settings(&mut self, record: &crate::api::v1alpha1::Record) -> Result<(), StepError> {
        let Some(member) = self.shared.lock().member.clone() else { return Ok(()) };
        debug_assert_ne!(record.primary, member.index);
        let (Some(config), Some(programs)) = (self.config(&member, Role::Standby), self.programs.clone())
        else {
            return Ok(());
        };
        self.conf.write(config, &programs, &self.volume.data()).await?;
        self.pay_reload().await
    }

    async fn move_gate(&mut self, record: &crate::api::v1alpha1::Record) -> Result<Next, StepError> {
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
        match self.conf.refused() {
            Some(said) => self.say(&format!("{why}; PostgreSQL refuses the new parameters: {said}")),
            None => self.say(&why),
        }
        Ok(Next::Wait)
    }

    /// A detached standby that can't get on is said to need a copy; an attached one is removed first.
    fn notice_stuck(&mut self, streaming: bool, replay: Option<u64>) {
        let now = clock::now();
        let moving = self.stuck.is_none_or(|(_, last)| last != replay);
        let primary_beats = self.shared.lock().beaten_lately(now);
        if streaming || moving || !primary_beats {
            self.stuck = Some((now, replay));
            if streaming {
                self.set_join(Join::Proved);
            }
            return;
        }
        let since = self.stuck.map_or(now, |(at, _)| at);
        let mut inner = self.shared.lock();
        if now.since(since) > STUCK_AFTER && !inner.attached() {
            inner.report.join = Join::NeedsCopy("the WAL that it lacks is kept nowhere any more".into());
        }
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
