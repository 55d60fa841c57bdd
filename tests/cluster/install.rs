//! From nothing to a pool that serves: the chart, the manifest, and the names that others script by.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use pgpool_operator::names;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::{NODES, WHOLE, role, selector};
use super::sessions::secret;
use super::world::{POOL, RELEASE, SPACE, SYSTEM, World, checkout, until};
use super::{removal, upgrade};

/// The chart, in a checkout.
pub const CHART: &str = "charts/pgpool-operator";
/// The image of the pool.
pub const IMAGE: &str = "localhost/postgres:17";
/// The pod that stands for an application, with psql.
pub const CLIENT: &str = "client";
/// Time for a pod with a present image to run.
const STARTED: Duration = Duration::from_secs(60);

/// Installs what the scenario begins with: today's chart, or that of the first release where an upgrade from it was asked for.
pub async fn begin(world: &World) -> Outcome {
    match upgrade::sources() {
        Some(sources) => upgrade::begin(world, &sources).await,
        None => helm(world).await,
    }
}

/// Installs the chart, and the definitions with it.
pub async fn helm(world: &World) -> Outcome {
    helm_with(world, &[]).await
}

/// Installs the chart with further values.
pub async fn helm_with(world: &World, further: &[&str]) -> Outcome {
    helm_of(world, &checkout(CHART), further).await
}

/// Installs this chart, and its definitions with it.
pub async fn helm_of(world: &World, chart: &Path, further: &[&str]) -> Outcome {
    let chart = chart.display().to_string();
    let fixed = ["upgrade", "--install", RELEASE, &chart, "-n", SYSTEM, "--create-namespace", "--wait"];
    let values = "image.repository=localhost/pgpool-operator,image.tag=dev,image.pullPolicy=IfNotPresent";
    let further: Vec<&str> = further.iter().flat_map(|value| ["--set", value]).collect();
    world.helm(&[&fixed[..], &["--timeout", "2m", "--set", values], &further].concat()).await?;
    established(world).await
}

/// Waits until the API server has the definitions.
pub async fn established(world: &World) -> Outcome {
    for plural in ["pgpools", "pgpoolmemberships"] {
        let crd = format!("crd/{plural}.pgpool-operator.dev");
        world.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=60s"]).await?;
    }
    Ok(())
}

/// Applies the pool with nothing but what a person must say, and waits until it is Ready.
pub async fn apply(world: &World) -> Outcome {
    world.apply(&namespace(SPACE)).await?;
    removal::note_before(world).await?;
    let since = Instant::now();
    world.apply(&pool()).await?;
    world.whole(WHOLE).await?;
    println!("    apply to Ready: {:.1} s", since.elapsed().as_secs_f64());
    if upgrade::sources().is_some() {
        // The first release says nothing of it.
        return Ok(());
    }
    until("the event Ready", STARTED, || async {
        let told = world.events("Ready").await?;
        let whole = format!("{0}/{0} nodes are attached", NODES.len());
        ensure(told.contains(&whole), || format!("{told:?}"))
    })
    .await
}

/// The pool that the scenario is about.
pub fn pool() -> Value {
    json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
        "metadata": {"name": POOL, "namespace": SPACE},
        "spec": {
            "nodes": NODES.len(), "image": IMAGE, "storage": {"size": "1Gi"},
            // A machine that runs all of this at once keeps an agent waiting for seconds.
            "failure": {"detachAfter": "3s", "lease": "4s", "grace": "6s"},
        },
    })
}

/// Starts the pod that stands for an application.
pub async fn client(world: &World) -> Outcome {
    let mut pod = client_pod(CLIENT, SPACE, Some(POOL));
    // Beside the load, on the machine that is never lost here: Kubernetes deletes pods of machines that are.
    pod["spec"]["nodeName"] = json!(world.machine_of(0).await?);
    world.apply(&pod).await?;
    world.here(&["wait", "--for=condition=Ready", "pod", CLIENT, "--timeout=60s"]).await.map(drop)
}

/// A namespace under the restricted rules.
pub fn namespace(name: &str) -> Value {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A pod that waits, with psql; where a pool is named, with what an application is given of it.
pub fn client_pod(name: &str, space: &str, pool: Option<&str>) -> Value {
    let mut container = json!({
        "name": "client", "image": IMAGE, "command": ["sleep", "infinity"], "securityContext": locked(),
    });
    let mut spec = json!({
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 0,
    });
    if let Some(pool) = pool {
        container["env"] = login(pool);
        container["volumeMounts"] = json!([{"name": "ca", "mountPath": "/ca"}]);
        spec["volumes"] = json!([authority(pool)]);
    }
    spec["containers"] = json!([container]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space}, "spec": spec})
}

/// What the restricted rules ask of a container.
pub fn locked() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

/// The login of the pool's application, as the environment of libpq.
pub fn login(pool: &str) -> Value {
    let secret = names::app_secret(pool);
    let from = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}});
    json!([
        from("PGUSER", "username"),
        from("PGPASSWORD", "password"),
        from("PGDATABASE", "dbname"),
        from("URI", "uri"),
        from("JDBC", "jdbc-uri"),
        from("PASSFILE", "pgpass"),
        from("HOST", "host"),
        from("PORT", "port"),
        {"name": "PGSSLROOTCERT", "value": "/ca/ca.crt"},
    ])
}

/// The volume with the certificate of the pool's authority, and not its key.
pub fn authority(pool: &str) -> Value {
    let items = json!([{"key": "ca.crt", "path": "ca.crt"}]);
    json!({"name": "ca", "secret": {"secretName": names::ca_secret(pool), "items": items}})
}

/// What psql prints in the application's pod; the password comes from its Secret, the server is verified.
pub async fn as_app(world: &World, host: &str, sql: &str) -> Outcome<String> {
    let target = format!("host={host} sslmode=verify-full connect_timeout=5");
    world.inside(CLIENT, &["psql", "-XAtq", "-d", &target, "-c", sql], None).await
}

/// An application writes by the Service `demo`, and reads by `demo-ro` what it wrote, on every node.
pub async fn services(world: &World) -> Outcome {
    let sql = "CREATE TABLE IF NOT EXISTS hello (said text); TRUNCATE hello; INSERT INTO hello VALUES ('hello') \
               RETURNING said || ' ' || pg_is_in_recovery()";
    let said = as_app(world, POOL, sql).await?;
    ensure(said == "hello false", || format!("{POOL} answered {said:?}"))?;
    let by_uri = ["exec", CLIENT, "--", "sh", "-c", "psql -XAtq -d \"$URI\" -c 'SELECT said FROM hello'"];
    let said = world.here(&by_uri).await?;
    ensure(said == "hello", || format!("the Secret's uri answered {said:?}"))?;
    let by_file = "umask 077; echo \"$PASSFILE\" >/tmp/pgpass; unset PGPASSWORD; export PGPASSFILE=/tmp/pgpass; \
                   psql -XAtqw -d \"host=$HOST port=$PORT sslmode=verify-full\" -c 'SELECT said FROM hello'; \
                   rm /tmp/pgpass; echo \"${JDBC%%\\?*}\"";
    let said = world.here(&["exec", CLIENT, "--", "sh", "-c", by_file]).await?;
    let jdbc = format!("hello\njdbc:postgresql://{POOL}.{SPACE}.svc:5432/app");
    ensure(said == jdbc, || format!("the Secret's pgpass, host and port answered {said:?}, not {jdbc:?}"))?;
    same_by_jdbc(world).await?;
    let read = names::read_service(POOL);
    let mut seen = BTreeMap::new();
    until("an answer of every node by the read Service", STARTED, async || {
        let sql = "SELECT current_setting('cluster_name') || '/' || said FROM hello";
        *seen.entry(as_app(world, &read, sql).await?).or_insert(0) += 1;
        ensure(seen.len() == NODES.len(), || format!("answers: {seen:?}"))
    })
    .await?;
    ensure(seen.keys().all(|answer| answer.ends_with("/hello")), || format!("answers: {seen:?}"))?;
    verified(world).await
}

/// The JDBC URI says what the Secret's other keys say.
async fn same_by_jdbc(world: &World) -> Outcome {
    let name = names::app_secret(POOL);
    let Some(parts) = jdbc_parts(&secret(world, &name, "jdbc-uri").await?) else {
        return failed("the Secret's jdbc-uri can't be read");
    };
    for (key, part) in parts {
        let plain = secret(world, &name, key).await?;
        // Not printed: one of them is the password.
        ensure(part == plain, || format!("the Secret's jdbc-uri has another {key}"))?;
    }
    Ok(())
}

/// What stands in a JDBC URI, by the key of the Secret that has it too.
fn jdbc_parts(uri: &str) -> Option<Vec<(&'static str, String)>> {
    let (place, login) = uri.strip_prefix("jdbc:postgresql://")?.split_once('?')?;
    let (server, database) = place.split_once('/')?;
    let (host, port) = server.split_once(':')?;
    let mut pairs: BTreeMap<&str, &str> = login.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let (user, password) = (pairs.remove("user")?, pairs.remove("password")?);
    let parts =
        [("host", host), ("port", port), ("dbname", database), ("username", user), ("password", password)];
    parts.into_iter().map(|(key, text)| Some((key, decoded(text)?))).collect()
}

/// A text without its `%XX` (RFC 3986).
fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(piece.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The server's certificate names the Service, and nothing else that leads there.
async fn verified(world: &World) -> Outcome {
    let address = world.here(&["get", "service", POOL, "-o", "jsonpath={.spec.clusterIP}"]).await?;
    let right = format!("{POOL}.{SPACE}.svc hostaddr={address}");
    as_app(world, &right, "SELECT 1").await?;
    match as_app(world, &format!("elsewhere.example hostaddr={address}"), "SELECT 1").await {
        Ok(_) => failed("the server passes for elsewhere.example"),
        Err(Failure(words)) => ensure(words.contains("does not match host name"), || words.clone()),
    }
}

/// The names, labels, keys and columns that others script by.
pub async fn contract(world: &World) -> Outcome {
    for kind_and_name in [
        "statefulset/demo-0",
        "statefulset/demo-2",
        "pod/demo-2-0",
        "pvc/data-demo-2-0",
        "deployment/demo-proxy",
        "service/demo",
        "service/demo-ro",
        "service/demo-nodes",
        "secret/demo-app",
        "poddisruptionbudget/demo-nodes",
        "pgpoolmembership/demo",
    ] {
        world.here(&["get", kind_and_name, "-o", "name"]).await?;
    }
    roles(world).await?;
    for node in NODES {
        let who = world
            .psql(
                node,
                "postgres",
                "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user",
            )
            .await?;
        ensure(who == "postgres|t", || format!("psql in the pod of node {node} is {who}"))?;
    }
    keys(world).await?;
    columns(world).await
}

/// The role label of every node's pod.
async fn roles(world: &World) -> Outcome {
    let pods: Api<Pod> = world.pods();
    let wish = ["primary", "standby", "standby"];
    until("the role labels", STARTED, || async {
        let list = pods.list(&ListParams::default().labels(&selector("node"))).await?;
        let roles: Vec<String> = list.items.iter().map(role).collect();
        ensure(roles == wish, || format!("{roles:?}"))
    })
    .await
}

async fn keys(world: &World) -> Outcome {
    let api: Api<Secret> = Api::namespaced(world.client.clone(), SPACE);
    let data = api.get(&names::app_secret(POOL)).await?.data.unwrap_or_default();
    let keys: Vec<&str> = data.keys().map(String::as_str).collect();
    let wish = ["dbname", "host", "jdbc-uri", "password", "pgpass", "port", "uri", "username"];
    ensure(keys == wish, || format!("keys of the application's Secret: {keys:?}"))
}

async fn columns(world: &World) -> Outcome {
    let narrow = world.here(&["get", "pgpool", POOL]).await?;
    let wide = world.here(&["get", "pgpool", POOL, "-o", "wide"]).await?;
    let heads =
        |text: &str| text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    ensure(heads(&narrow) == "NAME MODE NODES ATTACHED PRIMARY PHASE AGE", || narrow.clone())?;
    ensure(heads(&wide).ends_with("AGE EPOCH LAG LAST FAILOVER"), || wide.clone())?;
    let row: Vec<&str> = narrow.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure(row.get(..6) == Some(&["demo", "StreamingReplication", "3", "3/3", "demo-0-0", "Ready"]), || {
        narrow.clone()
    })
}
