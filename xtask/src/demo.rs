//! `cargo xtask demo`: from nothing to a pool of three nodes, and what to type next.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cargo::Profile;
use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster, TOLERATION};
use crate::error::{Error, Result, refused};
use crate::images::{self, Form};
use crate::programs::Programs;
use crate::progress::{print, say, step, until_every};
use crate::{host, paths, run};

const RELEASE: &str = "pgpool-operator";
const SYSTEM: &str = "pgpool-system";
const CHART: &str = "charts/pgpool-operator";
const EXAMPLE: &str = "examples/demo.yaml";
/// Namespace of the example's pool.
pub const SPACE: &str = "demo";
/// How long the pool may take until it is Ready.
const READY: Duration = Duration::from_secs(900);
/// How often the pool is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long helm waits for the operator.
const INSTALLED: Duration = Duration::from_secs(300);
/// Selects what helm knows of a release that it is at work on.
const PENDING: &str = "status in (pending-install,pending-upgrade,pending-rollback)";

/// Where the demonstration runs.
pub enum Target {
    /// In our own cluster.
    Embedded(Cluster),
    /// In the cluster of a kubeconfig's context.
    Context(String),
}

impl Target {
    /// kubectl, as the administrator.
    pub fn kubectl(&self) -> Result<Command> {
        match self {
            Self::Embedded(cluster) => cluster::enter::program(cluster, "kubectl"),
            Self::Context(context) => {
                let mut kubectl = host_program("kubectl", &["kube", "kubectl"])?;
                kubectl.args(["--context", context]);
                Ok(kubectl)
            }
        }
    }

    fn helm(&self) -> Result<Command> {
        match self {
            Self::Embedded(cluster) => cluster::enter::program(cluster, "helm"),
            Self::Context(context) => {
                let mut helm = host_program("helm", &["helm"])?;
                helm.args(["--kube-context", context]);
                Ok(helm)
            }
        }
    }

    /// How a person calls kubectl here.
    fn typed(&self) -> String {
        match self {
            Self::Embedded(cluster) if cluster.name() == "dev" => "cargo xtask kubectl --".to_owned(),
            Self::Embedded(cluster) => format!("cargo xtask kubectl --name {} --", cluster.name()),
            Self::Context(context) => format!("kubectl --context {context}"),
        }
    }

    /// How a person calls this command again for the same target.
    fn typed_demo(&self) -> String {
        match self {
            Self::Embedded(cluster) if cluster.name() == "dev" => "cargo xtask demo".to_owned(),
            Self::Embedded(cluster) => format!("cargo xtask demo --name {}", cluster.name()),
            Self::Context(context) => format!("cargo xtask demo --context {context}"),
        }
    }
}

/// The host's own program, or the one from our Go sources with its first arguments.
fn host_program(name: &str, own: &[&str]) -> Result<Command> {
    if run::output(&mut run::command(name, ["version", "--client"])).is_ok() {
        return Ok(Command::new(name));
    }
    let programs = Programs::build()?;
    let Some((program, args)) = own.split_first() else {
        return refused(format!("there is no {name}"));
    };
    Ok(run::command(programs.path(program)?, args))
}

/// Brings the pool up; what is there already stays. Programs are compiled soon for the embedded cluster, for use elsewhere, unless
/// it is said how.
pub fn up(target: &Target, profile: Option<Profile>) -> Result<()> {
    let watch = Stopwatch::start();
    let fresh = match target {
        Target::Embedded(cluster) => {
            cluster::up(cluster, TOLERATION)?;
            let programs = Programs::build()?;
            let profile = profile.unwrap_or(Profile::Dev);
            let own = step("images", || images::of_the_checkout(&programs, Form::WithoutRoot, profile))?;
            step("images into the nodes", || cluster::load(cluster, &own))? > 0
        }
        Target::Context(context) => {
            host::need_packages()?;
            let programs = Programs::build()?;
            let profile = profile.unwrap_or(Profile::Release);
            let own = step("images", || images::of_the_checkout(&programs, Form::Whole, profile))?;
            say(format!("the nodes of {context} need these images (`ctr -n k8s.io images import FILE`, or"));
            say("`kind load image-archive FILE`); pods wait until they have them:");
            for image in &own {
                say(format!("  {} {}", image.name, image.tar.display()));
            }
            false
        }
    };
    step("operator", || install(target, fresh))?;
    step("pool demo", || {
        let mut apply = target.kubectl()?;
        run::captured(apply.args(["apply", "--server-side", "-f"]).arg(paths::checkout().join(EXAMPLE)))?;
        wait(target, watch)
    })?;
    print(next(target, watch.elapsed()));
    Ok(())
}

/// Installs the operator by its chart, or brings it up to date.
pub fn install(target: &Target, fresh_image: bool) -> Result<()> {
    forget_broken_off(target)?;
    let mut helm = target.helm()?;
    helm.args(["upgrade", "--install", RELEASE]).arg(paths::checkout().join(CHART));
    let limit = format!("{}s", INSTALLED.as_secs());
    helm.args(["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", &limit]);
    for value in
        ["image.repository=localhost/pgpool-operator", "image.tag=dev", "image.pullPolicy=IfNotPresent"]
    {
        helm.args(["--set", value]);
    }
    let installed = run::captured(&mut helm);
    if installed.is_err() {
        say("the operator did not start; its pods are:");
        run::visible(target.kubectl()?.args(["--namespace", SYSTEM, "get", "pods", "--output=wide"]))?;
        let mut logs = target.kubectl()?;
        logs.args(["--namespace", SYSTEM, "logs", "--tail=20", "--prefix", "--selector"]);
        run::visible(logs.arg(format!("app.kubernetes.io/instance={RELEASE}")))?;
    }
    installed?;
    if fresh_image {
        // The tag is the same, so nothing else tells the pods that there is a newer program.
        let mut restart = target.kubectl()?;
        restart.args(["--namespace", SYSTEM, "rollout", "restart", "deployment"]);
        run::captured(restart.args(["--selector", &format!("app.kubernetes.io/instance={RELEASE}")]))?;
    }
    Ok(())
}

/// Helm refuses a release for good while it takes another helm to be at work on it, also one that was killed. What that one has made
/// stays, and is taken over. On a cluster of others it may well be at work: it has the time that ours have.
fn forget_broken_off(target: &Target) -> Result<()> {
    let limit = match target {
        Target::Embedded(_) => Duration::ZERO,
        Target::Context(_) => INSTALLED,
    };
    let selector = format!("owner=helm,name={RELEASE},{PENDING}");
    let secrets = || {
        let mut kubectl = target.kubectl()?;
        kubectl.args(["--namespace", SYSTEM]);
        Ok::<_, Error>(kubectl)
    };
    // What was seen last, and since when: another one is another helm's.
    let mut seen = (String::new(), Stopwatch::start());
    until_every(LOOK, "the end of another helm", 2 * limit + READY, || {
        let left =
            run::captured(secrets()?.args(["get", "secrets", "--output=name", "--selector", &selector]))?;
        let left = left.trim().to_owned();
        if left.is_empty() {
            return Ok(Ok(()));
        }
        if left != seen.0 {
            if !limit.is_zero() {
                say(format!(
                    "helm is at work on release {RELEASE}, or was killed at it: waiting for its end, or for {} s",
                    limit.as_secs()
                ));
            }
            seen = (left.clone(), Stopwatch::start());
        }
        if !seen.1.over(limit) {
            return Ok(Err(left));
        }
        say(format!("an earlier start of the operator was broken off, and is taken over ({left})"));
        let words = ["delete", "--ignore-not-found"];
        run::captured(secrets()?.args(words).args(left.split_whitespace())).map(|_| Ok(()))
    })
}

fn wait(target: &Target, watch: Stopwatch) -> Result<()> {
    let mut shown = String::new();
    let result = until_every(LOOK, "the condition Ready of pool demo", READY, || {
        let mut get = target.kubectl()?;
        let answer =
            run::output(get.args(["--namespace", "demo", "get", "pgpool", "demo", "--output=json"]))?;
        if !answer.status.success() {
            return Ok(Err(String::from_utf8_lossy(&answer.stderr).trim().to_owned()));
        }
        let pool: Value = serde_json::from_slice(&answer.stdout)
            .map_err(|source| Error::Json { what: "pool demo".to_owned(), source })?;
        let line = told(&pool);
        if line != shown {
            say(format!("  {:5.1} s  {line}", watch.elapsed().as_secs_f64()));
            shown.clone_from(&line);
        }
        Ok(if ready(&pool) { Ok(()) } else { Err(line) })
    });
    if result.is_err() {
        say("the pods are:");
        run::visible(target.kubectl()?.args(["--namespace", "demo", "get", "pods", "--output=wide"]))?;
    }
    result
}

/// Whether the condition Ready is true, for the spec as it is now.
pub fn ready(pool: &Value) -> bool {
    let generation = &pool["metadata"]["generation"];
    let conditions = pool["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    pool["status"]["observedGeneration"] == *generation
        && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The pool's state in one line.
fn told(pool: &Value) -> String {
    let status = &pool["status"];
    let phase = status["phase"].as_str().unwrap_or("not yet seen by the operator");
    let mut parts = vec![phase.to_owned()];
    if let Some(attached) = status["attached"].as_str() {
        parts.push(format!("{attached} attached"));
    }
    let recovery = &status["recovery"];
    if let (Some(node), Some(stage)) = (recovery["node"].as_u64(), recovery["stage"].as_str()) {
        let (bytes, total) =
            (recovery["bytes"].as_u64().unwrap_or(0), recovery["total"].as_u64().unwrap_or(0));
        let share = if stage == "Copying" && total > 0 {
            format!(" {} %", bytes.min(total) * 100 / total)
        } else {
            String::new()
        };
        parts.push(format!("node {node}: {stage}{share}"));
    }
    let conditions = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let why = conditions.iter().find(|c| c["type"] == "Ready" && c["status"] == "False");
    if let Some(message) = why.and_then(|c| c["message"].as_str()).filter(|m| !m.is_empty()) {
        parts.push(message.to_owned());
    }
    parts.join(", ")
}

fn next(target: &Target, took: Duration) -> String {
    let (kubectl, demo) = (target.typed(), target.typed_demo());
    format!(
        "\nPool demo is Ready after {:.0} s. Next:\n
  {kubectl} -n demo get pgpool demo -o wide
  {kubectl} -n demo exec demo-0-0 -c postgres -- psql -c 'select version()'
  {kubectl} -n demo annotate pgpool/demo pgpool-operator.dev/recover=2
  {kubectl} -n demo get pgpool demo --watch
  {kubectl} -n demo get events --watch
  {demo} --down\n",
        took.as_secs_f64()
    )
}

/// Removes every trace of the demonstration.
pub fn down(target: &Target) -> Result<()> {
    let Target::Embedded(cluster) = target else {
        return step("pool demo and operator", || uninstall(target));
    };
    cluster::down(cluster)
}

fn uninstall(target: &Target) -> Result<()> {
    // Where the definitions are gone kubectl knows no PgPool: then only the namespace can be left.
    let mut known = target.kubectl()?;
    known.args(["get", "crd", "--ignore-not-found", "-o", "name", "pgpools.pgpool-operator.dev"]);
    let mut delete = target.kubectl()?;
    if run::captured(&mut known)?.trim().is_empty() {
        delete.args(["delete", "namespace", "--ignore-not-found", SPACE]);
    } else {
        delete.args(["delete", "--ignore-not-found", "-f"]).arg(paths::checkout().join(EXAMPLE));
    }
    run::captured(&mut delete)?;
    let mut left = target.kubectl()?;
    left.args(["get", "pgpools", "--all-namespaces", "--ignore-not-found", "-o", "name"]);
    // Without definitions there is none. Others' pools keep theirs, and their operator.
    let left = run::output(&mut left)?.stdout;
    if !left.is_empty() {
        say(format!(
            "other pools are left, and so is the operator: {}",
            String::from_utf8_lossy(&left).trim().replace('\n', ", ")
        ));
        return Ok(());
    }
    let mut helm = target.helm()?;
    run::captured(helm.args(["uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found", "--wait"]))?;
    for kind in ["pgpools", "pgpoolmemberships"] {
        let name = format!("{kind}.pgpool-operator.dev");
        let mut crd = target.kubectl()?;
        run::captured(crd.args(["delete", "crd", "--ignore-not-found", &name]))?;
    }
    let mut namespace = target.kubectl()?;
    run::captured(namespace.args(["delete", "namespace", "--ignore-not-found", SYSTEM])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pool_is_ready_only_for_the_spec_that_the_operator_has_seen() {
        let pool = |seen: i64, status: &str| {
            json!({ "metadata": { "generation": 2 }, "status": { "observedGeneration": seen,
                "conditions": [{ "type": "Ready", "status": status }] } })
        };
        assert!(ready(&pool(2, "True")));
        assert!(!ready(&pool(1, "True")));
        assert!(!ready(&pool(2, "False")));
        assert!(!ready(&json!({ "metadata": { "generation": 1 } })));
    }

    #[test]
    fn a_recovery_shows_its_node_and_how_far_it_is() {
        let pool = json!({ "status": { "phase": "Recovering", "attached": "1/3",
            "recovery": { "node": 1, "stage": "Copying", "bytes": 50, "total": 200 },
            "conditions": [{ "type": "Ready", "status": "False", "message": "node 1 is being copied" }] } });
        assert_eq!(told(&pool), "Recovering, 1/3 attached, node 1: Copying 25 %, node 1 is being copied");
        assert_eq!(told(&json!({})), "not yet seen by the operator");
    }

    #[test]
    fn what_to_type_next_can_be_typed() {
        let embedded = |name| Target::Embedded(Cluster::named(name).unwrap());
        let text = |target| next(&target, Duration::from_secs(23));
        let dev = text(embedded("dev"));
        assert!(
            dev.contains("after 23 s") && dev.contains("  cargo xtask kubectl -- -n demo get pgpool demo")
        );
        assert!(dev.ends_with("  cargo xtask demo --down\n"));
        let other = text(embedded("other"));
        assert!(other.contains("  cargo xtask kubectl --name other -- -n demo annotate"));
        assert!(other.ends_with("  cargo xtask demo --name other --down\n"));
        let context = text(Target::Context("far".to_owned()));
        assert!(context.contains("  kubectl --context far -n demo exec"));
        assert!(context.ends_with("  cargo xtask demo --context far --down\n"));
    }
}
