//! Counters and gauges of the front.
use std::sync::Mutex;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::route::Kind;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Place {
    route: &'static str,
    node: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Way {
    route: &'static str,
    node: u8,
    to: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cause {
    route: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Wait {
    route: &'static str,
    node: u8,
    reason: &'static str,
}

/// The counters of one session's traffic, shared with all others of its route and node.
#[derive(Clone)]
pub struct Traffic {
    /// Questions that the node has to answer with a `ReadyForQuery`.
    pub questions: Counter,
    /// Bytes that the node was sent.
    pub to_node: Counter,
    /// Bytes that the client was sent.
    pub to_client: Counter,
    /// Seconds that the front adds to a question and to the end of its answer: from reading it to having passed it on.
    pub added: Histogram,
}

/// Upper bounds in seconds: a few microseconds where nothing waits, seconds where a statement is held.
const ADDED: [f64; 12] = [5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 2e-3, 1e-2, 0.1, 1.0, 10.0];

fn added() -> Histogram {
    Histogram::new(ADDED)
}

/// What is counted, and its registry.
pub struct Metrics {
    registry: Mutex<Registry>,
    open: Family<Place, Gauge>,
    opened: Family<Place, Counter>,
    refused: Family<Cause, Counter>,
    dropped: Family<Place, Counter>,
    questions: Family<Place, Counter>,
    bytes: Family<Way, Counter>,
    cancels: Family<Place, Counter>,
    held: Family<Route, Counter>,
    waits: Family<Wait, Counter>,
    moved: Family<Place, Counter>,
    doubted: Family<Place, Counter>,
    added: Family<Place, Histogram, fn() -> Histogram>,
    lapsed: Family<Place, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pgpool_front");
        let (open, opened, dropped) = <(Family<_, Gauge>, Family<_, Counter>, Family<_, Counter>)>::default();
        let refused = Family::<Cause, Counter>::default();
        registry.register("connections", "Sessions of clients, by route and node", open.clone());
        registry.register("connections_opened", "Sessions that were begun", opened.clone());
        registry.register("connections_refused", "Clients that were turned away", refused.clone());
        registry.register(
            "connections_dropped",
            "Sessions ended by the front because their node left or lost its lease",
            dropped.clone(),
        );
        let (questions, bytes) = <(Family<Place, Counter>, Family<Way, Counter>)>::default();
        let (cancels, held) = <(Family<Place, Counter>, Family<Route, Counter>)>::default();
        registry.register("statements", "Queries and batches that nodes were asked", questions.clone());
        registry.register("bytes", "Bytes that were passed on, unencrypted", bytes.clone());
        registry.register("cancels", "Cancel requests that nodes were sent", cancels.clone());
        registry.register("held", "Times that a client had to wait for a node that serves", held.clone());
        let (waits, moved) = <(Family<Wait, Counter>, Family<Place, Counter>)>::default();
        registry.register(
            "sessions_held",
            "Sessions whose statements wait, since their node hands over or has no lease",
            waits.clone(),
        );
        registry.register("sessions_moved", "Sessions that went on at this node, by route", moved.clone());
        let doubted = Family::<Place, Counter>::default();
        registry.register(
            "barriers",
            "Answers after a cancel request that waited until all nodes had what was committed",
            doubted.clone(),
        );
        let added = Family::<Place, Histogram, fn() -> Histogram>::new_with_constructor(added);
        registry.register(
            "added_seconds",
            "What the front adds to a question and to the end of its answer",
            added.clone(),
        );
        let lapsed = Family::<Place, Counter>::default();
        registry.register(
            "leases_lapsed",
            "Times that a node with sessions was without a lease, by the sessions' route",
            lapsed.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            open,
            opened,
            refused,
            dropped,
            questions,
            bytes,
            cancels,
            held,
            waits,
            moved,
            doubted,
            added,
            lapsed,
        }
    }
}

impl Metrics {
    pub(super) fn came(&self, kind: Kind, node: u8, moved: bool) {
        let place = Place { route: kind.name(), node };
        self.open.get_or_create(&place).inc();
        let which = if moved { &self.moved } else { &self.opened };
        which.get_or_create(&place).inc();
    }

    pub(super) fn left(&self, kind: Kind, node: u8) {
        self.open.get_or_create(&Place { route: kind.name(), node }).dec();
    }

    pub(super) fn traffic(&self, kind: Kind, node: u8) -> Traffic {
        let route = kind.name();
        let bytes = |to| self.bytes.get_or_create_owned(&Way { route, node, to });
        Traffic {
            questions: self.questions.get_or_create_owned(&Place { route, node }),
            to_node: bytes("node"),
            to_client: bytes("client"),
            added: self.added.get_or_create_owned(&Place { route, node }),
        }
    }

    pub(super) fn waits(&self, kind: Kind, node: u8, reason: &'static str) {
        self.waits.get_or_create(&Wait { route: kind.name(), node, reason }).inc();
    }

    /// Counts each time that a node's lease has lapsed.
    pub(super) fn lapses(&self, kind: Kind, node: u8) -> Counter {
        self.lapsed.get_or_create_owned(&Place { route: kind.name(), node })
    }

    pub(super) fn doubted(&self, kind: Kind, node: u8) {
        self.doubted.get_or_create(&Place { route: kind.name(), node }).inc();
    }

    pub(super) fn cancelled(&self, kind: Kind, node: u8) {
        self.cancels.get_or_create(&Place { route: kind.name(), node }).inc();
    }

    pub(super) fn held(&self, kind: Kind) {
        self.held.get_or_create(&Route { route: kind.name() }).inc();
    }

    pub(super) fn refused(&self, kind: Kind, reason: &'static str) {
        self.refused.get_or_create(&Cause { route: kind.name(), reason }).inc();
    }

    pub(super) fn dropped(&self, kind: Kind, node: u8) {
        self.dropped.get_or_create(&Place { route: kind.name(), node }).inc();
    }

    /// All of them in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a string doesn't fail.
        encode(&mut text, &registry).ok();
        text
    }
}
