//! The client of `bench failover`: a pod that writes without a pause and tells each gap.

use std::cell::Cell;
use std::time::Duration;

use serde_json::{Value, json};

use super::pool::{NAME, Pool};
use crate::error::Result;
use crate::progress::until_every;
use crate::run;

/// The pod.
const POD: &str = "stall";
/// How long it may take to run, and a gap to end.
const LIMIT: Duration = Duration::from_secs(180);
/// How often the gaps are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A gap between two acknowledged writes.
#[derive(Debug, Clone)]
pub struct Gap {
    /// Its length.
    pub millis: f64,
    /// Its end, in milliseconds since 1970.
    pub end: f64,
    /// What the client was told in it.
    pub told: Vec<String>,
}

/// The running client.
pub struct Client<'p> {
    pool: &'p Pool<'p>,
    /// The machine that it runs on.
    pub machine: String,
    /// How many of its gaps are forgotten.
    known: Cell<usize>,
}

fn parse(line: &str) -> Option<Gap> {
    let value: Value = serde_json::from_str(line).ok()?;
    let told = value["told"].as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect();
    Some(Gap { millis: value["stallMs"].as_f64()?, end: value["to"].as_f64()? / 1000.0, told })
}

impl<'p> Client<'p> {
    /// Starts it.
    pub fn start(pool: &'p Pool<'p>) -> Result<Self> {
        let service = pool.object(&["service", NAME])?;
        let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        let front = pool.object(&["pods", "--selector", "pgpool-operator.dev/part=proxy"])?;
        let machine = front["items"][0]["spec"]["nodeName"].as_str().unwrap_or_default();
        pool.apply(&pod(pool.namespace(), address, machine))?;
        let words = ["wait", "--for=condition=Ready", &format!("pod/{POD}"), "--timeout=120s"];
        run::captured(&mut pool.kubectl(&words)?)?;
        let seen = pool.object(&["pod", POD])?;
        let machine = seen["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        Ok(Self { pool, machine, known: Cell::new(0) })
    }

    /// All gaps since its start. Asked for each time: a stream of logs can stay open and bring nothing more.
    fn gaps(&self) -> Result<Vec<Gap>> {
        let text = run::captured(&mut self.pool.kubectl(&["logs", POD])?)?;
        Ok(text.lines().filter_map(parse).collect())
    }

    /// Forgets the gaps so far.
    pub fn forget(&self) -> Result<()> {
        self.known.set(self.gaps()?.len());
        Ok(())
    }

    /// The longest gap since then; waits for one of at least that many milliseconds, lest a hiccup before is taken
    /// for it.
    pub fn longest(&self, least: f64) -> Result<Gap> {
        until_every(LOOK, "the end of a gap", LIMIT, || {
            let gaps = self.gaps()?;
            let news = gaps.iter().skip(self.known.get()).filter(|gap| gap.millis >= least);
            let longest = news.max_by(|a, b| a.millis.total_cmp(&b.millis));
            Ok(longest.cloned().ok_or_else(|| {
                let (known, all) = (self.known.get(), gaps.len());
                format!("of {all} gaps {known} are from before, and none of the others lasted {least} ms")
            }))
        })
    }

    /// Ends it.
    pub fn stop(&self) -> Result<()> {
        run::captured(&mut self.pool.kubectl(&["delete", "pod", POD, "--grace-period=1"])?).map(drop)
    }
}

/// The client knows the Service's address: a machine that is lost may have the only name server on it. It runs beside
/// a front, so that of the other machines one has a front and one has none.
fn pod(namespace: &str, address: &str, machine: &str) -> Value {
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
            "nodeName": machine,
            "hostAliases": [{ "ip": address, "hostnames": [NAME] }],
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
        assert!((gap.end - 0.002).abs() < 1e-9);
        assert!(parse("something else").is_none());
    }
}
