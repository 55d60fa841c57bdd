//! One turn of pgbench over one way.
//!
//! Figures are taken between the first and the last line of its progress: logins, their keys and the first statements,
//! which fill caches, come before. Lines may come late from the pod, so the processor's share is taken by the clock here
//! and the rate of transactions by the one of pgbench.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use super::process::Processes;
use super::stage::Stage;
use super::way::Way;
use crate::clock::Stopwatch;
use crate::error::{Error, OnFile, Result, refused};
use crate::{interrupt, run};

/// What pgbench does in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// One SELECT by key.
    SelectOnly,
    /// Seven statements, three of them UPDATE and one INSERT.
    TpcB,
}

/// How it sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A query as text.
    Simple,
    /// Parsed and bound each time.
    Extended,
    /// Parsed once.
    Prepared,
}

/// What is measured with one number of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// The transactions.
    pub script: Script,
    /// How they are sent.
    pub protocol: Protocol,
    /// Clients at once.
    pub clients: u32,
}

/// All scripts with all protocols.
pub const KINDS: [(Script, Protocol); 6] = [
    (Script::SelectOnly, Protocol::Simple),
    (Script::SelectOnly, Protocol::Extended),
    (Script::SelectOnly, Protocol::Prepared),
    (Script::TpcB, Protocol::Simple),
    (Script::TpcB, Protocol::Extended),
    (Script::TpcB, Protocol::Prepared),
];

impl Script {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SelectOnly => "select-only",
            Self::TpcB => "TPC-B",
        }
    }

    fn builtin(self) -> &'static str {
        match self {
            Self::SelectOnly => "select-only",
            Self::TpcB => "tpcb-like",
        }
    }
}

impl Protocol {
    /// As pgbench and the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

impl Cell {
    /// As the tables have it.
    pub fn name(self) -> String {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        format!("{}, {}, {} {clients}", self.script.name(), self.protocol.name(), self.clients)
    }

    /// The command, for `extent` as pgbench's options have it.
    pub fn pgbench(self, extent: &str, conninfo: &str) -> String {
        let (script, protocol) = (self.script.builtin(), self.protocol.name());
        let (clients, threads) = (self.clients, self.clients.min(2));
        format!(
            "pgbench --no-vacuum -b {script} -M {protocol} -c {clients} -j {threads} {extent} '{conninfo}'"
        )
    }
}

/// What a turn gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// Processor time of the program between, in microseconds a transaction; 0 without one.
    pub cpu: f64,
    /// Mean latency of a transaction, in milliseconds.
    pub latency: f64,
    /// Transactions a second.
    pub rate: f64,
}

/// A line of pgbench's progress.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Progress {
    /// In seconds since 1970.
    at: f64,
    /// Transactions a second since the line before.
    rate: f64,
    /// Their mean latency, in milliseconds.
    latency: f64,
    /// Transactions that failed.
    failed: u64,
}

impl Progress {
    /// Such as `progress: 1700000000.123 s, 812.3 tps, lat 1.198 ms stddev 0.2, 0 failed`.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix("progress: ")?.split_whitespace().collect();
        let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
        let before = |name: &str| {
            words.iter().position(|word| *word == name).and_then(|at| words.get(at.checked_sub(1)?))
        };
        Some(Self {
            at: words.first()?.parse().ok()?,
            rate: before("tps,")?.parse().ok()?,
            latency: after("lat")?.parse().ok()?,
            failed: before("failed")?.parse().ok()?,
        })
    }
}

/// What had been used when a line came.
#[derive(Debug, Clone, Copy)]
struct Used {
    /// Seconds by the clock here.
    at: f64,
    /// Processor seconds.
    cpu: f64,
}

/// The turn between the first and the last line.
fn between(lines: &[(Progress, Used)]) -> Option<Turn> {
    let ((first, begun), (last, ended)) = (lines.first()?, lines.last()?);
    let (mut count, mut spent) = (0.0, 0.0);
    for pair in lines.windows(2) {
        let (from, to) = (pair.first()?.0, pair.last()?.0);
        let done = to.rate * (to.at - from.at);
        // Without a transaction there is no latency.
        if done > 0.0 {
            count += done;
            spent += done * to.latency;
        }
    }
    let (seconds, watched) = (last.at - first.at, ended.at - begun.at);
    if count <= 0.0 || seconds <= 0.0 || watched <= 0.0 {
        return None;
    }
    let rate = count / seconds;
    Some(Turn { cpu: (ended.cpu - begun.cpu) / watched * 1e6 / rate, latency: spent / count, rate })
}

/// Runs pgbench for `seconds` and one more, and measures meanwhile.
pub fn turn(stage: &Stage<'_>, way: Way, cell: Cell, seconds: u32) -> Result<Turn> {
    interrupt::check()?;
    let between_them = stage.processes(way)?;
    let extent = format!("-T {} -P 1 --progress-timestamp", seconds + 1);
    let mut pgbench =
        stage.at_client(&format!("{} 2>&1", cell.pgbench(&extent, &stage.conninfo(way, true))))?;
    let command = run::shown(&pgbench);
    pgbench.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pgbench.spawn().map_err(|source| Error::Start { command: command.clone(), source })?;
    let watched = watch(&mut child, between_them.as_ref());
    if watched.is_err() {
        // What it may still say is of no use.
        let _ = child.kill();
    }
    let ended =
        child.wait_with_output().map_err(|source| Error::Start { command: command.clone(), source })?;
    let (lines, said) = watched?;
    if !ended.status.success() || lines.iter().any(|(line, _)| line.failed > 0) {
        return Err(Error::Ended { command, status: run::told(ended.status), output: said });
    }
    match between(&lines) {
        Some(turn) => Ok(turn),
        None => refused(format!("pgbench by way of {} told too little: {said}", way.name())),
    }
}

/// Reads pgbench's lines until it ends, and what has been used at each of its progress.
fn watch(child: &mut Child, watched: Option<&Processes>) -> Result<(Vec<(Progress, Used)>, String)> {
    let (mut lines, mut said, clock) = (Vec::new(), String::new(), Stopwatch::start());
    let Some(out) = child.stdout.take() else { return Ok((lines, said)) };
    for line in BufReader::new(out).lines() {
        let line = line.on("read from", "pgbench")?;
        match Progress::parse(&line) {
            Some(progress) => {
                let cpu = watched.map_or(Ok(0.0), Processes::cpu)?;
                lines.push((progress, Used { at: clock.elapsed().as_secs_f64(), cpu }));
            }
            None => said = said + &line + "\n",
        }
    }
    Ok((lines, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: f64, rate: f64, latency: f64) -> Progress {
        Progress { at, rate, latency, failed: 0 }
    }

    #[test]
    fn a_line_of_progress_is_read() {
        let text = "progress: 1700000000.123 s, 812.3 tps, lat 1.198 ms stddev 0.2, 3 failed";
        let read = Progress::parse(text).unwrap();
        assert_eq!(read, Progress { failed: 3, ..line(1_700_000_000.123, 812.3, 1.198) });
        assert_eq!(Progress::parse("tps = 812.3 (without initial connection time)"), None);
    }

    fn used(at: f64, cpu: f64) -> Used {
        Used { at, cpu }
    }

    #[test]
    fn what_comes_before_the_first_line_does_not_count() {
        let lines = [
            (line(10.0, 9000.0, 9.0), used(1.0, 5.0)),
            (line(11.0, 1000.0, 1.0), used(2.0, 5.1)),
            (line(13.0, 500.0, 3.0), used(4.0, 5.2)),
            (line(14.0, 0.0, f64::NAN), used(5.0, 5.2)),
        ];
        let turn = between(&lines).unwrap();
        assert!((turn.cpu - 100.0).abs() < 1e-6, "{turn:?}");
        assert!((turn.latency - 2.0).abs() < 1e-9 && (turn.rate - 500.0).abs() < 1e-9, "{turn:?}");
        assert_eq!(between(&lines[..1]), None);
        assert_eq!(between(&[]), None);
    }

    #[test]
    fn a_line_that_comes_late_changes_no_share() {
        let lines = [(line(10.0, 0.0, 0.0), used(1.5, 5.0)), (line(14.0, 1000.0, 1.0), used(4.5, 5.3))];
        // A tenth of a processor, whenever it was looked at.
        assert!((between(&lines).unwrap().cpu - 100.0).abs() < 1e-6);
    }

    #[test]
    fn pgbench_is_asked_for_the_cell() {
        let cell = Cell { script: Script::TpcB, protocol: Protocol::Prepared, clients: 8 };
        let text = cell.pgbench("-t 5", "host=x");
        assert_eq!(text, "pgbench --no-vacuum -b tpcb-like -M prepared -c 8 -j 2 -t 5 'host=x'");
    }
}
