//! Labels and metadata that every object of a pool carries.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};

use crate::model::ValidPool;
use crate::names;

/// Value of `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = "pgpool-operator";
/// Field manager of everything that the operator writes.
pub const MANAGER: &str = "pgpool-operator";

/// Which part of a pool an object belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The pool as a whole.
    Pool,
    /// A node.
    Node(u8),
    /// The front.
    Proxy,
    /// The recovery Job of a node.
    Recovery(u8),
}

impl Part {
    /// Value of the part label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Node(_) => "node",
            Self::Proxy => "proxy",
            Self::Recovery(_) => "recovery",
        }
    }
}

/// The labels of an object of the pool.
pub fn object_labels(pool: &ValidPool, part: Part) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "pgpool".to_owned()),
        ("app.kubernetes.io/instance".to_owned(), pool.name().to_owned()),
        ("app.kubernetes.io/component".to_owned(), part.as_str().to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), MANAGED_BY.to_owned()),
    ]);
    labels.extend(selector(pool, part));
    labels
}

/// The labels that pods of this part are found by.
pub fn selector(pool: &ValidPool, part: Part) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (names::LABEL_POOL.to_owned(), pool.name().to_owned()),
        (names::LABEL_PART.to_owned(), part.as_str().to_owned()),
    ]);
    if let Part::Node(index) | Part::Recovery(index) = part {
        labels.insert(names::LABEL_NODE.to_owned(), index.to_string());
    }
    labels
}

/// Metadata of an object that goes with the pool.
pub(super) fn metadata(pool: &ValidPool, name: &str, part: Part) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(pool.namespace().to_owned()),
        labels: Some(object_labels(pool, part)),
        owner_references: Some(vec![pool.owner()]),
        ..ObjectMeta::default()
    }
}

/// Selects the pods of some parts of the pool.
pub(super) fn parts(pool: &ValidPool, parts: &[&str]) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(names::LABEL_POOL.to_owned(), pool.name().to_owned())])),
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: names::LABEL_PART.to_owned(),
            operator: "In".to_owned(),
            values: Some(parts.iter().map(|part| (*part).to_owned()).collect()),
        }]),
    }
}
