//! StatefulSet `NAME-K`: one node.
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVar, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use super::labels::{Part, metadata, selector};
use super::manifest::{BuildError, fingerprint_of};
use super::pod::{
    Runtime, bootstrap_container, claim_volume, container_security, data_mounts, data_volumes, env,
    nodes_env, placement, pod_metadata, pod_security, pool_env, probe, some, spread,
};
use crate::model::ValidPool;
use crate::names;

/// Seconds for the agent's orderly stop.
const GRACE_SECONDS: i64 = 60;

/// Fingerprint of the template that a pod was made from: one that differs is to be restarted.
pub const ANNOTATION_TEMPLATE: &str = "pgpool-operator.dev/template";
/// Libraries that are loaded at the start of Postgres: with others the pod is another.
const ANNOTATION_PRELOAD: &str = "pgpool-operator.dev/preload";
/// When a restart of all nodes was asked for.
const ANNOTATION_RESTARTED: &str = "pgpool-operator.dev/restarted-at";

/// What the StatefulSet of a node depends on besides the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOrder {
    /// Index of the node.
    pub index: u8,
    /// One pod or none.
    pub replicas: i32,
    /// Bytes that its volume has.
    pub storage_bytes: u64,
    /// When a restart of all nodes was asked for last.
    pub restarted_at: Option<Timestamp>,
}

/// The StatefulSet of a node. `OnDelete`: a changed template must not restart all nodes at once.
pub fn stateful_set(
    pool: &ValidPool,
    runtime: &Runtime,
    pool_uid: &str,
    order: &NodeOrder,
) -> Result<StatefulSet, BuildError> {
    let part = Part::Node(order.index);
    let name = names::stateful_set(pool.name(), order.index);
    let mut template = template(pool, runtime, pool_uid, order);
    // How many nodes there are is no reason to restart one: only the search for archived WAL goes by it, until the agent has heard.
    let alike = self::template(&ValidPool { nodes: 0, ..pool.clone() }, runtime, pool_uid, order);
    let mark = fingerprint_of("StatefulSet", &name, &alike)?;
    annotate(&mut template, ANNOTATION_TEMPLATE, mark);
    Ok(StatefulSet {
        metadata: metadata(pool, &name, part),
        spec: Some(StatefulSetSpec {
            replicas: Some(order.replicas),
            service_name: Some(names::nodes_service(pool.name())),
            selector: LabelSelector { match_labels: Some(selector(pool, part)), ..LabelSelector::default() },
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            template,
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
}

fn template(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &NodeOrder) -> PodTemplateSpec {
    let mut template = PodTemplateSpec {
        metadata: Some(pod_metadata(pool, Part::Node(order.index))),
        spec: Some(pod_spec(pool, runtime, pool_uid, order)),
    };
    if !pool.preload.is_empty() {
        annotate(&mut template, ANNOTATION_PRELOAD, pool.preload.join(","));
    }
    if let Some(at) = order.restarted_at {
        annotate(&mut template, ANNOTATION_RESTARTED, at.to_string());
    }
    template
}

fn annotate(template: &mut PodTemplateSpec, name: &str, value: String) {
    let metadata = template.metadata.get_or_insert_default();
    metadata.annotations.get_or_insert_default().insert(name.to_owned(), value);
}

fn pod_spec(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &NodeOrder) -> PodSpec {
    let mut volumes = data_volumes(pool, names::node_tls_secret(pool.name(), order.index));
    volumes.push(claim_volume(names::claim(pool.name(), order.index)));
    PodSpec {
        init_containers: Some(vec![bootstrap_container(runtime)]),
        containers: vec![postgres(pool, runtime, pool_uid, order)],
        service_account_name: Some(names::agent_account(pool.name())),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        volumes: Some(volumes),
        ..node_placement(pool, runtime)
    }
}

/// Everything that decides where a pod of a node, or its recovery Job, may run.
pub(super) fn node_placement(pool: &ValidPool, runtime: &Runtime) -> PodSpec {
    PodSpec {
        security_context: Some(pod_security(true)),
        affinity: pool.affinity.clone(),
        topology_spread_constraints: some(&spread(pool)),
        ..placement(pool, runtime)
    }
}

fn postgres(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &NodeOrder) -> Container {
    Container {
        name: names::POSTGRES_CONTAINER.to_owned(),
        image: Some(pool.image.clone()),
        image_pull_policy: Some(pool.pull_policy.to_owned()),
        command: Some(vec![names::BINARY.to_owned(), "agent".to_owned()]),
        env: Some(environment(pool, runtime, pool_uid, order)),
        ports: Some(vec![
            port("postgres", names::POSTGRES_PORT),
            port("agent", names::AGENT_PORT),
            port("health", names::HEALTH_PORT),
        ]),
        resources: pool.resources.as_ref().map(crate::api::v1alpha1::Resources::to_requirements),
        // Only the agent itself is asked; a Postgres that recovers for an hour is alive.
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        security_context: Some(container_security()),
        volume_mounts: Some(data_mounts()),
        ..Container::default()
    }
}

pub(super) fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn environment(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &NodeOrder) -> Vec<EnvVar> {
    let bootstrap = &pool.bootstrap;
    let initdb = json!({
        "encoding": bootstrap.encoding,
        "locale": bootstrap.locale,
        "provider": bootstrap.provider,
        "icuLocale": bootstrap.icu_locale,
        "walSegmentSize": bootstrap.wal_segment_size,
    });
    let mut list = pool_env(pool, runtime, pool_uid);
    list.extend([
        nodes_env(pool),
        env("PGPOOL_INDEX", order.index.to_string()),
        env("PGPOOL_STORAGE_BYTES", order.storage_bytes.to_string()),
        env("PGPOOL_INITDB", initdb.to_string()),
        env("PGHOST", names::SOCKET_DIR),
        env("PGDATABASE", "postgres"),
    ]);
    list
}
