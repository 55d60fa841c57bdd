//! What of a PgPool may change once it is there.
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use pgpool_operator::api::v1alpha1::PgPool;
use serde_json::{Value, json};

use super::cluster::{Cluster, Report, pool, words};

/// The pool that is changed; suspended, so that an operator in the cluster leaves it alone.
const BEFORE: &str = "{nodes: 3, storage: {size: 1Gi}, suspend: true}";

/// Changes that are refused: what is laid over the spec, and the message.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "major",
        "{image: 'postgres:18'}",
        "spec.image: another major version of PostgreSQL can't use the data that is there",
    ),
    ("older major", "{image: 'mirror:5000/library/postgres:16.3-bookworm'}", "another major version"),
    ("size", "{storage: {size: 512Mi}}", "spec.storage.size: can't shrink"),
    ("fewer than acknowledged", "{nodes: 1, failure: {minAttached: 2}}", "can't be more than spec.nodes"),
    (
        "class",
        "{storage: {size: 1Gi, storageClassName: other}}",
        "spec.storage.storageClassName: can't be changed",
    ),
    ("database", "{bootstrap: {database: other}}", "is used once, when the pool is made"),
    ("sql", "{bootstrap: {sql: {secret: {name: a, key: b}}}}", "is used once, when the pool is made"),
    ("segments", "{bootstrap: {walSegmentSize: 32}}", "is used once, when the pool is made"),
    ("mode", "{clusteringMode: NativeReplication}", "spec.clusteringMode: can't be changed"),
];

/// Changes that are accepted.
const ACCEPTED: &[(&str, &str)] = &[
    ("nothing", "{}"),
    ("the default written out", "{image: 'postgres:17', bootstrap: {owner: app}}"),
    ("resume", "{suspend: false}"),
    ("more nodes", "{nodes: 5}"),
    ("fewer nodes", "{nodes: 1}"),
    ("another minor", "{image: 'postgres:17.6-bookworm'}"),
    ("an image of another name", "{image: 'mirror:5000/team/database:2026-11'}"),
    ("an image by its digest", "{image: 'postgres:17@sha256:0123456789abcdef'}"),
    ("resources", "{resources: {requests: {cpu: 1}}}"),
    ("larger volumes", "{storage: {size: 2Gi}}"),
    ("the same size in other words", "{storage: {size: 1024Mi}}"),
    ("volumes of removed nodes", "{storage: {size: 1Gi, whenScaled: Delete}}"),
    ("libraries", "{postgres: {sharedPreloadLibraries: [auto_explain]}}"),
    ("parameters", "{postgres: {parameters: {work_mem: 8MB}}}"),
    ("volumes kept or not", "{storage: {size: 1Gi, whenDeleted: Delete}}"),
    ("front", "{proxy: {replicas: 3}}"),
    ("times", "{failure: {grace: 10s}}"),
    ("users", "{users: [{name: reader}]}"),
];

/// Makes one pool and tries each change of it as a dry run.
pub async fn check(cluster: &Cluster, report: &mut Report) {
    let resource = ApiResource::erase::<PgPool>(&());
    let pools: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    let made: DynamicObject = serde_json::from_value(pool("changing", BEFORE)).unwrap();
    pools.create(&PostParams::default(), &made).await.unwrap();
    for (case, change, message) in REFUSED {
        report.refused(case, patch(&pools, change).await, message);
    }
    for (case, change) in ACCEPTED {
        report.accepted(case, patch(&pools, change).await);
    }
}

/// Lays the change over the stored spec, as `kubectl patch --type merge --dry-run=server` does.
async fn patch(pools: &Api<DynamicObject>, change: &str) -> Result<(), String> {
    let change: Value = serde_saphyr::from_str(change).unwrap();
    let params = PatchParams { dry_run: true, ..Default::default() };
    let patch = Patch::Merge(json!({"spec": change}));
    pools.patch("changing", &params, &patch).await.map(drop).map_err(|error| words(&error))
}
