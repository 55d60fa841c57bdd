//! `cargo xtask bench operator`: what the operator, agents and fronts use while nothing happens, what they ask of the
//! Kubernetes API, and how soon a new operator has seen to every pool. Of more pools than the machine can run, all but the
//! operator and the Kubernetes API is simulated ([`simulated`]).

mod calls;
mod report;
mod simulated;

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::front::process::Processes;
use super::pool::spec;
use super::{NAMESPACE, on_cluster, prepare};
use crate::clock::{Stopwatch, timestamp};
use crate::cluster::{Cluster, enter};
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
const ANSWER: Duration = Duration::from_secs(900);
/// How long the removal of all pools, or of their namespace, may take.
const LEAVE: &str = "--timeout=3600s";
/// What follows a change is over after that.
const SETTLED: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);
/// How often many pools are looked at: each time all of them go through kubectl, which takes processor time from them.
const LOOK_AT_MANY: Duration = Duration::from_secs(3);
/// Simulated pools that are made at once. While it is being made, a pool is looked at by the operator every second.
const BATCH: u32 = 20;

/// Who applies the pools, and who their requests: two managers, or the second would take the specs away.
const MAKER: &str = "bench-pools";
const ASKER: &str = "bench-requests";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of pools, of three nodes each, one after the other; 0 for none
    #[arg(long, value_delimiter = ',', default_value = "1,10", value_parser = clap::value_parser!(u32).range(0..=100))]
    pools: Vec<u32>,
    /// Pools at last of which the operator and the Kubernetes API alone are real: machines, PostgreSQL, agents and fronts are
    /// simulated; 0 for none
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(0..=1000))]
    simulated: u32,
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
    /// What of it is no file's, in MiB.
    pub anonymous: f64,
    /// Thousandths of a processor.
    pub cpu: f64,
}

/// What was seen at rest.
#[derive(Debug)]
pub struct Rest {
    /// Pools.
    pub pools: u32,
    /// Whether all but the operator and the Kubernetes API was simulated: then there are neither agents nor fronts.
    pub simulated: bool,
    /// How long it was looked at, in seconds.
    pub seconds: f64,
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
    let kept = enter::kubectl(&Cluster::named(&options.name)?).is_ok();
    on_cluster(&options.name, |cluster| measure(options, cluster, kept))
}

/// `kept` says that the cluster was there before, and stays.
fn measure(options: &Options, cluster: &Cluster, kept: bool) -> Result<()> {
    let target = prepare(cluster)?;
    let length = Duration::from_secs(options.seconds);
    let mut counts: Vec<u32> = options.pools.iter().copied().filter(|pools| *pools > 0).collect();
    counts.sort_unstable();
    let crowd = Crowd { target: &target, simulated: false };
    let mut rests = Vec::new();
    for pools in counts {
        step(&format!("{pools} pools"), || crowd.grow(1, pools))?;
        rests.push(rest(&crowd, cluster, pools, length)?);
    }
    if !rests.is_empty() {
        tell(&rests);
        step("removal of the pools", || crowd.remove())?;
    }
    if options.simulated > 0 {
        tell(&[many(options.simulated, length, cluster, &target, kept)?]);
    }
    Ok(())
}

fn tell(rests: &[Rest]) {
    print(report::table(rests));
    for rest in rests {
        print(report::line(rest).to_string());
    }
}

/// The same of simulated pools.
fn many(pools: u32, length: Duration, cluster: &Cluster, target: &Target, kept: bool) -> Result<Rest> {
    let crowd = Crowd { target, simulated: true };
    simulated::during(cluster, NAMESPACE, pools, || {
        let measured = crowd.grow_by_and_by(pools).and_then(|()| rest(&crowd, cluster, pools, length));
        // A cluster that was made for this goes as a whole.
        let removed = if kept { step("removal of the pools", || crowd.remove()) } else { Ok(()) };
        measured.and_then(|rest| removed.map(|()| rest))
    })
}

fn rest(crowd: &Crowd<'_>, cluster: &Cluster, pools: u32, length: Duration) -> Result<Rest> {
    pause("what followed the last change", SETTLED)?;
    let groups = crowd.parts()?;
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
            let memory = process.memory()?;
            let cpu = (after - before) / seconds * 1000.0;
            Ok(Use { memory: memory.rss / 1024.0, anonymous: memory.anonymous / 1024.0, cpu })
        });
        used.push(each.collect::<Result<Vec<Use>>>()?);
    }
    let log = cluster.audit_log();
    let log = fs::read_to_string(&log).on("read", &log)?;
    let calls = calls::between(&log, from, to)?;
    let converged = step("another operator", || crowd.converged(pools))?;
    let [operator, agents, fronts] = used.try_into().unwrap_or_default();
    let simulated = crowd.simulated;
    Ok(Rest { pools, simulated, seconds, operator, agents, fronts, calls, converged })
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
    simulated: bool,
}

impl Crowd<'_> {
    fn here(&self, words: &[&str]) -> Result<std::process::Command> {
        let mut kubectl = self.target.kubectl()?;
        kubectl.args(["--namespace", NAMESPACE]).args(words);
        Ok(kubectl)
    }

    fn look(&self) -> Duration {
        if self.simulated { LOOK_AT_MANY } else { LOOK }
    }

    /// Applies these. What a manager applied before and now leaves out is taken away. The server judges what comes of it: a request alone
    /// is no whole pool, which kubectl itself would refuse.
    fn apply(&self, manager: &str, items: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        let manager = format!("--field-manager={manager}");
        let mut apply = self.here(&["apply", "--server-side", "--validate=false", &manager, "-f", "-"])?;
        run::fed(&mut apply, &list.to_string()).map(drop)
    }

    fn namespace(&self) -> Value {
        let enforce = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let annotations = if self.simulated { simulated::placement() } else { json!({}) };
        json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE, "labels": enforce, "annotations": annotations } })
    }

    /// The PgPool of a number, without a spec.
    fn named(number: u32) -> Value {
        json!({ "apiVersion": "pgpool-operator.dev/v1alpha1", "kind": "PgPool",
            "metadata": { "name": format!("rest-{number}"), "namespace": NAMESPACE } })
    }

    fn pool(&self, number: u32) -> Value {
        let mut pool = Self::named(number);
        let mut spec = spec("1Gi", true);
        if self.simulated {
            spec["storage"]["storageClassName"] = json!(simulated::CLASS);
        }
        pool["spec"] = spec;
        pool
    }

    /// Makes the pools of these numbers, where they aren't there, and waits until there are so many and all are Ready.
    fn grow(&self, first: u32, last: u32) -> Result<()> {
        let items: Vec<Value> =
            std::iter::once(self.namespace()).chain((first..=last).map(|number| self.pool(number))).collect();
        self.apply(MAKER, &items)?;
        until_every(self.look(), "all pools to be Ready", READY, || {
            let all = self.pools()?;
            let ready = all.iter().filter(|pool| demo::ready(pool)).count();
            let done = u32::try_from(ready).is_ok_and(|ready| ready >= last);
            Ok(if done { Ok(()) } else { Err(format!("{ready} of {last} are")) })
        })
    }

    /// The same of simulated ones, a few at a time.
    fn grow_by_and_by(&self, pools: u32) -> Result<()> {
        self.apply(MAKER, &[self.namespace()])?;
        simulated::check_placement(|| {
            self.here(&["create", "--dry-run=server", "--output=json", "-f", "-"])
        })?;
        let mut there = 0;
        while there < pools {
            let next = pools.min(there + BATCH);
            step(&format!("{next} of {pools} simulated pools"), || self.grow(there + 1, next))?;
            there = next;
        }
        Ok(())
    }

    fn pools(&self) -> Result<Vec<Value>> {
        let text = run::captured(&mut self.here(&["get", "pgpools", "--output=json"])?)?;
        items(&text, "pgpools")
    }

    /// The processes of the operator, of the agents, and of the fronts.
    fn parts(&self) -> Result<[Vec<Processes>; 3]> {
        let of_pools = |part: &str| {
            let selector = format!("pgpool-operator.dev/part={part}");
            self.programs(&["--all-namespaces", "--selector", selector.as_str()])
        };
        let operator = self.programs(&SYSTEM)?;
        Ok(if self.simulated {
            [operator, Vec::new(), Vec::new()]
        } else {
            [operator, of_pools("node")?, of_pools("proxy")?]
        })
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
        // Not by `kubectl annotate --all`, which makes five calls a second.
        let ask = |number| {
            let mut pool = Self::named(number);
            pool["metadata"]["annotations"] = json!({ "pgpool-operator.dev/recover": value });
            pool
        };
        self.apply(ASKER, &(1..=pools).map(ask).collect::<Vec<Value>>())?;
        until_every(self.look(), "answers of the next operator", ANSWER, || {
            let all = self.pools()?;
            let answered = |pool: &&Value| pool["status"]["lastRequest"]["value"] == value.as_str();
            let done = all.iter().filter(answered).count();
            Ok(if done == all.len() { Ok(()) } else { Err(format!("{done} of {}", all.len())) })
        })?;
        Ok(watch.elapsed().as_secs_f64())
    }

    fn remove(&self) -> Result<()> {
        for words in [["pgpools", "--all"], ["namespace", NAMESPACE]] {
            let mut delete = self.here(&["delete", "--ignore-not-found", LEAVE])?;
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
