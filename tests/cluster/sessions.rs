//! What changes under open sessions: passwords and certificates.
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pgpool_operator::api::v1alpha1::PgPoolStatus;
use pgpool_operator::names;
use serde_json::{Value, json};

use super::harness::{Failure, Outcome, ensure};
use super::install::{CLIENT, as_app};
use super::pool::{NODES, WHOLE, selector};
use super::world::{POOL, SPACE, World, call, until};

/// What the open session of the application is asked before and after a change.
const WHO: &str = "SELECT pg_backend_pid();";
/// The Secret of a certificate of the user's own.
const OWN: &str = "own-certificate";
/// Both Services.
const SERVICES: [&str; 2] = [POOL, "demo-ro"];

/// Runs a shell in the application's pod.
pub async fn client(world: &World, script: &str) -> Outcome<String> {
    world.inside(CLIENT, &["bash", "-c", script], None).await
}

/// Opens a session of the application that asks again once [`still_open`] tells it to.
pub async fn open(world: &World) -> Outcome {
    let script = format!(
        "rm -f /tmp/go /tmp/said; mkfifo /tmp/go; \
         {{ (echo '{WHO}'; cat /tmp/go; echo '{WHO}') | psql -XAtq 'host={POOL} sslmode=verify-full'; }} \
         >/tmp/said 2>&1 </dev/null &"
    );
    client(world, &script).await?;
    until("the application's session", WHOLE, || async {
        let said = client(world, "cat /tmp/said").await?;
        ensure(said.parse::<u32>().is_ok(), || said.clone())
    })
    .await
}

/// The session that was opened before goes on.
pub async fn still_open(world: &World) -> Outcome {
    client(world, "timeout 5 bash -c 'true > /tmp/go'").await?;
    until("the old session to answer", WHOLE, || async {
        let said = client(world, "cat /tmp/said").await?;
        let lines: Vec<&str> = said.lines().collect();
        ensure(lines.len() == 2 && lines[0] == lines[1], || format!("it said {said:?}"))
    })
    .await
}

/// Tables that are locked by sessions which have begun a transaction: one waits for its client, the other one has an answer
/// to say in a moment.
const LOCKED: [(&str, &str); 2] = [("idle_lock", "SELECT"), ("busy_lock", "SELECT pg_sleep(6)")];

/// Opens sessions of the application, by the front at this address, that hold locks and do nothing more of their own.
pub async fn hold_locks(world: &World, front: &str) -> Outcome {
    for (table, then) in LOCKED {
        let locks = format!("CREATE TABLE IF NOT EXISTS {table} (); BEGIN; LOCK TABLE {table}; SELECT 1");
        let script = format!(
            "rm -f /tmp/{table}; {{ (echo '{locks}; {then};'; sleep 300) \
             | psql -XAtq 'host={POOL} hostaddr={front} sslmode=verify-full'; }} >/tmp/{table} 2>&1 </dev/null &"
        );
        client(world, &script).await?;
        until("the application's transaction", WHOLE, || async {
            let said = client(world, &format!("cat /tmp/{table}")).await?;
            ensure(said.ends_with('1'), || said.clone())
        })
        .await?;
    }
    Ok(())
}

/// Nobody holds these locks any more; the primary itself is asked, on its own machine.
pub async fn locks_are_free(world: &World) -> Outcome {
    for (table, _) in LOCKED {
        until(&format!("{table} of a client that was cut off"), WHOLE, || async {
            let primary = world.record().await?.primary;
            let lock = format!("SET lock_timeout = '1s'; BEGIN; LOCK TABLE {table}; COMMIT");
            world.psql(primary, "app", &lock).await.map(drop)
        })
        .await?;
    }
    Ok(())
}

/// A login of the application with this password, which goes by standard input.
async fn login(world: &World, host: &str, password: &str) -> Outcome {
    let script = format!(
        "read -r PGPASSWORD; export PGPASSWORD; \
         psql -XAtq -d 'host={host} sslmode=verify-full connect_timeout=5' -c 'SELECT 1'"
    );
    let words = ["exec", "-i", CLIENT, "--", "bash", "-c", &script];
    world.feed(&words, &format!("{password}\n")).await.map(drop)
}

pub async fn secret(world: &World, name: &str, key: &str) -> Outcome<String> {
    let api: Api<Secret> = Api::namespaced(world.client.clone(), SPACE);
    let value = api.get(name).await?.data.unwrap_or_default().remove(key);
    let value = value.ok_or_else(|| Failure(format!("Secret {name} has no key {key}")))?;
    Ok(String::from_utf8(value.0)?)
}

/// Puts another password into the Secret; new logins take it, old ones are refused.
async fn change(world: &World, old: &str, new: &str) -> Outcome {
    let name = names::app_secret(POOL);
    let patch = json!({"stringData": {"password": new}}).to_string();
    world.feed(&["patch", "secret", &name, "--type=merge", "--patch-file=/dev/stdin"], &patch).await?;
    for host in SERVICES {
        until("the new password", WHOLE, || login(world, host, new)).await?;
        let refused = until("an answer to the old password", WHOLE, || async {
            match login(world, host, old).await {
                Ok(()) => Ok(false),
                Err(Failure(words)) if words.contains("password authentication failed") => Ok(true),
                // A session that was not begun says nothing of its password.
                Err(other) => Err(other),
            }
        })
        .await?;
        ensure(refused, || format!("{host} takes the old password"))?;
    }
    until("the Secret's other keys", WHOLE, || async {
        for key in ["uri", "jdbc-uri", "pgpass"] {
            let text = secret(world, &name, key).await?;
            ensure(text.contains(new) && !text.contains(old), || format!("key {key} is still the old one"))?;
        }
        Ok(())
    })
    .await
}

/// A password that is changed in the user's Secret counts for new sessions, and harms no open one.
pub async fn password(world: &World) -> Outcome {
    let first = secret(world, &names::app_secret(POOL), "password").await?;
    open(world).await?;
    change(world, &first, "another-Pass_word-1").await?;
    still_open(world).await?;
    // As it was, for what comes after.
    change(world, "another-Pass_word-1", &first).await
}

/// Roles, how each is made, and what a login with its name as the password is told.
const ROLES: [(&str, &str, &str); 4] = [
    ("fine", "PASSWORD 'fine' VALID UNTIL 'infinity'", "1"),
    ("late", "PASSWORD 'late' VALID UNTIL 'yesterday'", "password authentication failed"),
    ("bare", "", "password authentication failed"),
    ("old", "PASSWORD 'old'", "password_encryption = 'scram-sha-256'"),
];
/// Logins that fail, of each kind, whose times are told.
const REFUSED: u32 = 10;

/// Of a role whose password has expired, that has none or an old one, the front gives nobody a session; and a name that there is none
/// of is told from others neither by words nor, as far as that can be seen here, by the time.
pub async fn roles(world: &World) -> Outcome {
    let primary = world.record().await?.primary;
    for (role, how, _) in ROLES {
        let kind = if role == "old" { "md5" } else { "scram-sha-256" };
        let sql = format!("SET password_encryption = '{kind}'; CREATE ROLE {role} LOGIN {how}");
        world.psql(primary, "postgres", &sql).await?;
    }
    let tried = async {
        for (role, _, wanted) in ROLES {
            let script = format!("PGPASSWORD={role} psql -XAtq -d 'host={POOL} user={role} dbname=app sslmode=verify-full' -c 'SELECT 1' 2>&1; true");
            let said = client(world, &script).await?;
            ensure(said.contains(wanted), || format!("{role}: {said}"))?;
        }
        let script = format!(
            "for n in $(seq {REFUSED}); do for role in fine late nobody; do from=$(date +%s%N); \
               PGPASSWORD=wrong psql -XAtq -d \"host={POOL} user=$role dbname=app sslmode=verify-full\" -c 'SELECT 1' 2>&1 | sed \"s/$role/ROLE/\" >>/tmp/refused; \
               echo $role $((($(date +%s%N) - from) / 1000)) >>/tmp/times; done; done; \
             for role in fine late nobody; do grep $role /tmp/times | cut -d' ' -f2 | sort -n | sed -n \"{middle}s/^/$role /p\"; done; \
             sed 's/([0-9.]*)//' /tmp/refused | sort -u | wc -l; rm /tmp/times /tmp/refused",
            middle = REFUSED / 2
        );
        client(world, &script).await
    }
    .await;
    for (role, ..) in ROLES {
        world.psql(primary, "postgres", &format!("DROP ROLE {role}")).await?;
    }
    let said = tried?;
    println!("    refused, median microseconds: {}", said.lines().take(3).collect::<Vec<_>>().join(", "));
    ensure(said.lines().last() == Some("1"), || format!("they are told in other words: {said}"))
}

/// Who runs in the pods of nodes and fronts: another one after a restart.
pub async fn containers(world: &World) -> Outcome<Vec<String>> {
    let label = format!("{}={POOL}", names::LABEL_POOL);
    let pods = world.pods().list(&ListParams::default().labels(&label)).await?;
    let ids = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
        let ids = statuses.into_iter().flatten().filter_map(|c| c.container_id.clone());
        ids.collect::<Vec<_>>().join(",")
    };
    Ok(pods.items.iter().map(|pod| format!("{}={}", pod.name_any(), ids(pod))).collect())
}

/// The serial number of the certificate that a client is shown. An address whose pod has just gone says nothing.
async fn shown(world: &World, host: &str) -> Outcome<String> {
    let script = format!(
        "timeout 5 openssl s_client -starttls postgres -connect {host}:5432 </dev/null 2>/dev/null | \
         openssl x509 -noout -serial"
    );
    client(world, &script).await
}

/// A certificate of somebody else's authority for the Services, with its key; and its serial number.
async fn foreign(world: &World, name: &str) -> Outcome<(String, [String; 2])> {
    let path = |end: &str| world.scratch.path().join(format!("{name}.{end}")).display().to_string();
    let files = [path("crt"), path("key")];
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=db.example \
                 -addext subjectAltName=DNS:demo,DNS:demo-ro -out";
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.extend([files[0].as_str(), "-keyout", &files[1]]);
    call("openssl", &words, None).await?;
    let serial = call("openssl", &["x509", "-noout", "-serial", "-in", &files[0]], None).await?;
    Ok((serial, files))
}

/// Puts certificate and key into the Secret.
async fn bring(world: &World, files: &[String; 2]) -> Outcome {
    let [cert, key] = files.each_ref().map(tokio::fs::read_to_string);
    let data = json!({"tls.crt": cert.await?, "tls.key": key.await?});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": OWN, "namespace": SPACE}, "stringData": data,
    });
    world.apply(&secret).await.map(drop)
}

/// Every front that there is shows this certificate: they learn of a new one at different times.
pub async fn is_shown(world: &World, serial: &str) -> Outcome {
    let fronts = ListParams::default().labels(&selector("proxy"));
    until("the certificate to be shown", WHOLE, || async {
        let fronts = world.pods().list(&fronts).await?.items;
        let addresses = fronts.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.as_deref());
        let addresses: Vec<&str> = addresses.collect();
        ensure(!addresses.is_empty(), || "no front has an address".to_owned())?;
        for address in addresses {
            let now = shown(world, address).await?;
            ensure(now == serial, || format!("{now} is shown by {address}, not {serial}"))?;
        }
        Ok(())
    })
    .await
}

/// The serial number of the certificate that the pool's authority has issued for the front.
pub async fn issued(world: &World) -> Outcome<String> {
    let leaf = secret(world, &names::part_tls_secret(POOL, "proxy"), "tls.crt").await?;
    call("openssl", &["x509", "-noout", "-serial"], Some(&leaf)).await
}

/// Whether the pool says that the certificate can't be used.
fn complains(status: &PgPoolStatus) -> bool {
    let of =
        |c: &Condition| c.type_ == "Degraded" && c.reason == "ServerSecretUnusable" && c.status == "True";
    status.conditions.iter().any(of)
}

/// Clients are shown a certificate of the user's own, and the next one in its place; one that can't be served is told
/// of, and changes nothing.
pub async fn own_certificate(world: &World) -> Outcome {
    let patch = |value: Option<&str>| json!({"spec": {"tls": {"serverSecret": value}}}).to_string();
    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch(Some(OWN))]).await?;
    world.when("a word on the Secret that isn't there", WHOLE, complains).await?;
    is_shown(world, &issued(world).await?).await?;

    let (serial, files) = foreign(world, "first").await?;
    bring(world, &files).await?;
    is_shown(world, &serial).await?;
    world.when("the pool to be content", WHOLE, |status| !complains(status)).await?;
    let trusted = tokio::fs::read_to_string(&files[0]).await?;
    world.feed(&["exec", "-i", CLIENT, "--", "sh", "-c", "cat >/tmp/own.crt"], &trusted).await?;
    for host in SERVICES {
        let target =
            format!("host={host} sslmode=verify-full sslrootcert=/tmp/own.crt channel_binding=require");
        until("a login that is bound to the certificate", WHOLE, || async {
            client(world, &format!("psql -XAtq -d '{target}' -c 'SELECT 1'")).await.map(drop)
        })
        .await?;
    }

    let (serial, files) = foreign(world, "second").await?;
    bring(world, &files).await?;
    told_of_new(world, &[OWN]).await?;
    is_shown(world, &serial).await?;
    let other = foreign(world, "third").await?.1;
    bring(world, &[files[0].clone(), other[1].clone()]).await?;
    world.when("a word on a key that doesn't fit", WHOLE, complains).await?;
    is_shown(world, &serial).await?;

    world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch(None)]).await?;
    is_shown(world, &issued(world).await?).await?;
    world.here(&["delete", "secret", OWN]).await?;
    world.whole(WHOLE).await.map(drop)
}

/// The names of the nodes on which so many sessions that read come to be.
async fn readers(world: &World, many: usize) -> Outcome<BTreeSet<String>> {
    let read = names::read_service(POOL);
    let mut nodes = BTreeSet::new();
    for _ in 0..many {
        nodes.insert(as_app(world, &read, "SHOW cluster_name").await?);
    }
    Ok(nodes)
}

/// Weights say where new sessions that read go; those that are there stay, and nothing restarts.
pub async fn weights(world: &World) -> Outcome {
    let running = containers(world).await?;
    open(world).await?;
    let patch = async |balance: Value| {
        let patch = json!({"spec": {"loadBalancing": balance}}).to_string();
        world.here(&["patch", "pgpool", POOL, "--type=merge", "-p", &patch]).await
    };
    let primary = super::failover::primary(world).await?;
    let standbys: Vec<u8> = NODES.into_iter().filter(|index| *index != primary).collect();
    let (none, all) = (standbys[0], standbys[1]);
    let shell =
        ["exec", &names::node_pod(POOL, all), "-c", "postgres", "--", "psql", "-XAtqc", "SHOW cluster_name"];
    let only = BTreeSet::from([world.here(&shell).await?]);
    patch(json!({"primary": false, "weights": {none.to_string(): 0}})).await?;
    until("all sessions that read to be on one node", WHOLE, || async {
        let nodes = readers(world, 2 * NODES.len()).await?;
        ensure(nodes == only, || format!("they are on {nodes:?}, not on {only:?}"))
    })
    .await?;
    patch(json!({"primary": true, "weights": null})).await?;
    until("sessions that read on every node", WHOLE, || async {
        let nodes = readers(world, 2 * NODES.len()).await?;
        ensure(nodes.len() == NODES.len(), || format!("they are on {nodes:?}"))
    })
    .await?;
    still_open(world).await?;
    let now = containers(world).await?;
    ensure(now == running, || format!("{running:?} became {now:?}"))
}

/// Events tell of new certificates in all of these Secrets.
async fn told_of_new(world: &World, secrets: &[&str]) -> Outcome {
    until("the event of a new certificate", WHOLE, || async {
        let told = world.events("CertificatesRenewed").await?.join("; ");
        ensure(secrets.iter().all(|secret| told.contains(secret)), || told.clone())
    })
    .await
}

/// A certificate that is issued anew is shown to new sessions; no process restarts, and no session ends.
pub async fn leaf(world: &World) -> Outcome {
    let (old, running) = (shown(world, POOL).await?, containers(world).await?);
    open(world).await?;
    let primary = super::failover::primary(world).await?;
    let secrets = [names::node_tls_secret(POOL, primary), names::part_tls_secret(POOL, "proxy")];
    for name in &secrets {
        world.here(&["delete", "secret", name]).await?;
    }
    told_of_new(world, &secrets.each_ref().map(String::as_str)).await?;
    let new = until("another certificate to be shown", WHOLE, || async {
        let now = shown(world, POOL).await?;
        ensure(now != old && now.starts_with("serial="), || format!("{now} is shown"))?;
        Ok(now)
    })
    .await?;
    let serial = issued(world).await?;
    ensure(serial == new, || format!("{new} is shown, {serial} was issued"))?;
    is_shown(world, &serial).await?;
    let password = secret(world, &names::app_secret(POOL), "password").await?;
    login(world, POOL, &password).await?;
    still_open(world).await?;
    let now = containers(world).await?;
    ensure(now == running, || format!("{running:?} became {now:?}"))
}
