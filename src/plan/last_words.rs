//! What the last record of a deleted pool said of each of its nodes, as it stands on the claims that stayed; and what that
//! means for a person who wants to go on with one of them.
use std::collections::BTreeMap;
use std::fmt;

use crate::api::v1alpha1::Record;

/// What a record said of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Primary,
    Attached,
    NotAttached,
}

impl Standing {
    const ALL: [Self; 3] = [Self::Primary, Self::Attached, Self::NotAttached];

    fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Attached => "attached",
            Self::NotAttached => "not attached",
        }
    }
}

/// The last words of a record on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastWords {
    epoch: i64,
    standing: Standing,
}

impl LastWords {
    /// What this record says.
    pub fn of(record: &Record, index: u8) -> Self {
        let attached = record.attached.iter().any(|member| member.index == index);
        let standing = match attached {
            true if record.primary == index => Standing::Primary,
            true => Standing::Attached,
            false => Standing::NotAttached,
        };
        Self { epoch: record.epoch, standing }
    }

    fn parse(text: &str) -> Option<Self> {
        let (epoch, word) = text.strip_prefix("epoch ")?.split_once(", ")?;
        let standing = Standing::ALL.into_iter().find(|standing| standing.word() == word)?;
        Some(Self { epoch: epoch.parse().ok()?, standing })
    }
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, {}", self.epoch, self.standing.word())
    }
}

/// Why the data of a claim may lack commits that were acknowledged, by what stands on all the claims.
///
/// A note goes when data of a later pool comes onto its claim. Where the others' notes aren't of the same record, a pool
/// has gone on with some of the volumes and left the rest as they were.
pub(super) fn doubt(claims: &BTreeMap<String, Option<String>>, name: &str) -> Option<String> {
    let read = |text: &Option<String>| text.as_deref().and_then(LastWords::parse);
    let Some(own) = claims.get(name).and_then(read) else {
        return Some("whether it was attached at the end isn't known".to_owned());
    };
    if own.standing == Standing::NotAttached {
        return Some("it was not attached at the end".to_owned());
    }
    let others =
        || claims.iter().filter(|(other, _)| *other != name).map(|(other, text)| (other, read(text)));
    if let Some((other, Some(last))) =
        others().find(|(_, last)| last.is_some_and(|last| last.epoch > own.epoch))
    {
        return Some(format!("a pool has gone on since with other volumes: claim {other} is of {last}"));
    }
    if let Some((other, _)) = others().find(|(_, last)| last.is_none()) {
        return Some(format!(
            "a pool may have gone on since with other volumes: nothing is noted on claim {other}"
        ));
    }
    let before = |last: LastWords| last.standing == Standing::Primary && last.epoch != own.epoch;
    let (other, last) =
        others().find_map(|(other, last)| Some((other, last.filter(|last| before(*last))?)))?;
    Some(format!("claim {other} was the primary's of another record ({last}), whose data this may not be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubted(notes: [Option<&str>; 3]) -> Option<String> {
        let claims = notes.iter().enumerate();
        let claims = claims.map(|(index, note)| (index.to_string(), note.map(str::to_owned))).collect();
        doubt(&claims, "1")
    }

    #[test]
    fn what_was_written_is_read_again() {
        for standing in Standing::ALL {
            let last = LastWords { epoch: 12, standing };
            assert_eq!(LastWords::parse(&last.to_string()), Some(last));
        }
        for text in ["", "epoch 12", "epoch x, attached", "epoch 12, gone", "attached"] {
            assert_eq!(LastWords::parse(text), None, "{text}");
        }
    }

    #[test]
    fn notes_of_one_record_leave_no_doubt_about_an_attached_node() {
        let primary = Some("epoch 7, primary");
        assert_eq!(doubted([primary, Some("epoch 7, attached"), Some("epoch 7, not attached")]), None);
        assert_eq!(doubted([Some("epoch 7, attached"), primary, Some("epoch 7, attached")]), None);
        // The primary's own volume is lost.
        assert_eq!(
            doubted([Some("epoch 7, attached"), Some("epoch 7, attached"), Some("epoch 7, not attached")]),
            None
        );
        // A pool went on with its data, and didn't come to copy the others'.
        assert_eq!(
            doubted([Some("epoch 7, attached"), Some("epoch 9, primary"), Some("epoch 7, not attached")]),
            None
        );
    }

    #[test]
    fn notes_that_do_not_go_together_are_told_of() {
        let (old, new) = ("epoch 7, attached", "epoch 9, primary");
        let cases = [
            ([Some("epoch 7, primary"), None, Some(old)], "isn't known"),
            ([Some("epoch 7, primary"), Some("something else"), Some(old)], "isn't known"),
            ([Some("epoch 7, primary"), Some("epoch 7, not attached"), Some(old)], "not attached at the end"),
            ([Some(new), Some(old), Some("epoch 7, primary")], "claim 0 is of epoch 9, primary"),
            ([Some("epoch 9, not attached"), Some(old), Some("epoch 7, primary")], "claim 0 is of epoch 9"),
            ([Some("epoch 7, primary"), Some(old), None], "nothing is noted on claim 2"),
            ([Some("epoch 7, primary"), Some(new), Some(old)], "claim 0 was the primary's of another record"),
        ];
        for (notes, words) in cases {
            assert!(doubted(notes).is_some_and(|why| why.contains(words)), "{notes:?}: {:?}", doubted(notes));
        }
    }
}
