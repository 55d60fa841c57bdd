//! `cargo xtask bench operator`: what the operator, agents and fronts use while nothing happens, what they ask of the
//! Kubernetes API, and how soon a new operator has seen to every pool.

mod calls;
mod report;

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::front::process::Processes;
use super::pool::spec;
use super::{NAMESPACE, on_cluster, prepare};
use crate::clock::{Stopwatch, timestamp};
use crate::cluster::Cluster;
use crate::demo::{self, Target};
use crate::error::{Error, OnFile, Result, refused};
use crate::progress::{print, step, until_every};
use crate::{interrupt, pods, run};
use calls::Calls;

/// Where the operator runs, and how its pods are found.
const SYSTEM: [&str; 4] =
    ["--namespace", "pgpool-system", "--selector", "app.kubernetes.io/instance=pgpool-operator"];
/// How long all pools may take to become Ready.
const READY: Duration = Duration::from_secs(1500);
/// How long a new operator may take.
const ANSWER: Duration = Duration::from_secs(300);
/// What follows a change is over after that.
const SETTLED: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of pools, of three nodes each, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,10", value_parser = clap::value_parser!(u32).range(1..=100))]
    pools: Vec<u32>,
    /// Seconds at rest for each
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..=3600))]
    seconds: u64,
    /// Embedded cluster to use; one that is not up is started, and removed in the end
    #[arg(long, default_value = "bench")]
    name: String,
}

/// What a process uses.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// Resident memory, in MiB.
    pub memory: f64,
    /// Thousandths of a processor.
    pub cpu: f64,
}

/// What was seen at rest.
#[derive(Debug)]
pub struct Rest {
    /// Pools.
    pub pools: u32,
    /// Processes of the operator; one.
    pub operator: Vec<Use>,
    /// Agents.
    pub agents: Vec<Use>,
    /// Fronts.
    pub fronts: Vec<Use>,
    /// What was asked of the API, by whom.
    pub calls: Calls,
    /// Seconds from the end of an operator until the next has answered a request of every pool.
    pub converged: f64,
}

/// Measures and prints.
pub fn operator(options: &Options) -> Result<()> {
    on_cluster(&options.name, |cluster| measure(options, cluster))
}

fn measure(options: &Options, cluster: &Cluster) -> Result<()> {
    let target = prepare(cluster)?;
    let mut counts = options.pools.clone();
    counts.sort_unstable();
    let crowd = Crowd { target: &target };
    let mut rests = Vec::new();
    for pools in counts {
        step(&format!("{pools} pools"), || crowd.grow(pools))?;
        rests.push(rest(&crowd, cluster, pools, Duration::from_secs(options.seconds))?);
    }
    print(report::table(&rests));
    for rest in &rests {
        print(report::line(rest).to_string());
    }
    crowd.remove()
}

fn rest(crowd: &Crowd<'_>, cluster: &Cluster, pools: u32, length: Duration) -> Result<Rest> {
    pause("what followed the last change", SETTLED)?;
    let selector = |part: &str| format!("pgpool-operator.dev/part={part}");
    let (nodes, fronts) = (selector("node"), selector("proxy"));
    let of_pools = |part: &str| crowd.programs(&["--all-namespaces", "--selector", part]);
    let groups = [crowd.programs(&SYSTEM)?, of_pools(&nodes)?, of_pools(&fronts)?];
    let cpu = |groups: &[Vec<Processes>; 3]| -> Result<Vec<Vec<f64>>> {
        groups.iter().map(|group| group.iter().map(Processes::cpu).collect()).collect()
    };
    let (from, before, watch) = (timestamp(), cpu(&groups)?, Stopwatch::start());
    pause("rest", length)?;
    let (after, seconds, to) = (cpu(&groups)?, watch.elapsed().as_secs_f64(), timestamp());
    let mut used = Vec::new();
    for (group, (before, after)) in groups.iter().zip(before.iter().zip(&after)) {
        let each = group.iter().zip(before.iter().zip(after));
        let each = each.map(|(process, (before, after))| {
            let cpu = (after - before) / seconds * 1000.0;
            Ok(Use { memory: process.memory()?.rss / 1024.0, cpu })
        });
        used.push(each.collect::<Result<Vec<Use>>>()?);
    }
    let log = cluster.audit_log();
    let log = fs::read_to_string(&log).on("read", &log)?;
    let calls = calls::between(&log, from, to)?;
    let converged = step("another operator", || crowd.converged(pools))?;
    let [operator, agents, fronts] = used.try_into().unwrap_or_default();
    Ok(Rest { pools, operator, agents, fronts, calls, converged })
}

/// Lets a time go by, in which nothing is to happen.
fn pause(what: &str, length: Duration) -> Result<()> {
    step(what, || {
        let watch = Stopwatch::start();
        while !watch.over(length) {
            interrupt::check()?;
            sleep(LOOK);
        }
        Ok(())
    })
}

/// Many pools in one namespace.
struct Crowd<'t> {
    target: &'t Target,
}

impl Crowd<'_> {
    fn here(&self, words: &[&str]) -> Result<std::process::Command> {
        let mut kubectl = self.target.kubectl()?;
        kubectl.args(["--namespace", NAMESPACE]).args(words);
        Ok(kubectl)
    }

    /// Makes pools until there are so many, and waits until all are Ready.
    fn grow(&self, pools: u32) -> Result<()> {
        let enforce = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE, "labels": enforce } });
        let pool = |number: u32| {
            json!({ "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
                "metadata": { "name": format!("rest-{number}"), "namespace": NAMESPACE }, "spec": spec("1Gi", true) })
        };
        let items: Vec<Value> = std::iter::once(namespace).chain((1..=pools).map(pool)).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        run::fed(&mut self.here(&["apply", "--server-side", "-f", "-"])?, &list.to_string())?;
        until_every(LOOK, "all pools to be Ready", READY, || {
            let all = self.pools()?;
            let ready = all.iter().filter(|pool| demo::ready(pool)).count();
            let done = u32::try_from(ready).is_ok_and(|ready| ready >= pools);
            Ok(if done { Ok(()) } else { Err(format!("{ready} of {pools} are")) })
        })
    }

    fn pools(&self) -> Result<Vec<Value>> {
        let text = run::captured(&mut self.here(&["get", "pgpools", "--output=json"])?)?;
        items(&text, "pgpools")
    }

    /// The first process of each of the pods that these words of kubectl find: operator, agent or front.
    fn programs(&self, words: &[&str]) -> Result<Vec<Processes>> {
        let mut get = self.target.kubectl()?;
        let text = run::captured(get.args(["get", "pods", "--output=json"]).args(words))?;
        let mut found = Vec::new();
        for pod in items(&text, "pods")? {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            found.push(Processes { pids: vec![pods::first_process(uid)?] });
        }
        if found.is_empty() {
            return refused(format!("no pods are found: {}", words.join(" ")));
        }
        Ok(found)
    }

    /// Deletes the operator's pod, asks something of every pool that can't be, and waits for all the answers; gives the seconds.
    fn converged(&self, pools: u32) -> Result<f64> {
        let value = (100 + pools).to_string();
        let watch = Stopwatch::start();
        let mut delete = self.target.kubectl()?;
        run::captured(delete.args(["delete", "pod", "--wait=false"]).args(SYSTEM))?;
        let request = format!("pgpool-operator.dev/recover={value}");
        run::captured(&mut self.here(&["annotate", "--overwrite", "pgpools", "--all", &request])?)?;
        until_every(LOOK, "answers of the next operator", ANSWER, || {
            let all = self.pools()?;
            let answered = |pool: &&Value| pool["status"]["lastRequest"]["value"] == value.as_str();
            let done = all.iter().filter(answered).count();
            Ok(if done == all.len() { Ok(()) } else { Err(format!("{done} of {}", all.len())) })
        })?;
        Ok(watch.elapsed().as_secs_f64())
    }

    fn remove(&self) -> Result<()> {
        for words in [["pgpools", "--all"], ["namespace", NAMESPACE]] {
            let mut delete = self.here(&["delete", "--ignore-not-found", "--timeout=600s"])?;
            run::captured(delete.args(words))?;
        }
        Ok(())
    }
}

fn items(text: &str, what: &str) -> Result<Vec<Value>> {
    let list: Value =
        serde_json::from_str(text).map_err(|source| Error::Json { what: what.to_owned(), source })?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}
