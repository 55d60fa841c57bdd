//! PID 1 gets the orphans of its container: children of a Postgres that died, archive commands and the like.
//!
//! The processes of a dead Postgres are ended before another is started: a busy one doesn't notice the death of
//! its postmaster, works on in the shared memory, and Postgres refuses to start beside it.
//!
//! The dead are reaped: the agent's own children at once by those who wait for them, and here a dead child that
//! is still there at the next look, since it was nobody's. A dead process costs no more than its number, so the
//! looks are far apart.
use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Time between two looks; far longer than anybody's wait for a child of his own.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time that a process gets to end by itself.
const END: Duration = Duration::from_secs(2);

/// Ends the living children that have this name, and waits until they are gone: in order first, then by force.
/// To be called when no child of that name is wanted.
pub async fn end_children(name: &str) -> std::io::Result<()> {
    let me = getpid();
    let left = || children(me.as_raw_nonzero().get(), |c| c.name == name && c.state != DEAD);
    // Before the first look, so that no death is missed.
    let mut deaths = signal(SignalKind::child())?;
    let mut how = Signal::QUIT;
    loop {
        let found = left();
        if found.is_empty() {
            return Ok(());
        }
        tracing::warn!(name, pids = ?found, signal = ?how, "ending orphans");
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            // One that is gone meanwhile is what is wanted.
            let _ = kill_process(pid, how);
        }
        let all_gone = async { while !left().is_empty() && deaths.recv().await.is_some() {} };
        if timeout(END, all_gone).await.is_err() {
            how = Signal::KILL;
        }
    }
}

/// Whether one of these is a living child of a process.
pub fn has_child(parent: Pid, pids: &[i32]) -> bool {
    let living = children(parent.as_raw_nonzero().get(), |child| child.state != DEAD);
    pids.iter().any(|pid| living.contains(pid))
}

/// Reaps orphans for ever.
pub async fn run() {
    let mut before = BTreeSet::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let dead = dead_children(getpid().as_raw_nonzero().get());
        for pid in dead.intersection(&before).filter_map(|pid| Pid::from_raw(*pid)) {
            // It was there a moment ago and nobody else waits for it; a failure means that it is gone.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        before = dead;
    }
}

/// Dead children of process `parent` that nobody has waited for.
fn dead_children(parent: i32) -> BTreeSet<i32> {
    children(parent, |child| child.state == DEAD)
}

fn children(parent: i32, wanted: impl Fn(&Child<'_>) -> bool) -> BTreeSet<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Child::parse(&stat).is_some_and(|child| child.parent == parent && wanted(&child))
        })
        .collect()
}

/// State of a process that is dead and wasn't waited for.
const DEAD: &str = "Z";

/// A process as `/proc/PID/stat` has it (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Child<'a> {
    name: &'a str,
    state: &'a str,
    parent: i32,
}

impl<'a> Child<'a> {
    fn parse(stat: &'a str) -> Option<Self> {
        // The name stands in brackets and may hold anything, brackets too.
        let (before, rest) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let mut fields = rest.split_whitespace();
        Some(Self { name, state: fields.next()?, parent: fields.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_child_by_name_state_and_parent() {
        let odd = Child::parse("12 (odd) Z (1) Z 1 0").unwrap();
        assert_eq!(odd, Child { name: "odd) Z (1", state: "Z", parent: 1 });
        assert_ne!(Child::parse("12 (sh) S 7 12").unwrap().state, DEAD);
        assert_eq!(Child::parse(""), None);
        assert_eq!(Child::parse("12 (sh)"), None);
    }

    /// A child of a name of its own: the kernel takes the name of the file that is run.
    fn child_named(folder: &std::path::Path, name: &str, script: &str) -> std::process::Child {
        let shell = folder.join(name);
        std::os::unix::fs::symlink("/bin/sh", &shell).unwrap();
        let mut child = std::process::Command::new(shell);
        let mut child = child.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Its traps are set once it has spoken.
        let mut word = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        child
    }

    #[tokio::test]
    async fn ends_the_willing_and_the_unwilling_and_lets_others_be() {
        let folder = tempfile::tempdir().unwrap();
        let busy = "echo; while :; do :; done";
        let mut willing = child_named(folder.path(), "orphan-one", busy);
        let mut other = child_named(folder.path(), "stranger", busy);
        end_children("orphan-one").await.unwrap();
        assert!(willing.try_wait().unwrap().is_some());
        let mut unwilling = child_named(folder.path(), "orphan-two", &format!("trap '' QUIT; {busy}"));
        end_children("orphan-two").await.unwrap();
        assert!(unwilling.try_wait().unwrap().is_some());
        assert!(other.try_wait().unwrap().is_none(), "it has another name");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn tells_a_living_child_from_others() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(has_child(getpid(), &[1, pid]));
        assert!(!has_child(getpid(), &[1]) && !has_child(getpid(), &[]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!has_child(getpid(), &[pid]));
    }

    #[test]
    fn sees_a_child_that_was_not_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let deadline = crate::clock::now().after(Duration::from_secs(10));
        while !dead_children(me).contains(&pid) {
            assert!(crate::clock::now() < deadline, "the child never died");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!dead_children(me).contains(&pid));
    }
}
