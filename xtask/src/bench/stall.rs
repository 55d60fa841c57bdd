//! The client of `bench failover`: a pod that writes without a pause and tells each gap.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::pool::{NAME, Pool};
use crate::error::{Error, Result, refused};
use crate::progress::until_every;
use crate::run;

/// The pod.
const POD: &str = "stall";
/// How long it may take to run, and a gap to end.
const LIMIT: Duration = Duration::from_secs(180);
/// How often the gaps are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A gap between two acknowledged writes.
#[derive(Debug, Clone)]
pub struct Gap {
    /// Its length.
    pub millis: f64,
    /// What the client was told in it.
    pub told: Vec<String>,
}

/// The running client.
pub struct Client<'p> {
    pool: &'p Pool<'p>,
    /// The machine that it runs on.
    pub machine: String,
    logs: Mutex<Child>,
    gaps: Arc<Mutex<Vec<Gap>>>,
}

fn parse(line: &str) -> Option<Gap> {
    let value: Value = serde_json::from_str(line).ok()?;
    let told = value["told"].as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect();
    Some(Gap { millis: value["stallMs"].as_f64()?, told })
}

impl<'p> Client<'p> {
    /// Starts it.
    pub fn start(pool: &'p Pool<'p>) -> Result<Self> {
        pool.apply(&pod(pool.namespace()))?;
        let words = ["wait", "--for=condition=Ready", &format!("pod/{POD}"), "--timeout=120s"];
        run::captured(&mut pool.kubectl(&words)?)?;
        let seen = pool.object(&["pod", POD])?;
        let machine = seen["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let mut kubectl = pool.kubectl(&["logs", "--follow", POD])?;
        kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            kubectl.spawn().map_err(|source| Error::Start { command: run::shown(&kubectl), source })?;
        let Some(out) = child.stdout.take() else { return refused("kubectl has no standard output") };
        let gaps = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&gaps);
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                if let Some(gap) = parse(&line) {
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(gap);
                }
            }
        });
        Ok(Self { pool, machine, logs: Mutex::new(child), gaps })
    }

    /// Forgets the gaps so far.
    pub fn forget(&self) {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The longest gap since then; waits for one of at least that many milliseconds, lest a hiccup before is taken
    /// for it.
    pub fn longest(&self, least: f64) -> Result<Gap> {
        until_every(LOOK, "the end of a gap", LIMIT, || {
            let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
            let longest =
                gaps.iter().filter(|gap| gap.millis >= least).max_by(|a, b| a.millis.total_cmp(&b.millis));
            Ok(longest.cloned().ok_or_else(|| "the client tells of none".to_owned()))
        })
    }

    /// Ends it.
    pub fn stop(&self) -> Result<()> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = logs.kill();
        let _ = logs.wait();
        run::captured(&mut self.pool.kubectl(&["delete", "pod", POD, "--grace-period=1"])?).map(drop)
    }
}

fn pod(namespace: &str) -> Value {
    let app = |name: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": format!("{NAME}-app"), "key": key } } });
    let locked = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] } });
    let container = json!({ "name": "stall", "image": "localhost/pgpool-workload:dev",
        "args": ["stall", "--host", NAME, "--least-ms", "60"],
        "env": [app("PGUSER", "username"), app("PGPASSWORD", "password"), app("PGDATABASE", "dbname"),
            { "name": "PGSSLROOTCERT", "value": "/ca/ca.crt" }],
        "securityContext": locked, "volumeMounts": [{ "name": "ca", "mountPath": "/ca" }] });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": POD, "namespace": namespace },
        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container],
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000,
                "seccompProfile": { "type": "RuntimeDefault" } },
            "volumes": [{ "name": "ca", "secret": { "secretName": format!("{NAME}-ca"),
                "items": [{ "key": "ca.crt", "path": "ca.crt" }] } }] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_client_is_a_gap() {
        let gap = parse(r#"{"stallMs":512,"from":1,"to":2,"told":["57P01: x"]}"#).unwrap();
        assert!((gap.millis - 512.0).abs() < 1e-9 && gap.told == ["57P01: x"]);
        assert!(parse("something else").is_none());
    }
}
