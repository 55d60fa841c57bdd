//! Commands of the host inside a cluster's network.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::layout::{Cluster, Machine};
use super::machine;
use crate::error::{Error, Result, refused};
use crate::run;

/// Puts the cluster's name servers over the host's, for this process alone, and becomes the command.
const WITH_DNS: &str = r#"mount --bind "$1" /etc/resolv.conf && shift && exec "$@""#;

/// kubectl as the administrator, in the client machine's network.
pub fn kubectl(cluster: &Cluster) -> Result<Command> {
    program(cluster, "kubectl")
}

/// One of the cluster's own programs, in the client machine's network.
pub fn program(cluster: &Cluster, name: &str) -> Result<Command> {
    let client = client(cluster)?;
    let mut program = machine::in_network(client, cluster.bin().join(name));
    environment(cluster, &mut program);
    Ok(program)
}

/// Any command, where the cluster's DNS, Services and pods can be reached.
pub fn command(cluster: &Cluster, words: &[OsString]) -> Result<Command> {
    if words.is_empty() {
        return refused("no command given: write it after --");
    }
    let client = client(cluster)?;
    let mut command = machine::in_network(client, "unshare");
    command.args(["--mount", "--propagation", "slave", "--", "sh", "-c", WITH_DNS, "sh"]);
    command.arg(cluster.resolv_conf()).args(words);
    environment(cluster, &mut command);
    Ok(command)
}

/// Any command in the network of a pod, of which this is a process.
pub fn in_pod(pid: u32, words: &[OsString]) -> Command {
    let mut command = run::command("nsenter", [format!("--net=/proc/{pid}/ns/net"), "--".to_owned()]);
    command.args(words);
    command
}

fn client(cluster: &Cluster) -> Result<i32> {
    match machine::init_pid(cluster, Machine::Client) {
        Some(pid) => Ok(pid),
        None => refused(down_text(cluster)),
    }
}

/// That a cluster is down, and what to do about it.
pub fn down_text(cluster: &Cluster) -> String {
    let name = cluster.name();
    format!("cluster {name} is down; start it with: cargo xtask cluster up --name {name}")
}

fn environment(cluster: &Cluster, command: &mut Command) {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut first = cluster.bin().into_os_string();
    first.push(":");
    first.push(path);
    command.env("PATH", first).env("KUBECONFIG", cluster.kubeconfig());
    // What kubectl learns of an API server goes with the cluster, since the next has the same address.
    command.env("KUBECACHEDIR", cluster.run().join("kube-cache"));
    command.env("PGPOOL_CLUSTER", cluster.name());
    command.env("PGPOOL_XTASK", cluster.xtask());
}

/// Becomes the command: returns only if that failed.
pub fn become_command(mut command: Command) -> Error {
    let source = command.exec();
    Error::Start { command: run::shown(&command), source }
}
