//! What can happen, and what it does.
use pgpool_operator::membership::rules::{Rule, Rules};

use crate::state::{ANSWERS, Ballot, Budget, NODES, OLD, Office, State, older};

/// How long a voter has waited: not at all, for those who are missing, for those who are further.
pub const PATIENCE: [u64; 4] = [0, 1001, 3001, 6001];

/// A step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A write reaches the API.
    Land(usize),
    /// An agent starts, with a consistent read.
    Start(usize),
    /// Agent and Postgres end.
    Crash(usize),
    /// Postgres ends, its agent lives.
    Die(usize),
    /// An agent makes a consistent read.
    Read(usize),
    /// A standby asks for an election.
    Suspect(usize),
    /// A node votes.
    Vote(usize),
    /// It ends the election: it has heard votes of those in the mask, and waited that long.
    Choose(usize, u8, usize),
    /// Its Postgres is started, or what else a starting agent decides.
    Run(usize),
    /// It takes office.
    Promote(usize),
    /// A primary's agent carries out what the decider says.
    Agent(usize),
    /// A primary hands over to a successor.
    HandOver(usize, usize),
    /// A client commits.
    Commit(usize),
    /// Sessions are let go whose commits have been applied by all of N.
    Acknowledge(usize),
    /// A standby receives an entry.
    Stream(usize),
    /// It applies what it has.
    Apply(usize),
    /// A beat goes out from one node to another.
    Beat(usize, usize),
    /// It arrives; the answer does, or doesn't.
    Arrive(usize, usize, bool),
    /// It arrives, and a copy of it is still on its way: it was sent again.
    Double(usize, usize, bool),
    /// Beat and answer at once.
    Exchange(usize, usize),
    Tick,
    /// Somebody wants the node in, or out.
    Wish(usize),
    /// The object of the record was deleted and made anew; the agent of its first node finds data.
    Remake,
}

/// What is switched on.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each switches a part of the model on by itself")]
pub struct World {
    pub rules: Rules,
    /// Nodes that exist: 2 or 3.
    pub nodes: usize,
    /// How many of them are attached at first.
    pub attached: usize,
    /// Beats, leases and time.
    pub leases: bool,
    /// L in ticks.
    pub lease: u8,
    /// Beats may be late, lost or doubled, answers lost.
    pub late: bool,
    /// Nodes are added, and removed by wish.
    pub changes: bool,
    /// Nodes are removed for their silence; without `changes` they stay out.
    pub removes: bool,
    pub max_epoch: u8,
    pub max_wal: u8,
    /// Steps make states different: a walk may come back to where it was.
    pub counts_steps: bool,
    pub left: Budget,
    /// Steps that have been taken before the search begins.
    pub script: Vec<Step>,
}

impl World {
    pub fn others(&self, me: usize) -> impl Iterator<Item = usize> {
        (0..self.nodes).filter(move |&k| k != me)
    }

    pub fn enabled(&self, s: &State, out: &mut Vec<Step>) {
        for i in 0..self.nodes {
            if s.nodes[i].write.is_some() {
                out.push(Step::Land(i));
            }
            if s.nodes[i].up {
                self.enabled_at(s, i, out);
                self.postgres(s, i, out);
            } else {
                out.push(Step::Start(i));
            }
            if s.left.wishes > 0 && i > 0 {
                out.push(Step::Wish(i));
            }
        }
        if s.left.ticks > 0 {
            out.push(Step::Tick);
        }
        if s.left.remakes > 0 && s.nodes[0].up && !s.nodes[0].running {
            out.push(Step::Remake);
        }
    }

    /// What the agent can do.
    fn enabled_at(&self, s: &State, i: usize, out: &mut Vec<Step>) {
        let n = &s.nodes[i];
        if s.left.crashes > 0 {
            out.push(Step::Crash(i));
        }
        if n.must_read || n.view != s.api {
            out.push(Step::Read(i));
        }
        if n.must_read {
            return;
        }
        let member = n.view.counts(i, n.copy);
        let may_write = n.write.is_none() && n.view.epoch < self.max_epoch;
        let current = n.view == s.api || !self.rules.has(Rule::CompareAndSwap);
        if member && n.view.electing {
            if self.ballot(n, i).is_some_and(|b| n.vote != Some(b)) && self.may_vote(s, i) {
                out.push(Step::Vote(i));
            }
            if may_write && current && n.vote.is_some() && n.vote == self.ballot(n, i) {
                self.choices(s, i, out);
            }
        }
        if may_write && current && member && !n.view.electing && usize::from(n.view.primary) != i {
            out.push(Step::Suspect(i));
        }
        if !n.running {
            out.push(Step::Run(i));
        } else if n.primary {
            out.push(Step::Agent(i));
            if s.left.switches > 0 && may_write && n.open && n.view.serving(i) {
                out.extend(self.others(i).map(|j| Step::HandOver(i, j)));
            }
        } else if member && n.view.serving(i) {
            out.push(Step::Promote(i));
        }
    }

    /// Each outcome once.
    fn choices(&self, s: &State, i: usize, out: &mut Vec<Step>) {
        let mut seen = Vec::new();
        for mask in 0..1_u8 << self.nodes {
            let heard = self.others(i).filter(|&k| mask & 1 << k != 0).all(|k| s.nodes[k].vote.is_some());
            if mask & 1 << i == 0 || !heard {
                continue;
            }
            for patience in 0..PATIENCE.len() {
                let Some(rec) = self.choice(s, i, mask, patience).filter(|rec| !seen.contains(rec)) else {
                    continue;
                };
                seen.push(rec);
                out.push(Step::Choose(i, mask, patience));
            }
        }
    }

    /// What Postgres, clients and messages can do.
    fn postgres(&self, s: &State, i: usize, out: &mut Vec<Step>) {
        let n = &s.nodes[i];
        if n.running {
            if s.left.deaths > 0 {
                out.push(Step::Die(i));
            }
            if n.primary {
                if n.open && s.left.commits > 0 && n.wal.end() < self.max_wal {
                    out.push(Step::Commit(i));
                }
                if n.office.waiting != 0 {
                    out.push(Step::Acknowledge(i));
                }
            } else {
                if Self::upstream(s, i).is_some_and(|u| s.nodes[u].wal.end() > n.wal.end()) {
                    out.push(Step::Stream(i));
                }
                if n.applied < n.wal.end() {
                    out.push(Step::Apply(i));
                }
            }
        }
        if !self.leases {
            return;
        }
        let beats = n.running && n.primary && usize::from(n.view.primary) == i;
        for j in self.others(i) {
            if beats && !n.must_read {
                out.push(if self.late { Step::Beat(i, j) } else { Step::Exchange(i, j) });
            }
            if n.beats[j].is_some() {
                for answered in [true, false] {
                    out.push(Step::Arrive(j, i, answered));
                    out.push(Step::Double(j, i, answered));
                }
            }
        }
    }

    /// The running primary that the node follows and can stream from.
    pub fn upstream(s: &State, i: usize) -> Option<usize> {
        let u = usize::from(s.nodes[i].upstream?);
        let p = &s.nodes[u];
        (p.running && p.primary && p.wal.end() >= s.nodes[i].wal.end()).then_some(u)
    }

    /// The world after a step; none when the step leads out of the bounds.
    pub fn after(&self, last: &State, step: Step) -> Option<State> {
        let mut s = last.clone();
        match step {
            Step::Land(i) => self.land(&mut s, i),
            Step::Tick => self.tick(&mut s),
            Step::Wish(k) => {
                s.wished[k] = !s.wished[k];
                s.left.wishes -= 1;
            }
            Step::Start(i) => self.start(&mut s, i),
            Step::Crash(i) => {
                s.left.crashes -= 1;
                Self::stop(&mut s.nodes[i]);
                (s.nodes[i].up, s.nodes[i].ended) = (false, false);
            }
            Step::Die(i) => {
                s.left.deaths -= 1;
                let n = &mut s.nodes[i];
                n.ended |= n.primary;
                Self::stop(n);
                n.must_read = true;
            }
            Step::Read(i) => self.read(&mut s, i),
            Step::Suspect(i) => self.suspect(&mut s, i),
            Step::Vote(i) => s.nodes[i].vote = self.ballot(&s.nodes[i], i),
            Step::Choose(i, mask, patience) => {
                let rec = self.choice(&s, i, mask, patience)?;
                self.write(&mut s, i, rec);
            }
            Step::Run(i) => self.run(&mut s, i),
            Step::Promote(i) => self.promote(&mut s, i),
            Step::Agent(i) => self.agent(&mut s, i),
            Step::HandOver(i, j) => self.hand_over(&mut s, i, j)?,
            Step::Remake => self.remake(&mut s)?,
            _ => self.after_postgres(&mut s, step),
        }
        self.settle(&mut s, last);
        let fits = s.nodes.iter().all(|n| n.wal.end() <= self.max_wal);
        if !fits || s == *last {
            return None;
        }
        s.steps += u16::from(self.counts_steps);
        Some(s)
    }

    fn after_postgres(&self, s: &mut State, step: Step) {
        match step {
            Step::Commit(i) => Self::commit(s, i),
            Step::Acknowledge(i) => Self::acknowledge(s, i),
            Step::Stream(i) => Self::stream(s, i),
            Step::Apply(i) => s.nodes[i].applied = s.nodes[i].wal.end(),
            Step::Beat(i, j) => {
                let note = self.send(s, i, j);
                s.nodes[j].beats[i] = Some(note);
            }
            Step::Exchange(i, j) => {
                let note = self.send(s, i, j);
                if s.nodes[j].up {
                    self.arrive(s, i, j, note, true);
                }
            }
            Step::Arrive(i, j, answered) => {
                if let Some(note) = s.nodes[j].beats[i].take() {
                    self.arrive(s, i, j, note, answered);
                }
            }
            Step::Double(i, j, answered) => {
                if let Some(note) = s.nodes[j].beats[i] {
                    self.arrive(s, i, j, note, answered);
                }
            }
            _ => unreachable!("a step of an agent or of the world"),
        }
    }

    fn land(&self, s: &mut State, i: usize) {
        let Some((base, mut new)) = s.nodes[i].write.take() else { return };
        if !self.rules.has(Rule::CompareAndSwap) {
            new.epoch = s.api.epoch + 1;
        } else if base != s.api.epoch {
            return;
        }
        if self.legal(&s.api, &new) {
            s.api = new;
        }
    }

    /// What happens by itself: connections, gates, and what can make no difference any more.
    pub fn settle(&self, s: &mut State, last: &State) {
        for i in 0..self.nodes {
            if let Some(u) = Self::upstream(s, i).filter(|_| s.nodes[i].running && !s.nodes[i].primary) {
                let (copy, applied) = (s.nodes[i].copy, s.nodes[i].applied);
                s.nodes[u].office.senders[i] = Some((copy, applied));
            }
        }
        for i in 0..self.nodes {
            if self.leases && s.nodes[i] != last.nodes[i] {
                self.gate(s, i);
            }
            self.forget(s, i);
        }
    }

    fn forget(&self, s: &mut State, i: usize) {
        let (api, cas) = (s.api, self.rules.has(Rule::CompareAndSwap));
        let n = &mut s.nodes[i];
        n.write = n.write.filter(|(base, _)| *base == api.epoch || !cas);
        let counts =
            |b: &Ballot| (b.epoch == api.epoch && api.electing) || !self.rules.has(Rule::VoteOfThisEpoch);
        n.vote = n.vote.filter(counts);
        if !(n.running && n.primary) {
            n.office = Office::NONE;
        }
        if n.lease.caught_up {
            n.lease.target = None;
        }
        n.word = n.word.filter(|epoch| *epoch >= n.view.epoch);
        let view = n.view.epoch;
        for beat in &mut n.beats {
            *beat = beat.filter(|b| b.epoch >= view);
        }
        let settled = n.opened >= n.wal.timeline() && n.running && n.primary;
        if settled {
            (n.answers, n.begun) = ([None; ANSWERS], None);
        }
        if settled || !(n.view.serving(i) || (n.running && n.primary)) {
            n.owed = (None, None);
        }
    }

    fn tick(&self, s: &mut State) {
        s.left.ticks -= 1;
        let lease = self.lease;
        for n in &mut s.nodes {
            n.lease.rest = n.lease.rest.saturating_sub(1);
            n.front = n.front.saturating_sub(1);
            n.lease.word.iter_mut().for_each(|age| older(age, lease));
            n.lease.word = n.lease.word.filter(|age| *age < lease);
            for age in [&mut n.begun, &mut n.owed.0, &mut n.owed.1].into_iter().flatten() {
                older(age, OLD);
            }
            n.begun = n.begun.filter(|age| *age < 2 * lease);
            n.owed = (n.owed.0.filter(|age| *age < lease), n.owed.1.filter(|age| *age < 2 * lease));
            for reply in &mut n.answers {
                if let Some(r) = reply {
                    older(&mut r.age, OLD);
                }
                *reply = reply.filter(|r| r.age < 2 * lease);
            }
            n.answers.sort_unstable_by_key(|r| r.map(|r| (r.primary, r.attached)));
            for note in n.beats.iter_mut().flatten() {
                older(&mut note.sent, lease);
                note.echo.iter_mut().for_each(|mark| older(&mut mark.1, lease));
                note.echo = note.echo.filter(|mark| mark.1 < lease);
            }
            older(&mut n.office.started, lease);
            for k in 0..NODES {
                let known = &mut n.office.known[k];
                known.counted.iter_mut().for_each(|age| older(age, lease));
                known.counted = known.counted.filter(|age| *age < lease || !self.leases);
                known.said.iter_mut().for_each(|said| older(&mut said.stamp.1, lease));
                if let Some((sent, echo)) = &mut known.granted {
                    older(sent, lease);
                    if let Some(mark) = echo {
                        older(&mut mark.1, lease);
                    }
                }
                known.granted = known.granted.filter(|g| g.0 < lease);
            }
        }
    }
}
