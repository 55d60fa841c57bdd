//! What a pod of the front tells. A route is what clients came for: `primary` or `read`; a node is told by its index.
use super::catalog::metrics;

metrics! {
    BUILD: Info "pgpool_front_build_info" ["version"]
        "Version of the front";
    READY: Gauge "pgpool_front_ready" []
        "1 while the Services send clients here";
    SERVING: Gauge "pgpool_front_serving_nodes" ["route"]
        "Nodes to which sessions may be sent now";
    MAX_CONNECTIONS: Gauge "pgpool_front_max_connections" []
        "Sessions that this pod takes at most, both routes together";
    CONNECTIONS: Gauge "pgpool_front_connections" ["route" "node"]
        "Sessions of clients";
    OPENED: Counter "pgpool_front_connections_opened_total" ["route" "node"]
        "Logins that were taken in";
    REFUSED: Counter "pgpool_front_connections_refused_total" ["route" "reason"]
        "Logins that were turned away";
    LOGIN_SECONDS: Histogram "pgpool_front_login_duration_seconds" ["route"]
        "Time from a client's arrival to its session, of logins that were taken in";
    DROPPED: Counter "pgpool_front_connections_dropped_total" ["route" "node"]
        "Sessions that were ended because their node left or lost its lease";
    MOVED: Counter "pgpool_front_sessions_moved_total" ["route" "node"]
        "Sessions that went on at this node after they had been on another one";
    STATEMENTS: Counter "pgpool_front_statements_total" ["route" "node"]
        "Queries and batches that nodes were asked";
    BYTES: Counter "pgpool_front_bytes_total" ["route" "node" "to"]
        "Bytes that were passed on to the node or the client, unencrypted";
    ADDED_SECONDS: Histogram "pgpool_front_added_seconds" ["route" "node"]
        "What the front adds to a question and to the end of its answer, from reading it to having passed it on";
    CANCELS: Counter "pgpool_front_cancels_total" ["route" "node"]
        "Cancel requests that nodes were sent";
    HELD: Counter "pgpool_front_held_total" ["route"]
        "Times that a client had to wait for a node that serves";
    SESSIONS_HELD: Counter "pgpool_front_sessions_held_total" ["route" "node" "reason"]
        "Times that a session's statement waited, since its node hands over or has no lease";
    LAPSED: Counter "pgpool_front_leases_lapsed_total" ["route" "node"]
        "Times that a node with sessions was without a lease";
    BARRIERS: Counter "pgpool_front_barriers_total" ["route" "node"]
        "Answers after a cancel request that waited until all nodes had what was committed";
    NOT_BEFORE: Gauge "pgpool_front_certificate_not_before_timestamp_seconds" ["use"]
        "Since when a certificate is valid: the one that clients see, or the one for the other parts of the pool";
    NOT_AFTER: Gauge "pgpool_front_certificate_not_after_timestamp_seconds" ["use"]
        "Until when it is valid";
}
