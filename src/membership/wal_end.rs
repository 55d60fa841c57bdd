//! Where the WAL of a stopped server ends, by what `pg_waldump --stats` says (R9).
//!
//! It reads segment files one after the other, and says where the last record ends that it could read, and why it read no further
//! (PostgreSQL source, `pg_waldump.c`; its words are those of `xlogreader.c`). Behind the last record lies what a recovery takes for
//! the end as well: nothing, zeros, or what a segment that is used again held before. What else it may say is damage, behind
//! which there may be more.
use super::lsn;

/// Segments that are looked through, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// The one in which it begins.
    pub first: String,
    /// The last one that follows without a gap.
    pub last: String,
}

/// Characters of a segment's name (PostgreSQL source, `XLogFileName`).
const NAME: usize = 24;
/// Bytes that a number of 32 bits counts: the middle of a segment's name counts these.
const FOUR_GIB: u64 = 1 << 32;
/// Why nothing more is read at an end: no record was written there, or an older one, or the page or its rest is another's.
const ENDS: [&str; 7] = [
    "invalid record length at ",
    "invalid resource manager ID ",
    "record with incorrect prev-link ",
    "invalid magic number ",
    "unexpected pageaddr ",
    "there is no contrecord flag at ",
    "invalid contrecord length ",
];

/// The segments of a timeline from a position on, by the names of the files in `pg_wal`; none when the first isn't there, or
/// one within: what comes behind a gap nobody can tell.
pub fn segments(timeline: u32, from: u64, segment_bytes: u64, names: &[String]) -> Option<Segments> {
    let number = from.checked_div(segment_bytes)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| numbered(name, timeline, segment_bytes))
        .filter(|n| *n >= number)
        .collect();
    numbers.sort_unstable();
    let (first, last) = (*numbers.first()?, *numbers.last()?);
    let whole = first == number && (first..=last).eq(numbers.iter().copied());
    whole.then(|| Segments {
        first: named(timeline, first, segment_bytes),
        last: named(timeline, last, segment_bytes),
    })
}

/// The number of a segment of that timeline, counted from the beginning of all WAL.
fn numbered(name: &str, timeline: u32, segment_bytes: u64) -> Option<u64> {
    let plain = name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(name.get(range)?, 16).ok();
    if !plain || part(0..8)? != u64::from(timeline) {
        return None;
    }
    part(8..16)?.checked_mul(FOUR_GIB.checked_div(segment_bytes)?)?.checked_add(part(16..NAME)?)
}

fn named(timeline: u32, number: u64, segment_bytes: u64) -> String {
    let each = (FOUR_GIB / segment_bytes.max(1)).max(1);
    format!("{timeline:08X}{:08X}{:08X}", number / each, number % each)
}

/// The end of the last record, in bytes, from what `pg_waldump --stats` printed, run with `LC_ALL=C`, and its words if it failed.
/// None when it read no record, or stopped at what may not be the end.
pub fn parse(printed: &str, failure: Option<&str>) -> Option<u64> {
    let at_end = failure.is_none_or(|said| ENDS.iter().any(|words| said.contains(words)));
    let (_, after) = printed.split_once("WAL statistics between ").filter(|_| at_end)?;
    let (_, end) = after.lines().next()?.split_once(" and ")?;
    lsn::parse(end.trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1 << 20;

    fn all(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The first and the last segment of timeline 2 from 0/3000028 on.
    fn from_third(names: &[&str]) -> Option<(String, String)> {
        segments(2, 0x0300_0028, 16 * MEGABYTE, &all(names)).map(|found| (found.first, found.last))
    }

    #[test]
    fn segments_are_looked_through_as_far_as_they_follow_each_other() {
        let names = [
            "000000020000000000000004",
            "000000010000000000000009",
            "000000020000000000000001",
            "000000020000000000000003",
            "00000002.history",
            "archive_status",
        ];
        let last = |name: &str| Some(("000000020000000000000003".to_owned(), name.to_owned()));
        assert_eq!(from_third(&names), last("000000020000000000000004"));
        assert_eq!(from_third(&names[3..]), last("000000020000000000000003"));
        assert_eq!(from_third(&names[..3]), None, "the first is missing");
        let gap = ["000000020000000000000003", "000000020000000000000005"];
        assert_eq!(from_third(&gap), None);
        let beyond: Vec<String> = (0x1_FE..=0x2_01).map(|n| named(7, n, 16 * MEGABYTE)).collect();
        assert_eq!(beyond[1..3], all(&["0000000700000001000000FF", "000000070000000200000000"]));
        let found = segments(7, 0x1_FE00_0000, 16 * MEGABYTE, &beyond).unwrap();
        assert_eq!((&found.first, &found.last), (&beyond[0], &beyond[3]));
        assert_eq!(segments(7, 0, 0, &beyond), None, "no size of segments");
    }

    /// What PostgreSQL 15 and 17 printed.
    #[test]
    fn it_ends_behind_the_last_record() {
        let printed = "first record is after 0/3000028, at 0/3000060, skipping over 56 bytes\n\
                       WAL statistics between 0/3000060 and 0/4000000:\nType   N  (%)\n----\nXLOG 1 (100)\n";
        assert_eq!(parse(printed, None), Some(0x0400_0000), "the last segment was read to its end");
        for said in [
            "invalid record length at 0/4000028: expected at least 24, got 0",
            "invalid record length at 0/4000028: wanted 24, got 0",
            "invalid resource manager ID 115 at 0/4000028",
            "record with incorrect prev-link 0/2000060 at 0/4000028",
            "invalid magic number 0000 in log segment 000000020000000000000004, offset 0",
            "unexpected pageaddr 0/1000000 in WAL segment 000000020000000000000004, LSN 0/4000000, offset 0",
        ] {
            let said = format!("exit status: 1: pg_waldump: error: error in WAL record at 0/3768E88: {said}");
            assert_eq!(parse(printed, Some(&said)), Some(0x0400_0000), "{said}");
        }
    }

    #[test]
    fn damage_is_no_end_and_neither_is_nothing() {
        let printed = "WAL statistics between 0/3000060 and 0/4000000:\n";
        let spoilt = "error in WAL record at 0/3000028: incorrect resource manager data checksum in record at 0/3000060";
        assert_eq!(parse(printed, Some(spoilt)), None);
        assert_eq!(parse("", Some("could not find a valid record after 0/3000028")), None);
        assert_eq!(parse("", None), None);
        assert_eq!(parse("WAL statistics between 0/3000060 and nowhere:\n", None), None);
    }
}
