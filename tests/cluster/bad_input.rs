//! What people write by mistake or by malice beside a pool that runs, or for one that is to run: it goes on with what it had, and
//! says what is wrong where a person looks.
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pgpool_operator::api::v1alpha1::{Health, PgPoolStatus};
use pgpool_operator::names;
use serde_json::{Value, json};

use super::harness::{Outcome, ensure};
use super::install::{CLIENT, IMAGE, as_app, namespace};
use super::pool::{NODES, WHOLE};
use super::world::{POOL, SPACE, World, until};
use super::{changes, load};

/// Namespace with a quota.
pub const NARROW: &str = "cluster-test-narrow";
/// A user whose Secret a person writes.
const USER: &str = "odd";
/// A password longer than PostgreSQL's own programs read, as long as a Secret may be.
const LONG: usize = 1_000_000;
/// Each has something that a shell, a file of passwords, a connection string or SASLprep (RFC 4013) could trip over.
const PASSWORDS: [&str; 5] = [
    r#"it's "quoted" \ $HOME `id` %s %00 :*"#,
    "a tab\tand a bell \u{7}",
    "  spaces around  ",
    "Пароль 猫 🐘 e\u{301} \u{ad}soft ⅷ",
    "x",
];

async fn patch(world: &World, spec: &Value) -> Outcome {
    let patch = json!({ "spec": spec }).to_string();
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch]).await.map(drop)
}

/// Parameters that PostgreSQL refuses: those before stay, and each node says why. Of a setting that a standby takes over from its primary
/// while that has more, the primary says it.
pub async fn refused_parameters(world: &World) -> Outcome {
    let (shown, before) = ("SHOW work_mem", "4MB");
    // An earlier step may have left one of its own, which would go with what is refused in its place.
    patch(world, &json!({"postgres": {"parameters": {"work_mem": null}}})).await?;
    until("every node to have PostgreSQL's own value", WHOLE, || async {
        for node in NODES {
            let now = world.psql(node, "app", shown).await?;
            ensure(now == before, || format!("node {node} has {now}"))?;
        }
        Ok(())
    })
    .await?;
    let outcome: Outcome = async {
        for (name, value) in
            [("work_mem", "1MB'\nfsync = off\n#"), ("no_such_parameter", "1"), ("max_connections", "-5")]
        {
            patch(world, &json!({"postgres": {"parameters": {name: value}}})).await?;
            let told = until("each node to say what is wrong", WHOLE, || async {
                let status = world.status().await?;
                let degraded = status.conditions.iter().find(|condition| condition.type_ == "Degraded");
                let told = degraded.map(|condition| condition.message.clone()).unwrap_or_default();
                let primary = world.record().await?.primary;
                let says = |node: &u8| told.contains(&format!("node {node}: PostgreSQL refuses"));
                let each = if name == "max_connections" { says(&primary) } else { NODES.iter().all(says) };
                ensure(each && told.contains(name), || told.clone())?;
                Ok(told)
            })
            .await?;
            println!("    {told}");
            for node in NODES {
                let now = world.psql(node, "app", shown).await?;
                ensure(now == before, || format!("node {node} has {now}, not {before}"))?;
            }
            patch(world, &json!({"postgres": {"parameters": {name: null}}})).await?;
        }
        Ok(())
    }
    .await;
    patch(world, &json!({"postgres": {"parameters": null}})).await?;
    outcome?;
    until("nothing to be refused any more", WHOLE, || async {
        let conditions = json!(world.status().await?.conditions).to_string();
        ensure(!conditions.contains("refuses"), || conditions.clone())
    })
    .await?;
    refusals_are_told(world).await?;
    load::unharmed(world).await
}

/// An event of each node tells what PostgreSQL refused first: what follows without a pause needn't be told once more.
async fn refusals_are_told(world: &World) -> Outcome {
    until("events of what is refused", WHOLE, || async {
        let events = world.events("ParametersRefused").await?;
        for node in NODES {
            let begins = format!("node {node}: PostgreSQL refuses spec.postgres.parameters");
            let told = events.iter().any(|note| note.starts_with(&begins) && note.contains("work_mem"));
            ensure(told, || format!("none of node {node}: {events:?}"))?;
        }
        Ok(())
    })
    .await
}

/// What only Kubernetes itself finds wrong in the pods that a spec asks for: the pool says it in its words, and its pods stay.
pub async fn refused_placement(world: &World) -> Outcome {
    let selector = format!("pgpool-operator.dev/pool={POOL},pgpool-operator.dev/part=node");
    let pods = async || {
        world.here(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[*].metadata.uid}"]).await
    };
    let before = pods().await?;
    let wrong = json!([{"key": "two words", "operator": "Exists"}]);
    patch(world, &json!({"tolerations": wrong})).await?;
    let told = until("the pool to say what is wrong", WHOLE, || async {
        let conditions = json!(world.status().await?.conditions).to_string();
        ensure(conditions.contains("ApplyFailed") && conditions.contains("tolerations[0].key"), || {
            conditions.clone()
        })
    })
    .await;
    patch(world, &json!({"tolerations": null})).await?;
    told?;
    until("nothing to be refused any more", WHOLE, || async {
        let conditions = json!(world.status().await?.conditions).to_string();
        ensure(!conditions.contains("ApplyFailed"), || conditions.clone())
    })
    .await?;
    let after = pods().await?;
    ensure(after == before, || format!("the pods were {before}, and are {after}"))?;
    load::unharmed(world).await
}

/// Fields in which no rule of the API server sees that more is asked for than may be used, and the least that is said of each.
const REFUSED: [(&str, &str); 2] = [
    (
        "/spec/resources",
        "spec.resources.requests.memory: 2Gi is more than spec.resources.limits.memory, 1Gi: no pod may ask",
    ),
    (
        "/spec/proxy/resources",
        "spec.proxy.resources.requests.cpu: 2 is more than spec.proxy.resources.limits.cpu, 500m: no pod may ask",
    ),
];

/// Puts exactly these into the fields of [`REFUSED`]; nothing where there was none.
async fn put(world: &World, values: [Option<Value>; 2]) -> Outcome {
    let change = |((path, _), value): ((&str, &str), Option<Value>)| match value {
        Some(value) => json!({"op": "add", "path": path, "value": value}),
        None => json!({"op": "remove", "path": path}),
    };
    let changes: Vec<Value> = REFUSED.into_iter().zip(values).map(change).collect();
    let changes = json!(changes).to_string();
    world.here(&["patch", "pgpool", POOL, "--type=json", "-p", &changes]).await.map(drop)
}

/// What the operator makes of a spec: its objects, which copy of each it is, and how often what is wanted of it was changed.
async fn made(world: &World) -> Outcome<String> {
    let (kinds, label) = (
        "statefulsets,deployments,services,secrets,networkpolicies,poddisruptionbudgets",
        format!("{}={POOL}", names::LABEL_POOL),
    );
    let path =
        "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.generation}, {end}";
    world.here(&["get", kinds, "-l", &label, "-o", path]).await
}

/// A spec that the API server takes and the operator refuses: the pool says which fields are wrong and why, and goes on with what it
/// had until they are right.
pub async fn refused_spec(world: &World) -> Outcome {
    world.whole(WHOLE).await?;
    let (before, pods) = (made(world).await?, changes::uids(world).await?);
    let pool: Value = serde_json::from_str(&world.here(&["get", "pgpool", POOL, "-o", "json"]).await?)?;
    let wrong = [
        json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}),
        json!({"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}),
    ];
    put(world, wrong.map(Some)).await?;
    let refused = is_refused(world).await;
    put(world, REFUSED.map(|(path, _)| pool.pointer(path).cloned())).await?;
    refused?;
    world.whole(WHOLE).await?;
    let after = made(world).await?;
    ensure(after == before, || format!("{before} became {after}"))?;
    let after = changes::uids(world).await?;
    ensure(after == pods, || format!("the pods were {pods:?}, and are {after:?}"))?;
    load::unharmed(world).await
}

/// The pool says so where a person looks, and serves.
async fn is_refused(world: &World) -> Outcome {
    let before = made(world).await?;
    let says = |status: &PgPoolStatus| {
        let degraded = status.conditions.iter().find(|condition| condition.type_ == "Degraded");
        degraded.is_some_and(|degraded| {
            let told = REFUSED.iter().all(|(_, words)| degraded.message.contains(words));
            told && degraded.reason == "InvalidSpec" && degraded.status == "True"
        })
    };
    let refused = |status: &PgPoolStatus| status.phase == Some(Health::Invalid) && says(status);
    let status = world.when("the spec to be refused", WHOLE, refused).await?;
    ensure(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False"), || {
        format!("{:?}", status.conditions)
    })?;
    until("the events", WHOLE, || async {
        let events = world.events("InvalidSpec").await?;
        let told = REFUSED.iter().all(|(_, words)| events.iter().any(|note| note.contains(words)));
        ensure(told, || format!("{events:?}"))
    })
    .await?;
    let write = "DROP TABLE IF EXISTS refused; CREATE TABLE refused AS SELECT 'written' AS said";
    as_app(world, POOL, write).await?;
    let said = as_app(world, &names::read_service(POOL), "SELECT said FROM refused").await?;
    ensure(said == "written", || said.clone())?;
    as_app(world, POOL, "DROP TABLE refused").await?;
    load::goes_on(world).await?;
    let after = made(world).await?;
    ensure(after == before, || format!("changed by a spec that is refused: {before} became {after}"))
}

async fn write_password(world: &World, password: &str) -> Outcome {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {"name": USER, "namespace": SPACE},
        "data": {"username": encode(USER), "password": encode(password)},
    });
    // Not applied: that would write it down twice, and a long one is too long for that.
    world.here(&["delete", "secret", USER, "--ignore-not-found"]).await?;
    world.feed(&["create", "-f", "-"], &secret.to_string()).await.map(drop)
}

async fn logs_in(world: &World, password: &str) -> Outcome {
    let target = format!("host={POOL} user={USER} dbname=app sslmode=verify-full connect_timeout=5");
    let password = format!("PGPASSWORD={password}");
    let args = ["exec", CLIENT, "--", "env", &password, "psql", "-XAtq", "-d", &target, "-c", "SELECT 1"];
    let said = world.here(&args).await?;
    ensure(said == "1", || said.clone())
}

/// What was made of the user and of its next password is told of.
async fn roles_are_told_of(world: &World) -> Outcome {
    let notes = ["made", "changed"].map(|what| format!("role {USER} {what}"));
    until("the events", WHOLE, || async {
        let events = world.events("RolesChanged").await?;
        ensure(notes.iter().all(|note| events.contains(note)), || format!("{events:?}"))
    })
    .await
}

/// Passwords with whatever a person can type in a line work; one of two lines and one that is too long are refused, and the one before
/// goes on.
pub async fn odd_passwords(world: &World) -> Outcome {
    patch(world, &json!({"users": [{"name": USER, "secret": USER}]})).await?;
    let outcome: Outcome = async {
        for password in PASSWORDS {
            write_password(world, password).await?;
            until(&format!("a login by {password:?}"), WHOLE, || logs_in(world, password)).await?;
        }
        roles_are_told_of(world).await?;
        write_password(world, &"x".repeat(LONG)).await?;
        let told = until("the condition", WHOLE, || async {
            let conditions = json!(world.status().await?.conditions).to_string();
            ensure(conditions.contains("SecretUnusable") && conditions.contains("1024"), || {
                conditions.clone()
            })?;
            Ok(conditions)
        })
        .await?;
        ensure(told.len() < 10_000 && !told.contains("xxxx"), || "the password is told".to_owned())?;
        let last = PASSWORDS.last().copied().unwrap_or_default();
        logs_in(world, last).await
    }
    .await;
    patch(world, &json!({"users": []})).await?;
    world.here(&["delete", "secret", USER, "--ignore-not-found"]).await?;
    outcome?;
    load::unharmed(world).await
}

/// A locale that the image lacks: the pool says which field that is and what to do, and its agent goes on.
pub async fn absent_locale(world: &World) -> Outcome {
    const NAME: &str = "no-locale";
    let pool = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
        "metadata": {"name": NAME, "namespace": SPACE},
        "spec": {
            "nodes": 1, "image": IMAGE, "storage": {"size": "1Gi", "whenDeleted": "Delete"},
            "bootstrap": {"locale": "tlh_QO.UTF-8"},
        },
    });
    world.apply(&pool).await?;
    let words = "spec.bootstrap.locale: the image has no locale tlh_QO.UTF-8: delete the pool";
    let path =
        "jsonpath={range .status.conditions[?(@.type=='Degraded')]}{.status} {.reason}: {.message}{end}";
    let told = until("the pool to say what is wrong", WHOLE, || async {
        let told = world.here(&["get", "pgpool", NAME, "-o", path]).await?;
        ensure(told.starts_with("True NeedsPerson") && told.contains(words), || told.clone())?;
        Ok(told)
    })
    .await?;
    println!("    {told}");
    until("the event", WHOLE, || async {
        let events = world.events("NeedsPerson").await?;
        ensure(events.iter().any(|note| note.contains(words)), || format!("{events:?}"))
    })
    .await?;
    let pod = names::node_pod(NAME, 0);
    let path = "jsonpath={.status.containerStatuses[*].restartCount}";
    let restarts = world.here(&["get", "pod", &pod, "-o", path]).await?;
    ensure(restarts == "0", || format!("its containers were started again: {restarts}"))?;
    world.here(&["delete", "pgpool", NAME, "--timeout=100s"]).await.map(drop)
}

/// A quota that allows no volume: the pool says so, and goes on once there is room.
pub async fn quotas(world: &World) -> Outcome {
    world.apply(&namespace(NARROW)).await?;
    let here = async |args: &[&str]| world.kubectl(&[&["-n", NARROW], args].concat()).await;
    let metadata = |name: &str| json!({"name": name, "namespace": NARROW});
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata("none"),
        "spec": {"hard": {"persistentvolumeclaims": "0"}},
    });
    world.apply(&quota).await?;
    until("the quota to count", WHOLE, || async {
        let used = here(&["get", "resourcequota", "none", "-o", "jsonpath={.status.used}"]).await?;
        ensure(!used.is_empty(), || "not yet".to_owned())
    })
    .await?;
    let pool = json!({
        "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool", "metadata": metadata("narrow"),
        "spec": {"nodes": 1, "image": IMAGE, "storage": {"size": "1Gi", "whenDeleted": "Delete"},
                 "bootstrap": {"provider": "builtin"}},
    });
    world.apply(&pool).await?;
    let told = until("the pool to say what is wrong", WHOLE, || async {
        let path = "jsonpath={.status.conditions[*].message} {.status.nodes[*].reason}";
        let told = here(&["get", "pgpool", "narrow", "-o", path]).await?;
        ensure(told.contains("exceeded quota"), || told.clone())?;
        Ok(told)
    })
    .await?;
    println!("    {told}");
    here(&["delete", "resourcequota", "none"]).await?;
    here(&["wait", "--for=condition=Ready", "pgpool", "narrow", "--timeout=100s"]).await?;
    let ask = "SELECT datlocprovider FROM pg_database WHERE datname = 'app'";
    let asked = ["exec", "narrow-0-0", "-c", "postgres", "--", "psql", "-XAtc", ask];
    let provider = here(&asked).await?;
    ensure(provider == "b", || format!("PostgreSQL's own locales were asked for: {provider}"))?;
    here(&["delete", "pgpool", "narrow", "--timeout=100s"]).await?;
    world.kubectl(&["delete", "namespace", NARROW, "--timeout=100s"]).await.map(drop)
}
