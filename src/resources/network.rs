//! NetworkPolicies: who may come in. Egress is left open: agents need the API and DNS, whose
//! addresses differ from cluster to cluster.
use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Part, metadata, parts};
use super::pod::Runtime;
use crate::model::ValidPool;
use crate::names;

fn port(number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}

fn policy(pool: &ValidPool, name: &str, part: &str, ingress: Vec<NetworkPolicyIngressRule>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(pool, name, Part::Pool),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(parts(pool, &[part])),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(ingress),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn of_the_pool(pool: &ValidPool) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(parts(pool, &["node", "proxy", "recovery"])),
        ..NetworkPolicyPeer::default()
    }
}

/// The operator's pods. Kubernetes itself puts its name on each namespace.
fn operator(namespace: &str) -> NetworkPolicyPeer {
    let name = ("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([name])),
            ..LabelSelector::default()
        }),
        pod_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(names::LABEL_OPERATOR.to_owned(), "true".to_owned())])),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// Metrics, for whom the operator was told; an empty list of peers would let everybody in.
fn metrics(runtime: &Runtime) -> Option<NetworkPolicyIngressRule> {
    let peers = &runtime.metrics_from.0;
    (!peers.is_empty()).then(|| NetworkPolicyIngressRule {
        from: Some(peers.clone()),
        ports: Some(vec![port(names::HEALTH_PORT)]),
    })
}

/// Nodes: Postgres for the pool alone, the agent for the operator too.
pub fn node_policy(pool: &ValidPool, runtime: &Runtime) -> NetworkPolicy {
    let mut rules = vec![
        NetworkPolicyIngressRule {
            from: Some(vec![of_the_pool(pool)]),
            ports: Some(vec![port(names::POSTGRES_PORT)]),
        },
        NetworkPolicyIngressRule {
            from: Some(vec![of_the_pool(pool), operator(&runtime.operator_namespace)]),
            ports: Some(vec![port(names::AGENT_PORT)]),
        },
    ];
    rules.extend(metrics(runtime));
    policy(pool, &names::nodes_service(pool.name()), "node", rules)
}

/// The front: clients from everywhere, and the other fronts.
pub fn proxy_policy(pool: &ValidPool, runtime: &Runtime) -> NetworkPolicy {
    let mut rules = vec![
        NetworkPolicyIngressRule {
            from: None,
            ports: Some(vec![port(names::POSTGRES_PORT), port(names::FRONT_READ_PORT)]),
        },
        NetworkPolicyIngressRule {
            from: Some(vec![NetworkPolicyPeer {
                pod_selector: Some(parts(pool, &["proxy"])),
                ..NetworkPolicyPeer::default()
            }]),
            ports: Some(vec![port(names::AGENT_PORT)]),
        },
    ];
    rules.extend(metrics(runtime));
    policy(pool, &names::proxy(pool.name()), "proxy", rules)
}

/// Recovery Jobs: nobody.
pub fn recovery_policy(pool: &ValidPool) -> NetworkPolicy {
    policy(pool, &format!("{}-recovery", pool.name()), "recovery", Vec::new())
}
