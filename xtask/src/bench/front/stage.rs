//! A pool of three nodes with one front, and the client and the peers beside it: all of them pods, with addresses of their
//! own and no Service between. The peers run on the Kubernetes node of the front.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::pool::{DATA, PROGRAMS, Pool};
use super::peers::{self, CLIENT};
use super::process::Processes;
use super::way::{WAYS, Way};
use crate::error::{Result, refused};
use crate::progress::{step, until_every};
use crate::run;

/// How long a pod may take to run, and a way to be open.
const LIMIT: Duration = Duration::from_secs(180);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The pods of the front.
const FRONTS: &str = "pgpool-operator.dev/part=proxy";
/// What idle sessions have asked.
pub const ASKED: &str = "SELECT 1";
/// Sessions that a peer takes besides those that are measured.
const SPARE: u32 = 8;

/// All that takes part.
pub struct Stage<'p> {
    pool: &'p Pool<'p>,
    /// A node's pod, which the others are like.
    like: Value,
    /// Addresses of the pods, in the order of [`WAYS`].
    addresses: [String; 4],
    /// The front's pod.
    front: String,
    /// The Kubernetes nodes of the client, the front with the peers, and the primary.
    machines: [String; 3],
}

/// What encrypts both sides of a way.
#[derive(Debug, Clone)]
pub struct Legs {
    /// From the client.
    pub client: String,
    /// To the node; the same without a program between.
    pub node: String,
}

impl<'p> Stage<'p> {
    /// Sets it beside a pool that is Ready; the peers take that many clients.
    pub fn set(pool: &'p Pool<'p>, clients: u32) -> Result<Self> {
        let like = pool.object(&["pod", &Pool::pod(0)])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (node, primary) = (text(&like["status"]["podIP"]), text(&like["spec"]["nodeName"]));
        let addresses = [node, String::new(), String::new(), String::new()];
        let machines = [String::new(), String::new(), primary];
        let mut stage = Self { pool, like, addresses, front: String::new(), machines };
        let front = stage.find_front("")?;
        stage.machines[1] = text(&front["spec"]["nodeName"]);
        pool.apply(&peers::policy(pool.namespace()))?;
        stage.machines[0] = stage.machine_for_the_client()?;
        let client = peers::client(pool.namespace(), &stage.like, &stage.machines[0]);
        step("the client", || stage.start(CLIENT, &client))?;
        for way in [Way::PgBouncer, Way::Pgpool] {
            step(way.name(), || stage.start_peer(way, clients))?;
        }
        for way in WAYS {
            stage.reach(way, true)?;
        }
        Ok(stage)
    }

    /// The Kubernetes node that has neither primary nor front: all ways begin with a step from machine to machine.
    fn machine_for_the_client(&self) -> Result<String> {
        for node in [1, 2] {
            let pod = self.pool.object(&["pod", &Pool::pod(node)])?;
            let machine = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            if !self.machines.contains(&machine) {
                return Ok(machine);
            }
        }
        refused("the nodes of the pool are not on three machines, so the client has none for itself")
    }

    /// Where the parts run.
    pub fn places(&self) -> String {
        let [client, front, primary] = &self.machines;
        format!("client on {client}, front, PgBouncer and pgpool-II on {front}, primary on {primary}")
    }

    /// A script of bash at the client, PostgreSQL's programs in its path.
    pub fn at_client(&self, text: &str) -> Result<Command> {
        let text = format!("{PROGRAMS}; {text}");
        self.pool.kubectl(&["exec", CLIENT, "--", "bash", "-o", "pipefail", "-euc", &text])
    }

    /// How the client connects; role, password and database are in its environment.
    pub fn conninfo(&self, way: Way, tls: bool) -> String {
        let mode = if tls { "require" } else { "disable" };
        let mut text = format!(
            "host={} port=5432 sslmode={mode} gssencmode=disable connect_timeout=30",
            self.addresses[way as usize]
        );
        if way == Way::Direct {
            text += " sslcert=/run/bench/tls.crt sslkey=/run/bench/tls.key";
        }
        text
    }

    /// The processes between client and node; none on the direct way.
    pub fn processes(&self, way: Way) -> Result<Option<Processes>> {
        match way {
            Way::Direct => Ok(None),
            Way::Front => Processes::of(self.pool, &self.front).map(Some),
            Way::PgBouncer | Way::Pgpool => Processes::of(self.pool, peers::pod_name(way)).map(Some),
        }
    }

    /// Starts the program between anew, with room for that many sessions. The peers are for this one alone from then on:
    /// what they keep of former sessions goes with them.
    pub fn renew(&mut self, way: Way, sessions: u32) -> Result<()> {
        self.delete(&["pod", peers::pod_name(Way::PgBouncer), peers::pod_name(Way::Pgpool)])?;
        let old = self.front.clone();
        if way == Way::Front {
            self.delete(&["pod", "--selector", FRONTS])?;
        }
        self.no_sessions()?;
        match way {
            Way::Direct => Ok(()),
            Way::Front => self.find_front(&old).map(drop),
            Way::PgBouncer | Way::Pgpool => self.start_peer(way, sessions),
        }
    }

    fn delete(&self, words: &[&str]) -> Result<()> {
        let mut delete = self.pool.kubectl(&["delete", "--ignore-not-found", "--grace-period=1"])?;
        run::captured(delete.args(words)).map(drop)
    }

    /// Waits for a front that is ready and another than `old`.
    fn find_front(&mut self, old: &str) -> Result<Value> {
        let found = until_every(LOOK, "a front that is ready", LIMIT, || {
            let pods = self.pool.object(&["pods", "--selector", FRONTS])?;
            let all = pods["items"].as_array().cloned().unwrap_or_default();
            let ready = all.into_iter().find(|pod| is_ready(pod) && pod["metadata"]["name"] != old);
            Ok(ready.ok_or_else(|| "none".to_owned()))
        })?;
        found["metadata"]["name"].as_str().unwrap_or_default().clone_into(&mut self.front);
        found["status"]["podIP"].as_str().unwrap_or_default().clone_into(&mut self.addresses[1]);
        Ok(found)
    }

    fn start_peer(&mut self, way: Way, sessions: u32) -> Result<()> {
        let name = peers::pod_name(way);
        self.delete(&["pod", name])?;
        let at = (self.machines[1].as_str(), self.addresses[0].as_str());
        self.start(name, &peers::peer(self.pool.namespace(), way, &self.like, at, sessions + SPARE))?;
        let pod = self.pool.object(&["pod", name])?;
        let address = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        if way == Way::Pgpool {
            self.let_in(&address)?;
        }
        self.addresses[way as usize] = address;
        Ok(())
    }

    fn start(&self, name: &str, pod: &Value) -> Result<()> {
        self.pool.apply(pod)?;
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        let mut wait =
            self.pool.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), &limit])?;
        let waited = run::captured(&mut wait);
        if waited.is_err() {
            run::visible(&mut self.pool.kubectl(&["logs", name, "--tail=20"])?)?;
        }
        waited.map(drop)
    }

    /// Lets an address come to the primary without a certificate. The agent writes the file only when its gate moves.
    fn let_in(&self, address: &str) -> Result<()> {
        let line = format!("hostssl all all {address}/32 scram-sha-256");
        self.pool.exec(0, &format!("sed -i '1i {line}' {DATA}/../conf/pg_hba.conf"))?;
        self.pool.sql("SELECT pg_reload_conf()").map(drop)
    }

    /// Waits until a session comes through.
    pub fn reach(&self, way: Way, tls: bool) -> Result<()> {
        until_every(LOOK, &format!("a session by way of {}", way.name()), LIMIT, || {
            let psql = format!("psql -XAtc '{ASKED}' '{}'", self.conninfo(way, tls));
            let said = run::output(&mut self.at_client(&psql)?)?;
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            Ok(if said.status.success() { Ok(()) } else { Err(why) })
        })
    }

    /// What encrypts a way, as the client and the node tell it.
    pub fn legs(&self, way: Way) -> Result<Legs> {
        let text = "SELECT version || ', ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let psql = format!("psql -XAt '{}' -c '\\conninfo' -c \"{text}\"", self.conninfo(way, true));
        Ok(legs(&run::captured(&mut self.at_client(&psql)?)?))
    }

    /// What the peers say of themselves, in one line.
    pub fn versions(&self) -> Result<String> {
        let mut lines = vec![format!("PostgreSQL {}", self.pool.sql("SHOW server_version")?)];
        for (way, program) in [(Way::PgBouncer, "pgbouncer"), (Way::Pgpool, "pgpool")] {
            let words =
                ["exec", peers::pod_name(way), "--", "bash", "-c", &format!("{program} --version 2>&1")];
            let said = run::captured(&mut self.pool.kubectl(&words)?)?;
            lines.push(said.lines().next().unwrap_or_default().to_owned());
        }
        Ok(lines.join("; "))
    }

    /// pgbench's tables.
    pub fn fill(&self, scale: u32) -> Result<()> {
        let conninfo = self.conninfo(Way::Direct, true);
        let text = format!("pgbench --quiet -i -s {scale} '{conninfo}' 2>&1 | tail -n 1");
        run::captured(&mut self.at_client(&text)?).map(drop)
    }

    /// How many sessions of users wait, after what idle ones have asked.
    pub fn idle_sessions(&self) -> Result<u32> {
        self.count(&format!("state = 'idle' AND query LIKE '{ASKED}%'"))
    }

    /// Waits until all sessions of users are gone.
    fn no_sessions(&self) -> Result<()> {
        until_every(LOOK, "the end of the sessions before", LIMIT, || {
            let left = self.count("true")?;
            Ok(if left == 0 { Ok(()) } else { Err(format!("{left} are there")) })
        })
    }

    fn count(&self, which: &str) -> Result<u32> {
        let text = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
             AND usename <> 'postgres' AND {which}"
        );
        let said = self.pool.sql(&text)?;
        said.parse().or_else(|_| refused(format!("the primary told no number of sessions: {said}")))
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = |c: &Value| c["type"] == json!("Ready") && c["status"] == json!("True");
    pod["metadata"]["deletionTimestamp"].is_null() && conditions.is_some_and(|all| all.iter().any(ready))
}

/// Reads `SSL connection (protocol: …, cipher: …, …)` of `\conninfo`, and the answer of the node.
fn legs(said: &str) -> Legs {
    let protocol = |text: &str| {
        let mut words = text.split(", ").filter_map(|part| part.split_once(": "));
        Some(format!("{}, {}", words.next()?.1, words.next()?.1))
    };
    let client = said.lines().find_map(|line| protocol(line.strip_prefix("SSL connection (")?));
    let node = said.lines().last().map(str::to_owned).filter(|line| line.starts_with("TLS"));
    let unknown = || "unknown".to_owned();
    Legs { client: client.unwrap_or_else(unknown), node: node.unwrap_or_else(unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_encrypts_is_read() {
        let said = "You are connected to database \"app\".\nSSL connection (protocol: TLSv1.3, cipher: \
                    TLS_AES_256_GCM_SHA384, compression: off, ALPN: postgresql)\nTLSv1.3, TLS_AES_128_GCM_SHA256\n";
        let read = legs(said);
        assert_eq!(read.client, "TLSv1.3, TLS_AES_256_GCM_SHA384");
        assert_eq!(read.node, "TLSv1.3, TLS_AES_128_GCM_SHA256");
        assert_eq!(legs("").client, "unknown");
    }

    #[test]
    fn a_front_that_goes_is_not_ready() {
        let conditions = json!([{ "type": "Ready", "status": "True" }]);
        assert!(is_ready(&json!({ "metadata": {}, "status": { "conditions": conditions } })));
        let going =
            json!({ "metadata": { "deletionTimestamp": "x" }, "status": { "conditions": conditions } });
        assert!(!is_ready(&going) && !is_ready(&json!({})));
    }
}
