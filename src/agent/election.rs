//! The agent in an election (R2): it follows nobody any more, says how far it is, and says so if it is chosen.
use std::sync::Arc;
use std::time::Duration;

use super::files::Word;
use super::node::{Next, Node, StepError};
use super::observe;
use super::shared::{Shared, millis};
use super::sql::Client;
use super::volume::write_json;
use crate::api::v1alpha1::{Member, Phase, Record};
use crate::clock::{self, Moment};
use crate::link::LinkError;
use crate::membership::election::{self, Booth, Suspicion};
use crate::membership::handover::{Answers, Handover};
use crate::membership::record;
use crate::messages::{NodeReport, Role, Standing, Vote};
use crate::names;

/// Between two looks at a walreceiver that is going and at a replay that is draining; PostgreSQL wakes nobody.
const POLL: Duration = Duration::from_millis(5);
/// Looks before the driver goes on; it comes back.
const LOOKS: usize = 40;
/// Longest time for a vote, or a question whether the primary is still there, or what another node knows.
pub(super) const ASK: Duration = Duration::from_millis(500);

/// The election under way, as this agent knows it.
#[derive(Clone, Debug)]
pub struct Election {
    /// Its record.
    pub record: Record,
    /// When this agent first knew of it.
    pub since: Moment,
    /// How long the primary had been silent then.
    pub silence: Duration,
    /// The Postgres of this standby gave no session, and was stopped to vote.
    pub(super) unseen: bool,
    posted: Option<Moment>,
}

/// What an agent has found out of the primary that it follows, by asking it.
#[derive(Debug, Default)]
pub struct Probe {
    /// Why it is gone.
    pub gone: Option<Gone>,
    running: bool,
}

/// That a primary was found to be gone. It counts in one epoch, and until the primary is heard again: it may
/// have been started in place meanwhile.
#[derive(Debug)]
pub struct Gone {
    epoch: i64,
    found: Moment,
    why: String,
}

impl Node {
    /// Notes the election that the record speaks of.
    pub(super) fn note_election(&mut self, record: &Record) {
        if self.election.as_ref().is_some_and(|e| e.record == *record) {
            return;
        }
        let now = clock::now();
        let mut inner = self.shared.lock();
        let silence = inner.silence;
        inner.votes.retain(|h| h.vote.epoch == record.epoch);
        drop(inner);
        tracing::info!(epoch = record.epoch, reason = record.reason, "a primary is being chosen");
        self.election =
            Some(Election { record: record.clone(), since: now, silence, unseen: false, posted: None });
    }

    /// A standby votes: once its walreceiver is gone and its replay has drained, nobody can be told by its word
    /// that something is safe.
    pub(super) async fn vote_as_standby(
        &mut self,
        record: &Record,
        client: &Client,
    ) -> Result<Next, StepError> {
        self.note_election(record);
        self.say("a primary is being chosen: follows nobody");
        if self.shared.lock().own_vote(record.epoch).is_none() {
            self.follow_settings(record).await?;
            let Some(lsn) = drained(client).await? else { return Ok(Next::Wait) };
            // All attached nodes hold one history, so the position alone says who is further.
            self.cast(record, Standing::Standby, record.timeline, lsn);
        }
        self.count(record).await
    }

    /// The primary of the office that is voted on, alive or stopped, votes too.
    pub(super) async fn vote_as_primary(
        &mut self,
        record: &Record,
        standing: Standing,
    ) -> Result<Next, StepError> {
        self.note_election(record);
        if self.shared.lock().own_vote(record.epoch).is_none_or(|own| own.standing != standing) {
            self.cast(record, standing, record.timeline, 0);
        }
        self.count(record).await
    }

    /// The API can't be reached: whoever doesn't write its choice may not be to blame.
    pub(super) fn delay_election(&mut self) {
        if let Some(election) = &mut self.election {
            election.since = clock::now();
        }
    }

    pub(super) fn cast(&self, record: &Record, standing: Standing, timeline: u32, lsn: u64) {
        let now = clock::now();
        let wished = self.object.as_ref().map_or(0, |(object, _)| object.spec.timings.lease_ms);
        let mut inner = self.shared.lock();
        let Some(member) = inner.member.clone() else { return };
        // The other node's offices can only be known in part; what is certain is what this start forgot.
        let lease = inner.longest_lease(wished);
        let gate = Handover::new(&Answers::default(), inner.agent_started, None, record, lease);
        let vote = Vote {
            pool_uid: inner.report.pool_uid.clone(),
            epoch: record.epoch,
            index: member.index,
            incarnation: member.incarnation,
            standing,
            timeline,
            lsn,
            gated_ms: millis(gate.over_at().since(now)),
        };
        tracing::info!(?vote, "votes");
        inner.vote(now, vote);
    }

    /// Tells the others, and ends the election if this node is chosen.
    pub(super) async fn count(&mut self, record: &Record) -> Result<Next, StepError> {
        let now = clock::now();
        let Some(own) = self.shared.lock().own_vote(record.epoch) else { return Ok(Next::Wait) };
        self.post(record, &own, now);
        let (Some((object, _)), Some(known)) = (&self.object, &self.election) else { return Ok(Next::Wait) };
        let patience = object.spec.timings.detach_after();
        let me = Member { index: own.index, incarnation: own.incarnation.clone() };
        let (choice, late) = {
            let mut inner = self.shared.lock();
            // The own vote holds as long as this step does.
            inner.vote(now, own);
            let votes = &inner.votes;
            let booth = Booth { now, me: &me, record, since: known.since, votes, patience };
            (election::choose(&booth), election::is_late(&booth))
        };
        let Some(choice) = choice else { return Ok(Next::Wait) };
        if late {
            // Nobody is passed over for an outage of the API: a read that fails begins the time anew.
            self.stale = true;
            self.read_record().await?;
            if self.stale || self.record() != Some(record) {
                return Ok(Next::Wait);
            }
        }
        tracing::info!(?choice, "chosen");
        self.write_record(choice).await?;
        Ok(if self.stale { Next::Wait } else { Next::Again })
    }

    /// Sends the own vote to the other attached nodes, once a heartbeat; each answers with its own.
    fn post(&mut self, record: &Record, own: &Vote, now: Moment) {
        let Some((object, _)) = &self.object else { return };
        let heartbeat = object.spec.timings.heartbeat();
        let Some(known) = &mut self.election else { return };
        if known.posted.is_some_and(|at| now.since(at) < heartbeat / 2) {
            return;
        }
        known.posted = Some(now);
        for index in record.attached.iter().map(|m| m.index).filter(|i| *i != own.index) {
            let host = names::node_host(&self.shared.env.pool, index, &object.spec.domain);
            let (link, own, shared) = (self.link.clone(), own.clone(), Arc::clone(&self.shared));
            tokio::spawn(async move {
                let sent = clock::now();
                let answer: Result<Option<Vote>, LinkError> =
                    link.post_json(&host, names::AGENT_PORT, "/v1/vote", &own, ASK).await;
                match answer {
                    Ok(Some(vote)) if vote.index == index && vote.pool_uid == own.pool_uid => {
                        if shared.lock().vote(sent, vote) {
                            shared.wake.notify_one();
                        }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(index, %error, "a vote did not get there"),
                }
            });
        }
    }

    /// An attached standby looks whether its primary is still there, and asks for an election if not.
    pub(super) async fn watch_primary(&mut self, record: &Record) -> Result<Option<Next>, StepError> {
        let suspicion = self.suspicion(record);
        if suspicion.is_some() || self.is_quiet() {
            // As early as can be: what is told counts if it comes before the write.
            self.ask_around();
        }
        let Some(new) = suspicion else { return Ok(None) };
        tracing::warn!(reason = new.reason, "the primary is suspected");
        self.stale = true;
        self.read_record().await?;
        if self.stale {
            return Ok(Some(Next::Wait));
        }
        let Some(record) = self.record().cloned() else { return Ok(None) };
        let Some(new) = self.suspicion(&record) else { return Ok(Some(Next::Again)) };
        self.write_record(new).await?;
        Ok(Some(if self.stale { Next::Wait } else { Next::Again }))
    }

    /// Whether the primary has been silent for half of what makes it suspected.
    fn is_quiet(&self) -> bool {
        let Some((object, _)) = &self.object else { return false };
        let heard = self.shared.lock().heard();
        clock::now().since(heard) > object.spec.timings.grace() / 2
    }

    fn suspicion(&self, record: &Record) -> Option<Record> {
        let (object, _) = self.object.as_ref()?;
        let inner = self.shared.lock();
        let me = inner.member.clone()?;
        let beaten = inner.heard();
        let grace = object.spec.timings.grace();
        drop(inner);
        let probe = self.shared.probe();
        let counts = |gone: &&Gone| gone.epoch == record.epoch && gone.found > beaten;
        let gone = probe.gone.as_ref().filter(counts).map(|gone| gone.why.as_str());
        election::suspect(&Suspicion { now: clock::now(), me: &me, record, beaten, grace, gone })
    }

    /// The walreceiver has ended: the primary's agent is asked whether its Postgres has, too. A closed port says
    /// that the agent is gone, and so is all that runs under it.
    pub(super) fn ask_primary(&self, record: &Record) {
        let Some((object, _)) = &self.object else { return };
        let host = names::node_host(&self.shared.env.pool, record.primary, &object.spec.domain);
        let (link, shared, epoch) = (self.link.clone(), Arc::clone(&self.shared), record.epoch);
        if std::mem::replace(&mut shared.probe().running, true) {
            return;
        }
        tokio::spawn(async move {
            // A beat that comes in after the question says more than its answer.
            let found = clock::now();
            let answer: Result<NodeReport, LinkError> =
                link.get_json(&host, names::AGENT_PORT, "/v1/report", ASK).await;
            if let Ok(report) = &answer {
                shared.lock().hear_report(report);
            }
            let gone = match answer {
                Ok(report) if report.role == Role::Stopped && !report.restarting && report.epoch <= epoch => {
                    Some("its Postgres has ended".to_owned())
                }
                Err(LinkError::Dial { source, .. })
                    if source.kind() == std::io::ErrorKind::ConnectionRefused =>
                {
                    Some("its agent has ended".to_owned())
                }
                Ok(_) | Err(_) => None,
            };
            let mut probe = shared.probe();
            probe.running = false;
            if let Some(why) = gone {
                probe.gone = Some(Gone { epoch, found, why });
                drop(probe);
                shared.wake.notify_one();
            }
        });
    }

    /// Gives the word that the Postgres of this office has ended, and asks for an election (R5). The word is in
    /// the volume before anybody can hear it. Where it can't be written, as on a volume that is full, none is given: the
    /// others choose, and wait for the leases of this office.
    pub(super) async fn depose_self(&mut self, successor: Option<u8>, why: &str) -> Result<Next, StepError> {
        let Some(record) = self.record().cloned() else { return Ok(Next::Wait) };
        if record.phase != Phase::Serving || record.primary != self.me() {
            return Ok(Next::Again);
        }
        let noted = write_json(&word_path(self), &Word { epoch: record.epoch });
        if let Err(error) = &noted {
            tracing::error!(%error, "the word can't be noted: an election is asked for without it");
        }
        let text = format!("node {}, the primary, has stopped: {why}", record.primary);
        match record::depose(&record, successor, noted.is_ok(), &text) {
            Ok(new) => self.write_record(new).await?,
            Err(error) => tracing::error!(%error, "no election can be asked for"),
        }
        Ok(if self.stale { Next::Wait } else { Next::Again })
    }

    /// The epoch in which this node gave its word; none when it never did.
    pub(super) fn word(&self) -> Result<Option<i64>, StepError> {
        let word: Option<Word> = super::volume::read_json(&word_path(self))?;
        Ok(word.map(|w| w.epoch))
    }
}

fn word_path(node: &Node) -> std::path::PathBuf {
    node.volume.conf().join("word.json")
}

/// The position once nothing is received any more and all that was received is applied.
async fn drained(client: &Client) -> Result<Option<u64>, StepError> {
    // Two looks in a row: the first may have caught the startup process just before it read its configuration.
    let mut before = None;
    for _ in 0..LOOKS {
        let seen = observe::drained(client).await?;
        if seen.is_some() && seen == before {
            return Ok(seen);
        }
        before = seen;
        tokio::time::sleep(POLL).await;
    }
    Ok(None)
}

impl Shared {
    /// What was found out of the primary.
    pub(super) fn probe(&self) -> std::sync::MutexGuard<'_, Probe> {
        self.probe.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
