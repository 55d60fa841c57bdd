//! Every object of a pool, golden. `INSTA_UPDATE=always cargo test --test resources` writes them anew.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
use k8s_openapi::api::core::v1::{PodAntiAffinity, PodSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pgpool_operator::api::v1alpha1::PgPool;
use pgpool_operator::model::{Sensitive, ValidPool};
use pgpool_operator::names::{self, LogFormat};
use pgpool_operator::resources::{
    self as r, ANNOTATION_TEMPLATE, JobOrder, Manifest, NodeOrder, Peers, Runtime,
};
use serde_json::json;

/// A pool that sets everything; its names are unlike anything of the product.
fn full() -> ValidPool {
    let object = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1",
        "kind": "PgPool",
        "metadata": {"name": "orchard", "namespace": "harbour", "uid": "7e57-0001", "generation": 4},
        "spec": {
            "nodes": 2,
            "image": "registry.example/database:16",
            "imagePullPolicy": "Always",
            "imagePullSecrets": [{"name": "puller"}],
            "postgres": {"parameters": {"work_mem": "8MB"}, "sharedPreloadLibraries": ["auto_explain"]},
            "storage": {"size": "5Gi", "storageClassName": "swift", "whenDeleted": "Delete"},
            "walArchive": {"timeout": "2m", "retention": "1h", "maxSize": "1Gi"},
            "proxy": {
                "replicas": 3,
                "resources": {"limits": {"cpu": 1, "memory": "64Mi"}},
                "service": {"type": "LoadBalancer", "annotations": {"lb.example/kind": "inner"}},
                "maxConnections": 77,
                "maxConnectionsPerUser": 7,
            },
            "recovery": {"timeout": "90m", "bandwidth": "10Mi"},
            "failure": {"minAttached": 2},
            "bootstrap": {"database": "fruit", "owner": "grower", "provider": "icu", "icuLocale": "de-DE"},
            "users": [{"name": "picker", "inRoles": ["grower"], "createDb": true}],
            "databases": [{"name": "baskets", "owner": "picker"}],
            "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]},
            ]}}},
            "tolerations": [{"key": "database", "operator": "Exists"}],
            "nodeSelector": {"zone": "quay"},
            "priorityClass": "high",
            "podMetadata": {"labels": {"team": "apples"}, "annotations": {"note": "ripe"}},
            "tls": {"validity": "240h"},
        },
    });
    let object: PgPool = serde_json::from_value(object).unwrap();
    ValidPool::parse(&object).unwrap()
}

fn runtime() -> Runtime {
    Runtime {
        operator_image: "registry.example/tool:1".to_owned(),
        operator_namespace: "system".to_owned(),
        metrics_from: Peers::default(),
        log_format: LogFormat::Json,
        pull_secrets: Vec::new(),
    }
}

/// The same, where somebody may read metrics.
fn watched() -> Runtime {
    let peers = r#"[{"namespaceSelector": {"matchLabels": {"team": "lookout"}}}]"#;
    Runtime { metrics_from: peers.parse().unwrap(), ..runtime() }
}

const UID: &str = "0123456789abcdef";

fn order() -> NodeOrder {
    NodeOrder { index: 1, replicas: 1, storage_bytes: 5 << 30, restarted_at: None }
}

fn job() -> JobOrder {
    JobOrder {
        id: "0badcafe".to_owned(),
        node: 1,
        donor: 0,
        epoch: 7,
        may_destroy: false,
        placed: false,
        apart: false,
    }
}

/// The mark by which a pod is known that has to be made anew.
fn mark(pool: &ValidPool, runtime: &Runtime, order: &NodeOrder) -> String {
    let set = r::stateful_set(pool, runtime, UID, order).unwrap();
    let metadata = set.spec.unwrap().template.metadata.unwrap();
    metadata.annotations.unwrap()[ANNOTATION_TEMPLATE].clone()
}

#[test]
fn a_pod_is_made_anew_for_what_it_is_made_of_and_for_nothing_else() {
    let before = mark(&full(), &runtime(), &order());
    let same = [
        ValidPool { nodes: 7, ..full() },
        ValidPool { min_attached: 1, ..full() },
        ValidPool { parameters: std::collections::BTreeMap::new(), ..full() },
    ];
    for pool in same {
        assert_eq!(mark(&pool, &runtime(), &order()), before);
    }
    assert_eq!(mark(&full(), &runtime(), &NodeOrder { replicas: 0, ..order() }), before);
    let other = [
        ValidPool { image: "registry.example/database:16.1".to_owned(), ..full() },
        ValidPool { resources: None, ..full() },
        ValidPool { preload: Vec::new(), ..full() },
        ValidPool { tolerations: Vec::new(), ..full() },
    ];
    for pool in other {
        assert_ne!(mark(&pool, &runtime(), &order()), before);
    }
    let newer = Runtime { operator_image: "registry.example/tool:2".to_owned(), ..runtime() };
    assert_ne!(mark(&full(), &newer, &order()), before);
    assert_ne!(mark(&full(), &Runtime { log_format: LogFormat::Text, ..runtime() }, &order()), before);
    assert_eq!(mark(&full(), &watched(), &order()), before, "who may read metrics is no affair of pods");
    assert_ne!(mark(&full(), &runtime(), &NodeOrder { storage_bytes: 6 << 30, ..order() }), before);
    let restarted = NodeOrder { restarted_at: Some(jiff::Timestamp::UNIX_EPOCH), ..order() };
    assert_ne!(mark(&full(), &runtime(), &restarted), before);
}

macro_rules! golden {
    ($name:literal, $object:expr) => {
        let manifest = Manifest::of(&$object).unwrap();
        insta::assert_yaml_snapshot!($name, manifest.value);
    };
}

#[test]
fn rights_of_the_agents() {
    golden!("service_account", r::service_account(&full()));
    golden!("role", r::role(&full()));
    golden!("role_binding", r::role_binding(&full()));
    golden!("passwd", r::passwd(&full()));
}

#[test]
fn services() {
    golden!("service_primary", r::primary_service(&full()));
    golden!("service_read", r::read_service(&full()));
    golden!("service_nodes", r::nodes_service(&full()));
    golden!("service_peers", r::peers_service(&full()));
}

#[test]
fn protection() {
    golden!("budget_nodes", r::node_budget(&full()));
    golden!("budget_proxy", r::proxy_budget(&full()));
    golden!("policy_nodes", r::node_policy(&full(), &runtime()));
    golden!("policy_proxy", r::proxy_policy(&full(), &runtime()));
    golden!("policy_recovery", r::recovery_policy(&full()));
}

#[test]
fn whoever_was_named_reads_metrics_and_nobody_else_comes_in() {
    let (shut, open) = (runtime(), watched());
    for (before, after) in [
        (r::node_policy(&full(), &shut), r::node_policy(&full(), &open)),
        (r::proxy_policy(&full(), &shut), r::proxy_policy(&full(), &open)),
    ] {
        let rules = |policy: NetworkPolicy| policy.spec.unwrap().ingress.unwrap();
        let (before, mut after) = (rules(before), rules(after));
        let added = after.pop().unwrap();
        assert_eq!(before, after);
        assert_eq!(added.from.unwrap(), open.metrics_from.0);
        let ports: Vec<_> = added.ports.unwrap().into_iter().map(|port| port.port).collect();
        assert_eq!(ports, [Some(IntOrString::Int(i32::from(names::HEALTH_PORT)))]);
    }
}

/// The pod of a node, that of a front, and that of a recovery.
fn pods(pool: &ValidPool, runtime: &Runtime) -> [PodSpec; 3] {
    let templates = [
        r::stateful_set(pool, runtime, UID, &order()).unwrap().spec.unwrap().template,
        r::deployment(pool, runtime, UID).spec.unwrap().template,
        r::recovery_job(pool, runtime, UID, &job()).spec.unwrap().template,
    ];
    templates.map(|template| template.spec.unwrap())
}

#[test]
fn every_pod_runs_where_the_pool_may_and_those_of_nodes_alone_keep_away_from_others() {
    let mut pool = full();
    let affinity = pool.affinity.as_mut().unwrap();
    affinity.pod_anti_affinity = Some(PodAntiAffinity::default());
    let machines = affinity.node_affinity.clone();
    assert!(machines.is_some());
    for (pod, apart) in pods(&pool, &runtime()).into_iter().zip([true, false, true]) {
        assert_eq!(pod.tolerations, Some(pool.tolerations.clone()));
        assert_eq!(pod.node_selector, Some(pool.node_selector.clone()));
        assert_eq!(pod.priority_class_name, pool.priority_class);
        let affinity = pod.affinity.unwrap();
        assert_eq!((&affinity.node_affinity, affinity.pod_anti_affinity.is_some()), (&machines, apart));
    }
    let bare = ValidPool { affinity: None, ..pool };
    assert!(pods(&bare, &runtime()).iter().all(|pod| pod.affinity.is_none()));
}

#[test]
fn the_users_annotations_are_on_fronts_and_the_labels_that_constraints_select_are_not() {
    let metadata = r::deployment(&full(), &runtime(), UID).spec.unwrap().template.metadata.unwrap();
    let (labels, notes) = (metadata.labels.unwrap(), metadata.annotations.unwrap());
    assert_eq!(notes["note"], "ripe");
    assert!(!labels.contains_key("team"), "{labels:?}");
}

#[test]
fn the_users_labels_never_stand_in_the_place_of_our_own() {
    let mut pool = full();
    let before = r::stateful_set(&pool, &runtime(), UID, &order()).unwrap().spec.unwrap().template.metadata;
    for label in ["app.kubernetes.io/component", "app.kubernetes.io/instance"] {
        pool.pod_metadata.labels.insert(label.to_owned(), "mine".to_owned());
    }
    let after = r::stateful_set(&pool, &runtime(), UID, &order()).unwrap().spec.unwrap().template.metadata;
    assert_eq!(
        after.as_ref().and_then(|m| m.labels.as_ref()),
        before.as_ref().and_then(|m| m.labels.as_ref())
    );
    assert!(after.is_some_and(|m| m.labels.is_some_and(|labels| labels["team"] == "apples")));
}

#[test]
fn every_pod_pulls_by_the_secrets_of_its_pool_and_by_the_operators() {
    let by = |secrets: &[&str]| Runtime {
        pull_secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
        ..runtime()
    };
    let bare = ValidPool { pull_secrets: Vec::new(), ..full() };
    let cases = [
        (full(), by(&["login", "puller"]), vec!["puller", "login"]),
        (full(), runtime(), vec!["puller"]),
        (bare.clone(), by(&["login"]), vec!["login"]),
        (bare, runtime(), vec![]),
    ];
    for (pool, runtime, wanted) in cases {
        for pod in pods(&pool, &runtime) {
            let secrets = pod.image_pull_secrets.unwrap_or_default();
            let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
            assert_eq!(names, wanted);
        }
    }
}

#[test]
fn another_format_of_logs_is_told_to_every_container() {
    let text = Runtime { log_format: LogFormat::Text, ..runtime() };
    for pod in pods(&full(), &text) {
        for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
            let told = container.env.iter().flatten().find(|env| env.name == "PGPOOL_LOG_FORMAT");
            assert_eq!(told.and_then(|env| env.value.as_deref()), Some("text"), "{}", container.name);
        }
    }
}

#[test]
fn workloads() {
    golden!("stateful_set", r::stateful_set(&full(), &runtime(), UID, &order()).unwrap());
    golden!("deployment", r::deployment(&full(), &runtime(), UID));
    golden!("claim", r::claim(&full(), 1, "5Gi", true, Some("0badcafe")));
    golden!("recovery_job", r::recovery_job(&full(), &runtime(), UID, &job()));
    // Beside the pod of its node: in a pool of fewer nodes than machines no spread would let it there.
    let placed = r::recovery_job(&full(), &runtime(), UID, &JobOrder { placed: true, ..job() });
    let pod = placed.spec.unwrap().template.spec.unwrap();
    assert!(pod.topology_spread_constraints.is_none() && pod.node_selector.is_some());
}

#[test]
fn a_job_that_is_kept_apart_counts_machines_that_are_missing() {
    let mut pool = full();
    pool.topology_spread = None;
    let spread = |apart| {
        let job = r::recovery_job(&pool, &runtime(), UID, &JobOrder { apart, ..job() });
        job.spec.unwrap().template.spec.unwrap().topology_spread_constraints.unwrap()
    };
    assert_eq!(spread(true)[0].min_domains, Some(i32::from(pool.nodes)));
    assert_eq!(spread(false)[0].min_domains, None);
}

#[test]
fn secrets() {
    let pool = full();
    let password = Sensitive::new("a:b/c");
    golden!("login_app", r::login_secret(&pool, &pool.logins[0], &password));
    golden!("login_user", r::login_secret(&pool, &pool.logins[1], &password));
    let app = r::login_data(&pool, &pool.logins[0], &password);
    let texts: Vec<(&str, &str)> = app.iter().map(|(key, value)| (key.as_str(), value.reveal())).collect();
    insta::assert_yaml_snapshot!("login_app_clear", texts);
    let orders: Vec<String> = r::leaf_orders(&pool, UID).iter().map(|order| format!("{order:?}")).collect();
    insta::assert_yaml_snapshot!("leaf_orders", orders);
    let membership = r::membership(
        &pool,
        &serde_json::from_value(json!({
            "poolUid": UID, "nodes": 2, "attach": [0], "domain": "d", "archiveMaxBytes": 1, "archiveRetentionSeconds": 1,
            "timings": {"heartbeatMs": 1, "detachAfterMs": 2, "leaseMs": 3, "graceMs": 4, "detachLagMs": 5},
        }))
        .unwrap(),
    );
    golden!("membership", membership);
}

#[test]
fn names_fit_into_labels_for_the_longest_pool_name() {
    let name = "a".repeat(40);
    assert!(names::recovery_job(&name, 14, "0badcafe").len() <= 63);
    assert!(names::node_pod(&name, 14).len() <= 63);
}

#[test]
fn specs_that_cannot_work_are_refused_with_the_field_and_what_to_do() {
    let cases = [
        (json!({"storage": {"size": "much"}}), "spec.storage.size"),
        (json!({"storage": {"size": "1Gi"}, "walArchive": {"maxSize": "900Mi"}}), "spec.walArchive.maxSize"),
        (json!({"storage": {"size": "1Gi"}, "recovery": {"bandwidth": "1Ki"}}), "spec.recovery.bandwidth"),
        (json!({"storage": {"size": "1Gi"}, "failure": {"minAttached": 4}}), "spec.failure.minAttached"),
        (
            json!({"storage": {"size": "1Gi"}, "resources": {"requests": {"memory": 4_294_967_296_u64}, "limits": {"memory": "1Gi"}}}),
            "spec.resources.requests.memory",
        ),
        (
            json!({"storage": {"size": "1Gi"}, "proxy": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}}),
            "spec.proxy.resources.requests.cpu",
        ),
        (json!({"storage": {"size": "1Gi"}, "users": [{"name": "Big"}]}), "spec.users[Big].secret"),
        (
            json!({"storage": {"size": "1Gi"}, "users": [{"name": "a_b"}, {"name": "a-b"}]}),
            "spec.users[a-b].secret",
        ),
        (
            json!({"storage": {"size": "1Gi"}, "databases": [{"name": "d", "owner": "nobody"}]}),
            "spec.databases[d].owner",
        ),
    ];
    for (mut spec, field) in cases {
        spec["nodes"] = json!(3);
        let object = json!({
            "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
            "metadata": {"name": "orchard", "namespace": "harbour"}, "spec": spec,
        });
        let object: PgPool = serde_json::from_value(object).unwrap();
        let problems = ValidPool::parse(&object).unwrap_err();
        assert!(problems.iter().any(|problem| problem.field == field), "{field}: {problems:?}");
    }
}
