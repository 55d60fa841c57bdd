//! What can happen, and what it does.
use pgpool_operator::membership::record;
use pgpool_operator::membership::rules::Rules;

use crate::agents::beat;
use crate::faults::{crash_primary, replace, start};
use crate::postgres::{apply, commit, placed, release, settle, take_up};
use crate::state::{Budget, OLD, OVER, State, older};
use crate::views;

/// A step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The primary's agent carries out what the decider says.
    Agent,
    /// The primary's agent reads the record.
    Read,
    /// A write reaches the API.
    Land(usize),
    /// A client commits.
    Commit,
    /// A walsender looks at the waiting sessions.
    Release(usize),
    /// The checkpointer learns whether commits wait.
    Flag,
    /// A walsender takes up the list.
    TakeUp(usize),
    Connect(usize),
    /// A walsender notices that its standby is gone.
    Notice(usize),
    Receive(usize),
    Apply(usize),
    /// A beat goes out.
    Beat(usize),
    /// It arrives; the answer does, or doesn't.
    Arrive(usize, bool),
    /// It arrives, and a copy of it is still on its way: it was sent again.
    Double(usize, bool),
    /// The lease before the last beat arrives.
    ArriveLate(usize),
    /// Beat and answer at once, no lease.
    Talk(usize),
    Tick,
    CrashPrimary,
    StartPrimary,
    Crash(usize),
    Start(usize),
    /// The volume comes back as a copy of another time: empty, or of now.
    Replace(usize, bool),
    /// Somebody wants the node in, or out.
    Wish(usize),
}

/// What is switched on.
#[derive(Clone, Debug)]
pub struct World {
    pub rules: Rules,
    /// Nodes that exist: 2 or 3.
    pub nodes: usize,
    /// How many of them are attached at first.
    pub attached: usize,
    /// Beats, leases and time; else beats are exchanged at once and grant nothing.
    pub leases: bool,
    /// A lease may arrive after the beat that was sent later, and beats arrive twice.
    pub late: bool,
    pub max_epoch: u8,
    pub max_wal: u8,
    pub left: Budget,
}

impl World {
    pub fn others(&self) -> std::ops::Range<usize> {
        1..self.nodes
    }

    pub fn enabled(&self, s: &State, out: &mut Vec<Step>) {
        let p = &s.primary;
        if p.up && !p.must_read {
            out.push(Step::Agent);
        }
        if p.up && (p.must_read || p.record != s.api) {
            out.push(Step::Read);
        }
        out.extend((0..s.writes.len()).map(Step::Land));
        if p.up && p.open && s.left.commits > 0 && p.end() < self.max_wal {
            out.push(Step::Commit);
        }
        if p.up && p.flag == (p.list.names.is_empty() && p.list.filler.is_none()) {
            out.push(Step::Flag);
        }
        if !p.up {
            out.push(Step::StartPrimary);
        } else if s.left.primary_crashes > 0 {
            out.push(Step::CrashPrimary);
        }
        if s.left.ticks > 0 {
            out.push(Step::Tick);
        }
        for k in self.others() {
            self.enabled_at(s, k, out);
        }
    }

    fn enabled_at(&self, s: &State, k: usize, out: &mut Vec<Step>) {
        let (p, n) = (&s.primary, &s.standbys[k]);
        let live = p.senders[k].is_some_and(|w| w.live);
        if let Some(sender) = &p.senders[k] {
            if (sender.priority, sender.number) != placed(&p.list, k, sender.copy) {
                out.push(Step::TakeUp(k));
            }
            if p.waiting != 0 {
                out.push(Step::Release(k));
            }
            if !sender.live {
                out.push(Step::Notice(k));
            }
        }
        if p.up && n.running && !live {
            out.push(Step::Connect(k));
        }
        if live && n.received < p.end() {
            out.push(Step::Receive(k));
        }
        if n.running && n.applied < n.received {
            out.push(Step::Apply(k));
        }
        if self.leases {
            // One at a time: answered, or given up after a while.
            if p.up && !p.must_read && n.beat.is_none_or(|b| b.sent > 0) {
                out.push(Step::Beat(k));
            }
            if n.up && n.beat.is_some() {
                for answered in [true, false] {
                    out.push(Step::Arrive(k, answered));
                    out.extend(Some(Step::Double(k, answered)).filter(|_| self.late));
                }
            }
            if n.up && n.late.is_some() {
                out.push(Step::ArriveLate(k));
            }
        } else if p.up {
            out.push(Step::Talk(k));
        }
        if n.up && s.left.standby_crashes > 0 {
            out.push(Step::Crash(k));
        }
        if !n.up || !n.running {
            out.push(Step::Start(k));
        }
        if !n.up && s.left.losses > 0 {
            out.push(Step::Replace(k, true));
            out.push(Step::Replace(k, false));
        }
        if s.left.wishes > 0 {
            out.push(Step::Wish(k));
        }
    }

    /// The world after a step; none when the step leads out of the bounds.
    pub fn after(&self, last: &State, step: Step) -> Option<State> {
        let mut s = last.clone();
        match step {
            Step::Agent => self.agent(&mut s),
            Step::Read => {
                s.primary.record = s.api;
                s.primary.must_read = false;
                s.primary.read_since_start = true;
            }
            Step::Land(i) => land(&mut s, i),
            Step::Commit => commit(&mut s),
            Step::Release(k) => release(&mut s, k),
            Step::Flag => {
                s.primary.flag = !s.primary.flag;
                if !s.primary.flag {
                    s.acknowledged |= std::mem::take(&mut s.primary.waiting);
                }
            }
            Step::TakeUp(k) => take_up(&mut s.primary, k),
            Step::Tick => {
                s.left.ticks -= 1;
                tick(&mut s);
            }
            Step::CrashPrimary => crash_primary(&mut s),
            Step::StartPrimary => self.start_primary(&mut s),
            Step::Wish(k) => {
                s.wished[k] = !s.wished[k];
                s.left.wishes -= 1;
            }
            _ => self.at_node(&mut s, step),
        }
        for k in self.others().filter(|&k| s.standbys[k] != last.standbys[k]).collect::<Vec<_>>() {
            self.gate(&mut s, k);
        }
        if self.leases {
            settle(&mut s);
            self.forget(&mut s);
        }
        s.writes.retain(|(base, _)| *base == s.api.epoch);
        (s.primary.end() <= self.max_wal && s != *last).then_some(s)
    }

    fn at_node(&self, s: &mut State, step: Step) {
        match step {
            Step::Connect(k) => self.connect(s, k),
            Step::Notice(k) => s.primary.senders[k] = None,
            Step::Receive(k) => {
                let n = &mut s.standbys[k];
                n.received += 1;
                if self.leases && n.applied + 1 == n.received {
                    apply(s, k);
                }
            }
            Step::Apply(k) => apply(s, k),
            Step::Beat(k) => beat(s, k, self.late),
            Step::Arrive(k, answered) => {
                let note = s.standbys[k].beat.take().expect("enabled");
                self.arrive(s, k, note, answered);
            }
            Step::Double(k, answered) => {
                let note = s.standbys[k].beat.expect("enabled");
                self.arrive(s, k, note, answered);
                // While nobody has answered the next beat isn't sent; the copy of one that was answered may come later.
                if answered {
                    let n = &mut s.standbys[k];
                    n.late = n.beat.take();
                }
            }
            Step::ArriveLate(k) => {
                let note = s.standbys[k].late.take().expect("enabled");
                self.arrive(s, k, note, false);
            }
            Step::Talk(k) => Self::talk(s, k),
            Step::Crash(k) => self.crash(s, k),
            Step::Start(k) => start(self.rules, s, k),
            Step::Replace(k, whole) => replace(s, k, whole),
            _ => unreachable!("a step of the primary or of the world"),
        }
    }
}

fn land(s: &mut State, i: usize) {
    let (base, new) = s.writes.remove(i);
    let legal = record::check(Some(&views::record(s.api)), &views::record(new), 0, false).is_ok();
    if base == s.api.epoch && legal {
        s.api = new;
    }
}

fn tick(s: &mut State) {
    let p = &mut s.primary;
    older(&mut p.started, OLD);
    for known in &mut p.known {
        known.counted.iter_mut().for_each(|age| older(age, OLD));
        known.said.iter_mut().for_each(|said| older(&mut said.stamp.1, OLD));
        if let Some((sent, echo)) = &mut known.granted {
            older(sent, OVER);
            if let Some(mark) = echo {
                older(&mut mark.1, OLD);
            }
        }
        known.granted = known.granted.filter(|g| g.0 < OVER);
    }
    for n in &mut s.standbys {
        n.rest = n.rest.saturating_sub(1);
        n.front = n.front.saturating_sub(1);
        n.word.iter_mut().for_each(|age| older(age, OLD));
        for note in [&mut n.beat, &mut n.late].into_iter().flatten() {
            older(&mut note.sent, OLD);
            note.echo.iter_mut().for_each(|mark| older(&mut mark.1, OLD));
        }
    }
}
