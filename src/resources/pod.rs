//! What the pods of a pool have in common: users, volumes, placement.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, HTTPGetAction, KeyToPath,
    LocalObjectReference, PersistentVolumeClaimVolumeSource, PodDNSConfig, PodDNSConfigOption,
    PodSecurityContext, PodSpec, Probe, SeccompProfile, SecretVolumeSource, SecurityContext,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Peers;
use super::labels::{Part, object_labels, parts};
use crate::model::ValidPool;
use crate::names::{self, LogFormat};

/// What the operator knows of itself, and is told for all pools.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Image of the operator: the one that holds this program.
    pub operator_image: String,
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// Who may read the metrics of nodes and fronts.
    pub metrics_from: Peers,
    /// How pods and Jobs log.
    pub log_format: LogFormat,
    /// Names of the Secrets by which the operator's image is pulled; each pool's namespace has its own.
    pub pull_secrets: Vec<String>,
}

pub(super) fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), ..EnvVar::default() }
}

/// What every part needs to know of its pool.
pub(super) fn pool_env(pool: &ValidPool, runtime: &Runtime, pool_uid: &str) -> Vec<EnvVar> {
    let mut list = vec![
        env("PGPOOL_POOL", pool.name()),
        env("PGPOOL_NAMESPACE", pool.namespace()),
        env("PGPOOL_UID", pool_uid),
    ];
    list.extend(log_env(runtime));
    list
}

/// How many nodes there are when the pod is started: in whose archives it looks for WAL until its agent has heard of more or fewer. Nobody is
/// restarted when that changes.
pub(super) fn nodes_env(pool: &ValidPool) -> EnvVar {
    env("PGPOOL_NODES", pool.nodes.to_string())
}

/// How to log, where that isn't the usual way.
fn log_env(runtime: &Runtime) -> Option<EnvVar> {
    let format = runtime.log_format;
    (format != LogFormat::default()).then(|| env(names::LOG_FORMAT, format.as_str()))
}

/// What every pod of the pool carries: the user's labels and annotations, and over them the operator's labels. Fronts don't carry
/// the user's labels: what keeps nodes apart by them would keep fronts from the nodes' machines, too.
pub(super) fn pod_metadata(pool: &ValidPool, part: Part) -> ObjectMeta {
    let mut labels = if part == Part::Proxy { BTreeMap::new() } else { pool.pod_metadata.labels.clone() };
    labels.extend(object_labels(pool, part));
    ObjectMeta {
        labels: Some(labels),
        annotations: some_map(&pool.pod_metadata.annotations),
        ..ObjectMeta::default()
    }
}

/// What is the same for every pod of the pool: which machines it may run on, and what its images are pulled by.
pub(super) fn placement(pool: &ValidPool, runtime: &Runtime) -> PodSpec {
    PodSpec {
        dns_config: Some(dns()),
        image_pull_secrets: some(&pull_secrets(pool, runtime)),
        tolerations: some(&pool.tolerations),
        node_selector: some_map(&pool.node_selector),
        priority_class_name: pool.priority_class.clone(),
        ..PodSpec::default()
    }
}

/// Those of the spec, then the operator's own: each pod runs the operator's image.
fn pull_secrets(pool: &ValidPool, runtime: &Runtime) -> Vec<LocalObjectReference> {
    let mut list = pool.pull_secrets.clone();
    for name in &runtime.pull_secrets {
        if list.iter().all(|secret| secret.name != *name) {
            list.push(LocalObjectReference { name: name.clone() });
        }
    }
    list
}

pub(super) fn pod_security(group: bool) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(names::NODE_UID),
        run_as_group: Some(names::NODE_UID),
        fs_group: Some(names::NODE_UID),
        fs_group_change_policy: group.then(|| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

/// A resolver that asks again after one second, not five: with a machine a name server may be lost, and until the
/// cluster notices, a part of the questions goes there (resolv.conf(5), `timeout` and `attempts`).
fn dns() -> PodDNSConfig {
    let option = |name: &str, value: &str| PodDNSConfigOption {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
    };
    PodDNSConfig {
        options: Some(vec![option("timeout", "1"), option("attempts", "5")]),
        ..PodDNSConfig::default()
    }
}

pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

pub(super) fn empty_dir(name: &str, in_memory: bool) -> Volume {
    let source = EmptyDirVolumeSource {
        medium: in_memory.then(|| "Memory".to_owned()),
        ..EmptyDirVolumeSource::default()
    };
    Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() }
}

/// Certificates, readable for the group only: libpq refuses a key that others may read.
pub(super) fn tls_volume(secret: String) -> Volume {
    secret_volume("tls", secret, &["tls.crt", "tls.key", "ca.crt"])
}

/// Some keys of a Secret as files for the group alone.
pub(super) fn secret_volume(name: &str, secret: String, keys: &[&str]) -> Volume {
    let item = |key: &&str| KeyToPath { key: (*key).to_owned(), path: (*key).to_owned(), mode: None };
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            items: Some(keys.iter().map(item).collect()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn mount_file(name: &str, key: &str, path: &str) -> VolumeMount {
    VolumeMount { sub_path: Some(key.to_owned()), read_only: Some(true), ..mount(name, path) }
}

/// Volumes of everything that works on a node's data: the node's pod and its recovery Job.
pub(super) fn data_volumes(pool: &ValidPool, tls_secret: String) -> Vec<Volume> {
    vec![
        tls_volume(tls_secret),
        empty_dir("run", true),
        empty_dir("socket", false),
        empty_dir("shm", true),
        empty_dir("tmp", false),
        empty_dir("program", false),
        Volume {
            name: "passwd".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::passwd_map(pool.name()),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}

/// Where they are mounted; the claim's volume is called `data`.
pub(super) fn data_mounts() -> Vec<VolumeMount> {
    vec![
        mount("data", names::VOLUME_DIR),
        VolumeMount { read_only: Some(true), ..mount("tls", names::TLS_DIR) },
        mount("run", names::RUN_DIR),
        mount("socket", names::SOCKET_DIR),
        mount("shm", "/dev/shm"),
        mount("tmp", "/tmp"),
        VolumeMount { read_only: Some(true), ..mount("program", names::BINARY_DIR) },
        mount_file("passwd", "passwd", "/etc/passwd"),
        mount_file("passwd", "group", "/etc/group"),
    ]
}

pub(super) fn claim_volume(claim: String) -> Volume {
    Volume {
        name: "data".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim,
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// Copies this program beside the pool's own image.
pub(super) fn bootstrap_container(runtime: &Runtime) -> Container {
    Container {
        name: "bootstrap".to_owned(),
        image: Some(runtime.operator_image.clone()),
        args: Some(["bootstrap", "--to", names::BINARY_DIR].map(str::to_owned).to_vec()),
        env: log_env(runtime).map(|format| vec![format]),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![mount("program", names::BINARY_DIR)]),
        ..Container::default()
    }
}

pub(super) fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(names::HEALTH_PORT)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(period.min(5)),
        ..Probe::default()
    }
}

/// The spread of nodes: the spec's, or each on a Kubernetes node of its own. Recovery Jobs don't count: a node's pod is
/// made beside its Job.
pub(super) fn spread(pool: &ValidPool) -> Vec<TopologySpreadConstraint> {
    spread_of(pool, &parts(pool, &["node"]), None)
}

/// The spread of a recovery Job among the nodes: it may be the first to use the volume, and so chooses its place. `apart` it
/// waits for a machine: while one is missing, two nodes may share another, but a volume of a machine's own disk would keep the node
/// there, where its pod may not run once there is one more (Kubernetes documentation, "Pod Topology Spread Constraints", `minDomains`).
pub(super) fn job_spread(pool: &ValidPool, apart: bool) -> Vec<TopologySpreadConstraint> {
    spread_of(pool, &parts(pool, &["node", "recovery"]), apart.then(|| i32::from(pool.nodes)))
}

fn spread_of(
    pool: &ValidPool,
    pods: &LabelSelector,
    min_domains: Option<i32>,
) -> Vec<TopologySpreadConstraint> {
    match &pool.topology_spread {
        Some(list) => list
            .iter()
            .map(|entry| TopologySpreadConstraint {
                label_selector: entry.label_selector.clone().or_else(|| Some(pods.clone())),
                ..entry.clone()
            })
            .collect(),
        None => vec![TopologySpreadConstraint {
            max_skew: 1,
            min_domains,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "DoNotSchedule".to_owned(),
            label_selector: Some(pods.clone()),
            // Machines that no node of the pool may run on must not count as empty ones.
            node_taints_policy: Some("Honor".to_owned()),
            ..TopologySpreadConstraint::default()
        }],
    }
}

pub(super) fn some<T>(list: &[T]) -> Option<Vec<T>>
where
    T: Clone,
{
    (!list.is_empty()).then(|| list.to_vec())
}

pub(super) fn some_map(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}
