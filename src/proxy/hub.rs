//! What all sessions share: the table, who sits where, and the end of what has lost its lease.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{
    lease::Tenure,
    metrics::Metrics,
    route::{Kind, choose, serves},
    table::Table,
};
use crate::{
    clock::{self, Moment},
    messages::NodeReport,
    names::MAX_NODES,
};

/// While no node was heard for so long, the front calls itself not ready.
const SILENCE: Duration = Duration::from_secs(30);
/// Time for the nodes that are looked for, before one more is: node 0 is always there, but may be down. It doubles each time.
const SEARCH: Duration = Duration::from_millis(100);
/// The longest sleep of the sweeper, lest a suspended machine's clocks drift apart unseen.
const SWEEP: Duration = Duration::from_secs(1);

/// The shared state of the front.
pub struct Hub {
    shared: Mutex<Shared>,
    changed: watch::Sender<()>,
    /// A lease ends earlier than the sweeper thinks.
    hastened: Notify,
    /// How many nodes are followed, and whether one has said that there are so many.
    nodes: watch::Sender<Count>,
    /// Counters and gauges.
    pub metrics: Metrics,
}

/// How many nodes the pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// So many are followed.
    pub nodes: u8,
    /// A node has said it; before that, so many are looked for.
    pub told: bool,
}

impl Count {
    /// With the word of a node, which knows of itself and of its standbys even where it is older and doesn't say it.
    fn with(self, report: &NodeReport) -> Self {
        let known = report.replicas.iter().map(|replica| replica.index).fold(report.index, u8::max);
        let known = known.saturating_add(1).min(MAX_NODES);
        match report.nodes {
            Some(nodes) => Self { nodes: nodes.clamp(known, MAX_NODES), told: true },
            None => Self { nodes: self.nodes.max(known), ..self },
        }
    }
}

struct Shared {
    table: Table,
    tenures: HashMap<(Kind, u8), Arc<Tenure>>,
    busy: Vec<usize>,
    turn: usize,
    heard: Option<Moment>,
    draining: bool,
    /// When the sweeper looks next.
    planned: Moment,
}

/// A session's place on a node; given back when dropped.
pub struct Seat {
    hub: Arc<Hub>,
    /// The node.
    pub index: u8,
    kind: Kind,
    /// How long it may stay.
    pub tenure: Arc<Tenure>,
    counted: bool,
    vacated: AtomicBool,
}

impl Seat {
    /// A session begins here; one that was `moved` began elsewhere.
    pub fn count(&mut self, moved: bool) {
        self.counted = true;
        let mut shared = self.hub.lock();
        shared.turn = shared.turn.wrapping_add(1);
        drop(shared);
        self.hub.metrics.came(self.kind, self.index, moved);
    }
}

impl Seat {
    /// Nobody sits here any more: the session is still there, and its node isn't.
    pub fn leave(&self) {
        if self.vacated.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut shared = self.hub.lock();
        if let Some(busy) = shared.busy.get_mut(usize::from(self.index)) {
            *busy = busy.saturating_sub(1);
        }
        drop(shared);
        if self.counted {
            self.hub.metrics.left(self.kind, self.index);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Hub {
    /// The state of a front that knows nothing yet.
    pub fn new() -> Arc<Self> {
        let shared = Shared {
            table: Table::new(),
            tenures: HashMap::new(),
            busy: vec![0; usize::from(MAX_NODES)],
            turn: 0,
            heard: None,
            draining: false,
            planned: Moment::ZERO,
        };
        Arc::new(Self {
            shared: Mutex::new(shared),
            changed: watch::Sender::new(()),
            hastened: Notify::new(),
            nodes: watch::Sender::new(Count { nodes: 1, told: false }),
            metrics: Metrics::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line of a node's stream.
    pub fn told(&self, index: u8, report: &NodeReport) {
        self.nodes.send_if_modified(|count| {
            let next = count.with(report);
            std::mem::replace(count, next) != next
        });
        self.change(index, |shared, now| shared.table.told(index, report, now));
    }

    /// Takes the answer to a question that was sent at `sent`.
    pub fn answered(&self, index: u8, report: &NodeReport, sent: Moment) {
        self.change(index, |shared, _| shared.table.answered(index, report, sent));
    }

    fn change(&self, index: u8, act: impl FnOnce(&mut Shared, Moment)) {
        let mut shared = self.lock();
        // Not before: who looked meanwhile may have found a lease that was over by then.
        let now = clock::now();
        let before = shared.standing(index, now);
        shared.heard = Some(now);
        act(&mut shared, now);
        let next = shared.sweep(now);
        let after = shared.standing(index, now);
        let changed = before != after;
        let hastened = next.is_some_and(|next| next < shared.planned);
        drop(shared);
        if before.is_none() && after.is_some() {
            self.metrics.know_node(index);
        }
        // Nodes say many times a second that nothing is new, and a thousand clients may be waiting.
        if changed {
            self.changed.send_replace(());
            tell(index, before.as_ref(), after.as_ref());
        }
        if hastened {
            self.hastened.notify_one();
        }
    }

    /// Wakes at each change of what nodes serve, from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How many nodes are to be followed.
    pub fn nodes(&self) -> watch::Receiver<Count> {
        self.nodes.subscribe()
    }

    /// Looks for one node more after each pause, until one says how many there are.
    pub async fn search(&self) {
        let mut nodes = self.nodes();
        let mut pause = SEARCH;
        for more in 2..=MAX_NODES {
            if tokio::time::timeout(pause, nodes.wait_for(|count| count.told)).await.is_ok() {
                return;
            }
            self.nodes.send_if_modified(|count| {
                let further = !count.told && count.nodes < more;
                if further {
                    count.nodes = more;
                }
                further
            });
            pause *= 2;
        }
    }

    /// A place for a new session, on none of the nodes in `tried`.
    pub fn take(self: &Arc<Self>, kind: Kind, tried: &[u8]) -> Option<Seat> {
        let mut shared = self.lock();
        let busy = |index| shared.busy.get(usize::from(index)).copied().unwrap_or(usize::MAX);
        let index = choose(&shared.table, kind, clock::now(), busy, tried, shared.turn)?;
        let entry = shared.table.get(index)?;
        let fresh = Tenure::new(entry, self.metrics.lapses(kind, index));
        let tenure = shared.tenures.entry((kind, index)).or_insert_with(|| Arc::new(fresh)).clone();
        let hastened = tenure.lease() < shared.planned;
        if let Some(busy) = shared.busy.get_mut(usize::from(index)) {
            *busy += 1;
        }
        drop(shared);
        if hastened {
            self.hastened.notify_one();
        }
        Some(Seat { hub: self.clone(), index, kind, tenure, counted: false, vacated: AtomicBool::new(false) })
    }

    /// From now on the front calls itself not ready.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Why the front isn't ready, if it isn't.
    pub fn not_ready(&self) -> Option<&'static str> {
        let shared = self.lock();
        if shared.draining {
            return Some("shutting down");
        }
        match shared.heard {
            None => Some("no node was heard yet"),
            Some(heard) if clock::now().since(heard) > SILENCE => Some("no node is heard any more"),
            Some(_) => None,
        }
    }

    /// How many nodes serve now, by route.
    pub fn serving(&self) -> [(Kind, usize); 2] {
        let (shared, now) = (self.lock(), clock::now());
        [Kind::Primary, Kind::Read].map(|kind| {
            let serving = shared.table.nodes().filter(|(_, entry)| serves(entry, kind, now));
            (kind, serving.count())
        })
    }

    /// Sees to it that no lease is outlived, for ever.
    pub async fn sweep(&self) {
        loop {
            let now = clock::now();
            let pause = {
                let mut shared = self.lock();
                let next = shared.sweep(now);
                let pause = next.map_or(SWEEP, |next| next.since(now).min(SWEEP));
                shared.planned = now.after(pause);
                // Leases are kept in milliseconds: without the last one it would wake just before the end.
                pause + Duration::from_millis(1)
            };
            // Either is a reason to look again.
            let _ = tokio::time::timeout(pause, self.hastened.notified()).await;
        }
    }
}

/// What of a node decides who may be there: its start of Postgres, its epoch, whether it hands over, and for whom it
/// serves.
type Standing = ((Option<String>, String), i64, bool, [bool; 2]);

/// Says when a node begins to take the sessions that write, and when it takes no more.
fn tell(node: u8, before: Option<&Standing>, after: Option<&Standing>) {
    let writes = |standing: Option<&Standing>| standing.is_some_and(|(.., [primary, _])| *primary);
    match (writes(before), writes(after)) {
        (false, true) => tracing::info!(node, "{PRIMARY_SERVES}"),
        (true, false) => tracing::info!(node, "the primary serves no more"),
        _ => {}
    }
}

/// By this line of a front's log it is seen how soon it knew (`cargo xtask bench failover`).
const PRIMARY_SERVES: &str = "the primary serves";

impl Shared {
    fn standing(&self, index: u8, now: Moment) -> Option<Standing> {
        let entry = self.table.get(index)?;
        let serves = [Kind::Primary, Kind::Read].map(|kind| serves(entry, kind, now));
        Some((entry.tenure.clone(), entry.epoch, entry.draining, serves))
    }

    /// Tells the tenures how their nodes stand; returns when to look again, should nothing be heard.
    fn sweep(&mut self, now: Moment) -> Option<Moment> {
        let Self { table, tenures, .. } = self;
        let mut next = None;
        tenures.retain(|(kind, index), tenure| {
            let look = tenure.look(table, *kind, *index, now);
            next = [next, look].into_iter().flatten().min();
            look.is_some()
        });
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{messages::Role, proxy::table::tests::report};

    #[test]
    fn a_front_is_ready_once_a_node_was_heard_until_it_is_shut_down() {
        let hub = Hub::new();
        assert_eq!(hub.not_ready(), Some("no node was heard yet"));
        // Whatever it says: also one that serves nobody shows that nodes can be heard.
        hub.told(1, &report(1, Role::Stopped, 3, 0));
        assert_eq!(hub.not_ready(), None);
        hub.drain();
        assert_eq!(hub.not_ready(), Some("shutting down"));
    }

    #[tokio::test]
    async fn nodes_are_looked_for_one_by_one_until_one_says_how_many_there_are() {
        let hub = Hub::new();
        let mut nodes = hub.nodes();
        let looking = hub.clone();
        let search = tokio::spawn(async move { looking.search().await });
        let count = |nodes, told| Count { nodes, told };
        assert_eq!(*nodes.borrow_and_update(), count(1, false));
        for looked_for in [2, 3] {
            nodes.changed().await.unwrap();
            assert_eq!(*nodes.borrow_and_update(), count(looked_for, false));
        }
        let says = |index, nodes| NodeReport { nodes, ..report(index, Role::Standby, 3, 0) };
        hub.told(4, &says(4, None));
        assert_eq!(
            *nodes.borrow_and_update(),
            count(5, false),
            "an older agent doesn't say it, but is there"
        );
        hub.told(2, &says(2, Some(9)));
        search.await.unwrap();
        assert_eq!(*nodes.borrow_and_update(), count(9, true));
        hub.told(2, &says(2, Some(3)));
        assert_eq!(*nodes.borrow_and_update(), count(3, true), "fewer");
        hub.told(2, &says(2, None));
        assert!(!nodes.has_changed().unwrap());
        hub.told(3, &says(3, Some(3)));
        assert_eq!(*nodes.borrow_and_update(), count(4, true), "it is still there itself");
    }
}
