//! What changes under open sessions: passwords and certificates.
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use pgpool_operator::names;
use serde_json::json;

use super::harness::{Failure, Outcome, ensure};
use super::install::CLIENT;
use super::pool::WHOLE;
use super::world::{POOL, SPACE, World, until};

/// What the open session of the application is asked before and after a change.
const WHO: &str = "SELECT pg_backend_pid();";
/// Both Services.
const SERVICES: [&str; 2] = [POOL, "demo-ro"];

/// Runs a shell in the application's pod.
async fn client(world: &World, script: &str) -> Outcome<String> {
    world.here(&["exec", CLIENT, "--", "bash", "-c", script]).await
}

/// Opens a session of the application that asks again once [`still_open`] tells it to.
async fn open(world: &World) -> Outcome {
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
async fn still_open(world: &World) -> Outcome {
    client(world, "timeout 5 bash -c 'true > /tmp/go'").await?;
    until("the old session to answer", WHOLE, || async {
        let said = client(world, "cat /tmp/said").await?;
        let lines: Vec<&str> = said.lines().collect();
        ensure(lines.len() == 2 && lines[0] == lines[1], || format!("it said {said:?}"))
    })
    .await
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

async fn secret(world: &World, name: &str, key: &str) -> Outcome<String> {
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

/// Who runs in the pods of nodes and fronts: another one after a restart.
async fn containers(world: &World) -> Outcome<Vec<String>> {
    let label = format!("{}={POOL}", names::LABEL_POOL);
    let pods = world.pods().list(&ListParams::default().labels(&label)).await?;
    let ids = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
        let ids = statuses.into_iter().flatten().filter_map(|c| c.container_id.clone());
        ids.collect::<Vec<_>>().join(",")
    };
    Ok(pods.items.iter().map(|pod| format!("{}={}", pod.name_any(), ids(pod))).collect())
}

/// The serial number of the certificate that a client is shown.
async fn shown(world: &World, host: &str) -> Outcome<String> {
    let script = format!(
        "openssl s_client -starttls postgres -connect {host}:5432 </dev/null 2>/dev/null | \
         openssl x509 -noout -serial"
    );
    client(world, &script).await
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
    let new = until("another certificate to be shown", WHOLE, || async {
        let now = shown(world, POOL).await?;
        ensure(now != old && now.starts_with("serial="), || format!("{now} is shown"))?;
        Ok(now)
    })
    .await?;
    let issued = secret(world, &secrets[0], "tls.crt").await?;
    let path = world.scratch.path().join("tls.crt");
    tokio::fs::write(&path, issued).await?;
    let path = path.display().to_string();
    let serial = super::world::call("openssl", &["x509", "-noout", "-serial", "-in", &path], None).await?;
    ensure(serial == new, || format!("{new} is shown, {serial} was issued"))?;
    let password = secret(world, &names::app_secret(POOL), "password").await?;
    login(world, POOL, &password).await?;
    still_open(world).await?;
    let now = containers(world).await?;
    ensure(now == running, || format!("{running:?} became {now:?}"))
}
