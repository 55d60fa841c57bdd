//! What the processes of a pod use, as the kernel counts it (proc(5)). Machines of the embedded cluster are process trees
//! of this one, so their processes are seen from here.

use std::fs;

use super::super::pool::Pool;
use crate::error::{OnFile, Result, refused};
use crate::pods;

/// Ticks a second in which /proc/PID/stat counts time; Linux gives all programs the same (time(7)).
const TICKS: f64 = 100.0;

/// The processes of a pod.
#[derive(Debug)]
pub struct Processes {
    /// Their numbers, as this machine has them.
    pub pids: Vec<u32>,
}

/// Memory of processes, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    /// Proportional set size: what several share is counted once in all.
    pub pss: f64,
    /// Resident set size: what several share is counted for each.
    pub rss: f64,
    /// What of it no file stands behind: heap and stacks. The rest is mostly the program itself.
    pub anonymous: f64,
}

impl Processes {
    /// All that run in the pod now.
    pub fn of(pool: &Pool<'_>, pod: &str) -> Result<Self> {
        let uid = pool.object(&["pod", pod])?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if uid.is_empty() {
            return refused(format!("pod {pod} has no uid"));
        }
        let pids = pods::processes(&uid)?;
        Ok(Self { pids })
    }

    /// Seconds of processor time that they have used, all threads of each.
    pub fn cpu(&self) -> Result<f64> {
        self.sum("stat", |text| Some(ticks(text)? / TICKS))
    }

    /// Their memory.
    pub fn memory(&self) -> Result<Memory> {
        let kib = |name: &'static str| self.sum("smaps_rollup", move |text| kib(text, name));
        Ok(Memory { pss: kib("Pss:")?, rss: kib("Rss:")?, anonymous: kib("Anonymous:")? })
    }

    fn sum(&self, file: &str, read: impl Fn(&str) -> Option<f64>) -> Result<f64> {
        let mut sum = 0.0;
        for pid in &self.pids {
            let path = format!("/proc/{pid}/{file}");
            let text = fs::read_to_string(&path).on("read", &path)?;
            match read(&text) {
                Some(value) => sum += value,
                None => return refused(format!("{path} is not as proc(5) has it")),
            }
        }
        Ok(sum)
    }

    /// As `perf` and `strace` want them.
    pub fn list(&self) -> String {
        self.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Fields 14 and 15 of /proc/PID/stat; the name in field 2 may hold anything, so counting begins after its parenthesis.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn kib(rollup: &str, name: &str) -> Option<f64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_after_the_name_whatever_that_holds() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 250 50 11 12";
        assert_eq!(ticks(&format!("7 (a) b (c) {tail}")), Some(300.0));
        assert_eq!(ticks("7 (short) S 1"), None);
    }

    #[test]
    fn memory_is_read_by_its_name() {
        let text = "55 - 7f rollup\nRss:            1200 kB\nPss:             700 kB\nPss_Dirty: 5 kB\n";
        assert_eq!((kib(text, "Pss:"), kib(text, "Rss:")), (Some(700.0), Some(1200.0)));
        assert_eq!(kib(text, "Swap:"), None);
    }

    #[test]
    fn our_own_process_uses_time_and_memory() {
        let own = Processes { pids: vec![std::process::id()] };
        assert!(own.cpu().unwrap() >= 0.0);
        let memory = own.memory().unwrap();
        assert!(memory.pss > 100.0 && memory.rss >= memory.pss);
        assert!(memory.anonymous > 0.0 && memory.anonymous <= memory.rss);
    }
}
