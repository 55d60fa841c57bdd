//! The demonstration's pool loses its primary, with the timings that a pool has by default: those of the acts are longer, since they
//! share the processors.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::demo::{SPACE, object};
use super::examples::{PSQL, by_service, key};
use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster};
use crate::error::{OnFile, Result, refused};
use crate::progress::{say, until, until_every};
use crate::{demo, pods, run};

const POOL: &str = "demo";
const NODES: u64 = 3;
/// How long it may take until a write is acknowledged again.
const WRITTEN: Duration = Duration::from_secs(60);
/// How long it may take until the pool is whole again.
const WHOLE: Duration = Duration::from_secs(150);
/// How often it is looked at; each look starts a kubectl.
const LOOK: Duration = Duration::from_secs(1);
const FIRST: &str = "CREATE TABLE killed AS SELECT 'before' AS said";
/// One that was not said to be written may be written again.
const THEN: &str = "INSERT INTO killed VALUES ('after')";
const READ: &str = "SELECT string_agg(DISTINCT said, ',' ORDER BY said) FROM killed";

/// The primary's PostgreSQL is killed, as the kernel would for want of memory: another node takes over, what was written is there, more
/// can be written, and the pool is whole again without a hand.
pub fn primary_killed(cluster: &Cluster) -> Result<()> {
    let before = pool(cluster)?;
    let Some(old) = before["status"]["membership"]["primary"].as_u64() else {
        return refused(format!("pool {POOL} has no primary: {}", before["status"]));
    };
    let client = Client::beside_another(cluster, old)?;
    client.asks(POOL, FIRST)?;
    kill_postgres(cluster, old)?;
    let watch = Stopwatch::start();
    until("a write to be acknowledged again", WRITTEN, || {
        Ok(client.asks(POOL, THEN).map_err(|e| e.to_string()))
    })?;
    let seconds = watch.elapsed().as_secs_f64();
    let story = until_every(LOOK, "another primary of a whole pool", WHOLE, || {
        let pool = pool(cluster)?;
        let is_over = taken_over(&pool, old);
        Ok(if is_over { Ok(pool["status"]["lastFailover"].clone()) } else { Err(pool["status"].to_string()) })
    })?;
    say(format!(
        "  node {} is the primary after node {old}: {} ms without one, a write acknowledged after {seconds:.1} s",
        story["to"], story["millis"]
    ));
    for service in [POOL.to_owned(), format!("{POOL}-ro")] {
        let said = client.asks(&service, READ)?;
        if said.trim() != "after,before" {
            return refused(format!("{service} shows {said:?}"));
        }
    }
    Ok(())
}

fn pool(cluster: &Cluster) -> Result<Value> {
    object(cluster, &["--namespace", SPACE, "get", "pgpool", POOL])
}

/// Whether another node than this is the primary of a whole pool, and status says how that came.
fn taken_over(pool: &Value, old: u64) -> bool {
    let status = &pool["status"];
    demo::ready(pool)
        && status["attached"] == "3/3"
        && status["membership"]["primary"].as_u64().is_some_and(|now| now != old)
        && status["lastFailover"]["from"] == old
}

fn pod(node: u64) -> String {
    format!("{POOL}-{node}-0")
}

fn kill_postgres(cluster: &Cluster, node: u64) -> Result<()> {
    let pod = object(cluster, &["--namespace", SPACE, "get", "pod", &pod(node)])?;
    let postmaster = pods::postmaster(pod["metadata"]["uid"].as_str().unwrap_or_default())?;
    let Some(pid) = i32::try_from(postmaster).ok().and_then(Pid::from_raw) else {
        return refused(format!("no process has the number {postmaster}"));
    };
    kill_process(pid, Signal::KILL).on("kill", format!("process {postmaster}"))
}

/// An application with the pool's own login, in the pod of a node.
struct Client<'c> {
    cluster: &'c Cluster,
    pod: String,
    user: String,
    password: String,
    database: String,
}

impl<'c> Client<'c> {
    /// In the pod of another node than this.
    fn beside_another(cluster: &'c Cluster, node: u64) -> Result<Self> {
        let app = |name: &str| key(cluster, SPACE, &format!("{POOL}-app"), name);
        let (user, password, database) = (app("username")?, app("password")?, app("dbname")?);
        Ok(Self { cluster, pod: pod((node + 1) % NODES), user, password, database })
    }

    /// What psql says to it by a Service of the pool.
    fn asks(&self, service: &str, sql: &str) -> Result<String> {
        let to = by_service(service, SPACE, &self.user, &self.database);
        let mut kubectl = cluster::enter::kubectl(self.cluster)?;
        kubectl.args(["--namespace", SPACE, "exec", "--stdin", &self.pod, "--container=postgres", "--"]);
        kubectl.args(["timeout", "30", "sh", "-c", PSQL, "sh", &to, sql]);
        run::fed(&mut kubectl, &format!("{}\n", self.password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_primary_has_taken_over_once_the_pool_is_whole() {
        let pool = |primary: u64, attached: &str| {
            json!({ "metadata": { "generation": 1 }, "status": {
                "observedGeneration": 1, "conditions": [{ "type": "Ready", "status": "True" }],
                "attached": attached, "membership": { "primary": primary }, "lastFailover": { "from": 0 } } })
        };
        assert!(taken_over(&pool(1, "3/3"), 0));
        assert!(!taken_over(&pool(1, "2/3"), 0));
        assert!(!taken_over(&pool(0, "3/3"), 0));
        let mut untold = pool(1, "3/3");
        untold["status"]["lastFailover"] = Value::Null;
        assert!(!taken_over(&untold, 0));
    }
}
