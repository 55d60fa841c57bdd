//! Job `NAME-K-recovery-ID`: stage 1 of a recovery. Created, never applied: its name is the fence.
use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, PodTemplateSpec};

use super::labels::{Part, metadata};
use super::manifest::fingerprint;
use super::node::node_placement;
use super::pod::{
    Runtime, bootstrap_container, claim_volume, container_security, data_mounts, data_volumes, env,
    job_spread, pod_metadata, pool_env, some,
};
use crate::model::ValidPool;
use crate::names;

/// `true` on a Job that may destroy the old data where there is no room for both copies.
pub const ANNOTATION_MAY_DESTROY: &str = "pgpool-operator.dev/may-destroy";

/// Seconds that a Job may work longer than its recovery may take: the operator ends it in time, and says why; where there
/// is none, Kubernetes does.
const BEHIND: i64 = 60;

/// What a recovery Job has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOrder {
    /// Id of the recovery.
    pub id: String,
    /// The node whose volume is filled.
    pub node: u8,
    /// The node that is copied from.
    pub donor: u8,
    /// Epoch of the record in which the copy was begun.
    pub epoch: i64,
    /// Whether the old data may be destroyed first.
    pub may_destroy: bool,
    /// Whether the volume says where it runs: beside the node's pod, which no spread would allow.
    pub placed: bool,
    /// Whether it may go to no machine that has another node of the pool, however many machines there are.
    pub apart: bool,
}

/// The id of the new copy of the data: follows from the recovery's, so that every pass knows it.
pub fn incarnation(pool_uid: &str, recovery: &str) -> String {
    fingerprint(&format!("{pool_uid}/{recovery}"))[..12].to_owned()
}

/// The Job.
pub fn recovery_job(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &JobOrder) -> Job {
    let part = Part::Recovery(order.node);
    let mut metadata = metadata(pool, &names::recovery_job(pool.name(), order.node, &order.id), part);
    metadata.annotations =
        Some(BTreeMap::from([(ANNOTATION_MAY_DESTROY.to_owned(), order.may_destroy.to_string())]));
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(pool.recovery_seconds.saturating_add(BEHIND)),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(pool, part)),
                spec: Some(pod_spec(pool, runtime, pool_uid, order)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn pod_spec(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &JobOrder) -> PodSpec {
    let mut volumes = data_volumes(pool, names::part_tls_secret(pool.name(), "recovery"));
    volumes.push(claim_volume(names::claim(pool.name(), order.node)));
    let mut place = node_placement(pool, runtime);
    place.topology_spread_constraints =
        if order.placed { None } else { some(&job_spread(pool, order.apart)) };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        init_containers: Some(vec![bootstrap_container(runtime)]),
        containers: vec![Container {
            name: "recover".to_owned(),
            image: Some(pool.image.clone()),
            image_pull_policy: Some(pool.pull_policy.to_owned()),
            command: Some(vec![names::BINARY.to_owned(), "recover".to_owned()]),
            env: Some(environment(pool, runtime, pool_uid, order)),
            resources: pool.resources.as_ref().map(crate::api::v1alpha1::Resources::to_requirements),
            security_context: Some(container_security()),
            volume_mounts: Some(data_mounts()),
            ..Container::default()
        }],
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        volumes: Some(volumes),
        ..place
    }
}

fn environment(pool: &ValidPool, runtime: &Runtime, pool_uid: &str, order: &JobOrder) -> Vec<EnvVar> {
    let mut list = pool_env(pool, runtime, pool_uid);
    list.extend([
        env("PGPOOL_INDEX", order.node.to_string()),
        env("PGPOOL_DONOR", order.donor.to_string()),
        env("PGPOOL_INCARNATION", incarnation(pool_uid, &order.id)),
        env("PGPOOL_RECOVERY", order.id.clone()),
        env("PGPOOL_EPOCH", order.epoch.to_string()),
        env("PGPOOL_MAY_DESTROY", order.may_destroy.to_string()),
    ]);
    if let Some(rate) = pool.max_rate_kib {
        list.push(env("PGPOOL_MAX_RATE", rate.to_string()));
    }
    list
}
