//! The driver: one task owns Postgres and the volume. It observes, asks the membership what comes next,
//! does it, and waits until something may have changed.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::Signal;

use super::beats::Beats;
use super::conf::{Conf, ConfError, take_certificates};
use super::election::Election;
use super::initdb::InitError;
use super::lag::{FlushHistory, Returns, Waiters};
use super::office::OfficeError;
use super::postgres::{Postgres, PostgresError};
use super::putback::Refusal;
use super::reaper;
use super::record::{RecordError, RecordStore};
use super::server::Files;
use super::settings::UpstreamAddress;
use super::shared::Shared;
use super::sql::SqlError;
use super::standby::Stuck;
use super::volume::{Volume, VolumeError, holds_copy_of};
use crate::api::v1alpha1::{PgPoolMembership, Record};
use crate::clock::{self, Moment};
use crate::link::Client;
use crate::membership::names::Names;
use crate::messages::{Join, Role};
use crate::postgres::programs::{ProgramError, Programs};

/// Why a step failed; the driver says so and tries again.
#[derive(Debug, Error)]
pub enum StepError {
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Postgres.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Taking office.
    #[error(transparent)]
    Office(#[from] OfficeError),
    /// A question to Postgres.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Configuration files.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// A program of PostgreSQL.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The first copy.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Processes that a dead Postgres left.
    #[error("what a dead postgres left running can't be ended: {0}")]
    Orphans(std::io::Error),
    /// Lock files of a dead Postgres.
    #[error("the lock files that a dead postgres left can't be released: {0}")]
    Locks(std::io::Error),
    /// Another part of the pool.
    #[error(transparent)]
    Link(#[from] crate::link::LinkError),
}

/// What the driver does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next step, at once.
    Again,
    /// Waits for an event, a heartbeat at most.
    Wait,
}

/// A consistent read of the record is at most this old, also when no watch wakes.
const READ_EVERY: Duration = Duration::from_secs(10);
/// After a read that failed, the next is tried so much later.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Certificates and the volume are looked at this often.
const CARE_EVERY: Duration = Duration::from_secs(5);
/// Between two looks of a primary behind its gate: its clients wait.
const GATED: Duration = Duration::from_millis(20);
/// Bytes of a WAL segment unless initdb was told otherwise.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Name of Postgres's processes.
const PROGRAM: &str = "postgres";
/// Between two looks while no timings are known.
pub(super) const IDLE: Duration = Duration::from_millis(250);

/// The node, as its driver has it.
pub struct Node {
    pub(super) shared: Arc<Shared>,
    pub(super) store: RecordStore,
    pub(super) volume: Volume,
    pub(super) link: Client,
    pub(super) pool_uid: String,
    pub(super) programs: Option<Programs>,
    pub(super) conf: Conf,
    pub(super) pg: Option<Postgres>,
    /// What the running Postgres was started as.
    pub(super) role: Role,
    /// The last consistent read, and when it was sent.
    pub(super) object: Option<(PgPoolMembership, Moment)>,
    pub(super) stale: bool,
    /// No read before then: the API did not answer the last one.
    next_read: Moment,
    /// Why the newest object that was read isn't taken for this pool's record.
    pub(super) foreign: Option<String>,
    /// A record that was put back has been refused: as the volume has it.
    pub(super) refusal: Option<Refusal>,
    /// When the others were asked for the latest epoch.
    pub(super) asked_around: Option<Moment>,
    /// N, as it stands in the volume.
    pub(super) names: Names,
    pub(super) beats: Option<Beats>,
    pub(super) flushes: FlushHistory,
    pub(super) waiters: Waiters,
    pub(super) returns: Returns,
    /// Starts of Postgres in a row that never got ready.
    pub(super) failed_starts: u32,
    pub(super) retry_at: Moment,
    /// Since when a standby gets no WAL, by the streaming protocol or from an archive.
    pub(super) stuck: Option<Stuck>,
    /// A standby that gets no WAL has been stopped once for a look at its files.
    pub(super) looked_again: bool,
    pub(super) slots_at: Moment,
    /// The election that this agent saw last.
    pub(super) election: Option<Election>,
    /// The epoch in which this node was chosen last, and when it began to take office.
    pub(super) chosen: Option<(i64, Moment)>,
    /// The start of Postgres, and the epoch, in which it was promoted.
    pub(super) promoting: Option<(String, u32)>,
    /// The checkpoint before a switchover, by its id, or before a restart, by the start that it ends; and when it began.
    pub(super) checkpoint: Option<(String, tokio::task::JoinHandle<()>, Moment)>,
    /// Primary and timeline that the running standby follows.
    pub(super) followed: Option<(u8, u32)>,
    /// Where that primary is.
    pub(super) upstream: UpstreamAddress,
    /// The Postgres of this node's office has ended, and not because this agent restarts it.
    pub(super) ended: bool,
    /// The timeline whose ancestors are noted for `restore-wal`.
    pub(super) lineage: Option<u32>,
    /// Bytes of a WAL segment of this node's data.
    pub(super) segment_bytes: u64,
    /// What a standby may not have less of than its primary.
    pub(super) floors: BTreeMap<String, u64>,
    cared_at: Option<Moment>,
}

impl Node {
    /// A node that has not started anything.
    pub fn new(
        shared: Arc<Shared>,
        store: RecordStore,
        volume: Volume,
        link: Client,
        pool_uid: String,
    ) -> Self {
        let conf = Conf::new(volume.conf());
        let refusal = Refusal::noted(&volume, &pool_uid);
        shared.lock().report.put_back = refusal.is_some();
        Self {
            shared,
            store,
            volume,
            link,
            pool_uid,
            programs: None,
            conf,
            pg: None,
            role: Role::Stopped,
            object: None,
            stale: true,
            next_read: Moment::ZERO,
            foreign: None,
            refusal,
            asked_around: None,
            names: Names::default(),
            beats: None,
            flushes: FlushHistory::default(),
            waiters: Waiters::default(),
            returns: Returns::default(),
            failed_starts: 0,
            retry_at: Moment::ZERO,
            stuck: None,
            looked_again: false,
            slots_at: Moment::ZERO,
            election: None,
            chosen: None,
            promoting: None,
            checkpoint: None,
            followed: None,
            upstream: UpstreamAddress::default(),
            ended: false,
            lineage: None,
            segment_bytes: SEGMENT_BYTES,
            floors: BTreeMap::new(),
            cared_at: None,
        }
    }

    /// Index of this node.
    pub(super) fn me(&self) -> u8 {
        self.shared.env.index
    }

    /// Runs until SIGTERM, then stops Postgres in order.
    pub async fn run(mut self, mut term: Signal) {
        // Nothing is started, nor answered as an attached node, before that is known.
        while let Err(error) = self.remember_leases() {
            tracing::error!(%error, "the volume can't be read");
            self.say(&error.to_string());
            tokio::select! {
                biased;
                _ = term.recv() => return self.finish().await,
                () = tokio::time::sleep(IDLE) => {}
            }
        }
        if let Err(error) = self.volume.empty_trash() {
            tracing::warn!(%error, "a discarded copy of the data could not be removed");
        }
        loop {
            let next = match self.step().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "a step failed");
                    self.say(&error.to_string());
                    self.stale |= matches!(error, StepError::Record(_));
                    Next::Wait
                }
            };
            self.shared.changed();
            tokio::select! {
                biased;
                _ = term.recv() => break,
                () = self.pause(next) => {}
            }
        }
        self.finish().await;
    }

    /// Waits for whatever may change what the next step does.
    async fn pause(&mut self, next: Next) {
        if next == Next::Again {
            return;
        }
        let heartbeat = self.object.as_ref().map_or(IDLE, |(object, _)| object.spec.timings.heartbeat());
        let ended = self.pg.as_ref().map(|pg| pg.server.ended());
        let postgres_ends = async {
            match ended {
                // An error means that the watcher is gone, and so is the process.
                Some(mut ended) => drop(ended.wait_for(Option::is_some).await),
                None => std::future::pending().await,
            }
        };
        // Behind the gate nobody tells when a standby has applied what is waited for.
        let gated = self.role == Role::Primary && self.pg.as_ref().is_some_and(|pg| !pg.is_open());
        let heartbeat = if gated { heartbeat.min(GATED) } else { heartbeat };
        tokio::select! {
            () = self.shared.wake.notified() => self.stale = true,
            () = postgres_ends => {}
            () = tokio::time::sleep(heartbeat) => {}
        }
    }

    async fn step(&mut self) -> Result<Next, StepError> {
        if self.pg.as_ref().is_some_and(|pg| !pg.server.alive()) {
            self.found_dead().await?;
        }
        if self.role == Role::Standby && self.pg.is_some() {
            self.take_news()?;
        }
        if self.pg.is_none() {
            self.care().await?;
            self.read_record().await?;
            return self.start().await;
        }
        self.read_record().await?;
        if let Some(why) = self.foreign.clone() {
            self.call_person(&why);
            return self.fence(&why).await;
        }
        let done = match self.role {
            Role::Primary => self.primary_step().await,
            Role::Standby => self.standby_step().await,
            Role::Stopped => Ok(Next::Wait),
        };
        if let Err(StepError::Sql(SqlError::Late) | StepError::Postgres(PostgresError::Sql(SqlError::Late))) =
            &done
            && let Some(pg) = &mut self.pg
        {
            pg.drop_session();
            self.shared.set_client(None);
        }
        // After the step: nothing here may keep a dead standby from being removed, and no step that fails may
        // keep certificates from being renewed.
        let cared = self.care().await;
        let next = done?;
        cared?;
        Ok(next)
    }

    /// Postgres reads what was written for it; owed until it has.
    pub(super) async fn pay_reload(&mut self) -> Result<(), StepError> {
        if let (true, Some(pg)) = (self.conf.owed, &self.pg) {
            pg.reload().await?;
            self.conf.owed = false;
        }
        Ok(())
    }

    /// Certificates, programs, space: seldom.
    async fn care(&mut self) -> Result<(), StepError> {
        let now = clock::now();
        if self.cared_at.is_some_and(|at| now.since(at) < CARE_EVERY) {
            return Ok(());
        }
        take_certificates(&mut self.conf.owed)?;
        if self.programs.is_none() {
            self.programs = Some(Programs::find().await?);
        }
        self.pay_reload().await?;
        let (bytes, free) = self.volume.space()?;
        let archive = super::wal::usage(&self.volume.archive());
        {
            let mut inner = self.shared.lock();
            inner.report.volume_bytes = bytes;
            inner.report.volume_free = free;
            inner.report.archive_bytes = archive.bytes;
            inner.report.archive_error = archive.error;
            inner.report.postgres_version = self.programs.as_ref().map(|p| p.major);
        }
        // What another pool has archived here isn't this one's to drop.
        let own = holds_copy_of(&self.shared.env.volume, &self.pool_uid);
        if let Some((object, _)) = self.object.as_ref().filter(|_| own) {
            super::wal::prune(&self.volume.archive(), &object.spec).await;
        }
        self.volume.keep_spare();
        self.cared_at = Some(now);
        Ok(())
    }

    /// Reads the record again when it may have changed. With the API away the last read stands, but a node
    /// that has none yet serves nothing (R7).
    pub(super) async fn read_record(&mut self) -> Result<(), StepError> {
        let now = clock::now();
        let fresh = self.object.as_ref().is_some_and(|(_, at)| now.since(*at) < READ_EVERY);
        if (fresh && !self.stale) || now < self.next_read {
            return Ok(());
        }
        match self.store.read().await {
            Ok(object) => self.take(object, now),
            Err(error) if self.object.is_some() => {
                // An API that hangs must not make each step as slow as itself.
                self.next_read = clock::now().after(READ_AGAIN);
                self.delay_election();
                tracing::warn!(%error, "the record can't be read; the last one stands");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes over what was read: the epoch is noted in the volume before anything is done by it.
    pub(super) fn take(&mut self, object: PgPoolMembership, read_at: Moment) -> Result<(), StepError> {
        self.stale = false;
        if let Some(why) = self.is_foreign(&object, read_at)? {
            self.next_read = clock::now().after(READ_AGAIN);
            self.refuse(&object, why);
            return Ok(());
        }
        self.refuse_no_more()?;
        self.shared.lock().balance.clone_from(&object.spec.load_balancing);
        if let Some(record) = &object.status {
            self.volume.note_epoch(&self.pool_uid, record.epoch)?;
            let mut inner = self.shared.lock();
            inner.report.epoch = record.epoch;
            let office = |r: &Record| (r.phase, r.primary, r.timeline);
            if inner.record.as_ref().map(office) != Some(office(record)) {
                inner.watch_anew(clock::now());
            }
            let attached = inner.attached();
            inner.record = Some(record.clone());
            if !attached && inner.attached() {
                // Leases given before it was attached needed no answer of it.
                let lease = inner.longest_lease(object.spec.timings.lease_ms);
                inner.answers.note(record, clock::now(), lease);
            }
        }
        self.note_count(object.spec.nodes);
        self.object = Some((object, read_at));
        Ok(())
    }

    /// Takes over a record that the watch has brought, if it is newer than the one that is known. What needs a read
    /// made after something looks at when that was, which stays as it is.
    fn take_news(&mut self) -> Result<(), StepError> {
        let Some(object) = self.shared.take_news() else { return Ok(()) };
        let epoch = |o: &PgPoolMembership| o.status.as_ref().map_or(0, |r| r.epoch);
        match &self.object {
            Some((known, read_at)) if epoch(&object) > epoch(known) => self.take(object, *read_at),
            _ => Ok(()),
        }
    }

    /// Postgres has ended by itself. Others shall hear of a primary's end soon: the record is read meanwhile.
    async fn found_dead(&mut self) -> Result<(), StepError> {
        if self.role != Role::Primary {
            return self.postgres_ended().await;
        }
        let (store, asked) = (self.store.clone(), clock::now());
        let read = tokio::spawn(async move { store.read().await });
        self.postgres_ended().await?;
        if let Ok(Ok(object)) = read.await {
            return self.take(object, asked);
        }
        // An API that hangs is not waited for twice.
        self.next_read = clock::now().after(READ_AGAIN);
        Ok(())
    }

    /// Takes note of a Postgres that is dead. What it left running is ended before anybody hears that nobody is
    /// served here, and before the next start.
    pub(super) async fn postgres_ended(&mut self) -> Result<(), StepError> {
        reaper::end_children(PROGRAM).await.map_err(StepError::Orphans)?;
        if self.role == Role::Primary {
            self.ended = true;
            // What is done next rests on a read made after the end.
            self.stale = true;
        }
        let in_use = match self.pg.take() {
            Some(pg) => pg.server.found_in_use().await,
            None => false,
        };
        if in_use {
            // That says nothing of the data, and mustn't lead to a copy.
            self.failed_starts = self.failed_starts.saturating_sub(1);
        }
        self.role = Role::Stopped;
        // Nobody hears it any more, so others may ask for another primary: its time begins anew.
        self.chosen = None;
        self.beats = None;
        self.shared.set_client(None);
        let mut inner = self.shared.lock();
        inner.report.role = Role::Stopped;
        inner.report.open = false;
        inner.report.draining = false;
        inner.report.streaming = false;
        inner.report.replicas.clear();
        inner.office = None;
        let message =
            if in_use { "another postgres has the data: trying again" } else { "postgres has ended" };
        inner.report.message = message.into();
        Ok(())
    }

    /// Says what the node is doing.
    pub(super) fn say(&self, message: &str) {
        let mut inner = self.shared.lock();
        message.clone_into(&mut inner.report.message);
        inner.report.needs_person = false;
    }

    /// Says what a person must do.
    pub(super) fn call_person(&self, message: &str) {
        let mut inner = self.shared.lock();
        if !inner.report.needs_person || inner.report.message != message {
            tracing::error!(why = message, "a person must act");
        }
        message.clone_into(&mut inner.report.message);
        inner.report.needs_person = true;
    }

    /// Whether it may follow without a copy, for the others to see.
    pub(super) fn set_join(&self, join: Join) {
        self.shared.lock().report.join = join;
    }

    pub(super) fn files(&self) -> Files {
        Files { data: self.volume.data(), conf: self.volume.conf() }
    }

    /// The record of the last consistent read.
    pub(super) fn record(&self) -> Option<&Record> {
        self.object.as_ref().and_then(|(object, _)| object.status.as_ref())
    }
}
