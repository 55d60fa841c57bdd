//! PostgreSQL parameters that belong to the operator (R11). The API server refuses the same ones, by
//! the rules of `spec.postgres.parameters`; a test keeps the two lists equal.

/// Names of parameters, and beginnings of names, that are refused for one reason.
struct Owned {
    names: &'static [&'static str],
    prefixes: &'static [&'static str],
    reason: &'static str,
}

const OWNED: &[Owned] = &[
    Owned {
        names: &[
            "fsync",
            "full_page_writes",
            "synchronous_commit",
            "synchronous_standby_names",
            "wal_level",
            "wal_log_hints",
            "restart_after_crash",
            "data_sync_retry",
            "zero_damaged_pages",
            "ignore_checksum_failure",
            "ignore_invalid_pages",
            "ignore_system_indexes",
            "allow_system_table_mods",
            "allow_in_place_tablespaces",
            "data_checksums",
            "wal_sync_method",
            "synchronized_standby_slots",
            "sync_replication_slots",
        ],
        prefixes: &[],
        reason: "with another value an acknowledged commit could be lost",
    },
    Owned {
        names: &[
            "hot_standby",
            "hot_standby_feedback",
            "restore_command",
            "promote_trigger_file",
            "archive_cleanup_command",
            "wal_sender_timeout",
            "wal_retrieve_retry_interval",
            "max_slot_wal_keep_size",
            "max_replication_slots",
            "max_wal_senders",
            "wal_keep_size",
            "idle_replication_slot_timeout",
        ],
        prefixes: &["primary_", "recovery_", "wal_receiver_"],
        reason: "replication and recovery are the operator's: the membership of the nodes rests on them",
    },
    Owned {
        names: &["track_activities", "superuser_reserved_connections", "default_transaction_isolation"],
        prefixes: &[],
        reason: "the agents watch the nodes by it, or no standby could be read; set the isolation by ALTER ROLE",
    },
    Owned { names: &[], prefixes: &["archive_"], reason: "see spec.walArchive" },
    Owned {
        names: &[
            "listen_addresses",
            "port",
            "data_directory",
            "config_file",
            "hba_file",
            "ident_file",
            "external_pid_file",
            "allow_alter_system",
            "cluster_name",
            "event_source",
            "bonjour",
            "password_encryption",
            "krb_server_keyfile",
            "db_user_namespace",
            "include",
            "include_dir",
            "include_if_exists",
        ],
        prefixes: &["ssl", "unix_socket_"],
        reason: "the front and the other nodes find the node by it",
    },
    Owned {
        names: &[
            "log_destination",
            "logging_collector",
            "log_directory",
            "log_filename",
            "log_file_mode",
            "lc_messages",
            "syslog_facility",
            "syslog_ident",
        ],
        prefixes: &[],
        reason: "logs go to the pod's standard output, and messages are recognised by their English text",
    },
    Owned {
        names: &["shared_preload_libraries"],
        prefixes: &[],
        reason: "write spec.postgres.sharedPreloadLibraries",
    },
];

/// Why a parameter belongs to the operator; none when it is the user's. PostgreSQL does not tell the
/// letters' case of a parameter's name apart, so neither does this.
pub fn owned(parameter: &str) -> Option<&'static str> {
    let name = parameter.to_ascii_lowercase();
    let hit = OWNED.iter().find(|o| {
        o.names.contains(&name.as_str()) || o.prefixes.iter().any(|prefix| name.starts_with(prefix))
    });
    hit.map(|o| o.reason)
}

/// Whether it is against the promise of the pool that a role or a database has a setting of its own for this.
/// The isolation is theirs to choose.
pub fn is_unsafe(parameter: &str) -> bool {
    owned(parameter).is_some() && !parameter.eq_ignore_ascii_case("default_transaction_isolation")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kube::CustomResourceExt as _;

    use super::*;
    use crate::api::v1alpha1::PgPool;

    /// Text between single quotes that follows `before`, up to `end`.
    fn quoted(rule: &str, before: &str, end: char) -> Vec<String> {
        let parts = rule.split(before).skip(1).map(|rest| rest.split(end).next().unwrap_or_default());
        parts
            .flat_map(|part| part.split('\'').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn rules() -> Vec<String> {
        let crd = serde_json::to_value(PgPool::crd()).unwrap();
        let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/postgres/properties/parameters";
        let rules = crd.pointer(at).and_then(|p| p.get("x-kubernetes-validations")).unwrap();
        rules.as_array().unwrap().iter().map(|r| r["rule"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_api_server_refuses_is_what_is_owned() {
        let rules = rules();
        let mut names: BTreeSet<String> = rules.iter().flat_map(|r| quoted(r, "k in [", ']')).collect();
        names.extend(rules.iter().filter(|r| r.contains("' in self)")).flat_map(|r| quoted(r, "!(", ')')));
        let prefixes: BTreeSet<String> = rules.iter().flat_map(|r| quoted(r, "startsWith(", ')')).collect();
        let ours = |f: fn(&Owned) -> &'static [&'static str]| -> BTreeSet<String> {
            OWNED.iter().flat_map(|o| f(o).iter().map(|s| (*s).to_owned())).collect()
        };
        assert!(names.len() > 40 && prefixes.len() > 4, "the rules were read: {names:?} {prefixes:?}");
        assert_eq!(names, ours(|o| o.names));
        assert_eq!(prefixes, ours(|o| o.prefixes));
    }

    #[test]
    fn the_users_own_parameters_are_theirs() {
        for theirs in
            ["work_mem", "shared_buffers", "max_connections", "log_statement", "wal_compression", "x.fsync"]
        {
            assert_eq!(owned(theirs), None, "{theirs}");
        }
        for ours in ["fsync", "FSYNC", "primary_conninfo", "ssl_min_protocol_version", "archive_mode"] {
            assert!(owned(ours).is_some(), "{ours}");
        }
        assert!(
            is_unsafe("synchronous_commit")
                && !is_unsafe("default_transaction_isolation")
                && !is_unsafe("work_mem")
        );
    }
}
