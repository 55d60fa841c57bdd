//! What the agent's tasks share: the driver writes it, the HTTP server and the beats read it.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_postgres::Client;

use super::env::Env;
use crate::api::v1alpha1::{Member, Record};
use crate::clock::{self, Moment};
use crate::membership::lease::ReadLease;
use crate::membership::primary::{PrimaryView, grants, own_lease};
use crate::membership::rules::Rules;
use crate::membership::standby;
use crate::messages::{Answer, Beat, Join, NodeReport, PROTOCOL, Role, Stamp};

/// Everything that the tasks share.
pub struct Shared {
    /// Who this agent is.
    pub env: Env,
    /// Wakes the driver.
    pub wake: Arc<Notify>,
    client: Mutex<Option<Arc<Client>>>,
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

/// The state behind the lock; held for moments only.
pub struct Inner {
    /// Last report of the driver; what depends on the time is filled in when it is sent.
    pub report: NodeReport,
    /// Newest record known.
    pub record: Option<Record>,
    /// This node's copy of the data.
    pub member: Option<Member>,
    /// Read lease of this start of Postgres.
    pub lease: ReadLease,
    /// What a primary observes; none while this node's Postgres isn't up as a primary.
    pub office: Option<PrimaryView>,
    /// When a beat of the record's primary came in last.
    pub beaten: Option<Moment>,
    /// True once the agent is ending: it serves nobody any more.
    pub ending: bool,
}

/// Without a beat for so long the primary counts as away.
const BEATEN_LATELY: Duration = Duration::from_secs(5);

fn empty_report(env: &Env, boot: &str) -> NodeReport {
    NodeReport {
        protocol: PROTOCOL,
        pool_uid: String::new(),
        index: env.index,
        incarnation: None,
        boot: boot.to_owned(),
        epoch: 0,
        role: Role::Stopped,
        open: false,
        lease_ms: 0,
        streaming: false,
        timeline: None,
        lsn: None,
        lag_ms: None,
        join: Join::Unknown,
        message: "starting".into(),
        needs_person: false,
        postgres_version: None,
        volume_bytes: 0,
        volume_free: 0,
        archive_bytes: 0,
        archive_error: None,
        backups: Vec::new(),
        replicas: Vec::new(),
        synchronous: Vec::new(),
        attach_note: String::new(),
        bootstrapped: false,
    }
}

impl Shared {
    /// For a start of the agent; `boot` stands until Postgres is started.
    pub fn new(env: Env, boot: &str) -> Arc<Self> {
        let inner = Inner {
            report: empty_report(&env, boot),
            record: None,
            member: None,
            lease: ReadLease::new(boot),
            office: None,
            beaten: None,
            ending: false,
        };
        Arc::new(Self {
            env,
            wake: Arc::new(Notify::new()),
            client: Mutex::new(None),
            inner: Mutex::new(inner),
            version: watch::channel(0).0,
        })
    }

    /// The state. A panic elsewhere can't leave it half written: each section writes whole values.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

fn millis(span: Duration) -> u64 {
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
                let length = Duration::from_millis(u64::from(office.wish.timings.lease_ms));
                millis(own_lease(office).rest(now, length))
            }),
            Role::Standby => millis(self.lease.rest(now)),
        };
        if report.role == Role::Standby {
            report.open &= self.lease.valid(now) && self.attached();
        }
        report.open &= !self.ending;
        report
    }

    /// Takes a beat of the primary and answers it.
    pub fn beat(&mut self, now: Moment, beat: &Beat) -> Answer {
        let known = self.record.as_ref().map_or(0, |r| r.epoch);
        let of_primary = self.record.as_ref().is_some_and(|r| r.primary == beat.from);
        let standby = self.report.role == Role::Standby && !self.ending;
        if of_primary {
            self.beaten = Some(now);
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
            index: report.index,
            incarnation: report.incarnation.clone(),
            stamp,
            role: report.role,
            serves_nobody,
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
        let (pool_uid, from) = (self.report.pool_uid.clone(), self.report.index);
        let office = self.office_at(now)?;
        let beat = Beat {
            pool_uid,
            epoch: office.record.epoch,
            from,
            echo: flush_lsn.and_then(|_| grants(office, index)),
            lease_ms: office.wish.timings.lease_ms,
            flush_lsn: flush_lsn.unwrap_or(u64::MAX),
        };
        office.others.entry(index).or_default().contact.sent(now, &beat);
        Some(beat)
    }

    /// Notes the answer to a beat; true when it brings news that the driver should look at.
    pub fn answered(&mut self, sent: Moment, beat: &Beat, answer: Answer) -> bool {
        let Some(office) = self.office.as_mut() else { return false };
        let contact = &mut office.others.entry(answer.index).or_default().contact;
        let key = |a: &Answer| {
            (a.epoch, a.role, a.streaming, a.join.clone(), a.incarnation.clone(), a.serves_nobody)
        };
        let news = contact.answer.as_ref().is_none_or(|old| key(old) != key(&answer));
        contact.answered(sent, beat.epoch, answer);
        news
    }
}
