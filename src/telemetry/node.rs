//! What an agent tells of its node. Which node of which pool it is says the scraper, by the labels of its pod.
use super::catalog::metrics;

metrics! {
    BUILD: Info "pgpool_node_build_info" ["version" "postgres"]
        "Version of the agent, and major version of its PostgreSQL once that is known";
    IS_PRIMARY: Gauge "pgpool_node_is_primary" []
        "1 while its PostgreSQL runs as the primary, behind the gate or open";
    POSTGRES_UP: Gauge "pgpool_node_postgres_up" []
        "1 while its PostgreSQL runs";
    OPEN: Gauge "pgpool_node_open" []
        "1 while clients are let in";
    ATTACHED: Gauge "pgpool_node_attached" []
        "1 while the record counts this node and the copy of the data that it has";
    STREAMING: Gauge "pgpool_node_streaming" []
        "1 while its walreceiver streams from the primary";
    NEEDS_PERSON: Gauge "pgpool_node_needs_person" []
        "1 while it has stopped and waits for a person";
    EPOCH: Gauge "pgpool_node_epoch" []
        "Epoch of the record that the agent acts on, 0 while it knows none";
    TIMELINE: Gauge "pgpool_node_timeline" []
        "Timeline that it writes or follows";
    LSN: Gauge "pgpool_node_lsn_bytes" []
        "Last WAL position that it has flushed (a primary) or applied (a standby)";
    REPLAY_LAG: Gauge "pgpool_node_replay_lag_seconds" []
        "On a standby: time since the newest commit that it has applied, 0 where nothing waits to be applied";
    REPLICA_LAG_BYTES: Gauge "pgpool_node_replica_lag_bytes" ["replica"]
        "On the primary: WAL that it has flushed and the other node hasn't applied";
    REPLICA_LAG_SECONDS: Gauge "pgpool_node_replica_lag_seconds" ["replica"]
        "On the primary: age of the oldest WAL that the other node hasn't applied; detachLag goes by it";
    LEASE: Gauge "pgpool_node_lease_seconds" []
        "What is left of its lease: nothing is answered without one";
    OLDEST_WAITING: Gauge "pgpool_node_oldest_waiting_commit_seconds" []
        "On the primary: how long the commit waits that waits longest for the other nodes";
    BACKUPS: Gauge "pgpool_node_base_backups" []
        "Base backups that are taken from it now";
    VOLUME_SIZE: Gauge "pgpool_node_volume_size_bytes" []
        "Size of the file system of its volume";
    VOLUME_FREE: Gauge "pgpool_node_volume_free_bytes" []
        "What of it PostgreSQL may still use";
    ARCHIVE_BYTES: Gauge "pgpool_node_archive_bytes" []
        "Size of its WAL archive";
    ARCHIVE_FAILING: Gauge "pgpool_node_archive_failing" []
        "1 from a failure to archive a WAL file to the next success";
    ARCHIVED: Counter "pgpool_node_archived_files_total" []
        "WAL files that it has archived (pg_stat_archiver)";
    ARCHIVE_FAILURES: Counter "pgpool_node_archive_failures_total" []
        "Tries to archive a WAL file that failed (pg_stat_archiver)";
    NOT_BEFORE: Gauge "pgpool_node_certificate_not_before_timestamp_seconds" []
        "Since when the certificate is valid that it shows to the other parts of the pool";
    NOT_AFTER: Gauge "pgpool_node_certificate_not_after_timestamp_seconds" []
        "Until when it is valid";
}
