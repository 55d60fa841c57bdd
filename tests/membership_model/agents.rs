//! The agents: they carry out what the product's deciders say.

use pgpool_operator::membership::joining::{TableCheck, compare_tables};
use pgpool_operator::membership::names::Names;
use pgpool_operator::membership::primary::{self, Action, grants};
use pgpool_operator::membership::record;
use pgpool_operator::membership::rules::Rule;
use pgpool_operator::membership::standby::{self, StandbyAction, StandbyView};

use crate::state::{Known, NODES, Note, OLD, Said, State};
use crate::views;
use crate::world::World;

impl World {
    /// Drops what can make no difference any more.
    pub fn forget(&self, s: &mut State) {
        for n in &mut s.standbys {
            n.target = n.target.filter(|_| !n.caught_up);
            if self.rules.has(Rule::LeaseFromStamp) {
                n.word = n.word.filter(|age| *age < OLD);
                for note in [&mut n.beat, &mut n.late].into_iter().flatten() {
                    note.echo = note.echo.filter(|mark| mark.1 < OLD);
                }
                n.late = n.late.filter(|note| note.echo.is_some());
            }
        }
    }

    pub fn agent(&self, s: &mut State) {
        let view = views::primary(&self.seen(s));
        match primary::next_with(&view, self.rules) {
            Action::WriteNames(names) => Self::write_names(s, &names),
            Action::ProbeGate => s.primary.gate_seen = s.primary.flag,
            Action::CommitRow => {
                s.primary.push_row();
                s.primary.start = Some(s.primary.end());
            }
            Action::CommitNonce(m) => {
                let row = s.primary.push_row();
                let name = s.primary.list.names.iter().find(|n| n.0 == m.index).expect("it is in N");
                s.primary.growth = Some((m.index, name.1, name.2, row));
            }
            Action::CompareTable(m) => compare(s, usize::from(m.index)),
            Action::WriteRecord(new) => {
                let rec = views::rec(&new);
                if record::check(Some(&view.record), &new, 0, false).is_err() {
                    s.illegal = true;
                }
                if rec.epoch <= self.max_epoch {
                    let write = (s.primary.record.epoch, rec);
                    if !s.writes.contains(&write) {
                        s.writes.push(write);
                        s.writes.sort_unstable_by_key(|w| (w.0, w.1.attached));
                    }
                    s.primary.must_read = true;
                }
            }
            Action::ReadRecord => {
                s.primary.record = s.api;
                s.primary.read_since_start = true;
            }
            Action::Open => s.primary.open = true,
            Action::Stop(_) => s.illegal = true,
            Action::Nudge | Action::Wait(_) => {}
        }
    }

    /// With the incarnation ignored every copy of the data passes for the first.
    pub fn seen(&self, s: &State) -> State {
        let mut seen = s.clone();
        if !self.rules.has(Rule::Incarnation) {
            let p = &mut seen.primary;
            for k in 1..NODES {
                if let Some(said) = &mut p.known[k].said {
                    said.copy = 1;
                }
                if let Some(sender) = &mut p.senders[k] {
                    sender.copy = 1;
                }
            }
        }
        seen
    }

    fn write_names(s: &mut State, names: &Names) {
        let list = views::list(names);
        s.primary.list = list;
        if names.is_empty() {
            s.primary.gate_seen = false;
        }
    }

    /// The answer of a node, now.
    pub fn say(s: &mut State, k: usize) -> Said {
        let mut lease = views::lease(s, k);
        let n = &mut s.standbys[k];
        // A session that is still there may be answered under the lease that is still there.
        let serves_nobody = !n.running || (!n.open && n.rest == 0);
        let stamp = lease.answer(views::NOW, serves_nobody);
        if serves_nobody {
            n.word = Some(0);
            n.rest = 0;
        }
        Said {
            copy: n.copy,
            epoch: n.record.epoch,
            stamp: views::mark(&stamp),
            serves_nobody,
            running: n.running,
        }
    }

    /// A beat arrives. A node that hears of a newer epoch reads the record first.
    pub fn arrive(&self, s: &mut State, k: usize, note: Note, answered: bool) {
        if note.epoch > s.standbys[k].record.epoch {
            s.standbys[k].record = s.api;
        }
        let mut lease = views::lease(s, k);
        let known = i64::from(s.standbys[k].record.epoch);
        let replay = Some(u64::from(s.standbys[k].applied)).filter(|_| s.standbys[k].running);
        lease.beat_with(views::NOW, &views::beat(note), known, replay, self.rules);
        let n = &mut s.standbys[k];
        n.target = lease.target.map(|t| u8::try_from(t).expect("the WAL is short"));
        n.caught_up = lease.caught_up;
        n.rest = u8::try_from(lease.rest(views::NOW).as_millis().div_ceil(u128::from(views::TICK)))
            .expect("short");
        self.gate(s, k);
        let n = &mut s.standbys[k];
        if n.running && n.sessions {
            n.front = n.front.max(n.rest);
        }
        let said = Self::say(s, k);
        if answered {
            let known = &mut s.primary.known[k];
            let mut contact = views::contact(k, known);
            contact.answered(views::at(note.sent), i64::from(note.epoch), views::answer(k, said));
            known.counted = contact.counted.map(views::age);
            known.said = Some(said);
        }
    }

    /// Opens or shuts the gate of a standby.
    pub fn gate(&self, s: &mut State, k: usize) {
        let n = &s.standbys[k];
        if !n.running {
            return;
        }
        let copy = if self.rules.has(Rule::Incarnation) { n.copy } else { 1 };
        let (me, record) = (views::member(k, copy), views::record(n.record));
        let (boot, lease) = (format!("boot{}", n.boot), views::lease(s, k));
        let view = StandbyView {
            now: views::NOW,
            me: &me,
            record: &record,
            boot: &boot,
            lease: &lease,
            open: n.open,
        };
        let n = &mut s.standbys[k];
        match standby::next_with(&view, self.rules) {
            StandbyAction::Open => (n.open, n.sessions) = (true, true),
            StandbyAction::Shut => n.open = false,
            StandbyAction::Keep => {}
        }
    }

    /// Beat and answer at once, where leases are left out.
    pub fn talk(s: &mut State, k: usize) {
        if !s.standbys[k].up {
            s.primary.known[k] = Known::default();
            return;
        }
        let api = s.api;
        if s.primary.record.epoch > s.standbys[k].record.epoch {
            s.standbys[k].record = api;
        }
        let said = Self::say(s, k);
        let counted = (said.epoch == s.primary.record.epoch).then_some(0);
        let known = &mut s.primary.known[k];
        (known.said, known.counted) = (Some(said), counted.or(known.counted));
    }
}

pub fn beat(s: &mut State, k: usize, late: bool) {
    let view = views::primary(s);
    let echo = grants(&view, u8::try_from(k).expect("few nodes")).map(|stamp| views::mark(&stamp));
    let note = Note { sent: 0, epoch: s.primary.record.epoch, echo, flush: s.primary.end() };
    let mut contact = view.others[&u8::try_from(k).expect("few nodes")].contact.clone();
    contact.sent(views::NOW, &views::beat(note));
    if echo.is_some() {
        s.primary.known[k].granted = views::granted(&contact);
    }
    let n = &mut s.standbys[k];
    if late {
        n.late = n.beat.filter(|b| b.echo.is_some()).or(n.late);
    }
    n.beat = Some(note);
}

fn compare(s: &mut State, k: usize) {
    let p = &mut s.primary;
    let n = &s.standbys[k];
    if !n.running {
        return;
    }
    let (ours, theirs) = (p.rows(p.end()), p.rows(n.applied));
    p.tables[k] = match compare_tables(&views::rows(&ours), &views::rows(&theirs)) {
        TableCheck::Equal { newest } => Some((n.copy, true, u8::try_from(newest).expect("few rows"))),
        TableCheck::Behind { newest } => Some((n.copy, false, u8::try_from(newest).expect("few rows"))),
        TableCheck::Different(_) => None,
    };
}
