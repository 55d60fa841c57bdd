//! Names of WAL files (PostgreSQL: src/include/access/xlog_internal.h).

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole segment.
    Segment,
    /// The last, unfinished segment of a timeline that was left by a promotion.
    Partial,
    /// Where a base backup began and ended.
    Backup,
    /// How a timeline came from others.
    History,
}

/// A name that PostgreSQL gives to a file of WAL; nothing else is accepted, so that a name never leads
/// out of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalFile {
    name: String,
    kind: Kind,
    timeline: u32,
    position: Option<u64>,
}

impl WalFile {
    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, suffix) = name.split_once('.').map_or((name, None), |(stem, suffix)| (stem, Some(suffix)));
        let kind = match (stem.len(), suffix) {
            (24, None) => Kind::Segment,
            (24, Some("partial")) => Kind::Partial,
            (8, Some("history")) => Kind::History,
            (24, Some(suffix)) => {
                hex(suffix.strip_suffix(".backup").filter(|offset| offset.len() == 8)?)?;
                Kind::Backup
            }
            _ => return None,
        };
        let timeline = u32::try_from(hex(stem.get(..8)?)?).ok()?;
        let position = if kind == Kind::History { None } else { Some(hex(stem.get(8..)?)?) };
        Some(Self { name: name.to_owned(), kind, timeline, position })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of file it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its timeline.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// Its timeline, as the eight digits that the name begins with.
    pub fn folder(&self) -> String {
        format!("{:08X}", self.timeline)
    }

    /// Where it stands in the WAL, whatever its timeline: grows from segment to segment. None for a
    /// history file.
    pub fn position(&self) -> Option<u64> {
        self.position
    }
}

/// Upper-case hexadecimal digits, as PostgreSQL writes them.
fn hex(digits: &str) -> Option<u64> {
    let fine = digits.bytes().all(|digit| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit));
    u64::from_str_radix(digits, 16).ok().filter(|_| fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_wal_files_are_names() {
        for (name, kind, timeline, position) in [
            ("0000000A0000000100000002", Kind::Segment, "0000000A", Some(0x1_0000_0002)),
            ("000000010000000000000005.partial", Kind::Partial, "00000001", Some(5)),
            ("000000010000000000000005.00000028.backup", Kind::Backup, "00000001", Some(5)),
            ("00000002.history", Kind::History, "00000002", None),
        ] {
            let file = WalFile::parse(name).unwrap();
            assert_eq!((file.name(), file.kind(), file.folder().as_str()), (name, kind, timeline));
            assert_eq!(file.position(), position);
        }
        for name in [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "00000001000000000000000",
            "0000000100000000000000055",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "+00000010000000000000005",
            "000000010000000000000005.part",
            "000000010000000000000005..backup",
            "000000010000000000000005.0000/028.backup",
            "0000000é.history",
            "00000002.history.tmp",
            "RECOVERYXLOG",
        ] {
            assert_eq!(WalFile::parse(name), None, "{name}");
        }
    }
}
