//! `registers`: what the journaled snapshots say about each other and about the writes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::Operation;
use super::snapshots::{Findings, examine};
use crate::check::content::Problems;
use crate::cli::RegistersArgs;
use crate::error::WorkloadError;
use crate::history::id::Id;
use crate::journal::{self, JournalError, Line};
use crate::print;

/// What `registers` prints.
#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    verdict: Vec<String>,
    runs: BTreeMap<Id, Findings>,
}

/// The operations of a run.
#[derive(Debug, Default)]
struct Run {
    operations: Vec<Operation>,
    ended: bool,
}

/// Examines the runs of a journal, prints the report; true if all is good.
pub fn report(args: &RegistersArgs) -> Result<bool, WorkloadError> {
    let report = judge(&load(&args.journal)?);
    let mut text = serde_json::to_vec_pretty(&report)?;
    text.push(b'\n');
    print(&text)?;
    for line in &report.verdict {
        eprintln!("{line}");
    }
    Ok(report.good)
}

/// Runs without such operations are left out.
fn load(path: &Path) -> Result<BTreeMap<Id, Run>, JournalError> {
    let mut runs: BTreeMap<Id, Run> = BTreeMap::new();
    let mut current = Id(0);
    journal::read(path, |line| match line {
        Line::Start { run, .. } => current = run,
        Line::Register(operation) => runs.entry(current).or_default().operations.push(operation),
        Line::End(_) => {
            if let Some(run) = runs.get_mut(&current) {
                run.ended = true;
            }
        }
        Line::Write(_) | Line::Stale(_) => {}
    })?;
    Ok(runs)
}

fn judge(runs: &BTreeMap<Id, Run>) -> Report {
    let mut verdict = Vec::new();
    let mut examined = BTreeMap::new();
    for (id, run) in runs {
        let findings = examine(&run.operations);
        if !run.ended {
            verdict.push(format!(
                "UNFINISHED: run {id} has no end, so an operation of each client may be missing here"
            ));
        }
        if findings.counts.acked == 0 || findings.counts.snapshots == 0 {
            verdict.push(format!(
                "NOTHING CHECKED: run {id} has {} acknowledged writes and {} snapshots",
                findings.counts.acked, findings.counts.snapshots
            ));
        }
        say(&mut verdict, "STALE", &findings.stale);
        say(&mut verdict, "CONTRADICTIONS", &findings.contradictions);
        examined.insert(*id, findings);
    }
    if examined.is_empty() {
        verdict.push("NOTHING CHECKED: the journal holds no operation on registers".to_owned());
    }
    Report { good: verdict.is_empty(), verdict, runs: examined }
}

fn say(verdict: &mut Vec<String>, what: &str, problems: &Problems) {
    if let Some(first) = problems.examples.first() {
        verdict.push(format!("{what}: {}; {first}", problems.count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::tests::{read, write};

    fn verdict(operations: Vec<Operation>, ended: bool) -> Vec<String> {
        judge(&BTreeMap::from([(Id(7), Run { operations, ended })])).verdict
    }

    #[test]
    fn only_a_whole_history_with_reads_and_writes_is_good() {
        let good = vec![write(0, 1, 0, 1, (10, 20)), read("a", &[(1, 1)], (30, 40))];
        assert_eq!(verdict(good.clone(), true), [""; 0]);
        assert!(verdict(good.clone(), false)[0].starts_with("UNFINISHED"));
        assert!(verdict(good[..1].to_vec(), true)[0].starts_with("NOTHING CHECKED"));
        assert!(judge(&BTreeMap::new()).verdict[0].starts_with("NOTHING CHECKED"));
        let stale = vec![good[0].clone(), read("a", &[(0, 0)], (30, 40))];
        assert!(verdict(stale, true)[0].starts_with("STALE: 1; a at 30 us: register 0"));
    }

    #[test]
    fn the_journal_of_the_other_checkers_test_is_read_and_would_be_written_again() {
        // Both programs are tried on the same file, so neither can change the form of it alone.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/linearizable/testdata/journal");
        let mut again = String::new();
        journal::read(&path, |line| again += &(serde_json::to_string(&line).unwrap() + "\n")).unwrap();
        assert_eq!(again, std::fs::read_to_string(&path).unwrap());
        let report = judge(&load(&path).unwrap());
        assert!(report.good, "{report:?}");
        assert_eq!(report.runs.values().map(|findings| findings.long_forks.count).sum::<u64>(), 1);
    }
}
