//! What the node tells a scraper: from what its agent knows at one moment. Pure.
use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::lag::applied;
use crate::link::Validity;
use crate::messages::{NodeReport, Role};
use crate::telemetry::{self, node};

/// A node that follows a primary.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Other {
    replica: u8,
}

/// What PostgreSQL has archived since its statistics began (`pg_stat_archiver`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archiver {
    /// Files.
    pub archived: u64,
    /// Tries that failed.
    pub failed: u64,
}

/// What is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// What the node says of itself.
    pub report: NodeReport,
    /// Whether the record counts it.
    pub attached: bool,
    /// On a primary: how old the oldest WAL is that each other node lacks; none of one that lacks nothing.
    pub lags: BTreeMap<u8, Duration>,
    /// On a primary: how long the commit waits that waits longest for the others.
    pub oldest_waiting: Option<Duration>,
    /// What PostgreSQL has archived; none where it doesn't say.
    pub archiver: Option<Archiver>,
    /// Of the certificate that it shows to the other parts.
    pub validity: Option<Validity>,
}

type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A value.
enum Value {
    /// A count, a flag, a number of bytes.
    Whole(i64),
    /// A time.
    Seconds(f64),
}

/// The text that is scraped.
pub fn text(known: &Known) -> String {
    let mut registry = Registry::default();
    let Known { report, .. } = known;
    let postgres = report.postgres_version.map(|major| major.to_string()).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    node::BUILD.says(&mut registry, vec![("version", version), ("postgres", postgres)]);
    for (entry, value) in values(known) {
        match value {
            Value::Whole(value) => entry.is(&mut registry, value),
            Value::Seconds(value) => entry.is(&mut registry, value),
        }
    }
    if let Some(Archiver { archived, failed }) = known.archiver {
        node::ARCHIVED.register(&mut registry, ConstCounter::new(archived));
        node::ARCHIVE_FAILURES.register(&mut registry, ConstCounter::new(failed));
    }
    if report.role == Role::Primary {
        replicas(known, &mut registry);
    }
    telemetry::text(&registry)
}

/// What is one value, where it is known.
fn values(known: &Known) -> Vec<(telemetry::Metric, Value)> {
    let Known { report, attached, oldest_waiting, validity, .. } = known;
    let flag = |set: bool| Some(Value::Whole(i64::from(set)));
    // Zero before the volume was looked at.
    let volume = |bytes: u64| (report.volume_bytes > 0).then(|| bytes_of(bytes));
    let waiting = Value::Seconds(oldest_waiting.unwrap_or_default().as_secs_f64());
    let all = [
        (node::IS_PRIMARY, flag(report.role == Role::Primary)),
        (node::POSTGRES_UP, flag(report.role != Role::Stopped)),
        (node::OPEN, flag(report.open)),
        (node::ATTACHED, flag(*attached)),
        (node::STREAMING, flag(report.streaming)),
        (node::NEEDS_PERSON, flag(report.needs_person)),
        (node::EPOCH, Some(Value::Whole(report.epoch))),
        (node::TIMELINE, report.timeline.map(|timeline| Value::Whole(timeline.into()))),
        (node::LSN, report.lsn.map(bytes_of)),
        (node::REPLAY_LAG, report.lag_ms.filter(|_| report.role == Role::Standby).map(seconds)),
        (node::LEASE, Some(seconds(report.lease_ms))),
        (node::OLDEST_WAITING, (report.role == Role::Primary).then_some(waiting)),
        (node::BACKUPS, i64::try_from(report.backups.len()).ok().map(Value::Whole)),
        (node::VOLUME_SIZE, volume(report.volume_bytes)),
        (node::VOLUME_FREE, volume(report.volume_free)),
        (node::ARCHIVE_BYTES, Some(bytes_of(report.archive_bytes))),
        (node::ARCHIVE_FAILING, flag(report.archive_error.is_some())),
        (node::NOT_BEFORE, validity.map(|validity| Value::Whole(validity.not_before))),
        (node::NOT_AFTER, validity.map(|validity| Value::Whole(validity.not_after))),
    ];
    all.into_iter().filter_map(|(entry, value)| Some((entry, value?))).collect()
}

/// How far the other nodes are behind this primary, where they have said what they have applied.
fn replicas(known: &Known, registry: &mut Registry) {
    let (bytes, ages) = <(Family<Other, Gauge>, Family<Other, Seconds>)>::default();
    for (replica, lsn) in applied(&known.report.replicas) {
        if let Some(own) = known.report.lsn {
            let behind = i64::try_from(own.saturating_sub(lsn)).unwrap_or(i64::MAX);
            bytes.get_or_create(&Other { replica }).set(behind);
        }
        // Of one that lacks nothing there is none.
        let age = known.lags.get(&replica).copied().unwrap_or_default();
        ages.get_or_create(&Other { replica }).set(age.as_secs_f64());
    }
    node::REPLICA_LAG_BYTES.register(registry, bytes);
    node::REPLICA_LAG_SECONDS.register(registry, ages);
}

fn bytes_of(bytes: u64) -> Value {
    Value::Whole(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn seconds(millis: u64) -> Value {
    Value::Seconds(Duration::from_millis(millis).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::messages::{BackupProgress, Replica};
    use crate::telemetry::told;

    fn replica(index: u8, replay_lsn: u64) -> Replica {
        Replica {
            index,
            incarnation: "copy".to_owned(),
            state: "streaming".to_owned(),
            priority: 1,
            replay_lsn: Some(replay_lsn),
            reply_age_ms: Some(3),
            lag_ms: None,
            address: None,
        }
    }

    fn known(role: Role) -> Known {
        let backup = BackupProgress { name: "job".to_owned(), phase: "x".to_owned(), bytes: 1, total: 2 };
        let report = NodeReport {
            epoch: 7,
            role,
            open: true,
            lease_ms: 1999,
            streaming: role == Role::Standby,
            timeline: Some(3),
            lsn: Some(1_000_000),
            lag_ms: Some(250),
            postgres_version: Some(17),
            volume_bytes: 1 << 30,
            volume_free: 1 << 29,
            archive_bytes: 16 << 20,
            archive_error: Some("a file with a secret in its name".to_owned()),
            backups: vec![backup],
            replicas: vec![
                replica(1, 999_000),
                replica(2, 400_000),
                replica(1, 5),
                Replica { replay_lsn: None, ..replica(3, 0) },
            ],
            ..NodeReport::unknown(1, "boot")
        };
        Known {
            report,
            attached: true,
            lags: BTreeMap::from([(2, Duration::from_millis(1500))]),
            oldest_waiting: Some(Duration::from_secs(2)),
            archiver: Some(Archiver { archived: 12, failed: 3 }),
            validity: Some(Validity { not_before: 1_700_000_000, not_after: 1_707_776_000 }),
        }
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|told| told == *line), "{line} isn't in\n{text}");
        }
    }

    #[test]
    fn every_entry_is_told_by_a_primary_or_a_standby_and_nothing_else() {
        let (primary, standby) = (text(&known(Role::Primary)), text(&known(Role::Standby)));
        let both: BTreeSet<&str> =
            told(&primary, node::ALL).union(&told(&standby, node::ALL)).copied().collect();
        assert_eq!(both, node::ALL.iter().map(|entry| entry.name).collect());
        assert!(!primary.contains("secret"), "what PostgreSQL says is no label");
    }

    #[test]
    fn a_primary_tells_how_far_the_others_are_behind() {
        let text = text(&known(Role::Primary));
        has(
            &text,
            &[
                "pgpool_node_build_info{version=\"0.1.0\",postgres=\"17\"} 1",
                "pgpool_node_is_primary 1",
                "pgpool_node_attached 1",
                "pgpool_node_epoch 7",
                "pgpool_node_lsn_bytes 1000000",
                "pgpool_node_lease_seconds 1.999",
                "pgpool_node_replica_lag_bytes{replica=\"1\"} 1000",
                "pgpool_node_replica_lag_bytes{replica=\"2\"} 600000",
                "pgpool_node_replica_lag_seconds{replica=\"1\"} 0.0",
                "pgpool_node_replica_lag_seconds{replica=\"2\"} 1.5",
                "pgpool_node_oldest_waiting_commit_seconds 2.0",
                "pgpool_node_base_backups 1",
                "pgpool_node_volume_size_bytes 1073741824",
                "pgpool_node_volume_free_bytes 536870912",
                "pgpool_node_archive_failing 1",
                "pgpool_node_archived_files_total 12",
                "pgpool_node_archive_failures_total 3",
                "pgpool_node_certificate_not_after_timestamp_seconds 1707776000",
            ],
        );
        assert!(!text.contains("pgpool_node_replay_lag_seconds"), "it replays nothing: {text}");
        assert!(!text.contains("replica=\"3\""), "it hasn't said what it has applied: {text}");
    }

    #[test]
    fn a_standby_tells_of_itself_and_what_nobody_knows_is_left_out() {
        let standby = text(&known(Role::Standby));
        has(
            &standby,
            &["pgpool_node_is_primary 0", "pgpool_node_streaming 1", "pgpool_node_replay_lag_seconds 0.25"],
        );
        assert!(!standby.contains("pgpool_node_replica_lag"), "{standby}");
        let fresh = Known {
            report: NodeReport::unknown(1, "boot"),
            attached: false,
            lags: BTreeMap::new(),
            oldest_waiting: None,
            archiver: None,
            validity: None,
        };
        let fresh = text(&fresh);
        has(&fresh, &["pgpool_node_postgres_up 0", "pgpool_node_epoch 0", "pgpool_node_lease_seconds 0.0"]);
        for absent in ["timeline", "lsn", "volume", "archived", "certificate", "waiting"] {
            assert!(!fresh.contains(absent), "{absent}: {fresh}");
        }
    }
}
