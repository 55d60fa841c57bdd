//! What a starting agent does with its volume, given a consistent read of the record (R7, R8).
use super::rules::{Rule, Rules};
use super::standby;
use crate::api::v1alpha1::{Member, MembershipSpec, Phase, Record};
use crate::messages::Join;
use serde::{Deserialize, Serialize};

/// The node's own file in its data directory: which copy of which pool's data this is. Written last
/// when a copy is made, so a data directory without it is not a finished copy.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeFile {
    /// Id of the pool.
    pub pool_uid: String,
    /// Index of the node.
    pub index: u8,
    /// Id of this copy of the data.
    pub incarnation: String,
    /// Highest epoch of the record that was seen with it; 0 before the first record.
    pub epoch: i64,
    /// Where this copy is an earlier pool's that this one took up: what that had seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_up: Option<TakenUp>,
}

/// What a copy of an earlier pool's data had seen when this pool took it up, and where it goes on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TakenUp {
    /// Highest epoch of the earlier pool's record; the first record of this one is above it.
    pub epoch: i64,
    /// The timeline that it goes on with: of this one the copy, and the archive beside it, have seen nothing.
    pub timeline: u32,
}

/// The node file of a copy of an earlier pool once this pool has taken it up, as another copy. `newest` is the newest
/// timeline of which anything is in the volume.
pub fn take_up(old: &NodeFile, pool_uid: &str, incarnation: String, newest: u32) -> NodeFile {
    // That pool may itself have taken it up, and ended before its first record.
    let before = old.taken_up.as_ref().map_or((0, 0), |taken| (taken.epoch, taken.timeline));
    NodeFile {
        pool_uid: pool_uid.to_owned(),
        index: old.index,
        incarnation,
        // Of this pool it has seen no record: the first one that is lost is noticed.
        epoch: 0,
        taken_up: Some(TakenUp {
            epoch: old.epoch.max(before.0),
            timeline: newest.max(before.1).saturating_add(1),
        }),
    }
}

/// Why an earlier pool's copy isn't used.
pub const EARLIER: &str = "the volume holds a copy of an earlier pool";

/// Whether a volume holds a copy of an earlier pool that this one may take up or replace: the pool adopts such data, the
/// copy is this very node's, and the record doesn't say that the node had another one since.
pub fn is_earlier(me: u8, spec: &MembershipSpec, record: Option<&Record>, file: &NodeFile) -> bool {
    let counted = record.is_some_and(|r| r.attached.iter().any(|m| m.index == me));
    spec.adopts && file.pool_uid != spec.pool_uid && file.index == me && !counted
}

/// What is known when an agent starts.
#[derive(Clone, Debug)]
pub struct StartView<'a> {
    /// Index of this node.
    pub me: u8,
    /// What is wanted; from the same consistent read as the record.
    pub spec: &'a MembershipSpec,
    /// The record; none when there is none yet.
    pub record: Option<&'a Record>,
    /// The node's file; none when it isn't there.
    pub file: Option<&'a NodeFile>,
    /// Whether there is a data directory with anything in it, finished or not.
    pub data: bool,
    /// Timeline by `pg_controldata`.
    pub timeline: Option<u32>,
    /// Whether the data was a standby's when its Postgres ended, by `pg_controldata`.
    pub standby: bool,
    /// Whether the Postgres of this node's office has ended in the life of this agent, and the record was read
    /// since.
    pub ended: bool,
    /// Epoch in which this node said, as the primary, that it serves no more (R5).
    pub word: Option<i64>,
    /// Whether the node may follow the primary without a copy ([`super::joining::decide`]); looked at
    /// only when it is to be a standby.
    pub join: &'a Join,
}

/// What a starting agent does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Make the first copy of the data.
    InitDb,
    /// Make an earlier pool's copy this pool's.
    TakeUp,
    /// Write the first record: the copy is there, and nobody has been told so.
    WriteFirst {
        /// This node with its copy.
        member: Member,
        /// What an earlier pool's copy had seen; none of one that was made here.
        taken_up: Option<TakenUp>,
    },
    /// Start Postgres as the primary, behind the gate.
    StartPrimary,
    /// Give the word that the Postgres of this node's office has ended, and ask for an election (R5).
    Depose,
    /// Start Postgres as a standby that follows nobody, and promote it: the record chose this node.
    TakeOffice,
    /// Start Postgres as a standby.
    StartStandby {
        /// Whether the record counts it.
        attached: bool,
    },
    /// Leave the volume to a recovery; why.
    WaitForRecovery(String),
    /// The record counts a copy of the data that isn't here (any more): say so, be removed, then wait for
    /// a recovery. Why.
    DataGone(String),
    /// Touch nothing; a person must look. Why.
    CallPerson(String),
    /// Look again later. Why.
    Wait(String),
}

/// What a starting agent does.
pub fn decide(view: &StartView<'_>) -> Start {
    decide_with(view, Rules::ALL)
}

/// [`decide`] under other rules; for tests.
pub fn decide_with(view: &StartView<'_>, rules: Rules) -> Start {
    if rules.has(Rule::SamePool) {
        if view.file.is_some_and(|file| is_earlier(view.me, view.spec, view.record, file)) {
            return earlier(view);
        }
        if let Some(reason) = foreign(view) {
            return Start::CallPerson(reason);
        }
    }
    match view.record {
        None => without_record(view),
        Some(record) => with_record(view, record, rules),
    }
}

/// What becomes of an earlier pool's copy. Only the bootstrap node, of which there is one for the whole life of a pool, goes
/// on with it, and only as long as no record speaks of other data.
fn earlier(view: &StartView<'_>) -> Start {
    if view.record.is_none() && view.me == view.spec.bootstrap {
        return Start::TakeUp;
    }
    Start::WaitForRecovery(EARLIER.to_owned())
}

/// Why the volume isn't one that this pool, as it is now, can have left here.
fn foreign(view: &StartView<'_>) -> Option<String> {
    let file = view.file?;
    if file.pool_uid != view.spec.pool_uid {
        return Some(format!("the volume belongs to pool {}, not to {}", file.pool_uid, view.spec.pool_uid));
    }
    if file.index != view.me {
        return Some(format!("the volume belongs to node {}, not to node {}", file.index, view.me));
    }
    let known = view.record.map_or(0, |r| r.epoch);
    (file.epoch > known).then(|| {
        format!("the volume has seen epoch {}, the record is at {known}: it was lost or restored", file.epoch)
    })
}

fn without_record(view: &StartView<'_>) -> Start {
    if view.me != view.spec.bootstrap {
        return Start::WaitForRecovery("the pool has no record yet".to_owned());
    }
    match (view.file, view.data) {
        (Some(file), true) => Start::WriteFirst {
            member: Member { index: view.me, incarnation: file.incarnation.clone() },
            taken_up: file.taken_up.clone(),
        },
        // A first copy of its own would be empty.
        (None, false) if view.spec.adopts => Start::CallPerson(
            "the volume holds no data of an earlier pool: delete this pool, whose volumes stay, make it again, and release \
             another node"
                .to_owned(),
        ),
        (None, false) => Start::InitDb,
        _ => Start::CallPerson(
            "the volume holds data that this pool did not make: empty it or name its pool".to_owned(),
        ),
    }
}

fn with_record(view: &StartView<'_>, record: &Record, rules: Rules) -> Start {
    let counted = record.attached.iter().any(|m| m.index == view.me);
    let file = view.file.filter(|_| view.data);
    if !counted {
        return match (file, view.join) {
            (None, _) => Start::WaitForRecovery("the node has no copy of the data".to_owned()),
            (Some(_), join) => follow(false, join),
        };
    }
    let here = file.is_some_and(|f| {
        standby::is_attached(record, &Member { index: view.me, incarnation: f.incarnation.clone() }, rules)
    });
    if !here && rules.has(Rule::Incarnation) {
        return lost(view, record);
    }
    if record.primary != view.me {
        return follow(true, view.join);
    }
    if record.phase == Phase::Electing {
        return Start::Wait("a primary is being chosen".to_owned());
    }
    let bound = view.word == Some(record.epoch) && rules.has(Rule::WordBinds);
    if bound || (view.ended && record.attached.len() > 1) {
        return Start::Depose;
    }
    match view.timeline {
        // Also where the control file still speaks of a standby: nobody else writes this timeline, so the end of its own
        // recovery is on it, and a crash recovery follows (PostgreSQL source, `CreateEndOfRecoveryRecord` in xlog.c).
        Some(timeline) if timeline == record.timeline => Start::StartPrimary,
        // A standby that was chosen, or the copy of an earlier pool, whatever it was there.
        Some(timeline) if timeline < record.timeline && (view.standby || begins_with(record, file)) => {
            Start::TakeOffice
        }
        other => Start::CallPerson(format!(
            "the record has timeline {}, the volume of the primary {}",
            record.timeline,
            other.map_or_else(|| "none that can be read".to_owned(), |t| t.to_string())
        )),
    }
}

/// Whether the record's office is the one that the copy was taken up for.
fn begins_with(record: &Record, file: Option<&NodeFile>) -> bool {
    let taken = file.and_then(|file| file.taken_up.as_ref());
    taken.is_some_and(|taken| taken.timeline == record.timeline)
}

fn follow(attached: bool, join: &Join) -> Start {
    match join {
        Join::Proved => Start::StartStandby { attached },
        Join::Unknown => Start::Wait("not looked yet whether it may follow the primary".to_owned()),
        Join::NeedsCopy(why) if attached => Start::DataGone(why.clone()),
        Join::NeedsCopy(why) => Start::WaitForRecovery(why.clone()),
    }
}

fn lost(view: &StartView<'_>, record: &Record) -> Start {
    let found = match view.file {
        Some(file) => {
            format!("the volume holds copy {}, not the one that the record counts", file.incarnation)
        }
        None => "the volume does not hold the copy of the data that the record counts".to_owned(),
    };
    if record.attached.len() == 1 {
        return Start::CallPerson(format!("{found}, and no other node is attached"));
    }
    if record.primary == view.me {
        return Start::CallPerson(format!("{found}, and this node is the primary"));
    }
    Start::DataGone(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::v1alpha1::{ClusteringMode, LoadBalancing, Timings};

    fn spec() -> MembershipSpec {
        MembershipSpec {
            pool_uid: "pool-uid".to_owned(),
            clustering_mode: ClusteringMode::StreamingReplication,
            bootstrap: 0,
            adopts: false,
            nodes: 3,
            attach: vec![0, 1, 2],
            min_attached: 1,
            timings: Timings {
                heartbeat_ms: 250,
                detach_after_ms: 1500,
                lease_ms: 2000,
                grace_ms: 3000,
                detach_lag_ms: 30_000,
            },
            parameters: BTreeMap::new(),
            domain: String::new(),
            archive_max_bytes: 0,
            archive_retention_seconds: 0,
            keep_wal_since: None,
            suspend: false,
            switchover: None,
            fenced: Vec::new(),
            restart: None,
            load_balancing: LoadBalancing::default(),
        }
    }

    fn record(attached: &[u8]) -> Record {
        let member = |index: &u8| Member { index: *index, incarnation: format!("copy{index}") };
        let attached = attached.iter().map(member).collect();
        let (fork_lsn, reason) = ("0/0".to_owned(), String::new());
        let (successor, stopped) = (None, false);
        let phase = Phase::Serving;
        Record { epoch: 5, phase, primary: 0, attached, timeline: 1, fork_lsn, successor, stopped, reason }
    }

    fn file(index: u8) -> NodeFile {
        NodeFile {
            pool_uid: "pool-uid".to_owned(),
            index,
            incarnation: format!("copy{index}"),
            epoch: 4,
            taken_up: None,
        }
    }

    fn start(me: u8, record: Option<&Record>, file: Option<&NodeFile>, join: &Join) -> Start {
        let data = file.is_some();
        let (standby, ended, word) = (me != 0, false, None);
        decide(&StartView {
            me,
            spec: &spec(),
            record,
            file,
            data,
            timeline: Some(1),
            standby,
            ended,
            word,
            join,
        })
    }

    #[test]
    fn the_first_copy_is_made_once_and_only_where_it_belongs() {
        let made = NodeFile { epoch: 0, ..file(0) };
        let member = Member { index: 0, incarnation: "copy0".to_owned() };
        let me = Start::WriteFirst { member, taken_up: None };
        assert_eq!(start(0, None, None, &Join::Unknown), Start::InitDb);
        assert_eq!(start(0, None, Some(&made), &Join::Unknown), me);
        assert!(matches!(start(1, None, None, &Join::Unknown), Start::WaitForRecovery(_)));
        let half = StartView {
            data: true,
            file: None,
            me: 0,
            spec: &spec(),
            record: None,
            timeline: None,
            standby: false,
            ended: false,
            word: None,
            join: &Join::Unknown,
        };
        assert!(matches!(decide(&half), Start::CallPerson(_)), "data that nobody finished");
    }

    #[test]
    fn a_volume_that_has_seen_more_than_the_record_calls_a_person() {
        let (r, later) = (record(&[0, 1]), NodeFile { epoch: 6, ..file(1) });
        assert!(matches!(start(1, Some(&r), Some(&later), &Join::Proved), Start::CallPerson(_)));
        assert!(
            matches!(start(1, None, Some(&file(1)), &Join::Proved), Start::CallPerson(_)),
            "the record is gone"
        );
        let other = NodeFile { pool_uid: "other".to_owned(), ..file(1) };
        assert!(matches!(start(1, Some(&r), Some(&other), &Join::Proved), Start::CallPerson(_)));
        assert!(matches!(start(1, Some(&r), Some(&file(2)), &Join::Proved), Start::CallPerson(_)));
    }

    /// An agent of a pool that adopts the data of node 2; the data was a primary's, on timeline 3.
    fn adopting(me: u8, record: Option<&Record>, file: Option<&NodeFile>) -> Start {
        let spec = MembershipSpec { bootstrap: 2, adopts: true, ..spec() };
        let (data, standby, ended, word) = (file.is_some(), false, false, None);
        let (join, timeline) = (&Join::Unknown, Some(3));
        decide(&StartView { me, spec: &spec, record, file, data, timeline, standby, ended, word, join })
    }

    #[test]
    fn one_node_takes_up_the_data_of_an_earlier_pool_and_the_others_wait_for_copies() {
        let old = |index: u8| NodeFile { pool_uid: "earlier".to_owned(), ..file(index) };
        let wait = Start::WaitForRecovery(EARLIER.to_owned());
        assert_eq!(adopting(2, None, Some(&old(2))), Start::TakeUp);
        assert_eq!(adopting(1, None, Some(&old(1))), wait);
        assert!(matches!(adopting(1, None, None), Start::WaitForRecovery(_)));
        assert!(matches!(adopting(2, None, None), Start::CallPerson(_)), "never a copy of its own");
        assert!(matches!(adopting(2, None, Some(&old(1))), Start::CallPerson(_)), "another node's volume");
        assert!(matches!(adopting(1, None, Some(&old(0))), Start::CallPerson(_)), "another node's volume");
        assert!(
            matches!(start(0, None, Some(&old(0)), &Join::Unknown), Start::CallPerson(_)),
            "nobody asked"
        );

        let taken = take_up(&old(2), "pool-uid", "copy2".to_owned(), 4);
        let goes_on = TakenUp { epoch: 4, timeline: 5 };
        assert_eq!((taken.epoch, taken.index, taken.taken_up.as_ref()), (0, 2, Some(&goes_on)));
        let member = Member { index: 2, incarnation: "copy2".to_owned() };
        let first = Start::WriteFirst { member: member.clone(), taken_up: Some(goes_on.clone()) };
        assert_eq!(adopting(2, None, Some(&taken)), first);

        let r = super::super::record::taken_up(member, &goes_on, 0);
        let seen = NodeFile { epoch: r.epoch, ..taken.clone() };
        assert_eq!(adopting(2, Some(&r), Some(&seen)), Start::TakeOffice);
        assert_eq!(adopting(1, Some(&r), Some(&old(1))), wait);
        assert!(matches!(adopting(2, None, Some(&seen)), Start::CallPerson(_)), "the record is gone again");
        assert!(matches!(adopting(2, Some(&r), Some(&old(2))), Start::CallPerson(_)), "another volume");
        let later = Record { epoch: 9, timeline: 6, ..r.clone() };
        assert!(matches!(adopting(2, Some(&later), Some(&seen)), Start::CallPerson(_)), "another office");
        // Given up before its first record, and taken up once more.
        let again = take_up(&taken, "third", "copy9".to_owned(), 3).taken_up;
        assert_eq!(again, Some(TakenUp { epoch: 4, timeline: 6 }));
    }

    #[test]
    fn an_attached_node_starts_as_what_the_record_says() {
        let r = record(&[0, 1]);
        assert_eq!(start(0, Some(&r), Some(&file(0)), &Join::Unknown), Start::StartPrimary);
        assert_eq!(start(1, Some(&r), Some(&file(1)), &Join::Proved), Start::StartStandby { attached: true });
        assert_eq!(
            start(2, Some(&r), Some(&file(2)), &Join::Proved),
            Start::StartStandby { attached: false }
        );
        assert!(matches!(start(1, Some(&r), Some(&file(1)), &Join::Unknown), Start::Wait(_)));
        let old = Join::NeedsCopy("past the fork".to_owned());
        assert!(matches!(start(1, Some(&r), Some(&file(1)), &old), Start::DataGone(_)));
        assert!(matches!(start(2, Some(&r), Some(&file(2)), &old), Start::WaitForRecovery(_)));
        assert!(matches!(start(2, Some(&r), None, &Join::Unknown), Start::WaitForRecovery(_)));
    }

    #[test]
    fn a_primary_whose_postgres_has_ended_asks_for_another_unless_it_is_alone() {
        let (two, alone) = (record(&[0, 1]), record(&[0]));
        let (spec, file) = (spec(), file(0));
        let start = |record: &Record, ended: bool, word: Option<i64>, timeline: u32, standby: bool| {
            let (record, file, timeline) = (Some(record), Some(&file), Some(timeline));
            let join = &Join::Unknown;
            decide(&StartView {
                me: 0,
                spec: &spec,
                record,
                file,
                data: true,
                timeline,
                standby,
                ended,
                word,
                join,
            })
        };
        assert_eq!(start(&two, true, None, 1, false), Start::Depose);
        assert_eq!(start(&alone, true, None, 1, false), Start::StartPrimary);
        assert_eq!(start(&alone, false, Some(5), 1, false), Start::Depose, "the word binds");
        assert_eq!(start(&two, false, Some(4), 1, false), Start::StartPrimary);
        let chosen = Record { timeline: 2, ..two.clone() };
        assert_eq!(start(&chosen, false, None, 1, true), Start::TakeOffice);
        assert!(matches!(start(&chosen, false, None, 1, false), Start::CallPerson(_)));
        assert!(matches!(start(&two, false, None, 2, false), Start::CallPerson(_)));
    }

    #[test]
    fn an_attached_node_without_its_copy_never_makes_another() {
        let (r, alone) = (record(&[0, 1]), record(&[0]));
        let other = NodeFile { incarnation: "other".to_owned(), ..file(1) };
        assert!(matches!(start(1, Some(&r), None, &Join::Unknown), Start::DataGone(_)));
        assert!(matches!(start(1, Some(&r), Some(&other), &Join::Proved), Start::DataGone(_)));
        assert!(matches!(start(0, Some(&r), None, &Join::Unknown), Start::CallPerson(_)));
        assert!(matches!(start(0, Some(&alone), None, &Join::Unknown), Start::CallPerson(_)));
    }
}
