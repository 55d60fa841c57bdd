//! PostgreSQL's own settings, and those that the operator keeps to itself.
use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// PostgreSQL's own settings.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Lines of postgresql.conf. Those on which the promise of the pool rests are refused.
    #[serde(default)]
    #[schemars(schema_with = "values")]
    #[x_kube(
        validation = Rule::new("self.all(k, k.size() <= 64 && k.matches('^[a-z_][a-z0-9_]*([.][a-z_][a-z0-9_]*)?$'))").message("spec.postgres.parameters: names are written in small letters, as in postgresql.conf"),
        validation = Rule::new("self.all(k, !(k in ['fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'wal_level', 'wal_log_hints', 'restart_after_crash', 'data_sync_retry', 'zero_damaged_pages', 'ignore_checksum_failure', 'ignore_invalid_pages', 'ignore_system_indexes', 'allow_system_table_mods', 'allow_in_place_tablespaces', 'data_checksums', 'wal_sync_method', 'synchronized_standby_slots', 'sync_replication_slots']))").message("spec.postgres.parameters: fsync, full_page_writes, synchronous_commit, synchronous_standby_names, wal_level, restart_after_crash and their like belong to the operator: with other values an acknowledged commit could be lost"),
        validation = Rule::new("self.all(k, !(k.startsWith('primary_') || k.startsWith('recovery_') || k.startsWith('wal_receiver_') || k in ['hot_standby', 'hot_standby_feedback', 'restore_command', 'promote_trigger_file', 'archive_cleanup_command', 'wal_sender_timeout', 'wal_retrieve_retry_interval', 'max_slot_wal_keep_size', 'max_replication_slots', 'max_wal_senders', 'wal_keep_size', 'idle_replication_slot_timeout']))").message("spec.postgres.parameters: the settings of replication and recovery (primary_*, recovery_*, wal_receiver_*, hot_standby, restore_command and their like) belong to the operator: the membership of the nodes rests on them"),
        validation = Rule::new("self.all(k, !(k in ['track_activities', 'superuser_reserved_connections', 'default_transaction_isolation']))").message("spec.postgres.parameters: track_activities, superuser_reserved_connections and default_transaction_isolation belong to the operator: the agents watch the nodes by them, and no standby could be read with serializable; set the isolation by ALTER ROLE"),
        validation = Rule::new("self.all(k, !(k.startsWith('archive_')))").message("spec.postgres.parameters: archive_* belong to the operator; see spec.walArchive"),
        validation = Rule::new("self.all(k, !(k.startsWith('ssl') || k.startsWith('unix_socket_') || k in ['listen_addresses', 'port', 'data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file', 'allow_alter_system', 'cluster_name', 'event_source', 'bonjour', 'password_encryption', 'krb_server_keyfile', 'db_user_namespace', 'include', 'include_dir', 'include_if_exists']))").message("spec.postgres.parameters: listen_addresses, port, files, ssl*, unix_socket_*, password_encryption and their like belong to the operator: the front and the other nodes find the node by them"),
        validation = Rule::new("self.all(k, !(k in ['log_destination', 'logging_collector', 'log_directory', 'log_filename', 'log_file_mode', 'lc_messages', 'syslog_facility', 'syslog_ident']))").message("spec.postgres.parameters: log_destination, logging_collector, log files and lc_messages belong to the operator: logs go to the pod's standard output, and messages are recognised by their English text"),
        validation = Rule::new("!('shared_preload_libraries' in self)").message("spec.postgres.parameters: write spec.postgres.sharedPreloadLibraries instead of shared_preload_libraries")
    )]
    pub parameters: BTreeMap<String, String>,
    /// Libraries loaded at start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(validation = Rule::new("self.all(l, l.matches('^[A-Za-z0-9_.$/-]+$'))").message("spec.postgres.sharedPreloadLibraries: names of libraries, without quotes, spaces or commas"))]
    pub shared_preload_libraries: Vec<String>,
}

/// Values of at most 4096 bytes: what PostgreSQL takes, and a bound for the cost of the rules.
fn values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 200,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}
