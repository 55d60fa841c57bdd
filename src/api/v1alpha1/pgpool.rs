//! [`PgPool`]: what people write.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, Toleration, TopologySpreadConstraint};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Bootstrap, Database, Failure, LoadBalancing, PgPoolStatus, PodMetadata, Postgres, Proxy, Recovery,
    Resources, Storage, Tls, User, WalArchive,
};

/// A pool of PostgreSQL nodes that always hold identical data.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgpool-operator.dev",
    version = "v1alpha1",
    kind = "PgPool",
    plural = "pgpools",
    namespaced,
    status = "PgPoolStatus",
    derive = "PartialEq",
    doc = "A pool of PostgreSQL nodes that always hold identical data.",
    printcolumn(json_path = ".spec.clusteringMode", name = "MODE", type_ = "string"),
    printcolumn(json_path = ".spec.nodes", name = "NODES", type_ = "integer"),
    printcolumn(json_path = ".status.attached", name = "ATTACHED", type_ = "string"),
    printcolumn(json_path = ".status.primaryPod", name = "PRIMARY", type_ = "string"),
    printcolumn(json_path = ".status.phase", name = "PHASE", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "AGE", type_ = "date"),
    printcolumn(json_path = ".status.membership.epoch", name = "EPOCH", type_ = "integer", priority = 1),
    printcolumn(json_path = ".status.lag", name = "LAG", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.lastFailover.at", name = "LAST FAILOVER", type_ = "date", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: a pool's name has at most 40 characters, begins with a letter and holds only a-z, 0-9 and -, since the names of Services, pods and volumes are made from it")
)]
#[x_kube(
    validation = Rule::new("self.failure.minAttached <= self.nodes").message("spec.failure.minAttached: can't be more than spec.nodes"),
    validation = Rule::new("!has(self.walArchive.maxSize) || !isQuantity(self.storage.size) || quantity(self.walArchive.maxSize).add(quantity(self.walArchive.maxSize)).compareTo(quantity(self.storage.size)) <= 0").message("spec.walArchive.maxSize: at most half of spec.storage.size; the data and its WAL need the rest"),
    validation = Rule::new("self.loadBalancing.weights.all(k, k.matches('^(0|[1-9][0-9]?)$') && int(k) < self.nodes)").message("spec.loadBalancing.weights: the keys are indices of nodes, 0 to spec.nodes - 1"),
    validation = Rule::new("!has(self.databases) || self.databases.all(d, d.owner == self.bootstrap.owner || (has(self.users) && self.users.exists(u, u.name == d.owner)))").message("spec.databases.owner: name spec.bootstrap.owner or a role of spec.users"),
    validation = Rule::new("!has(self.users) || self.users.all(u, self.users.exists_one(o, o.name == u.name))").message("spec.users: each name stands once"),
    validation = Rule::new("!has(self.users) || self.users.all(u, u.name != self.bootstrap.owner)").message("spec.users: spec.bootstrap.owner is made by the bootstrap; don't list it again"),
    validation = Rule::new("!has(self.databases) || self.databases.all(d, self.databases.exists_one(o, o.name == d.name) && d.name != self.bootstrap.database)").message("spec.databases: each name stands once, and spec.bootstrap.database isn't listed again")
)]
#[serde(rename_all = "camelCase")]
pub struct PgPoolSpec {
    /// Number of nodes, each a complete PostgreSQL with its own volume.
    #[schemars(range(min = 1, max = 15))]
    pub nodes: u8,
    /// How the nodes are kept identical.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("spec.clusteringMode: can't be changed; make a new pool"),
        validation = Rule::new("self == 'StreamingReplication'").message("spec.clusteringMode: only StreamingReplication is supported for now")
    )]
    pub clustering_mode: ClusteringMode,
    /// Image with PostgreSQL 15 to 18.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S*$"))]
    #[x_kube(validation = Rule::new("!self.matches('(^|/)postgres(ql)?:1[0-9]([^0-9][^/]*)?$') || !oldSelf.matches('(^|/)postgres(ql)?:1[0-9]([^0-9][^/]*)?$') || self.find('postgres(ql)?:1[0-9]') == oldSelf.find('postgres(ql)?:1[0-9]')").message("spec.image: another major version of PostgreSQL can't use the data that is there; make a new pool and move the data"))]
    pub image: String,
    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Secrets for pulling the images of the pool's pods; those of the chart's `imagePullSecrets` come besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// PostgreSQL itself.
    #[serde(default)]
    pub postgres: Postgres,
    /// The volume of each node.
    pub storage: Storage,
    /// The WAL archive on each node: what a recovery may need.
    #[serde(default)]
    pub wal_archive: WalArchive,
    /// How reads are spread.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// The front that clients connect to.
    #[serde(default)]
    pub proxy: Proxy,
    /// Online recovery.
    #[serde(default)]
    pub recovery: Recovery,
    /// When a node counts as failed.
    #[serde(default)]
    pub failure: Failure,
    /// What a new pool starts with.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// Login roles besides the owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub users: Vec<User>,
    /// Databases besides the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub databases: Vec<Database>,
    /// CPU and memory of each Postgres container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Affinity of the nodes' pods. Its `nodeAffinity` goes for the front's pods, too; what it says of other pods doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Spread of the nodes' pods; by default each on a Kubernetes node of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology_spread: Option<Vec<TopologySpreadConstraint>>,
    /// Tolerations of the pool's pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Labels that a Kubernetes node must have to run a pod of the pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::scheduling::labels")]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))").message("spec.nodeSelector: names of labels have the form [domain/]name, the name with at most 63 letters, digits, -, _ and ., the first and the last a letter or digit"))]
    pub node_selector: BTreeMap<String, String>,
    /// Priority class of the pool's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class: Option<String>,
    /// Labels put on the pods of nodes and recovery Jobs, and annotations put on those of fronts as well. Labels of one's own would
    /// have fronts meet constraints that select nodes.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("self.labels.all(k, !k.startsWith('pgpool-operator.dev/')) && self.annotations.all(k, !k.startsWith('pgpool-operator.dev/'))").message("spec.podMetadata: names that begin with pgpool-operator.dev/ belong to the operator"),
        validation = Rule::new("self.labels.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')) && self.annotations.all(k, k.lowerAscii().matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9_.]{0,61}[a-z0-9])?$'))").message("spec.podMetadata: names of labels and annotations have the form [domain/]name, the name with at most 63 letters, digits, -, _ and ., the first and the last a letter or digit")
    )]
    pub pod_metadata: PodMetadata,
    /// Certificates.
    #[serde(default)]
    pub tls: Tls,
    /// Hands off: while true the operator changes nothing; certificates aren't renewed either (30 of 90 days are left when one is).
    #[serde(default)]
    pub suspend: bool,
}

fn default_image() -> String {
    "postgres:17".to_owned()
}

/// How the nodes of a pool are kept identical; the names are pgpool-II's.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum ClusteringMode {
    /// One primary; each attached standby applies a commit before it is acknowledged.
    #[default]
    StreamingReplication,
    /// pgpool-II sends each write to all nodes, snapshots and commits ordered.
    SnapshotIsolation,
    /// pgpool-II sends each write to all nodes.
    NativeReplication,
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When it isn't there.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// As a pod spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}
