//! What the agent's tasks share: the driver writes it, the HTTP server and the beats read it.
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::abandoned::Fronts;
use super::election::Probe;
use super::env::Env;
use super::logins::Logins;
use super::sql::Client;
use crate::api::v1alpha1::{LoadBalancing, Member, PgPoolMembership, Record};
use crate::clock::{self, Moment};
use crate::link::Identity;
use crate::membership::election::Heard;
use crate::membership::handover::Answers;
use crate::membership::lease::{LongestLease, ReadLease};
use crate::membership::primary::{PrimaryView, grants, own_lease};
use crate::membership::putback::Told;
use crate::membership::rules::Rules;
use crate::membership::standby;
use crate::messages::{Answer, Beat, NodeReport, Role, Stamp, Vote};

/// Everything that the tasks share.
pub struct Shared {
    /// Who this agent is.
    pub env: Env,
    /// Wakes the driver.
    pub wake: Arc<Notify>,
    client: Mutex<Option<Arc<Client>>>,
    inner: Mutex<Inner>,
    pub(super) probe: Mutex<Probe>,
    /// The last version of the object that the watch has brought, until the driver takes it.
    news: Mutex<Option<PgPoolMembership>>,
    version: watch::Sender<u64>,
    /// The secret of this data from which verifiers are made up for roles that aren't there.
    pub(super) mock: OnceLock<String>,
    pub(super) logins: Logins,
    pub(super) fronts: Fronts,
    /// The certificates, once they were read.
    pub(super) identity: OnceLock<Identity>,
}

/// The state behind the lock; held for moments only.
pub struct Inner {
    /// Last report of the driver; what depends on the time is filled in when it is sent.
    pub report: NodeReport,
    /// Newest record known.
    pub record: Option<Record>,
    /// The latest epoch that others of the pool have told of, or that stands in the volume.
    pub told: Told,
    /// How reads shall be spread.
    pub balance: LoadBalancing,
    /// How many nodes the pool shall have; none before the object was read.
    pub nodes: Option<u8>,
    /// This node's copy of the data.
    pub member: Option<Member>,
    /// The database system that this copy is of, and that of the primary, as its last beat has it.
    pub system_id: Option<u64>,
    pub primary_system_id: Option<u64>,
    /// Read lease of this start of Postgres.
    pub lease: ReadLease,
    /// What a primary observes; none while this node's Postgres isn't up as a primary.
    pub office: Option<PrimaryView>,
    /// When a beat of the record's primary came in last.
    pub beaten: Option<Moment>,
    /// Since when a beat of this primary could have come in: its silence counts from here.
    pub watched: Moment,
    /// How long the primary before had been silent when its office ended.
    pub silence: Duration,
    /// Beats that were answered with their own epoch, of which others may still make use (R4).
    pub answers: Answers,
    /// Start of this agent: what it answered before is forgotten.
    pub agent_started: Moment,
    /// The longest lease that may be alive, and what of it stands in the volume, in milliseconds.
    pub longest: LongestLease,
    pub longest_written: u32,
    /// Votes of the election under way, one for each index.
    pub votes: Vec<Heard>,
    /// When Postgres last answered a question, or was started.
    pub postgres_seen: Moment,
    /// True once the agent is ending: it serves nobody any more.
    pub ending: bool,
}

/// Without a beat for so long the primary counts as away.
const BEATEN_LATELY: Duration = Duration::from_secs(5);

/// For so long a Postgres that was started may replay before its silence counts; not once clients were let in.
const STARTING: Duration = Duration::from_secs(30);

impl Shared {
    /// For a start of the agent; `boot` stands until Postgres is started.
    pub fn new(env: Env, boot: &str) -> Arc<Self> {
        let inner = Inner {
            report: NodeReport::unknown(env.index, boot),
            record: None,
            told: Told::default(),
            balance: LoadBalancing::default(),
            nodes: None,
            member: None,
            system_id: None,
            primary_system_id: None,
            lease: ReadLease::new(boot),
            office: None,
            beaten: None,
            watched: clock::now(),
            silence: Duration::ZERO,
            answers: Answers::default(),
            agent_started: clock::now(),
            longest: LongestLease::default(),
            longest_written: 0,
            votes: Vec::new(),
            postgres_seen: clock::now(),
            ending: false,
        };
        Arc::new(Self {
            env,
            wake: Arc::new(Notify::new()),
            client: Mutex::new(None),
            inner: Mutex::new(inner),
            probe: Mutex::new(Probe::default()),
            news: Mutex::new(None),
            version: watch::channel(0).0,
            mock: OnceLock::new(),
            logins: Logins::default(),
            fronts: Fronts::default(),
            identity: OnceLock::new(),
        })
    }

    /// The state. A panic elsewhere can't leave it half written: each section writes whole values.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watch has brought a version of the object.
    pub fn bring_news(&self, object: PgPoolMembership) {
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
    }

    /// Whether the record that the watch has brought last counts this node.
    pub fn is_counted(&self) -> bool {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let record = news.as_ref().and_then(|object| object.status.as_ref());
        record.is_some_and(|record| record.attached.iter().any(|member| member.index == self.env.index))
    }

    /// Whether the pool, as the watch has brought it last, has no record yet and this node is to begin it.
    pub fn begins(&self) -> bool {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.as_ref().is_some_and(|o| o.status.is_none() && o.spec.bootstrap == self.env.index)
    }

    /// What the watch has brought last, once.
    pub fn take_news(&self) -> Option<PgPoolMembership> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The driver's session, for the handlers' questions.
    pub fn client(&self) -> Option<Arc<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands the driver's session to the handlers, or takes it away.
    pub fn set_client(&self, client: Option<Arc<Client>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// Tells the watchers that the report has changed.
    pub fn changed(&self) {
        self.version.send_modify(|v| *v += 1);
    }

    /// Wakes at each change of the report.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The report as of now.
    pub fn report(&self) -> NodeReport {
        self.lock().report_at(clock::now())
    }
}

/// Milliseconds, as messages have them.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Inner {
    /// Whether the record counts this node and its copy.
    pub fn attached(&self) -> bool {
        match (&self.record, &self.member) {
            (Some(record), Some(me)) => standby::is_attached(record, me, Rules::ALL),
            _ => false,
        }
    }

    /// Whether the primary has been heard of in the last seconds.
    pub fn beaten_lately(&self, now: Moment) -> bool {
        self.beaten.is_some_and(|at| now.since(at) < BEATEN_LATELY)
    }

    fn office_at(&mut self, now: Moment) -> Option<&mut PrimaryView> {
        let office = self.office.as_mut()?;
        office.now = now;
        Some(office)
    }

    /// The report with what depends on the time.
    pub fn report_at(&mut self, now: Moment) -> NodeReport {
        let mut report = self.report.clone();
        report.lease_ms = match report.role {
            Role::Stopped => 0,
            Role::Primary => self.office_at(now).map_or(0, |office| {
                let length = office.wish.timings.lease();
                millis(own_lease(office).rest(now, length))
            }),
            Role::Standby => millis(self.lease.rest(now)),
        };
        if report.role == Role::Standby {
            report.open &= self.lease.valid(now) && self.attached();
        }
        report.open &= !self.ending;
        report.weight = self.balance.weight(report.index, report.role == Role::Primary);
        report.nodes = self.nodes;
        report.seen = self.seen();
        report
    }

    /// Latest epoch that is known of.
    fn seen(&self) -> i64 {
        self.record.as_ref().map_or(0, |record| record.epoch).max(self.told.epoch)
    }

    /// Takes a beat of the primary and answers it.
    pub fn beat(&mut self, now: Moment, beat: &Beat) -> Answer {
        self.told.hear(beat.epoch, beat.from, now);
        let known = self.record.as_ref().map_or(0, |r| r.epoch);
        let of_primary = self.record.as_ref().is_some_and(|r| r.primary == beat.from);
        let standby = self.report.role == Role::Standby && !self.ending;
        if of_primary {
            self.beaten = Some(now);
            self.primary_system_id = beat.system_id.or(self.primary_system_id);
        }
        if known == beat.epoch {
            self.longest.hear(beat.lease_ms.max(beat.longest_ms), now);
            let lease = self.longest_lease(beat.lease_ms);
            if let Some(record) = &self.record {
                self.answers.note(record, now, lease);
            }
        }
        if standby && of_primary && self.attached() {
            // The driver's last look at the replayed position is older than the beat: it only delays the
            // first lease.
            self.lease.beat(now, beat, known, self.report.lsn);
        }
        // Serving nobody is a word that binds until the next lease (R5): it ends this one. A lease that was
        // just given isn't ended by the moment that it takes to open the gate.
        let serves_nobody =
            self.report.role == Role::Stopped || (!self.report.open && !self.lease.valid(now));
        let stamp = self.lease.answer(now, serves_nobody);
        self.answer(known, stamp, serves_nobody)
    }

    fn answer(&self, epoch: i64, stamp: Stamp, serves_nobody: bool) -> Answer {
        let report = &self.report;
        Answer {
            pool_uid: report.pool_uid.clone(),
            epoch,
            seen: self.seen(),
            index: report.index,
            incarnation: report.incarnation.clone(),
            stamp,
            role: report.role,
            serves_nobody,
            leaving: self.ending && report.role == Role::Stopped,
            join: report.join.clone(),
            streaming: report.streaming,
            timeline: report.timeline,
            replay_lsn: report.lsn,
        }
    }

    /// The beat for a node, and notes that it goes out; none when this node is no primary. `flush_lsn` was
    /// read after the node's last answer came in, or no lease is given.
    pub fn beat_for(&mut self, now: Moment, index: u8, flush_lsn: Option<u64>) -> Option<Beat> {
        if self.report.role != Role::Primary || self.ending {
            return None;
        }
        // A primary whose Postgres hangs falls silent, so that another takes over.
        let hangs = now.since(self.postgres_seen);
        let (pool_uid, from, system_id) = (self.report.pool_uid.clone(), self.report.index, self.system_id);
        let office = self.office_at(now)?;
        let starting = !office.open && now.since(office.started) < STARTING;
        if hangs > office.wish.timings.detach_after() && !starting {
            return None;
        }
        let beat = Beat {
            pool_uid,
            epoch: office.record.epoch,
            from,
            echo: flush_lsn.and_then(|_| grants(office, index)),
            lease_ms: office.wish.timings.lease_ms,
            longest_ms: office.names.lease_ms,
            flush_lsn: flush_lsn.unwrap_or(u64::MAX),
            system_id,
        };
        office.others.entry(index).or_default().contact.sent(now, &beat);
        Some(beat)
    }

    /// The longest lease that may be alive: one that a beat has named, or `wished_ms`.
    pub fn longest_lease(&self, wished_ms: u32) -> Duration {
        Duration::from_millis(u64::from(self.longest.length_ms().max(wished_ms)))
    }

    /// The length that has to stand in the volume before this beat is answered, or a start of the agent would not know
    /// how long to wait; none where it does.
    pub fn longest_to_write(&self, now: Moment, beat: &Beat) -> Option<u32> {
        let mut next = self.longest;
        next.hear(beat.lease_ms.max(beat.longest_ms), now);
        (self.member.is_some() && next.length_ms() != self.longest_written).then_some(next.length_ms())
    }

    /// Takes a vote; true when it says something new.
    pub fn vote(&mut self, now: Moment, vote: Vote) -> bool {
        let news = !self.votes.iter().any(|h| h.vote == vote);
        self.votes.retain(|h| h.vote.index != vote.index);
        self.votes.push(Heard { vote, at: now });
        news
    }

    /// This node's own vote in an election; none once it is ending, since it could not take office any more.
    pub fn own_vote(&self, epoch: i64) -> Option<Vote> {
        if self.ending {
            return None;
        }
        let own = self.votes.iter().map(|h| &h.vote).find(|v| v.index == self.report.index)?;
        (own.epoch == epoch).then(|| own.clone())
    }

    /// Takes another node's word for the epoch that it knows; nothing of another pool's.
    pub fn hear_report(&mut self, report: &NodeReport) {
        if report.pool_uid == self.report.pool_uid {
            self.told.hear(report.seen, report.index, clock::now());
        }
    }

    /// When the primary was heard last, or began to be listened to.
    pub fn heard(&self) -> Moment {
        self.beaten.map_or(self.watched, |at| at.max(self.watched))
    }

    /// Another office begins: silence counts from now.
    pub fn watch_anew(&mut self, now: Moment) {
        self.silence = now.since(self.beaten.unwrap_or(self.watched));
        self.beaten = None;
        self.watched = now;
    }

    /// Notes the answer to a beat; true when it brings news that the driver should look at.
    pub fn answered(&mut self, sent: Moment, beat: &Beat, answer: Answer) -> bool {
        self.told.hear(answer.seen.max(answer.epoch), answer.index, clock::now());
        let Some(office) = self.office.as_mut() else { return false };
        let contact = &mut office.others.entry(answer.index).or_default().contact;
        let key = |a: &Answer| {
            let seen = a.seen.max(a.epoch);
            (
                seen,
                a.epoch,
                a.role,
                a.streaming,
                a.join.clone(),
                a.incarnation.clone(),
                a.serves_nobody,
                a.leaving,
            )
        };
        let news = contact.answer.as_ref().is_none_or(|old| key(old) != key(&answer));
        contact.answered(sent, beat.epoch, answer);
        news
    }
}
