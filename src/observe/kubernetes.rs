//! Everything that carries the pool's label: by consistent lists, or as the watches have brought it.
use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::try_join;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Cache, ObserveError, slim};
use crate::api::v1alpha1::PgPoolMembership;
use crate::model::{LiveObject, ValidPool};
use crate::names;

/// Everything of a pool, as the API server has it.
pub(super) struct Lists {
    pub sets: Vec<StatefulSet>,
    pub deployments: Vec<Deployment>,
    pub jobs: Vec<Job>,
    pub pods: Vec<Pod>,
    pub claims: Vec<PersistentVolumeClaim>,
    pub secrets: Vec<Secret>,
    pub(super) maps: Vec<ConfigMap>,
    pub(super) services: Vec<Service>,
    pub(super) accounts: Vec<ServiceAccount>,
    pub(super) roles: Vec<Role>,
    pub(super) bindings: Vec<RoleBinding>,
    pub(super) budgets: Vec<PodDisruptionBudget>,
    pub(super) policies: Vec<NetworkPolicy>,
}

impl Lists {
    /// From the watches where a cache is given, else by asking.
    pub async fn look(
        client: &Client,
        pool: &ValidPool,
        cache: Option<&Cache>,
    ) -> Result<Self, ObserveError> {
        match cache {
            Some(cache) => Ok(cache.lists(pool)),
            None => Self::read(client, pool).await,
        }
    }

    /// Reads all kinds at once. No resource version is given, so no answer is older than the question.
    async fn read(client: &Client, pool: &ValidPool) -> Result<Self, ObserveError> {
        let (sets, deployments, jobs, pods, claims, secrets, maps) = try_join!(
            list(client, pool, "StatefulSets"),
            list(client, pool, "Deployments"),
            list(client, pool, "Jobs"),
            list(client, pool, "Pods"),
            list(client, pool, "PersistentVolumeClaims"),
            list(client, pool, "Secrets"),
            list(client, pool, "ConfigMaps"),
        )?;
        let (services, accounts, roles, bindings, budgets, policies) = try_join!(
            list(client, pool, "Services"),
            list(client, pool, "ServiceAccounts"),
            list(client, pool, "Roles"),
            list(client, pool, "RoleBindings"),
            list(client, pool, "PodDisruptionBudgets"),
            list(client, pool, "NetworkPolicies"),
        )?;
        Ok(Self {
            sets,
            deployments,
            jobs,
            pods,
            claims,
            secrets,
            maps,
            services,
            accounts,
            roles,
            bindings,
            budgets,
            policies,
        })
    }

    /// A Secret of the pool.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.iter().find(|secret| secret.name_any() == name)
    }

    /// All of it by kind and name. Of Secrets only the metadata is passed on.
    pub fn live(&self, pool: &ValidPool) -> BTreeMap<(String, String), LiveObject> {
        let mut all = BTreeMap::new();
        add(&mut all, pool, &self.sets);
        add(&mut all, pool, &self.deployments);
        add(&mut all, pool, &self.jobs);
        add(&mut all, pool, &self.claims);
        add(&mut all, pool, &self.maps);
        add(&mut all, pool, &self.services);
        add(&mut all, pool, &self.accounts);
        add(&mut all, pool, &self.roles);
        add(&mut all, pool, &self.bindings);
        add(&mut all, pool, &self.budgets);
        add(&mut all, pool, &self.policies);
        let bare: Vec<Secret> = self
            .secrets
            .iter()
            .map(|s| Secret { metadata: s.metadata.clone(), ..Secret::default() })
            .collect();
        add(&mut all, pool, &bare);
        all
    }
}

async fn list<K>(client: &Client, pool: &ValidPool, what: &'static str) -> Result<Vec<K>, ObserveError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), pool.namespace());
    let params = ListParams::default().labels(&format!("{}={}", names::LABEL_POOL, pool.name()));
    let mut list = api.list(&params).await.map_err(|source| error(pool, what, source))?.items;
    list.iter_mut().for_each(slim);
    Ok(list)
}

pub(super) fn error(pool: &ValidPool, what: &'static str, source: kube::Error) -> ObserveError {
    ObserveError::Api { what, pool: pool.key.to_string(), source: Box::new(source) }
}

/// The membership object; none when it isn't there.
pub(super) async fn membership(
    client: &Client,
    pool: &ValidPool,
    cache: Option<&Cache>,
) -> Result<Option<PgPoolMembership>, ObserveError> {
    if let Some(cache) = cache {
        return Ok(cache.membership(pool));
    }
    let api: Api<PgPoolMembership> = Api::namespaced(client.clone(), pool.namespace());
    api.get_opt(pool.name()).await.map_err(|source| error(pool, "PgPoolMembership", source))
}

fn add<K>(all: &mut BTreeMap<(String, String), LiveObject>, pool: &ValidPool, list: &[K])
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let kind = K::kind(&()).into_owned();
    for object in list {
        let name = object.name_any();
        let live = LiveObject {
            kind: kind.clone(),
            name: name.clone(),
            owned: object.owner_references().iter().any(|owner| owner.uid == pool.object_uid),
            deleting: object.meta().deletion_timestamp.is_some(),
            // An object that was just read can be written; if not, it counts as different.
            value: serde_json::to_value(object).unwrap_or(Value::Null),
        };
        all.insert((kind.clone(), name), live);
    }
}
