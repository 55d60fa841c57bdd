//! For how long a node may be spoken to (R3, R4).
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::{
    route::{Kind, fits},
    table::{Entry, Table},
};
use crate::clock::Moment;
use crate::messages::LAPSED_FOR;

/// How a node stands towards the sessions on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It serves.
    Serving,
    /// It serves, and hands over: who is in a transaction may finish.
    Leaving,
    /// Its lease is over and may come back: nothing may be sent. What it says still counts, since it was asked under
    /// the lease.
    Lapsed,
    /// Nothing of it counts any more: it left, was restarted, or was silent for too long.
    Over,
}

/// The time for which a node may be spoken to by sessions of one kind: one start of Postgres on one copy of the data.
pub struct Tenure {
    id: (Option<String>, String),
    /// When the lease ends; 0 once all is over.
    lease_ms: AtomicU64,
    standing: watch::Sender<Standing>,
    lapses: Counter,
}

impl Tenure {
    /// Of a node that serves; each time that its lease lapses is counted.
    pub fn new(entry: &Entry, lapses: Counter) -> Self {
        let standing = if entry.draining { Standing::Leaving } else { Standing::Serving };
        Self {
            id: entry.tenure.clone(),
            lease_ms: AtomicU64::new(entry.lease.as_millis()),
            standing: watch::Sender::new(standing),
            lapses,
        }
    }

    /// The start of PostgreSQL that it is about.
    pub fn boot(&self) -> &str {
        &self.id.1
    }

    /// When its lease ends.
    pub fn lease(&self) -> Moment {
        Moment::from_millis(self.lease_ms.load(Ordering::Acquire))
    }

    /// True while a statement may be sent to the node. If not, the standing says so from now on, until it may: whoever
    /// waits for another standing misses nothing.
    pub fn may_send(&self, now: Moment) -> bool {
        now < self.lease() || !self.lapse(now)
    }

    fn lapse(&self, now: Moment) -> bool {
        let mut lapsed = false;
        self.standing.send_if_modified(|standing| {
            // Looked at anew behind the lock: the lease may have been extended since, and then nobody would say so again.
            lapsed = now >= self.lease();
            let news = lapsed && matches!(standing, Standing::Serving | Standing::Leaving);
            if news {
                *standing = Standing::Lapsed;
                self.lapses.inc();
            }
            news
        });
        lapsed
    }

    /// How the node stands, and each change of that.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// How the node stands.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Waits until it is over.
    pub async fn ended(&self) {
        // The sender is this one's own.
        let _ = self.watch().wait_for(|standing| *standing == Standing::Over).await;
    }

    /// True once it is over: whatever the node says next belongs to another one.
    pub fn is_over(&self) -> bool {
        self.standing() == Standing::Over
    }

    fn become_of(&self, next: Standing) {
        self.standing.send_if_modified(|standing| {
            let news = std::mem::replace(standing, next) != next;
            if news && next == Standing::Lapsed {
                self.lapses.inc();
            }
            news
        });
    }

    /// Takes what is known now of node `index`, to sessions of this kind; when to look again should nothing be heard,
    /// and nothing once it is over.
    pub fn look(&self, table: &Table, kind: Kind, index: u8, now: Moment) -> Option<Moment> {
        let entry = table.get(index).filter(|entry| entry.tenure == self.id && fits(entry, kind));
        let Some(entry) = entry.filter(|entry| !is_replaced(table, kind, index, entry, now)) else {
            self.end();
            return None;
        };
        if entry.lease > now {
            self.lease_ms.store(entry.lease.as_millis(), Ordering::Release);
            self.become_of(if entry.draining { Standing::Leaving } else { Standing::Serving });
            return Some(entry.lease);
        }
        // Known to be shorter than it was thought, it counts as that.
        self.lease_ms.fetch_min(entry.lease.as_millis(), Ordering::AcqRel);
        let last = entry.lease.after(LAPSED_FOR);
        if last <= now {
            self.end();
            return None;
        }
        self.become_of(Standing::Lapsed);
        Some(last)
    }

    fn end(&self) {
        self.lease_ms.store(0, Ordering::Release);
        self.become_of(Standing::Over);
    }
}

/// Whether another node has taken the office that this one had.
fn is_replaced(table: &Table, kind: Kind, index: u8, entry: &Entry, now: Moment) -> bool {
    kind == Kind::Primary
        && table.nodes().any(|(other, next)| {
            other != index && next.epoch > entry.epoch && next.lease > now && fits(next, kind)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{messages::Role, proxy::table::tests::report};

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    /// A primary of epoch 3 and a standby, both under a lease until 2000.
    fn pool() -> Table {
        let mut table = Table::new();
        for (index, role) in [(0, Role::Primary), (1, Role::Standby)] {
            let said = report(index, role, 3, 2000);
            table.told(index, &said, at(0));
            table.answered(index, &said, at(0));
        }
        table
    }

    fn tenure(table: &Table, index: u8) -> Tenure {
        Tenure::new(table.get(index).unwrap(), Counter::default())
    }

    #[test]
    fn a_lease_that_lapsed_may_come_back() {
        let mut table = pool();
        let tenure = tenure(&table, 0);
        assert!(tenure.may_send(at(1999)));
        assert!(!tenure.may_send(at(2000)), "looked at when it is sent");
        assert_eq!(tenure.standing(), Standing::Lapsed);
        assert_eq!(tenure.look(&table, Kind::Primary, 0, at(2000)), Some(at(7000)));
        assert_eq!(tenure.lapses.get(), 1, "seen twice, it is one");
        table.answered(0, &report(0, Role::Primary, 3, 2000), at(3000));
        assert_eq!(tenure.look(&table, Kind::Primary, 0, at(3001)), Some(at(5000)));
        assert_eq!(tenure.standing(), Standing::Serving);
        assert!(tenure.may_send(at(4000)));
        assert_eq!(tenure.look(&table, Kind::Primary, 0, at(9999)), Some(at(10_000)));
        assert_eq!(tenure.look(&table, Kind::Primary, 0, at(10_000)), None, "not for ever");
        assert!(tenure.is_over() && !tenure.may_send(at(0)));
        assert_eq!(tenure.lapses.get(), 2);
    }

    #[test]
    fn what_changed_besides_the_lease_is_over_at_once() {
        for change in [
            |said: &mut crate::messages::NodeReport| said.open = false,
            |said: &mut crate::messages::NodeReport| said.boot = "b2".into(),
            |said: &mut crate::messages::NodeReport| said.role = Role::Standby,
        ] {
            let mut table = pool();
            let tenure = tenure(&table, 0);
            let mut said = report(0, Role::Primary, 3, 2000);
            change(&mut said);
            table.told(0, &said, at(10));
            assert_eq!(tenure.look(&table, Kind::Primary, 0, at(10)), None);
            assert_eq!(tenure.standing(), Standing::Over);
        }
    }

    #[test]
    fn another_primary_ends_the_former_ones() {
        let mut table = pool();
        let (former, reader) = (tenure(&table, 0), tenure(&table, 0));
        let next = report(1, Role::Primary, 5, 2000);
        table.told(1, &next, at(2500));
        assert!(former.look(&table, Kind::Primary, 0, at(2500)).is_some(), "it has no lease yet");
        table.answered(1, &next, at(2600));
        assert_eq!(former.look(&table, Kind::Primary, 0, at(2600)), None);
        assert!(reader.look(&table, Kind::Read, 0, at(2600)).is_some(), "its answers may count again");
    }

    #[test]
    fn whoever_hands_over_still_serves() {
        let mut table = pool();
        let tenure = tenure(&table, 0);
        let mut said = report(0, Role::Primary, 3, 2000);
        said.draining = true;
        table.told(0, &said, at(10));
        tenure.look(&table, Kind::Primary, 0, at(10));
        assert_eq!(tenure.standing(), Standing::Leaving);
        assert!(tenure.may_send(at(11)));
        said.draining = false;
        table.told(0, &said, at(20));
        tenure.look(&table, Kind::Primary, 0, at(20));
        assert_eq!(tenure.standing(), Standing::Serving);
    }
}
