//! StatefulSet `NAME-K`: one node.
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, PersistentVolumeClaim, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::json;

use super::claim::claim_spec;
use super::labels::{Part, metadata, object_labels, selector};
use super::pod::{
    Runtime, bootstrap_container, container_security, data_mounts, data_volumes, env, pod_security, pool_env,
    probe, some, some_map, spread,
};
use crate::model::ValidPool;
use crate::names;

/// Seconds for the agent's orderly stop.
const GRACE_SECONDS: i64 = 60;

/// The StatefulSet of node `index`. `OnDelete`: a changed template must not restart all nodes at once.
pub fn stateful_set(
    pool: &ValidPool,
    runtime: &Runtime,
    pool_uid: &str,
    index: u8,
    replicas: i32,
) -> StatefulSet {
    let part = Part::Node(index);
    StatefulSet {
        metadata: metadata(pool, &names::stateful_set(pool.name(), index), part),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(names::nodes_service(pool.name())),
            selector: LabelSelector { match_labels: Some(selector(pool, part)), ..LabelSelector::default() },
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(pool, part)),
                spec: Some(pod_spec(pool, runtime, pool_uid, index)),
            },
            volume_claim_templates: Some(vec![PersistentVolumeClaim {
                metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
                spec: Some(claim_spec(pool)),
                ..PersistentVolumeClaim::default()
            }]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

pub(super) fn pod_metadata(pool: &ValidPool, part: Part) -> ObjectMeta {
    let mut labels = pool.pod_metadata.labels.clone();
    labels.extend(object_labels(pool, part));
    ObjectMeta {
        labels: Some(labels),
        annotations: some_map(&pool.pod_metadata.annotations),
        ..ObjectMeta::default()
    }
}

fn pod_spec(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, index: u8) -> PodSpec {
    PodSpec {
        init_containers: Some(vec![bootstrap_container(runtime)]),
        containers: vec![postgres(pool, pool_uid, index)],
        service_account_name: Some(names::agent_account(pool.name())),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        volumes: Some(data_volumes(pool, names::node_tls_secret(pool.name(), index))),
        ..placement(pool)
    }
}

/// Everything that decides where a pod of a node, or its recovery Job, may run.
pub(super) fn placement(pool: &ValidPool) -> PodSpec {
    PodSpec {
        security_context: Some(pod_security(true)),
        image_pull_secrets: some(&pool.pull_secrets),
        affinity: pool.affinity.clone(),
        topology_spread_constraints: some(&spread(pool)),
        tolerations: some(&pool.tolerations),
        node_selector: some_map(&pool.node_selector),
        priority_class_name: pool.priority_class.clone(),
        ..PodSpec::default()
    }
}

fn postgres(pool: &ValidPool, pool_uid: &str, index: u8) -> Container {
    Container {
        name: names::POSTGRES_CONTAINER.to_owned(),
        image: Some(pool.image.clone()),
        image_pull_policy: Some(pool.pull_policy.to_owned()),
        command: Some(vec![names::BINARY.to_owned(), "agent".to_owned()]),
        env: Some(environment(pool, pool_uid, index)),
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

fn environment(pool: &ValidPool, pool_uid: &str, index: u8) -> Vec<EnvVar> {
    let bootstrap = &pool.bootstrap;
    let initdb = json!({
        "encoding": bootstrap.encoding,
        "locale": bootstrap.locale,
        "provider": bootstrap.provider,
        "icuLocale": bootstrap.icu_locale,
        "walSegmentSize": bootstrap.wal_segment_size,
    });
    let mut list = pool_env(pool, pool_uid);
    list.extend([
        env("PGPOOL_INDEX", index.to_string()),
        env("PGPOOL_STORAGE_BYTES", pool.storage_bytes.to_string()),
        env("PGPOOL_INITDB", initdb.to_string()),
        env("PGHOST", names::SOCKET_DIR),
        env("PGDATABASE", "postgres"),
    ]);
    list
}
