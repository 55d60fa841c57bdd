//! Reading a dump: `#node`, then for each table `#table` and its rows in order, then `#end`. What is cut short
//! or out of order is an error, never a smaller database.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A dump that can't be read.
#[derive(Debug, Error)]
#[error("dump {path}, line {line}: {problem}")]
pub struct DumpError {
    /// The file.
    pub path: PathBuf,
    /// From one.
    pub line: u64,
    /// What is wrong there.
    pub problem: DumpProblem,
}

/// What is wrong with it.
#[derive(Debug, Error)]
pub enum DumpProblem {
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A `#` line isn't what it says.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The order of lines is broken.
    #[error("{0}")]
    Order(&'static str),
}

/// The `#node` line: who was dumped, and in what state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHead {
    /// The server's cluster_name; may be empty.
    pub cluster_name: String,
    /// True on a standby.
    pub in_recovery: bool,
    /// Replayed up to here, or written up to here on a primary.
    pub lsn: Option<String>,
    /// Sessions of writers that were not idle.
    pub in_flight: u64,
}

/// The `#table` line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableHead {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Names and types of the columns, in order.
    pub columns: String,
}

/// The `#end` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How many tables there were.
    pub tables: u64,
}

/// One line of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpLine {
    /// Who.
    Node(NodeHead),
    /// A table begins; the number is the place of its first row in the file, in bytes.
    Table(TableHead, u64),
    /// A row, as PostgreSQL writes a composite value.
    Row(Vec<u8>),
}

/// Reads a dump line by line.
pub struct DumpReader {
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    offset: u64,
    whole: bool,
    seen_node: bool,
    tables: u64,
    ended: bool,
    last: Option<Vec<u8>>,
    buffer: Vec<u8>,
}

impl DumpReader {
    /// Opens the dump.
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        let file = File::open(path).map_err(|error| DumpError {
            path: path.to_owned(),
            line: 0,
            problem: error.into(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 18, file),
            line: 0,
            offset: 0,
            whole: true,
            seen_node: false,
            tables: 0,
            ended: false,
            last: None,
            buffer: Vec::new(),
        })
    }

    /// Opens it at the first row of a table whose place is known from an earlier pass.
    pub fn open_at(path: &Path, offset: u64) -> Result<Self, DumpError> {
        let mut reader = Self::open(path)?;
        let sought = reader.file.seek(SeekFrom::Start(offset));
        sought.map_err(|error| reader.error(error.into()))?;
        reader.offset = offset;
        reader.whole = false;
        reader.seen_node = true;
        reader.tables = 1;
        Ok(reader)
    }

    /// The next line, none after the end.
    pub fn next(&mut self) -> Result<Option<DumpLine>, DumpError> {
        if self.ended {
            return Ok(None);
        }
        self.advance().map_err(|problem| self.error(problem))
    }

    /// The next row of this table, none after its last.
    pub fn next_row(&mut self) -> Result<Option<Vec<u8>>, DumpError> {
        match self.next()? {
            Some(DumpLine::Row(row)) => Ok(Some(row)),
            Some(DumpLine::Node(_) | DumpLine::Table(..)) | None => Ok(None),
        }
    }

    fn error(&self, problem: DumpProblem) -> DumpError {
        DumpError { path: self.path.clone(), line: self.line, problem }
    }

    fn advance(&mut self) -> Result<Option<DumpLine>, DumpProblem> {
        self.buffer.clear();
        let read = self.file.read_until(b'\n', &mut self.buffer)?;
        self.line += 1;
        self.offset += read as u64;
        if self.buffer.pop() != Some(b'\n') {
            return Err(DumpProblem::Order("the dump is cut short: there is no #end line"));
        }
        let line = self.buffer.as_slice();
        if let Some(json) = line.strip_prefix(b"#node ") {
            if self.seen_node {
                return Err(DumpProblem::Order("a second #node line"));
            }
            let node = serde_json::from_slice(json)?;
            self.seen_node = true;
            return Ok(Some(DumpLine::Node(node)));
        }
        if !self.seen_node {
            return Err(DumpProblem::Order("the first line isn't a #node line"));
        }
        if let Some(json) = line.strip_prefix(b"#table ") {
            let head = serde_json::from_slice(json)?;
            self.tables += 1;
            self.last = None;
            return Ok(Some(DumpLine::Table(head, self.offset)));
        }
        if let Some(json) = line.strip_prefix(b"#end ") {
            let end: End = serde_json::from_slice(json)?;
            return self.end(end).map(|()| None);
        }
        self.row().map(Some)
    }

    fn end(&mut self, end: End) -> Result<(), DumpProblem> {
        if !self.file.fill_buf()?.is_empty() {
            return Err(DumpProblem::Order("something follows the #end line"));
        }
        self.ended = true;
        // A reader that began in the middle hasn't seen all tables.
        if self.whole && end.tables != self.tables {
            return Err(DumpProblem::Order("tables are missing"));
        }
        Ok(())
    }

    fn row(&mut self) -> Result<DumpLine, DumpProblem> {
        if !self.buffer.starts_with(b"(") || self.tables == 0 {
            return Err(DumpProblem::Order("neither a # line nor a row of a table"));
        }
        let row = unescape(&self.buffer);
        if self.last.as_ref().is_some_and(|last| *last > row) {
            return Err(DumpProblem::Order("rows are out of order"));
        }
        self.last = Some(row.clone());
        Ok(DumpLine::Row(row))
    }
}

/// Undoes the escapes of COPY's text format.
fn unescape(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0b,
            Some(other) => other,
            None => b'\\',
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = r#"#node {"cluster_name":"","in_recovery":false,"lsn":"0/1","in_flight":0}"#;
    const TABLE: &str = r#"#table {"schema":"s","table":"t","columns":"a text"}"#;

    fn read(text: &str) -> Result<Vec<DumpLine>, DumpError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump");
        std::fs::write(&path, text).unwrap();
        let mut reader = DumpReader::open(&path)?;
        let mut lines = Vec::new();
        while let Some(line) = reader.next()? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn a_whole_dump_is_read_and_its_escapes_are_undone() {
        let text = format!("{NODE}\n{TABLE}\n(\"b\\nc\\\\\")\n(a)\n#end {{\"tables\":1}}\n");
        let lines = read(&text).unwrap();
        assert_eq!(lines[2], DumpLine::Row(b"(\"b\nc\\\")".to_vec()));
        let DumpLine::Table(_, offset) = lines[1] else { panic!("{lines:?}") };
        assert_eq!(offset, (NODE.len() + TABLE.len() + 2) as u64);
    }

    #[test]
    fn what_is_not_a_whole_dump_is_refused() {
        for (text, problem) in [
            (String::new(), "cut short"),
            (format!("{TABLE}\n"), "first line"),
            (format!("{NODE}\n{TABLE}\n(a)\n"), "cut short"),
            (format!("{NODE}\n{TABLE}\n(a"), "cut short"),
            (format!("{NODE}\n{TABLE}\n(b)\n(a)\n#end {{\"tables\":1}}\n"), "out of order"),
            (format!("{NODE}\n{TABLE}\n(a)\n#end {{\"tables\":2}}\n"), "missing"),
            (format!("{NODE}\n(a)\n#end {{\"tables\":0}}\n"), "neither"),
            (format!("{NODE}\n{TABLE}\nERROR\n#end {{\"tables\":1}}\n"), "neither"),
            (format!("{NODE}\n#end {{\"tables\":0}}\nCOMMIT\n"), "follows"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(problem), "{error} for {text}");
        }
    }
}
