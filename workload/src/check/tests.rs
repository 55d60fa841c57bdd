use proptest::prelude::*;

use super::*;
use crate::db::failure::Outcome;
use crate::history::stats::Writes;
use crate::journal::{Entry, Line};
use crate::ops::Action;
use content::Content;
use row::Row;

const RUN: Id = Id(77);

/// A database that applies writes as a correct server would, and the journal of them.
struct World {
    lines: Vec<Line>,
    rows: Vec<Row>,
    balances: [i64; 4],
    lengths: [u64; 3],
    counters: [u64; 3],
}

/// Kind, place, outcome, and whether it happened if the outcome is unknown.
type Step = (u8, u32, Outcome, bool);

fn world(steps: &[Step]) -> World {
    let mut world = World {
        lines: vec![Line::Start { run: RUN, writers: 1, wall_us: 0 }],
        rows: Vec::new(),
        balances: [1000; 4],
        lengths: [0; 3],
        counters: [0; 3],
    };
    for (number, step) in (0..).zip(steps) {
        world.step(number, *step);
    }
    world.lines.push(Line::End(Writes::default()));
    let accounts = (0..).zip(world.balances).map(|(id, balance)| Row::Account { id, initial: 1000, balance });
    let heads = (0..).zip(world.lengths).map(|(list, length)| Row::ListHead { list, length });
    let counters = (0..).zip(world.counters).map(|(counter, n)| Row::Counter { run: RUN, counter, n });
    world.rows.extend(accounts.chain(heads).chain(counters));
    world
}

impl World {
    fn step(&mut self, number: u64, (kind, place, outcome, happened): Step) {
        let id = Id(number.into());
        let action = match kind % 4 {
            0 => Action::Transfer { from: place % 4, to: (place + 1) % 4, amount: 5 },
            1 => Action::Append { list: place % 3 },
            2 => Action::Unique,
            _ => Action::Increment { counter: place % 3 },
        };
        let happened = outcome == Outcome::Acked || (outcome == Outcome::Unknown && happened);
        let pos = if happened { self.apply(id, action) } else { None };
        self.lines.push(Line::Write(Entry {
            writer: 0,
            seq: number,
            id,
            action,
            outcome,
            code: None,
            pos: pos.filter(|_| outcome == Outcome::Acked),
            sent_us: 0,
            done_us: 0,
            sent_wall_us: 0,
            done_wall_us: 0,
        }));
    }

    fn apply(&mut self, id: Id, action: Action) -> Option<u64> {
        match action {
            Action::Transfer { from, to, amount } => {
                self.balances[from as usize] -= i64::from(amount);
                self.balances[to as usize] += i64::from(amount);
                let (from, to, amount) = (from.into(), to.into(), amount.into());
                self.rows.push(Row::Transfer { id, run: RUN, from, to, amount });
            }
            Action::Append { list } => {
                self.lengths[list as usize] += 1;
                let pos = self.lengths[list as usize];
                self.rows.push(Row::ListItem { list: list.into(), pos, id, run: RUN });
                return Some(pos);
            }
            Action::Unique => self.rows.push(Row::Unique { id, run: RUN }),
            Action::Increment { counter } => self.counters[counter as usize] += 1,
        }
        None
    }
}

fn findings(lines: &[Line], rows: &[Row]) -> Findings {
    let mut ledger = Ledger::default();
    for line in lines {
        ledger.add(line.clone());
    }
    let ledger = ledger.seal();
    let mut content = Content::new(&ledger);
    for row in rows {
        content.row(*row);
    }
    content.finish()
}

fn good(findings: &Findings) -> bool {
    findings.sorts().iter().all(|(_, problems)| problems.count == 0)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Acked),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::Unknown),
    ];
    prop::collection::vec((any::<u8>(), 0..100_u32, outcome, any::<bool>()), 1..60)
}

proptest! {
    #[test]
    fn a_correct_history_is_good(steps in steps()) {
        let world = world(&steps);
        let findings = findings(&world.lines, &world.rows);
        prop_assert!(good(&findings), "{findings:?}");
    }

    #[test]
    fn any_acknowledged_row_that_is_taken_away_is_missed(steps in steps(), which: prop::sample::Index) {
        let world = world(&steps);
        let acked: Vec<Id> = world.lines.iter().filter_map(|line| match line {
            Line::Write(entry) if entry.outcome == Outcome::Acked
                && !matches!(entry.action, Action::Increment { .. }) => Some(entry.id),
            _ => None,
        }).collect();
        prop_assume!(!acked.is_empty());
        let gone = acked[which.index(acked.len())];
        let rows: Vec<Row> = world.rows.iter().copied().filter(|row| match row {
            Row::Transfer { id, .. } | Row::ListItem { id, .. } | Row::Unique { id, .. } => *id != gone,
            _ => true,
        }).collect();
        let findings = findings(&world.lines, &rows);
        prop_assert_eq!(findings.lost.count, 1, "{:?}", findings);
        prop_assert!(findings.lost.examples[0].contains(&gone.to_string()));
    }

    #[test]
    fn any_number_that_is_changed_is_noticed(steps in steps(), which: prop::sample::Index, up: bool) {
        let world = world(&steps);
        let mut rows = world.rows.clone();
        let unknown = steps.iter().filter(|step| step.2 == Outcome::Unknown).count() as u64;
        let by = if up { unknown + 1 } else { 1_000 };
        let changed = which.index(rows.len());
        match &mut rows[changed] {
            Row::Account { balance, .. } => *balance += 1,
            Row::Transfer { amount, .. } => *amount += 1,
            Row::ListHead { length, .. } => *length += 1,
            Row::ListItem { pos, .. } => *pos += 100,
            Row::Unique { id, .. } => id.0 += 1_000_000,
            Row::Counter { n, .. } if up => *n += by,
            Row::Counter { n, .. } => {
                prop_assume!(unknown == 0 && *n > 0);
                *n = n.saturating_sub(by);
            }
            Row::Register => unreachable!("the world has none"),
        }
        prop_assert!(!good(&findings(&world.lines, &rows)), "{:?}", rows[changed]);
    }
}

#[test]
fn a_refused_write_that_happened_is_a_ghost() {
    let mut world = world(&[(2, 0, Outcome::Acked, true), (2, 0, Outcome::Refused, false)]);
    world.rows.push(Row::Unique { id: Id(1), run: RUN });
    assert_eq!(findings(&world.lines, &world.rows).ghosts.count, 1);
}

#[test]
fn a_run_that_died_may_leave_one_write_for_each_writer() {
    let mut world = world(&[(2, 0, Outcome::Acked, true)]);
    world.rows.push(Row::Unique { id: Id(500), run: RUN });
    assert_eq!(findings(&world.lines, &world.rows).ghosts.count, 1);
    world.lines.pop();
    assert!(good(&findings(&world.lines, &world.rows)));
    world.rows.push(Row::Unique { id: Id(501), run: RUN });
    assert_eq!(findings(&world.lines, &world.rows).ghosts.count, 2);
}

#[test]
fn rows_of_runs_without_a_journal_are_left_to_the_comparison() {
    let mut world = world(&[(2, 0, Outcome::Acked, true)]);
    world.rows.push(Row::Unique { id: Id(500), run: Id(5) });
    world.rows.push(Row::Counter { run: Id(5), counter: 0, n: 9 });
    let findings = findings(&world.lines, &world.rows);
    assert!(good(&findings), "{findings:?}");
    assert_eq!(findings.other_runs, 2);
}

#[test]
fn an_append_that_moved_is_lost_where_it_was_acknowledged() {
    let mut world = world(&[(1, 0, Outcome::Acked, true), (1, 0, Outcome::Acked, true)]);
    for row in &mut world.rows {
        if let Row::ListItem { pos, .. } = row {
            *pos = 3 - *pos;
        }
    }
    let findings = findings(&world.lines, &world.rows);
    assert_eq!((findings.lost.count, findings.lists.count), (2, 0), "{findings:?}");
}
