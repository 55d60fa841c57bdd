//! Names, ports and paths that the parts of a pool find each other by. They are a contract.

/// Which pool a part belongs to, as its pod's environment says.
#[derive(clap::Args, Clone, Debug)]
pub struct PoolArgs {
    /// Name of the pool.
    #[arg(long, env = "PGPOOL_POOL")]
    pub pool: String,
    /// Its namespace.
    #[arg(long, env = "PGPOOL_NAMESPACE")]
    pub namespace: String,
    /// Uid of the pool.
    #[arg(long, env = "PGPOOL_UID")]
    pub uid: String,
}

/// Variable with a filter of tracing that says what is logged.
pub const LOG_FILTER: &str = "PGPOOL_LOG";
/// Variable with the format of logs; [`LogFormat::Json`] where it isn't set.
pub const LOG_FORMAT: &str = "PGPOOL_LOG_FORMAT";

/// How lines of a log are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// An object of JSON each.
    #[default]
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// Its name, as [`LOG_FORMAT`] has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// PostgreSQL on a node, and the primary's port of the front.
pub const POSTGRES_PORT: u16 = 5432;
/// The port of the front behind the Service `NAME-ro`.
pub const FRONT_READ_PORT: u16 = 5433;
/// The mutually authenticated HTTP server of agents, and that of fronts for each other.
pub const AGENT_PORT: u16 = 5480;
/// Probes and metrics, plain HTTP, of every part.
pub const HEALTH_PORT: u16 = 5481;

/// Name of the Postgres container.
pub const POSTGRES_CONTAINER: &str = "postgres";
/// The highest number of nodes in a pool; also the bound of every list of nodes in the schemas.
pub const MAX_NODES: u8 = 15;
/// Index of the node that makes the first copy of the data.
pub const BOOTSTRAP: u8 = 0;

/// User and group id of everything that runs in a node's pod.
pub const NODE_UID: i64 = 5432;

/// The node's volume in its pod and in the recovery Job.
pub const VOLUME_DIR: &str = "/var/lib/pgpool";
/// Certificates of the part: tls.crt, tls.key, ca.crt.
pub const TLS_DIR: &str = "/etc/pgpool/tls";
/// The user's own certificate for clients, in the front's pod: tls.crt, tls.key.
pub const SERVER_TLS_DIR: &str = "/etc/pgpool/server-tls";
/// Files that live no longer than the container; in memory.
pub const RUN_DIR: &str = "/run/pgpool";
/// PostgreSQL's unix socket.
pub const SOCKET_DIR: &str = "/run/postgresql";
/// Where the init container copies the program to.
pub const BINARY_DIR: &str = "/opt/pgpool";
/// The program there.
pub const BINARY: &str = "/opt/pgpool/pgpool-operator";

/// In the volume's `conf`: the pool's history, for `restore-wal` ([`crate::archive::Lineage`]).
pub const LINEAGE: &str = "lineage.json";
/// Beside it: how many nodes the pool has, for `restore-wal`, too ([`crate::archive::NodeCount`]).
pub const NODE_COUNT: &str = "nodes.json";

/// Role with which nodes and Jobs replicate; logs in by certificate only.
pub const REPLICATION_ROLE: &str = "pgpool_replication";
/// Schema of the operator's own tables, in database `postgres`.
pub const SCHEMA: &str = "pgpool_operator";

/// Label: name of the pool.
pub const LABEL_POOL: &str = "pgpool-operator.dev/pool";
/// Label: part of the pool: `node`, `proxy`, `recovery`.
pub const LABEL_PART: &str = "pgpool-operator.dev/part";
/// Label: index of the node.
pub const LABEL_NODE: &str = "pgpool-operator.dev/node";
/// Label on pods of nodes: `primary`, `standby` or `detached`.
pub const LABEL_ROLE: &str = "pgpool-operator.dev/role";
/// Label on the operator's own pods, by which NetworkPolicies admit them.
pub const LABEL_OPERATOR: &str = "pgpool-operator.dev/operator";

/// StatefulSet of node `index`.
pub fn stateful_set(pool: &str, index: u8) -> String {
    format!("{pool}-{index}")
}

/// Pod of node `index`.
pub fn node_pod(pool: &str, index: u8) -> String {
    format!("{pool}-{index}-0")
}

/// Claim of node `index`.
pub fn claim(pool: &str, index: u8) -> String {
    format!("data-{pool}-{index}-0")
}

/// The headless Service of the nodes.
pub fn nodes_service(pool: &str) -> String {
    format!("{pool}-nodes")
}

/// The Service of the nodes that are read from.
pub fn read_service(pool: &str) -> String {
    format!("{pool}-ro")
}

/// Domain under which the nodes are found.
pub fn domain(pool: &str, namespace: &str) -> String {
    format!("{pool}-nodes.{namespace}.svc")
}

/// The Service by which the fronts find each other.
pub fn peers_service(pool: &str) -> String {
    format!("{pool}-proxy-peers")
}

/// Host name of all fronts, for each other.
pub fn peers_host(pool: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", peers_service(pool))
}

/// Host name of node `index`, given the pool's domain.
pub fn node_host(pool: &str, index: u8, domain: &str) -> String {
    format!("{pool}-{index}-0.{domain}")
}

/// Deployment of the front.
pub fn proxy(pool: &str) -> String {
    format!("{pool}-proxy")
}

/// Secret of the pool's certificate authority.
pub fn ca_secret(pool: &str) -> String {
    format!("{pool}-ca")
}

/// Secret with the certificate of node `index`.
pub fn node_tls_secret(pool: &str, index: u8) -> String {
    format!("{pool}-{index}-tls")
}

/// Secret with the certificate of a part that has no index: `proxy`, `recovery`, `operator`.
pub fn part_tls_secret(pool: &str, part: &str) -> String {
    format!("{pool}-{part}-tls")
}

/// Secret that applications log in with.
pub fn app_secret(pool: &str) -> String {
    format!("{pool}-app")
}

/// Secret of a further user, unless the spec names one.
pub fn user_secret(pool: &str, user: &str) -> String {
    format!("{pool}-user-{}", user.replace('_', "-"))
}

/// ServiceAccount, Role and RoleBinding of the agents.
pub fn agent_account(pool: &str) -> String {
    format!("{pool}-agent")
}

/// ConfigMap with the passwd line of the nodes' user.
pub fn passwd_map(pool: &str) -> String {
    format!("{pool}-passwd")
}

/// Job that recovers node `index`; holds the recovery's id, so that it is made once.
pub fn recovery_job(pool: &str, index: u8, id: &str) -> String {
    format!("{pool}-{index}-recovery-{id}")
}

/// Replication slot that each node keeps for node `index`.
pub fn slot(index: u8) -> String {
    format!("pgpool_{index}")
}
