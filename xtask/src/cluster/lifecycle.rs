//! Starting, ending and looking at a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::layout::{Cluster, MACHINES, Machine, NODES};
use super::{Shape, config, enter, init, machine, pki, volumes};
use crate::error::{OnFile, Result, refused};
use crate::images::{self, Image, Store};
use crate::programs::Programs;
use crate::progress::{print, say, step, until};
use crate::{cgroups, files, host, paths, run};

/// How long the API server, the nodes, DNS and volumes may take; a busy machine needs a good part of it.
const READY: Duration = Duration::from_secs(300);

const DNS: &str = include_str!("../../manifests/dns.yaml");
const VOLUMES: &str = include_str!("../../manifests/volumes.yaml");
/// What these make that runs.
const WORKLOADS: [&str; 2] = ["daemonset/coredns", "deployment/local-path-provisioner"];

/// Whether the start of this cluster was finished, and every machine runs that it cannot do without.
fn is_up(cluster: &Cluster) -> bool {
    cluster.finished().exists()
        && [Machine::Switch, Machine::Control, Machine::Client]
            .into_iter()
            .all(|m| machine::init_pid(cluster, m).is_some())
}

/// Starts a cluster; one that runs goes on, and gets back its nodes that are off.
pub fn up(cluster: &Cluster, toleration: u32) -> Result<()> {
    up_as(cluster, Shape { toleration, volumes: None })
}

/// The same of a cluster of this shape.
pub fn up_as(cluster: &Cluster, shape: Shape) -> Result<()> {
    host::need_root()?;
    host::need_packages()?;
    let _lock = lock(cluster)?;
    if is_up(cluster) {
        has_volumes(cluster, shape.volumes)?;
        return complete(cluster, shape.toleration);
    }
    let programs = Programs::build()?;
    let store = Store::prepare(&images::of_the_cluster(&programs)?)?;
    step(&format!("remains of an earlier cluster {}", cluster.name()), || clean(cluster))?;
    step(&format!("cluster {}", cluster.name()), || start(cluster, shape, &programs, &store))?;
    let name = cluster.name();
    say(format!("cluster {name} is up; try: cargo xtask kubectl --name {name} -- get nodes"));
    Ok(())
}

/// Fails where volumes with a size are wanted of a running cluster that was made without, or with another one.
fn has_volumes(cluster: &Cluster, wanted: Option<u32>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let is = |node: &Machine| volumes::size(&cluster.disk(*node)) == Some(u64::from(wanted));
    if NODES.iter().all(is) {
        return Ok(());
    }
    let name = cluster.name();
    refused(format!(
        "cluster {name} runs, and its volumes have no file systems of {wanted} MiB, which are made with the cluster: \
         end it first by cargo xtask cluster down --name {name}"
    ))
}

fn complete(cluster: &Cluster, toleration: u32) -> Result<()> {
    for node in NODES {
        if machine::init_pid(cluster, node).is_none() {
            step(&format!("power {node} on"), || power_on_again(cluster, node, toleration))?;
        }
    }
    say(format!("cluster {} is up", cluster.name()));
    Ok(())
}

/// Keeps other commands away from this cluster's life and death.
fn lock(cluster: &Cluster) -> Result<fs::File> {
    // In the cache, which `down` leaves: a lock that could be removed would be none.
    let dir = paths::cache("locks")?.join(cluster.name());
    files::make_dir(&dir)?;
    paths::lock(&dir)
}

fn start(cluster: &Cluster, shape: Shape, programs: &Programs, store: &Store) -> Result<()> {
    files::make_dir(&cluster.run())?;
    lay_out_programs(cluster, programs)?;
    let pki = cluster.disks().join("pki");
    pki::create(cluster.name(), &pki)?;
    fs::copy(pki.join("admin.kubeconfig"), cluster.kubeconfig()).on("write", cluster.kubeconfig())?;
    files::write(&cluster.resolv_conf(), config::resolv_conf())?;
    modules();
    machine::power_on(cluster, Machine::Switch, shape.toleration)?;
    let build = |machine: Machine| {
        config::write(cluster, machine, &pki)?;
        if NODES.contains(&machine) {
            store.copy_to(&cluster.disk(machine).join("var/lib/containerd"))?;
            if let Some(size) = shape.volumes {
                volumes::make(cluster, machine, size)?;
            }
        }
        machine::power_on(cluster, machine, shape.toleration)
    };
    in_parallel(&MACHINES[1..], build)?;
    wait_for_api(cluster)?;
    step("DNS and volumes", || {
        for manifest in [DNS, VOLUMES] {
            run::fed(enter::kubectl(cluster)?.args(["apply", "--server-side", "-f", "-"]), manifest)?;
        }
        wait_for_nodes(cluster)?;
        wait_for_workloads(cluster)
    })?;
    files::write(&cluster.finished(), "")
}

fn in_parallel(machines: &[Machine], work: impl Fn(Machine) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = machines.iter().map(|m| (m, scope.spawn(move || work(*m)))).collect();
        for (machine, thread) in running {
            thread.join().unwrap_or_else(|_| refused(format!("starting {machine} was broken off")))?;
        }
        Ok(())
    })
}

/// Links of the cached programs, so that the cluster keeps its own when the cache gets newer ones.
fn lay_out_programs(cluster: &Cluster, programs: &Programs) -> Result<()> {
    for (name, path) in programs.all() {
        files::link_or_copy(path, &cluster.bin().join(name))?;
    }
    // Not by its path, where a build may have put a newer one.
    fs::copy("/proc/self/exe", cluster.xtask()).on("copy to", cluster.xtask())?;
    let kubectl = cluster.bin().join("kubectl");
    std::os::unix::fs::symlink("kube", &kubectl).on("link", &kubectl)
}

/// Loads the kernel modules that a namespace cannot load by itself. Built-in ones are no modules, so a failure
/// here means nothing; what is missing in truth is named by the step that needs it.
fn modules() {
    for module in ["br_netfilter", "overlay", "nf_conntrack", "nfnetlink_queue"] {
        let _ = run::output(&mut run::command("modprobe", [module]));
    }
}

/// Waits until the API server says that it is ready.
pub(super) fn wait_for_api(cluster: &Cluster) -> Result<()> {
    step("API server", || {
        until("an answer of the API server", READY, || {
            let answer = run::output(enter::kubectl(cluster)?.args(["get", "--raw", "/readyz"]))?;
            Ok(if answer.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&answer.stderr).trim().to_owned())
            })
        })
    })
}

fn wait_for_workloads(cluster: &Cluster) -> Result<()> {
    for workload in WORKLOADS {
        let limit = format!("--timeout={}s", READY.as_secs());
        run::captured(rollout(cluster, "status")?.args([workload, &limit]))?;
    }
    Ok(())
}

/// Makes the pods of DNS and volumes anew, and waits until they are ready.
pub(super) fn restart_workloads(cluster: &Cluster) -> Result<()> {
    run::captured(rollout(cluster, "restart")?.args(WORKLOADS))?;
    wait_for_workloads(cluster)
}

fn rollout(cluster: &Cluster, verb: &str) -> Result<Command> {
    let mut rollout = enter::kubectl(cluster)?;
    rollout.args(["--namespace", "kube-system", "rollout", verb]);
    Ok(rollout)
}

fn wait_for_nodes(cluster: &Cluster) -> Result<()> {
    until("three nodes in state Ready", READY, || {
        let template = r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}"#;
        let answer = run::output(enter::kubectl(cluster)?.args(["get", "nodes", "--output", template]))?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        Ok(if text.matches("=True").count() == NODES.len() { Ok(()) } else { Err(text) })
    })
}

/// Ends a cluster and removes every trace of it, whatever state it is in.
pub fn down(cluster: &Cluster) -> Result<()> {
    host::need_root()?;
    let _lock = lock(cluster)?;
    step(&format!("end cluster {}", cluster.name()), || clean(cluster))?;
    // These stay when another cluster lives there, and where they are links.
    for folder in Cluster::folders() {
        let _ = fs::remove_dir(folder);
    }
    cgroups::remove_if_empty(Cluster::ALL_CGROUPS)
}

/// Kills every process of a cluster at once and takes nothing away, as whoever kills a whole session does.
pub fn crash(cluster: &Cluster) -> Result<()> {
    let _lock = lock(cluster)?;
    in_parallel(&MACHINES, |machine| machine::kill(cluster, machine))
}

fn clean(cluster: &Cluster) -> Result<()> {
    // The switch goes last, so that no machine is left without its end of a cable.
    in_parallel(&MACHINES[1..], |m| machine::power_off(cluster, m))?;
    machine::power_off(cluster, Machine::Switch)?;
    cgroups::remove(&format!("{}/{}", Cluster::ALL_CGROUPS, cluster.name()))?;
    for folder in [cluster.disks(), cluster.run()] {
        unmount_below(&folder)?;
        if folder.exists() {
            run::captured(run::command("rm", ["-rf", "--one-file-system", "--"]).arg(&folder))?;
        }
    }
    Ok(())
}

/// Mounts of a machine die with it. One that was made in the host's own namespace would take a folder of the
/// host along when the disks are removed.
fn unmount_below(folder: &Path) -> Result<()> {
    machine::unmount(|target| target.starts_with(folder))
}

/// `cluster status`: every machine and its services, then the nodes as Kubernetes sees them.
pub fn status(cluster: &Cluster) -> Result<()> {
    if !is_up(cluster) {
        return refused(enter::down_text(cluster));
    }
    for machine in MACHINES {
        let (name, address) = (machine.to_string(), machine.address().map(|a| a.to_string()));
        let state = match machine::init_pid(cluster, machine) {
            Some(pid) => format!("pid {pid:<9}{}", init::order(cluster, machine, "status")?),
            None => "off".to_owned(),
        };
        print(format!("{name:<8}{:<12}{state}", address.unwrap_or_default()));
    }
    print(format!("logs    {}/MACHINE/var/log", cluster.disks().display()));
    run::visible(enter::kubectl(cluster)?.args(["get", "nodes", "--output=wide"]))
}

/// Cuts the power of one machine; its disk stays.
pub fn node_kill(cluster: &Cluster, machine: Machine) -> Result<()> {
    machine::need(cluster, machine)?;
    machine::power_off(cluster, machine)
}

/// Powers a machine on, with the disk that it had.
pub fn node_start(cluster: &Cluster, machine: Machine, toleration: u32) -> Result<()> {
    if machine::init_pid(cluster, machine).is_some() {
        say(format!("{machine} runs already"));
        return Ok(());
    }
    if !cluster.disk(machine).exists() {
        return refused(format!("{machine} has no disk: start the cluster with cargo xtask cluster up"));
    }
    power_on_again(cluster, machine, toleration)
}

fn power_on_again(cluster: &Cluster, machine: Machine, toleration: u32) -> Result<()> {
    // What a power cut left of the cgroups must go before kubelet looks at them.
    machine::power_off(cluster, machine)?;
    machine::power_on(cluster, machine, toleration)
}

/// Loads images into all nodes that run, and gives the number of imports.
pub fn load(cluster: &Cluster, images: &[Image]) -> Result<usize> {
    let mut sockets = Vec::new();
    for node in NODES {
        if let Some(pid) = machine::init_pid(cluster, node) {
            let socket = PathBuf::from(format!("/proc/{pid}/root/run/containerd/containerd.sock"));
            until(&format!("containerd of {node}"), READY, || {
                Ok(if socket.exists() { Ok(()) } else { Err(format!("no {}", socket.display())) })
            })?;
            sockets.push(socket);
        }
    }
    if sockets.is_empty() {
        return refused(format!("cluster {} has no running node", cluster.name()));
    }
    images::load(&sockets, images)
}
