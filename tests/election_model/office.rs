//! The primary: taking office, its agent, and PostgreSQL's part.
use pgpool_operator::membership::joining::{TableCheck, compare_tables};
use pgpool_operator::membership::lease::Contact;
use pgpool_operator::membership::names::Names;
use pgpool_operator::membership::primary::{self, Action};
use pgpool_operator::membership::record;
use pgpool_operator::membership::rules::Rule;

use crate::state::{Entry, NODES, Node, State, What};
use crate::views;
use crate::world::World;

impl World {
    /// Starts a primary in place, behind its gate.
    pub fn launch_primary(&self, s: &mut State, i: usize) {
        let n = &mut s.nodes[i];
        let stored = Some(self.names(n));
        Self::boot(n);
        n.applied = n.wal.end();
        let names = Names::at_start(&views::record(&n.view), views::index(i), stored, self.lease_ms());
        write_names(n, &names);
        self.inherit(n);
    }

    /// The chosen node becomes the primary: N is what the record has, the timeline the reserved one.
    pub fn promote(&self, s: &mut State, i: usize) {
        let n = &mut s.nodes[i];
        let timeline = n.view.timeline;
        let names = Names::at_start(&views::record(&n.view), views::index(i), None, self.lease_ms());
        (n.open, n.primary, n.upstream) = (false, true, None);
        n.names = [(0, 0); NODES];
        write_names(n, &names);
        n.office.started = 0;
        // Its place was read before its Postgres was promoted.
        n.office.read_since_start = false;
        n.wal.push(Entry { timeline, what: What::Began });
        n.applied = n.wal.end();
        self.inherit(n);
    }

    /// Every name in N counts as holding a lease given now.
    fn inherit(&self, n: &mut Node) {
        if !self.leases || !self.rules.has(Rule::RestartCountsLeases) {
            return;
        }
        for k in (0..NODES).filter(|&k| n.names[k].0 != 0) {
            let contact = Contact::inherited(None, views::NOW, self.lease_ms());
            n.office.known[k].granted = views::granted(&contact);
        }
    }

    pub fn agent(&self, s: &mut State, i: usize) {
        let view = self.primary(s, i);
        match primary::next_with(&view, self.rules) {
            Action::WriteNames(names) => write_names(&mut s.nodes[i], &names),
            Action::CommitRow => {
                if !has_row(&s.nodes[i]) && s.nodes[i].wal.has_room() {
                    push_row(&mut s.nodes[i]);
                }
                s.nodes[i].office.start = Some(s.nodes[i].wal.end());
            }
            Action::CommitNonce(joiner) => {
                let k = usize::from(joiner.index);
                let n = &mut s.nodes[i];
                if n.wal.has_room() {
                    push_row(n);
                    let (copy, since) = n.names[k];
                    let row = views::small(views::rows(n, n.wal.end()).len());
                    n.office.growth = Some((joiner.index, copy, since, row));
                }
            }
            Action::CompareTable(joiner) => self.compare(s, i, usize::from(joiner.index)),
            Action::WriteRecord(new) => {
                if record::check(Some(&view.record), &new, 0, false).is_err() {
                    s.illegal = true;
                }
                self.write(s, i, views::rec(&new));
            }
            Action::ReadRecord => self.read(s, i),
            Action::Open => {
                let n = &mut s.nodes[i];
                (n.open, n.sessions, n.opened) = (true, true, n.wal.timeline());
            }
            Action::Stop(_) => Self::stop(&mut s.nodes[i]),
            Action::ProbeGate | Action::Nudge | Action::Wait(_) => {}
        }
    }

    fn compare(&self, s: &mut State, i: usize, k: usize) {
        let (n, other) = (&s.nodes[i], &s.nodes[k]);
        if !other.running {
            return;
        }
        let ours = views::rows(n, n.wal.end());
        let theirs = views::rows(other, other.applied);
        let newest = views::small(ours.len());
        let found = match compare_tables(&ours, &theirs) {
            _ if !self.rules.has(Rule::TablesCompared) && theirs.len() >= ours.len() => {
                Some((other.copy, true, newest))
            }
            TableCheck::Equal { .. } => Some((other.copy, true, newest)),
            TableCheck::Behind { newest } => Some((other.copy, false, views::small(newest))),
            TableCheck::Different(_) => None,
        };
        s.nodes[i].office.tables[k] = found;
    }

    /// A switchover (R14): gate shut, all applied everywhere, Postgres stopped, the word, the election.
    pub fn hand_over(&self, s: &mut State, i: usize, j: usize) -> Option<()> {
        let n = &s.nodes[i];
        let applied = |k: usize| n.office.senders[k] == Some((s.nodes[k].copy, n.wal.end()));
        let ready = (0..self.nodes).filter(|&k| k != i && n.view.attached[k] != 0).all(applied);
        if !ready || n.view.attached[j] == 0 || n.office.start.is_none() {
            return None;
        }
        let new = record::depose(&views::record(&n.view), Some(views::index(j)), true, "").ok()?;
        s.left.switches -= 1;
        s.nodes[i].word = Some(s.nodes[i].view.epoch);
        Self::stop(&mut s.nodes[i]);
        self.write(s, i, views::rec(&new));
        Some(())
    }

    pub fn commit(s: &mut State, i: usize) {
        let number = s.left.commits;
        s.left.commits -= 1;
        let n = &mut s.nodes[i];
        n.wal.push(Entry { timeline: n.wal.timeline(), what: What::Commit(number) });
        n.applied = n.wal.end();
        n.office.waiting |= 1 << number;
    }

    /// A commit that all names of N have applied is acknowledged.
    pub fn acknowledge(s: &mut State, i: usize) {
        let n = &mut s.nodes[i];
        let listed = (0..NODES).filter(|&k| n.names[k].0 != 0);
        let applied = listed.map(|k| n.office.senders[k].filter(|w| w.0 == n.names[k].0).map_or(0, |w| w.1));
        let up_to = applied.min().unwrap_or(n.wal.end());
        let free = n.wal.commits(up_to) & n.office.waiting;
        n.office.waiting &= !free;
        s.acknowledged |= free;
    }

    /// The standby takes the entry at its own end, whatever stands before it.
    pub fn stream(s: &mut State, i: usize) {
        let Some(u) = Self::upstream(s, i) else { return };
        let n = &s.nodes[i];
        let entry = s.nodes[u].wal.all()[usize::from(n.wal.end())];
        let n = &mut s.nodes[i];
        let level = n.applied == n.wal.end();
        n.wal.push(entry);
        if level {
            n.applied = n.wal.end();
        }
    }
}

fn write_names(n: &mut Node, names: &Names) {
    let mut list = [(0, 0); NODES];
    for listed in &names.listed {
        let copy = listed.member.incarnation.parse().expect("made by member()");
        list[usize::from(listed.member.index)] = (copy, views::small(listed.epoch));
    }
    n.names = list;
}

fn has_row(n: &Node) -> bool {
    let timeline = n.wal.timeline();
    n.wal.all().iter().any(|e| e.timeline == timeline && matches!(e.what, What::Row(_)))
}

fn push_row(n: &mut Node) {
    let timeline = n.wal.timeline();
    n.wal.push(Entry { timeline, what: What::Row(n.view.epoch) });
    n.applied = n.wal.end();
}
