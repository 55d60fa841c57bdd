//! Manifests of PgPool: right ones, and each mistake with its message.
use pgpool_operator::api::v1alpha1::PgPool;
use serde_json::{Value, json};

use super::bad_pools::{BAD, BAD_NAMES};
use super::cluster::{Cluster, Report, pool};

/// Specs that are accepted.
const GOOD: &[(&str, &str)] = &[
    ("minimal", "{nodes: 3, storage: {size: 1Gi}}"),
    ("one-node", "{nodes: 1, storage: {size: 256Mi}}"),
    ("fifteen-nodes", "{nodes: 15, storage: {size: 1Ti, storageClassName: fast, whenDeleted: Delete}}"),
    ("volumes-of-no-class", "{nodes: 3, storage: {size: 1Gi, storageClassName: ''}}"),
    (
        "slow-machine",
        "{nodes: 2, storage: {size: 1Gi}, failure: {heartbeat: 500ms, detachAfter: 4s, lease: 6s, grace: 9s}}",
    ),
    ("only-grace", "{nodes: 2, storage: {size: 1Gi}, failure: {grace: 1m30s}}"),
    (
        "cpu-as-number",
        "{nodes: 2, storage: {size: 1Gi}, resources: {requests: {cpu: 1, memory: 512Mi}, limits: {memory: 1e9}}}",
    ),
    (
        "numbers-of-any-size",
        "{nodes: 2, storage: {size: 1Gi}, resources: {requests: {memory: 4294967296}, limits: {memory: 9007199254740993}}}",
    ),
    (
        "cpu-as-text",
        "{nodes: 2, storage: {size: 1Gi}, resources: {requests: {cpu: 500m}, limits: {cpu: '2'}}}",
    ),
    (
        "requests-as-large-as-limits",
        "{nodes: 2, storage: {size: 1Gi}, resources: {requests: {cpu: 1, memory: 1Gi, ephemeral-storage: 0.3Gi}, limits: {cpu: 1000m, memory: 1073741824, example.com/disk: 1}}, proxy: {resources: {requests: {cpu: '0.3'}, limits: {cpu: 300m}}}}",
    ),
    (
        "labels",
        "{nodes: 2, storage: {size: 1Gi}, podMetadata: {labels: {team: '', example.com/Part_of.it: A.b_c-9}, annotations: {Example.com/Note: two words}}, nodeSelector: {kubernetes.io/os: linux}}",
    ),
    (
        "parameters",
        "{nodes: 2, storage: {size: 1Gi}, postgres: {parameters: {work_mem: 16MB, shared_buffers: 256MB, auto_explain.log_min_duration: 1s}, sharedPreloadLibraries: [auto_explain, pg_stat_statements]}}",
    ),
    (
        "icu",
        "{nodes: 2, storage: {size: 1Gi}, bootstrap: {provider: icu, icuLocale: de-DE, encoding: UTF8, walSegmentSize: 64}}",
    ),
    (
        "sql-from-secret",
        "{nodes: 2, storage: {size: 1Gi}, bootstrap: {sql: {secret: {name: start.sql, key: init.sql}}}}",
    ),
    (
        "own-roles",
        "{nodes: 2, storage: {size: 1Gi}, users: [{name: reader, inRoles: [pg_read_all_data]}, {name: Odd-Name, secret: odd}], databases: [{name: second, owner: app}, {name: third, owner: reader}]}",
    ),
    (
        "weights",
        "{nodes: 2, storage: {size: 1Gi}, loadBalancing: {weights: {'0': 0, '1': 3}, primary: false}}",
    ),
    (
        "bounded-recovery",
        "{nodes: 2, storage: {size: 1Gi}, recovery: {automatic: false, timeout: 30s, bandwidth: 100Mi}}",
    ),
    (
        "archive",
        "{nodes: 2, storage: {size: 1Gi}, walArchive: {timeout: 5s, retention: 48h, maxSize: 200Mi}}",
    ),
    (
        "front",
        "{nodes: 2, storage: {size: 1Gi}, proxy: {replicas: 3, maxConnections: 50, maxConnectionsPerUser: 10, service: {type: LoadBalancer, annotations: {a.example/b: c}}}}",
    ),
];

/// Creates each of them as a dry run.
pub async fn check(cluster: &Cluster, report: &mut Report) {
    for (case, spec) in GOOD {
        let got = cluster.try_create("pgpools", &pool(case, spec)).await;
        if let Some(stored) = report.accepted(case, got) {
            // One that it couldn't read would hide all others from the operator.
            report.holds(
                &format!("{case}, read by the operator"),
                serde_json::from_value::<PgPool>(stored).is_ok(),
            );
        }
    }
    for (case, spec, message) in BAD {
        let got = cluster.try_create("pgpools", &pool(case, spec)).await;
        report.refused(case, got, message);
    }
    for name in BAD_NAMES {
        let got = cluster.try_create("pgpools", &pool(name, GOOD[0].1)).await;
        report.refused(name, got, "a pool's name has at most 40 characters");
    }
    defaults(cluster, report).await;
}

/// The minimal manifest is a complete one: the server fills in every default.
async fn defaults(cluster: &Cluster, report: &mut Report) {
    let got = cluster.try_create("pgpools", &pool("minimal", GOOD[0].1)).await;
    let Some(stored) = report.accepted("defaults", got) else { return };
    let wish = json!({
        "nodes": 3, "clusteringMode": "StreamingReplication", "image": "postgres:17",
        "imagePullPolicy": "IfNotPresent", "suspend": false,
        "postgres": {"parameters": {}},
        "storage": {"size": "1Gi", "whenDeleted": "Retain", "whenScaled": "Retain"},
        "walArchive": {"timeout": "1m", "retention": "24h"},
        "loadBalancing": {"weights": {}, "primary": true},
        "proxy": {"replicas": 2, "maxConnections": 1000, "service": {"type": "ClusterIP", "annotations": {}}},
        "recovery": {"automatic": true, "timeout": "6h"},
        "failure": {"heartbeat": "250ms", "detachAfter": "1500ms", "lease": "2s", "grace": "3s",
            "detachLag": "30s", "minAttached": 1},
        "bootstrap": {"database": "app", "owner": "app", "encoding": "UTF8", "locale": "C.UTF-8",
            "provider": "libc", "walSegmentSize": 16},
        "podMetadata": {"labels": {}, "annotations": {}},
        "tls": {"validity": "2160h"},
    });
    for (field, value) in wish.as_object().into_iter().flatten() {
        report.holds(
            &format!("default of {field}: {}", stored["spec"][field]),
            stored["spec"][field] == *value,
        );
    }
    let names = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    report.holds("no other default", names(&stored["spec"]) == names(&wish));
}
