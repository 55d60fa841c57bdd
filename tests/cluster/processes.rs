//! The processes of the pool's pods, as the host sees them.
use std::fs;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use pgpool_operator::names;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::harness::{Failure, Outcome, ensure, failed};
use super::pool::selector;
use super::world::{World, call};

fn read(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn parent(pid: i32) -> Option<i32> {
    read(pid, "stat").rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Whether it is our own program: the agent of a node, a front, the operator.
pub fn is_ours(pid: i32) -> bool {
    read(pid, "comm").starts_with("pgpool-operator")
}

/// The user that a process runs as.
pub fn user_of(pid: i32) -> Outcome<u32> {
    let status = read(pid, "status");
    let user =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    user.ok_or_else(|| Failure(format!("process {pid} has no user: {status}")))
}

/// Whether a process is PID 1 in the innermost of its namespaces (proc(5), `NSpid`).
fn is_first(pid: i32) -> bool {
    let status = read(pid, "status");
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().last()).is_some_and(|inside| inside == "1")
}

/// All processes of a node's Postgres container: the agent, Postgres and what they have started.
pub async fn of_node(world: &World, node: u8) -> Outcome<Vec<i32>> {
    of_pod(&uid_of(world, node).await?)
}

/// The uid of a node's pod.
pub async fn uid_of(world: &World, node: u8) -> Outcome<String> {
    Ok(world.pods().get(&names::node_pod(world.pool, node)).await?.uid().unwrap_or_default())
}

/// The processes of the pod with this uid, but for the one that holds its network.
pub fn of_pod(uid: &str) -> Outcome<Vec<i32>> {
    let all = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| read(*pid, "cgroup").contains(uid) && read(*pid, "comm").trim() != "pause");
    Ok(all.collect())
}

/// Some of the processes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// The first process of each container: the agent of a node, a front, the operator.
    First,
    /// Those of PostgreSQL.
    Postgres,
    /// The postmaster: a `postgres` that the agent started.
    Postmaster,
}

/// These processes of the pod with this uid, as far as they run. Needs no API server.
pub fn part_of(uid: &str, part: Part) -> Outcome<Vec<i32>> {
    let is_postgres = |pid: i32| read(pid, "comm").trim() == "postgres";
    let belongs = |pid: &i32| match part {
        Part::All => true,
        Part::First => is_first(*pid),
        Part::Postgres => is_postgres(*pid),
        Part::Postmaster => is_postgres(*pid) && parent(*pid).is_some_and(is_ours),
    };
    Ok(of_pod(uid)?.into_iter().filter(belongs).collect())
}

/// The first process of a pod.
pub fn first_of(pod: &Pod) -> Outcome<i32> {
    let first = part_of(&pod.uid().unwrap_or_default(), Part::First)?.into_iter().next();
    first.ok_or_else(|| Failure(format!("{} has no process", pod.name_any())))
}

/// What the first process of a pod runs: the digest of its program.
pub async fn program_of(pod: &Pod) -> Outcome<String> {
    // From the host: nobody of the pod itself may look into ours.
    let sum = call("sha256sum", &[&format!("/proc/{}/exe", first_of(pod)?)], None).await?;
    Ok(sum.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The postmaster of a node.
pub async fn postmaster(world: &World, node: u8) -> Outcome<i32> {
    let uid = uid_of(world, node).await?;
    let found = part_of(&uid, Part::Postmaster)?.into_iter().next();
    found.ok_or_else(|| Failure(format!("node {node} has no postmaster")))
}

/// The postmaster of the pod with this uid, once it is another than `old`. Needs no API server.
///
/// What `old` has left may outlive it for a moment, and the agent is its parent then: it calls itself `postgres: …`, and has no
/// children of its own.
pub fn another_postmaster(uid: &str, old: i32) -> Outcome<i32> {
    let all = part_of(uid, Part::Postgres)?;
    let leads = |pid: i32| {
        !read(pid, "cmdline").starts_with("postgres:") && all.iter().any(|child| parent(*child) == Some(pid))
    };
    let found = part_of(uid, Part::Postmaster)?.into_iter().find(|pid| *pid != old && leads(*pid));
    found.ok_or_else(|| Failure("no other postmaster runs".to_owned()))
}

/// The process of a node's PostgreSQL that replays WAL.
pub async fn startup_process(world: &World, node: u8) -> Outcome<i32> {
    let found =
        of_node(world, node).await?.into_iter().find(|pid| read(*pid, "cmdline").contains(": startup"));
    found.ok_or_else(|| Failure(format!("node {node} replays nothing")))
}

/// Sends a signal to a process.
pub fn signal(number: i32, signal: Signal) -> Outcome {
    let pid = Pid::from_raw(number).ok_or_else(|| Failure("no process".to_owned()))?;
    Ok(kill_process(pid, signal)?)
}

/// Kills a process, unless it has ended.
pub fn kill_if_there(number: i32) -> Outcome {
    let pid = Pid::from_raw(number).ok_or_else(|| Failure("no process".to_owned()))?;
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => failed(format!("cannot kill {number}: {e}")),
    }
}

/// Kills a node's Postgres as the kernel would for want of memory; gives the number that it had.
pub async fn kill_postgres(world: &World, node: u8) -> Outcome<i32> {
    let number = postmaster(world, node).await?;
    signal(number, Signal::KILL)?;
    Ok(number)
}

/// The agent of a node.
pub async fn agent(world: &World, node: u8) -> Outcome<i32> {
    let postmaster = postmaster(world, node).await?;
    parent(postmaster).ok_or_else(|| Failure(format!("node {node} has no agent")))
}

/// Kills a node's agent, and with it all that runs in its container; gives the number that it had.
pub async fn kill_agent(world: &World, node: u8) -> Outcome<i32> {
    let number = agent(world, node).await?;
    signal(number, Signal::KILL)?;
    Ok(number)
}

/// The agent of the pod with this uid, once it is another than `old`, whether or not it has a Postgres. Needs no API server.
pub fn next_agent(uid: &str, old: i32) -> Outcome<i32> {
    let found = part_of(uid, Part::First)?.into_iter().find(|pid| *pid != old && is_ours(*pid));
    found.ok_or_else(|| Failure("no other agent runs".to_owned()))
}

/// Fails unless a node has another agent than `old`, and that a Postgres.
pub async fn another_agent(world: &World, node: u8, old: i32) -> Outcome {
    let now = agent(world, node).await?;
    ensure(now != old, || format!("the agent of node {node} is still process {old}"))
}

/// Stops all processes of a node in their tracks; they go on by [`thaw`].
pub async fn freeze(world: &World, node: u8) -> Outcome<Vec<i32>> {
    freeze_all(of_node(world, node).await?)
}

/// Stops the processes of a node's Postgres in their tracks, and not its agent.
pub async fn hang_postgres(world: &World, node: u8) -> Outcome<Vec<i32>> {
    freeze_part(&uid_of(world, node).await?, Part::Postgres)
}

/// The same as [`freeze`] for the pod with this uid.
pub fn freeze_pod(uid: &str) -> Outcome<Vec<i32>> {
    freeze_part(uid, Part::All)
}

/// The same of some of its processes.
pub fn freeze_part(uid: &str, part: Part) -> Outcome<Vec<i32>> {
    freeze_all(part_of(uid, part)?)
}

/// Gives those that were stopped; fails where there is none.
fn freeze_all(mut all: Vec<i32>) -> Outcome<Vec<i32>> {
    // One that has ended meanwhile needs no stopping.
    all.retain(|pid| signal(*pid, Signal::STOP).is_ok());
    ensure(!all.is_empty(), || "no process is there to be stopped".to_owned())?;
    Ok(all)
}

/// The processes of the fronts that there are.
pub async fn fronts(world: &World) -> Outcome<Vec<i32>> {
    let list = world.pods().list(&ListParams::default().labels(&selector("proxy"))).await?;
    let all = list.items.iter().map(|pod| of_pod(&pod.uid().unwrap_or_default()));
    Ok(all.collect::<Outcome<Vec<Vec<i32>>>>()?.concat())
}

/// Has the kernel forget how much memory a process has once had (proc(5), `clear_refs`); gives what it has, in KiB.
pub fn forget_peak(pid: i32) -> Outcome<u64> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    peak(pid)
}

/// The most memory that a process has had, in KiB.
pub fn peak(pid: i32) -> Outcome<u64> {
    let status = read(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.ok_or_else(|| Failure(format!("process {pid} has no VmHWM")))
}

/// Lets processes go on; gives how many are still there to do so.
pub fn thaw(all: &[i32]) -> usize {
    all.iter().filter(|pid| signal(**pid, Signal::CONT).is_ok()).count()
}
