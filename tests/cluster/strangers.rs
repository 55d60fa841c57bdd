//! Who must not reach a node, and pools that can't be had.
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use pgpool_operator::names;
use serde_json::{Value, json};

use super::harness::{Failure, Outcome, ensure, failed};
use super::install::{CLIENT, IMAGE, client_pod, locked, namespace};
use super::majors::{OTHER, OTHER_IMAGE};
use super::pool::WHOLE;
use super::world::{POOL, SPACE, World, until};

/// A namespace of somebody else.
pub const ELSEWHERE: &str = "cluster-test-else";
/// Whether a connection to `host:port` can be made from a pod.
pub async fn reaches(world: &World, space: &str, pod: &str, host: &str, port: u16) -> bool {
    let script = format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}'");
    world.kubectl(&["-n", space, "exec", pod, "--", "sh", "-c", &script]).await.is_ok()
}

/// A pod elsewhere, and one in the pool's namespace that isn't of the pool, reaches the front and no node.
pub async fn front_only(world: &World) -> Outcome {
    world.apply(&namespace(ELSEWHERE)).await?;
    // A namespace takes pods once its ServiceAccount is there.
    until("the namespace's ServiceAccount", WHOLE, || async {
        world.kubectl(&["-n", ELSEWHERE, "get", "serviceaccount", "default"]).await.map(drop)
    })
    .await?;
    // The label of an operator, which isn't enough outside of its namespace.
    let mut stranger = client_pod("stranger", ELSEWHERE, None);
    stranger["metadata"]["labels"] = json!({names::LABEL_OPERATOR: "true"});
    world.apply(&stranger).await?;
    let wait = ["wait", "--for=condition=Ready", "pod", "stranger", "--timeout=60s"];
    world.kubectl(&[&["-n", ELSEWHERE], &wait[..]].concat()).await?;
    let front = format!("{POOL}.{SPACE}.svc.cluster.local");
    until("the stranger to reach the front", WHOLE, || async {
        ensure(reaches(world, ELSEWHERE, "stranger", &front, names::POSTGRES_PORT).await, || {
            "it doesn't".to_owned()
        })
    })
    .await?;
    try_join_all([(ELSEWHERE, "stranger"), (SPACE, CLIENT)].map(|(space, pod)| no_node(world, space, pod)))
        .await
        .map(drop)
}

/// A pod reaches no port of any node, not even that of the probes, which come from the node's own machine; metrics there are for
/// those alone whom the operator was told of. Each try takes its time, so they go side by side.
async fn no_node(world: &World, space: &str, pod: &str) -> Outcome {
    let ports = [names::POSTGRES_PORT, names::AGENT_PORT, names::HEALTH_PORT];
    let ways = super::pool::NODES.into_iter().flat_map(|node| ports.map(|port| (node, port)));
    let tries = ways.map(async |(node, port)| {
        let host = address(world, node).await?;
        ensure(!reaches(world, space, pod, &host, port).await, || {
            format!("pod {pod} reaches port {port} of node {node}")
        })
    });
    try_join_all(tries).await.map(drop)
}

/// A pod that the NetworkPolicy takes for the front, with the certificate of another pool's node: the nodes refuse it.
pub async fn foreign_certificate(world: &World) -> Outcome {
    let labels = json!({names::LABEL_POOL: POOL, names::LABEL_PART: "proxy"});
    let mut pod = client_pod("disguised", SPACE, None);
    pod["metadata"]["labels"] = labels;
    pod["spec"]["securityContext"]["fsGroup"] = json!(1000);
    let secret = |pool: &str| json!({"secretName": names::node_tls_secret(pool, 0), "defaultMode": 0o440});
    pod["spec"]["volumes"] = json!([
        {"name": POOL, "secret": secret(POOL)},
        {"name": OTHER, "secret": secret(OTHER)},
        {"name": "own", "emptyDir": {}},
    ]);
    pod["spec"]["containers"][0]["securityContext"] = locked();
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": POOL, "mountPath": format!("/{POOL}")},
        {"name": OTHER, "mountPath": format!("/{OTHER}")},
        {"name": "own", "mountPath": "/own"},
    ]);
    world.apply(&pod).await?;
    world.here(&["wait", "--for=condition=Ready", "pod", "disguised", "--timeout=60s"]).await?;
    let host = names::node_host(POOL, 1, &names::domain(POOL, SPACE));
    until("the disguised pod to reach the node", WHOLE, || async {
        ensure(reaches(world, SPACE, "disguised", &host, names::POSTGRES_PORT).await, || "no".to_owned())
    })
    .await?;
    // The same with the pool's own certificate works, so the refusal is about the certificate alone.
    let said = replicate(world, &host, POOL).await?;
    ensure(said.contains(LET_IN), || format!("the pool's own certificate is refused: {said}"))?;
    let said = replicate(world, &host, OTHER).await?;
    ensure(!said.contains(LET_IN), || format!("another pool's certificate is let in: {said}"))?;
    println!("    another pool's certificate: {said}");
    ensure(said.contains("unknown ca") || said.contains("certificate"), || {
        format!("the node said {said:?}")
    })?;
    logins_refused(world, &host).await?;
    agent_refuses(world, &host).await?;
    world.here(&["delete", "pod", "disguised", "--wait=false"]).await.map(drop)
}

/// The agent answers the pool's own certificate alone.
async fn agent_refuses(world: &World, host: &str) -> Outcome {
    let said = report(world, host, Some(POOL)).await?;
    ensure(said.contains("HTTP/1.1 200") && said.contains("poolUid"), || {
        format!("the pool's own certificate is refused by the agent: {said}")
    })?;
    for (what, pool) in [("another pool's certificate", Some(OTHER)), ("no certificate", None)] {
        // On a busy machine a connection may end before a word was said: that is no refusal.
        let said = until("the agent to say something", WHOLE, || async {
            let said = report(world, host, pool).await?;
            ensure(said.contains("HTTP/") || said.contains("alert "), || said.clone())?;
            Ok(said)
        })
        .await?;
        ensure(!said.contains("HTTP/"), || format!("the agent answers {what}: {said}"))?;
        let alert = said.lines().find(|line| line.contains("alert ")).unwrap_or_default().to_owned();
        println!("    the agent, {what}: {alert}");
        ensure(alert.contains("unknown ca") || alert.contains("certificate"), || {
            format!("the agent said {said:?} to {what}")
        })?;
    }
    Ok(())
}

/// What an agent says when it is asked for its report with the certificate of this pool's node 0, or with none.
async fn report(world: &World, host: &str, pool: Option<&str>) -> Outcome<String> {
    let own = pool.map(|pool| format!("-cert /{pool}/tls.crt -key /{pool}/tls.key")).unwrap_or_default();
    let port = names::AGENT_PORT;
    // The end of input would end the connection before an answer; the agent ends it after one.
    let script = format!(
        "printf 'GET /v1/report HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n' | \
         timeout 10 openssl s_client -connect {host}:{port} -CAfile /{POOL}/ca.crt -verify_return_error \
         -quiet -ign_eof {own} 2>&1; true"
    );
    world.here(&["exec", "disguised", "--", "sh", "-c", &script]).await
}

/// A node of another pool, in the same namespace, reaches no node of this one, whatever certificate it has.
pub async fn other_pools_node(world: &World) -> Outcome {
    let other = names::node_pod(OTHER, 0);
    // By what it may reach it is seen that it could: the front of this pool.
    let front = world.here(&["get", "service", POOL, "-o", "jsonpath={.spec.clusterIP}"]).await?;
    ensure(reaches(world, SPACE, &other, &front, names::POSTGRES_PORT).await, || {
        "the other pool's node doesn't even reach the front".to_owned()
    })?;
    no_node(world, SPACE, &other).await
}

/// The address of a node's pod: a name that doesn't resolve would pass for a port that is closed.
async fn address(world: &World, node: u8) -> Outcome<String> {
    let pod = world.pods().get(&names::node_pod(POOL, node)).await?;
    match pod.status.and_then(|status| status.pod_ip) {
        Some(host) => Ok(host),
        None => failed(format!("the pod of node {node} has no address")),
    }
}

/// What the disguised pod prints when a node lets it in.
const LET_IN: &str = "LET IN";

/// What a node answers to a replication login with the certificate of this pool's node 0.
async fn replicate(world: &World, host: &str, pool: &str) -> Outcome<String> {
    let target = format!(
        "host={host} user={} dbname=postgres replication=true sslmode=require sslcert=/own/tls.crt sslkey=/own/tls.key",
        names::REPLICATION_ROLE
    );
    let script = format!(
        "rm -f /own/* && cp /{pool}/tls.crt /{pool}/tls.key /own/ && chmod 600 /own/tls.key && \
         if psql '{target}' -c 'IDENTIFY_SYSTEM' 2>&1; then echo {LET_IN}; fi"
    );
    world.here(&["exec", "disguised", "--", "sh", "-c", &script]).await
}

/// What PostgreSQL itself says to those who come by the network, past the front.
async fn logins_refused(world: &World, host: &str) -> Outcome {
    let own = "sslcert=/own/tls.crt sslkey=/own/tls.key";
    for (user, certificate, words) in [
        ("app", "sslcertmode=disable", "valid client certificate"),
        ("postgres", own, "pg_hba.conf rejects"),
        (names::REPLICATION_ROLE, own, "pg_hba.conf rejects"),
    ] {
        let target = format!("host={host} user={user} dbname=app sslmode=require {certificate}");
        let script = format!(
            "rm -f /own/* && cp /{POOL}/tls.crt /{POOL}/tls.key /own/ && chmod 600 /own/tls.key && \
             psql '{target}' -c 'SELECT 1' 2>&1; true"
        );
        let said = world.here(&["exec", "disguised", "--", "sh", "-c", &script]).await?;
        println!("    {user}, {certificate}: {said}");
        ensure(said.contains(words), || format!("{user} with {certificate}: {said}"))?;
    }
    Ok(())
}

/// A pool that can't work, and what is told of that.
struct Hopeless {
    name: &'static str,
    /// What its spec has beside the rest.
    spec: Value,
    /// Words of its conditions, or of a node's reason.
    words: &'static [&'static str],
    /// Reason of the warning and of the condition Degraded.
    reason: &'static str,
    /// Words of the warning.
    warned: &'static [&'static str],
}

/// What the events with this reason say of a pool itself.
async fn events_of(world: &World, pool: &str, kind: &str, reason: &str) -> Outcome<String> {
    let of = format!("involvedObject.kind=PgPool,involvedObject.name={pool},type={kind},reason={reason}");
    world.here(&["get", "events", "--field-selector", &of, "-o", "jsonpath={.items[*].message}"]).await
}

/// Applies a pool that can't work, waits for words that say so, and removes it.
async fn hopeless(world: &World, pool: Hopeless) -> Outcome {
    let Hopeless { name, spec, words, reason, warned } = pool;
    world
        .apply(&json!({
            "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
            "metadata": {"name": name, "namespace": SPACE}, "spec": spec,
        }))
        .await?;
    let path = "jsonpath={.status.conditions[*].message} {.status.nodes[*].reason}; \
                {range .status.conditions[?(@.type=='Degraded')]}{.status} {.reason}{end}";
    let told = until(&format!("pool {name} to say what is wrong"), WHOLE, || async {
        let told = world.here(&["get", "pgpool", name, "-o", path]).await?;
        let why = told.ends_with(&format!("; True {reason}"));
        ensure(why && words.iter().all(|word| told.contains(word)), || told.clone())?;
        Ok(told)
    })
    .await?;
    println!("    {name}: {told}");
    until(&format!("a warning of pool {name}"), WHOLE, || async {
        let told = events_of(world, name, "Warning", reason).await?;
        ensure(warned.iter().all(|word| told.contains(word)), || told.clone())
    })
    .await?;
    world.here(&["delete", "pgpool", name, "--timeout=180s"]).await?;
    let told = events_of(world, name, "Normal", "Deleting").await?;
    ensure(told.contains("its volumes too"), || format!("told of the end of pool {name}: {told:?}"))
}

/// A Service that isn't the pool's has the name of one: it stays as it is, also when the pool goes.
async fn taken(world: &World, spec: Value) -> Outcome {
    const NAME: &str = "taken";
    let service = names::read_service(NAME);
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": service, "namespace": SPACE},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "somebody-elses"}},
        }))
        .await?;
    let seen = async || {
        let path = "jsonpath={.metadata.uid} {.metadata.ownerReferences} {.spec.selector}";
        world.here(&["get", "service", &service, "-o", path]).await
    };
    let before = seen().await?;
    let words: &[&str] = &["Service taken-ro is there already and isn't the pool's"];
    hopeless(world, Hopeless { name: NAME, spec, words, reason: "NameTaken", warned: words }).await?;
    let after = seen().await?;
    ensure(after == before, || format!("somebody else's Service was {before}, and is {after}"))?;
    world.here(&["delete", "service", &service]).await.map(drop)
}

/// What can't work says why where a person looks.
pub async fn hopeless_pools(world: &World) -> Outcome {
    let storage = json!({"size": "1Gi", "whenDeleted": "Delete"});
    let spec = |extra: &Value| {
        let mut spec = json!({"nodes": 1, "image": IMAGE, "storage": storage.clone()});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };
    world
        .feed(
            &["apply", "-f", "-"],
            &json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "half", "namespace": SPACE},
                "stringData": {"username": "jo"},
            })
            .to_string(),
        )
        .await?;
    let all = pools().map(|pool| hopeless(world, Hopeless { spec: spec(&pool.spec), ..pool }));
    // Two at once: the operator has the pool under load to look after, too.
    Box::pin(stream::iter(all).map(Ok::<_, Failure>).try_for_each_concurrent(2, |told| told)).await?;
    taken(world, spec(&json!({}))).await
}

/// The pools, with what each has beside the rest.
fn pools() -> [Hopeless; 6] {
    let users = json!([{"name": "jo", "secret": "half"}, {"name": "al", "secret": "nowhere"}]);
    let storage = json!({"size": "1Gi", "storageClassName": "absent", "whenDeleted": "Delete"});
    let sql = |name: &str, key: &str| json!({"bootstrap": {"sql": {"secret": {"name": name, "key": key}}}});
    [
        Hopeless {
            name: "no-image",
            spec: json!({"image": "localhost/absent:1"}),
            words: &["image"],
            reason: "PodCannotStart",
            warned: &["no-image-0-0"],
        },
        Hopeless {
            name: "bad-secrets",
            spec: json!({"users": users}),
            words: &["half", "password", "nowhere"],
            reason: "SecretUnusable",
            warned: &["half", "password", "nowhere"],
        },
        Hopeless {
            name: "no-class",
            spec: json!({"storage": storage}),
            words: &["absent"],
            reason: "PodCannotStart",
            warned: &["no-class-0-0"],
        },
        Hopeless {
            name: "no-sql",
            spec: sql("nowhere", "x"),
            words: &["nowhere"],
            reason: "BootstrapSqlUnusable",
            warned: &["nowhere"],
        },
        Hopeless {
            name: "bad-sql",
            spec: sql("half", "username"),
            words: &["bootstrap SQL", "syntax error"],
            reason: "RolesNotMade",
            warned: &["bootstrap SQL", "syntax error"],
        },
        Hopeless {
            name: "no-provider",
            spec: json!({"image": OTHER_IMAGE, "bootstrap": {"provider": "builtin"}}),
            words: &["builtin needs PostgreSQL 17", "the image has 15"],
            reason: "NeedsPerson",
            warned: &["builtin needs PostgreSQL 17"],
        },
    ]
}
