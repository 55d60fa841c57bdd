//! The custom resources: schema and CEL rules, no I/O.
pub mod v1alpha1;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// The definitions of all custom resources, as a cluster installs them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![v1alpha1::PgPool::crd(), v1alpha1::PgPoolMembership::crd()]
}
