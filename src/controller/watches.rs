//! What wakes a pass up: the PgPool, everything with the pool's label, and Secrets that a spec names.
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::ExponentialBackoff;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::reconcile::{Scope, Shared, on_error, reconcile};
use crate::api::v1alpha1::PgPool;
use crate::names;
use crate::observe::{Cache, Volumes, slim, slim_pod};

/// Pools that are worked on at the same time.
const CONCURRENCY: u16 = 16;
/// How soon it is tried again to list the custom resources, whose definitions may come later.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Objects that a watch's first list brings at once: they come whole, and what is thrown away of them is the larger part.
const PAGE: u32 = 50;

/// How soon the watches are tried again after an error. All share it, and with an API that was away for a minute kube's
/// own would leave the pools alone for half a minute more.
fn watch_again() -> ExponentialBuilder {
    let (least, most) = (Duration::from_millis(200), Duration::from_secs(3));
    ExponentialBuilder::default().with_min_delay(least).with_max_delay(most).with_jitter().without_max_times()
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The pool that an object says it belongs to.
fn labelled<K: Resource>(object: &K) -> Option<ObjectRef<PgPool>> {
    let pool = object.labels().get(names::LABEL_POOL)?;
    Some(ObjectRef::new(pool).within(&object.namespace()?))
}

/// The pools whose spec names a Secret. Its name is enough: others' Secrets needn't come here.
fn naming(pools: &Store<PgPool>, secret: &PartialObjectMeta<Secret>) -> Vec<ObjectRef<PgPool>> {
    let (name, namespace) = (secret.name_any(), secret.namespace());
    let names = |pool: &PgPool| {
        let sql = pool.spec.bootstrap.sql.as_ref().and_then(|sql| sql.secret.as_ref());
        pool.namespace() == namespace
            && (pool.spec.users.iter().any(|user| user.secret.as_deref() == Some(name.as_str()))
                || pool.spec.tls.server_secret.as_deref() == Some(name.as_str())
                || names::app_secret(&pool.name_any()) == name
                || sql.is_some_and(|key| key.name == name))
    };
    let found =
        pools.state().into_iter().filter(|pool| names(pool)).map(|pool| ObjectRef::from_obj(pool.as_ref()));
    found.chain(labelled(secret)).collect()
}

/// All of a kind.
fn all() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// A watch without what nobody looks at. What it tells of is in the store before.
fn kept<K>(
    api: Api<K>,
    config: watcher::Config,
    slim: fn(&mut K),
) -> (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static, Store<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    (reflector(writer, watcher(api, config).modify(slim)), store)
}

/// Has the objects of a kind with a pool's label wake it up, and kept.
fn watching<K>(
    controller: Controller<PgPool>,
    client: &Client,
    namespace: Option<&str>,
    slim: fn(&mut K),
) -> (Controller<PgPool>, Store<K>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let (events, store) = kept(api::<K>(client, namespace), all().labels(names::LABEL_POOL), slim);
    (controller.watches_stream(events.touched_objects(), |object| labelled(&object)), store)
}

/// Watches all that pools are made of.
fn watching_all(
    pools: Controller<PgPool>,
    client: &Client,
    namespace: Option<&str>,
) -> (Controller<PgPool>, Cache) {
    let (pools, memberships) = watching(pools, client, namespace, slim);
    let (pools, sets) = watching::<StatefulSet>(pools, client, namespace, slim);
    let (pools, deployments) = watching::<Deployment>(pools, client, namespace, slim);
    let (pools, jobs) = watching::<Job>(pools, client, namespace, slim);
    let (pools, pods) = watching::<Pod>(pools, client, namespace, slim_pod);
    let (pools, claims) = watching::<PersistentVolumeClaim>(pools, client, namespace, slim);
    let (pools, secrets) = watching::<Secret>(pools, client, namespace, slim);
    let (pools, maps) = watching::<ConfigMap>(pools, client, namespace, slim);
    let (pools, services) = watching::<Service>(pools, client, namespace, slim);
    let (pools, accounts) = watching::<ServiceAccount>(pools, client, namespace, slim);
    let (pools, roles) = watching::<Role>(pools, client, namespace, slim);
    let (pools, bindings) = watching::<RoleBinding>(pools, client, namespace, slim);
    let (pools, budgets) = watching::<PodDisruptionBudget>(pools, client, namespace, slim);
    let (pools, policies) = watching::<NetworkPolicy>(pools, client, namespace, slim);
    let cache = Cache {
        memberships,
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
        volumes: Volumes::default(),
    };
    (pools, cache)
}

/// Looks after the pools of one namespace, or of all.
pub async fn run(
    shared: Arc<Shared>,
    namespace: Option<&str>,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let (events, store) = kept(api::<PgPool>(&shared.client, namespace), all(), slim);
    let pools = Controller::for_stream(events.applied_objects(), store.clone())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(ExponentialBackoff::from(watch_again()));
    let secrets = api::<PartialObjectMeta<Secret>>(&shared.client, namespace);
    // Of which there is only the metadata, and there may be many.
    let pools = pools.watches(secrets, watcher::Config::default(), move |secret| naming(&store, &secret));
    let (pools, cache) = watching_all(pools, &shared.client, namespace);
    let listed = tokio::spawn(until_listed(api(&shared.client, namespace), ready));
    pools
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, on_error, Arc::new(Scope { shared, cache }))
        .for_each(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "controller");
            }
            std::future::ready(())
        })
        .await;
    listed.abort();
}

/// Ready once the custom resources can be listed. Asked by a call of its own: the store of the
/// controller wakes only one of those who wait for it.
async fn until_listed(pools: Api<PgPool>, ready: Arc<AtomicBool>) {
    while let Err(error) = pools.list_metadata(&ListParams::default().limit(1)).await {
        tracing::warn!(%error, "PgPools can't be listed yet");
        tokio::time::sleep(LIST_AGAIN).await;
    }
    ready.store(true, Ordering::Relaxed);
}
