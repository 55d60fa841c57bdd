//! [`ValidPool`]: a PgPool's spec, parsed once and not checked again.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use thiserror::Error;

use super::{PoolKey, amount, bytes};
use crate::api::v1alpha1::{
    Amount, Bootstrap, BootstrapSql, ClusteringMode, Database, Fate, KeyRef, LoadBalancing, PgPool,
    PgPoolSpec, PodMetadata, Proxy, Resources, Storage, Timings, User, annotations,
};
use crate::names;

/// The finalizer by which a PgPool is taken apart in the right order.
pub const FINALIZER: &str = "pgpool-operator.dev/pool";

/// Why a spec is refused: the field, and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field}: {message}")]
pub struct InvalidSpec {
    /// Path of the field.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> InvalidSpec {
    InvalidSpec { field: field.into(), message: message.into() }
}

/// A login role and the Secret that its password stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "rights and kinds that are independent of each other")]
pub struct Login {
    /// Name of the role.
    pub role: String,
    /// Name of the Secret.
    pub secret: String,
    /// Whether the operator makes the Secret when it isn't there.
    pub generated: bool,
    /// Whether it is the application's, with all that a client needs to connect.
    pub app: bool,
    /// Roles that it is a member of.
    pub in_roles: Vec<String>,
    /// May make databases.
    pub create_db: bool,
    /// May make roles.
    pub create_role: bool,
}

/// Where the bootstrap SQL stands.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlSource {
    /// In a ConfigMap.
    ConfigMap(KeyRef),
    /// In a Secret.
    Secret(KeyRef),
}

/// A PgPool that can be worked with.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "switches of the spec that are independent of each other")]
pub struct ValidPool {
    /// Namespace and name.
    pub key: PoolKey,
    /// Uid that the API server gave to the object.
    pub object_uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// True once somebody deleted it.
    pub deleting: bool,
    /// True while the operator's finalizer stands on it.
    pub guarded: bool,
    /// Requests by annotation: full name and value.
    pub requests: BTreeMap<String, String>,
    /// Number of nodes.
    pub nodes: u8,
    /// How the nodes are kept identical.
    pub mode: ClusteringMode,
    /// Image of the nodes.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: &'static str,
    /// Secrets for pulling.
    pub pull_secrets: Vec<LocalObjectReference>,
    /// Libraries that PostgreSQL loads at its start.
    pub preload: Vec<String>,
    /// PostgreSQL parameters, with what other fields of the spec add.
    pub parameters: BTreeMap<String, String>,
    /// The volume of each node.
    pub storage: Storage,
    /// Bytes of each volume.
    pub storage_bytes: u64,
    /// Bytes of WAL archive on each node.
    pub archive_max_bytes: i64,
    /// Seconds for which archived WAL is kept.
    pub archive_retention_seconds: i64,
    /// The front.
    pub proxy: Proxy,
    /// Whether failed nodes are recovered without being asked.
    pub automatic_recovery: bool,
    /// Longest time of one recovery, in seconds.
    pub recovery_seconds: i64,
    /// Limit of a copy in KiB a second.
    pub max_rate_kib: Option<u64>,
    /// Lengths of time of the membership protocol.
    pub timings: Timings,
    /// Fewest attached nodes with which commits are acknowledged.
    pub min_attached: u8,
    /// How sessions that read are spread.
    pub load_balancing: LoadBalancing,
    /// What a new pool starts with.
    pub bootstrap: Bootstrap,
    /// Where its SQL stands.
    pub sql: Option<SqlSource>,
    /// Login roles; the owner is the first.
    pub logins: Vec<Login>,
    /// Databases; the bootstrap's is the first.
    pub databases: Vec<Database>,
    /// CPU and memory of the nodes.
    pub resources: Option<Resources>,
    /// Affinity of the nodes' pods; fronts take what it says of machines.
    pub affinity: Option<Affinity>,
    /// Spread of the nodes' pods, where the spec has one.
    pub topology_spread: Option<Vec<TopologySpreadConstraint>>,
    /// Tolerations of the pool's pods.
    pub tolerations: Vec<Toleration>,
    /// Labels that a Kubernetes node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Priority class of the pool's pods.
    pub priority_class: Option<String>,
    /// Labels and annotations of the pool's pods.
    pub pod_metadata: PodMetadata,
    /// The Secret of the user's own certificate for clients.
    pub server_secret: Option<String>,
    /// Validity of the leaf certificates.
    pub tls_validity: std::time::Duration,
    /// Hands off.
    pub suspend: bool,
}

impl ValidPool {
    /// Parses a PgPool; all that is wrong with it is said at once.
    pub fn parse(pool: &PgPool) -> Result<Self, Vec<InvalidSpec>> {
        let key = PoolKey { namespace: pool.namespace().unwrap_or_default(), name: pool.name_any() };
        let spec = &pool.spec;
        let mut problems = Vec::new();
        let unusable = || invalid("spec.storage.size", "is no size; write it such as 1Gi");
        let volume = bytes(&spec.storage.size).unwrap_or_else(|| note(&mut problems, unusable()));
        let archive = archive_bytes(spec, volume).unwrap_or_else(|e| note(&mut problems, e));
        let max_rate_kib = max_rate(spec).unwrap_or_else(|e| note(&mut problems, e));
        let timings = timings(spec).unwrap_or_else(|e| {
            problems.push(e);
            NO_TIMINGS
        });
        let logins = logins(&key.name, spec).unwrap_or_else(|e| note(&mut problems, e));
        let databases = databases(spec, &logins).unwrap_or_else(|e| note(&mut problems, e));
        let sql = sql(spec).unwrap_or_else(|e| note(&mut problems, e));
        check_counts(spec, &mut problems);
        check_requests("spec.resources", spec.resources.as_ref(), &mut problems);
        check_requests("spec.proxy.resources", spec.proxy.resources.as_ref(), &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            object_uid: pool.uid().unwrap_or_default(),
            generation: pool.meta().generation.unwrap_or_default(),
            deleting: pool.meta().deletion_timestamp.is_some(),
            guarded: pool.finalizers().iter().any(|f| f == FINALIZER),
            requests: requests(pool),
            nodes: spec.nodes,
            mode: spec.clustering_mode,
            image: spec.image.clone(),
            pull_policy: spec.image_pull_policy.as_str(),
            pull_secrets: spec.image_pull_secrets.clone(),
            preload: spec.postgres.shared_preload_libraries.clone(),
            parameters: parameters(spec),
            storage: spec.storage.clone(),
            storage_bytes: volume,
            archive_max_bytes: archive,
            archive_retention_seconds: seconds(spec.wal_archive.retention.get()),
            proxy: spec.proxy.clone(),
            automatic_recovery: spec.recovery.automatic,
            recovery_seconds: seconds(spec.recovery.timeout.get()),
            max_rate_kib,
            timings,
            min_attached: spec.failure.min_attached,
            load_balancing: spec.load_balancing.clone(),
            bootstrap: spec.bootstrap.clone(),
            sql,
            logins,
            databases,
            resources: spec.resources.clone(),
            affinity: spec.affinity.clone(),
            topology_spread: spec.topology_spread.clone(),
            tolerations: spec.tolerations.clone(),
            node_selector: spec.node_selector.clone(),
            priority_class: spec.priority_class.clone(),
            pod_metadata: spec.pod_metadata.clone(),
            server_secret: spec.tls.server_secret.clone(),
            tls_validity: spec.tls.validity.0.get(),
            suspend: spec.suspend,
            key,
        })
    }

    /// What it takes to take a pool apart, whose spec may be refused otherwise.
    pub fn for_deletion(pool: &PgPool) -> Result<Self, Vec<InvalidSpec>> {
        let storage = Storage {
            size: "1Gi".to_owned(),
            storage_class_name: None,
            when_deleted: pool.spec.storage.when_deleted,
            when_scaled: pool.spec.storage.when_scaled,
        };
        let nodes = pool.spec.nodes.clamp(1, names::MAX_NODES);
        let spec: PgPoolSpec =
            serde_json::from_value(serde_json::json!({"nodes": nodes, "storage": storage}))
                .map_err(|error| vec![invalid("spec", error.to_string())])?;
        Self::parse(&PgPool { spec, ..pool.clone() })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// The pool's namespace.
    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// Domain under which the nodes are found.
    pub fn domain(&self) -> String {
        names::domain(self.name(), self.namespace())
    }

    /// The reference by which Kubernetes deletes what belongs to the pool together with it.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: PgPool::api_version(&()).into_owned(),
            kind: PgPool::kind(&()).into_owned(),
            name: self.name().to_owned(),
            uid: self.object_uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// Whether the volume of a node that is removed goes with it.
    pub fn deletes_removed_volumes(&self) -> bool {
        self.storage.when_scaled == Fate::Delete
    }

    /// Whether the volumes go with the pool.
    pub fn deletes_volumes(&self) -> bool {
        self.storage.when_deleted == Fate::Delete
    }
}

const NO_TIMINGS: Timings =
    Timings { heartbeat_ms: 1, detach_after_ms: 1, lease_ms: 1, grace_ms: 1, detach_lag_ms: 1 };

fn note<T: Default>(problems: &mut Vec<InvalidSpec>, problem: InvalidSpec) -> T {
    problems.push(problem);
    T::default()
}

fn seconds(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

fn requests(pool: &PgPool) -> BTreeMap<String, String> {
    let given = |name: &str| pool.annotations().get(name).map(|value| (name.to_owned(), value.clone()));
    annotations::REQUESTS.iter().filter_map(|name| given(name)).collect()
}

/// No pod may ask for more than it may use. No rule of the API server says so: CEL can't read a quantity that is written as a
/// number with a fraction.
fn check_requests(field: &str, resources: Option<&Resources>, problems: &mut Vec<InvalidSpec>) {
    let Some(Resources { requests, limits }) = resources else { return };
    for (name, Amount(request)) in requests {
        let Some(Amount(limit)) = limits.get(name) else { continue };
        // 0.3 and 300m are the same, but for the last bit.
        let more =
            amount(request).zip(amount(limit)).is_some_and(|(asked, most)| asked > most * (1.0 + 1e-9));
        if more {
            let text = format!(
                "{request} is more than {field}.limits.{name}, {limit}: no pod may ask for more than it may use"
            );
            problems.push(invalid(format!("{field}.requests.{name}"), text));
        }
    }
}

/// The archive takes at most what the spec says, or a quarter of the volume.
fn archive_bytes(spec: &PgPoolSpec, volume: u64) -> Result<i64, InvalidSpec> {
    let wished = match &spec.wal_archive.max_size {
        None => volume / 4,
        Some(text) => bytes(text)
            .ok_or_else(|| invalid("spec.walArchive.maxSize", "is no size; write it such as 256Mi"))?,
    };
    if volume > 0 && wished > volume / 2 {
        return Err(invalid(
            "spec.walArchive.maxSize",
            "is more than half of spec.storage.size; the data and its WAL need the rest",
        ));
    }
    Ok(i64::try_from(wished).unwrap_or(i64::MAX))
}

/// `pg_basebackup --max-rate` takes 32 kB to 1 GB a second.
fn max_rate(spec: &PgPoolSpec) -> Result<Option<u64>, InvalidSpec> {
    let Some(text) = &spec.recovery.bandwidth else { return Ok(None) };
    match bytes(text).map(|rate| rate / 1024) {
        Some(kib) if (32..=1_048_576).contains(&kib) => Ok(Some(kib)),
        _ => Err(invalid("spec.recovery.bandwidth", "must be between 32Ki and 1Gi a second")),
    }
}

fn timings(spec: &PgPoolSpec) -> Result<Timings, InvalidSpec> {
    let failure = &spec.failure;
    let millis = |field: &str, span: crate::api::v1alpha1::Span| {
        u32::try_from(span.as_millis())
            .ok()
            .filter(|millis| *millis > 0)
            .ok_or_else(|| invalid(format!("spec.failure.{field}"), "must be between 1ms and 1000h"))
    };
    Ok(Timings {
        heartbeat_ms: millis("heartbeat", failure.heartbeat)?,
        detach_after_ms: millis("detachAfter", failure.detach_after)?,
        lease_ms: millis("lease", failure.lease)?,
        grace_ms: millis("grace", failure.grace)?,
        detach_lag_ms: millis("detachLag", failure.detach_lag)?,
    })
}

fn parameters(spec: &PgPoolSpec) -> BTreeMap<String, String> {
    let mut parameters = spec.postgres.parameters.clone();
    let libraries = &spec.postgres.shared_preload_libraries;
    if !libraries.is_empty() {
        parameters.insert("shared_preload_libraries".to_owned(), libraries.join(","));
    }
    parameters.insert("archive_timeout".to_owned(), format!("{}s", seconds(spec.wal_archive.timeout.get())));
    parameters
}

fn logins(pool: &str, spec: &PgPoolSpec) -> Result<Vec<Login>, InvalidSpec> {
    let owner = Login {
        role: spec.bootstrap.owner.clone(),
        secret: names::app_secret(pool),
        generated: true,
        app: true,
        in_roles: Vec::new(),
        create_db: false,
        create_role: false,
    };
    let mut logins = vec![owner];
    let mut secrets = BTreeSet::from([names::app_secret(pool)]);
    for user in &spec.users {
        let login = login(pool, user)?;
        if login.generated && !secrets.insert(login.secret.clone()) {
            let field = format!("spec.users[{}].secret", user.name);
            return Err(invalid(
                field,
                format!("Secret {} would belong to two users; name one", login.secret),
            ));
        }
        logins.push(login);
    }
    Ok(logins)
}

fn login(pool: &str, user: &User) -> Result<Login, InvalidSpec> {
    let secret = user.secret.clone().unwrap_or_else(|| names::user_secret(pool, &user.name));
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !secret.chars().all(label) || !secret.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        let message = format!("no Secret can be named {secret}; name one with small letters, digits and -");
        return Err(invalid(format!("spec.users[{}].secret", user.name), message));
    }
    Ok(Login {
        role: user.name.clone(),
        secret,
        generated: user.secret.is_none(),
        app: false,
        in_roles: user.in_roles.clone(),
        create_db: user.create_db,
        create_role: user.create_role,
    })
}

fn databases(spec: &PgPoolSpec, logins: &[Login]) -> Result<Vec<Database>, InvalidSpec> {
    let first = Database { name: spec.bootstrap.database.clone(), owner: spec.bootstrap.owner.clone() };
    for database in &spec.databases {
        if !logins.is_empty() && !logins.iter().any(|login| login.role == database.owner) {
            let field = format!("spec.databases[{}].owner", database.name);
            return Err(invalid(
                field,
                format!("{} is neither the owner of the bootstrap nor in spec.users", database.owner),
            ));
        }
    }
    Ok(std::iter::once(first).chain(spec.databases.iter().cloned()).collect())
}

fn sql(spec: &PgPoolSpec) -> Result<Option<SqlSource>, InvalidSpec> {
    match &spec.bootstrap.sql {
        None => Ok(None),
        Some(BootstrapSql { config_map: Some(key), secret: None }) => {
            Ok(Some(SqlSource::ConfigMap(key.clone())))
        }
        Some(BootstrapSql { config_map: None, secret: Some(key) }) => {
            Ok(Some(SqlSource::Secret(key.clone())))
        }
        Some(_) => Err(invalid("spec.bootstrap.sql", "name either a configMap or a secret")),
    }
}

fn check_counts(spec: &PgPoolSpec, problems: &mut Vec<InvalidSpec>) {
    if spec.nodes == 0 || spec.nodes > names::MAX_NODES {
        problems.push(invalid("spec.nodes", "must be between 1 and 15"));
    }
    if spec.failure.min_attached > spec.nodes {
        problems.push(invalid("spec.failure.minAttached", "can't be more than spec.nodes"));
    }
    if spec.clustering_mode != ClusteringMode::StreamingReplication {
        problems.push(invalid("spec.clusteringMode", "only StreamingReplication is supported for now"));
    }
}
