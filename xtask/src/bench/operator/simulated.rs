//! Pools of which the operator and the Kubernetes API alone are real; the rest is `pgpool-simulator`'s
//! (xtask/simulator), which runs on the cluster's client machine. Its own calls are an administrator's, of which the audit
//! log tells nothing.
//!
//! 1. Routes lead a network of its own to that machine: each simulated pod gets an address there, at which its agent is asked.
//! 2. It makes Kubernetes nodes without a kubelet behind them, and volumes.
//! 3. The namespace says where its pods go, by annotations that the API server's admission knows: the front has no placement
//!    of its own.
//! 4. Whatever happens, the simulator ends, and what it has made goes.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cargo::{self, Profile};
use crate::clock::Stopwatch;
use crate::cluster::{Cluster, Machine, enter, routes};
use crate::error::{Error, OnFile, Result, refused};
use crate::progress::{say, step, until_every};
use crate::run;

/// The program.
const PROGRAM: &str = "pgpool-simulator";
/// Storage class of the simulated volumes (xtask/simulator).
pub const CLASS: &str = "simulated";
/// Label of all that the simulator makes, and taint of its machines.
const SIMULATED: &str = "pgpool-operator.dev/simulated";
/// Where that is.
const MADE: [&str; 4] = [
    "/api/v1/nodes",
    "/api/v1/persistentvolumes",
    "/apis/storage.k8s.io/v1/storageclasses",
    "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
];
/// Addresses of simulated pods, and the first of them; pods that are real have others.
const NETWORK: &str = "10.245.0.0/16";
const FIRST: &str = "10.245.0.1";
/// Volumes of each machine beyond those that the pools need.
const SPARE: u32 = 20;
/// How long the simulator may take to end, and a new namespace until pods can be made there.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(200);

/// Simulates while something is done, for so many pools of a namespace; afterwards nothing of it is left, also where that
/// failed or was interrupted. Pods are gone before, or with their machines.
pub fn during<T>(
    cluster: &Cluster,
    namespace: &str,
    pools: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let simulator = step("simulator", || start(cluster, namespace, pools));
    let result = simulator.and_then(|simulator| {
        let result = work();
        drop(simulator);
        result
    });
    let cleaned = forget(cluster);
    result.and_then(|value| cleaned.map(|()| value))
}

/// The running simulator; ends when it is dropped.
struct Simulator(Child);

impl Drop for Simulator {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        let watch = Stopwatch::start();
        while !watch.over(PATIENCE) {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            sleep(LOOK);
        }
        say(format!("{PROGRAM} doesn't end, and is killed"));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(cluster: &Cluster, namespace: &str, pools: u32) -> Result<Simulator> {
    routes::lead_to_client(cluster, NETWORK)?;
    let built = cargo::build_programs(Profile::Release)?;
    let Some((_, program)) = built.into_iter().find(|(name, _)| name == PROGRAM) else {
        return refused(format!("cargo built no program named {PROGRAM}"));
    };
    let mut words = vec![program.into_os_string()];
    words.extend(arguments(namespace, pools).into_iter().map(OsString::from));
    let mut command = enter::command(cluster, &words)?;
    // Its files go with the cluster, should it be killed. A group of its own: the user's Ctrl-C is not for it, as it is needed for
    // cleaning up.
    command.env("PGPOOL_LOG", "warn").env("TMPDIR", cluster.run()).process_group(0);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|source| Error::Start { command: run::shown(&command), source })?;
    let output = child.stdout.take();
    let simulator = Simulator(child);
    let mut said = String::new();
    if let Some(output) = output {
        BufReader::new(output).read_line(&mut said).on("read from", PROGRAM)?;
    }
    if said.trim() == "ready" { Ok(simulator) } else { refused(format!("{PROGRAM} ended; see above")) }
}

fn arguments(namespace: &str, pools: u32) -> Vec<String> {
    let machine = Machine::Client.address().map(|address| address.to_string());
    let all = [
        ("--namespace", namespace.to_owned()),
        ("--machine", machine.unwrap_or_default()),
        ("--first", FIRST.to_owned()),
        ("--volumes", (pools + SPARE).to_string()),
    ];
    all.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// Takes away what the simulator has made, each kind by one call. Pods that are still bound to its machines are collected by
/// Kubernetes.
fn forget(cluster: &Cluster) -> Result<()> {
    for path in MADE {
        let uri = format!("{path}?labelSelector={SIMULATED}=true");
        run::captured(enter::kubectl(cluster)?.args(["delete", "--raw", &uri]))?;
    }
    routes::forget(cluster, NETWORK)
}

/// Annotations of a namespace whose pods go to the simulated machines (Kubernetes docs, "PodNodeSelector" and
/// "PodTolerationRestriction").
pub fn placement() -> Value {
    let toleration = json!({ "key": SIMULATED, "operator": "Exists", "effect": "NoSchedule" });
    json!({ "scheduler.alpha.kubernetes.io/node-selector": format!("{SIMULATED}=true"),
        "scheduler.alpha.kubernetes.io/defaultTolerations": json!([toleration]).to_string() })
}

/// Fails where the API server doesn't place pods so: those of hundreds of fronts would come to the real machines. `create` makes a
/// pod in the namespace, and only seems to.
pub fn check_placement(create: impl Fn() -> Result<Command>) -> Result<()> {
    until_every(LOOK, "a pod that is placed by its namespace", PATIENCE, || {
        // A new namespace lacks its service account for a moment, and admission may know the one that was there before.
        let made = match run::fed(&mut create()?, &probe().to_string()) {
            Ok(made) => made,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let made: Value =
            serde_json::from_str(&made).map_err(|source| Error::Json { what: "a pod".to_owned(), source })?;
        Ok(if is_placed(&made["spec"]) { Ok(()) } else { Err(NOT_PLACED.to_owned()) })
    })
}

/// Why a pod isn't.
const NOT_PLACED: &str = "the API server was started without PodNodeSelector and PodTolerationRestriction: end the cluster first, by \
    cargo xtask cluster down";

fn is_placed(spec: &Value) -> bool {
    let tolerations = spec["tolerations"].as_array().map_or(&[][..], Vec::as_slice);
    spec["nodeSelector"][SIMULATED] == "true" && tolerations.iter().any(|one| one["key"] == SIMULATED)
}

/// A pod that the strictest security standard takes.
fn probe() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probe" }, "spec": {
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{ "name": "probe", "image": "localhost/pause:dev", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_sends_its_pods_to_machines_that_nobody_else_tolerates() {
        let annotations = placement();
        assert_eq!(
            annotations["scheduler.alpha.kubernetes.io/node-selector"],
            "pgpool-operator.dev/simulated=true"
        );
        let text = annotations["scheduler.alpha.kubernetes.io/defaultTolerations"].as_str().unwrap();
        let tolerations: Value = serde_json::from_str(text).unwrap();
        let placed = json!({ "nodeSelector": { "pgpool-operator.dev/simulated": "true" }, "tolerations": tolerations });
        assert!(is_placed(&placed));
        assert!(!is_placed(&probe()["spec"]), "nobody has placed it yet");
    }

    #[test]
    fn the_simulator_is_told_what_it_has_to_know() {
        let words = arguments("space", 300).join(" ");
        assert_eq!(words, "--namespace space --machine 10.77.0.1 --first 10.245.0.1 --volumes 320");
        let [network, first] = [NETWORK, FIRST].map(|text| text.rsplit_once('.').unwrap().0);
        assert_eq!(network, first, "the first address is one of the network's");
    }
}
