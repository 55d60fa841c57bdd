//! Programs in the containers of pods, started from the host that all machines of the embedded cluster are processes of: what
//! `kubectl exec` does, without the programs of Kubernetes on its way, which take the processors from what is tested.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use k8s_openapi::api::core::v1::Pod;
use pgpool_operator::names;
use tokio::process::Command;

use super::harness::{Failure, Outcome};
use super::processes::first_of;
use super::world::{CALL, World, ended, printed};

impl World {
    /// What psql prints as superuser by a node's own socket.
    pub async fn psql(&self, node: u8, database: &str, sql: &str) -> Outcome<String> {
        self.inside(&names::node_pod(self.pool, node), &["psql", "-XAtd", database, "-c", sql], None).await
    }

    /// Runs a shell in a node's Postgres container.
    pub async fn shell(&self, node: u8, script: &str) -> Outcome<String> {
        self.inside(&names::node_pod(self.pool, node), &["sh", "-c", script], None).await
    }

    /// Runs a program in the only container of a pod of the pool's namespace; gives what it printed.
    pub async fn inside(&self, pod: &str, words: &[&str], input: Option<&str>) -> Outcome<String> {
        let shown = format!("{pod}: {}", words.join(" "));
        let command = entered(&self.pods().get(pod).await?, words)?;
        printed(&shown, &ended(CALL, &shown, command, input).await?)
    }
}

/// A command that enters a pod, and becomes what its first process is: the same user and groups, the same environment.
pub fn entered(pod: &Pod, words: &[&str]) -> Outcome<Command> {
    let first = first_of(pod)?;
    let environ = fs::read(format!("/proc/{first}/environ"))?;
    let status = fs::read_to_string(format!("/proc/{first}/status"))?;
    let ids = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let ids: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        if ids.is_empty() { Err(Failure(format!("process {first} has no {name} {status}"))) } else { Ok(ids) }
    };
    let groups = ids("Groups:").unwrap_or_default().join(",");
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    let (user, group) = (format!("--reuid={}", ids("Uid:")?[0]), format!("--regid={}", ids("Gid:")?[0]));
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={first}")).args(["--mount", "--uts", "--ipc", "--net", "--pid"]);
    command.args(["setpriv", &user, &group, &groups, "--inh-caps=-all", "--bounding-set=-all"]).args(words);
    command.env_clear();
    for pair in environ.split(|byte| *byte == 0) {
        if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
            command.env(OsStr::from_bytes(&pair[..at]), OsStr::from_bytes(&pair[at + 1..]));
        }
    }
    Ok(command)
}
