//! Comparing nodes: a table's rows, in byte order, are hashed in chunks; where hashes differ, the ordered rows
//! of all nodes are merged and each row that some node lacks is named. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::content::Problems;
use super::dump::TableHead;

/// Rows hashed together.
pub const CHUNK: u64 = 1024;

/// Longest part of a row that a report shows, in bytes.
const SHOWN: usize = 300;

/// The hash of one chunk.
pub type Hash = [u8; 32];

/// A table of one node, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Columns.
    pub columns: String,
    /// Place of its first row in the dump.
    pub offset: u64,
    /// How many rows.
    pub rows: u64,
    /// One hash for each chunk.
    pub chunks: Vec<Hash>,
}

/// Hashes the rows of one table as they come.
#[derive(Default)]
pub struct Hasher {
    sha: Sha256,
    rows: u64,
    chunks: Vec<Hash>,
}

impl Hasher {
    /// Takes the next row.
    pub fn row(&mut self, row: &[u8]) {
        // The length first: rows can't run into each other.
        self.sha.update((row.len() as u64).to_be_bytes());
        self.sha.update(row);
        self.rows += 1;
        if self.rows.is_multiple_of(CHUNK) {
            self.chunks.push(self.sha.finalize_reset().into());
        }
    }

    /// The table is over.
    pub fn finish(mut self, head: &TableHead, offset: u64) -> Table {
        if !self.rows.is_multiple_of(CHUNK) {
            self.chunks.push(self.sha.finalize().into());
        }
        Table { columns: head.columns.clone(), offset, rows: self.rows, chunks: self.chunks }
    }
}

/// The tables of one node by (schema, table).
pub type Tables = BTreeMap<(String, String), Table>;

/// What the comparison of one table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same everywhere.
    Same,
    /// Missing on these nodes, or with other columns than on the first that has it.
    Shape(String),
    /// Rows differ, at the earliest after this many.
    Rows(u64),
}

/// Compares one table of all nodes, in the order of `nodes`.
pub fn verdict(nodes: &[String], tables: &[Option<&Table>]) -> Verdict {
    let lacking: Vec<&str> = nodes
        .iter()
        .zip(tables)
        .filter(|(_, table)| table.is_none())
        .map(|(node, _)| node.as_str())
        .collect();
    if !lacking.is_empty() {
        return Verdict::Shape(format!("missing on {}", lacking.join(", ")));
    }
    let mut present = nodes.iter().zip(tables.iter().flatten());
    let Some((first_node, first)) = present.next() else { return Verdict::Same };
    let mut same_chunks = first.chunks.len();
    let mut same = true;
    for (node, table) in present {
        if table.columns != first.columns {
            return Verdict::Shape(format!(
                "on {first_node} its columns are ({}), on {node} ({})",
                first.columns, table.columns
            ));
        }
        let equal = first.chunks.iter().zip(&table.chunks).take_while(|(a, b)| a == b).count();
        same_chunks = same_chunks.min(equal);
        same &= first.rows == table.rows && first.chunks == table.chunks;
    }
    if same { Verdict::Same } else { Verdict::Rows(same_chunks as u64 * CHUNK) }
}

/// The next row in order, or none; what a node's rows are read by.
pub trait Rows {
    /// Why reading can fail.
    type Error;
    /// The next row.
    fn next_row(&mut self) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Merges the ordered rows of all nodes and names each row that isn't on all of them.
pub fn pinpoint<R: Rows>(nodes: &[String], sources: &mut [R]) -> Result<Problems, R::Error> {
    let mut heads = Vec::with_capacity(sources.len());
    for source in sources.iter_mut() {
        heads.push(source.next_row()?);
    }
    let mut problems = Problems::default();
    while let Some(least) = heads.iter().flatten().min().cloned() {
        let has: Vec<bool> = heads.iter().map(|head| head.as_ref() == Some(&least)).collect();
        if !has.iter().all(|has| *has) {
            problems.add(|| describe(nodes, &has, &least));
        }
        for ((head, source), has) in heads.iter_mut().zip(sources.iter_mut()).zip(has) {
            if has {
                *head = source.next_row()?;
            }
        }
    }
    Ok(problems)
}

fn describe(nodes: &[String], has: &[bool], row: &[u8]) -> String {
    let named = |wanted: bool| {
        let names: Vec<&str> =
            nodes.iter().zip(has).filter(|(_, has)| **has == wanted).map(|(node, _)| node.as_str()).collect();
        names.join(", ")
    };
    let shown = String::from_utf8_lossy(&row[..row.len().min(SHOWN)]);
    let cut = if row.len() > SHOWN { "…" } else { "" };
    format!("on {}, not on {}: {shown}{cut}", named(true), named(false))
}

/// The outcome for all tables, as reports show it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Tables compared.
    pub tables: u64,
    /// Rows compared, counted on the first node.
    pub rows: u64,
    /// Differences by table.
    pub different: BTreeMap<String, Problems>,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    struct Sorted(std::vec::IntoIter<Vec<u8>>);

    impl Rows for Sorted {
        type Error = Infallible;
        fn next_row(&mut self) -> Result<Option<Vec<u8>>, Infallible> {
            Ok(self.0.next())
        }
    }

    fn table(rows: &[u16]) -> Table {
        let mut hasher = Hasher::default();
        for row in rows {
            hasher.row(&row.to_be_bytes());
        }
        let head = TableHead { schema: "s".into(), table: "t".into(), columns: "a int".into() };
        hasher.finish(&head, 0)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("n{index}")).collect()
    }

    fn count_differences(nodes: &[Vec<u16>], skip: usize) -> u64 {
        let mut sources: Vec<Sorted> = nodes
            .iter()
            .map(|rows| rows.iter().skip(skip).map(|row| row.to_be_bytes().to_vec()).collect::<Vec<_>>())
            .map(|rows| Sorted(rows.into_iter()))
            .collect();
        pinpoint(&names(nodes.len()), &mut sources).unwrap().count
    }

    proptest! {
        #[test]
        fn the_verdict_is_same_exactly_when_the_rows_are(
            base in prop::collection::vec(0..50_u16, 0..3000),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..50_u16), 0..3),
        ) {
            let mut first = base.clone();
            let mut second = base;
            for (place, value) in changes {
                if !second.is_empty() {
                    let place = place.index(second.len());
                    second[place] = value;
                }
            }
            first.sort_unstable();
            second.sort_unstable();
            let (a, b) = (table(&first), table(&second));
            match verdict(&names(2), &[Some(&a), Some(&b)]) {
                Verdict::Same => prop_assert_eq!(first, second),
                Verdict::Rows(skip) => {
                    prop_assert_ne!(&first, &second);
                    let skip = usize::try_from(skip).unwrap();
                    prop_assert!(count_differences(&[first, second], skip) > 0);
                }
                Verdict::Shape(shape) => prop_assert!(false, "{}", shape),
            }
        }

        #[test]
        fn every_row_that_some_node_lacks_is_counted(nodes in prop::collection::vec(prop::collection::btree_set(0..40_u16, 0..30), 1..4)) {
            let all: std::collections::BTreeSet<u16> = nodes.iter().flatten().copied().collect();
            let differing = all.iter().filter(|row| !nodes.iter().all(|node| node.contains(row))).count();
            let rows: Vec<Vec<u16>> = nodes.iter().map(|node| node.iter().copied().collect()).collect();
            prop_assert_eq!(count_differences(&rows, 0), differing as u64);
        }
    }

    #[test]
    fn a_row_more_at_the_very_end_and_a_row_twice_are_differences() {
        let many: Vec<u16> = (0..2048).collect();
        let mut more = many.clone();
        more.push(2047);
        let (a, b) = (table(&many), table(&more));
        assert_eq!(verdict(&names(2), &[Some(&a), Some(&b)]), Verdict::Rows(2048));
        assert_eq!(count_differences(&[many, more], 2048), 1);
    }

    #[test]
    fn a_missing_table_and_other_columns_are_named() {
        let a = table(&[1]);
        let mut b = a.clone();
        b.columns = "a text".into();
        let missing = verdict(&names(2), &[Some(&a), None]);
        assert_eq!(missing, Verdict::Shape("missing on n1".into()));
        assert!(
            matches!(verdict(&names(2), &[Some(&a), Some(&b)]), Verdict::Shape(text) if text.contains("a text"))
        );
    }

    #[test]
    fn a_difference_says_who_has_the_row() {
        let text = describe(&names(3), &[true, false, true], b"(7,x)");
        assert_eq!(text, "on n0, n2, not on n1: (7,x)");
    }
}
