//! Somebody who reads on a machine that is cut off: by the front there, in one session and in new ones.
use kube::api::ListParams;
use serde_json::json;

use super::harness::{Failure, Outcome, ensure, failed};
use super::install::{IMAGE, as_app, authority, locked, login};
use super::pool::{WHOLE, selector};
use super::sessions::client;
use super::world::{POOL, SPACE, World, until};

const POD: &str = "witness";
/// What it reads, once more and more of it was written elsewhere.
const COUNT: &str = "SELECT count(*) FROM witnessed";

/// The pod that reads.
pub struct Witness;

fn millis() -> u128 {
    u128::try_from(pgpool_operator::clock::timestamp().as_millisecond()).unwrap_or_default()
}

impl Witness {
    /// Starts it on this machine, by the front there.
    pub async fn beside(world: &World, machine: &str) -> Outcome<Self> {
        // A machine that was lost a moment ago may still be listed as one with a front.
        until("an empty table", WHOLE, || async {
            as_app(world, POOL, "CREATE TABLE IF NOT EXISTS witnessed (); TRUNCATE witnessed").await.map(drop)
        })
        .await?;
        world.here(&["delete", "pod", POD, "--ignore-not-found"]).await?;
        let front = front_on(world, machine).await?;
        // Every line: when the answer came, in milliseconds, and the answer.
        let script = format!(
            "export PGCONNECT_TIMEOUT=2; said() {{ while read -r n; do echo $(date +%s%3N) $n; done; }}; \
             (while sleep 0.05; do echo '{COUNT};'; done | psql -XAtq 'host={POOL}-ro hostaddr={front} sslmode=verify-full' | said) & \
             while sleep 0.1; do psql -XAtqc '{COUNT}' 'host={POOL}-ro hostaddr={front} sslmode=verify-full' | said; done"
        );
        let container = json!({
            "name": "reader", "image": IMAGE, "command": ["bash", "-c", script], "securityContext": locked(),
            "env": login(POOL), "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        });
        world
            .apply(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": SPACE},
                "spec": {
                    "nodeName": machine, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container], "volumes": [authority(POOL)],
                },
            }))
            .await?;
        until("the witness to read", WHOLE, || async {
            let lines = said(world).await?;
            ensure(lines.len() > 20, || format!("{} lines", lines.len()))
        })
        .await?;
        Ok(Self)
    }

    /// Writes a row that it has to see from now on; gives the moment, in milliseconds.
    pub async fn write(&self, world: &World) -> Outcome<u128> {
        until("a row to be written", WHOLE, || async {
            client(
                world,
                &format!(
                    "psql -XAtqc 'INSERT INTO witnessed DEFAULT VALUES' 'host={POOL} connect_timeout=5'"
                ),
            )
            .await
            .map(drop)
        })
        .await?;
        Ok(millis())
    }

    /// It has said nothing old after that moment, though it went on asking, and sees the row in the end.
    pub async fn judge(&self, world: &World, written: u128) -> Outcome {
        until("the witness to see the row", WHOLE, || async {
            let lines = said(world).await?;
            ensure(lines.iter().any(|(at, rows)| *at > written && *rows > 0), || {
                format!("{:?}", lines.last())
            })
        })
        .await?;
        let lines = said(world).await?;
        // The answer may have been given before the row, and written down after it.
        let old = lines.iter().find(|(at, rows)| *at > written + SLACK && *rows == 0);
        let last = lines.iter().rev().find(|(_, rows)| *rows == 0).map(|(at, _)| *at).unwrap_or_default();
        println!(
            "    of {} answers on the lost machine the last old one came {} ms before the row was written",
            lines.len(),
            written.saturating_sub(last)
        );
        world.here(&["delete", "pod", POD, "--wait=false"]).await?;
        ensure(old.is_none(), || format!("an old answer {old:?}, long after the row at {written}"))
    }
}

/// Milliseconds between an answer and its note, on a busy machine.
const SLACK: u128 = 500;

/// The front on a machine.
async fn front_on(world: &World, machine: &str) -> Outcome<String> {
    let list = world.pods().list(&ListParams::default().labels(&selector("proxy"))).await?;
    let here = |pod: &&k8s_openapi::api::core::v1::Pod| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(machine)
    };
    match list.items.iter().find(here).and_then(|pod| pod.status.as_ref()?.pod_ip.clone()) {
        Some(address) => Ok(address),
        None => failed(format!("no front on {machine} has an address")),
    }
}

/// What it has read: when, and how many rows.
async fn said(world: &World) -> Outcome<Vec<(u128, u64)>> {
    let text = world.here(&["logs", POD]).await?;
    let line = |line: &str| {
        let (at, rows) = line.split_once(' ')?;
        Some((at.parse().ok()?, rows.trim().parse().ok()?))
    };
    let lines: Vec<(u128, u64)> = text.lines().filter_map(line).collect();
    if lines.is_empty() { Err(Failure(format!("it says {text:?}"))) } else { Ok(lines) }
}
