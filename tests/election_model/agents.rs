//! The agents: what they do with what they read, and how an election goes.
use std::time::Duration;

use pgpool_operator::api::v1alpha1::Record;
use pgpool_operator::clock::Moment;
use pgpool_operator::membership::election::{self, Booth, Heard, Suspicion};
use pgpool_operator::membership::joining::{self, ControlData, Fork, JoinView};
use pgpool_operator::membership::record;
use pgpool_operator::membership::rules::Rule;
use pgpool_operator::membership::starting::{self, NodeFile, Start, StartView};
use pgpool_operator::messages::{Join, Standing};

use crate::state::{ANSWERS, Ballot, Entry, Lease, Node, Office, Rec, State};
use crate::views;
use crate::world::{PATIENCE, World};

impl World {
    /// Postgres has ended.
    pub fn stop(n: &mut Node) {
        (n.running, n.open, n.sessions, n.upstream) = (false, false, false, None);
        n.office = Office::NONE;
    }

    /// A write goes out. One at a time: the last has to land, or be void.
    pub fn write(&self, s: &mut State, i: usize, rec: Rec) {
        let view = s.nodes[i].view;
        if !self.legal(&view, &rec) {
            s.illegal = true;
        }
        let n = &mut s.nodes[i];
        if n.write.is_none() && rec.epoch <= self.max_epoch {
            n.write = Some((view.epoch, rec));
        }
        n.must_read = true;
    }

    /// Whether the API server takes the change; it also guards the timelines.
    pub fn legal(&self, old: &Rec, new: &Rec) -> bool {
        let guarded = self.rules.has(Rule::TimelineReserved);
        record::check(Some(&views::record(old)), &views::record(new), 0, false).is_ok() || !guarded
    }

    pub fn start(&self, s: &mut State, i: usize) {
        (s.nodes[i].up, s.nodes[i].ended, s.nodes[i].vote) = (true, false, None);
        self.read(s, i);
        let n = &mut s.nodes[i];
        n.answers = [None; ANSWERS];
        n.begun = Some(0).filter(|_| self.leases && self.rules.has(Rule::OfficeWaitSurvives));
        n.word = n.word.filter(|_| self.rules.has(Rule::WordSurvives));
        n.owed = (None, n.begun);
    }

    /// A consistent read, and what follows from it at once.
    pub fn read(&self, s: &mut State, i: usize) {
        let api = s.api;
        let n = &mut s.nodes[i];
        let (before, member) = (n.view, api.counts(i, n.copy));
        let was_member = before.counts(i, n.copy);
        (n.view, n.must_read, n.office.read_since_start) = (api, false, true);
        if api.serving(i) && before.epoch < api.epoch && !(n.running && n.primary) {
            n.owed = self.owed(n, &before);
        }
        if self.leases && member && !was_member && self.rules.has(Rule::AttachedIsAnswer) {
            Self::note(n);
        }
        if !n.running {
            return;
        }
        let primary = usize::from(api.primary);
        match (n.primary, member) {
            (true, true) if primary == i && !(api.electing && api.stopped) => {}
            (false, true) if api.electing => {
                if self.rules.has(Rule::VoteFenced) {
                    n.upstream = None;
                }
            }
            (false, true) if primary == i => n.upstream = None,
            (false, true) => n.upstream = Some(api.primary),
            // Detached, as long as the timeline is the same: it follows unseen by clients, in an election too.
            (false, false) if before.timeline == api.timeline => n.upstream = Some(api.primary),
            _ => Self::stop(n),
        }
    }

    pub fn suspect(&self, s: &mut State, i: usize) {
        let n = &s.nodes[i];
        let (me, record) = (views::member(i, n.copy), views::record(&n.view));
        let view = Suspicion {
            now: views::NOW,
            me: &me,
            record: &record,
            beaten: Moment::ZERO,
            grace: Duration::ZERO,
            gone: Some("its port is closed"),
        };
        if let Some(new) = election::suspect(&view) {
            self.write(s, i, views::rec(&new));
        }
    }

    /// What the node says of itself in this election, if it can say it yet.
    pub fn ballot(&self, n: &Node, i: usize) -> Option<Ballot> {
        let office = usize::from(n.view.primary) == i;
        let standing = match (n.running, n.primary) {
            (true, true) if office && !n.view.stopped => Standing::InOffice,
            // One that gives no session is stopped to vote.
            (_, false) if !office => Standing::Standby,
            // Also one that runs as a standby, chosen and deposed again before it took office.
            (false, _) | (_, false) if office => Standing::Stopped,
            _ => return None,
        };
        let fenced = n.upstream.is_none() || !self.rules.has(Rule::VoteFenced);
        let drained = n.applied == n.wal.end() || !n.running;
        if standing == Standing::Standby && !(fenced && drained) {
            return None;
        }
        // A primary that runs goes on writing; one that has ended says no position either.
        let fixed = standing == Standing::Standby || !self.rules.has(Rule::IncumbentFirst);
        let (timeline, lsn) = if fixed { (n.view.timeline, n.wal.end()) } else { (0, 0) };
        Some(Ballot { epoch: n.view.epoch, copy: n.copy, standing, timeline, lsn })
    }

    /// A standby that was stopped to vote is one that would be started again. Whoever the record names says that it is stopped, also
    /// before it has ever been promoted.
    pub fn may_vote(&self, s: &State, i: usize) -> bool {
        let n = &s.nodes[i];
        let office = usize::from(n.view.primary) == i;
        n.running || office || self.join(s, i, &views::record(&n.view)) == Join::Proved
    }

    pub fn choice(&self, s: &State, i: usize, mask: u8, patience: usize) -> Option<Rec> {
        let n = &s.nodes[i];
        let (me, record) = (views::member(i, n.copy), views::record(&n.view));
        let heard = (0..self.nodes).filter(|k| mask & 1 << k != 0).filter_map(|k| {
            let ballot = s.nodes[k].vote?;
            Some(Heard { vote: views::vote(k, ballot), at: views::NOW })
        });
        let votes: Vec<Heard> = heard.collect();
        let waited = PATIENCE[patience];
        let booth = Booth {
            now: views::NOW,
            me: &me,
            record: &record,
            since: Moment::from_millis(views::NOW.as_millis() - waited),
            votes: &votes,
            patience: Duration::from_secs(1),
        };
        let mut rec = views::rec(&election::choose_with(&booth, self.rules)?);
        if !self.rules.has(Rule::TimelineReserved) && rec.timeline > n.view.timeline {
            // What PostgreSQL takes by itself: the next after its own.
            rec.timeline = n.wal.timeline() + 1;
        }
        Some(rec)
    }

    /// What an agent does whose Postgres isn't running.
    pub fn run(&self, s: &mut State, i: usize) {
        let n = &s.nodes[i];
        let (record, spec) = (views::record(&n.view), self.spec(s));
        let file = NodeFile {
            pool_uid: String::new(),
            index: views::index(i),
            incarnation: views::member(i, n.copy).incarnation,
            epoch: i64::from(n.view.epoch),
            taken_up: None,
        };
        let join = self.join(s, i, &record);
        let view = StartView {
            me: file.index,
            spec: &spec,
            record: Some(&record),
            file: Some(&file),
            data: true,
            timeline: Some(u32::from(n.wal.timeline())),
            standby: !n.primary,
            ended: n.ended,
            word: n.word.map(i64::from),
            join: &join,
        };
        let decision = starting::decide_with(&view, self.rules);
        self.carry_out(s, i, &decision, &record);
    }

    /// The object is there anew, with another uid and without a record: what its first node does with its data.
    pub fn remake(&self, s: &mut State) -> Option<()> {
        let (spec, n) = (self.spec(s), &s.nodes[0]);
        let incarnation = views::member(0, n.copy).incarnation;
        let epoch = i64::from(n.view.epoch);
        let pool_uid = "the one before".to_owned();
        let file = NodeFile { pool_uid, index: 0, incarnation, epoch, taken_up: None };
        let view = StartView {
            me: 0,
            spec: &spec,
            record: None,
            file: Some(&file),
            data: true,
            timeline: Some(u32::from(n.wal.timeline())),
            standby: !n.primary,
            ended: false,
            word: None,
            join: &Join::Unknown,
        };
        let Start::WriteFirst { member, .. } = starting::decide_with(&view, self.rules) else { return None };
        s.api = views::rec(&record::first(member, u32::from(n.wal.timeline()), 0));
        s.left.remakes -= 1;
        for n in &mut s.nodes {
            (n.must_read, n.write) = (true, None);
        }
        Some(())
    }

    fn carry_out(&self, s: &mut State, i: usize, decision: &Start, record: &Record) {
        match decision {
            Start::StartPrimary => self.launch_primary(s, i),
            Start::TakeOffice | Start::StartStandby { .. } => {
                let follows = !s.nodes[i].view.electing && usize::from(s.nodes[i].view.primary) != i;
                let n = &mut s.nodes[i];
                Self::boot(n);
                n.upstream = follows.then_some(n.view.primary);
                // It opens before it has replayed what it had applied.
                (n.applied, n.primary) = (0, false);
            }
            Start::Depose => {
                s.nodes[i].word = Some(s.nodes[i].view.epoch);
                if let Ok(new) = record::depose(record, None, true, "") {
                    self.write(s, i, views::rec(&new));
                }
            }
            Start::WaitForRecovery(_) => Self::rebuild(s, i),
            Start::CallPerson(_) => s.illegal = true,
            Start::InitDb
            | Start::TakeUp
            | Start::WriteFirst { .. }
            | Start::DataGone(_)
            | Start::Wait(_) => {}
        }
    }

    pub fn boot(n: &mut Node) {
        (n.running, n.open, n.sessions) = (true, false, false);
        n.boot += 1;
        n.lease = Lease::default();
        n.office = Office { read_since_start: false, ..Office::NONE };
    }

    /// A copy of the primary's data takes the place of what was there.
    fn rebuild(s: &mut State, i: usize) {
        let p = usize::from(s.nodes[i].view.primary);
        if s.nodes[i].view.electing || !s.nodes[p].running || !s.nodes[p].primary {
            return;
        }
        let wal = s.nodes[p].wal;
        let n = &mut s.nodes[i];
        n.copy += 1;
        (n.wal, n.applied, n.primary, n.word) = (wal, wal.end(), false, None);
    }

    /// R9, against the history of the primary that the record names, if it can be asked.
    fn join(&self, s: &State, i: usize, record: &Record) -> Join {
        let n = &s.nodes[i];
        if !self.rules.has(Rule::JoinProved) {
            return Join::Proved;
        }
        let state = if n.primary { joining::State::InProduction } else { joining::State::InArchiveRecovery };
        let control = ControlData {
            state,
            timeline: u32::from(n.wal.timeline()),
            redo: 0,
            min_recovery_end: 0,
            min_recovery_timeline: 0,
            system_id: 0,
        };
        let p = &s.nodes[usize::from(n.view.primary)];
        let asked = p.running && p.primary && p.wal.timeline() == n.view.timeline;
        let history = if n.wal.timeline() < n.view.timeline && !asked {
            let me = views::member(i, n.copy);
            joining::fork_of_voter_with(record, &me, &control, 0, self.rules).map(|fork| vec![fork])
        } else {
            Some(history(p))
        };
        let Some(history) = history else { return Join::Unknown };
        joining::decide(&JoinView {
            control,
            held: 0,
            fresh_copy: false,
            wal_end: Some(u64::from(n.wal.end())),
            primary_timeline: record.timeline,
            history,
        })
    }
}

/// Where the timelines of a primary's history were left.
fn history(p: &Node) -> Vec<Fork> {
    let entries = p.wal.all();
    let left = entries.windows(2).enumerate().filter(|(_, pair)| pair[0].timeline != pair[1].timeline);
    let fork = |(at, pair): (usize, &[Entry])| Fork {
        timeline: u32::from(pair[0].timeline),
        at: u64::from(views::small(at)) + 1,
    };
    left.map(fork).collect()
}
