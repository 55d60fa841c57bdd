//! A pool with all the wishes that the first one doesn't have, and what comes of each.
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::ListParams;
use pgpool_operator::names;
use serde_json::{Value, json};

use super::harness::{Outcome, ensure, failed};
use super::install::{IMAGE, client_pod, namespace};
use super::pool::WHOLE;
use super::processes::{freeze_pod, thaw};
use super::world::{World, until};

/// Namespace of the pool.
pub const SPACE: &str = "cluster-test-wishes";
/// Its name.
pub const POOL: &str = "wishes";
/// The class of its volumes, which lets them grow.
pub const CLASS: &str = "cluster-test-growing";
const CLIENT: &str = "reader";
/// The password that somebody has chosen: every character that a shell, a URI or a file of passwords could trip over.
const PASSWORD: &str = r#"it's "€5": \100%&?/@=#"#;
/// A login waits for so long before a node answers again.
const WAITS: Duration = Duration::from_secs(1);
/// A change that must not come is waited for so long.
pub const NOTHING: Duration = Duration::from_secs(4);

/// Runs kubectl in the pool's namespace.
pub async fn here(world: &World, args: &[&str]) -> Outcome<String> {
    world.kubectl(&[&["-n", SPACE], args].concat()).await
}

fn spec() -> Value {
    json!({
        "nodes": 2, "image": IMAGE,
        "storage": {"size": "2Gi", "storageClassName": CLASS, "whenDeleted": "Delete", "whenScaled": "Delete"},
        "postgres": {"parameters": {"work_mem": "8MB"}, "sharedPreloadLibraries": ["pg_stat_statements"]},
        "walArchive": {"timeout": "30s", "retention": "1h", "maxSize": "256Mi"},
        "failure": {"detachAfter": "3s", "lease": "4s", "grace": "6s", "detachLag": "20s", "minAttached": 2},
        "recovery": {"automatic": true, "timeout": "10m", "bandwidth": "50Mi"},
        "bootstrap": {
            "database": "shop", "owner": "keeper", "provider": "icu", "icuLocale": "de-DE", "walSegmentSize": 64,
            "encoding": "LATIN1", "locale": "C",
            "sql": {"configMap": {"name": "start", "key": "start.sql"}},
        },
        "users": [
            {"name": "report", "inRoles": ["pg_read_all_data"]},
            {"name": "Odd-Name", "secret": "odd-login", "createDb": true},
        ],
        "databases": [{"name": "second", "owner": "report"}],
        "proxy": {
            "replicas": 1, "maxConnections": 50, "maxConnectionsPerUser": 1,
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
            "service": {"type": "NodePort", "annotations": {"example.com/team": "databases"}},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "databases", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpread": [{
            "topologyKey": "kubernetes.io/hostname", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {names::LABEL_POOL: POOL}},
        }],
        "podMetadata": {"labels": {"example.com/team": "databases"}, "annotations": {"example.com/page": "yes"}},
    })
}

/// The pool becomes Ready, and is as it was asked for.
pub async fn granted(world: &World) -> Outcome {
    world.apply(&namespace(SPACE)).await?;
    until("the namespace's ServiceAccount", WHOLE, || async {
        here(world, &["get", "serviceaccount", "default"]).await.map(drop)
    })
    .await?;
    let metadata = |name: &str| json!({"name": name, "namespace": SPACE});
    let sql = "CREATE TABLE start AS SELECT 'hello' AS said;";
    let start = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("start"), "data": {"start.sql": sql}});
    world.apply(&start).await?;
    let login = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth", "metadata": metadata("odd-login"),
        "stringData": {"username": "Odd-Name", "password": PASSWORD},
    });
    world.apply(&login).await?;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"defaultVolumeType": "local"}},
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
    });
    world.apply(&class).await?;
    let pool = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool", "metadata": metadata(POOL), "spec": spec(),
    });
    world.apply(&pool).await?;
    here(world, &["wait", "--for=condition=Ready", "pgpool", POOL, "--timeout=110s"]).await?;
    by_postgres(world).await?;
    by_kubernetes(world).await?;
    by_clients(world).await
}

/// What PostgreSQL says on each node.
async fn by_postgres(world: &World) -> Outcome {
    let asked = [
        ("shop", "SHOW wal_segment_size", "64MB"),
        ("shop", "SHOW data_checksums", "on"),
        ("shop", "SHOW shared_preload_libraries", "pg_stat_statements"),
        ("shop", "SHOW archive_timeout", "30s"),
        ("shop", "SHOW work_mem", "8MB"),
        (
            "shop",
            "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'shop'",
            "ide-DE",
        ),
        ("shop", "SHOW server_encoding", "LATIN1"),
        ("second", "SHOW server_encoding", "LATIN1"),
        ("shop", "SELECT datcollate || datctype FROM pg_database WHERE datname = 'shop'", "CC"),
        ("shop", "SELECT said || tableowner FROM start, pg_tables WHERE tablename = 'start'", "hellokeeper"),
        ("second", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'second'", "report"),
        ("second", "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'Odd-Name'", "t"),
        ("second", "SELECT pg_has_role('report', 'pg_read_all_data', 'member')", "t"),
        // By these a commit that waits could be cancelled, and counted as acknowledged.
        ("shop", "SELECT has_function_privilege('report', 'pg_cancel_backend(int)', 'execute')", "f"),
        (
            "shop",
            "SELECT has_function_privilege('report', 'pg_terminate_backend(int, bigint)', 'execute')",
            "f",
        ),
    ];
    for index in 0..2 {
        let pod = names::node_pod(POOL, index);
        for (database, sql, wanted) in asked {
            let words = ["exec", &pod, "-c", "postgres", "--", "psql", "-XAtd", database, "-c", sql];
            let said = here(world, &words).await?;
            ensure(said == wanted, || format!("node {index}, {sql}: {said:?}, not {wanted:?}"))?;
        }
    }
    Ok(())
}

/// Whether the pod is where the pool shall be, and has its annotations; and its labels, where it is a node's.
fn placed(pod: &Pod, of_node: bool) -> Outcome {
    let spec = pod.spec.clone().unwrap_or_default();
    let tolerated = spec.tolerations.unwrap_or_default();
    ensure(tolerated.iter().any(|t| t.key.as_deref() == Some("databases")), || format!("{tolerated:?}"))?;
    let selector = spec.node_selector.unwrap_or_default();
    ensure(selector.contains_key("kubernetes.io/os"), || format!("{selector:?}"))?;
    let (labels, notes) = (pod.metadata.labels.as_ref(), pod.metadata.annotations.as_ref());
    let team = labels.and_then(|labels| labels.get("example.com/team"));
    ensure(team.is_some_and(|team| team == "databases") == of_node, || format!("{labels:?}"))?;
    let page = notes.and_then(|notes| notes.get("example.com/page"));
    ensure(page.is_some_and(|page| page == "yes"), || format!("{notes:?}"))
}

/// What Kubernetes says of the parts.
async fn by_kubernetes(world: &World) -> Outcome {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), SPACE);
    for index in 0..2 {
        let pod = pods.get(&names::node_pod(POOL, index)).await?;
        placed(&pod, true)?;
        let spec = pod.spec.unwrap_or_default();
        let spread = spec.topology_spread_constraints.unwrap_or_default();
        ensure(spread.len() == 1 && spread[0].max_skew == 2, || format!("{spread:?}"))?;
        let container = spec.containers.iter().find(|container| container.name == "postgres");
        let limits = container.and_then(|container| container.resources.as_ref()?.limits.as_ref());
        ensure(limits.is_some_and(|limits| limits["memory"].0 == "1Gi"), || format!("{limits:?}"))?;
    }
    let fronts = format!("{}={POOL},{}=proxy", names::LABEL_POOL, names::LABEL_PART);
    let fronts = pods.list(&ListParams::default().labels(&fronts)).await?.items;
    ensure(!fronts.is_empty(), || "there is no front".to_owned())?;
    fronts.iter().try_for_each(|pod| placed(pod, false))?;
    let services: Api<Service> = Api::namespaced(world.client.clone(), SPACE);
    for name in [POOL.to_owned(), names::read_service(POOL)] {
        let service = services.get(&name).await?;
        let notes = service.metadata.annotations.unwrap_or_default();
        ensure(notes.contains_key("example.com/team"), || format!("{name}: {notes:?}"))?;
        let kind = service.spec.and_then(|spec| spec.type_);
        ensure(kind.as_deref() == Some("NodePort"), || format!("{name}: {kind:?}"))?;
    }
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), SPACE);
    let front = deployments.get(&names::proxy(POOL)).await?.spec.unwrap_or_default();
    let containers = front.template.spec.map(|spec| spec.containers).unwrap_or_default();
    let limits = containers.first().and_then(|container| container.resources.as_ref()?.limits.as_ref());
    ensure(front.replicas == Some(1) && limits.is_some_and(|limits| limits["memory"].0 == "256Mi"), || {
        format!("{:?} {limits:?}", front.replicas)
    })
}

/// Who has a login logs in: with the password that was made up, and with the one that was given.
async fn by_clients(world: &World) -> Outcome {
    world.apply(&client_pod(CLIENT, SPACE, None)).await?;
    here(world, &["wait", "--for=condition=Ready", "pod", CLIENT, "--timeout=60s"]).await?;
    let (trusted, made) = (authority(world).await?, password(world).await?);
    let given = super::world::call("base64", &["-w0"], Some(PASSWORD)).await?;
    let read = names::read_service(POOL);
    for (user, password) in [("report", &made), ("Odd-Name", &given)] {
        let secrets = format!("{trusted}\n{password}\n");
        for host in [POOL, &read] {
            // The one before may not have given back its place yet: a user has but one.
            let asks = "psql -XAt -c 'SELECT session_user'";
            let said = until("a login", WHOLE, || log_in(host, user, &secrets, asks)).await?;
            ensure(said == user, || format!("{user} at {host}: {said:?}"))?;
        }
        // One more while the first is there; its words are asked for by the first.
        let asks = r#"psql -XAt -c 'SELECT session_user' -c '\! psql -XAt -c "SELECT 2" 2>&1'"#;
        let said = until("a login", WHOLE, || log_in(&read, user, &secrets, asks)).await?;
        let refused = format!("FATAL:  too many connections for role \"{user}\"");
        ensure(said.lines().any(|line| line == user) && said.contains(&refused), || {
            format!("{user}: {said:?}")
        })?;
    }
    Ok(())
}

/// What a client needs to log in as `report`, for [`log_in`].
pub async fn secrets(world: &World) -> Outcome<String> {
    Ok(format!("{}\n{}\n", authority(world).await?, password(world).await?))
}

/// The pool's authority, in base64.
async fn authority(world: &World) -> Outcome<String> {
    let authority = format!("secret/{}", names::ca_secret(POOL));
    here(world, &["get", &authority, "-o", r"jsonpath={.data.ca\.crt}"]).await
}

/// The password that was made up for `report`, in base64.
async fn password(world: &World) -> Outcome<String> {
    let secret = format!("secret/{}", names::user_secret(POOL, "report"));
    here(world, &["get", &secret, "-o", r"jsonpath={.data.password}"]).await
}

/// Runs a script in the client's pod in which `psql` finds the pool by its environment.
pub async fn log_in(host: &str, user: &str, secrets: &str, script: &str) -> Outcome<String> {
    // By standard input: neither certificate nor password is to stand in the arguments of a process.
    let script = format!(
        "read -r ca; echo $ca | base64 -d >/tmp/ca.crt; read -r p; PGPASSWORD=$(echo $p | base64 -d); \
         export PGPASSWORD PGHOST={host} PGUSER={user} PGDATABASE=second PGSSLMODE=verify-full \
         PGSSLROOTCERT=/tmp/ca.crt PGCONNECT_TIMEOUT=10; {script}"
    );
    let words = ["-n", SPACE, "exec", "-i", CLIENT, "--", "bash", "-c", &script];
    super::world::call("kubectl", &words, Some(secrets)).await
}

/// Changes the pool's spec.
pub async fn patched(world: &World, spec: &Value) -> Outcome {
    let patch = json!({"spec": spec}).to_string();
    here(world, &["patch", "pgpool", POOL, "--type=merge", "-p", &patch]).await.map(drop)
}

/// Waits until the pool's condition Progressing or Degraded says so.
pub async fn told(world: &World, condition: &str, words: &str) -> Outcome {
    let path = format!("jsonpath={{.status.conditions[?(@.type=='{condition}')]}}");
    until(words, WHOLE, || async {
        let now = here(world, &["get", "pgpool", POOL, "-o", &path]).await?;
        ensure(now.contains(words), || now.clone())
    })
    .await
}

/// Whoever comes to a front that has as many sessions as it may is told so at once.
pub async fn full(world: &World) -> Outcome {
    let secrets = secrets(world).await?;
    let front = format!("deployment/{}", names::proxy(POOL));
    let allow = async |spec: Value| {
        patched(world, &json!({"proxy": spec})).await?;
        let wanted = spec["maxConnections"].to_string();
        until("the Deployment to follow", WHOLE, || async {
            let path = "jsonpath={.spec.template.spec.containers[0]}";
            let now = here(world, &["get", &front, "-o", path]).await?;
            let told = format!(r#""name":"PGPOOL_MAX_CONNECTIONS","value":"{wanted}""#);
            ensure(now.contains(&told), || now.clone())
        })
        .await?;
        here(world, &["rollout", "status", &front, "--timeout=100s"]).await.map(drop)
    };
    allow(json!({"maxConnections": 1, "maxConnectionsPerUser": null})).await?;
    let asks = r#"psql -XAt -c 'SELECT session_user' -c '\! psql -XAt -c "SELECT 2" 2>&1'"#;
    // The one before may not have given back its place, and the old front may still be asked.
    let refused = "FATAL:  too many connections for the front of this pool";
    let said = until("a full front", WHOLE, || async {
        let said = log_in(POOL, "report", &secrets, asks).await?;
        ensure(said.starts_with("report") && said.contains(refused), || said.clone())?;
        Ok(said)
    })
    .await;
    allow(json!({"maxConnections": 50, "maxConnectionsPerUser": 1})).await?;
    let said = said?;
    ensure(said.contains("HINT") && said.contains("spec.proxy.maxConnections"), || said.clone())
}

/// With no node that answers a login waits, and is told at last what is missing; one that comes before the end of that is served.
pub async fn unserved(world: &World) -> Outcome {
    let secrets = secrets(world).await?;
    let mut frozen = Vec::new();
    for index in 0..2 {
        let pod = names::node_pod(POOL, index);
        let uid = here(world, &["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"]).await;
        match uid.and_then(|uid| freeze_pod(&uid)) {
            Ok(stopped) => frozen.extend(stopped),
            Err(failure) => {
                thaw(&frozen);
                return Err(failure);
            }
        }
    }
    let asks = "export PGCONNECT_TIMEOUT=60; psql -XAt -c 'SELECT 1' 2>&1";
    let script = format!("bash -c {}; true", super::front::quoted(asks));
    let refused = log_in(POOL, "report", &secrets, &script).await;
    let served = log_in(POOL, "report", &secrets, asks);
    let thawed = async {
        tokio::time::sleep(WAITS).await;
        thaw(&frozen);
    };
    let (served, ()) = tokio::join!(served, thawed);
    let refused = refused?;
    println!("    {}", refused.lines().take(2).collect::<Vec<_>>().join(" "));
    ensure(refused.contains("FATAL:  no primary") && refused.contains("HINT"), || refused.clone())?;
    ensure(served?.lines().any(|line| line == "1"), || "a login that waited was not served".to_owned())?;
    here(world, &["wait", "--for=jsonpath={.status.phase}=Ready", "pgpool", POOL, "--timeout=120s"])
        .await
        .map(drop)
}

/// Volumes are asked to grow with the spec, and the pool is Ready again once they have.
pub async fn grown(world: &World) -> Outcome {
    patched(world, &json!({"storage": {"size": "3Gi"}})).await?;
    told(world, "Progressing", "VolumeGrows").await?;
    for index in 0..2 {
        let claim = names::claim(POOL, index);
        let path = "jsonpath={.spec.resources.requests.storage} {.spec.volumeName}";
        let said = here(world, &["get", "pvc", &claim, "-o", path]).await?;
        let Some(("3Gi", volume)) = said.split_once(' ') else {
            return failed(format!("claim {claim} asks for {said}"));
        };
        // The part of the storage's own resizer, which these volumes don't have.
        let capacity = r#"{"spec":{"capacity":{"storage":"3Gi"}}}"#;
        world.kubectl(&["patch", "pv", volume, "--type=merge", "-p", capacity]).await?;
        let capacity = r#"{"status":{"capacity":{"storage":"3Gi"}}}"#;
        here(world, &["patch", "pvc", &claim, "--subresource=status", "--type=merge", "-p", capacity])
            .await?;
    }
    here(world, &["wait", "--for=jsonpath={.status.phase}=Ready", "pgpool", POOL, "--timeout=60s"]).await?;
    told(world, "Progressing", r#""status":"False""#).await
}

/// The attached nodes, and the phase.
pub const ATTACHED: &str = "{.status.membership.attached} {.status.phase}";

/// Waits until the pool shows this at that path.
pub async fn shows(world: &World, path: &str, wanted: &str) -> Outcome {
    // A handover that didn't go through, as on a busy machine, is tried again after a minute.
    until(wanted, 2 * WHOLE, || async {
        let now = here(world, &["get", "pgpool", POOL, "-o", &format!("jsonpath={path}")]).await?;
        ensure(now == wanted, || now.clone())
    })
    .await
}

/// A node that is taken away again takes its volume with it, where the spec says so.
pub async fn shrunk(world: &World) -> Outcome {
    patched(world, &json!({"nodes": 3})).await?;
    shows(world, ATTACHED, "[0,1,2] Ready").await?;
    patched(world, &json!({"nodes": 2})).await?;
    shows(world, ATTACHED, "[0,1] Ready").await?;
    until("the volume of node 2 to be gone", WHOLE, || async {
        let claim = names::claim(POOL, 2);
        let left = here(world, &["get", "pvc", &claim, "--ignore-not-found", "-o", "name"]).await?;
        ensure(left.is_empty(), || left.clone())
    })
    .await
}

/// A suspended pool is left alone, and taken care of again afterwards.
pub async fn suspended(world: &World) -> Outcome {
    let suspend = async |wish: bool| patched(world, &json!({"suspend": wish})).await;
    let phase = async |wanted: &str| shows(world, "{.status.phase}", wanted).await;
    suspend(true).await?;
    phase("Suspended").await?;
    let service = format!("service/{}", names::read_service(POOL));
    here(world, &["delete", &service]).await?;
    tokio::time::sleep(NOTHING).await;
    let there = here(world, &["get", &service, "--ignore-not-found", "-o", "name"]).await?;
    ensure(there.is_empty(), || format!("{there} was made anew"))?;
    suspend(false).await?;
    until("the Service to be made anew", WHOLE, || async { here(world, &["get", &service]).await.map(drop) })
        .await?;
    phase("Ready").await
}

/// The pool goes, and everything of it.
pub async fn gone(world: &World) -> Outcome {
    here(world, &["delete", "pgpool", POOL, "--timeout=100s"]).await?;
    until("everything of the pool to be gone", WHOLE, || async {
        let left =
            here(world, &["get", "pods,services,deployments,statefulsets,pvc,jobs", "-o", "name"]).await?;
        let left: Vec<&str> = left.lines().filter(|name| *name != format!("pod/{CLIENT}")).collect();
        ensure(left.is_empty(), || format!("{left:?}"))
    })
    .await?;
    world.kubectl(&["delete", "namespace", SPACE, "--timeout=100s"]).await.map(drop)
}
