//! Counters and gauges of the front.
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::route::Kind;
use crate::{
    link::Validity,
    telemetry::{self, front, know},
};

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

/// Upper bounds in seconds: a login is a question to an agent and a login at the node, and may be held.
const LOGIN: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

fn login() -> Histogram {
    Histogram::new(LOGIN)
}

macro_rules! reasons {
    ($($(#[doc = $what:literal])* $name:ident $word:literal;)*) => {
        /// Why a login is turned away.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $what])* $name,)*
        }

        impl Reason {
            const ALL: &[Self] = &[$(Self::$name),*];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// No node takes writes.
    NoPrimary "no_primary";
    /// No node may be read from.
    NoNode "no_node";
    /// The front has as many sessions as it may have.
    Full "full";
    /// The role has as many sessions as one may have.
    UserFull "user_full";
    /// So many are logging in that this one is told so at once, and closed.
    Crowd "crowd";
    /// It doesn't know the password.
    Password "password";
    /// It took too long.
    Late "late";
    /// What came is not PostgreSQL's protocol, or no TLS.
    Protocol "protocol";
    /// It asks for what clients may not have.
    Forbidden "forbidden";
    /// The node has no place for it.
    NodeFull "node_full";
    /// The node says no for another reason.
    Node "node";
    /// The password is stored in a form that the front can't check.
    Md5 "md5";
    /// The front is being shut down.
    Drained "drained";
}

/// Why the statements of a session wait.
const WAITS: [&str; 2] = ["leaving", "lapsed"];

/// What is known only at the moment of a scrape.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Whether the Services send clients here.
    pub ready: bool,
    /// Nodes that serve, by route.
    pub serving: [(Kind, usize); 2],
    /// Sessions that are taken at most.
    pub max_connections: u32,
    /// The certificates, by whom they are for.
    pub certificates: [(&'static str, Option<Validity>); 2],
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Use {
    r#use: &'static str,
}

#[derive(Default)]
struct Momentary {
    ready: Gauge,
    serving: Family<Route, Gauge>,
    max_connections: Gauge,
    not_before: Family<Use, Gauge>,
    not_after: Family<Use, Gauge>,
}

impl Momentary {
    fn register(&self, registry: &mut Registry) {
        front::READY.register(registry, self.ready.clone());
        front::SERVING.register(registry, self.serving.clone());
        front::MAX_CONNECTIONS.register(registry, self.max_connections.clone());
        front::NOT_BEFORE.register(registry, self.not_before.clone());
        front::NOT_AFTER.register(registry, self.not_after.clone());
    }

    fn set(&self, moments: &Moments) {
        let Moments { ready, serving, max_connections, certificates } = *moments;
        self.ready.set(i64::from(ready));
        self.max_connections.set(i64::from(max_connections));
        for (kind, nodes) in serving {
            let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
            self.serving.get_or_create(&Route { route: kind.name() }).set(nodes);
        }
        for (r#use, validity) in certificates {
            let Some(Validity { not_before, not_after }) = validity else { continue };
            self.not_before.get_or_create(&Use { r#use }).set(not_before);
            self.not_after.get_or_create(&Use { r#use }).set(not_after);
        }
    }
}

/// What is counted, and its registry.
pub struct Metrics {
    registry: Mutex<Registry>,
    momentary: Momentary,
    open: Family<Place, Gauge>,
    opened: Family<Place, Counter>,
    refused: Family<Cause, Counter>,
    logins: Family<Route, Histogram, fn() -> Histogram>,
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

impl Metrics {
    /// Nothing counted yet. What there may be is told from the start as 0: of a series that begins with 1 a rate would miss that
    /// one.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            registry: Mutex::default(),
            momentary: Momentary::default(),
            open: Family::default(),
            opened: Family::default(),
            refused: Family::default(),
            logins: Family::new_with_constructor(login),
            dropped: Family::default(),
            questions: Family::default(),
            bytes: Family::default(),
            cancels: Family::default(),
            held: Family::default(),
            waits: Family::default(),
            moved: Family::default(),
            doubted: Family::default(),
            added: Family::new_with_constructor(added),
            lapsed: Family::default(),
        };
        metrics.register(&mut registry);
        for kind in [Kind::Primary, Kind::Read] {
            metrics.know_route(kind);
        }
        Self { registry: Mutex::new(registry), ..metrics }
    }

    fn register(&self, registry: &mut Registry) {
        front::BUILD.says(registry, vec![("version", env!("CARGO_PKG_VERSION").to_owned())]);
        self.momentary.register(registry);
        front::CONNECTIONS.register(registry, self.open.clone());
        front::OPENED.register(registry, self.opened.clone());
        front::REFUSED.register(registry, self.refused.clone());
        front::LOGIN_SECONDS.register(registry, self.logins.clone());
        front::DROPPED.register(registry, self.dropped.clone());
        front::MOVED.register(registry, self.moved.clone());
        front::STATEMENTS.register(registry, self.questions.clone());
        front::BYTES.register(registry, self.bytes.clone());
        front::ADDED_SECONDS.register(registry, self.added.clone());
        front::CANCELS.register(registry, self.cancels.clone());
        front::HELD.register(registry, self.held.clone());
        front::SESSIONS_HELD.register(registry, self.waits.clone());
        front::LAPSED.register(registry, self.lapsed.clone());
        front::BARRIERS.register(registry, self.doubted.clone());
    }

    fn know_route(&self, kind: Kind) {
        let route = kind.name();
        know(&self.held, &Route { route });
        know(&self.logins, &Route { route });
        for reason in Reason::ALL {
            know(&self.refused, &Cause { route, reason: reason.word() });
        }
    }

    /// A node is there, to which something may happen.
    pub(super) fn know_node(&self, node: u8) {
        for kind in [Kind::Primary, Kind::Read] {
            self.know_place(kind, node);
        }
    }

    fn know_place(&self, kind: Kind, node: u8) {
        let route = kind.name();
        let place = Place { route, node };
        know(&self.open, &place);
        for counted in [&self.opened, &self.dropped, &self.moved, &self.cancels, &self.lapsed, &self.doubted]
        {
            know(counted, &place);
        }
        for reason in WAITS {
            know(&self.waits, &Wait { route, node, reason });
        }
        self.traffic(kind, node);
    }

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

    pub(super) fn refused(&self, kind: Kind, reason: Reason) {
        self.refused.get_or_create(&Cause { route: kind.name(), reason: reason.word() }).inc();
    }

    /// A client has got its session so long after it came.
    pub(super) fn logged_in(&self, kind: Kind, after: Duration) {
        self.logins.get_or_create(&Route { route: kind.name() }).observe(after.as_secs_f64());
    }

    pub(super) fn dropped(&self, kind: Kind, node: u8) {
        self.dropped.get_or_create(&Place { route: kind.name(), node }).inc();
    }

    /// All of them in the text format of OpenMetrics.
    pub fn text(&self, moments: &Moments) -> String {
        // Two scrapes at once would tell each other's moments.
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.momentary.set(moments);
        telemetry::text(&registry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::telemetry::told;

    fn moments() -> Moments {
        let validity = Some(Validity { not_before: 1_700_000_000, not_after: 1_707_776_000 });
        Moments {
            ready: true,
            serving: [(Kind::Primary, 0), (Kind::Read, 2)],
            max_connections: 500,
            certificates: [("clients", validity), ("pool", None)],
        }
    }

    #[test]
    fn every_entry_is_told_from_the_start_and_nothing_else() {
        let metrics = Metrics::new();
        metrics.know_node(1);
        let text = metrics.text(&moments());
        let all: BTreeSet<&str> = front::ALL.iter().map(|entry| entry.name).collect();
        assert_eq!(told(&text, front::ALL), all);
        for line in [
            "pgpool_front_ready 1",
            "pgpool_front_serving_nodes{route=\"primary\"} 0",
            "pgpool_front_serving_nodes{route=\"read\"} 2",
            "pgpool_front_max_connections 500",
            "pgpool_front_connections_refused_total{route=\"read\",reason=\"no_node\"} 0",
            "pgpool_front_connections_refused_total{route=\"primary\",reason=\"node_full\"} 0",
            "pgpool_front_sessions_held_total{route=\"primary\",node=\"1\",reason=\"lapsed\"} 0",
            "pgpool_front_certificate_not_after_timestamp_seconds{use=\"clients\"} 1707776000",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} isn't in\n{text}");
        }
        assert!(!text.contains("use=\"pool\""), "it isn't known: {text}");
    }

    #[test]
    fn a_login_is_counted_by_how_long_it_took() {
        let metrics = Metrics::new();
        metrics.logged_in(Kind::Read, Duration::from_millis(30));
        metrics.refused(Kind::Primary, Reason::Password);
        let text = metrics.text(&moments());
        for line in [
            "pgpool_front_login_duration_seconds_bucket{le=\"0.025\",route=\"read\"} 0",
            "pgpool_front_login_duration_seconds_bucket{le=\"0.05\",route=\"read\"} 1",
            "pgpool_front_login_duration_seconds_count{route=\"primary\"} 0",
            "pgpool_front_connections_refused_total{route=\"primary\",reason=\"password\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} isn't in\n{text}");
        }
    }
}
