//! The pods beside the pool: the client, PgBouncer and pgpool-II.
//!
//! Nodes let in who shows a certificate of the pool and proves a password. Client and PgBouncer show the front's.
//! pgpool-II shows none to its servers (it has no parameter for one), so a line of its own lets it in, by TLS and
//! password from its address.

use serde_json::{Value, json};

use super::super::pool::NAME;
use super::way::Way;

/// Label of the pods that nodes are reached from.
pub const LABEL: &str = "bench-front";
/// The pod of the client.
pub const CLIENT: &str = "client";
/// Where each keeps its files.
const FOLDER: &str = "/run/bench";
/// Secrets are copied, since programs want keys that only their owner can read.
const CERTIFICATES: &str = "umask 077; cp /etc/bench/* /run/bench/; cd /run/bench";

/// The name of a peer's pod.
pub fn pod_name(way: Way) -> &'static str {
    if way == Way::Pgpool { "pgpool" } else { "pgbouncer" }
}

/// Lets the pods come to the nodes' PostgreSQL; the pool's own policies stay.
pub fn policy(namespace: &str) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": LABEL, "namespace": namespace },
        "spec": {
            "podSelector": { "matchLabels": {
                "pgpool-operator.dev/pool": NAME, "pgpool-operator.dev/part": "node" } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { LABEL: "true" } } }],
                "ports": [{ "port": 5432, "protocol": "TCP" }] }] } })
}

/// The client's pod on `machine`: the pool's image, and nothing that runs by itself. `like` is a node's pod.
pub fn client(namespace: &str, like: &Value, machine: &str) -> Value {
    let script = format!("{CERTIFICATES}; touch complete; exec sleep infinity");
    let image = &like["spec"]["containers"][0]["image"];
    let mut pod = pod(namespace, CLIENT, image, &script, like);
    pod["spec"]["nodeName"] = json!(machine);
    pod["spec"]["containers"][0]["startupProbe"] =
        json!({ "exec": { "command": ["test", "-e", format!("{FOLDER}/complete")] }, "periodSeconds": 1 });
    pod
}

/// A peer's pod on `machine`, with room for `room` sessions to the node at `node`.
pub fn peer(namespace: &str, way: Way, like: &Value, at: (&str, &str), room: u32) -> Value {
    let (machine, node) = at;
    let script = if way == Way::Pgpool { pgpool(node, room) } else { pgbouncer(node, room) };
    let mut pod = pod(namespace, pod_name(way), &json!(IMAGE), &script, like);
    pod["spec"]["nodeName"] = json!(machine);
    // Only at the start: a probe is a client too.
    pod["spec"]["containers"][0]["startupProbe"] =
        json!({ "tcpSocket": { "port": 5432 }, "periodSeconds": 1, "failureThreshold": 60 });
    pod
}

/// Image of the peers.
const IMAGE: &str = "localhost/poolers:dev";

fn pod(namespace: &str, name: &str, image: &Value, script: &str, like: &Value) -> Value {
    let app = |name: &str, key: &str| {
        json!({ "name": name, "valueFrom": {
        "secretKeyRef": { "name": format!("{NAME}-app"), "key": key } } })
    };
    let container = json!({ "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
        "command": ["bash", "-euc", script],
        "securityContext": like["spec"]["containers"][0]["securityContext"],
        "env": [app("PGUSER", "username"), app("PGPASSWORD", "password"), app("PGDATABASE", "dbname")],
        "volumeMounts": [{ "name": "run", "mountPath": FOLDER }, { "name": "tmp", "mountPath": "/tmp" },
            { "name": "tls", "mountPath": "/etc/bench", "readOnly": true }] });
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { LABEL: "true" } },
        "spec": { "restartPolicy": "Never", "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1, "securityContext": like["spec"]["securityContext"],
            "containers": [container],
            "volumes": [{ "name": "run", "emptyDir": { "medium": "Memory" } }, { "name": "tmp", "emptyDir": {} },
                { "name": "tls", "secret": { "secretName": format!("{NAME}-proxy-tls"), "defaultMode": 288 } }] } })
}

/// PgBouncer in session mode, TLS on both sides; clients may come without.
fn pgbouncer(node: &str, room: u32) -> String {
    format!(
        "{CERTIFICATES}; ulimit -n \"$(ulimit -Hn)\"; printf '\"%s\" \"%s\"\\n' \"$PGUSER\" \"$PGPASSWORD\" >users; \
         cat >pgbouncer.ini <<END\n\
         [databases]\n\
         * = host={node} port=5432\n\
         [pgbouncer]\n\
         listen_addr = *\n\
         listen_port = 5432\n\
         unix_socket_dir =\n\
         pool_mode = session\n\
         auth_type = scram-sha-256\n\
         auth_file = {FOLDER}/users\n\
         max_client_conn = {room}\n\
         default_pool_size = {room}\n\
         client_tls_sslmode = allow\n\
         client_tls_cert_file = {FOLDER}/tls.crt\n\
         client_tls_key_file = {FOLDER}/tls.key\n\
         server_tls_sslmode = verify-ca\n\
         server_tls_ca_file = {FOLDER}/ca.crt\n\
         server_tls_cert_file = {FOLDER}/tls.crt\n\
         server_tls_key_file = {FOLDER}/tls.key\n\
         server_connect_timeout = 60\n\
         query_wait_timeout = 0\n\
         log_connections = 0\n\
         log_disconnections = 0\n\
         log_stats = 0\n\
         END\n\
         exec pgbouncer pgbouncer.ini"
    )
}

/// pgpool-II before one server, as its usual mode has it, without what it would do for several: balancing, health checks,
/// failover, its query cache.
fn pgpool(node: &str, room: u32) -> String {
    format!(
        "{CERTIFICATES}; printf '%s:TEXT%s\\n' \"$PGUSER\" \"$PGPASSWORD\" >pool_passwd; : >pcp.conf; \
         printf '%s all all 0.0.0.0/0 scram-sha-256\\n' hostssl host >pool_hba.conf; \
         cat >pgpool.conf <<END\n\
         backend_clustering_mode = 'streaming_replication'\n\
         backend_hostname0 = '{node}'\n\
         backend_port0 = 5432\n\
         backend_weight0 = 1\n\
         backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'\n\
         listen_addresses = '*'\n\
         port = 5432\n\
         unix_socket_directories = '{FOLDER}'\n\
         pcp_listen_addresses = ''\n\
         pcp_socket_dir = '{FOLDER}'\n\
         wd_ipc_socket_dir = '{FOLDER}'\n\
         pid_file_name = '{FOLDER}/pid'\n\
         logdir = '{FOLDER}'\n\
         enable_pool_hba = on\n\
         pool_passwd = '{FOLDER}/pool_passwd'\n\
         ssl = on\n\
         ssl_cert = '{FOLDER}/tls.crt'\n\
         ssl_key = '{FOLDER}/tls.key'\n\
         num_init_children = {room}\n\
         max_pool = 1\n\
         child_life_time = 0\n\
         connection_life_time = 0\n\
         load_balance_mode = off\n\
         health_check_period = 0\n\
         sr_check_period = 0\n\
         failover_on_backend_error = off\n\
         memqcache_total_size = 1MB\n\
         memqcache_max_num_cache = 1000\n\
         memqcache_cache_block_size = 512kB\n\
         memqcache_maxcache = 256kB\n\
         END\n\
         exec pgpool -n -f pgpool.conf -a pool_hba.conf -F pcp.conf"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_stands_where_it_is_told_and_goes_to_the_node() {
        let like = json!({ "spec": { "securityContext": { "runAsUser": 5432 },
            "containers": [{ "image": "pg", "securityContext": { "privileged": false } }] } });
        for (way, program) in [(Way::PgBouncer, "exec pgbouncer"), (Way::Pgpool, "exec pgpool")] {
            let pod = peer("x", way, &like, ("n2", "10.244.1.7"), 40);
            assert_eq!(pod["spec"]["nodeName"], "n2");
            assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 5432);
            let script = pod["spec"]["containers"][0]["command"][2].as_str().unwrap();
            assert!(script.contains("10.244.1.7") && script.contains("= 40\n") && script.contains(program));
        }
        assert_eq!(client("x", &like, "n3")["spec"]["containers"][0]["image"], "pg");
    }
}
