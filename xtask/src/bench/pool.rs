//! The pool that is measured, by kubectl alone: as its users see it.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::{self, Target};
use crate::error::{Error, Result};
use crate::progress::until_every;
use crate::run;

/// Name of the pool in its namespace.
pub const NAME: &str = "bench";
/// Where a node has its data (src/names.rs).
pub const DATA: &str = "/var/lib/pgpool/pgdata";
/// For scripts of bash in a node's pod: the programs of PostgreSQL first in the path, not Debian's wrappers of them.
pub const PROGRAMS: &str = "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH";
/// How long a pool may take to become Ready, or to go.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked at; each look starts a kubectl.
const LOOK: Duration = Duration::from_millis(500);

/// A small archive: three copies of the table's WAL would need more room than the table.
pub(super) fn spec(storage: &str, automatic: bool) -> Value {
    json!({ "nodes": 3, "recovery": { "automatic": automatic }, "walArchive": { "maxSize": "256Mi" },
        "storage": { "size": storage, "whenDeleted": "Delete" } })
}

/// A pool in a namespace of its own.
pub struct Pool<'t> {
    target: &'t Target,
    namespace: &'static str,
}

impl<'t> Pool<'t> {
    /// Names it; nothing is made yet.
    pub fn new(target: &'t Target, namespace: &'static str) -> Self {
        Self { target, namespace }
    }

    /// kubectl in its namespace.
    pub fn kubectl(&self, words: &[&str]) -> Result<Command> {
        let mut kubectl = self.target.kubectl()?;
        kubectl.args(["--namespace", self.namespace]).args(words);
        Ok(kubectl)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.namespace
    }

    /// Applies an object, or a List of them.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let text = object.to_string();
        run::fed(&mut self.kubectl(&["apply", "--server-side", "-f", "-"])?, &text).map(drop)
    }

    /// Makes it, three nodes, and waits until it is Ready. Broken nodes wait for the annotation that is measured;
    /// first copies come all the same.
    pub fn create(&self, storage: &str) -> Result<()> {
        self.make(&spec(storage, false))
    }

    /// The same, of a pool that recovers its nodes by itself.
    pub fn create_automatic(&self, storage: &str) -> Result<()> {
        self.create_with(storage, &json!({}))
    }

    /// The same, with what `more` says of its spec.
    pub fn create_with(&self, storage: &str, more: &Value) -> Result<()> {
        let mut spec = spec(storage, true);
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        self.make(&spec)
    }

    fn make(&self, spec: &Value) -> Result<()> {
        let enforce = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": self.namespace, "labels": enforce } });
        let pool = json!({ "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
            "metadata": { "name": NAME, "namespace": self.namespace }, "spec": spec });
        self.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [namespace, pool] }))?;
        until_every(LOOK, "the condition Ready of the pool", LIMIT, || {
            let pool = self.json()?;
            Ok(if demo::ready(&pool) { Ok(()) } else { Err(pool["status"]["conditions"].to_string()) })
        })
    }

    /// Deletes it, its namespace and with them all that is in there; one that isn't there is no error.
    pub fn remove(&self) -> Result<()> {
        let time = format!("--timeout={}s", LIMIT.as_secs());
        // The pool first: its agents' service accounts must outlive the operator's own clean-up.
        for words in [["pgpool", NAME], ["namespace", self.namespace]] {
            let mut delete = self.kubectl(&["delete", "--ignore-not-found", &time])?;
            let done = run::output(delete.args(words))?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            // On a cluster that never got so far the kind isn't known.
            if !done.status.success() && !said.contains("the server doesn't have a resource type") {
                let status = run::told(done.status);
                return Err(Error::Ended { command: run::shown(&delete), status, output: said });
            }
        }
        Ok(())
    }

    /// The PgPool.
    pub fn json(&self) -> Result<Value> {
        self.object(&["pgpool", NAME])
    }

    /// Any object.
    pub fn object(&self, words: &[&str]) -> Result<Value> {
        let mut get = self.kubectl(&["get", "--output=json"])?;
        let text = run::captured(get.args(words))?;
        let what = words.join(" ");
        serde_json::from_str(&text).map_err(|source| Error::Json { what, source })
    }

    /// The pod of a node.
    pub fn pod(node: u8) -> String {
        format!("{NAME}-{node}-0")
    }

    /// A script of bash in a pod, as a command.
    pub fn script(&self, pod: &str, text: &str) -> Result<Command> {
        let container =
            format!("--container={}", if pod == super::copies::POD { "copier" } else { "postgres" });
        self.kubectl(&["exec", pod, &container, "--", "bash", "-o", "pipefail", "-euc", text])
    }

    /// Runs a script of bash in a node's pod; gives what it printed.
    pub fn exec(&self, node: u8, text: &str) -> Result<String> {
        run::captured(&mut self.script(&Self::pod(node), text)?)
    }

    /// Asks the primary; gives the unaligned answer.
    pub fn sql(&self, text: &str) -> Result<String> {
        let mut psql = self.kubectl(&["exec", &Self::pod(0), "--container=postgres", "--", "psql"])?;
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        Ok(run::captured(psql.args(["--command", text]))?.trim().to_owned())
    }

    /// Bytes of the files that a copy of a node's data holds besides WAL.
    pub fn data_bytes(&self, node: u8) -> Result<u64> {
        let said =
            self.exec(node, &format!("cd {DATA}; du --bytes --summarize --exclude=./pg_wal . | cut -f1"))?;
        let wrong = Error::Refused(format!("node {node} told no size of its data: {said}"));
        said.trim().parse().map_err(|_| wrong)
    }

    /// Puts what is still in memory on the disk, so that the next measurement doesn't pay for the last.
    pub fn settle(&self) -> Result<()> {
        self.sql("checkpoint")?;
        for node in [0, 1, 2] {
            self.exec(node, &format!("sync --file-system {DATA}"))?;
        }
        Ok(())
    }
}
