//! `check`: every acknowledged write is looked for on every node, each node is checked against itself, and all
//! nodes are compared, table by table and row by row. Works on dumps; nodes that can be reached are dumped first.

pub mod compare;
pub mod content;
pub mod dump;
pub mod dump_sql;
pub mod ledger;
pub mod live;
pub mod row;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cli::{CheckArgs, named_file};
use crate::error::WorkloadError;
use crate::history::id::Id;
use crate::history::stats::Stale;
use crate::{journal, print};
use compare::{Comparison, Hasher, Rows, Tables, Verdict};
use content::{Content, Findings, Problems};
use dump::{DumpError, DumpLine, DumpReader, NodeHead, TableHead};
use ledger::Ledger;

/// How many stale reads a report shows; all are counted.
const STALE_SHOWN: usize = 20;

/// What `check` prints.
#[derive(Debug, Serialize)]
struct Report {
    good: bool,
    verdict: Vec<String>,
    acked: u64,
    runs: Vec<Id>,
    stale: u64,
    stale_examples: Vec<Stale>,
    comparison: Comparison,
    nodes: BTreeMap<String, NodeReport>,
}

/// What it says of one node.
#[derive(Debug, Serialize)]
struct NodeReport {
    node: NodeHead,
    findings: Findings,
}

/// One node's dump, read once.
struct Scanned {
    head: NodeHead,
    tables: Tables,
    findings: Findings,
}

/// Checks, prints the report; true if all is good.
pub async fn check(args: &CheckArgs) -> Result<bool, WorkloadError> {
    let ledger = load(&args.journal)?;
    let spool = tempfile::tempdir()
        .map_err(|source| WorkloadError::Io { what: "directory for dumps".to_owned(), source })?;
    let mut dumps: Vec<(String, PathBuf)> = Vec::new();
    for text in &args.dump {
        let (name, file) = named_file(text)?;
        dumps.push((name.to_owned(), file.to_owned()));
    }
    let targets = args.node.iter().map(|node| args.connect.node(node)).collect::<Result<Vec<_>, _>>()?;
    let sessions = live::wait_for_rest(&targets, Duration::from_secs(args.wait_seconds)).await?;
    for (number, (target, session)) in targets.iter().zip(&sessions).enumerate() {
        let path = spool.path().join(number.to_string());
        live::dump(target, session, &path).await?;
        dumps.push((target.name.clone(), path));
    }
    let report = examine(&ledger, &dumps)?;
    let mut text = serde_json::to_vec_pretty(&report)?;
    text.push(b'\n');
    print(&text)?;
    for line in &report.verdict {
        eprintln!("{line}");
    }
    Ok(report.good)
}

fn load(journals: &[PathBuf]) -> Result<Ledger, WorkloadError> {
    let mut ledger = Ledger::default();
    for path in journals {
        journal::read(path, |line| ledger.add(line))?;
        ledger.end_file();
    }
    Ok(ledger.seal())
}

fn examine(ledger: &Ledger, dumps: &[(String, PathBuf)]) -> Result<Report, WorkloadError> {
    let mut names = BTreeSet::new();
    if let Some((name, _)) = dumps.iter().find(|(name, _)| !names.insert(name)) {
        return Err(WorkloadError::SameName { name: name.clone() });
    }
    let mut scanned = Vec::new();
    for (_, path) in dumps {
        scanned.push(scan(ledger, path)?);
    }
    let comparison = compare_all(dumps, &scanned)?;
    let nodes: BTreeMap<String, NodeReport> = dumps
        .iter()
        .zip(scanned)
        .map(|((name, _), scan)| (name.clone(), NodeReport { node: scan.head, findings: scan.findings }))
        .collect();
    let verdict = judge(ledger, &comparison, &nodes);
    Ok(Report {
        good: verdict.is_empty(),
        verdict,
        acked: ledger.acked(),
        runs: ledger.runs().map(|(run, _)| run).collect(),
        stale: ledger.stale().len() as u64,
        stale_examples: ledger.stale().iter().take(STALE_SHOWN).cloned().collect(),
        comparison,
        nodes,
    })
}

/// Reads a dump once: hashes every table, hands the rows of schema `workload` to the content check.
fn scan(ledger: &Ledger, path: &Path) -> Result<Scanned, DumpError> {
    let mut reader = DumpReader::open(path)?;
    let mut content = Content::new(ledger);
    let mut head = None;
    let mut tables = Tables::new();
    let mut current: Option<(TableHead, u64, Hasher)> = None;
    let close = |tables: &mut Tables, current: Option<(TableHead, u64, Hasher)>| {
        if let Some((head, offset, hasher)) = current {
            let table = hasher.finish(&head, offset);
            tables.insert((head.schema, head.table), table);
        }
    };
    while let Some(line) = reader.next()? {
        match line {
            DumpLine::Node(node) => head = Some(node),
            DumpLine::Table(table, offset) => {
                close(&mut tables, current.replace((table, offset, Hasher::default())));
            }
            DumpLine::Row(row) => {
                if let Some((table, _, hasher)) = &mut current {
                    hasher.row(&row);
                    if table.schema == "workload" {
                        match row::parse(&table.table, &row) {
                            Some(row) => content.row(row),
                            None => content.unreadable(&table.table, &row),
                        }
                    }
                }
            }
        }
    }
    close(&mut tables, current);
    let head = head.ok_or_else(|| DumpError {
        path: path.to_owned(),
        line: 0,
        problem: dump::DumpProblem::Order("there is no #node line"),
    })?;
    Ok(Scanned { head, tables, findings: content.finish() })
}

fn compare_all(dumps: &[(String, PathBuf)], scanned: &[Scanned]) -> Result<Comparison, DumpError> {
    let nodes: Vec<String> = dumps.iter().map(|(name, _)| name.clone()).collect();
    let keys: BTreeSet<&(String, String)> = scanned.iter().flat_map(|scan| scan.tables.keys()).collect();
    let mut comparison = Comparison::default();
    for key in keys {
        let tables: Vec<_> = scanned.iter().map(|scan| scan.tables.get(key)).collect();
        comparison.tables += 1;
        comparison.rows += tables.first().copied().flatten().map_or(0, |table| table.rows);
        let problems = match compare::verdict(&nodes, &tables) {
            Verdict::Same => continue,
            Verdict::Shape(text) => Problems { count: 1, examples: vec![text] },
            Verdict::Rows(skip) => {
                let mut sources = Vec::new();
                for ((_, path), table) in dumps.iter().zip(tables.iter().flatten()) {
                    let mut source = DumpReader::open_at(path, table.offset)?;
                    for _ in 0..skip {
                        source.next_row()?;
                    }
                    sources.push(source);
                }
                compare::pinpoint(&nodes, &mut sources)?
            }
        };
        comparison.different.insert(format!("{}.{}", key.0, key.1), problems);
    }
    Ok(comparison)
}

impl Rows for DumpReader {
    type Error = DumpError;

    /// A table ends where the next one begins; past that, the rows are another table's.
    fn next_row(&mut self) -> Result<Option<Vec<u8>>, DumpError> {
        Self::next_row(self)
    }
}

/// What is not good, one line each; nothing if all is.
fn judge(ledger: &Ledger, comparison: &Comparison, nodes: &BTreeMap<String, NodeReport>) -> Vec<String> {
    let mut verdict = Vec::new();
    if ledger.acked() == 0 {
        verdict.push("NOTHING CHECKED: the journals hold no acknowledged write".to_owned());
    }
    if ledger.strays() > 0 {
        verdict.push(format!("BROKEN JOURNAL: {} writes stand outside of any run", ledger.strays()));
    }
    if !ledger.stale().is_empty() {
        verdict.push(format!("STALE: {} reads", ledger.stale().len()));
    }
    for (name, report) in nodes {
        if report.node.in_flight > 0 {
            verdict.push(format!("IN FLIGHT on {name}: {} sessions were writing", report.node.in_flight));
        }
        for (what, problems) in report.findings.sorts() {
            say(&mut verdict, &format!("{what} on {name}"), problems);
        }
    }
    for (table, problems) in &comparison.different {
        say(&mut verdict, &format!("DIFFERENT {table}"), problems);
    }
    verdict
}

fn say(verdict: &mut Vec<String>, what: &str, problems: &Problems) {
    if let Some(first) = problems.examples.first() {
        verdict.push(format!("{what}: {}; {first}", problems.count));
    }
}
