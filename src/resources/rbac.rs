//! What the agents of a pool may do with the Kubernetes API: read and write the pool's record, nothing else.
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::labels::{Part, metadata};
use crate::api::v1alpha1::GROUP;
use crate::model::ValidPool;
use crate::names;

/// The agents' account.
pub fn service_account(pool: &ValidPool) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(pool, &names::agent_account(pool.name()), Part::Pool),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Rights on the one membership object of the pool.
pub fn role(pool: &ValidPool) -> Role {
    let rule = |resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![GROUP.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(vec![pool.name().to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: metadata(pool, &names::agent_account(pool.name()), Part::Pool),
        rules: Some(vec![
            // list and watch of one object: with fieldSelector metadata.name=NAME.
            rule("pgpoolmemberships", &["get", "list", "watch"]),
            rule("pgpoolmemberships/status", &["update"]),
        ]),
    }
}

/// Gives the agents that role.
pub fn role_binding(pool: &ValidPool) -> RoleBinding {
    let name = names::agent_account(pool.name());
    RoleBinding {
        metadata: metadata(pool, &name, Part::Pool),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(pool.namespace().to_owned()),
            ..Subject::default()
        }]),
    }
}
