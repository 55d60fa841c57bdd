//! From no Postgres to a running one (R7): what the record and the volume allow.
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::conf::ConfError;
use super::initdb::{self, InitError};
use super::lag::{FlushHistory, Waiters};
use super::locks;
use super::node::{Next, Node, StepError};
use super::postgres::Postgres;
use super::record::RecordError;
use super::volume::{VolumeError, read_json, write_json};
use crate::api::v1alpha1::{Member, MembershipSpec, PgPoolMembership, Phase, Record};
use crate::clock;
use crate::membership::handover::Handover;
use crate::membership::joining::{self, ControlData, JoinView};
use crate::membership::lease::{Contact, ReadLease};
use crate::membership::names::Names;
use crate::membership::primary::{Other, PrimaryView, Wish};
use crate::membership::record;
use crate::membership::starting::{self, NodeFile, Start, StartView, TakenUp, decide};
use crate::messages::{Join, Role, Standing};
use crate::names;
use crate::postgres::programs::ProgramError;

/// Starts that end before Postgres is ready, after which a standby's data counts as broken.
pub(super) const BROKEN_AFTER: u32 = 5;
/// Pause after a start that failed, times the number of failures.
const RETRY: Duration = Duration::from_secs(1);
/// The longest of these pauses: what a person has mended is noticed soon.
const LONGEST_RETRY: u32 = 30;
/// After so long without a primary nobody will remove a node.
const NOBODY_AFTER: Duration = Duration::from_secs(60);
/// Pause after an initdb that failed: a person, or room, may help.
const INIT_AGAIN: Duration = Duration::from_secs(10);
/// Longest time for fetching a history file.
const FETCH: Duration = Duration::from_secs(5);

impl Node {
    /// Decides and does the next step towards a running Postgres.
    pub(super) async fn start(&mut self) -> Result<Next, StepError> {
        if clock::now() < self.retry_at {
            if self.failed_starts > BROKEN_AFTER {
                self.say_starting();
            }
            return Ok(Next::Wait);
        }
        if let Some(why) = self.foreign.clone() {
            // Said all the same: a node that tells of no copy is taken for one without data, and is copied over.
            self.note_copy(self.volume.node()?.as_ref());
            self.call_person(&why);
            return Ok(Next::Wait);
        }
        let Some((object, _)) = self.object.clone() else { return Ok(Next::Wait) };
        if self.is_fenced() {
            self.say("fenced by wish: postgres is kept stopped");
            return Ok(Next::Wait);
        }
        let file = self.volume.node()?;
        self.note_copy(file.as_ref());
        if self.has_left_office(&object, file.as_ref())? {
            return self.depose_self(None, "its Postgres has ended").await;
        }
        let (control, join) = match &file {
            // Never looked at whether it may follow: its pool's history is another one.
            Some(file) if file.pool_uid != object.spec.pool_uid => {
                (None, self.of_another_pool(&object, file))
            }
            Some(_) if self.volume.has_data() => self.examine(object.status.as_ref()).await?,
            _ => (None, Join::Unknown),
        };
        if let Some(why) = self.of_another_system(object.status.as_ref(), control.as_ref()) {
            // Nor is it copied over: this may be the data that is wanted.
            self.set_join(Join::Unknown);
            self.call_person(&why);
            return Ok(Next::Wait);
        }
        self.set_join(join.clone());
        let view = StartView {
            me: self.me(),
            spec: &object.spec,
            record: object.status.as_ref(),
            file: file.as_ref(),
            data: self.volume.data().exists(),
            timeline: control.as_ref().map(|c| c.timeline.max(c.min_recovery_timeline)),
            standby: control.as_ref().is_some_and(ControlData::is_standby),
            ended: self.ended && !self.stale,
            word: self.word()?,
            join: &join,
        };
        let start = decide(&view);
        self.carry_out(start, &object.spec, file).await
    }

    /// What the others are told of another pool's copy: that a recovery may replace it, or nothing.
    fn of_another_pool(&self, object: &PgPoolMembership, file: &NodeFile) -> Join {
        let (record, spec) = (object.status.as_ref(), &object.spec);
        let waits = record.is_some() && starting::is_earlier(self.me(), spec, record, file);
        if waits { Join::NeedsCopy(starting::EARLIER.to_owned()) } else { Join::Unknown }
    }

    /// Why this copy can't be one of the primary's data, whatever the node file says. PostgreSQL refuses to stream then, in
    /// its log alone (PostgreSQL source, `WalReceiverMain`).
    pub(super) fn of_another_system(
        &self,
        record: Option<&Record>,
        control: Option<&ControlData>,
    ) -> Option<String> {
        let own = control.filter(|_| record.is_some_and(|record| record.primary != self.me()))?.system_id;
        let theirs = self.shared.lock().primary_system_id.filter(|theirs| *theirs != own)?;
        Some(format!(
            "the volume's data is of database system {own}, the primary's of {theirs}: it is no copy of this pool's data"
        ))
    }

    /// Whether the word is to be given (R5): that waits for no look at the data.
    fn has_left_office(&self, object: &PgPoolMembership, file: Option<&NodeFile>) -> Result<bool, StepError> {
        let view = StartView {
            me: self.me(),
            spec: &object.spec,
            record: object.status.as_ref(),
            file,
            data: self.volume.data().exists(),
            timeline: None,
            standby: false,
            ended: self.ended && !self.stale,
            word: self.word()?,
            join: &Join::Unknown,
        };
        Ok(decide(&view) == Start::Depose)
    }

    async fn carry_out(
        &mut self,
        start: Start,
        spec: &MembershipSpec,
        file: Option<NodeFile>,
    ) -> Result<Next, StepError> {
        match start {
            Start::InitDb => self.init(spec).await,
            Start::TakeUp => self.take_up(spec, file).await,
            Start::WriteFirst { member, taken_up } => self.write_first(member, taken_up).await,
            Start::Depose => self.depose_self(None, "its Postgres has ended").await,
            Start::StartPrimary => self.launch_primary(file).await,
            Start::StartStandby { .. } if self.votes_unseen() => self.vote_unseen().await,
            // Chosen: a standby without an upstream, which its first look at the record promotes.
            Start::TakeOffice | Start::StartStandby { .. } => {
                self.undo_promotion(start == Start::TakeOffice).await?;
                self.launch(Role::Standby, file).await
            }
            Start::WaitForRecovery(why) => {
                self.say(&format!("waits for a recovery: {why}"));
                Ok(Next::Wait)
            }
            Start::DataGone(why) => {
                // Without its copy the node answers beats as what it is, and the primary removes it.
                match self.remover() {
                    Ok(()) => self.say(&format!("waits to be removed and recovered: {why}")),
                    Err(nobody) => self.call_person(&format!(
                        "{why}; the record counts this node, and {nobody}, so nobody removes and recovers it"
                    )),
                }
                Ok(Next::Wait)
            }
            Start::CallPerson(why) => {
                self.call_person(&why);
                Ok(Next::Wait)
            }
            Start::Wait(why) => {
                self.say(&why);
                self.vote_stopped().await
            }
        }
    }

    /// Whether somebody may take this node out of the record, as the primary does; else why not.
    fn remover(&self) -> Result<(), &'static str> {
        let inner = self.shared.lock();
        let heard = inner.beaten.map_or(inner.agent_started, |beaten| beaten.max(inner.agent_started));
        let long = clock::now().since(heard) > NOBODY_AFTER;
        if long { Err("no primary has been heard for a minute") } else { Ok(()) }
    }

    /// The stopped primary of the office that is voted on says that it is there.
    async fn vote_stopped(&mut self) -> Result<Next, StepError> {
        let Some(record) = self.record().cloned() else { return Ok(Next::Wait) };
        let voter = record.phase == Phase::Electing && record.primary == self.me();
        if !voter || !self.shared.lock().attached() {
            return Ok(Next::Wait);
        }
        self.vote_as_primary(&record, Standing::Stopped).await
    }

    /// Says whose copy this is; nothing may be joined to a copy that isn't there.
    fn note_copy(&self, file: Option<&NodeFile>) {
        let member = file
            .filter(|_| self.volume.has_data())
            .map(|f| Member { index: self.me(), incarnation: f.incarnation.clone() });
        let mut inner = self.shared.lock();
        inner.report.incarnation = member.as_ref().map(|m| m.incarnation.clone());
        inner.member = member;
    }

    async fn init(&mut self, spec: &MembershipSpec) -> Result<Next, StepError> {
        let Some(programs) = self.programs.clone() else { return Ok(Next::Wait) };
        let options = self.shared.env.initdb.clone();
        if let Some(why) = initdb::obstacle(&options, programs.major) {
            self.call_person(&why);
            return Ok(Next::Wait);
        }
        // What a person was called for stands until it has worked.
        if !self.shared.lock().report.needs_person {
            self.say("making the first copy of the data");
            self.shared.changed();
        }
        match initdb::run(&programs, &self.volume, &options, &spec.pool_uid, self.me()).await {
            Ok(_) => Ok(Next::Again),
            Err(InitError::Program(ProgramError::Failed { output, .. })) => {
                self.call_person(&initdb::complaint(&options, &output));
                self.retry_at = clock::now().after(INIT_AGAIN);
                Ok(Next::Wait)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the first record. Whoever reads it back finds this copy as the only attached one.
    async fn write_first(&mut self, member: Member, taken_up: Option<TakenUp>) -> Result<Next, StepError> {
        let Some((object, _)) = self.object.clone() else { return Ok(Next::Wait) };
        let control = self.control().await?;
        let timeline = control.as_ref().map_or(1, |c| c.timeline);
        let fork = control.as_ref().map_or(0, |c| c.redo.max(c.min_recovery_end));
        let first = match taken_up {
            None => record::first(member, timeline, fork),
            Some(taken) => record::taken_up(member, &taken, fork),
        };
        // No office of this pool was before this one.
        self.note_opened(first.timeline)?;
        self.stale = true;
        match self.store.write(&object, first).await {
            Ok(written) => self.take(written, clock::now())?,
            Err(RecordError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Next::Again)
    }

    /// What `pg_controldata` says; also takes over what this node may not have less of than its primary.
    pub(super) async fn control(&mut self) -> Result<Option<ControlData>, StepError> {
        let Some(programs) = &self.programs else { return Ok(None) };
        let text = programs.control(&self.volume.data()).await?;
        self.floors = joining::primary_settings(&text);
        self.segment_bytes = joining::segment_bytes(&text).unwrap_or(self.segment_bytes);
        if let Some(nonce) = joining::mock_nonce(&text) {
            self.shared.mock.get_or_init(|| nonce);
        }
        let control = ControlData::parse(&text);
        self.shared.lock().system_id = control.as_ref().map(|control| control.system_id);
        Ok(control)
    }

    /// Whether the stopped copy may follow the record's primary (R9).
    pub(super) async fn examine(
        &mut self,
        record: Option<&Record>,
    ) -> Result<(Option<ControlData>, Join), StepError> {
        let Ok(Some(control)) = self.control().await else {
            return Ok((None, Join::NeedsCopy("its control file can't be read".into())));
        };
        let Some(record) = record.filter(|r| r.primary != self.me()) else {
            return Ok((Some(control), Join::Unknown));
        };
        if self.failed_starts >= BROKEN_AFTER {
            let why = "its Postgres can't be started or can't read its data";
            return Ok((Some(control), Join::NeedsCopy(why.into())));
        }
        let mut view = JoinView {
            fresh_copy: self.volume.data().join("backup_label").exists(),
            control: control.clone(),
            held: self.held_timeline(u32::MAX)?,
            wal_end: None,
            primary_timeline: record.timeline,
            history: Vec::new(),
        };
        let newest = control.newest_timeline(view.held);
        if self.lineage != Some(record.timeline) && newest == record.timeline {
            // For restore-wal alone: without it WAL comes by streaming only.
            if let Some(history) = self.history(record).await {
                self.write_lineage(record.timeline, &history)?;
            }
        }
        if newest < record.timeline {
            let known = self.history(record).await;
            if let Some(history) = &known {
                self.write_lineage(record.timeline, history)?;
            }
            let history = match known {
                Some(history) => Some(history),
                None => self.voters_history(record, &control, view.held)?,
            };
            let Some(history) = history else { return Ok((Some(control), Join::Unknown)) };
            view.wal_end = self.wal_end(newest, control.looked_from(view.held, &history)).await?;
            view.history = history;
        }
        Ok((Some(control), joining::decide(&view)))
    }

    /// The history of the record's timeline: what this node has of it, else what the primary has, else any other
    /// attached node. A node that needed the primary for it could not vote once that is lost.
    async fn history(&self, record: &Record) -> Option<Vec<joining::Fork>> {
        if let Some(own) = self.streamed_history(record.timeline) {
            return Some(own);
        }
        let others =
            record.attached.iter().map(|member| member.index).filter(|index| *index != record.primary);
        let asked = [record.primary].into_iter().chain(others).filter(|index| *index != self.me());
        let mut answers: FuturesUnordered<_> =
            asked.map(|index| self.fetch_history(index, record.timeline)).collect();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    async fn fetch_history(&self, node: u8, timeline: u32) -> Option<Vec<joining::Fork>> {
        let (object, _) = self.object.as_ref()?;
        let host = names::node_host(&self.shared.env.pool, node, &object.spec.domain);
        let path = format!("/v1/wal/{timeline:08X}.history");
        let mut text = Vec::new();
        self.link.download(&host, names::AGENT_PORT, &path, FETCH, &mut text).await.ok()?;
        joining::parse_history(std::str::from_utf8(&text).ok()?).filter(|history| !history.is_empty())
    }

    /// A start that fails before there is a process, as on a volume that is full, says the same of this office as a process
    /// that has ended.
    async fn launch_primary(&mut self, file: Option<NodeFile>) -> Result<Next, StepError> {
        let launched = self.launch(Role::Primary, file).await;
        if launched.is_err() {
            (self.ended, self.stale) = (true, true);
        }
        launched
    }

    /// Says that Postgres starts; after many starts that failed, that somebody has to look why.
    pub(super) fn say_starting(&self) {
        if self.failed_starts <= BROKEN_AFTER {
            return self.say("postgres is starting");
        }
        let starts = self.failed_starts;
        self.call_person(&format!(
            "its Postgres was started {starts} times and never got ready: see its log"
        ));
    }

    /// Starts Postgres, gate shut, as what the record says.
    async fn launch(&mut self, role: Role, file: Option<NodeFile>) -> Result<Next, StepError> {
        let (Some(programs), Some(file)) = (self.programs.clone(), file) else { return Ok(Next::Wait) };
        let member = Member { index: self.me(), incarnation: file.incarnation };
        self.retry_at = clock::now().after(RETRY * (self.failed_starts + 1).min(LONGEST_RETRY));
        self.failed_starts += 1;
        self.volume.protect_data()?;
        if role == Role::Primary {
            self.load_names()?;
        } else {
            self.forget_office()?;
        }
        let data = self.volume.data();
        locks::release(&data, Path::new(names::SOCKET_DIR), std::process::id()).map_err(StepError::Locks)?;
        self.conf.forget_alter_system(&data)?;
        self.write_signal(role)?;
        self.stuck = None;
        if let (Role::Standby, Some(primary)) = (role, self.record().map(|r| r.primary)) {
            self.find_upstream(primary);
        }
        let Some(config) = self.config(&member, role) else { return Ok(Next::Wait) };
        self.conf.write(config, &programs, &data).await?;
        let handover = match self.record().cloned() {
            Some(record) if role == Role::Primary => self.handover(&record)?,
            _ => None,
        };
        // From here on nothing fails: a process that is there and isn't known would be said to have ended.
        let pg = Postgres::start(&programs.path("postgres"), &self.files(), &self.conf)?;
        self.conf.owed = false;
        self.begin(role, &pg, handover);
        self.pg = Some(pg);
        self.role = role;
        Ok(Next::Again)
    }

    /// What is known anew with each start of Postgres: leases and what was proved in the last one are void.
    fn begin(&mut self, role: Role, pg: &Postgres, handover: Option<Handover>) {
        let now = clock::now();
        self.ended = false;
        self.followed = self.record().map(|r| (r.primary, r.timeline));
        self.flushes = FlushHistory::default();
        self.waiters = Waiters::default();
        let mut inner = self.shared.lock();
        inner.report.boot.clone_from(&pg.boot);
        inner.report.role = role;
        inner.report.open = false;
        inner.report.lsn = None;
        inner.report.draining = false;
        inner.report.restarting = false;
        // A start is what they waited for.
        inner.report.pending_restart.clear();
        inner.report.lowered_limits.clear();
        inner.report.office = None;
        inner.lease = ReadLease::new(&pg.boot);
        inner.office = None;
        inner.postgres_seen = now;
        if role == Role::Standby {
            inner.watch_anew(now);
        }
        drop(inner);
        self.say_starting();
        if role == Role::Primary {
            let office = self.new_office(now, handover);
            self.shared.lock().office = office;
        }
    }

    pub(super) fn new_office(&self, now: clock::Moment, handover: Option<Handover>) -> Option<PrimaryView> {
        let (object, read_at) = self.object.as_ref()?;
        let record = object.status.clone()?;
        let me = record.attached.iter().find(|m| m.index == self.me())?.clone();
        // Every name in N counts as holding a lease given at this moment: what an earlier start gave is not known.
        let inherit = |index: u8| {
            let mut copies = self.names.listed.iter().map(|l| &l.member).filter(|m| m.index == index);
            let copy = copies.next().filter(|_| copies.next().is_none()).map(|m| m.incarnation.clone());
            let contact = Contact::inherited(copy, now, self.names.lease_ms);
            (index, Other { contact, ..Other::default() })
        };
        Some(PrimaryView {
            now,
            me,
            record,
            read_at: *read_at,
            wish: Wish::from(&object.spec),
            names: self.names.clone(),
            loaded: Some(now),
            gate_seen: !self.names.is_empty(),
            started: now,
            flush_lsn: 0,
            start_lsn: None,
            open: false,
            handover,
            oldest_waiter: None,
            nudged: None,
            growth: None,
            replicas: Vec::new(),
            others: self.names.listed.iter().map(|l| inherit(l.member.index)).collect(),
        })
    }

    /// N of a starting primary: what stood in the volume, and everyone in the record; fsynced before the start.
    pub(super) fn load_names(&mut self) -> Result<(), StepError> {
        let path = self.names_path();
        let stored: Option<Names> = read_json(&path)?;
        if let Some((object, _)) = &self.object
            && let Some(record) = &object.status
        {
            self.names = Names::at_start(record, self.me(), stored, object.spec.timings.lease_ms);
            write_json(&path, &self.names)?;
        }
        Ok(())
    }

    pub(super) fn names_path(&self) -> std::path::PathBuf {
        self.volume.conf().join("names.json")
    }

    /// N belongs to an office; a standby has none.
    fn forget_office(&mut self) -> Result<(), StepError> {
        self.keep_leases()?;
        self.names = Names::default();
        Ok(write_json(&self.names_path(), &self.names)?)
    }

    /// `standby.signal` makes the difference between a primary and a standby (PostgreSQL docs, "Standby Server
    /// Settings"); it is put only on a node that was proved.
    fn write_signal(&self, role: Role) -> Result<(), ConfError> {
        let path = self.volume.data().join("standby.signal");
        let done = match role {
            Role::Standby => File::create(&path).and_then(|f| f.sync_all()),
            _ => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        done.map_err(|source| VolumeError::File { path, source })?;
        Ok(super::volume::sync_dir(&self.volume.data())?)
    }
}
