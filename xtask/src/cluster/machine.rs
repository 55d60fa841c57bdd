//! Power, cables and processes of a machine, seen from the host.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::layout::{Cluster, Machine};
use crate::error::{Error, OnFile, Result, refused};
use crate::progress::until;
use crate::{cgroups, files, run};

/// How long the kernel may take to end a machine's processes.
const END: Duration = Duration::from_secs(30);

/// What identifies a process beyond the reuse of its number: when it started, since which boot.
fn identity(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{pid} {} {}", started(&stat)?, boot.trim()))
}

/// Field 22 of /proc/PID/stat; the name in field 2 may hold anything, so counting begins after its parenthesis.
fn started(stat: &str) -> Option<&str> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A zombie's namespaces are gone already.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)
}

fn record(cluster: &Cluster, machine: Machine) -> PathBuf {
    cluster.run().join(format!("{machine}.pid"))
}

/// The host's number of a machine's PID 1, if it runs.
pub fn init_pid(cluster: &Cluster, machine: Machine) -> Option<i32> {
    let noted = fs::read_to_string(record(cluster, machine)).ok()?;
    let pid = noted.split(' ').next()?.parse().ok()?;
    (identity(pid)? == noted.trim()).then_some(pid)
}

/// Like [`init_pid`], for what cannot be done without it.
pub fn need(cluster: &Cluster, machine: Machine) -> Result<i32> {
    match init_pid(cluster, machine) {
        Some(pid) => Ok(pid),
        None => refused(format!("{machine} of cluster {} does not run", cluster.name())),
    }
}

/// A command of the host in a machine's network, and in nothing else of it.
pub fn in_network(pid: i32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(program);
    nsenter
}

/// Starts a machine whose disk is ready, and plugs it into the switch.
pub fn power_on(cluster: &Cluster, machine: Machine, toleration: u32) -> Result<()> {
    let socket = cluster.socket(machine);
    if socket.exists() {
        fs::remove_file(&socket).on("remove", &socket)?;
    }
    cgroups::create(&cluster.cgroup(machine))?;
    let mut unshare = run::command(
        "unshare",
        ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net", "--uts", "--ipc", "--"],
    );
    unshare.arg(cluster.xtask()).args(["machine", "--cluster", cluster.name(), "--toleration"]);
    unshare.arg(toleration.to_string()).arg(machine.to_string()).current_dir("/");
    let errors = cluster.run().join(format!("{machine}.errors"));
    let log = fs::File::create(&errors).on("create", &errors)?;
    // A group of its own: the user's Ctrl-C is not for the machines.
    unshare.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let child = unshare.spawn();
    let mut child = child.map_err(|source| Error::Start { command: run::shown(&unshare), source })?;
    let (Some(mut orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return refused(format!("{machine} has no standard input and output"));
    };
    let mut ready = String::new();
    BufReader::new(answers).read_line(&mut ready).on("read from", machine.to_string())?;
    if ready.trim() != "ready" {
        let why = files::read_optional(&errors)?.unwrap_or_default();
        return refused(format!("{machine} did not start: {}", why.trim()));
    }
    let pid = child_of(child.id())?;
    match identity(pid) {
        Some(identity) => files::write(&record(cluster, machine), identity)?,
        None => return refused(format!("{machine} ended while it started")),
    }
    if machine != Machine::Switch {
        cable(cluster, machine, pid)?;
    }
    orders.write_all(b"go\n").on("write to", machine.to_string())
}

/// The only child of `unshare --fork`.
fn child_of(parent: u32) -> Result<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(&path).on("read", &path)?;
    match text.split_whitespace().next().and_then(|word| word.parse().ok()) {
        Some(pid) => Ok(pid),
        None => refused(format!("process {parent} has no child")),
    }
}

/// Runs `ip` at the switch.
pub fn at_switch(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let switch = need(cluster, Machine::Switch)?;
    run::captured(in_network(switch, "ip").args(args)).map(drop)
}

fn cable(cluster: &Cluster, machine: Machine, pid: i32) -> Result<()> {
    let (port, pid) = (machine.port(), pid.to_string());
    let switch = need(cluster, Machine::Switch)?;
    // The port goes with the namespace at its other end, but a moment later.
    until(&format!("the end of the old {port}"), END, || {
        let old = run::output(in_network(switch, "ip").args(["link", "show", &port]))?;
        if !old.status.success() {
            return Ok(Ok(()));
        }
        run::output(in_network(switch, "ip").args(["link", "delete", &port]))?;
        Ok(Err("still there".to_owned()))
    })?;
    let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid];
    at_switch(cluster, &pair)?;
    at_switch(cluster, &["link", "set", &port, "master", "br0", "up"])
}

/// Cuts the power: all processes of the machine end at once, and its network and mounts with them.
pub fn power_off(cluster: &Cluster, machine: Machine) -> Result<()> {
    kill(cluster, machine)?;
    for path in [record(cluster, machine), cluster.socket(machine)] {
        remove_file(&path)?;
    }
    cgroups::remove(&cluster.cgroup(machine))
}

/// Kills a machine's PID 1 and with it every process of the machine; cgroups and files stay as they are.
pub fn kill(cluster: &Cluster, machine: Machine) -> Result<()> {
    let Some(pid) = init_pid(cluster, machine).and_then(Pid::from_raw) else { return Ok(()) };
    kill_process(pid, Signal::KILL).on("kill PID 1 of", machine.to_string())?;
    until(&format!("the end of {machine}"), END, || {
        Ok(if init_pid(cluster, machine).is_none() {
            Ok(())
        } else {
            Err(format!("process {} is there", pid.as_raw_nonzero()))
        })
    })
}

/// Ends the mounts of this process's namespace that are meant, the last one first.
pub fn unmount(meant: impl Fn(&Path) -> bool) -> Result<()> {
    let table = || fs::read_to_string("/proc/self/mounts").on("read", "/proc/self/mounts");
    for target in mounts(&table()?, meant).into_iter().rev() {
        let ended = run::captured(run::command("umount", ["--lazy", "--"]).arg(&target));
        // Another one may have ended it meanwhile.
        if ended.is_err() && !mounts(&table()?, |other| other == target).is_empty() {
            return ended.map(drop);
        }
    }
    Ok(())
}

fn mounts(table: &str, meant: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let targets = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    targets.filter(|target| meant(target)).collect()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_whatever_its_name_holds() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(started(&format!("7 (a) b (c) {tail}")), Some("4711"));
        assert_eq!(started("7 (gone) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"), None);
        assert_eq!(started("nonsense"), None);
    }

    #[test]
    fn only_mounts_below_the_folder_itself_count() {
        let table = "proc /proc proc rw 0 0\ntmpfs /s/dev/a tmpfs rw 0 0\ntmpfs /s/develop tmpfs rw 0 0\n";
        let below = |target: &Path| target.starts_with("/s/dev");
        assert_eq!(mounts(table, below), [PathBuf::from("/s/dev/a")]);
    }

    #[test]
    fn our_own_process_has_an_identity_and_a_free_number_has_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(identity(own).unwrap().starts_with(&format!("{own} ")));
        assert!(identity(i32::MAX).is_none());
    }
}
