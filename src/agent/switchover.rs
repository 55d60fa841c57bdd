//! Handing over (R14): the primary leaves its office in order, so that another takes it without a wait.
use std::time::Duration;

use super::node::{Next, Node, StepError};
use super::observe;
use super::server::Stop;
use super::sql::{self, Client};
use crate::api::v1alpha1::{Member, Phase, Record};
use crate::clock::{self, Moment};
use crate::membership::names::application_name;
use crate::messages::RefusedHandover;

/// Longest time for open transactions to end before their sessions are ended.
const DRAIN: Duration = Duration::from_secs(2);
/// Fronts have heard that the primary hands over once nobody has begun anything for so long.
const HEARD: Duration = Duration::from_millis(60);
/// Longest time until the attached standbys have applied everything.
const APPLY: Duration = Duration::from_secs(3);
/// A standby without a walsender for so long is lost, unless the pod is being stopped: then it is waited for.
const GONE: Duration = Duration::from_millis(500);
/// Longest wait for a checkpoint; it goes on beside the handover or the restart.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// The same, while the pod is being stopped: nobody says how long it may take.
const CHECKPOINT_ENDING: Duration = Duration::from_millis(500);
/// Longest time for Postgres to write its last record and to bring it to the standbys; it is waited for after that.
const WIND_UP: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Tries to say that this primary has stopped, should others write the record meanwhile.
const WORDS: usize = 5;

/// Who is to be the next primary, and how much time there is.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The node; none: any attached standby.
    pub to: Option<u8>,
    /// Why, for people.
    pub why: String,
    /// True while the pod is being stopped: then nothing forbids it.
    pub ending: bool,
}

impl Wanted {
    /// The pod is being stopped.
    pub(super) fn for_the_pod() -> Self {
        Self { to: None, why: "its pod is being stopped".into(), ending: true }
    }
}

impl Node {
    /// A switchover that the spec asks for, unless this node has given it up already.
    pub(super) fn switchover_wanted(&self, record: &Record) -> Option<(Wanted, String)> {
        let (object, _) = self.object.as_ref()?;
        let wish = object.spec.switchover.as_ref()?;
        let refused = self.shared.lock().report.refused_handover.as_ref().is_some_and(|r| r.id == wish.id);
        let due = wish.timeline == record.timeline && wish.to != Some(self.me()) && !refused;
        let why = "a switchover was asked for".to_owned();
        due.then(|| (Wanted { to: wish.to, why, ending: false }, wish.id.clone()))
    }

    /// Carries it out, or says why not. The checkpoint comes first, beside the office: a standby that dies meanwhile
    /// is removed as ever.
    pub(super) async fn switch_over(
        &mut self,
        wanted: &Wanted,
        id: &str,
        client: &Client,
    ) -> Result<Next, StepError> {
        if self.cannot(wanted).is_none() && !self.has_checkpoint(id) {
            return Ok(Next::Wait);
        }
        // Without the API nobody could take over, and the word would bind this node all the same.
        self.stale = true;
        self.read_record().await?;
        if self.stale || self.foreign.is_some() {
            return Ok(Next::Wait);
        }
        match self.hand_over(wanted, client).await? {
            Ok(()) => Ok(Next::Again),
            Err(why) => {
                tracing::warn!(why, "the switchover is given up");
                self.shared.lock().report.refused_handover = Some(RefusedHandover { id: id.to_owned(), why });
                self.shared.changed();
                Ok(Next::Again)
            }
        }
    }

    /// Whether the checkpoint for this switchover, or for the restart of this start of Postgres, is done, or takes too long;
    /// begins it.
    pub(super) fn has_checkpoint(&mut self, id: &str) -> bool {
        match &self.checkpoint {
            Some((known, task, begun)) if known == id => {
                task.is_finished() || clock::now().since(*begun) >= CHECKPOINT
            }
            _ => {
                let shared = self.shared.clone();
                let task = tokio::spawn(async move {
                    checkpoint().await;
                    shared.wake.notify_one();
                });
                self.checkpoint = Some((id.to_owned(), task, clock::now()));
                false
            }
        }
    }

    /// Why another node can't take over now.
    pub(super) fn cannot(&self, wanted: &Wanted) -> Option<String> {
        let Some((object, _)) = &self.object else { return Some("there is no record".into()) };
        let Some(record) = &object.status else { return Some("there is no record".into()) };
        if record.phase != Phase::Serving || record.primary != self.me() {
            return Some("this node is not the primary in office".into());
        }
        let others: Vec<u8> = record.attached.iter().map(|m| m.index).filter(|i| *i != self.me()).collect();
        if others.is_empty() {
            return Some("no standby is attached".into());
        }
        if let Some(to) = wanted.to.filter(|to| !others.contains(to)) {
            return Some(format!("node {to} is not an attached standby"));
        }
        let min = usize::from(object.spec.min_attached);
        (others.len() < min && !wanted.ending)
            .then(|| format!("fewer than minAttached ({min}) nodes would stay attached"))
    }

    /// The handover itself: `Err` says why it was given up, this node then is in office as before.
    pub(super) async fn hand_over(
        &mut self,
        wanted: &Wanted,
        client: &Client,
    ) -> Result<Result<(), String>, StepError> {
        if let Some(why) = self.cannot(wanted) {
            return Ok(Err(why));
        }
        tracing::info!(?wanted, "hands over");
        self.say("hands over to another primary");
        if wanted.ending && tokio::time::timeout(CHECKPOINT_ENDING, tokio::spawn(checkpoint())).await.is_err()
        {
            tracing::info!("the checkpoint goes on beside the handover");
        }
        let was_open = self.pg.as_ref().is_some_and(super::postgres::Postgres::is_open);
        // The fronts send nobody new here; who is in a transaction may finish it.
        self.shared.lock().report.draining = true;
        self.shared.changed();
        let drained = self.drain(client).await;
        let applied = match drained {
            Ok(()) => self.all_applied(client, wanted.ending).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(true) => {}
            Ok(false) if wanted.ending => tracing::warn!("a standby lags: it is left to the election"),
            Ok(false) => {
                self.take_back(was_open, client).await?;
                return Ok(Err("an attached standby was lost, or did not apply everything in time".into()));
            }
            Err(error) => {
                self.take_back(was_open, client).await?;
                return Err(error);
            }
        }
        let senders = match self.senders(client).await {
            Ok(senders) => senders,
            Err(error) => {
                self.take_back(was_open, client).await?;
                return Err(error);
            }
        };
        if self.wind_up(&senders).await {
            let told = self.give_word(wanted).await;
            // Whatever came of that: what is left of Postgres is ended, or nobody would.
            self.end_postgres(Stop::Fast).await?;
            told?;
        } else {
            self.end_postgres(Stop::Fast).await?;
            self.give_word(wanted).await?;
        }
        Ok(Ok(()))
    }

    /// The walsenders of the attached standbys, by their pids.
    async fn senders(&self, client: &Client) -> Result<Vec<i32>, StepError> {
        let attached = self.record().map(|record| record.attached.clone()).unwrap_or_default();
        let names: Vec<String> = attached.iter().map(application_name).collect();
        let text = "SELECT pid FROM pg_stat_replication WHERE application_name = ANY($1)";
        let rows = sql::within(client.query(text, &[&names])).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Gives the word, also where somebody else writes the object meanwhile.
    pub(super) async fn give_word(&mut self, wanted: &Wanted) -> Result<(), StepError> {
        for _ in 0..WORDS {
            let me = self.me();
            if !self.record().is_some_and(|r| r.phase == Phase::Serving && r.primary == me) {
                break;
            }
            self.depose_self(wanted.to, &wanted.why).await?;
        }
        Ok(())
    }

    /// Has Postgres stop in order, up to where only its archiver is left: the others needn't wait for that. From
    /// then on no lease is given either, so this node may say that it serves nobody (R5).
    async fn wind_up(&mut self, senders: &[i32]) -> bool {
        let data = self.volume.data();
        let Some(pg) = &self.pg else { return false };
        let done = pg.server.wind_up(&data, senders, WIND_UP).await;
        if done {
            self.beats = None;
            self.shared.lock().office = None;
        }
        done
    }

    /// Waits until no session is in a transaction, which fronts begin no more, but not for ever; then lets nobody in, and
    /// ends the sessions. Not before: a front that hasn't heard yet would send a statement to one that ends.
    async fn drain(&mut self, client: &Client) -> Result<(), StepError> {
        let deadline = clock::now().after(DRAIN);
        let mut calm: Option<Moment> = None;
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
                      AND usename IS DISTINCT FROM 'postgres' AND state <> 'idle'";
        while clock::now() < deadline {
            let left: i64 = sql::within(client.query_one(busy, &[])).await?.get(0);
            let now = clock::now();
            calm = (left == 0).then(|| calm.unwrap_or(now));
            if calm.is_some_and(|since| now.since(since) >= HEARD) {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        self.shared.lock().report.open = false;
        self.shared.changed();
        if let Some(pg) = self.pg.as_mut() {
            pg.shut(&self.conf).await?;
        }
        Ok(())
    }

    /// Whether every attached standby has applied all that there is.
    async fn all_applied(&self, client: &Client, ending: bool) -> Result<bool, StepError> {
        let Some(record) = self.record().cloned() else { return Ok(false) };
        let row = sql::within(client.ask_one("SELECT pg_current_wal_flush_lsn()::text AS flush")).await?;
        let flush = sql::position(&row, "flush").unwrap_or(u64::MAX);
        let deadline = clock::now().after(APPLY);
        let mut missing: Option<Moment> = None;
        while clock::now() < deadline {
            let facts = observe::primary(client).await?;
            let applied = |index: u8, incarnation: &str| {
                facts.replicas.iter().any(|r| {
                    r.index == index
                        && r.incarnation == incarnation
                        && r.replay_lsn.is_some_and(|l| l >= flush)
                })
            };
            let others = || record.attached.iter().filter(|m| m.index != self.me());
            if others().all(|m| applied(m.index, &m.incarnation)) {
                return Ok(true);
            }
            let gone = |m: &Member| !facts.replicas.iter().any(|r| r.index == m.index);
            let now = clock::now();
            missing = others().any(gone).then(|| missing.unwrap_or(now));
            if missing.is_some_and(|since| now.since(since) > GONE && !ending) {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(false)
    }

    /// Opens again: same office, same epoch. A gate that had never been opened stays shut, until its time has come.
    async fn take_back(&mut self, was_open: bool, client: &Client) -> Result<(), StepError> {
        self.shared.lock().report.draining = false;
        if was_open {
            self.let_clients_in(client).await?;
        }
        self.shared.changed();
        Ok(())
    }

    /// Stops Postgres and notes that it has ended.
    pub(super) async fn end_postgres(&mut self, how: Stop) -> Result<(), StepError> {
        if let Some(pg) = &self.pg {
            pg.stop(how).await;
        }
        let ended = self.postgres_ended().await;
        self.shared.changed();
        ended
    }
}

/// A checkpoint before the sessions are cut, so that the one at the stop has little to write.
async fn checkpoint() {
    let work = async {
        let session = sql::connect("postgres").await.map_err(|e| e.to_string())?;
        session.batch_execute("CHECKPOINT").await.map_err(|e| e.to_string())
    };
    if let Err(error) = work.await {
        tracing::warn!(error, "checkpoint before a handover or a restart");
    }
}
