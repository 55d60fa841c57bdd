//! postgresql.conf: defaults, then the user's parameters, then what the promise rests on.
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::names::{self, MAX_NODES};

/// What the file of a node depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Major version of PostgreSQL.
    pub major: u32,
    /// The pool.
    pub pool: String,
    /// Index of the node.
    pub index: u8,
    /// Bytes of the volume.
    pub storage_bytes: u64,
    /// The user's parameters.
    pub parameters: BTreeMap<String, String>,
    /// `synchronous_standby_names`, as rendered by the membership.
    pub synchronous: String,
    /// Where a standby streams from; none on a primary, and none while a primary is being chosen.
    pub upstream: Option<Upstream>,
    /// Least values of a standby's parameters: PostgreSQL refuses to replay with less than the primary has
    /// (PostgreSQL docs, "Hot Standby Parameter Settings").
    pub floors: BTreeMap<String, u64>,
}

/// Where and as whom a standby streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Host name of the primary, which its certificate must have.
    pub host: String,
    /// Where that host is, so that nothing waits for a name server; by DNS when it isn't known.
    pub address: Option<IpAddr>,
    /// Unique by incarnation.
    pub application_name: String,
    /// Whether WAL that the upstream has no more is looked for in the archives. An attached node has no need of it:
    /// while `restore_command` runs, PostgreSQL's startup process notices neither a reload nor a promotion, so a
    /// vote and a new office would wait for it (R2).
    pub archives: bool,
}

const MEBI: u64 = 1024 * 1024;

/// Value of a parameter as the file wants it: quoted, quotes and backslashes doubled, and on one line
/// (PostgreSQL source, `src/backend/utils/misc/guc-file.l`).
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r"))
}

/// Value inside a connection string (libpq docs, "Keyword/Value Connection Strings").
fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// `primary_conninfo`: short limits, so that a dead machine is noticed in two seconds (streaming-facts: 10).
fn conninfo(upstream: &Upstream) -> String {
    let run = names::RUN_DIR;
    let pairs = [
        ("host", upstream.host.as_str()),
        ("port", "5432"),
        ("user", names::REPLICATION_ROLE),
        ("application_name", upstream.application_name.as_str()),
        ("sslmode", "verify-full"),
        ("sslcert", &format!("{run}/tls.crt")),
        ("sslkey", &format!("{run}/tls.key")),
        ("sslrootcert", &format!("{run}/ca.crt")),
        ("connect_timeout", "2"),
        ("keepalives_idle", "1"),
        ("keepalives_interval", "1"),
        ("keepalives_count", "2"),
        ("tcp_user_timeout", "2000"),
        ("options", "-c synchronous_commit=local"),
    ];
    let address = upstream.address.map(|address| ("hostaddr", address.to_string()));
    let address = address.iter().map(|(key, value)| (*key, value.as_str()));
    let pairs = pairs.into_iter().chain(address);
    pairs.map(|(k, v)| format!("{k}={}", conninfo_value(v))).collect::<Vec<_>>().join(" ")
}

/// What a user may change: sized to the volume, so that 1Gi works.
fn defaults(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let share = |part: u64, low: u64, high: u64| (config.storage_bytes / part / MEBI).clamp(low, high);
    vec![
        ("max_connections", "200".into()),
        ("shared_buffers", "128MB".into()),
        ("max_wal_size", format!("{}MB", share(8, 64, 16 * 1024))),
        ("min_wal_size", format!("{}MB", share(16, 32, 1024))),
        ("checkpoint_timeout", "5min".into()),
        ("wal_compression", "lz4".into()),
        ("archive_timeout", "60s".into()),
        // All clients come by a front: one that is lost with its machine, or cut off, says no farewell, and its open
        // transactions would keep their locks for hours (PostgreSQL docs, "TCP Settings").
        ("tcp_keepalives_idle", "5".into()),
        ("tcp_keepalives_interval", "2".into()),
        ("tcp_keepalives_count", "3".into()),
        ("client_connection_check_interval", "2s".into()),
        ("max_standby_streaming_delay", "200ms".into()),
        ("max_standby_archive_delay", "200ms".into()),
        ("log_line_prefix", "%p %q%u@%d %e ".into()),
        ("log_timezone", "UTC".into()),
        ("timezone", "UTC".into()),
    ]
}

/// What the promise of the pool rests on; `membership::settings` refuses these to users.
fn owned(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let run = names::RUN_DIR;
    // As for the largest pool: a standby needs as many as its primary, and growing must restart nobody.
    let per_node = u32::from(MAX_NODES) * 2 + 8;
    let share = |part: u64, low: u64, high: u64| (config.storage_bytes / part / MEBI).clamp(low, high);
    let archives = config.upstream.as_ref().is_some_and(|upstream| upstream.archives);
    let mut list: Vec<(&'static str, String)> = vec![
        ("listen_addresses", "*".into()),
        ("port", names::POSTGRES_PORT.to_string()),
        ("unix_socket_directories", names::SOCKET_DIR.into()),
        ("cluster_name", format!("{}-{}", config.pool, config.index)),
        ("ssl", "on".into()),
        ("ssl_cert_file", format!("{run}/tls.crt")),
        ("ssl_key_file", format!("{run}/tls.key")),
        ("ssl_ca_file", format!("{run}/ca.crt")),
        ("password_encryption", "scram-sha-256".into()),
        ("synchronous_commit", "remote_apply".into()),
        ("synchronous_standby_names", config.synchronous.clone()),
        ("fsync", "on".into()),
        ("full_page_writes", "on".into()),
        ("wal_level", "logical".into()),
        ("wal_log_hints", "on".into()),
        ("hot_standby", "on".into()),
        ("hot_standby_feedback", "on".into()),
        ("restart_after_crash", "off".into()),
        ("wal_receiver_status_interval", "1s".into()),
        ("wal_sender_timeout", "5s".into()),
        ("wal_receiver_timeout", "5s".into()),
        ("wal_retrieve_retry_interval", if archives { "200ms" } else { "50ms" }.into()),
        ("wal_keep_size", format!("{}MB", share(16, 32, 1024))),
        ("max_slot_wal_keep_size", format!("{}MB", share(4, 64, 64 * 1024))),
        ("max_wal_senders", per_node.to_string()),
        ("max_replication_slots", per_node.to_string()),
        ("recovery_target_timeline", "latest".into()),
        ("archive_mode", "always".into()),
        ("archive_command", format!("{} archive-wal --path \"%p\" --name \"%f\"", names::BINARY)),
        ("log_destination", "stderr".into()),
        ("logging_collector", "off".into()),
        ("lc_messages", "C".into()),
    ];
    if config.major >= 17 {
        list.push(("allow_alter_system", "off".into()));
    }
    if let Some(upstream) = &config.upstream {
        list.push(("primary_conninfo", conninfo(upstream)));
        list.push(("primary_slot_name", names::slot(config.index)));
        if upstream.archives {
            let command = format!("{} restore-wal --name \"%f\" --to \"%p\"", names::BINARY);
            list.push(("restore_command", command));
        }
    }
    list
}

/// PostgreSQL's own value of a parameter that a standby must not have less of.
fn built_in(name: &str) -> u64 {
    match name {
        "max_worker_processes" => 8,
        "max_locks_per_transaction" => 64,
        _ => 0,
    }
}

/// The whole file. A later line wins in PostgreSQL; here no name stands twice.
pub fn render(config: &NodeConfig) -> String {
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    lines.extend(defaults(config).into_iter().map(|(k, v)| (k.to_owned(), v)));
    lines.extend(config.parameters.iter().map(|(k, v)| (k.to_lowercase(), v.clone())));
    lines.extend(owned(config).into_iter().map(|(k, v)| (k.to_owned(), v)));
    for (name, least) in &config.floors {
        let value = lines.get(name).and_then(|v| v.parse().ok()).unwrap_or_else(|| built_in(name));
        if value < *least {
            lines.insert(name.clone(), least.to_string());
        }
    }
    let mut text = String::from("# Written by the agent; changes here are lost.\n");
    for (name, value) in lines {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{name} = {}", quote(&value));
    }
    text
}

/// Sixteen digits that tell one set of the user's parameters from another.
pub fn mark(parameters: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
        // With its length: where one ends matters.
        hash.update(text.len().to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().take(8).fold(String::new(), |mut digits, byte| {
        // Writing to a String can't fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_parameters_have_another_mark() {
        let of = |pairs: &[(&str, &str)]| {
            mark(&pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        let all: [&[(&str, &str)]; 6] = [
            &[],
            &[("work_mem", "8MB")],
            &[("work_mem", "9MB")],
            &[("work_me", "m8MB")],
            &[("jit", "on"), ("work_mem", "8MB")],
            &[("jit", "onwork_mem8MB")],
        ];
        let marks: std::collections::BTreeSet<String> = all.into_iter().map(of).collect();
        assert_eq!(marks.len(), all.len());
        assert!(marks.iter().all(|mark| mark.len() == 16), "{marks:?}");
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
    }

    fn config() -> NodeConfig {
        NodeConfig {
            major: 17,
            pool: "heron".into(),
            index: 2,
            storage_bytes: 1024 * MEBI,
            parameters: BTreeMap::new(),
            synchronous: "2 (\"a\", \"b\")".into(),
            upstream: Some(Upstream {
                host: "heron-0-0.x".into(),
                address: Some([10, 0, 0, 1].into()),
                application_name: "pgpool_2_ab".into(),
                archives: true,
            }),
            floors: BTreeMap::new(),
        }
    }

    /// `INSTA_UPDATE=always cargo test --lib config` writes them anew.
    #[test]
    fn the_whole_file_is_as_it_was() {
        insta::assert_snapshot!("standby_17", render(&config()));
        let primary = NodeConfig { major: 15, upstream: None, storage_bytes: 100 * 1024 * MEBI, ..config() };
        insta::assert_snapshot!("primary_15", render(&primary));
    }

    #[test]
    fn what_is_owned_wins_over_the_user() {
        let mut config = config();
        config.parameters.insert("fsync".into(), "off".into());
        config.parameters.insert("work_mem".into(), "8MB".into());
        let text = render(&config);
        assert!(text.contains("fsync = 'on'\n") && !text.contains("'off'\nfsync"));
        assert!(text.contains("work_mem = '8MB'\n"));
        assert_eq!(text.matches("\nfsync").count(), 1);
    }

    #[test]
    fn a_hostile_value_stays_one_value() {
        let mut config = config();
        config.parameters.insert("application_name".into(), "x'\nfsync = off\\".into());
        let text = render(&config);
        assert!(text.contains("application_name = 'x''\\nfsync = off\\\\'\n"));
    }

    #[test]
    fn a_standby_never_has_less_than_its_primary() {
        let mut config = config();
        config.parameters.insert("max_connections".into(), "50".into());
        config.floors = BTreeMap::from([("max_connections".into(), 200), ("max_worker_processes".into(), 9)]);
        let text = render(&config);
        assert!(text.contains("max_connections = '200'\n") && text.contains("max_worker_processes = '9'\n"));
        config.floors.insert("max_worker_processes".into(), 8);
        assert!(!render(&config).contains("max_worker_processes"), "no less than PostgreSQL's own");
        config.floors.insert("max_connections".into(), 20);
        assert!(render(&config).contains("max_connections = '50'\n"));
    }

    #[test]
    fn a_small_volume_gets_small_wal() {
        let text = render(&config());
        assert!(text.contains("max_wal_size = '128MB'\n"), "{text}");
        assert!(text.contains("max_slot_wal_keep_size = '256MB'\n"));
    }

    #[test]
    fn a_known_address_is_used_and_an_unknown_one_is_asked_for() {
        let mut config = config();
        let text = render(&config);
        assert!(text.contains("host=''heron-0-0.x''") && text.contains(" hostaddr=''10.0.0.1''"), "{text}");
        config.upstream.as_mut().unwrap().address = None;
        assert!(!render(&config).contains("hostaddr"));
    }

    #[test]
    fn only_a_standby_has_an_upstream() {
        let mut config = config();
        assert!(render(&config).contains("primary_conninfo") && render(&config).contains("restore_command"));
        config.upstream = None;
        assert!(
            !render(&config).contains("primary_conninfo") && !render(&config).contains("restore_command")
        );
    }
}
