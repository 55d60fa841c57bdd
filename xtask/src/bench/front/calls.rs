//! System calls a transaction: of a long run and of a short one, whose difference holds neither logins nor their ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::load::{Cell, Script};
use super::process::Processes;
use super::stage::Stage;
use super::way::Way;
use crate::error::{Error, OnFile, Result, refused};
use crate::progress::until;
use crate::{host, interrupt, paths, run};

/// What the kernel counts as the begin of a system call.
const EVENT: &str = "raw_syscalls:sys_enter";
/// How long strace may take to attach.
const ATTACH: Duration = Duration::from_secs(20);
/// Transactions of the short run.
const SHORT: u32 = 1;
/// Seconds in which an idle program is watched.
const IDLE: u32 = 5;

/// What counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// The kernel's own event: costs next to nothing.
    Perf,
    /// Each call is stopped at: what is counted runs many times slower, and makes the same calls.
    Strace,
}

impl Counter {
    /// `perf` where this machine lets it count, `strace` elsewhere.
    pub fn choose() -> Result<Self> {
        let file = report_file()?;
        let tried = run::output(perf(&file).args(["--", "true"]));
        if tried.is_ok_and(|done| done.status.success()) && read(&file, counted_by_perf).is_ok_and(|n| n > 0)
        {
            return Ok(Self::Perf);
        }
        host::need_counter_packages()?;
        Ok(Self::Strace)
    }

    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf stat -e raw_syscalls:sys_enter",
            Self::Strace => "strace -c",
        }
    }

    /// Runs a command; gives the calls that the processes made meanwhile.
    fn count(self, processes: &Processes, command: &mut Command) -> Result<u64> {
        let file = report_file()?;
        match self {
            Self::Perf => {
                let mut perf = perf(&file);
                perf.args(["-p", &processes.list(), "--"]);
                perf.arg(command.get_program()).args(command.get_args());
                perf.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                run::captured(&mut perf)?;
                read(&file, counted_by_perf)
            }
            Self::Strace => {
                let strace = Attached::start(processes, &file)?;
                let done = run::captured(command);
                strace.end()?;
                done?;
                read(&file, counted_by_strace)
            }
        }
    }
}

/// Where the counters write.
fn report_file() -> Result<PathBuf> {
    Ok(paths::cache("bench")?.join("system-calls"))
}

fn perf(file: &Path) -> Command {
    let mut perf = run::command("perf", ["stat", "-x", ",", "-e", EVENT, "-o"]);
    perf.arg(file);
    perf
}

fn read(file: &Path, parse: impl Fn(&str) -> Option<u64>) -> Result<u64> {
    let text = fs::read_to_string(file).on("read", file)?;
    match parse(&text) {
        Some(count) => Ok(count),
        None => refused(format!("no system calls were counted: {text}")),
    }
}

/// Such as `22422,,raw_syscalls:sys_enter,176277111,100.00,,`; one for each process is added up by perf itself.
fn counted_by_perf(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(EVENT))?;
    let first = line.split(',').next()?;
    // A program that made none at all isn't counted.
    if first == "<not counted>" { Some(0) } else { first.parse().ok() }
}

/// The last line of strace's table, such as `100.00 0.000012 0 144 19 total`.
fn counted_by_strace(text: &str) -> Option<u64> {
    let Some(line) = text.lines().rev().find(|line| line.trim_end().ends_with(" total")) else {
        // Without a call there is no table.
        return text.trim().is_empty().then_some(0);
    };
    line.split_whitespace().nth(3)?.parse().ok()
}

/// strace on processes.
struct Attached {
    child: Child,
    command: String,
}

impl Attached {
    fn start(processes: &Processes, file: &Path) -> Result<Self> {
        let mut strace = run::command("strace", ["-f", "-c", "-o"]);
        strace.arg(file);
        for pid in &processes.pids {
            strace.arg("-p").arg(pid.to_string());
        }
        let command = run::shown(&strace);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = strace.spawn().map_err(|source| Error::Start { command: command.clone(), source })?;
        let mut attached = Self { child, command };
        let all = until("strace to attach", ATTACH, || {
            let missing = processes.pids.iter().find(|pid| !is_traced(**pid));
            Ok(missing.map_or(Ok(()), |pid| Err(format!("process {pid} is not traced"))))
        });
        if all.is_err() {
            // It must not go on when nobody waits for it.
            let _ = attached.child.kill();
            let _ = attached.child.wait();
        }
        all.map(|()| attached)
    }

    /// Lets go of them, upon which it writes its table.
    fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::INT).on("interrupt", "strace")?;
        }
        self.child.wait().map(drop).map_err(|source| Error::Start { command: self.command, source })
    }
}

fn is_traced(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|by| by.trim() != "0"))
}

/// Calls a transaction at one client.
pub fn calls(stage: &Stage<'_>, counter: Counter, way: Way, cell: Cell) -> Result<f64> {
    let Some(processes) = stage.processes(way)? else { return Ok(0.0) };
    let count = |transactions: u32| {
        interrupt::check()?;
        let extent = format!("-t {transactions}");
        let text = format!("{} 2>&1", cell.pgbench(&extent, &stage.conninfo(way, true)));
        counter.count(&processes, &mut stage.at_client(&text)?)
    };
    let long = match cell.script {
        Script::SelectOnly => 4000,
        Script::TpcB => 500,
    };
    // The first run after another cell's warms up.
    count(SHORT)?;
    Ok(each(count(SHORT)?, count(SHORT + long)?, long))
}

/// Calls a second of a program that nobody uses.
pub fn idle(stage: &Stage<'_>, counter: Counter, way: Way) -> Result<f64> {
    let Some(processes) = stage.processes(way)? else { return Ok(0.0) };
    Ok(each(0, counter.count(&processes, &mut run::command("sleep", [IDLE.to_string()]))?, IDLE))
}

#[expect(clippy::cast_precision_loss, reason = "far fewer calls than the 2^53 up to which a f64 is exact")]
fn each(short: u64, long: u64, more: u32) -> f64 {
    (long as f64 - short as f64) / f64::from(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_counted_is_read() {
        let text = "# started on Sun\n\n22422,,raw_syscalls:sys_enter,176277111,100.00,,\n";
        assert_eq!(counted_by_perf(text), Some(22422));
        assert_eq!(counted_by_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,"), Some(0));
        assert_eq!(counted_by_perf("<not supported>,,raw_syscalls:sys_enter,0,100.00,,"), None);
        assert_eq!(counted_by_perf(""), None);
    }

    #[test]
    fn what_strace_counted_is_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n 50.00 0.1 1 100 read\n\
                    ------ --- \n100.00    0.000000           0       144        19 total\n";
        assert_eq!(counted_by_strace(text), Some(144));
        assert_eq!(counted_by_strace(""), Some(0));
        assert_eq!(counted_by_strace("strace: nothing"), None);
    }

    #[test]
    fn logins_fall_out_of_the_difference() {
        assert!((each(500, 25_300, 4000) - 6.2).abs() < 1e-9);
    }
}
