//! The journal: one JSON object a line, handed to the kernel before the write that it tells of is counted, so
//! that it survives the death of this process. A run is a `start` line, then its writes, then an `end` line; a
//! run without an end died, and at most one write of each of its writers isn't in the journal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::Micros;
use crate::db::failure::Outcome;
use crate::history::id::Id;
use crate::history::stats::{Stale, Writes};
use crate::ops::Action;
use crate::registers::Operation;

/// A journal that can't be written or read.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("journal {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line other than the torn last one of a run that died isn't a journal line.
    #[error("journal {path}, line {line}: {source}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From one.
        line: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// The line can't be written as JSON.
    #[error("journal {path}: {source}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A run begins.
    Start {
        /// Its identifier.
        run: Id,
        /// How many writers it has: each has one write under way at most.
        writers: u32,
        /// When, by the wall clock.
        wall_us: Micros,
    },
    /// A write's outcome is known.
    Write(Entry),
    /// A read was stale.
    Stale(Stale),
    /// An operation on registers is over.
    Register(Operation),
    /// The run is over and every write of it stands above.
    End(Writes),
}

/// A write and its outcome. Times in microseconds; `_us` alone is monotonic since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the writer.
    pub writer: u32,
    /// Number of the write among the writer's.
    pub seq: u64,
    /// Its own id.
    pub id: Id,
    /// What it did.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
    /// SQLSTATE or word, when it wasn't acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For an acknowledged append: where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<u64>,
    /// Sent.
    pub sent_us: Micros,
    /// Outcome known.
    pub done_us: Micros,
    /// Sent, by the wall clock.
    pub sent_wall_us: Micros,
    /// Outcome known, by the wall clock.
    pub done_wall_us: Micros,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens `path` to append to it; the torn last line of a run that died is closed off.
    pub fn append_to(path: &Path) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1)).map_err(io)?;
            file.read_exact(&mut last).map_err(io)?;
            if last != [b'\n'] {
                file.write_all(b"\n").map_err(io)?;
            }
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes one line in one system call.
    pub fn write(&mut self, line: &Line) -> Result<(), JournalError> {
        let mut bytes = serde_json::to_vec(line)
            .map_err(|source| JournalError::Encode { path: self.path.clone(), source })?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }
}

/// Calls `each` with every line of the journal at `path`.
pub fn read(path: &Path, each: impl FnMut(Line)) -> Result<(), JournalError> {
    let file = File::open(path).map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
    parse(path, BufReader::new(file), each)
}

fn parse(path: &Path, reader: impl BufRead, mut each: impl FnMut(Line)) -> Result<(), JournalError> {
    let mut torn: Option<(u64, serde_json::Error)> = None;
    for (index, text) in reader.split(b'\n').enumerate() {
        let text = text.map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
        if text.is_empty() {
            continue;
        }
        let line = serde_json::from_slice(&text);
        // A torn line is what a process leaves that dies while it writes: only a new run may follow.
        if let Some((number, source)) = torn.take()
            && !matches!(line, Ok(Line::Start { .. }))
        {
            return Err(JournalError::Line { path: path.to_owned(), line: number, source });
        }
        match line {
            Ok(line) => each(line),
            Err(source) => torn = Some((index as u64 + 1, source)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"start":{"run":"00000000-0000-0000-0000-000000000007","writers":2,"wall_us":5}}"#;
    const END: &str = r#"{"end":{"acked":0,"refused":0,"unknown":0}}"#;

    fn lines(text: &str) -> Result<usize, JournalError> {
        let mut count = 0;
        parse(Path::new("test"), text.as_bytes(), |_| count += 1)?;
        Ok(count)
    }

    #[test]
    fn a_torn_line_is_accepted_only_where_a_run_died() {
        assert_eq!(lines(&format!("{START}\n{END}\n")).unwrap(), 2);
        assert_eq!(lines(&format!("{START}\n{{\"wri")).unwrap(), 1);
        assert_eq!(lines(&format!("{START}\n{{\"wri\n{START}\n{END}\n")).unwrap(), 3);
        let error = lines(&format!("{START}\n{{\"wri\n{END}\n")).unwrap_err();
        assert!(matches!(error, JournalError::Line { line: 2, .. }), "{error}");
    }

    #[test]
    fn what_is_appended_is_read_back_also_after_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let start = Line::Start { run: Id(7), writers: 2, wall_us: 5 };
        let write = Line::Write(Entry {
            writer: 1,
            seq: 3,
            id: Id(9),
            action: Action::Append { list: 4 },
            outcome: Outcome::Acked,
            code: None,
            pos: Some(12),
            sent_us: 1,
            done_us: 2,
            sent_wall_us: 3,
            done_wall_us: 4,
        });
        std::fs::write(&path, format!("{START}\n{{\"wri")).unwrap();
        let mut journal = Journal::append_to(&path).unwrap();
        for line in [&start, &write] {
            journal.write(line).unwrap();
        }
        let mut seen = Vec::new();
        read(&path, |line| seen.push(line)).unwrap();
        assert_eq!(seen, [start.clone(), start, write]);
    }
}
