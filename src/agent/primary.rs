//! A running primary: what it observes, and the actions that the membership asks for.
use std::time::Duration;

use super::node::{Next, Node, StepError};
use super::observe::{self, PrimaryFacts};
use super::record::RecordError;
use super::sql::{self, Client};
use super::volume::write_json;
use super::{beats, epochs, lag, roles, slots};
use crate::api::v1alpha1::{Member, Record};
use crate::clock;
use crate::membership::joining::compare_tables;
use crate::membership::names::Names;
use crate::membership::primary::{
    Action, Compared, Growth, PrimaryView, Why, Wish, attach_note, is_deposed, next,
};
use crate::messages::{EpochTable, Role, Standing};
use crate::names;

/// Slots are looked at this often.
const SLOTS_EVERY: Duration = Duration::from_secs(5);
/// Longest time for fetching a node's epoch table.
const TABLE_LIMIT: Duration = Duration::from_secs(3);
/// Longest time until a commit is seen to wait.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
const PROBE_POLL: Duration = Duration::from_millis(10);

impl Node {
    /// One look at a running primary, and one action.
    pub(super) async fn primary_step(&mut self) -> Result<Next, StepError> {
        // Before it is asked anything: one that hangs has to stop all the same.
        let me = self.shared.lock().member.clone();
        if self.record().zip(me).is_some_and(|(record, me)| is_deposed(record, &me)) {
            return self.stop_and_think(&Why::NotPrimary.to_string()).await;
        }
        let Some(pg) = self.pg.as_mut() else { return Ok(Next::Wait) };
        let Some(client) = pg.client().await else {
            self.say_starting();
            return Ok(Next::Wait);
        };
        if observe::in_recovery(&client).await? {
            return self.stop_and_think("postgres runs as a standby, the record says primary").await;
        }
        if self.failed_starts > 0 {
            epochs::prepare(&client).await?;
            self.failed_starts = 0;
        }
        self.shared.set_client(Some(client.clone()));
        let facts = observe::primary(&client).await?;
        self.shared.lock().postgres_seen = clock::now();
        let Some(view) = self.observe_office(&facts) else { return Ok(Next::Wait) };
        self.keep_beating(&view);
        // The office first: whatever else fails, a dead standby is removed.
        let acted = self.act(next(&view), &view, &client).await;
        if self.pg.as_ref().is_some_and(|pg| pg.server.alive()) {
            let kept = self.housekeeping(&view, &client).await;
            let next = acted?;
            kept?;
            return Ok(next);
        }
        acted
    }

    /// What is asked of a primary that is in office and has nothing else to do.
    async fn obey(&mut self, view: &PrimaryView, client: &Client) -> Result<Next, StepError> {
        if !view.open {
            return Ok(Next::Wait);
        }
        if let Some((wanted, id)) = self.switchover_wanted(&view.record) {
            return self.switch_over(&wanted, &id, client).await;
        }
        if self.wants_restart() {
            return self.restart_in_office().await;
        }
        Ok(Next::Wait)
    }

    /// Restarts Postgres in place, after a checkpoint: the one at the stop then has little to write, and clients wait less.
    async fn restart_in_office(&mut self) -> Result<Next, StepError> {
        let boot = self.pg.as_ref().map(|pg| pg.boot.clone()).unwrap_or_default();
        if !self.has_checkpoint(&boot) {
            return Ok(Next::Wait);
        }
        self.restart_postgres("a restart was asked for").await
    }

    /// What the primary does besides its office.
    async fn housekeeping(&mut self, view: &PrimaryView, client: &Client) -> Result<(), StepError> {
        self.follow_parameters(view).await?;
        self.keep_slots(client).await?;
        let backups = observe::backups(client).await?;
        let mut inner = self.shared.lock();
        inner.report.backups = backups;
        inner.report.attach_note = attach_note(view);
        Ok(())
    }

    async fn keep_slots(&mut self, client: &Client) -> Result<(), StepError> {
        let now = clock::now();
        let Some(nodes) = self.object.as_ref().map(|(object, _)| object.spec.nodes) else { return Ok(()) };
        if now.since(self.slots_at) < SLOTS_EVERY && self.slots_at >= self.started() {
            return Ok(());
        }
        for name in slots::ensure(client, self.me(), nodes, true).await? {
            tracing::info!(slot = name, "replication slot made");
        }
        let pending = observe::pending_restart(client).await?;
        let lowered = if pending.is_empty() { Vec::new() } else { observe::lowered_limits(client).await? };
        self.note_parameters(pending, lowered);
        let unsafe_settings = observe::unsafe_settings(client).await?;
        self.shared.lock().report.unsafe_settings = unsafe_settings;
        self.slots_at = now;
        Ok(())
    }

    fn started(&self) -> clock::Moment {
        self.shared.lock().office.as_ref().map_or(clock::Moment::ZERO, |o| o.started)
    }

    /// Brings the office up to date, and gives a copy to decide by.
    fn observe_office(&mut self, facts: &PrimaryFacts) -> Option<PrimaryView> {
        let now = clock::now();
        let (object, read_at) = self.object.as_ref()?;
        let record = object.status.clone()?;
        let keep = object.spec.timings.detach_lag() * 2;
        let flush = facts.flush.unwrap_or(0);
        self.flushes.note(now, flush, keep);
        let oldest = self.waiters.note(now, &facts.waiting);
        let open = self.pg.as_ref().is_some_and(super::postgres::Postgres::is_open);
        for replica in &facts.replicas {
            if let Some(address) = replica.address {
                let host = names::node_host(&self.shared.env.pool, replica.index, &object.spec.domain);
                self.link.hint(&host, address);
            }
        }
        let replicas = lag::measured(&facts.replicas, &self.flushes, now);
        let mut inner = self.shared.lock();
        inner.report.lsn = Some(flush);
        inner.report.timeline = facts.timeline;
        inner.report.streaming = false;
        inner.report.replicas = replicas;
        inner.report.synchronous = self.names.listed.iter().map(|l| l.member.index).collect();
        inner.report.open = open;
        inner.longest.hear(self.names.lease_ms, now);
        let applied = lag::applied(&facts.replicas);
        let office = inner.office.as_mut()?;
        office.now = now;
        office.record = record;
        office.read_at = *read_at;
        office.wish = Wish::from(&object.spec);
        office.names.clone_from(&self.names);
        office.flush_lsn = flush;
        office.open = open;
        office.oldest_waiter = oldest;
        office.replicas.clone_from(&facts.replicas);
        for replica in &facts.replicas {
            let other = office.others.entry(replica.index).or_default();
            let known = other.contact.answer.as_ref().and_then(|a| a.incarnation.as_ref());
            if known == Some(&replica.incarnation) {
                other.connected = Some(now);
            }
            other.lag = applied.get(&replica.index).and_then(|lsn| self.flushes.lag(now, *lsn));
        }
        Some(office.clone())
    }

    pub(super) fn keep_beating(&mut self, view: &PrimaryView) {
        let Some((object, _)) = &self.object else { return };
        let key = (object.spec.domain.clone(), view.wish.nodes, view.wish.timings.heartbeat_ms);
        if self.beats.as_ref().is_none_or(|beats| beats.key != key) {
            self.beats = Some(beats::start(&self.shared, &self.link, &key.0, key.1, key.2));
        }
    }

    /// Parameters of the user that have changed since the last load.
    async fn follow_parameters(&mut self, view: &PrimaryView) -> Result<(), StepError> {
        let (Some(config), Some(programs)) = (self.config(&view.me, Role::Primary), self.programs.clone())
        else {
            return Ok(());
        };
        self.conf.write(config, &programs, &self.volume.data()).await?;
        self.pay_reload().await
    }

    pub(super) async fn act(
        &mut self,
        action: Action,
        view: &PrimaryView,
        client: &Client,
    ) -> Result<Next, StepError> {
        if !matches!(action, Action::Wait(_)) {
            tracing::info!(?action, "membership");
        }
        match action {
            Action::WriteNames(names) => self.write_names(names, client).await?,
            Action::Nudge => self.nudge(client).await?,
            Action::ProbeGate => return self.probe_gate(client).await,
            Action::CommitRow => self.commit_row(view, client).await?,
            Action::CommitNonce(member) => self.commit_nonce(view, member).await?,
            Action::CompareTable(member) => return self.compare_table(&member, client).await,
            Action::WriteRecord(record) => {
                self.write_record(record).await?;
                // Not read again: the same write would only be tried again at once.
                if self.stale {
                    return Ok(Next::Wait);
                }
            }
            Action::ReadRecord => {
                self.stale = true;
                self.read_record().await?;
                if self.stale {
                    return Ok(Next::Wait);
                }
            }
            Action::Open => {
                self.note_opened(view.record.timeline)?;
                self.let_clients_in(client).await?;
                self.report_opened();
            }
            Action::Stop(why) => return self.stop_and_think(&why.to_string()).await,
            Action::Wait(Why::Electing) => {
                self.describe(view, &Why::Electing.to_string());
                return self.vote_as_primary(&view.record, Standing::InOffice).await;
            }
            Action::Wait(why) => {
                self.describe(view, &why.to_string());
                self.note_bootstrapped(client).await?;
                return self.obey(view, client).await;
            }
        }
        Ok(Next::Again)
    }

    fn describe(&self, view: &PrimaryView, why: &str) {
        let text = match (view.open, why) {
            (true, "nothing to do") => "primary in office".to_owned(),
            (true, why) => format!("primary in office; {why}"),
            (false, why) => format!("primary behind the gate; {why}"),
        };
        self.note_refused();
        self.say(&text);
    }

    async fn note_bootstrapped(&self, client: &Client) -> Result<(), StepError> {
        if !self.shared.lock().report.bootstrapped {
            let done = roles::bootstrapped(client).await?;
            self.shared.lock().report.bootstrapped = done;
        }
        Ok(())
    }

    fn office(&self, change: impl FnOnce(&mut PrimaryView)) {
        if let Some(office) = self.shared.lock().office.as_mut() {
            change(office);
        }
    }

    /// The volume first, then PostgreSQL; and a nudge for those whom a shorter list lets go.
    async fn write_names(&mut self, names: Names, client: &Client) -> Result<(), StepError> {
        let same = names.render() == self.names.render();
        write_json(&self.volume.conf().join("names.json"), &names)?;
        let empty = names.is_empty();
        self.names = names;
        let loaded = self.shared.lock().office.as_ref().is_some_and(|o| o.loaded.is_some());
        if same && loaded {
            let names = self.names.clone();
            self.office(|office| office.names = names);
            return Ok(());
        }
        self.office(|office| office.loaded = None);
        let member = self.shared.lock().member.clone();
        let config = member.and_then(|m| self.config(&m, Role::Primary));
        if let (Some(config), Some(programs)) = (config, self.programs.clone()) {
            self.conf.write(config, &programs, &self.volume.data()).await?;
        }
        if let Some(pg) = &self.pg {
            pg.reload().await?;
            self.conf.owed = false;
        }
        let (now, names) = (clock::now(), self.names.clone());
        self.office(|office| {
            office.loaded = Some(now);
            office.names = names;
            office.gate_seen &= !empty;
        });
        self.nudge(client).await
    }

    async fn nudge(&mut self, client: &Client) -> Result<(), StepError> {
        epochs::nudge(client).await?;
        self.office(|office| office.nudged = Some(clock::now()));
        Ok(())
    }

    /// Sees whether a commit waits at all. It is left waiting: nobody is told that it is done.
    async fn probe_gate(&mut self, client: &Client) -> Result<Next, StepError> {
        let session = sql::connect("postgres").await?;
        let row = sql::within(session.query_one("SELECT pg_backend_pid()", &[])).await?;
        let pid: i32 = row.get(0);
        let commit = tokio::spawn(async move {
            let text = "BEGIN; SET LOCAL synchronous_commit = remote_apply; SET LOCAL statement_timeout = 0;
                        SELECT pg_logical_emit_message(true, 'gate', ''); COMMIT";
            // However it ends is nobody's concern: only that it was seen to wait.
            drop(session.batch_execute(text).await);
        });
        let deadline = clock::now().after(PROBE_LIMIT);
        let question = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1";
        while clock::now() < deadline && !commit.is_finished() {
            let row = sql::within(client.query_opt(question, &[&pid])).await?;
            if row.and_then(|r| r.get::<_, Option<bool>>(0)) == Some(true) {
                self.office(|office| office.gate_seen = true);
                return Ok(Next::Again);
            }
            tokio::time::sleep(PROBE_POLL).await;
        }
        Ok(Next::Wait)
    }

    async fn commit_row(&mut self, view: &PrimaryView, client: &Client) -> Result<(), StepError> {
        if !epochs::has_row(client, view.record.timeline).await? {
            epochs::commit_row(client, view.record.epoch, view.record.timeline).await?;
        }
        let question = client.ask_one("SELECT pg_current_wal_flush_lsn()::text AS flush");
        let flush = sql::position(&sql::within(question).await?, "flush");
        self.office(|office| office.start_lsn = flush);
        Ok(())
    }

    async fn commit_nonce(&mut self, view: &PrimaryView, member: Member) -> Result<(), StepError> {
        let Some(client) = self.shared.client() else { return Ok(()) };
        let nonce = epochs::commit_row(&client, view.record.epoch, view.record.timeline).await?;
        let since = view.names.since(&member).unwrap_or_default();
        self.office(|office| office.growth = Some(Growth { member, since, nonce }));
        Ok(())
    }

    pub(super) async fn compare_table(
        &mut self,
        member: &Member,
        client: &Client,
    ) -> Result<Next, StepError> {
        let Some((object, _)) = &self.object else { return Ok(Next::Wait) };
        let host = names::node_host(&self.shared.env.pool, member.index, &object.spec.domain);
        let theirs: EpochTable =
            self.link.get_json(&host, names::AGENT_PORT, "/v1/table", TABLE_LIMIT).await?;
        let ours = epochs::table(client).await?;
        let check = compare_tables(&ours.rows, &theirs.rows);
        let equal = matches!(check, crate::membership::joining::TableCheck::Equal { .. });
        let compared = Compared { incarnation: member.incarnation.clone(), check };
        self.office(|office| office.others.entry(member.index).or_default().table = Some(compared));
        Ok(if equal { Next::Again } else { Next::Wait })
    }

    /// Compare-and-swap with what was read; whatever the outcome, it is read again. Where another node knows of a later record
    /// it is read again first: against one that was put back the swap would succeed.
    pub(super) async fn write_record(&mut self, record: Record) -> Result<(), StepError> {
        let Some((object, read_at)) = self.object.clone() else { return Ok(()) };
        let before = object.status.clone();
        self.stale = true;
        let epoch = before.as_ref().map_or(0, |record| record.epoch);
        let told = self.shared.lock().told;
        if told.is_ahead(epoch, read_at) {
            // An earlier write, of which no answer came, may have landed, too.
            self.read_record().await?;
            self.note_removed(before.as_ref());
            return Ok(());
        }
        let asked = clock::now();
        match self.store.write(&object, record).await {
            // As good as a read: it is what the API server had at the moment of the write.
            Ok(written) => self.take(written, asked)?,
            Err(RecordError::Conflict) => self.read_record().await?,
            Err(error) => {
                self.delay_election();
                self.read_record().await?;
                return Err(error.into());
            }
        }
        self.note_removed(before.as_ref());
        Ok(())
    }

    /// A node that was removed, or that was given up before it was added, is not added again at once.
    fn note_removed(&mut self, before: Option<&Record>) {
        let Some((record, before)) = self.record().zip(before) else { return };
        let removed = before.attached.iter().filter(|m| !record.attached.contains(m));
        // The same set once more: a name was given up before it was added.
        let touched = record.epoch > before.epoch && record.attached == before.attached;
        let listed = self.names.listed.iter().map(|l| &l.member).filter(|_| touched);
        let given_up = listed.filter(|m| !record.attached.contains(m));
        let gone: Vec<u8> = removed.chain(given_up).map(|m| m.index).collect();
        let (now, shared) = (clock::now(), self.shared.clone());
        let mut inner = shared.lock();
        let Some(office) = inner.office.as_mut() else { return };
        office.now = now;
        let (limit, stalled) = (office.wish.timings.detach_lag(), touched && office.is_stalled());
        for index in gone {
            let other = office.others.entry(index).or_default();
            let slow = other.lag.is_some_and(|lag| lag > limit) || stalled;
            other.not_before = Some(self.returns.after(now, index, slow));
        }
    }

    pub(super) async fn let_clients_in(&mut self, client: &Client) -> Result<(), StepError> {
        if let Some(pg) = self.pg.as_mut() {
            pg.open(&self.conf).await?;
        }
        {
            let mut inner = self.shared.lock();
            inner.report.open = true;
            inner.report.draining = false;
        }
        self.note_bootstrapped(client).await
    }
}
