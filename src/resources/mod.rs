//! One builder a file, each pure: from a [`ValidPool`](crate::model::ValidPool) to a Kubernetes object.
//!
//! Everything here is applied (server-side, forced, one field manager). What is created once and then
//! kept (Secrets with keys and passwords, the membership object, Jobs) is built here too but not applied.
mod claim;
mod disruption;
mod labels;
mod logins;
mod manifest;
mod membership;
mod network;
mod node;
mod passwd;
mod peers;
mod pod;
mod proxy;
mod rbac;
mod recovery_job;
mod services;
mod tls;

pub use claim::{ANNOTATION_FILLED, ANNOTATION_GIVEN_UP, ANNOTATION_LAST_RECORD, claim};
pub use disruption::{node_budget, proxy_budget};
pub use labels::{MANAGED_BY, MANAGER, Part, object_labels, selector};
pub use logins::{ROLE_KEYS, login_data, login_secret};
pub use manifest::{ANNOTATION_APPLIED, BuildError, Manifest, fingerprint};
pub use membership::membership;
pub use network::{node_policy, proxy_policy, recovery_policy};
pub use node::{ANNOTATION_TEMPLATE, NodeOrder, stateful_set};
pub use passwd::passwd;
pub use peers::Peers;
pub use pod::Runtime;
pub use proxy::deployment;
pub use rbac::{role, role_binding, service_account};
pub use recovery_job::{ANNOTATION_MAY_DESTROY, JobOrder, incarnation, recovery_job};
pub use services::{nodes_service, peers_service, primary_service, read_service};
pub use tls::{
    ANNOTATION_ISSUED_FOR, ANNOTATION_NEXT_SINCE, ANNOTATION_PREVIOUS_SINCE, LeafOrder, authority_secret,
    leaf_orders, leaf_secret,
};
