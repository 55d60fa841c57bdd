//! What the operator counts, and what it tells of each pool. Labels `pool_namespace` and `pool` name a PgPool; `namespace` is
//! left to the scraper, to whom it is the operator's own.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::catalog::{know, metrics, text};

metrics! {
    BUILD: Info "pgpool_operator_build_info" ["version"]
        "Version of the operator";
    LEADING: Gauge "pgpool_operator_leading" []
        "1 while this pod of the operator leads";
    RECONCILES: Counter "pgpool_operator_reconciles_total" ["result"]
        "Passes over pools";
    RECONCILE_SECONDS: Histogram "pgpool_operator_reconcile_duration_seconds" []
        "Time that a pass took";
    ERRORS: Counter "pgpool_operator_errors_total" ["category"]
        "What a pass could not do, by what failed";
    EVENTS: Counter "pgpool_operator_events_total" ["type" "reason"]
        "Events that were published";
    RECOVERIES: Counter "pgpool_operator_recoveries_total" ["result"]
        "Recoveries of nodes that ended";
    RECOVERY_SECONDS: Histogram "pgpool_operator_recovery_duration_seconds" ["result"]
        "Time from the request of a recovery to its end";
    RECOVERY_BYTES: Counter "pgpool_operator_recovery_copied_bytes_total" []
        "Bytes that recoveries copied";
    POOLS: Gauge "pgpool_operator_pools" ["phase"]
        "Pools that are looked after";
    POOL_READY: Gauge "pgpool_operator_pool_ready" ["pool_namespace" "pool"]
        "1 while the pool's condition Ready is true";
    POOL_PHASE: Gauge "pgpool_operator_pool_phase" ["pool_namespace" "pool" "phase"]
        "1 for the phase that the pool is in";
    POOL_DEGRADED: Gauge "pgpool_operator_pool_degraded" ["pool_namespace" "pool" "reason"]
        "1 for the reason of the pool's condition Degraded, while that is true";
    POOL_NODES: Gauge "pgpool_operator_pool_nodes_wished" ["pool_namespace" "pool"]
        "Nodes that the pool shall have";
    NODE_STATE: Gauge "pgpool_operator_node_state" ["pool_namespace" "pool" "node" "state"]
        "1 for the state that the node is in";
    NODE_FAILED: Gauge "pgpool_operator_node_failed_recoveries" ["pool_namespace" "pool" "node"]
        "Recoveries of the node that failed since the last one that did not";
}

/// How a pass over a pool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// All that was planned is done.
    Done,
    /// Some of it could not be done.
    Unfinished,
    /// Somebody else wrote first: it is made again at once.
    Conflict,
    /// It broke off before anything was done.
    Failed,
    /// The spec is refused.
    Refused,
}

impl Pass {
    const ALL: [Self; 5] = [Self::Done, Self::Unfinished, Self::Conflict, Self::Failed, Self::Refused];

    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unfinished => "unfinished",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// Phases of a pool, in the words of its status.
pub const PHASES: [&str; 8] =
    ["Creating", "Recovering", "Updating", "Ready", "Degraded", "Unavailable", "Suspended", "Invalid"];

/// What is told of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Whether its condition Ready is true.
    pub ready: bool,
    /// One of [`PHASES`]; none before the first pass.
    pub phase: Option<&'static str>,
    /// The reason of its condition Degraded, while that is true.
    pub degraded: Option<String>,
    /// Nodes that it shall have.
    pub wished: u8,
    /// Those that are there.
    pub nodes: Vec<NodeFigures>,
}

/// What is told of one of its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFigures {
    /// Its index.
    pub index: u8,
    /// What it is, in the word of the pool's status.
    pub state: &'static str,
    /// Recoveries that failed in a row.
    pub failed_recoveries: u32,
}

macro_rules! labels {
    ($($name:ident { $($field:ident: $type:ty),* })*) => {
        $(
            #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
            struct $name { $($field: $type),* }
        )*
    };
}

labels! {
    Ended { result: &'static str }
    Category { category: &'static str }
    Event { r#type: &'static str, reason: &'static str }
    Phase { phase: &'static str }
    OfPool { pool_namespace: String, pool: String }
    InPhase { pool_namespace: String, pool: String, phase: &'static str }
    Degraded { pool_namespace: String, pool: String, reason: String }
    OfNode { pool_namespace: String, pool: String, node: u8 }
    InState { pool_namespace: String, pool: String, node: u8, state: &'static str }
}

/// What is told of pools: made anew for each scrape, so that nothing stays of a pool that is gone.
#[derive(Default)]
struct Pools {
    by_phase: Family<Phase, Gauge>,
    ready: Family<OfPool, Gauge>,
    phase: Family<InPhase, Gauge>,
    degraded: Family<Degraded, Gauge>,
    wished: Family<OfPool, Gauge>,
    state: Family<InState, Gauge>,
    failed: Family<OfNode, Gauge>,
}

impl Pools {
    fn register(&self, registry: &mut Registry) {
        POOLS.register(registry, self.by_phase.clone());
        POOL_READY.register(registry, self.ready.clone());
        POOL_PHASE.register(registry, self.phase.clone());
        POOL_DEGRADED.register(registry, self.degraded.clone());
        POOL_NODES.register(registry, self.wished.clone());
        NODE_STATE.register(registry, self.state.clone());
        NODE_FAILED.register(registry, self.failed.clone());
    }

    fn clear(&self) {
        for phase in PHASES {
            self.by_phase.get_or_create(&Phase { phase }).set(0);
        }
        self.ready.clear();
        self.phase.clear();
        self.degraded.clear();
        self.wished.clear();
        self.state.clear();
        self.failed.clear();
    }

    fn tell(&self, (pool_namespace, pool): &(String, String), figures: &PoolFigures) {
        let (pool_namespace, pool) = (pool_namespace.clone(), pool.clone());
        let of_pool = OfPool { pool_namespace: pool_namespace.clone(), pool: pool.clone() };
        self.ready.get_or_create(&of_pool).set(i64::from(figures.ready));
        self.wished.get_or_create(&of_pool).set(i64::from(figures.wished));
        if let Some(phase) = figures.phase {
            self.by_phase.get_or_create(&Phase { phase }).inc();
            let (pool_namespace, pool) = (pool_namespace.clone(), pool.clone());
            self.phase.get_or_create(&InPhase { pool_namespace, pool, phase }).set(1);
        }
        if let Some(reason) = figures.degraded.clone() {
            let (pool_namespace, pool) = (pool_namespace.clone(), pool.clone());
            self.degraded.get_or_create(&Degraded { pool_namespace, pool, reason }).set(1);
        }
        for &NodeFigures { index: node, state, failed_recoveries } in &figures.nodes {
            let of_node = OfNode { pool_namespace: pool_namespace.clone(), pool: pool.clone(), node };
            self.failed.get_or_create(&of_node).set(i64::from(failed_recoveries));
            let OfNode { pool_namespace, pool, node } = of_node;
            self.state.get_or_create(&InState { pool_namespace, pool, node, state }).set(1);
        }
    }
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    leading: Gauge,
    reconciles: Family<Ended, Counter>,
    seconds: Histogram,
    errors: Family<Category, Counter>,
    events: Family<Event, Counter>,
    recoveries: Family<Ended, Counter>,
    recovery_seconds: Family<Ended, Histogram, fn() -> Histogram>,
    recovery_bytes: Counter,
    pools: Pools,
    figures: Mutex<BTreeMap<(String, String), PoolFigures>>,
}

/// 1 s to 2 h 16 min.
fn recovery_seconds() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 14))
}

const RESULTS: [&str; 2] = ["succeeded", "failed"];

impl Metrics {
    /// Nothing counted yet; `categories` are those that errors may have, `events` the types and reasons of events. What is known
    /// beforehand is told from the start as 0: of a series that begins with 1 a rate would miss that one.
    pub fn new(
        categories: &[&'static str],
        events: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            leading: Gauge::default(),
            reconciles: Family::default(),
            // 1 ms to 16 s.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            errors: Family::default(),
            events: Family::default(),
            recoveries: Family::default(),
            recovery_seconds: Family::new_with_constructor(recovery_seconds),
            recovery_bytes: Counter::default(),
            pools: Pools::default(),
            figures: Mutex::default(),
        };
        metrics.register();
        for pass in Pass::ALL {
            know(&metrics.reconciles, &Ended { result: pass.word() });
        }
        for &category in categories {
            know(&metrics.errors, &Category { category });
        }
        for (r#type, reason) in events {
            know(&metrics.events, &Event { r#type, reason });
        }
        for result in RESULTS {
            know(&metrics.recoveries, &Ended { result });
            know(&metrics.recovery_seconds, &Ended { result });
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        BUILD.says(registry, vec![("version", env!("CARGO_PKG_VERSION").to_owned())]);
        LEADING.register(registry, self.leading.clone());
        RECONCILES.register(registry, self.reconciles.clone());
        RECONCILE_SECONDS.register(registry, self.seconds.clone());
        ERRORS.register(registry, self.errors.clone());
        EVENTS.register(registry, self.events.clone());
        RECOVERIES.register(registry, self.recoveries.clone());
        RECOVERY_SECONDS.register(registry, self.recovery_seconds.clone());
        RECOVERY_BYTES.register(registry, self.recovery_bytes.clone());
        self.pools.register(registry);
    }

    /// This pod leads from now on, until its end.
    pub fn leads(&self) {
        self.leading.set(1);
    }

    /// Counts a pass that took so many seconds.
    pub fn passed(&self, pass: Pass, seconds: f64) {
        self.reconciles.get_or_create(&Ended { result: pass.word() }).inc();
        self.seconds.observe(seconds);
    }

    /// Counts an error.
    pub fn error(&self, category: &'static str) {
        self.errors.get_or_create(&Category { category }).inc();
    }

    /// Counts an event.
    pub fn event(&self, r#type: &'static str, reason: &'static str) {
        self.events.get_or_create(&Event { r#type, reason }).inc();
    }

    /// Counts a recovery that has ended.
    pub fn recovered(&self, succeeded: bool, seconds: f64, bytes: u64) {
        let result = if succeeded { RESULTS[0] } else { RESULTS[1] };
        self.recoveries.get_or_create(&Ended { result }).inc();
        self.recovery_seconds.get_or_create(&Ended { result }).observe(seconds);
        self.recovery_bytes.inc_by(bytes);
    }

    /// Takes what is known of a pool now.
    pub fn saw(&self, namespace: &str, pool: &str, figures: PoolFigures) {
        let key = (namespace.to_owned(), pool.to_owned());
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).insert(key, figures);
    }

    /// The pool is gone.
    pub fn forget(&self, namespace: &str, pool: &str) {
        let key = (namespace.to_owned(), pool.to_owned());
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// All of it in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        // Held until it is written: another scrape begins by clearing what stands here.
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        self.pools.clear();
        for (pool, figures) in figures.iter() {
            self.pools.tell(pool, figures);
        }
        text(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::told;
    use super::*;

    fn figures() -> PoolFigures {
        let node = |index, state, failed_recoveries| NodeFigures { index, state, failed_recoveries };
        PoolFigures {
            ready: false,
            phase: Some("Degraded"),
            degraded: Some("NodesMissing".to_owned()),
            wished: 2,
            nodes: vec![node(0, "Attached", 0), node(1, "Detached", 3)],
        }
    }

    #[test]
    fn every_entry_is_told_and_nothing_else() {
        let metrics = Metrics::new(&["ApplyFailed"], [("Normal", "NodeAttached")]);
        metrics.saw("harbour", "orchard", figures());
        let all: std::collections::BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(told(&metrics.text(), ALL), all);
    }

    #[test]
    fn a_pool_is_told_as_it_is_and_not_once_it_is_gone() {
        let metrics = Metrics::new(&[], []);
        metrics.saw("harbour", "orchard", PoolFigures { phase: Some("Creating"), ..figures() });
        metrics.saw("harbour", "orchard", figures());
        let text = metrics.text();
        for line in [
            "pgpool_operator_pools{phase=\"Degraded\"} 1",
            "pgpool_operator_pools{phase=\"Creating\"} 0",
            "pgpool_operator_pool_phase{pool_namespace=\"harbour\",pool=\"orchard\",phase=\"Degraded\"} 1",
            "pgpool_operator_pool_ready{pool_namespace=\"harbour\",pool=\"orchard\"} 0",
            "pgpool_operator_pool_degraded{pool_namespace=\"harbour\",pool=\"orchard\",reason=\"NodesMissing\"} 1",
            "pgpool_operator_pool_nodes_wished{pool_namespace=\"harbour\",pool=\"orchard\"} 2",
            "pgpool_operator_node_state{pool_namespace=\"harbour\",pool=\"orchard\",node=\"1\",state=\"Detached\"} 1",
            "pgpool_operator_node_failed_recoveries{pool_namespace=\"harbour\",pool=\"orchard\",node=\"1\"} 3",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} isn't in\n{text}");
        }
        assert!(!text.contains("phase=\"Creating\"} 1"), "{text}");
        metrics.forget("harbour", "orchard");
        assert!(!metrics.text().contains("orchard"));
    }

    #[test]
    fn what_ended_is_counted_by_how_it_ended() {
        let metrics = Metrics::new(&["ApplyFailed"], [("Normal", "PrimaryInOffice")]);
        metrics.passed(Pass::Unfinished, 0.25);
        metrics.error("ApplyFailed");
        metrics.recovered(false, 60.0, 10);
        metrics.recovered(true, 7.0, 5);
        metrics.event("Warning", "PrimaryInOffice");
        let text = metrics.text();
        for line in [
            "pgpool_operator_reconciles_total{result=\"unfinished\"} 1",
            "pgpool_operator_reconciles_total{result=\"done\"} 0",
            "pgpool_operator_reconcile_duration_seconds_sum 0.25",
            "pgpool_operator_errors_total{category=\"ApplyFailed\"} 1",
            "pgpool_operator_recoveries_total{result=\"failed\"} 1",
            "pgpool_operator_recovery_duration_seconds_sum{result=\"succeeded\"} 7.0",
            "pgpool_operator_recovery_copied_bytes_total 15",
            "pgpool_operator_events_total{type=\"Warning\",reason=\"PrimaryInOffice\"} 1",
            "pgpool_operator_events_total{type=\"Normal\",reason=\"PrimaryInOffice\"} 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} isn't in\n{text}");
        }
    }
}
