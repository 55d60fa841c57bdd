//! What the machine must have: root, Debian packages, Go.

use std::sync::{Mutex, PoisonError};

use crate::error::{Result, refused};
use crate::progress::{say, step};
use crate::run;

/// What the cluster and the images need beside Rust and Go.
const PACKAGES: [&str; 13] = [
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "debian-archive-keyring",
    "iproute2",
    "iptables",
    "kmod",
    "mmdebstrap",
    "nftables",
    "procps",
    "runc",
    "util-linux",
    "binutils",
];

/// What tests on the machine itself need besides: the workload's checker is tried against real servers.
const TEST_PACKAGES: [&str; 2] = ["postgresql", "util-linux"];

/// What tries the rules of a Prometheus.
const PROMTOOL: [(&str, &str); 1] = [("promtool", "prometheus")];

/// What counts system calls where the kernel lets nobody count them by events.
const COUNTER_PACKAGES: [&str; 1] = ["strace"];

/// What unpacks, compiles and compares PostgreSQL's own tests.
const REGRESS_PACKAGES: [&str; 4] = ["bzip2", "diffutils", "gcc", "libc6-dev"];

/// Fails unless the user is root: namespaces, mounts and cgroups need it.
pub fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    refused("the embedded cluster needs root (namespaces, mounts, cgroups): run this as root")
}

/// Installs the Debian packages of cluster and images that are missing.
pub fn need_packages() -> Result<()> {
    need(&PACKAGES)
}

/// Installs the Debian packages that tests on the machine itself need.
pub fn need_test_packages() -> Result<()> {
    need(&TEST_PACKAGES)
}

/// Installs promtool if it is missing.
pub fn need_promtool() -> Result<()> {
    need_programs(&PROMTOOL)
}

/// Installs strace if it is missing.
pub fn need_counter_packages() -> Result<()> {
    need(&COUNTER_PACKAGES)
}

/// Installs the Debian packages of programs that are missing, wherever those that are there came from.
pub fn need_programs(programs: &[(&str, &'static str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package);
    let mut missing: Vec<&'static str> = missing.collect();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { need(&missing) }
}

fn is_there(program: &str) -> bool {
    run::output(&mut run::command("sh", ["-c", &format!("command -v {program}")]))
        .is_ok_and(|out| out.status.success())
}

/// Installs what PostgreSQL's own tests need.
pub fn need_regress_packages() -> Result<()> {
    need(&REGRESS_PACKAGES)
}

/// apt-get gives up where another one works.
static APT: Mutex<()> = Mutex::new(());

fn need(packages: &[&'static str]) -> Result<()> {
    let _alone = APT.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = missing_packages(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if run::output(&mut run::command("apt-get", ["--version"])).is_err() {
        return refused(format!("not a Debian-like machine: install what these packages hold: {list}"));
    }
    say(format!("installing {list}"));
    let apt = |args: &[&str]| {
        run::captured(run::command("apt-get", args).env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
    };
    let install: Vec<&str> =
        ["install", "-y", "--no-install-recommends"].into_iter().chain(missing.iter().copied()).collect();
    step("Debian packages", || {
        apt(&["update"])?;
        apt(&install)
    })
}

fn missing_packages(packages: &[&'static str]) -> Vec<&'static str> {
    let mut query =
        run::command("dpkg-query", ["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    query.args(packages);
    // It fails as soon as one is unknown, having listed the others.
    let listed = match run::output(&mut query) {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(_) => String::new(),
    };
    missing_in(packages, &listed)
}

fn missing_in(packages: &[&'static str], listed: &str) -> Vec<&'static str> {
    packages
        .iter()
        .copied()
        .filter(|p| !listed.lines().any(|line| line == format!("{p} installed")))
        .collect()
}

/// Fails unless Go is there.
pub fn need_go() -> Result<()> {
    match run::output(&mut run::command("go", ["version"])) {
        Ok(out) if out.status.success() => Ok(()),
        _ => {
            refused("Go is missing: install Go 1.24 or later (it fetches the release that is needed itself)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_fully_installed_counts() {
        let state = |p: &str| if p == "runc" { "config-files" } else { "installed" };
        let lines: Vec<String> =
            PACKAGES.iter().filter(|p| **p != "kmod").map(|p| format!("{p} {}", state(p))).collect();
        let listed = lines.join("\n");
        assert_eq!(missing_in(&PACKAGES, &listed), ["kmod", "runc"]);
        assert_eq!(missing_in(&PACKAGES, "").len(), PACKAGES.len());
    }
}
