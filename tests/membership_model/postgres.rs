//! PostgreSQL's part: the WAL, walsenders and the sessions that wait for them.
use pgpool_operator::membership::rules::Rule;

use crate::state::{List, NODES, Primary, Sender, State};
use crate::world::World;

/// Priority and number of synchronous standbys, as a walsender reads them from the list.
pub fn placed(list: &List, node: usize, copy: u8) -> (u8, u8) {
    let filler = usize::from(list.filler.is_some());
    let place = list.names.iter().position(|n| usize::from(n.0) == node && n.1 == copy);
    let number = u8::try_from(list.names.len() + filler).expect("few names");
    (place.map_or(0, |at| u8::try_from(at + 1 + filler).expect("few names")), number)
}

impl World {
    pub fn connect(&self, s: &mut State, k: usize) {
        let copy = if self.rules.has(Rule::Incarnation) { s.standbys[k].copy } else { 1 };
        let (priority, number) = placed(&s.primary.list, k, copy);
        let applied = s.standbys[k].applied;
        s.primary.senders[k] = Some(Sender { copy, priority, number, applied, live: true });
    }
}

pub fn take_up(p: &mut Primary, k: usize) {
    if let Some(sender) = &mut p.senders[k] {
        let copy = sender.copy;
        (sender.priority, sender.number) = placed(&p.list, k, copy);
    }
}

pub fn apply(s: &mut State, k: usize) {
    let n = &mut s.standbys[k];
    n.applied += 1;
    let applied = n.applied;
    if let Some(sender) = s.primary.senders[k].as_mut().filter(|w| w.live) {
        sender.applied = applied;
    }
}

pub fn commit(s: &mut State) {
    let number = s.left.commits;
    s.left.commits -= 1;
    s.primary.wal.push(number);
    if s.primary.flag {
        s.primary.waiting |= 1 << number;
    } else {
        s.acknowledged |= 1 << number;
    }
}

/// PostgreSQL's SyncRepReleaseWaiters: the walsender takes, of all with a priority, as many as *its* list
/// has names, in order of the priorities that *they* have written; if it is one of them, it wakes the
/// sessions up to the least that those have applied. Equal priorities: any order.
pub fn release(s: &mut State, k: usize) {
    let p = &mut s.primary;
    let Some(me) = p.senders[k].filter(|w| w.priority > 0) else { return };
    let mut all: Vec<(u8, bool, u8)> = (1..NODES)
        .filter_map(|i| p.senders[i].filter(|w| w.priority > 0).map(|w| (w.priority, i != k, w.applied)))
        .collect();
    all.sort_unstable();
    let chosen = all.iter().take(usize::from(me.number));
    if all.len() < usize::from(me.number) || !chosen.clone().any(|c| !c.1) {
        return;
    }
    let up_to = chosen.map(|c| c.2).min().unwrap_or(0);
    let free = p.commits(up_to) & p.waiting;
    p.waiting &= !free;
    s.acknowledged |= free;
}

/// Where leases are looked at, PostgreSQL's part is done at once: all use the list, whoever may be
/// acknowledged is.
pub fn settle(s: &mut State) {
    if !s.primary.up {
        return;
    }
    s.primary.flag = !(s.primary.list.names.is_empty() && s.primary.list.filler.is_none());
    if !s.primary.flag {
        s.acknowledged |= std::mem::take(&mut s.primary.waiting);
    }
    for k in 1..NODES {
        take_up(&mut s.primary, k);
    }
    for k in (1..NODES).filter(|_| s.primary.waiting != 0).collect::<Vec<_>>() {
        release(s, k);
    }
}
