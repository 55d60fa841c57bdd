//! `cargo xtask demo` as people type it: from nothing, again, by the context of a kubeconfig, with the other examples beside it,
//! and down, after which nothing may be left of it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::tally::Tally;
use super::traces::{self, Running};
use super::{examples, loss, stage};
use crate::clock::Stopwatch;
use crate::cluster::{self, Cluster};
use crate::demo;
use crate::error::{Error, OnFile, Result, refused};
use crate::progress::{print, say, until};
use crate::{files, host, run};

/// Its cluster: one that nobody else has a demonstration on.
pub const CLUSTER: &str = "test-demo";
/// A context of a kubeconfig that leads there.
const CONTEXT: &str = "far";
/// The context that this kubeconfig begins with.
const NOWHERE: &str = "nowhere";
/// What is promised of the command, whatever its sources say: release and namespace of the operator, namespace of the pool.
const RELEASE: &str = "pgpool-operator";
const SYSTEM: &str = "pgpool-system";
pub const SPACE: &str = "demo";
/// How long helm may take until it has noted what it is at.
const PENDING: Duration = Duration::from_secs(60);
/// How long the kernel may take to let go of what has ended.
const SETTLED: Duration = Duration::from_secs(10);

/// What the steps have in common.
struct Stage {
    cluster: Cluster,
    /// What was on the machine before them.
    before: BTreeSet<String>,
}

/// One of them.
type Work = fn(&Stage) -> Result<()>;

/// Before the other examples; each begins where the one before it has come to.
const STEPS: [(&str, Work); 8] = [
    ("killed_while_its_cluster_starts", killed_early),
    ("killed_while_its_operator_starts", killed_later),
    ("over_what_was_left_to_a_pool", to_a_pool),
    ("its_cluster_tells_of_itself_and_can_be_reached", reached),
    ("again_it_picks_up", again),
    ("its_primary_is_killed_and_another_takes_over", primary_killed),
    ("down_by_context_leaves_the_cluster", down_by_context),
    ("by_context_it_builds_no_cluster", by_context),
];

/// Runs all of it; the cluster goes afterwards whatever happened.
pub fn run(keep: bool) -> Result<Tally> {
    // Packages that are missing stay: they are none of what has to go.
    host::need_root()?;
    host::need_packages()?;
    stage::remove(CLUSTER)?;
    let stage = Stage { cluster: Cluster::named(CLUSTER)?, before: traces::things(CLUSTER)? };
    let sum = play(&stage, keep);
    Ok(if stage::take_down(CLUSTER, keep) { sum } else { sum + Tally::FAILURE })
}

fn play(stage: &Stage, keep: bool) -> Tally {
    let mut sum = Tally::default();
    for (name, work) in STEPS {
        sum = sum + seen(&format!("demo::{name}"), || work(stage));
        if sum.failed > 0 {
            say("what comes behind it is not tried");
            return sum;
        }
    }
    sum = sum
        + examples::run(&stage.cluster).unwrap_or_else(|e| {
            say(format!("error: no examples: {e}"));
            Tally::FAILURE
        });
    if keep { sum } else { sum + seen("demo::down_leaves_nothing", || down(stage)) }
}

/// One test, shown as those of the other parts are.
pub fn seen(name: &str, work: impl FnOnce() -> Result<()>) -> Tally {
    let watch = Stopwatch::start();
    let result = work();
    let seconds = watch.elapsed().as_secs_f64();
    match result {
        Ok(()) => {
            print(format!("test {name} ... ok ({seconds:.1} s)"));
            Tally::SUCCESS
        }
        Err(e) => {
            print(format!("test {name} ... FAILED ({seconds:.1} s)\n    {e}"));
            Tally::FAILURE
        }
    }
}

fn need(good: bool, why: impl Into<String>) -> Result<()> {
    if good { Ok(()) } else { refused(why) }
}

/// Killed with all that it has started when its cluster is there by half: machines run, and stay.
fn killed_early(stage: &Stage) -> Result<()> {
    killed(&stage.cluster, |line| Ok(line.starts_with("✓ API server ")))?;
    need(!traces::machines(CLUSTER)?.is_empty(), "nothing of a cluster was there yet")?;
    need(!stage.cluster.finished().exists(), "its cluster was finished already")
}

/// Killed while helm waits for the operator, of which helm takes note in the cluster.
fn killed_later(stage: &Stage) -> Result<()> {
    let are_loaded = |line: &str| line.starts_with("✓ images into the nodes ");
    let selector = format!("--selector=owner=helm,name={RELEASE},status=pending-install");
    let words = ["--namespace", SYSTEM, "get", "secrets", &selector];
    let is_pending = || {
        until("helm at work", PENDING, || {
            let found = object(&stage.cluster, &words)?;
            let is_there = found["items"].as_array().is_some_and(|items| !items.is_empty());
            Ok(if is_there { Ok(()) } else { Err("no release that helm is at work on".to_owned()) })
        })
    };
    killed(&stage.cluster, |line| if are_loaded(line) { is_pending().map(|()| true) } else { Ok(false) })?;
    is_pending()
}

/// From what there is to a pool, with visible progress, and what to type next.
fn to_a_pool(stage: &Stage) -> Result<()> {
    let said = embedded(&[])?;
    need(
        said.iter().any(|line| line.ends_with(" Ready, 3/3 attached")),
        "no line tells how far the pool is",
    )?;
    whole(&stage.cluster)?;
    let next: Vec<&str> = said.iter().filter_map(|line| line.trim().strip_prefix("cargo xtask ")).collect();
    need(next.contains(&format!("demo --name {CLUSTER} --down").as_str()), "it doesn't say how to end it")?;
    let Some(words) = next.iter().find(|words| words.contains(" get pgpool ")) else {
        return refused("it doesn't say how to look at the pool");
    };
    let shown = run::captured(&mut run::command(program(), words.split_whitespace()))?;
    need(shown.contains("3/3"), format!("cargo xtask {words} says: {shown}"))
}

/// The cluster says what runs, and a command of the host reaches a Service by its name.
fn reached(_: &Stage) -> Result<()> {
    let mut status = run::command(program(), ["cluster", "status", "--name", CLUSTER]);
    let shown = run::captured(&mut status)?;
    let are_told = ["apiserver pid", "kubelet pid", "n1 ", "n2 ", "n3 ", " Ready "]
        .iter()
        .all(|word| shown.contains(word));
    need(are_told, format!("cluster status says: {shown}"))?;
    let connect = "exec 3<>/dev/tcp/demo.demo.svc.cluster.local/5432";
    let words = ["cluster", "exec", "--name", CLUSTER, "--", "timeout", "10", "bash", "-c", connect];
    run::captured(&mut run::command(program(), words)).map(drop)
}

/// Nothing is made anew.
fn again(stage: &Stage) -> Result<()> {
    let front = ["--namespace", SPACE, "rollout", "status", "deployment/demo-proxy", "--timeout=120s"];
    run::captured(cluster::enter::kubectl(&stage.cluster)?.args(front))?;
    let before = standing(&stage.cluster)?;
    embedded(&[])?;
    same(&before, &standing(&stage.cluster)?)?;
    whole(&stage.cluster)
}

/// The pool loses its primary.
fn primary_killed(stage: &Stage) -> Result<()> {
    loss::primary_killed(&stage.cluster)?;
    whole(&stage.cluster)
}

/// By the context of a kubeconfig the pool and the operator go, with all that came with them, and the cluster stays.
fn down_by_context(stage: &Stage) -> Result<()> {
    let before = clusters()?;
    by(&stage.cluster, &["--down"])?;
    same(&before, &clusters()?)?;
    let mut left = cluster::enter::kubectl(&stage.cluster)?;
    let left = run::captured(left.args(["get", "namespaces,customresourcedefinitions", "--output=name"]))?;
    let is_ours = |name: &&str| {
        let space = name.strip_prefix("namespace/");
        name.contains("pgpool-operator.dev") || space.is_some_and(|space| [SPACE, SYSTEM].contains(&space))
    };
    let ours: Vec<&str> = left.lines().filter(is_ours).collect();
    need(ours.is_empty(), format!("there is still {}", ours.join(", ")))
}

/// By the context everything is made again, but for the cluster; which images its nodes have to have is told.
fn by_context(stage: &Stage) -> Result<()> {
    let before = clusters()?;
    let said = by(&stage.cluster, &["--profile", "dev"])?;
    same(&before, &clusters()?)?;
    whole(&stage.cluster)?;
    let images = said.iter().filter_map(|line| line.trim().strip_prefix("localhost/")?.split_once(' '));
    let images: Vec<(&str, &str)> = images.collect();
    let are_there = images.iter().all(|(_, tar)| Path::new(tar).is_file());
    need(!images.is_empty() && are_there, format!("no images can be had: {images:?}"))?;
    let kubectl = format!("kubectl --context {CONTEXT} -n {SPACE} get pgpool ");
    need(said.iter().any(|line| line.contains(&kubectl)), "it doesn't say how to look at the pool there")
}

/// Of what the cluster was, nothing is left: processes, namespaces, mounts, cgroups, links, tables, files.
fn down(stage: &Stage) -> Result<()> {
    let running = Running::of(&stage.cluster, &stage.before)?;
    embedded(&["--down"])?;
    until("the end of all that was made", SETTLED, || {
        let left = running.left(&stage.before)?;
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join("\n")) })
    })
}

/// The pool has its three nodes, and the operator is a release of helm.
fn whole(cluster: &Cluster) -> Result<()> {
    let pool = object(cluster, &["--namespace", SPACE, "get", "pgpool", "demo"])?;
    let is_whole = pool["spec"]["nodes"] == 3 && pool["status"]["attached"] == "3/3";
    need(is_whole && demo::ready(&pool), format!("pool demo: {}", pool["status"]))?;
    let mut helm = cluster::enter::program(cluster, "helm")?;
    let status = run::captured(helm.args(["status", RELEASE, "--namespace", SYSTEM, "--output", "json"]))?;
    let release = parsed("helm status", &status)?;
    need(release["info"]["status"] == "deployed", format!("{RELEASE}: {}", release["info"]))
}

/// The machines of our cluster, and the names of all clusters.
fn clusters() -> Result<BTreeSet<String>> {
    let mut all = traces::machines(CLUSTER)?;
    let folder = Cluster::all_disks();
    for entry in fs::read_dir(&folder).on("list", &folder)? {
        all.insert(format!("cluster {}", entry.on("list", &folder)?.path().display()));
    }
    Ok(all)
}

/// What another run must leave as it is: clusters, the pool, its containers, the operator.
fn standing(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut all = clusters()?;
    let parts = "pgpool-operator.dev/part in (node,proxy)";
    for words in [
        &["--namespace", SPACE, "get", "pgpools"][..],
        &["--namespace", SPACE, "get", "pods", "--selector", parts],
        &["--namespace", SYSTEM, "get", "deployments"],
    ] {
        let list = object(cluster, words)?;
        let items = list["items"].as_array().filter(|items| !items.is_empty());
        let Some(items) = items else {
            return refused(format!("kubectl {} lists nothing", words.join(" ")));
        };
        all.extend(items.iter().map(identity));
    }
    Ok(all)
}

/// What makes an object, or a container of it, another one.
fn identity(object: &Value) -> String {
    let metadata = &object["metadata"];
    let containers = object["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ids: Vec<String> = containers.map(|container| container["containerID"].to_string()).collect();
    let (kind, name) = (&object["kind"], &metadata["name"]);
    format!("{kind} {name} {} {} {}", metadata["uid"], metadata["generation"], ids.join(" "))
}

fn same(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join("\n  ")
    };
    let told = || format!("gone:\n  {}\nnew:\n  {}", only(before, after), only(after, before));
    if before == after { Ok(()) } else { refused(told()) }
}

/// An object, or a list of them, as kubectl shows it.
pub fn object(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    let mut kubectl = cluster::enter::kubectl(cluster)?;
    parsed(&words.join(" "), &run::captured(kubectl.args(words).arg("--output=json"))?)
}

/// A document of JSON.
pub fn parsed(what: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|source| Error::Json { what: what.to_owned(), source })
}

/// This program, also where a build has put a newer one in its place.
fn program() -> OsString {
    format!("/proc/{}/exe", std::process::id()).into()
}

/// `cargo xtask demo` for the embedded cluster, with more words.
fn embedded(more: &[&str]) -> Result<Vec<String>> {
    let words = [&["demo", "--name", CLUSTER], more].concat();
    said(run::command(program(), words))
}

/// `cargo xtask demo --context`, with more words, from where the cluster is reached as others are: by a kubeconfig.
fn by(cluster: &Cluster, more: &[&str]) -> Result<Vec<String>> {
    let kubeconfig = cluster.run().join("contexts");
    let own = files::read_optional(&cluster.kubeconfig())?.unwrap_or_default();
    files::write_private(&kubeconfig, contexts(&own)?)?;
    let words = [&["demo", "--context", CONTEXT], more].concat();
    let words: Vec<OsString> =
        std::iter::once(program()).chain(words.into_iter().map(OsString::from)).collect();
    let mut command = cluster::enter::command(cluster, &words)?;
    command.env("KUBECONFIG", &kubeconfig).env_remove("PGPOOL_CLUSTER");
    said(command)
}

/// The kubeconfig of a cluster, which is reached by a context of another name. Whoever doesn't ask for that one gets nowhere.
fn contexts(kubeconfig: &str) -> Result<String> {
    let mut config = parsed("the kubeconfig of the cluster", kubeconfig)?;
    let (cluster, user) = (config["clusters"][0].clone(), config["users"][0]["name"].clone());
    let name = cluster["name"].clone();
    let nowhere = json!({ "name": NOWHERE, "cluster": { "server": "https://127.0.0.1:9" } });
    config["clusters"] = json!([cluster, nowhere]);
    config["contexts"] = json!([
        { "name": CONTEXT, "context": { "cluster": name, "user": user } },
        { "name": NOWHERE, "context": { "cluster": NOWHERE, "user": user } },
    ]);
    config["current-context"] = json!(NOWHERE);
    Ok(config.to_string())
}

/// `cargo xtask demo`, killed with all programs that it has started once a line of it is met.
fn killed(cluster: &Cluster, is_met: impl Fn(&str) -> Result<bool>) -> Result<()> {
    let mut met = false;
    let mut command = run::command(program(), ["demo", "--name", cluster.name()]);
    command.process_group(0);
    let ended = heard(command, |line| {
        met = is_met(line)?;
        Ok(if met { Then::Kill } else { Then::GoOn })
    })?;
    need(met, format!("it ended with {} before it could be killed", run::told(ended)))
}

/// Runs a command and hands on each line of what it says; gives all of them. It must succeed.
fn said(command: Command) -> Result<Vec<String>> {
    let (mut said, shown) = (Vec::new(), run::shown(&command));
    let status = heard(command, |line| {
        said.push(line.to_owned());
        Ok(Then::GoOn)
    })?;
    if status.success() {
        return Ok(said);
    }
    Err(Error::Ended { status: run::told(status), command: shown, output: String::new() })
}

/// What becomes of a command once it has said a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Kill,
}

/// Runs a command and hands on each line of what it says, until it ends or is killed, then with its process group where it leads one.
fn heard(mut command: Command, mut each: impl FnMut(&str) -> Result<Then>) -> Result<ExitStatus> {
    let shown = run::shown(&command);
    say(format!("   {shown}"));
    let failed = |source| Error::Start { command: shown.clone(), source };
    let (lines, output) = io::pipe().map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
    // Its ends of the pipe: with them in here there would be no end of the lines.
    drop(command);
    let mut child = child.map_err(failed)?;
    let work = || {
        for line in BufReader::new(lines).lines() {
            let line = line.map_err(failed)?;
            say(format!("   │ {line}"));
            if each(&line)? == Then::Kill {
                return Ok(Then::Kill);
            }
        }
        Ok(Then::GoOn)
    };
    let then = work();
    if !matches!(then, Ok(Then::GoOn)) {
        // Each may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    then.map(|_| status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_heard_on_both_of_its_ways_and_must_succeed() {
        let lines = said(run::command("sh", ["-c", "echo one; echo two >&2; echo three"])).unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
        let error = said(run::command("sh", ["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("code 3"), "{error}");
    }

    #[test]
    fn a_command_is_killed_with_what_it_has_started() {
        let long = || {
            let mut command = run::command("sh", ["-c", "sleep 60 & echo $!; wait"]);
            command.process_group(0);
            command
        };
        let mut pid = String::new();
        let status = heard(long(), |line| {
            pid = line.to_owned();
            Ok(Then::Kill)
        });
        assert_eq!(run::told(status.unwrap()), "signal 9");
        let stat = format!("/proc/{pid}/stat");
        let has_ended = || match fs::read_to_string(&stat) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        until("its end", SETTLED, || Ok(if has_ended() { Ok(()) } else { Err(stat.clone()) })).unwrap();
        assert!(heard(long(), |_| refused("no")).is_err());
    }

    #[test]
    fn a_kubeconfig_leads_to_the_cluster_by_its_context_alone() {
        let own = json!({
            "clusters": [{ "name": "pgpool-x", "cluster": { "server": "https://10.77.0.10:6443" } }],
            "users": [{ "name": "admin", "user": {} }],
            "contexts": [{ "name": "pgpool-x", "context": { "cluster": "pgpool-x", "user": "admin" } }],
            "current-context": "pgpool-x",
        });
        let read = parsed("it", &contexts(&own.to_string()).unwrap()).unwrap();
        assert_eq!(read["clusters"][0], own["clusters"][0]);
        assert_eq!(read["contexts"][0]["name"], CONTEXT);
        assert_eq!(read["contexts"][0]["context"], own["contexts"][0]["context"]);
        assert_eq!(read["current-context"], NOWHERE);
        assert_eq!(read["users"], own["users"]);
    }

    #[test]
    fn a_container_that_was_started_anew_is_told() {
        let pod = |id: &str| {
            identity(&json!({ "kind": "Pod", "metadata": { "name": "demo-0-0", "uid": "u" },
                "status": { "containerStatuses": [{ "containerID": id }] } }))
        };
        let set = |id: &str| BTreeSet::from([pod(id)]);
        assert!(same(&set("a"), &set("a")).is_ok());
        let error = same(&set("a"), &set("b")).unwrap_err().to_string();
        assert!(error.contains("gone:\n  \"Pod\" \"demo-0-0\" \"u\" null \"a\""), "{error}");
    }

    #[test]
    fn a_failure_counts_as_one_test() {
        assert_eq!(seen("x", || Ok(())), Tally::SUCCESS);
        assert_eq!(seen("x", || refused("no")), Tally::FAILURE);
    }
}
