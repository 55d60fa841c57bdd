//! Checks what one node holds against the ledger and against itself. Pure: rows are handed in, in any order.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ledger::{Kind, Ledger};
use super::row::Row;
use crate::db::failure::Outcome;
use crate::history::id::Id;

/// How many problems of one sort are spelled out.
const SPELLED_OUT: usize = 20;

/// Problems of one sort: all counted, the first ones spelled out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// How many.
    pub count: u64,
    /// The first ones.
    pub examples: Vec<String>,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, describe: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < SPELLED_OUT {
            self.examples.push(describe());
        }
    }
}

/// What was found on one node; good if nothing counts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// Acknowledged writes that were looked for.
    pub acked: u64,
    /// Acknowledged writes that are missing, or appends that stand elsewhere than was acknowledged.
    pub lost: Problems,
    /// Writes that were refused and are there all the same, or that nobody sent.
    pub ghosts: Problems,
    /// Sum of balances, balances against transfers.
    pub bank: Problems,
    /// Gaps, repetitions, lengths.
    pub lists: Problems,
    /// Counters below what was acknowledged or above what was sent.
    pub counters: Problems,
    /// Rows that can't be read, ids that occur twice.
    pub malformed: Problems,
    /// Rows of runs whose journal wasn't given: only compared between nodes.
    pub other_runs: u64,
}

impl Findings {
    /// The problems by sort, each with the word that reports use.
    pub fn sorts(&self) -> [(&'static str, &Problems); 6] {
        [
            ("LOST", &self.lost),
            ("GHOST", &self.ghosts),
            ("BANK", &self.bank),
            ("LISTS", &self.lists),
            ("COUNTERS", &self.counters),
            ("MALFORMED", &self.malformed),
        ]
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    initial: i64,
    balance: i64,
    moved: i64,
    exists: bool,
}

/// Gathers the rows of one node.
pub struct Content<'a> {
    ledger: &'a Ledger,
    seen: Vec<bool>,
    unsent: BTreeMap<Id, Vec<Id>>,
    accounts: BTreeMap<i64, Account>,
    positions: BTreeMap<i64, Vec<u64>>,
    lengths: BTreeMap<i64, u64>,
    counters: BTreeMap<(Id, u32), u64>,
    findings: Findings,
}

impl<'a> Content<'a> {
    /// Nothing seen yet.
    pub fn new(ledger: &'a Ledger) -> Self {
        Self {
            ledger,
            seen: vec![false; ledger.writes().len()],
            unsent: BTreeMap::new(),
            accounts: BTreeMap::new(),
            positions: BTreeMap::new(),
            lengths: BTreeMap::new(),
            counters: BTreeMap::new(),
            findings: Findings { acked: ledger.acked(), ..Findings::default() },
        }
    }

    /// Takes a row that couldn't be read.
    pub fn unreadable(&mut self, table: &str, text: &[u8]) {
        self.findings.malformed.add(|| format!("workload.{table}: {}", String::from_utf8_lossy(text)));
    }

    /// Takes a row.
    pub fn row(&mut self, row: Row) {
        match row {
            Row::Account { id, initial, balance } => {
                let account = self.accounts.entry(id).or_default();
                (account.initial, account.balance, account.exists) = (initial, balance, true);
            }
            Row::Transfer { id, run, from, to, amount } => {
                self.accounts.entry(from).or_default().moved -= amount;
                self.accounts.entry(to).or_default().moved += amount;
                self.write(Kind::Transfer, id, run, None);
            }
            Row::ListHead { list, length } => {
                self.lengths.insert(list, length);
            }
            Row::ListItem { list, pos, id, run } => {
                self.positions.entry(list).or_default().push(pos);
                self.write(Kind::Append, id, run, Some(pos));
            }
            Row::Unique { id, run } => self.write(Kind::Unique, id, run, None),
            Row::Counter { run, counter, n } => {
                self.counters.insert((run, counter), n);
            }
            Row::Register => {}
        }
    }

    fn write(&mut self, kind: Kind, id: Id, run: Id, pos: Option<u64>) {
        let Some(index) = self.ledger.find(id) else {
            match self.ledger.unjournaled(run) {
                Some(_) => self.unsent.entry(run).or_default().push(id),
                None => self.findings.other_runs += 1,
            }
            return;
        };
        let expected = self.ledger.writes()[index];
        if expected.kind != kind {
            self.findings
                .malformed
                .add(|| format!("{id} was a {:?} and stands as a {kind:?}", expected.kind));
            return;
        }
        if std::mem::replace(&mut self.seen[index], true) {
            self.findings.malformed.add(|| format!("{kind:?} {id} stands twice"));
        }
        if expected.outcome == Outcome::Refused {
            self.findings.ghosts.add(|| format!("{kind:?} {id} was refused and is there"));
        }
        if expected.outcome == Outcome::Acked && pos != expected.pos.map(u64::from) {
            self.findings.lost.add(|| {
                format!("{kind:?} {id} was acknowledged at {:?} and stands at {pos:?}", expected.pos)
            });
        }
    }

    /// All rows were handed in.
    pub fn finish(mut self) -> Findings {
        self.find_lost();
        self.check_ghosts();
        self.check_bank();
        self.check_lists();
        self.check_counters();
        self.findings
    }

    fn find_lost(&mut self) {
        for (expected, seen) in self.ledger.writes().iter().zip(&self.seen) {
            if expected.outcome == Outcome::Acked && !seen {
                self.findings
                    .lost
                    .add(|| format!("{:?} {} was acknowledged and isn't there", expected.kind, expected.id));
            }
        }
    }

    /// A run that died leaves up to one unjournaled write for each of its writers, not more.
    fn check_ghosts(&mut self) {
        for (run, ids) in &self.unsent {
            let slack = self.ledger.unjournaled(*run).unwrap_or(0);
            if ids.len() as u64 > slack {
                for id in ids {
                    self.findings.ghosts.add(|| format!("{id} of run {run} is in no journal"));
                }
            }
        }
    }

    fn check_bank(&mut self) {
        let bank = &mut self.findings.bank;
        let (mut sum, mut initial) = (0_i128, 0_i128);
        for (number, account) in &self.accounts {
            sum += i128::from(account.balance);
            initial += i128::from(account.initial);
            let due = account.initial + account.moved;
            if !account.exists {
                bank.add(|| format!("account {number} has transfers and doesn't exist"));
            } else if account.balance != due {
                bank.add(|| format!("account {number} has {} and should have {due}", account.balance));
            }
        }
        if sum != initial {
            bank.add(|| format!("all accounts together have {sum} and should have {initial}"));
        }
    }

    fn check_lists(&mut self) {
        let lists = &mut self.findings.lists;
        for list in self.lengths.keys() {
            self.positions.entry(*list).or_default();
        }
        for (list, positions) in &mut self.positions {
            positions.sort_unstable();
            let wrong = positions.iter().zip(1_u64..).find(|(pos, due)| *pos != due);
            if let Some((pos, due)) = wrong {
                lists.add(|| format!("list {list}: position {pos} follows where {due} should"));
            }
            let length = self.lengths.get(list).copied().unwrap_or(0);
            if length != positions.len() as u64 {
                lists.add(|| format!("list {list} has {} items and says {length}", positions.len()));
            }
        }
    }

    fn check_counters(&mut self) {
        let (shown, known) = (&self.counters, self.ledger.counters());
        for (key @ (run, counter), increments) in known {
            let slack = self.ledger.unjournaled(*run).unwrap_or(0);
            let n = shown.get(key).copied().unwrap_or(0);
            let most = increments.acked + increments.unknown + slack;
            if n < increments.acked || n > most {
                self.findings.counters.add(|| {
                    format!("counter {counter} of run {run} is {n}, not {} to {most}", increments.acked)
                });
            }
        }
        for ((run, counter), n) in shown {
            let unknown_here = !known.contains_key(&(*run, *counter));
            match self.ledger.unjournaled(*run) {
                Some(slack) if unknown_here && *n > slack => self
                    .findings
                    .counters
                    .add(|| format!("counter {counter} of run {run} is {n} and was never sent")),
                None => self.findings.other_runs += 1,
                Some(_) => {}
            }
        }
    }
}
