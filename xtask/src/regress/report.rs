//! What came of it: how many files said the same, and where the others differ.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::expected::{self, Expected};
use super::source::Tests;
use super::way::{Course, Went};
use crate::error::{OnFile, Result, refused};
use crate::progress::print;
use crate::{files, run};

/// Lines of a difference that are printed.
const FIRST: usize = 12;

/// A file that says something else.
struct Difference {
    name: String,
    lost: usize,
    new: usize,
    text: String,
    at: PathBuf,
}

/// The outcome.
pub struct Report {
    differences: Vec<Difference>,
    /// Files of the first way that say what PostgreSQL's own run says.
    as_published: usize,
    /// Errors in them, most of which the tests ask for.
    errors: usize,
    all: usize,
}

impl Report {
    /// Compares file by file, writes what differs to `folder`, and prints it.
    pub fn of(tests: &Tests, first: &Course, second: &Course, folder: &Path) -> Result<Self> {
        let mut report = Self { differences: Vec::new(), as_published: 0, errors: 0, all: tests.names.len() };
        for (one, other) in first.went.iter().zip(&second.went) {
            let said = spoken(&first.folder, one)?;
            report.as_published += usize::from(is_published(&tests.expected, &first.folder, &one.name)?);
            report.errors += said.lines().filter(|line| line.starts_with("ERROR:")).count();
            let other = spoken(&second.folder, other)?;
            if said != other {
                report.differences.push(difference(&one.name, [&said, &other], folder)?);
            }
        }
        report.print(tests, first, second);
        Ok(report)
    }

    fn print(&self, tests: &Tests, first: &Course, second: &Course) {
        let (Tests { version, sha256, .. }, all) = (tests, self.all);
        print(format!("PostgreSQL {version}, sources sha256:{sha256}, {all} files, one after the other"));
        for course in [first, second] {
            let late = course.went.iter().filter(|went| went.code != 0).map(|went| went.name.as_str());
            let late: Vec<&str> = late.collect();
            let ended = if late.is_empty() { "none".to_owned() } else { late.join(", ") };
            let took = course.took.as_secs();
            print(format!("{}: {took} s; psql ended with an error: {ended}", course.way.name()));
        }
        let (same, errors) = (self.as_published, self.errors);
        print(format!("{}: {same} as PostgreSQL's own run has it; {errors} errors", first.way.name()));
        for difference in &self.differences {
            let Difference { name, lost, new, text, at } = difference;
            let why = expectation(difference).map_or("not expected", |expected| expected.why);
            print(format!("\n{name} differs, -{lost} +{new}: {why}; {}", at.display()));
            text.lines().skip(2).take(FIRST).for_each(print);
        }
        let differ = self.differences.len();
        print(format!("\n{} of {all} files say the same, {differ} differ", all - differ));
    }

    /// Fails if there is a difference that isn't expected.
    pub fn judge(&self) -> Result<()> {
        let wrong = self.differences.iter().filter(|difference| expectation(difference).is_none());
        let names: Vec<&str> = wrong.map(|difference| difference.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        refused(format!("differences that aren't expected: {}", names.join(", ")))
    }
}

fn expectation(difference: &Difference) -> Option<&'static Expected> {
    let Difference { name, lost, new, .. } = difference;
    expected::ALL.iter().find(|e| e.name == name && e.lost == *lost && e.new == *new)
}

/// What psql said, and how it ended.
fn spoken(folder: &Path, went: &Went) -> Result<String> {
    let path = folder.join(format!("{}.out", went.name));
    let bytes = fs::read(&path).on("read", &path)?;
    // Bytes that are no text stay apart: each as two letters of its own.
    let text: String = bytes.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String can't fail.
            let _ = write!(text, "\\{byte:02x}");
        }
        text
    });
    Ok(format!("{}psql ended with code {}\n", plain(&text), went.code))
}

/// Without what names the way: libpq begins its complaints with the host that it tried.
fn plain(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.map(|line| without_host(line).unwrap_or_else(|| line.to_owned())).collect()
}

fn without_host(line: &str) -> Option<String> {
    let (before, rest) = line.split_once("connection to server at \"")?;
    let (_, after) = rest.split_once("port 5432")?;
    Some(format!("{before}connection to server{after}"))
}

/// Whether it is one of the outputs that PostgreSQL's sources allow.
fn is_published(expected: &Path, folder: &Path, name: &str) -> Result<bool> {
    let path = folder.join(format!("{name}.out"));
    let said = fs::read(&path).on("read", &path)?;
    let variants = std::iter::once(format!("{name}.out")).chain((0..=9).map(|n| format!("{name}_{n}.out")));
    for variant in variants.map(|variant| expected.join(variant)).filter(|variant| variant.exists()) {
        if fs::read(&variant).on("read", &variant)? == said {
            return Ok(true);
        }
    }
    Ok(false)
}

fn difference(name: &str, said: [&str; 2], folder: &Path) -> Result<Difference> {
    let at = folder.join("differs");
    let [first, second] = ["1", "2"].map(|side| at.join(format!("{name}.{side}")));
    files::write(&first, said[0])?;
    files::write(&second, said[1])?;
    let mut diff = run::command("diff", ["--text", "--unified=3"]);
    let text = String::from_utf8_lossy(&run::output(diff.arg(first).arg(second))?.stdout).into_owned();
    let at = at.join(format!("{name}.diff"));
    files::write(&at, &text)?;
    let count = |mark: char| text.lines().skip(2).filter(|line| line.starts_with(mark)).count();
    Ok(Difference { name: name.to_owned(), lost: count('-'), new: count('+'), text, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_goes() {
        let line = "psql: error: connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  no\n";
        let other = "psql: error: connection to server at \"a.b\" (10.0.0.1), port 5432 failed: FATAL:  no\n";
        assert_eq!(plain(line), "psql: error: connection to server failed: FATAL:  no\n");
        assert_eq!(plain(line), plain(other));
        assert_eq!(plain("a\n\nb"), "a\n\nb");
    }

    #[test]
    fn differences_are_counted_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let found = difference("copy", ["a\nb\nc\n", "a\nc\nd\ne\n"], dir.path()).unwrap();
        assert_eq!((found.lost, found.new), (1, 2));
        assert!(fs::read_to_string(found.at).unwrap().contains("\n-b\n"));
    }

    #[test]
    fn any_variant_counts_as_published() {
        let dir = tempfile::tempdir().unwrap();
        let (expected, out) = (dir.path().join("expected"), dir.path().join("out"));
        for (path, text) in [("expected/a.out", "x"), ("expected/a_1.out", "y"), ("out/a.out", "y")] {
            files::write(&dir.path().join(path), text).unwrap();
        }
        assert!(is_published(&expected, &out, "a").unwrap());
        files::write(&out.join("a.out"), "z").unwrap();
        assert!(!is_published(&expected, &out, "a").unwrap());
    }

    #[test]
    fn bytes_that_are_no_text_and_the_code_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.out"), b"x\xff\n").unwrap();
        let went = Went { name: "a".to_owned(), code: 3 };
        assert_eq!(spoken(dir.path(), &went).unwrap(), "x\\ff\npsql ended with code 3\n");
    }
}
