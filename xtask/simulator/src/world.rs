//! All pools, as they were seen last: the watches write here, the agents answer from here.
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pgpool_operator::api::v1alpha1::PgPoolMembership;
use pgpool_operator::messages::{EnsureRoles, Ensured, NodeReport};

use crate::error::SimulatorError;
use crate::pool::{Pool, pool_of};

/// The pools by their names: all are in one namespace.
#[derive(Debug, Default)]
pub struct World(Mutex<BTreeMap<String, Pool>>);

impl World {
    /// Held for moments only.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of all pools.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Takes note of a pod; gives its pool.
    pub fn see_pod(&self, pod: Pod) -> Option<String> {
        let name = pool_of(&pod)?;
        let mut pools = self.lock();
        let pool = pools.entry(name.clone()).or_default();
        pool.pods.insert(pod.name_any(), pod);
        pool.learn();
        Some(name)
    }

    /// Forgets a pod that is gone; a namesake that came after it stays.
    pub fn forget_pod(&self, pod: &Pod) {
        let Some(name) = pool_of(pod) else { return };
        if let Some(pool) = self.lock().get_mut(&name)
            && pool.pods.get(&pod.name_any()).is_some_and(|known| known.uid() == pod.uid())
        {
            pool.pods.remove(&pod.name_any());
        }
    }

    /// Takes note of a membership; gives its pool.
    pub fn see_membership(&self, membership: PgPoolMembership) -> String {
        let name = membership.name_any();
        let mut pools = self.lock();
        let pool = pools.entry(name.clone()).or_default();
        pool.membership = Some(membership);
        pool.learn();
        name
    }

    /// Forgets a pool whose membership is gone, with its data.
    pub fn forget_membership(&self, membership: &PgPoolMembership) {
        if let Some(pool) = self.lock().get_mut(&membership.name_any()) {
            let pods = std::mem::take(&mut pool.pods);
            *pool = Pool { pods, ..Pool::default() };
        }
    }

    /// The pods of a pool.
    pub fn pods(&self, pool: &str) -> Vec<Pod> {
        self.lock().get(pool).map(|pool| pool.pods.values().cloned().collect()).unwrap_or_default()
    }

    /// Whether a node of a pool is attached.
    pub fn is_attached(&self, pool: &str, index: u8) -> bool {
        self.lock().get(pool).is_some_and(|pool| pool.is_attached(index))
    }

    /// The membership of a pool with the next record in it; none where there is nothing to write.
    pub fn due(&self, name: &str) -> Result<Option<PgPoolMembership>, SimulatorError> {
        let pools = self.lock();
        let Some(pool) = pools.get(name) else { return Ok(None) };
        let next = pool.next_record();
        let next = next.map_err(|source| SimulatorError::Record { pool: name.to_owned(), source })?;
        Ok(next
            .and_then(|record| Some(PgPoolMembership { status: Some(record), ..pool.membership.clone()? })))
    }

    /// What the agent of a node says.
    pub fn report(&self, pool: &str, index: u8, boot: &str) -> Option<NodeReport> {
        self.lock().get(pool)?.report(index, boot)
    }

    /// Has roles and databases made, once.
    pub fn ensure(&self, pool: &str, wanted: &EnsureRoles) -> Ensured {
        let mut pools = self.lock();
        let made = pools.get_mut(pool).is_some_and(|pool| std::mem::replace(&mut pool.bootstrapped, true));
        if made {
            return Ensured::default();
        }
        let roles = wanted.roles.iter().map(|role| format!("role {}", role.name));
        let databases = wanted.databases.iter().map(|database| format!("database {}", database.name));
        Ensured { changed: roles.chain(databases).collect(), errors: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str) -> Pod {
        let labels = json!({ "pgpool-operator.dev/pool": "heron" });
        serde_json::from_value(json!({ "metadata": { "name": "heron-0-0", "uid": uid, "labels": labels } }))
            .unwrap()
    }

    #[test]
    fn a_pod_that_has_gone_does_not_take_its_successor_along() {
        let world = World::default();
        assert_eq!(world.see_pod(pod("old")).as_deref(), Some("heron"));
        world.see_pod(pod("new"));
        world.forget_pod(&pod("old"));
        assert_eq!(world.pods("heron").len(), 1);
        world.forget_pod(&pod("new"));
        assert_eq!((world.pods("heron").len(), world.names().len()), (0, 1));
        assert_eq!(world.see_pod(Pod::default()), None, "it is of no pool");
    }

    #[test]
    fn roles_are_made_once() {
        let world = World::default();
        world.see_pod(pod("one"));
        let wanted = json!({ "roles": [{ "name": "app", "verifier": "", "inRoles": [], "createDb": false,
            "createRole": false }], "databases": [{ "name": "app", "owner": "app" }], "bootstrapSql": null });
        let wanted: EnsureRoles = serde_json::from_value(wanted).unwrap();
        assert_eq!(world.ensure("heron", &wanted).changed, ["role app", "database app"]);
        assert_eq!(world.ensure("heron", &wanted), Ensured::default());
    }
}
