//! What a metric is called and what it says. The entries of [`operator`](super::operator), [`node`](super::node) and
//! [`front`](super::front) are what is registered, what docs/reference/metrics.md lists, and all that the chart's rules and
//! dashboard may ask for.
use std::hash::Hash;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric as Registered, Registry};

/// The type under which a text of [`text`] is served: scrapers of OpenMetrics expect it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Kinds of metrics (OpenMetrics specification, "Metric Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only grows, from each start of its process.
    Counter,
    /// A value that moves both ways.
    Gauge,
    /// Counts by upper bounds, their sum and their number.
    Histogram,
    /// Always 1; what it says stands in its labels.
    Info,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// As queries name it: a counter with `_total`, an info with `_info`, a histogram without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its own labels; those of the target are a scraper's to add.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

impl Metric {
    /// The name without what the library adds to it.
    fn stem(&self) -> &'static str {
        let added = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(added).unwrap_or(self.name)
    }

    /// Every name that queries have for it.
    pub fn names(&self) -> Vec<String> {
        match self.kind {
            Kind::Histogram => {
                ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", self.name)).to_vec()
            }
            _ => vec![self.name.to_owned()],
        }
    }

    /// Registers what is told under this name.
    pub fn register(&self, registry: &mut Registry, metric: impl Registered) {
        registry.register(self.stem(), self.help, metric);
    }

    /// Registers a value that stays as it is.
    pub fn is<N>(&self, registry: &mut Registry, value: N)
    where
        ConstGauge<N>: Registered,
    {
        self.register(registry, ConstGauge::new(value));
    }

    /// Registers an info with these labels.
    pub fn says(&self, registry: &mut Registry, labels: Vec<(&'static str, String)>) {
        self.register(registry, Info::new(labels));
    }
}

/// All that is registered, in the text format of OpenMetrics.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // A String takes every write.
    encode(&mut text, registry).ok();
    text
}

/// Has labels told from now on, though nothing was counted under them yet.
pub fn know<S, M, C>(family: &Family<S, M, C>, labels: &S)
where
    S: Clone + Hash + Eq,
    C: MetricConstructor<M>,
{
    drop(family.get_or_create(labels));
}

/// The entries of a part: a constant for each, and `ALL`.
macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: $crate::telemetry::Metric = $crate::telemetry::Metric {
                name: $name,
                kind: $crate::telemetry::Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        /// All of them.
        pub const ALL: &[$crate::telemetry::Metric] = &[$($id),*];
    };
}
pub(super) use metrics;

/// What of a part's entries a text has; fails where the text has anything else, or an entry with other labels.
#[cfg(test)]
pub(crate) fn told(text: &str, all: &[Metric]) -> std::collections::BTreeSet<&'static str> {
    let entry = |name: &str| all.iter().find(|metric| metric.names().iter().any(|known| known == name));
    let mut found = std::collections::BTreeSet::new();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let metric = entry(name).unwrap_or_else(|| panic!("no entry: {line}"));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let mut labels: Vec<&str> = labels.map(|label| label.split('=').next().unwrap()).collect();
        if metric.kind == Kind::Histogram {
            labels.retain(|label| *label != "le");
        }
        assert_eq!(labels, metric.labels, "{line}");
        found.insert(metric.name);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{front, node, operator};
    use super::*;

    fn all() -> impl Iterator<Item = &'static Metric> {
        operator::ALL.iter().chain(node::ALL).chain(front::ALL)
    }

    #[test]
    fn names_follow_the_conventions_and_are_of_their_parts() {
        for (part, list) in [("operator", operator::ALL), ("node", node::ALL), ("front", front::ALL)] {
            for metric in list {
                let name = metric.name;
                assert!(name.starts_with(&format!("pgpool_{part}_")), "{name}");
                assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
                assert_eq!(name.ends_with("_info"), metric.kind == Kind::Info, "{name}");
                for unit in ["milliseconds", "_ms", "minutes", "kilobytes", "percent"] {
                    assert!(!name.contains(unit), "{name} isn't in a base unit");
                }
                assert!(!metric.help.ends_with('.'), "{name}: the library ends the sentence");
            }
        }
        let mut names: Vec<&str> = all().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn what_is_registered_under_an_entry_has_its_name() {
        let mut registry = Registry::default();
        operator::BUILD.says(&mut registry, vec![("version", "1".to_owned())]);
        node::EPOCH.is(&mut registry, 7_i64);
        assert_eq!(
            text(&registry),
            format!(
                "# HELP pgpool_operator_build {}.\n# TYPE pgpool_operator_build info\n\
                 pgpool_operator_build_info{{version=\"1\"}} 1\n\
                 # HELP pgpool_node_epoch {}.\n# TYPE pgpool_node_epoch gauge\npgpool_node_epoch 7\n# EOF\n",
                operator::BUILD.help,
                node::EPOCH.help
            )
        );
        let names = operator::RECONCILE_SECONDS.names();
        assert!(names.contains(&"pgpool_operator_reconcile_duration_seconds_bucket".to_owned()), "{names:?}");
    }
}
