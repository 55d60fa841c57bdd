//! What the operator counts. Labels have few values: never a pool's name, never an error's text.
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What an error was about: one of a fixed set of words.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Category {
    /// The word.
    pub category: &'static str,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    /// Passes over pools.
    pub passes: Counter,
    /// Passes that failed, by what failed.
    pub errors: Family<Category, Counter>,
    /// Seconds that a pass took.
    pub seconds: Histogram,
    /// Pools that are looked after.
    pub pools: Gauge,
    /// 1 while this copy of the operator leads.
    pub leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("pgpool_operator"),
            passes: Counter::default(),
            errors: Family::default(),
            // 1 ms to 16 s.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            pools: Gauge::default(),
            leading: Gauge::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("passes", "Passes over pools", self.passes.clone());
        registry.register("errors", "Passes that failed, by what failed", self.errors.clone());
        registry.register("pass_seconds", "Seconds that a pass took", self.seconds.clone());
        registry.register("pools", "Pools that are looked after", self.pools.clone());
        registry.register("leading", "1 while this copy of the operator leads", self.leading.clone());
        self
    }

    /// Counts an error.
    pub fn error(&self, category: &'static str) {
        self.errors.get_or_create(&Category { category }).inc();
    }

    /// All of it in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut out = String::new();
        match encode(&mut out, &self.registry) {
            Ok(()) => out,
            // A String takes every write.
            Err(_) => String::new(),
        }
    }
}
