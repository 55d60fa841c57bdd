//! What the watches have brought of all pools. It may be behind, so nothing is changed by it: see [`Cache`].
use std::fmt::Debug;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};

use super::claims::Volumes;
use super::kubernetes::Lists;
use crate::api::v1alpha1::PgPoolMembership;
use crate::model::ValidPool;
use crate::names;

/// The objects with a pool's label, of each kind, as of the last event of its watch. Good for finding out that there is nothing
/// to do, which is mostly so; what is then done has to rest on lists that are no older than the question.
pub struct Cache {
    /// Records.
    pub memberships: Store<PgPoolMembership>,
    /// One for each node.
    pub sets: Store<StatefulSet>,
    /// Fronts.
    pub deployments: Store<Deployment>,
    /// Recoveries.
    pub jobs: Store<Job>,
    /// Pods of all of these.
    pub pods: Store<Pod>,
    /// Claims of nodes.
    pub claims: Store<PersistentVolumeClaim>,
    /// Certificates and logins.
    pub secrets: Store<Secret>,
    /// Files of nodes.
    pub maps: Store<ConfigMap>,
    /// What clients and nodes connect to.
    pub services: Store<Service>,
    /// Of the agents.
    pub accounts: Store<ServiceAccount>,
    /// What these may do.
    pub roles: Store<Role>,
    /// That they may.
    pub bindings: Store<RoleBinding>,
    /// How many pods may be evicted.
    pub budgets: Store<PodDisruptionBudget>,
    /// Who may connect to whom.
    pub policies: Store<NetworkPolicy>,
    /// Of volumes, which aren't watched.
    pub volumes: Volumes,
}

impl Cache {
    /// Whether each watch has brought its first list.
    pub fn is_filled(&self) -> bool {
        is_filled(&self.memberships)
            && is_filled(&self.sets)
            && is_filled(&self.deployments)
            && is_filled(&self.jobs)
            && is_filled(&self.pods)
            && is_filled(&self.claims)
            && is_filled(&self.secrets)
            && is_filled(&self.maps)
            && is_filled(&self.services)
            && is_filled(&self.accounts)
            && is_filled(&self.roles)
            && is_filled(&self.bindings)
            && is_filled(&self.budgets)
            && is_filled(&self.policies)
    }

    pub(super) fn lists(&self, pool: &ValidPool) -> Lists {
        Lists {
            sets: of(&self.sets, pool),
            deployments: of(&self.deployments, pool),
            jobs: of(&self.jobs, pool),
            pods: of(&self.pods, pool),
            claims: of(&self.claims, pool),
            secrets: of(&self.secrets, pool),
            maps: of(&self.maps, pool),
            services: of(&self.services, pool),
            accounts: of(&self.accounts, pool),
            roles: of(&self.roles, pool),
            bindings: of(&self.bindings, pool),
            budgets: of(&self.budgets, pool),
            policies: of(&self.policies, pool),
        }
    }

    pub(super) fn membership(&self, pool: &ValidPool) -> Option<PgPoolMembership> {
        let key = ObjectRef::new(pool.name()).within(pool.namespace());
        self.memberships.get(&key).map(|membership| membership.as_ref().clone())
    }
}

fn is_filled<K>(store: &Store<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.wait_until_ready().now_or_never().is_some_and(|ready| ready.is_ok())
}

/// Those with the pool's label, of its namespace.
fn of<K>(store: &Store<K>, pool: &ValidPool) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    let is_its = |object: &K| {
        object.labels().get(names::LABEL_POOL).is_some_and(|name| name == pool.name())
            && object.meta().namespace.as_deref() == Some(pool.namespace())
    };
    store.state_filter(is_its).iter().map(|object| object.as_ref().clone()).collect()
}
