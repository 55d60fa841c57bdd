//! Deployment `NAME-proxy`: the front.
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, PodSpec, PodTemplateSpec, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Part, metadata, parts, selector};
use super::node::port;
use super::pod::{
    Runtime, container_security, empty_dir, env, mount, placement, pod_metadata, pod_security, pool_env,
    probe, secret_volume, tls_volume,
};
use crate::model::ValidPool;
use crate::names;

/// Volume of the user's own certificate.
const SERVER_TLS: &str = "server-tls";
/// Seconds in which sessions may end by themselves.
const GRACE_SECONDS: i64 = 30;

/// The front. It has no access to the Kubernetes API: agents tell it all that it needs.
pub fn deployment(pool: &ValidPool, runtime: &Runtime, pool_uid: &str) -> Deployment {
    Deployment {
        metadata: metadata(pool, &names::proxy(pool.name()), Part::Proxy),
        spec: Some(DeploymentSpec {
            replicas: Some(i32::from(pool.proxy.replicas)),
            selector: LabelSelector {
                match_labels: Some(selector(pool, Part::Proxy)),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::Int(1)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(pool, Part::Proxy)),
                spec: Some(pod_spec(pool, runtime, pool_uid)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod_spec(pool: &ValidPool, runtime: &Runtime, pool_uid: &str) -> PodSpec {
    PodSpec {
        containers: vec![container(pool, runtime, pool_uid)],
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security(false)),
        affinity: affinity(pool),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        // Two fronts on one machine are better than one front.
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(parts(pool, &["proxy"])),
            ..TopologySpreadConstraint::default()
        }]),
        volumes: Some(volumes(pool)),
        ..placement(pool, runtime)
    }
}

/// Which machines the user wants the pool on. What is said of other pods is said for the nodes: a front that keeps away
/// from those as they do from each other might find no machine, or take a node's.
fn affinity(pool: &ValidPool) -> Option<Affinity> {
    let node_affinity = pool.affinity.as_ref()?.node_affinity.clone()?;
    Some(Affinity { node_affinity: Some(node_affinity), ..Affinity::default() })
}

fn container(pool: &ValidPool, runtime: &Runtime, pool_uid: &str) -> Container {
    Container {
        name: "proxy".to_owned(),
        image: Some(runtime.operator_image.clone()),
        args: Some(vec!["proxy".to_owned()]),
        env: Some(environment(pool, runtime, pool_uid)),
        ports: Some(vec![
            port("primary", names::POSTGRES_PORT),
            port("read", names::FRONT_READ_PORT),
            port("peers", names::AGENT_PORT),
            port("health", names::HEALTH_PORT),
        ]),
        resources: pool.proxy.resources.as_ref().map(crate::api::v1alpha1::Resources::to_requirements),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts(pool)),
        ..Container::default()
    }
}

fn volumes(pool: &ValidPool) -> Vec<Volume> {
    let mut list = vec![tls_volume(names::part_tls_secret(pool.name(), "proxy")), empty_dir("run", true)];
    list.extend(pool.server_secret.clone().map(|secret| {
        let mut volume = secret_volume(SERVER_TLS, secret, &["tls.crt", "tls.key"]);
        // The front does without, with its own, until the Secret is there.
        volume.secret.iter_mut().for_each(|source| source.optional = Some(true));
        volume
    }));
    list
}

fn mounts(pool: &ValidPool) -> Vec<VolumeMount> {
    let mut list = vec![
        VolumeMount { read_only: Some(true), ..mount("tls", names::TLS_DIR) },
        mount("run", names::RUN_DIR),
    ];
    if pool.server_secret.is_some() {
        list.push(VolumeMount { read_only: Some(true), ..mount(SERVER_TLS, names::SERVER_TLS_DIR) });
    }
    list
}

fn environment(pool: &ValidPool, runtime: &Runtime, pool_uid: &str) -> Vec<EnvVar> {
    let mut list = pool_env(pool, runtime, pool_uid);
    list.push(env("PGPOOL_MAX_CONNECTIONS", pool.proxy.max_connections.to_string()));
    let each = pool.proxy.max_connections_per_user;
    list.extend(each.map(|each| env("PGPOOL_MAX_CONNECTIONS_PER_USER", each.to_string())));
    list
}
