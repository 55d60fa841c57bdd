//! PID 1 reaps the orphans of its container: children of a Postgres that died, archive commands and the like.
//!
//! The agent's own children are reaped at once by those who wait for them. A dead child that is still there
//! at the next look was nobody's: it is reaped here. A dead process costs no more than its number, so the
//! looks are far apart.
use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

/// Time between two looks; far longer than anybody's wait for a child of his own.
const LOOK_EVERY: Duration = Duration::from_secs(10);

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

/// Dead children of process `parent` that nobody has waited for (proc(5), `/proc/PID/stat`).
fn dead_children(parent: i32) -> BTreeSet<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            is_dead_child(&stat, parent)
        })
        .collect()
}

fn is_dead_child(stat: &str, parent: i32) -> bool {
    // The name stands in brackets and may hold anything, brackets too.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|p| p.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_dead_child_by_state_and_parent() {
        assert!(is_dead_child("12 (sh) Z 1 12 12", 1));
        assert!(is_dead_child("12 (odd) Z 1) Z 1 0", 1));
        assert!(!is_dead_child("12 (sh) S 1 12", 1));
        assert!(!is_dead_child("12 (sh) Z 7 12", 1));
        assert!(!is_dead_child("", 1));
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
