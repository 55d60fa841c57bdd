//! Whether a node may follow the primary without a copy (R9), and whether two epoch tables agree.
//!
//! A position, a timeline, `sync_state` and pg_rewind don't show that a node holds other data; what
//! does: the end of its valid WAL against the fork in the primary's history, and the epoch table.
use std::collections::BTreeMap;

use super::rules::{Rule, Rules};
use super::{lsn, standby};
use crate::api::v1alpha1::{Member, Record};
use crate::messages::{EpochRow, Join};

/// What `pg_controldata` says of a data directory whose Postgres isn't running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// "Database cluster state".
    pub state: State,
    /// "Latest checkpoint's TimeLineID".
    pub timeline: u32,
    /// "Latest checkpoint's REDO location".
    pub redo: u64,
    /// "Minimum recovery ending location"; 0 when there is none.
    pub min_recovery_end: u64,
    /// "Min recovery ending loc's timeline"; 0 when there is none.
    pub min_recovery_timeline: u32,
    /// "Database system identifier".
    pub system_id: u64,
}

impl ControlData {
    /// The newest timeline of which the data holds WAL: a standby's latest restartpoint may be older, and so may what it
    /// had to reach. `held` is the newest of its segments ([`newest_segment`]).
    pub fn newest_timeline(&self, held: u32) -> u32 {
        self.timeline.max(self.min_recovery_timeline).max(held)
    }

    /// From where the WAL of the newest timeline is looked through for its end, given the history of a later one: from
    /// the latest checkpoint, or from where that timeline began.
    pub fn looked_from(&self, held: u32, history: &[Fork]) -> u64 {
        let newest = self.newest_timeline(held);
        if newest == self.timeline {
            return self.redo;
        }
        let before = history.iter().filter(|fork| fork.timeline < newest);
        before.map(|fork| fork.at).max().unwrap_or(self.redo)
    }
}

/// "Database cluster state".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// "shut down": ended as a primary, orderly.
    ShutDown,
    /// "shut down in recovery": ended as a standby, orderly.
    ShutDownInRecovery,
    /// "in archive recovery": ran as a standby.
    InArchiveRecovery,
    /// "in production": ran as a primary, or a base backup that hasn't been started.
    InProduction,
    /// Anything else: starting up, shutting down, in crash recovery.
    Other,
}

impl ControlData {
    /// Whether the data was a standby's when its Postgres ended.
    pub fn is_standby(&self) -> bool {
        matches!(self.state, State::InArchiveRecovery | State::ShutDownInRecovery)
    }

    /// Reads the output of `pg_controldata`, run with `LC_ALL=C`.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim())
        };
        Some(Self {
            state: match field("Database cluster state")? {
                "shut down" => State::ShutDown,
                "shut down in recovery" => State::ShutDownInRecovery,
                "in archive recovery" => State::InArchiveRecovery,
                "in production" => State::InProduction,
                _ => State::Other,
            },
            timeline: field("Latest checkpoint's TimeLineID")?.parse().ok()?,
            redo: lsn::parse(field("Latest checkpoint's REDO location")?)?,
            min_recovery_end: lsn::parse(field("Minimum recovery ending location")?)?,
            min_recovery_timeline: field("Min recovery ending loc's timeline")?.parse().ok()?,
            system_id: field("Database system identifier")?.parse().ok()?,
        })
    }
}

/// The limits in which a standby may not have less than its primary: `pg_controldata`'s name of each, and the parameter.
const LIMITS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// Whether a parameter is one of these limits and becomes lower; a value that isn't a plain number may be.
pub fn lowers(parameter: &str, now: &str, next: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let limit = LIMITS.iter().any(|(_, limit)| *limit == parameter);
    limit && number(now).zip(number(next)).is_none_or(|(now, next)| next < now)
}

/// The primary's values of these limits, by `pg_controldata`.
pub fn primary_settings(text: &str) -> BTreeMap<String, u64> {
    let value = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    LIMITS.iter().filter_map(|(field, name)| Some(((*name).to_owned(), value(field)?))).collect()
}

/// Bytes of a WAL segment, by `pg_controldata`.
pub fn segment_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Bytes per WAL segment:"))?;
    line.trim().parse().ok()
}

/// The secret from which PostgreSQL makes up salts for roles that aren't there, by `pg_controldata`.
pub fn mock_nonce(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("Mock authentication nonce:"))?;
    Some(line.trim().to_owned()).filter(|nonce| !nonce.is_empty())
}

/// The newest timeline, before `below`, of which there is a segment, by the names of the files in `pg_wal`; 0 when there
/// is none (PostgreSQL source, `XLogFileName`).
pub fn newest_segment<'a>(names: impl Iterator<Item = &'a str>, below: u32) -> u32 {
    let segments = names.filter(|name| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    segments.filter_map(named_timeline).filter(|timeline| *timeline < below).max().unwrap_or(0)
}

/// The newest timeline of which anything is there, by the names of files in `pg_wal` and of folders of an archive:
/// segments, history files, unfinished ones. 0 when there is none.
pub fn newest_named<'a>(names: impl Iterator<Item = &'a str>) -> u32 {
    names.filter_map(named_timeline).max().unwrap_or(0)
}

/// The timeline with which a name begins.
fn named_timeline(name: &str) -> Option<u32> {
    let digits = name.get(..8).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}

/// A line of a timeline history file: where a timeline was left for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u32,
    /// Where.
    pub at: u64,
}

/// Reads a timeline history file (`0000000N.history`); none when a line can't be read.
pub fn parse_history(text: &str) -> Option<Vec<Fork>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_ascii_whitespace();
            let timeline = words.next()?.parse().ok()?;
            Some(Fork { timeline, at: lsn::parse(words.next()?)? })
        })
        .collect()
}

/// What is known of a node that would like to follow, and of the primary.
#[derive(Clone, Debug)]
pub struct JoinView {
    /// The node's control file.
    pub control: ControlData,
    /// The newest timeline of its WAL segments ([`newest_segment`]).
    pub held: u32,
    /// True for a base backup that hasn't been started yet (`backup_label` is there): what its control
    /// file says of its state is the donor's.
    pub fresh_copy: bool,
    /// End of the valid WAL of [`ControlData::newest_timeline`] in the node's `pg_wal` ([`wal_end`](super::wal_end)).
    pub wal_end: Option<u64>,
    /// Timeline of the primary.
    pub primary_timeline: u32,
    /// History of that timeline ([`parse_history`]); empty for timeline 1.
    pub history: Vec<Fork>,
}

/// Whether the node may follow without a copy.
pub fn decide(view: &JoinView) -> Join {
    match obstacle(view) {
        None => Join::Proved,
        Some(reason) => Join::NeedsCopy(reason),
    }
}

fn obstacle(view: &JoinView) -> Option<String> {
    let control = &view.control;
    let timeline = control.newest_timeline(view.held);
    if timeline > view.primary_timeline {
        return Some(format!("it is on timeline {timeline}, the primary on {}", view.primary_timeline));
    }
    if timeline == view.primary_timeline {
        return same_timeline(view);
    }
    let Some(fork) = view.history.iter().find(|f| f.timeline == timeline) else {
        return Some(format!("timeline {timeline} is not in the history of the primary's"));
    };
    let Some(end) = view.wal_end else {
        return Some(format!("the end of its WAL on timeline {timeline} is not known"));
    };
    let end = end.max(control.min_recovery_end).max(control.redo);
    let past = end > fork.at;
    past.then(|| {
        let (end, fork) = (lsn::print(end), lsn::print(fork.at));
        format!("its WAL goes on to {end}, past the fork at {fork}: it may hold what nobody else has")
    })
}

/// On the primary's own timeline only the primary writes: a copy that has been a standby ever since
/// holds nothing but what it was sent.
fn same_timeline(view: &JoinView) -> Option<String> {
    let proved = view.control.is_standby() || view.fresh_copy;
    (!proved).then(|| "it has written on the primary's timeline itself".to_owned())
}

/// Where the timeline of a voter was left, by the record alone: for one that was started again before it read the choice, where
/// whoever was chosen can't be asked. Only those are counted beside a new primary that have voted and had no more than it,
/// by the position that the record has; whoever was added later holds WAL of the primary's timeline.
///
/// The history may name a timeline between the two, of which this node has nothing: its own was left before, then. That
/// proves the same, since it had no more than the chosen one of that office either.
pub fn fork_of_voter(record: &Record, me: &Member, control: &ControlData, held: u32) -> Option<Fork> {
    fork_of_voter_with(record, me, control, held, Rules::ALL)
}

/// [`fork_of_voter`] under other rules; for tests.
pub fn fork_of_voter_with(
    record: &Record,
    me: &Member,
    control: &ControlData,
    held: u32,
    rules: Rules,
) -> Option<Fork> {
    let voted = standby::is_attached(record, me, rules) && record.primary != me.index && control.is_standby();
    let counts = rules.has(Rule::ForkByRecord) && (voted || !rules.has(Rule::ForkOfVoters));
    let timeline = control.newest_timeline(held);
    let at = lsn::parse(&record.fork_lsn).filter(|_| counts && timeline < record.timeline)?;
    Some(Fork { timeline, at })
}

/// How the epoch table of another node compares with the own one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableCheck {
    /// The same rows; id of the newest, 0 when there are none.
    Equal {
        /// Id of the newest row.
        newest: i64,
    },
    /// The first rows of the own table: it may still be applying.
    Behind {
        /// Id of its newest row.
        newest: i64,
    },
    /// Other rows: it holds other data. Why, for people.
    Different(String),
}

/// Compares the epoch table of another node with the own one, both ordered by id.
pub fn compare_tables(ours: &[EpochRow], theirs: &[EpochRow]) -> TableCheck {
    if let Some((_, row)) = ours.iter().zip(theirs).find(|(a, b)| a != b) {
        return TableCheck::Different(format!(
            "row {} of its epoch table differs from the primary's",
            row.id
        ));
    }
    if let Some(row) = theirs.get(ours.len()) {
        return TableCheck::Different(format!("row {} of its epoch table is not in the primary's", row.id));
    }
    let newest = theirs.last().map_or(0, |row| row.id);
    if theirs.len() == ours.len() { TableCheck::Equal { newest } } else { TableCheck::Behind { newest } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::Phase;

    const CONTROL: &str = "\
pg_control version number:            1700
Database system identifier:           7571234567890123456
Database cluster state:               in archive recovery
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/3000100
Min recovery ending loc's timeline:   1
";

    fn view() -> JoinView {
        JoinView {
            control: ControlData::parse(CONTROL).unwrap(),
            held: 0,
            fresh_copy: false,
            wal_end: None,
            primary_timeline: 1,
            history: Vec::new(),
        }
    }

    #[test]
    fn a_limit_that_may_become_lower_is_told_from_one_that_does_not() {
        for (parameter, now, next, lower) in [
            ("max_connections", "200", "150", true),
            ("max_connections", "200", "220", false),
            ("max_connections", "90", "100", false),
            ("max_locks_per_transaction", "64", "0x20", true),
            ("max_worker_processes", "8", "", true),
            ("shared_buffers", "16384", "8192", false),
        ] {
            assert_eq!(lowers(parameter, now, next), lower, "{parameter} {now} {next}");
        }
    }

    #[test]
    fn a_crashed_standby_is_proved_and_a_crashed_primary_is_not() {
        assert_eq!(decide(&view()), Join::Proved);
        for state in ["in production", "shut down", "in crash recovery", "starting up"] {
            let text = CONTROL.replace("in archive recovery", state);
            let control = ControlData::parse(&text).unwrap();
            let crashed = JoinView { control: control.clone(), ..view() };
            assert!(matches!(decide(&crashed), Join::NeedsCopy(_)), "{state}");
            let fresh = JoinView { control, fresh_copy: true, ..view() };
            assert_eq!(decide(&fresh), Join::Proved, "a copy of a {state} donor");
        }
    }

    /// The figures of a crashed primary whose tail went past the fork, and of one whose didn't.
    #[test]
    fn an_old_primary_follows_only_if_its_wal_ends_before_the_fork() {
        let control = ControlData::parse(&CONTROL.replace("in archive recovery", "in production")).unwrap();
        let at = |fork: &str, wal_end: Option<u64>| {
            let history =
                parse_history(&format!("# a remark\n\n1\t{fork}\tno recovery target specified\n")).unwrap();
            decide(&JoinView { control: control.clone(), wal_end, primary_timeline: 2, history, ..view() })
        };
        let end = Some(0x0485_8238);
        assert_eq!(at("0/4858238", end), Join::Proved);
        assert!(matches!(at("0/3651038", end), Join::NeedsCopy(why) if why.contains("past the fork")));
        assert!(matches!(at("0/4858238", None), Join::NeedsCopy(why) if why.contains("not known")));
        assert!(matches!(at("0/3000050", Some(0x0300_0050)), Join::NeedsCopy(_)), "replay has to go further");
    }

    /// A standby that has followed from timeline 1 to 2, with its latest restartpoint before that.
    #[test]
    fn a_standby_is_judged_by_the_newest_timeline_that_it_holds() {
        let text = CONTROL.replace("loc's timeline:   1", "loc's timeline:   2");
        let control = ControlData::parse(&text).unwrap();
        assert_eq!(control.newest_timeline(0), 2);
        let same = JoinView { control: control.clone(), primary_timeline: 2, ..view() };
        assert_eq!(decide(&same), Join::Proved);
        let history = parse_history("1\t0/3000060\tno\n2\t0/3000200\tno\n").unwrap();
        assert_eq!(control.looked_from(0, &history), 0x0300_0060, "from the beginning of timeline 2");
        let at = |wal_end| {
            let history = history.clone();
            decide(&JoinView { control: control.clone(), wal_end, primary_timeline: 3, history, ..view() })
        };
        assert_eq!(at(Some(0x0300_0200)), Join::Proved);
        assert!(matches!(at(Some(0x0300_0238)), Join::NeedsCopy(why) if why.contains("past the fork")));
        assert!(matches!(at(None), Join::NeedsCopy(why) if why.contains("not known")));
        // The control file may say nothing of it yet, where segments do.
        let names =
            ["000000010000000000000003", "000000020000000000000003", "00000009.history", "archive_status"];
        let held = newest_segment(names.into_iter(), u32::MAX);
        let control = ControlData::parse(CONTROL).unwrap();
        assert_eq!(
            (held, control.newest_timeline(held), control.looked_from(held, &history)),
            (2, 2, 0x0300_0060)
        );
        assert_eq!(newest_segment(names.into_iter(), 2), 1, "without those of a promotion that was cut off");
        assert_eq!(newest_named(names.into_iter()), 9);
        let wal_end = Some(0x0300_0238);
        let past = JoinView { control, held, wal_end, primary_timeline: 3, history, ..view() };
        assert!(matches!(decide(&past), Join::NeedsCopy(why) if why.contains("past the fork")));
    }

    /// Node 1 voted on timeline 1, and node 2 was chosen for timeline 2.
    #[test]
    fn a_voter_knows_by_the_record_where_its_timeline_was_left() {
        let member = |index: u8| Member { index, incarnation: format!("copy{index}") };
        let record = Record {
            epoch: 7,
            phase: Phase::Serving,
            primary: 2,
            attached: vec![member(1), member(2)],
            timeline: 2,
            fork_lsn: "0/3000200".to_owned(),
            successor: None,
            stopped: false,
            reason: String::new(),
        };
        let control = view().control;
        let fork = |record: &Record, me: &Member, control: &ControlData, held: u32| {
            fork_of_voter(record, me, control, held).map(|fork| (fork.timeline, fork.at))
        };
        assert_eq!(fork(&record, &member(1), &control, 0), Some((1, 0x0300_0200)));
        let electing = Record { epoch: 8, phase: Phase::Electing, ..record.clone() };
        assert_eq!(fork(&electing, &member(1), &control, 0), Some((1, 0x0300_0200)), "asked for meanwhile");
        assert_eq!(fork(&record, &member(1), &control, 2), None, "it holds WAL of that timeline");
        assert_eq!(fork(&record, &member(2), &control, 0), None, "the primary");
        assert_eq!(fork(&record, &member(0), &control, 0), None, "not counted");
        let other = Member { incarnation: "other".to_owned(), ..member(1) };
        assert_eq!(fork(&record, &other, &control, 0), None, "another copy");
        let wrote = ControlData { state: State::InProduction, ..control.clone() };
        assert_eq!(fork(&record, &member(1), &wrote, 0), None, "it was a primary");
        let spoilt = Record { fork_lsn: "nowhere".to_owned(), ..record };
        assert_eq!(fork(&spoilt, &member(1), &control, 0), None);
    }

    #[test]
    fn what_cannot_be_read_proves_nothing() {
        assert_eq!(ControlData::parse("Database cluster state: shut down"), None);
        assert_eq!(parse_history("1\tnowhere"), None);
        let unknown = JoinView { primary_timeline: 3, wal_end: Some(0x0300_0100), ..view() };
        assert!(matches!(decide(&unknown), Join::NeedsCopy(why) if why.contains("not in the history")));
        let later = JoinView { primary_timeline: 0, ..view() };
        assert!(matches!(decide(&later), Join::NeedsCopy(why) if why.contains("the primary on 0")));
    }

    #[test]
    fn tables_are_equal_behind_or_different() {
        let row = |id: i64, nonce: &str| EpochRow {
            id,
            epoch: 1,
            timeline: 1,
            nonce: nonce.to_owned(),
            fork_xid: "7".to_owned(),
        };
        let (a, b, c) = (row(1, "a"), row(2, "b"), row(2, "c"));
        let ours = [a.clone(), b.clone()];
        assert_eq!(compare_tables(&ours, &ours), TableCheck::Equal { newest: 2 });
        assert_eq!(compare_tables(&ours, &ours[..1]), TableCheck::Behind { newest: 1 });
        assert!(matches!(compare_tables(&ours, &[a.clone(), c]), TableCheck::Different(_)));
        assert!(matches!(compare_tables(&ours[..1], &[a, b]), TableCheck::Different(_)));
    }
}
