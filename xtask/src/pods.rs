//! The processes of pods, as this machine sees them: machines of the embedded cluster are process trees of it.

use std::fs;
use std::path::Path;

use crate::error::{OnFile, Result, refused};

/// Name of the process that holds a pod's network.
const HOLDER: &str = "pause";

/// The processes that run in the pod with this uid now, but for its network's holder; in the order of their numbers.
pub fn processes(uid: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").on("list", "/proc")? {
        let path = entry.on("list", "/proc")?.path();
        let pid: Option<u32> = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        pids.extend(pid.filter(|_| belongs(&path, uid)));
    }
    pids.sort_unstable();
    if uid.is_empty() || pids.is_empty() {
        return refused(format!("no process of the pod with uid {uid:?} is seen in /proc"));
    }
    Ok(pids)
}

/// The first process of a pod's container, which is there for as long as that is: its number in there is 1 (proc(5), `NSpid`). Others
/// come and go, and once numbers begin anew they may be lower.
pub fn first_process(uid: &str) -> Result<u32> {
    let first = processes(uid)?.into_iter().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        is_first(&status)
    });
    first.map_or_else(|| refused(format!("the pod with uid {uid:?} has no first process")), Ok)
}

/// The postmaster of a node's pod: the `postgres` that the agent has started, which is the first process.
pub fn postmaster(uid: &str) -> Result<u32> {
    let agent = first_process(uid)?;
    let found = processes(uid)?.into_iter().find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        is_child(&stat, "postgres", agent)
    });
    found.map_or_else(|| refused(format!("no PostgreSQL runs in the pod with uid {uid:?}")), Ok)
}

/// Whether this is the line of a process with this name and this parent (proc(5), `stat`).
fn is_child(stat: &str, name: &str, parent: u32) -> bool {
    let Some((first, rest)) = stat.rsplit_once(") ") else { return false };
    let is_named = first.split_once('(').is_some_and(|(_, its)| its == name);
    is_named && rest.split_whitespace().nth(1) == Some(parent.to_string().as_str())
}

fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some("1")
}

/// Whether a process is of a pod, by the name of its control group. One that ended meanwhile is not.
fn belongs(path: &Path, uid: &str) -> bool {
    let read = |file| fs::read_to_string(path.join(file)).unwrap_or_default();
    in_pod(&read("cgroup"), uid) && read("comm").trim() != HOLDER
}

fn in_pod(cgroup: &str, uid: &str) -> bool {
    // Where systemd names the groups, they have no dashes.
    cgroup.contains(uid) || cgroup.contains(&uid.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_known_by_its_uid_in_either_spelling() {
        assert!(in_pod("4:cpu:/x/kubepods/besteffort/podab-12/55", "ab-12"));
        assert!(in_pod("0::/kubepods.slice/kubepods-podab_12.slice/cri-55.scope", "ab-12"));
        assert!(!in_pod("0::/x", "ab-12"));
    }

    #[test]
    fn the_first_process_is_known_by_its_number_within() {
        assert!(is_first("Name:\tpostgres\nNSpid:\t4711\t1\n"));
        assert!(!is_first("Name:\tpostgres\nNSpid:\t4711\t12\n"));
        assert!(!is_first("Name:\tpostgres\n"));
    }

    #[test]
    fn a_child_is_known_by_its_name_and_its_parent() {
        let stat = "4711 (postgres) S 4700 4711 4711 0 -1 4194560";
        assert!(is_child(stat, "postgres", 4700));
        assert!(!is_child(stat, "postgres", 4711));
        assert!(!is_child(stat, "post", 4700));
        assert!(!is_child("", "postgres", 4700));
    }

    #[test]
    fn a_pod_without_processes_is_refused() {
        assert!(postmaster("00000000-no-such-pod").is_err());
        assert!(first_process("00000000-no-such-pod").is_err());
        assert!(processes("00000000-no-such-pod").is_err());
        assert!(processes("").is_err());
    }
}
