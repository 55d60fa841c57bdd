//! Counters and gauges of the front.
use std::sync::Mutex;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{refusal::Refusal, route::Kind};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Place {
    route: &'static str,
    node: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cause {
    route: &'static str,
    reason: &'static str,
}

/// What is counted, and its registry.
pub struct Metrics {
    registry: Mutex<Registry>,
    open: Family<Place, Gauge>,
    opened: Family<Place, Counter>,
    refused: Family<Cause, Counter>,
    dropped: Family<Place, Counter>,
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
        Self { registry: Mutex::new(registry), open, opened, refused, dropped }
    }
}

impl Metrics {
    pub(super) fn came(&self, kind: Kind, node: u8) {
        let place = Place { route: kind.name(), node };
        self.open.get_or_create(&place).inc();
        self.opened.get_or_create(&place).inc();
    }

    pub(super) fn left(&self, kind: Kind, node: u8) {
        self.open.get_or_create(&Place { route: kind.name(), node }).dec();
    }

    pub(super) fn refused(&self, kind: Kind, why: Refusal) {
        self.refused.get_or_create(&Cause { route: kind.name(), reason: why.name() }).inc();
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
