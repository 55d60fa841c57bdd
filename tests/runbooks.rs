//! The runbooks: each has its place in the index, its commands can be typed, and the steps that are said to try it are there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

#[path = "common/runbooks.rs"]
mod runbooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use runbooks::{OPEN, commands, filled, folder, in_one_line, page};

/// The page that names all others.
const INDEX: &str = "README";
/// The section of it that says what tries each page.
const TRIED: &str = "## What tries them";
/// How each step of the cluster test stands in its list.
const LIST: &str = "tests/cluster/main.rs";

/// The names of all pages.
fn pages() -> BTreeSet<String> {
    let names =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".md").map(str::to_owned)).collect()
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What stands in the code spans of a text.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Targets of the links of a text.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The rows of the table of what tries each page, by page.
fn tried() -> BTreeMap<String, String> {
    let index = page(INDEX).unwrap();
    let section = index.split(TRIED).nth(1).expect("the section of what tries them");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ["));
    let row = |row: &str| {
        let name = links(row).next().unwrap().strip_suffix(".md").unwrap().to_owned();
        (name, row.to_owned())
    };
    rows.map(row).collect()
}

/// The steps of the cluster test.
fn steps() -> BTreeSet<String> {
    let list = fs::read_to_string(root(LIST)).unwrap();
    let names = list.split("(\"").skip(1).filter_map(|rest| rest.split('"').next());
    names.filter(|name| name.contains("::")).map(str::to_owned).collect()
}

#[test]
fn every_page_is_in_the_index_and_has_what_it_links_to() {
    let index = page(INDEX).unwrap();
    for name in pages() {
        assert!(name == INDEX || index.contains(&format!("({name}.md")), "{name} isn't in the index");
        for link in links(&page(&name).unwrap()).filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap();
            assert!(file.is_empty() || folder().join(file).is_file(), "{name} links to {link}");
        }
    }
}

#[test]
fn every_page_says_what_tries_it_and_that_is_there() {
    let (tried, steps) = (tried(), steps());
    assert!(steps.len() > 100, "only {} steps: is {LIST} read as it is written?", steps.len());
    let named: BTreeSet<String> = tried.keys().cloned().collect();
    assert_eq!(named, pages(), "the table names another set of pages");
    for (name, row) in &tried {
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells.len(), 3, "{name}: {row}");
        for step in spans(row).filter(|span| span.contains("::")) {
            assert!(steps.contains(step), "{name}: there is no step {step}");
        }
        for file in spans(row).filter(|span| Path::new(span).extension().is_some_and(|end| end == "rs")) {
            assert!(root(file).is_file(), "{name}: there is no file {file}");
        }
    }
    let all: String = tried.into_values().collect();
    for step in steps.iter().filter(|step| step.starts_with("runbooks::")) {
        assert!(all.contains(&format!("`{step}`")), "{step} isn't in the table");
    }
}

#[test]
fn every_command_is_one_for_a_shell() {
    let values: Vec<(&str, &str)> = OPEN.iter().map(|open| (*open, "some")).collect();
    let mut many = 0;
    for name in pages() {
        for command in commands(&page(&name).unwrap()) {
            let command = filled(&command, &values).unwrap();
            let said = Command::new("bash").args(["-n", "-c", &command]).output().unwrap();
            assert!(said.status.success(), "{name}: {command}: {}", String::from_utf8_lossy(&said.stderr));
            many += 1;
        }
    }
    assert!(many > 40, "only {many} commands are found");
}

#[test]
fn commands_are_found_and_filled() {
    let text = "# Page\n\
                Look, `kubectl -n NS get pods \\| wc -l`:\n\n    \
                kubectl -n NS exec POOL-K-0 -- psql -c \"\n      select 1\"\n    \
                curl -s localhost:5481/readyz   # why\n\n  \
                it isn't code: kubectl\n     nor is this\n";
    let found = commands(text);
    assert_eq!(
        found,
        [
            "kubectl -n NS exec POOL-K-0 -- psql -c \"\nselect 1\"",
            "curl -s localhost:5481/readyz   # why",
            "kubectl -n NS get pods | wc -l",
        ]
    );
    let values = [("NS", "birds"), ("POOL", "heron"), ("K", "2")];
    let command = filled(&found[0], &values).unwrap();
    assert_eq!(command, "kubectl -n birds exec heron-2-0 -- psql -c \"\nselect 1\"");
    assert!(filled(&found[0], &values[..2]).unwrap_err().contains("nothing to put for K"));
    assert_eq!(in_one_line("two\n   lines "), "two lines");
}
