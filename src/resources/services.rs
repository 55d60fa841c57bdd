//! The Services of a pool.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Part, metadata, selector};
use crate::model::ValidPool;
use crate::names;

fn port(name: &str, port: u16, target: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(target))),
        ..ServicePort::default()
    }
}

fn front(pool: &ValidPool, name: &str, target: u16) -> Service {
    let service = &pool.proxy.service;
    let mut metadata = metadata(pool, name, Part::Proxy);
    metadata.annotations = (!service.annotations.is_empty()).then(|| service.annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(service.type_.as_str().to_owned()),
            selector: Some(selector(pool, Part::Proxy)),
            ports: Some(vec![port("postgres", names::POSTGRES_PORT, target)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// `NAME`: the primary, by way of the front.
pub fn primary_service(pool: &ValidPool) -> Service {
    front(pool, pool.name(), names::POSTGRES_PORT)
}

/// `NAME-ro`: all attached nodes, by way of the front.
pub fn read_service(pool: &ValidPool) -> Service {
    front(pool, &names::read_service(pool.name()), names::FRONT_READ_PORT)
}

fn headless(
    pool: &ValidPool,
    name: &str,
    part: Part,
    pods: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
) -> Service {
    Service {
        metadata: metadata(pool, name, part),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // Nodes and fronts must find each other before they are ready.
            publish_not_ready_addresses: Some(true),
            selector: Some(pods),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// `NAME-nodes`: the nodes' stable names.
pub fn nodes_service(pool: &ValidPool) -> Service {
    let pods = BTreeMap::from([
        (names::LABEL_POOL.to_owned(), pool.name().to_owned()),
        (names::LABEL_PART.to_owned(), Part::Node(0).as_str().to_owned()),
    ]);
    let ports = vec![
        port("postgres", names::POSTGRES_PORT, names::POSTGRES_PORT),
        port("agent", names::AGENT_PORT, names::AGENT_PORT),
    ];
    headless(pool, &names::nodes_service(pool.name()), Part::Pool, pods, ports)
}

/// `NAME-proxy-peers`: by which fronts find each other.
pub fn peers_service(pool: &ValidPool) -> Service {
    let ports = vec![port("agent", names::AGENT_PORT, names::AGENT_PORT)];
    headless(pool, &names::peers_service(pool.name()), Part::Proxy, selector(pool, Part::Proxy), ports)
}
