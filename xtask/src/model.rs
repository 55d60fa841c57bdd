//! `cargo xtask model`: the models of the membership protocol, with the states that they looked at.

use crate::cargo;
use crate::error::Result;
use crate::run;

/// The test programs that are models, and the first columns of their tables in docs/membership.md.
const MODELS: [(&str, &str); 2] = [
    ("membership_model", "| world | nodes, at first attached |"),
    ("election_model", "| world | nodes | epochs |"),
];

/// Runs the models one after the other, so that each has the machine for itself, and prints the rows of the tables in
/// docs/membership.md: how many states were generated, how many differ, and whether those were all.
pub fn run(full: bool) -> Result<()> {
    let mut tables = Vec::new();
    for (model, columns) in MODELS {
        let mut rows = Vec::new();
        run::lines(&mut test(model, full), |line| {
            println!("{line}");
            rows.extend(row(line).map(str::to_owned));
        })?;
        tables.push(table(columns, &rows));
    }
    println!("\n{}", tables.join("\n"));
    Ok(())
}

fn test(model: &str, full: bool) -> std::process::Command {
    let mut test = cargo::command("test");
    // The selection of the tests, so that nothing is built twice.
    test.args(cargo::SELECTION).args(cargo::OPTIMISED);
    test.args(["--test", model, "--", "--nocapture", "--test-threads=1"]);
    if full {
        test.env("PGPOOL_MODEL", "full");
    }
    test
}

/// The row of a table, if the line has one: the name of a test may stand before it.
fn row(line: &str) -> Option<&str> {
    let row = &line[line.find("| ")?..];
    row.ends_with(" |").then_some(row)
}

fn table(columns: &str, rows: &[String]) -> String {
    let head = format!("{columns} states generated | different | |");
    let line = "|---".repeat(head.matches('|').count() - 1);
    format!("{head}\n{line}|\n{}\n", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_rows_that_the_tests_print() {
        let line = "test rules::leases ... | leases | 2, 2 | 1 156 | 285 | all |";
        assert_eq!(row(line), Some("| leases | 2, 2 | 1 156 | 285 | all |"));
        assert_eq!(row("a closure |x| of a schedule"), None);
        let table = table(MODELS[0].1, &[row(line).unwrap_or_default().to_owned()]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| world | nodes, at first attached | states generated | different | |");
        assert_eq!(lines[1], "|---|---|---|---|---|");
        assert_eq!(lines[2], row(line).unwrap_or_default());
    }
}
