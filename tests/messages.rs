//! What the parts of a pool say to each other, and what agents leave in the volumes, golden; and that two versions
//! understand each other, as they have to while an upgrade goes through the nodes.
//!
//! tests/golden/messages has each as this version writes it (`UPDATE=1 cargo test --test messages`), and below `first/` the
//! oldest form that is still understood. That one is written once, with the message, and stays: parts that are out there
//! write it and read it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it finds the unexpected")]

#[path = "common/generated.rs"]
mod generated;

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use generated::generated;
use pgpool_operator::agent::files::{Longest, Opened, Word};
use pgpool_operator::api::v1alpha1::Member;
use pgpool_operator::archive::{Branch, LastError, Lineage, NodeCount, Policy};
use pgpool_operator::membership::names::{Filler, Listed, Names};
use pgpool_operator::membership::starting::{NodeFile, TakenUp};
use pgpool_operator::messages::{
    AbandonedSession, Answer, BackupProgress, Beat, CancelAnswer, CancelQuestion, DatabaseSpec, EnsureRoles,
    Ensured, EpochRow, EpochTable, Join, Leftover, LoginAnswer, LoginQuestion, NodeReport, OfficeReport,
    RefusedHandover, Replica, Role, RoleSpec, Stamp, Standing, Vote,
};
use pgpool_operator::recover::Outcome;
use pgpool_operator::recover::journal::{Journal, Step};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A message as this version writes it, and what it makes of one that it reads.
struct Sample {
    name: &'static str,
    now: Value,
    read: fn(Value) -> Result<Value, String>,
}

fn sample<T: Serialize + DeserializeOwned>(name: &'static str, message: &T) -> Sample {
    let read = |value: Value| -> Result<Value, String> {
        let message: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(message).unwrap())
    };
    Sample { name, now: serde_json::to_value(message).unwrap(), read }
}

/// All of src/messages.rs, with every field set.
fn messages() -> Vec<Sample> {
    let session = AbandonedSession { boot: "b1".into(), pid: 4711, port: 50_412 };
    let row = EpochRow { id: 3, epoch: 7, timeline: 2, nonce: "5eed".into(), fork_xid: "742".into() };
    vec![
        sample("roles", &vec![Role::Stopped, Role::Primary, Role::Standby]),
        sample("joins", &vec![Join::Unknown, Join::Proved, Join::NeedsCopy("past the fork".into())]),
        sample("standings", &vec![Standing::Standby, Standing::InOffice, Standing::Stopped]),
        sample("node-report", &report()),
        sample("beat", &beat()),
        sample("answer", &answer()),
        sample("vote", &vote()),
        sample("epoch-table", &EpochTable { rows: vec![row] }),
        sample("login-question", &LoginQuestion { user: "picker".into() }),
        sample("login-answer", &LoginAnswer { verifier: "SCRAM-SHA-256$4096:x$y:z".into(), genuine: true }),
        sample("cancel-question", &CancelQuestion { key: [1, 2, 3, 4, 5, 6, 7, 8] }),
        sample("cancel-answer", &CancelAnswer { known: true }),
        sample("abandoned-sessions", &vec![session]),
        sample("leftover", &Leftover { ended: 2, busy: vec![4711] }),
        sample("ensure-roles", &ensure_roles()),
        sample(
            "ensured",
            &Ensured { changed: vec!["role picker".into()], errors: vec!["database baskets".into()] },
        ),
    ]
}

fn report() -> NodeReport {
    NodeReport {
        pool_uid: "heron-uid".into(),
        index: 1,
        incarnation: Some("0123456789ab".into()),
        boot: "b1".into(),
        epoch: 7,
        seen: 8,
        put_back: true,
        role: Role::Primary,
        open: true,
        restarting: true,
        draining: true,
        lease_ms: 1999,
        streaming: true,
        timeline: Some(2),
        lsn: Some(50_331_744),
        weight: 3,
        nodes: Some(3),
        lag_ms: Some(12),
        join: Join::NeedsCopy("past the fork".into()),
        message: "primary in office".into(),
        needs_person: true,
        postgres_version: Some(17),
        volume_bytes: 1 << 30,
        volume_free: 1 << 29,
        archive_bytes: 16 << 20,
        archive_error: Some("no space".into()),
        backups: vec![BackupProgress {
            name: "heron-2-recovery".into(),
            phase: "streaming".into(),
            bytes: 5,
            total: 9,
        }],
        replicas: vec![Replica {
            index: 2,
            incarnation: "ba9876543210".into(),
            state: "streaming".into(),
            priority: 1,
            replay_lsn: Some(50_331_744),
            reply_age_ms: Some(4),
            lag_ms: Some(1500),
            address: Some([10, 0, 0, 2].into()),
        }],
        synchronous: vec![2],
        attach_note: "node 0 is silent".into(),
        bootstrapped: true,
        pending_restart: vec!["max_connections".into()],
        lowered_limits: vec!["max_connections".into()],
        refused_parameters: Some("invalid value for parameter \"work_mem\": \"lots\"".into()),
        loaded_parameters: Some("0123456789abcdef".into()),
        unsafe_settings: vec!["ALTER ROLE picker RESET synchronous_commit".into()],
        refused_handover: Some(RefusedHandover { id: "s1".into(), why: "no standby is attached".into() }),
        office: Some(office()),
    }
}

fn office() -> OfficeReport {
    OfficeReport {
        timeline: 2,
        from: 0,
        reason: "node 0 is gone".into(),
        detection_ms: 1,
        election_ms: 2,
        promotion_ms: 3,
        opening_ms: Some(4),
    }
}

fn beat() -> Beat {
    Beat {
        pool_uid: "heron-uid".into(),
        epoch: 7,
        from: 1,
        echo: Some(Stamp { boot: "b2".into(), millis: 123_456 }),
        lease_ms: 2000,
        longest_ms: 9000,
        flush_lsn: u64::MAX,
        system_id: Some(7_571_234_567_890_123_456),
    }
}

fn answer() -> Answer {
    Answer {
        pool_uid: "heron-uid".into(),
        epoch: 7,
        seen: 8,
        index: 2,
        incarnation: Some("ba9876543210".into()),
        stamp: Stamp { boot: "b2".into(), millis: 123_456 },
        role: Role::Standby,
        serves_nobody: true,
        leaving: true,
        join: Join::Proved,
        streaming: true,
        timeline: Some(2),
        replay_lsn: Some(50_331_744),
    }
}

fn vote() -> Vote {
    Vote {
        pool_uid: "heron-uid".into(),
        epoch: 8,
        index: 2,
        incarnation: "ba9876543210".into(),
        standing: Standing::Standby,
        timeline: 2,
        lsn: 50_331_744,
        gated_ms: 900,
    }
}

fn ensure_roles() -> EnsureRoles {
    EnsureRoles {
        roles: vec![RoleSpec {
            name: "picker".into(),
            verifier: "SCRAM-SHA-256$4096:x$y:z".into(),
            in_roles: vec!["grower".into()],
            create_db: true,
            create_role: true,
        }],
        databases: vec![DatabaseSpec { name: "baskets".into(), owner: "picker".into() }],
        bootstrap_sql: Some("CREATE TABLE apples ()".into()),
    }
}

/// What agents and Jobs leave in a volume for the next start, which may be another version's.
fn files() -> Vec<Sample> {
    let incarnation = "0123456789ab".to_owned();
    let node = NodeFile {
        pool_uid: "heron-uid".into(),
        index: 1,
        incarnation: incarnation.clone(),
        epoch: 7,
        taken_up: Some(TakenUp { epoch: 5, timeline: 2 }),
    };
    let listed = Listed { member: Member { index: 2, incarnation: incarnation.clone() }, epoch: 6 };
    let (id, step) = ("r7".to_owned(), Step::Copied);
    let outcome = Outcome { message: "copied".into(), bytes: 9, seconds: 4, needs_destroy: true };
    let branches = vec![Branch { timeline: 1, end: Some(50_331_744) }, Branch { timeline: 2, end: None }];
    let failure =
        json!({"at": "2026-01-01T00:00:00Z", "file": "000000010000000000000001", "message": "no space"});
    let since = Some(jiff::Timestamp::UNIX_EPOCH);
    let policy = Policy { retention_seconds: Some(3600), max_bytes: Some(1 << 30), keep_since: since };
    vec![
        sample("file-node", &node),
        sample("file-names", &Names { listed: vec![listed], filler: Some(Filler::Gate), lease_ms: 2000 }),
        sample("file-names-fillers", &vec![Filler::Gate, Filler::Nobody]),
        sample("file-word", &Word { epoch: 7 }),
        sample("file-office", &Opened { timeline: 2 }),
        sample("file-lease", &Longest { lease_ms: 2000 }),
        sample("file-nodes", &NodeCount { nodes: 4 }),
        sample("file-lineage", &Lineage { segment_bytes: 16 << 20, branches }),
        sample("file-recovery", &Journal { id, incarnation, step, destroyed: true, bytes: 9 }),
        sample("file-recovery-steps", &vec![Step::Copying, Step::Copied, Step::Done]),
        sample("file-archive-policy", &policy),
        sample("file-archive-error", &serde_json::from_value::<LastError>(failure).unwrap()),
        sample("outcome-of-a-job", &outcome),
    ]
}

fn samples() -> Vec<Sample> {
    messages().into_iter().chain(files()).collect()
}

/// The oldest form of a message that is still understood; one that is new begins with today's.
fn first(sample: &Sample) -> Value {
    let place = format!("tests/golden/messages/first/{}.json", sample.name);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&place);
    if env::var_os("UPDATE").is_some() && !path.exists() {
        generated(&place, &printed(&sample.now), "messages");
    }
    serde_json::from_str(&fs::read_to_string(&path).expect(&place)).unwrap()
}

fn printed(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

/// Calls `act` with the path of every field of every object in it.
fn fields(value: &Value, path: &str, act: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let path = format!("{path}/{name}");
                act(&path);
                fields(inner, &path, act);
            }
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, inner)| fields(inner, &format!("{path}/{at}"), act));
        }
        _ => {}
    }
}

/// Calls `act` with every object in it.
fn objects(value: &mut Value, act: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(|inner| objects(inner, act));
            act(map);
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| objects(inner, act)),
        _ => {}
    }
}

/// Whether somebody who reads `old` can read `new`: all that is there is there, and of the same kind.
fn lacks(old: &Value, new: &Value, path: &str) -> Option<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            old.iter().find_map(|(name, inner)| match new.get(name) {
                Some(other) => lacks(inner, other, &format!("{path}/{name}")),
                None => Some(format!("{path}/{name} is gone")),
            })
        }
        (Value::Array(old), Value::Array(new)) => old
            .iter()
            .enumerate()
            .find_map(|(at, inner)| lacks(inner, new.get(at)?, &format!("{path}/{at}")))
            // The lists here are of all variants of an enum: a reader that doesn't know one can't read the message.
            .or_else(|| (old.len() != new.len()).then(|| format!("{path} had {} variants", old.len()))),
        (old, new) => (old != new).then(|| format!("{path} was {old} and is {new}")),
    }
}

#[test]
fn each_is_written_as_it_was() {
    for sample in samples() {
        generated(&format!("tests/golden/messages/{}.json", sample.name), &printed(&sample.now), "messages");
        assert_eq!((sample.read)(sample.now.clone()).as_ref(), Ok(&sample.now), "{}", sample.name);
    }
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    for Sample { name, now, read } in samples() {
        let mut later = now.clone();
        objects(&mut later, &mut |object| {
            // An enum's variant with a value looks like an object, and is none.
            if !object.contains_key("NeedsCopy") {
                object.insert("ofALaterVersion".to_owned(), json!({"x": [1, null]}));
            }
        });
        assert_eq!(read(later).as_ref(), Ok(&now), "{name}");
    }
}

#[test]
fn what_an_earlier_version_does_not_say_has_a_default() {
    for sample in samples() {
        let first = first(&sample);
        (sample.read)(first.clone()).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        let mut new = Vec::new();
        fields(&sample.now, "", &mut |path| {
            // What stands in something new is no newer than that.
            let within = path.rsplit_once('/').is_some_and(|(parent, _)| first.pointer(parent).is_some());
            if within && first.pointer(path).is_none() {
                new.push(path.to_owned());
            }
        });
        for path in new {
            let mut without = sample.now.clone();
            let (parent, field) = path.rsplit_once('/').unwrap();
            let Some(Value::Object(parent)) = without.pointer_mut(parent) else { continue };
            parent.remove(field);
            (sample.read)(without).unwrap_or_else(|error| panic!("{} without {path}: {error}", sample.name));
        }
    }
}

#[test]
fn what_an_earlier_version_looks_for_is_still_said() {
    for sample in samples() {
        assert_eq!(lacks(&first(&sample), &sample.now, ""), None, "{}", sample.name);
    }
}

#[test]
fn defaults_are_what_an_earlier_version_meant() {
    let read = |name: &str| {
        let sample = samples().into_iter().find(|sample| sample.name == name).unwrap();
        (sample.read)(first(&sample)).unwrap()
    };
    let report: NodeReport = serde_json::from_value(read("node-report")).unwrap();
    assert_eq!((report.weight, report.restarting, report.draining), (1, false, false));
    assert!(report.pending_restart.is_empty() && report.lowered_limits.is_empty() && report.office.is_none());
    assert_eq!(report.loaded_parameters, None, "whoever doesn't say so isn't counted on");
    let answer: Answer = serde_json::from_value(read("answer")).unwrap();
    assert!(!answer.leaving, "whoever doesn't say so stays");
    let vote: Vote = serde_json::from_value(read("vote")).unwrap();
    assert_eq!(vote.gated_ms, 0);
    let node: NodeFile = serde_json::from_value(read("file-node")).unwrap();
    assert_eq!(node.taken_up, None);
}

/// Those that stand in another one.
const WITHIN: [&str; 8] = [
    "BackupProgress",
    "DatabaseSpec",
    "EpochRow",
    "OfficeReport",
    "RefusedHandover",
    "Replica",
    "RoleSpec",
    "Stamp",
];

#[test]
fn no_message_is_forgotten() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/messages.rs");
    let source = fs::read_to_string(path).unwrap();
    let named = |line: &str| {
        let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "))?;
        rest.split([' ', '(', ';']).next().map(str::to_owned)
    };
    let there: BTreeSet<String> = source.lines().filter_map(named).collect();
    let dashed = |name: &str| {
        let mut words = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !words.is_empty() {
                words.push('-');
            }
            words.extend(letter.to_lowercase());
        }
        words
    };
    let tested: BTreeSet<&str> = messages().iter().map(|sample| sample.name).collect();
    let covered = |name: &String| {
        let dashed = dashed(name);
        tested.contains(dashed.as_str())
            || tested.contains(format!("{dashed}s").as_str())
            || WITHIN.contains(&name.as_str())
    };
    // Who sent a message is never in it.
    let forgotten: Vec<&String> = there.iter().filter(|name| *name != "Peer" && !covered(name)).collect();
    assert!(there.len() > 20 && forgotten.is_empty(), "{forgotten:?}");
}
