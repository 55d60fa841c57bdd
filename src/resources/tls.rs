//! Secrets of the pool's certificates: what each part is issued, and how it is stored.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::labels::{Part, metadata};
use super::manifest::fingerprint;
use crate::model::{Sensitive, ValidPool};
use crate::names;

/// On a leaf: fingerprint of the authority and of everything that the leaf says.
pub const ANNOTATION_ISSUED_FOR: &str = "pgpool-operator.dev/issued-for";
/// On the authority: since when its successor has been trusted.
pub const ANNOTATION_NEXT_SINCE: &str = "pgpool-operator.dev/next-since";
/// On the authority: since when its predecessor has signed nothing any more.
pub const ANNOTATION_PREVIOUS_SINCE: &str = "pgpool-operator.dev/previous-since";

/// A certificate that a part of the pool shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafOrder {
    /// Name of the Secret.
    pub secret: String,
    /// Common name: the PostgreSQL role that it logs in as.
    pub common_name: String,
    /// Which part of which pool it is.
    pub uri: String,
    /// Names of the server.
    pub dns: Vec<String>,
}

impl LeafOrder {
    /// Fingerprint of what a certificate for this order says, by the authority that signs it.
    pub fn issued_for(&self, authority_pem: &str) -> String {
        fingerprint(&format!("{}|{}|{}|{authority_pem}", self.common_name, self.uri, self.dns.join(",")))
    }
}

/// The certificates of a pool: one for each node, one for each other part.
pub fn leaf_orders(pool: &ValidPool, pool_uid: &str) -> Vec<LeafOrder> {
    let mut orders: Vec<LeafOrder> = (0..pool.nodes)
        .map(|index| LeafOrder {
            secret: names::node_tls_secret(pool.name(), index),
            common_name: names::REPLICATION_ROLE.to_owned(),
            uri: format!("pgpool://{pool_uid}/node/{index}"),
            dns: node_names(pool, index),
        })
        .collect();
    let parts = [
        ("proxy", "pgpool_proxy"),
        ("recovery", names::REPLICATION_ROLE),
        ("operator", "pgpool_operator_client"),
    ];
    orders.extend(parts.map(|(part, common_name)| LeafOrder {
        secret: names::part_tls_secret(pool.name(), part),
        common_name: common_name.to_owned(),
        uri: format!("pgpool://{pool_uid}/{part}"),
        dns: if part == "proxy" { service_names(pool) } else { Vec::new() },
    }));
    orders
}

/// The other parts of the pool reach a node by its own name.
fn node_names(pool: &ValidPool, index: u8) -> Vec<String> {
    let namespace = pool.namespace();
    let host = names::node_host(pool.name(), index, &names::nodes_service(pool.name()));
    vec![
        format!("{host}.{namespace}.svc"),
        format!("{host}.{namespace}"),
        format!("{host}.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
    ]
}

/// Clients reach the front by the names of the Services, the other fronts by one of their own.
fn service_names(pool: &ValidPool) -> Vec<String> {
    let namespace = pool.namespace();
    let mut list = Vec::new();
    for service in [pool.name().to_owned(), names::read_service(pool.name())] {
        list.extend([
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ]);
    }
    list.push(names::peers_host(pool.name(), namespace));
    list.push("localhost".to_owned());
    list
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

/// The Secret of a leaf.
pub fn leaf_secret(
    pool: &ValidPool,
    order: &LeafOrder,
    issued_for: &str,
    cert: &str,
    key: &Sensitive,
    bundle: &str,
) -> Secret {
    let mut metadata = metadata(pool, &order.secret, Part::Pool);
    metadata.annotations = Some(BTreeMap::from([(ANNOTATION_ISSUED_FOR.to_owned(), issued_for.to_owned())]));
    Secret {
        metadata,
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            ("tls.crt".to_owned(), bytes(cert)),
            ("tls.key".to_owned(), bytes(key.reveal())),
            ("ca.crt".to_owned(), bytes(bundle)),
        ])),
        ..Secret::default()
    }
}

/// The Secret of the authority; `next` and `previous` are there while it is being changed.
pub fn authority_secret(
    pool: &ValidPool,
    current: (&str, &Sensitive),
    next: Option<(&str, &Sensitive, Timestamp)>,
    previous: Option<(&str, Timestamp)>,
) -> Secret {
    let mut annotations = BTreeMap::new();
    let mut bundle = current.0.to_owned();
    let mut data = BTreeMap::from([
        ("tls.crt".to_owned(), bytes(current.0)),
        ("tls.key".to_owned(), bytes(current.1.reveal())),
    ]);
    if let Some((cert, key, since)) = next {
        bundle.push_str(cert);
        data.insert("next.crt".to_owned(), bytes(cert));
        data.insert("next.key".to_owned(), bytes(key.reveal()));
        annotations.insert(ANNOTATION_NEXT_SINCE.to_owned(), since.to_string());
    }
    if let Some((cert, since)) = previous {
        bundle.push_str(cert);
        data.insert("previous.crt".to_owned(), bytes(cert));
        annotations.insert(ANNOTATION_PREVIOUS_SINCE.to_owned(), since.to_string());
    }
    data.insert("ca.crt".to_owned(), bytes(&bundle));
    let mut metadata = metadata(pool, &names::ca_secret(pool.name()), Part::Pool);
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Secret { metadata, type_: Some("kubernetes.io/tls".to_owned()), data: Some(data), ..Secret::default() }
}
