//! Beats, answers and leases.
use pgpool_operator::membership::primary::{grants_with, own_lease_with};
use pgpool_operator::membership::standby::{self, StandbyAction, StandbyView};

use crate::state::{Lease, Node, Note, Reply, Said, State};
use crate::views;
use crate::world::World;

impl World {
    /// A beat goes out.
    pub fn send(&self, s: &mut State, i: usize, j: usize) -> Note {
        let view = self.primary(s, i);
        let to = views::index(j);
        let echo = grants_with(&view, to, self.rules).map(|stamp| views::mark(&stamp));
        let n = &mut s.nodes[i];
        let note = Note { sent: 0, epoch: n.view.epoch, echo, flush: n.wal.end() };
        if echo.is_some() {
            let mut contact = view.others[&to].contact.clone();
            contact.sent(views::NOW, &self.beat(i, note));
            n.office.known[j].granted = views::granted(&contact);
        }
        note
    }

    /// A beat arrives. A node that hears of a newer epoch reads the record first.
    pub fn arrive(&self, s: &mut State, i: usize, j: usize, note: Note, answered: bool) {
        if note.epoch > s.nodes[j].view.epoch {
            self.read(s, j);
        }
        let known = i64::from(s.nodes[j].view.epoch);
        let n = &mut s.nodes[j];
        if n.running && !n.primary {
            let mut lease = views::lease(n);
            let replay = Some(u64::from(n.applied));
            lease.beat_with(views::NOW, &self.beat(i, note), known, replay, self.rules);
            n.lease = Lease {
                word: n.lease.word,
                target: lease.target.map(views::small),
                caught_up: lease.caught_up,
                rest: views::ticks(lease.rest(views::NOW)),
            };
        }
        self.gate(s, j);
        let said = Self::say(s, j);
        if note.epoch == s.nodes[j].view.epoch && self.leases {
            Self::note(&mut s.nodes[j]);
        }
        if answered && s.nodes[i].running && s.nodes[i].primary {
            let answer = Self::answer(s, j, said);
            let known = &mut s.nodes[i].office.known[j];
            let mut contact = views::contact(known, None, self.lease_ms());
            contact.answered_with(views::at(note.sent), i64::from(note.epoch), answer, self.rules);
            known.counted = contact.counted.map(views::age).filter(|age| *age < self.lease);
            known.said = Some(said);
        }
    }

    /// Notes an answer that counts.
    pub fn note(n: &mut Node) {
        let (primary, attached) = (n.view.primary, n.view.attached);
        let same = |r: &Option<Reply>| r.is_some_and(|r| r.primary == primary && r.attached == attached);
        let place = n.answers.iter().position(same).or_else(|| n.answers.iter().position(Option::is_none));
        let place = place.expect("few records are answered under within 2 L");
        n.answers[place] = Some(Reply { primary, attached, age: 0 });
        n.answers.sort_unstable_by_key(|r| r.map(|r| (r.primary, r.attached)));
    }

    /// The answer of a node, now.
    fn say(s: &mut State, j: usize) -> Said {
        let n = &mut s.nodes[j];
        // A session that is still there may be answered under the lease that is still there.
        let serves_nobody = !n.running || (!n.open && n.lease.rest == 0);
        let mut lease = views::lease(n);
        let stamp = lease.answer(views::NOW, serves_nobody);
        if serves_nobody {
            n.lease.word = Some(0);
            n.lease.rest = 0;
        }
        Said {
            copy: n.copy,
            epoch: n.view.epoch,
            stamp: views::mark(&stamp),
            serves_nobody,
            standby: n.running && !n.primary,
        }
    }

    /// Opens or shuts the gate of a standby; a front asks for the rest of the lease at any moment.
    pub fn gate(&self, s: &mut State, i: usize) {
        let n = &s.nodes[i];
        if !n.running {
            return;
        }
        if n.primary {
            if n.open {
                let view = self.primary(s, i);
                let rest = own_lease_with(&view, self.rules).rest(views::NOW, self.length());
                s.nodes[i].front = n.front.max(views::ticks(rest));
            }
            return;
        }
        let (me, record) = (views::member(i, n.copy), views::record(&n.view));
        let (boot, lease) = (n.boot.to_string(), views::lease(n));
        let view = StandbyView {
            now: views::NOW,
            me: &me,
            record: &record,
            boot: &boot,
            lease: &lease,
            open: n.open,
        };
        let n = &mut s.nodes[i];
        match standby::next_with(&view, self.rules) {
            StandbyAction::Open => (n.open, n.sessions) = (true, true),
            StandbyAction::Shut => n.open = false,
            StandbyAction::Keep => {}
        }
        if n.sessions {
            n.front = n.front.max(n.lease.rest);
        }
    }
}
