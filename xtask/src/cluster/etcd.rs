//! What etcd holds, saved and put back: Kubernetes as it was, over nodes that have gone on since.
//!
//! etcd is stopped while its folder is copied, which makes the copy as good as any backup. For a restore the API server is
//! down too, and whatever keeps a copy of what it has seen is started anew behind it (Kubernetes documentation, "Restoring
//! an etcd cluster"). Revisions begin again where the backup ends, so a watch that goes on from a later one is silent until
//! that is reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::{Cluster, ETCD, Machine, NODES};
use super::{TOLERATION, init, lifecycle, machine, services};
use crate::error::{OnFile, Result, refused};
use crate::progress::{step, until};
use crate::{files, run};

/// How long the kernel may take to end a service.
const END: Duration = Duration::from_secs(30);
/// The folder of what was saved, beside the disks of the machines: it goes with the cluster.
const SAVED: &str = "etcd-saved";
/// What must not run while etcd is restored, in the order of stopping.
const CONTROL: [&str; 4] = ["scheduler", "controllers", "apiserver", "etcd"];
/// The only service of a machine that doesn't know of the API server.
const CONTAINERD: &str = "containerd";

/// What can be done with what etcd holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub enum Backup {
    /// Save all that etcd holds; what was saved before goes
    Save,
    /// Put back what was saved, and start anew whatever remembers a later state: API server, controllers, scheduler,
    /// kubelets, kube-proxies, network policies, DNS and volumes. Pods that were made since are killed
    Restore,
}

/// Does it, and waits until the API server answers.
pub fn run(cluster: &Cluster, what: Backup) -> Result<()> {
    machine::need(cluster, Machine::Control)?;
    match what {
        Backup::Save => save(cluster),
        Backup::Restore => restore(cluster),
    }
}

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.disk(Machine::Control).join(ETCD.trim_start_matches('/'))
}

fn save(cluster: &Cluster) -> Result<()> {
    let saved = cluster.disks().join(SAVED);
    step("save etcd", || while_stopped(cluster, &["etcd"], || replace(&folder(cluster), &saved)))?;
    lifecycle::wait_for_api(cluster)
}

fn restore(cluster: &Cluster) -> Result<()> {
    let saved = cluster.disks().join(SAVED);
    if !saved.exists() {
        return refused("etcd was never saved: cargo xtask cluster etcd save");
    }
    step("restore etcd", || while_stopped(cluster, &CONTROL, || replace(&saved, &folder(cluster))))?;
    lifecycle::wait_for_api(cluster)?;
    step("services that remember a later state", || {
        for machine in NODES.into_iter().chain([Machine::Client]) {
            // One without power remembers nothing.
            if machine::init_pid(cluster, machine).is_none() {
                continue;
            }
            for service in services::of(machine, TOLERATION) {
                if service.name != CONTAINERD {
                    init::order(cluster, machine, &format!("restart {}", service.name))?;
                }
            }
        }
        lifecycle::restart_workloads(cluster)
    })
}

/// Works while services of the control plane are stopped. They are started again whatever came of it.
fn while_stopped(cluster: &Cluster, services: &[&str], work: impl FnOnce() -> Result<()>) -> Result<()> {
    let order = |text: &str| init::order(cluster, Machine::Control, text);
    for service in services {
        order(&format!("stop {service}"))?;
    }
    let ended = until("the end of the control plane", END, || {
        let status = order("status")?;
        Ok(if are_stopped(&status, services) { Ok(()) } else { Err(status) })
    });
    let done = ended.and_then(|()| work());
    for service in services.iter().rev() {
        order(&format!("start {service}"))?;
    }
    done
}

/// Whether the status of a machine says of all these services that they are stopped.
fn are_stopped(status: &str, services: &[&str]) -> bool {
    services.iter().all(|service| status.split(", ").any(|told| told == format!("{service} stopped")))
}

/// Puts a copy of a folder in the place of another. A copy that fails changes nothing.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let (new, old) = (to.with_extension("new"), to.with_extension("old"));
    for remains in [&new, &old].into_iter().filter(|folder| folder.exists()) {
        files::remove_dir(remains)?;
    }
    run::captured(run::command("cp", ["--archive", "--"]).arg(from).arg(&new))?;
    if to.exists() {
        fs::rename(to, &old).on("rename", to)?;
    }
    fs::rename(&new, to).on("rename", &new)?;
    if old.exists() { files::remove_dir(&old) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_takes_the_place_of_all_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("etcd"), dir.path().join("etcd-saved"));
        files::write(&from.join("member/snap/db"), "first").unwrap();
        replace(&from, &to).unwrap();
        files::write(&from.join("member/snap/db"), "second").unwrap();
        files::write(&from.join("member/wal/1"), "later").unwrap();
        replace(&to, &from).unwrap();
        assert_eq!(files::walk(&from).unwrap(), [from.join("member/snap/db")]);
        assert_eq!(fs::read_to_string(from.join("member/snap/db")).unwrap(), "first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
        assert!(replace(&dir.path().join("absent"), &to).is_err());
        assert!(to.exists(), "what was there stays where there is nothing to copy");
    }

    #[test]
    fn a_service_is_stopped_when_its_own_name_is_told_so() {
        let status = "etcd stopped, apiserver pid 12, controllers restarting";
        assert!(are_stopped(status, &["etcd"]));
        for running in ["apiserver", "controllers", "scheduler"] {
            assert!(!are_stopped(status, &["etcd", running]), "{running}");
        }
    }

    #[test]
    fn what_is_stopped_is_what_the_machine_runs() {
        let mut names: Vec<String> =
            services::of(Machine::Control, TOLERATION).into_iter().map(|service| service.name).collect();
        names.reverse();
        assert_eq!(names, CONTROL);
    }
}
