//! Taking office: from the standby that was chosen to a primary behind its gate (R4, R6).
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::files::Opened;
use super::node::{Next, Node, StepError};
use super::observe;
use super::shared::millis;
use super::sql::{self, Client};
use super::volume::{VolumeError, read_json, sync_dir, write_durably, write_json};
use crate::api::v1alpha1::{Member, Record};
use crate::clock::{self, Moment};
use crate::membership::handover::Handover;
use crate::membership::names::Names;
use crate::messages::{OfficeReport, Role};

/// Between two looks at a promotion.
const POLL: Duration = Duration::from_millis(5);
/// Longest time that a promotion may take; then another node is asked for.
const PROMOTION: Duration = Duration::from_secs(20);

/// Longest time that it may take where no other node is left; then Postgres is started again.
const HOPELESS: Duration = Duration::from_secs(300);

/// Why a chosen node could not take office.
#[derive(Debug, Error)]
pub enum OfficeError {
    /// It is still a standby.
    #[error("it could not take office within {} s", PROMOTION.as_secs())]
    Late,
    /// It writes another timeline than the record gave it.
    #[error("the promotion led to timeline {found}, the record gave out {wanted}")]
    Timeline {
        /// The one that it writes.
        found: u32,
        /// The one that it should.
        wanted: u32,
    },
}

impl Node {
    fn opened_path(&self) -> PathBuf {
        self.volume.conf().join("office.json")
    }

    /// Notes that clients may be let in on a timeline: from then on no office before it can be alive.
    pub(super) fn note_opened(&self, timeline: u32) -> Result<(), StepError> {
        if self.opened()? != Some(timeline) {
            write_json(&self.opened_path(), &Opened { timeline })?;
        }
        Ok(())
    }

    pub(super) fn opened(&self) -> Result<Option<u32>, StepError> {
        let opened: Option<Opened> = read_json(&self.opened_path())?;
        Ok(opened.map(|o| o.timeline))
    }

    /// What is left of the offices before this one; nothing where it has been open.
    pub(super) fn handover(&self, record: &Record) -> Result<Option<Handover>, StepError> {
        if self.opened()? == Some(record.timeline) {
            return Ok(None);
        }
        let wished = self.object.as_ref().map_or(0, |(object, _)| object.spec.timings.lease_ms);
        let election = self.election.as_ref().map(|e| &e.record);
        let inner = self.shared.lock();
        let lease = inner.longest_lease(wished);
        Ok(Some(Handover::new(&inner.answers, inner.agent_started, election, record, lease)))
    }

    /// The record has chosen this node, its Postgres runs as a standby that has voted.
    pub(super) async fn take_office(
        &mut self,
        record: &Record,
        client: &Arc<Client>,
    ) -> Result<Next, StepError> {
        let Some(member) = self.shared.lock().member.clone() else { return Ok(Next::Wait) };
        if !record.attached.contains(&member) {
            return self.stop_and_think("the record names this node with another copy of the data").await;
        }
        let begun = self.chosen_since(record.epoch);
        if clock::now().since(begun) > HOPELESS {
            self.chosen = None;
            return self.restart_postgres("its promotion does not end").await;
        }
        // The only node that is left has nobody to leave it to.
        if record.attached.len() > 1
            && let Some(next) = self.give_up_office(begun).await?
        {
            return Ok(next);
        }
        self.say("chosen: takes office");
        self.begin_office(record)?;
        self.load_for_office(&member).await?;
        // It may have been promoted by a step that failed afterwards.
        if observe::in_recovery(client).await? && self.promotes_first(record.timeline) {
            self.make_room(record.timeline)?;
            sql::within(client.query_one("SELECT pg_promote(false)", &[])).await?;
        }
        if let Err(why) = self.promoted(record, client).await? {
            tracing::error!(%why, "the promotion failed");
            self.end_postgres(super::server::Stop::Immediate).await?;
            return self.depose_self(None, &why.to_string()).await;
        }
        self.report_office(record, begun);
        self.role = Role::Primary;
        self.slots_at = Moment::ZERO;
        Ok(Next::Again)
    }

    /// Leaves the office to another node where this one has tried for too long to take it: it beats all the while, so nobody
    /// else would ask for another primary.
    pub(super) async fn give_up_office(&mut self, begun: Moment) -> Result<Option<Next>, StepError> {
        if clock::now().since(begun) <= PROMOTION {
            return Ok(None);
        }
        self.end_postgres(super::server::Stop::Immediate).await?;
        Ok(Some(self.depose_self(None, &OfficeError::Late.to_string()).await?))
    }

    /// True once in each start of Postgres and each timeline: a promotion that is under way may have written its history file
    /// already, which must stay.
    pub(super) fn promotes_first(&mut self, timeline: u32) -> bool {
        let now = self.pg.as_ref().map(|pg| (pg.boot.clone(), timeline));
        std::mem::replace(&mut self.promoting, now.clone()) != now
    }

    /// Since when this node has tried to take the office of that epoch.
    pub(super) fn chosen_since(&mut self, epoch: i64) -> Moment {
        match self.chosen {
            Some((known, since)) if known == epoch => since,
            _ => {
                let now = clock::now();
                self.chosen = Some((epoch, now));
                now
            }
        }
    }

    /// From now on this node is the primary: it beats, or it would be deposed while it promotes.
    pub(super) fn begin_office(&mut self, record: &Record) -> Result<(), StepError> {
        let now = clock::now();
        let wished = self.object.as_ref().map_or(0, |(object, _)| object.spec.timings.lease_ms);
        // What the office before gave may be longer than what this one will.
        let lease = u32::try_from(self.shared.lock().longest_lease(wished).as_millis()).unwrap_or(u32::MAX);
        // N of the new office: who is attached. Names of an office long ago have no place in it.
        self.names = Names::at_start(record, self.me(), None, lease);
        write_json(&self.names_path(), &self.names)?;
        let handover = self.handover(record)?;
        let office = self.new_office(now, handover);
        {
            let mut inner = self.shared.lock();
            inner.report.role = Role::Primary;
            inner.report.open = false;
            inner.report.streaming = false;
            inner.report.office = None;
            inner.postgres_seen = now;
            inner.office.clone_from(&office);
        }
        // Its session answers as a standby's until it is promoted.
        self.shared.set_client(None);
        self.shared.changed();
        if let Some(office) = office {
            self.keep_beating(&office);
        }
        Ok(())
    }

    /// Makes PostgreSQL take exactly the timeline that the record gave out: it takes the first one above its own
    /// that has no history file. A file without a line names no ancestor, so nothing ever follows it
    /// (streaming-facts: 8.2).
    pub(super) fn make_room(&self, timeline: u32) -> Result<(), StepError> {
        let folder = self.volume.data().join("pg_wal");
        let path = |n: u32| folder.join(format!("{n:08X}.history"));
        for n in 2..timeline {
            if !path(n).exists() {
                write_durably(&path(n), b"# given out, and never seen here\n")?;
            }
        }
        // A promotion that was begun and never ended has left its file; nothing was written under it.
        match fs::remove_file(path(timeline)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(VolumeError::File { path: path(timeline), source: error }.into());
            }
            _ => sync_dir(&folder)?,
        }
        Ok(())
    }

    /// Takes away what a promotion has left that never ended, before Postgres is started again. PostgreSQL would follow the
    /// newest timeline that has a history file, and promote to the one after it; and a file without a line, which
    /// [`Self::make_room`] puts there, would keep it from starting.
    ///
    /// The file of the office's own timeline goes only where this node was `chosen` for it. Below a file that stays nothing
    /// goes: PostgreSQL finds the newest timeline by looking for one number after the other.
    ///
    /// A copy that was taken up from an earlier pool follows no timeline of which it has no WAL.
    pub(super) async fn undo_promotion(&mut self, chosen: bool) -> Result<(), StepError> {
        let Some(newest) = self.record().map(|record| record.timeline) else { return Ok(()) };
        let Some(control) = self.control().await? else { return Ok(()) };
        let taken = self.volume.node()?.and_then(|file| file.taken_up);
        let taken = chosen && taken.is_some_and(|taken| taken.timeline == newest);
        let held = control.newest_timeline(self.held_timeline(newest)?);
        let folder = self.volume.data().join("pg_wal");
        for n in (control.timeline.max(control.min_recovery_timeline) + 1..=newest).rev() {
            let path = folder.join(format!("{n:08X}.history"));
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let blank = text.lines().all(|line| line.trim().is_empty() || line.starts_with('#'));
            if !(blank || (n == newest && chosen) || (taken && n > held)) {
                break;
            }
            fs::remove_file(&path).map_err(|source| VolumeError::File { path, source })?;
        }
        Ok(sync_dir(&folder)?)
    }

    /// N stands in the configuration, and no session of a client is left, before the first commit can be made.
    async fn load_for_office(&mut self, member: &Member) -> Result<(), StepError> {
        let (Some(config), Some(programs)) = (self.config(member, Role::Primary), self.programs.clone())
        else {
            return Ok(());
        };
        self.conf.write(config, &programs, &self.volume.data()).await?;
        if let Some(pg) = &mut self.pg {
            pg.shut(&self.conf).await?;
        }
        self.conf.owed = false;
        Ok(())
    }

    pub(super) async fn promoted(
        &mut self,
        record: &Record,
        client: &Client,
    ) -> Result<Result<(), OfficeError>, StepError> {
        let deadline = clock::now().after(PROMOTION);
        while observe::in_recovery(client).await? {
            self.shared.lock().postgres_seen = clock::now();
            if clock::now() > deadline {
                // Who is alone has nobody to leave it to, and asks again.
                return if record.attached.len() > 1 {
                    Ok(Err(OfficeError::Late))
                } else {
                    Err(OfficeError::Late.into())
                };
            }
            tokio::time::sleep(POLL).await;
        }
        let found = observe::primary(client).await?.timeline.unwrap_or(0);
        let wanted = record.timeline;
        Ok(if found == wanted { Ok(()) } else { Err(OfficeError::Timeline { found, wanted }) })
    }

    fn report_office(&self, record: &Record, begun: Moment) {
        let Some(election) = &self.election else { return };
        let mut inner = self.shared.lock();
        inner.report.office = Some(OfficeReport {
            timeline: record.timeline,
            from: election.record.primary,
            reason: election.record.reason.clone(),
            detection_ms: millis(election.silence),
            election_ms: millis(begun.since(election.since)),
            promotion_ms: millis(clock::now().since(begun)),
            opening_ms: None,
        });
    }

    /// Clients are let in: how long that took since the promotion.
    pub(super) fn report_opened(&self) {
        let mut inner = self.shared.lock();
        let started = inner.office.as_ref().map(|o| o.started);
        let (Some(started), Some(office)) = (started, inner.report.office.as_mut()) else { return };
        if office.opening_ms.is_none() {
            let all = millis(clock::now().since(started));
            office.opening_ms = Some(all.saturating_sub(office.promotion_ms));
            tracing::info!(
                timeline = office.timeline,
                detection_ms = office.detection_ms,
                election_ms = office.election_ms,
                promotion_ms = office.promotion_ms,
                opening_ms = office.opening_ms,
                "took office"
            );
        }
    }
}
