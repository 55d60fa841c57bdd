//! A whole recovery, from the annotation to the node's being attached again.

use std::time::Duration;

use super::pool::{DATA, NAME, Pool};
use super::watch::Watcher;
use crate::clock::Stopwatch;
use crate::error::{Result, refused};
use crate::progress::{say, step, until_every};
use crate::run;

/// How long a whole recovery may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// How long the pool may take to notice a broken node.
const NOTICE: Duration = Duration::from_secs(120);
/// How often that is looked at; each look starts a kubectl.
const LOOK: Duration = Duration::from_millis(500);
/// What is seen of the pool at each change, with `|` between.
const SEEN: &str = "{.status.lastRecovery.id}|{.status.lastRecovery.succeeded}|{.status.lastRecovery.message}|{.status.lastRecovery.seconds}|{.status.recovery.id}|{.status.recovery.stage}|{.status.recovery.donor}|{.status.recovery.bytes}|{.status.recovery.total}|{.status.lastRequest.at}|{.status.lastRequest.accepted}|{.status.lastRequest.message}";

/// What a recovery took.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Node that was copied.
    pub donor: u8,
    /// From before the annotation to the status that tells of the end.
    pub seconds: f64,
    /// The same as the operator gives it: from its taking on the request.
    pub told: f64,
    /// The stages in their order, with the seconds from the first status that names one to the next; Copying in
    /// two, as the donor tells of its bytes.
    pub stages: Vec<(String, f64)>,
}

/// One status of the pool.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    last_id: String,
    succeeded: bool,
    message: String,
    told: f64,
    id: String,
    stage: String,
    donor: Option<u8>,
    bytes: u64,
    total: u64,
    /// When the last request was answered.
    answered: String,
    /// Why it was refused, if it was.
    refused: Option<String>,
}

impl Seen {
    fn parse(line: &str) -> Option<Self> {
        let [last_id, succeeded, message, told, id, stage, donor, bytes, total, answered, accepted, answer] =
            line.split('|').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            last_id: last_id.to_owned(),
            succeeded: succeeded == "true",
            message: message.to_owned(),
            told: told.parse().unwrap_or(0.0),
            id: id.to_owned(),
            stage: stage.to_owned(),
            donor: donor.parse().ok(),
            bytes: bytes.parse().unwrap_or(0),
            total: total.parse().unwrap_or(0),
            answered: answered.to_owned(),
            refused: (accepted == "false").then(|| answer.to_owned()),
        })
    }
}

impl Seen {
    /// The stage, and of Copying whether bytes come.
    fn phase(&self) -> String {
        match self.stage.as_str() {
            COPYING if self.bytes == 0 => format!("{COPYING}, before the first byte"),
            stage => stage.to_owned(),
        }
    }
}

/// The stage in which the bytes come.
pub const COPYING: &str = "Copying";

/// Breaks a node so that nothing but a copy helps: a healthy one comes back without. Its Postgres dies too, and
/// cannot start without its control file.
pub fn spoil(pool: &Pool<'_>, node: u8) -> Result<()> {
    step(&format!("break node {node}"), || {
        pool.exec(
            node,
            &format!("cd {DATA}; rm global/pg_control; kill -KILL \"$(head -n 1 postmaster.pid)\""),
        )?;
        until_every(LOOK, &format!("detaching of the broken node {node}"), NOTICE, || {
            let status = &pool.json()?["status"];
            let entry = status["nodes"].as_array().and_then(|all| all.iter().find(|n| n["index"] == node));
            let state = entry.map_or("", |entry| entry["state"].as_str().unwrap_or_default());
            let inside =
                status["membership"]["attached"].as_array().is_some_and(|a| a.contains(&node.into()));
            Ok(if state == "Detached" && !inside { Ok(()) } else { Err(format!("it is {state}")) })
        })
    })
}

/// Asks for a recovery and follows it to its end.
pub fn whole(pool: &Pool<'_>, node: u8) -> Result<Whole> {
    step(&format!("recovery of node {node}"), || {
        follow(pool, node, &mut Watcher::start(pool, &["pgpool", NAME], SEEN)?)
    })
}

fn follow(pool: &Pool<'_>, node: u8, watcher: &mut Watcher) -> Result<Whole> {
    let watch = Stopwatch::start();
    let before = next(watcher, watch)?;
    let watch = Stopwatch::start();
    let request = format!("pgpool-operator.dev/recover={node}");
    run::captured(&mut pool.kubectl(&["annotate", "pgpool", NAME, &request])?)?;
    let mut stages: Vec<(String, f64)> = Vec::new();
    let (mut donor, mut tenths) = (None, 0);
    loop {
        let seen = next(watcher, watch)?;
        let now = watch.elapsed().as_secs_f64();
        if let Some(why) = seen.refused.as_ref().filter(|_| seen.answered != before.answered) {
            return refused(format!("the pool refuses {request}: {why}"));
        }
        if seen.last_id != before.last_id {
            let Some(donor) = donor.filter(|_| seen.succeeded) else {
                return refused(format!("the recovery did not copy: {}", seen.message));
            };
            say(format!("  {now:5.1} s  attached"));
            return Ok(Whole { donor, seconds: now, told: seen.told, stages: lengths(&stages, now) });
        }
        donor = seen.donor.or(donor);
        let phase = seen.phase();
        if !phase.is_empty() && stages.last().is_none_or(|(last, _)| *last != phase) {
            say(format!("  {now:5.1} s  {phase}"));
            stages.push((phase, now));
        }
        let share = (seen.bytes * 10).checked_div(seen.total).unwrap_or(0);
        if share > tenths {
            tenths = share;
            say(format!("  {now:5.1} s  {} of {} MB", seen.bytes / 1_000_000, seen.total / 1_000_000));
        }
    }
}

/// From when each stage began to how long it was.
fn lengths(begun: &[(String, f64)], end: f64) -> Vec<(String, f64)> {
    let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([end]);
    begun.iter().zip(ends).map(|((stage, from), to)| (stage.clone(), to - from)).collect()
}

fn next(watcher: &mut Watcher, watch: Stopwatch) -> Result<Seen> {
    let line = watcher.next(watch, LIMIT)?;
    match Seen::parse(&line) {
        Some(seen) => Ok(seen),
        None => refused(format!("kubectl said something else of the pool: {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_stage_and_how_far_it_is() {
        let seen = Seen::parse("a|true|base backup|3.5|b|Copying|1|20|100|t|true|begins").unwrap();
        assert_eq!((seen.stage.as_str(), seen.donor, seen.bytes, seen.total), ("Copying", Some(1), 20, 100));
        assert!(seen.succeeded && (seen.told - 3.5).abs() < 1e-9);
        assert_eq!((seen.phase().as_str(), seen.refused), ("Copying", None));
        let early = Seen::parse("|||||Copying|1|0|0|||").unwrap();
        assert_eq!(early.phase(), "Copying, before the first byte");
        let refused = Seen::parse("|||||||||t|false|it is the primary").unwrap();
        assert_eq!(refused.refused.as_deref(), Some("it is the primary"));
        let first = Seen::parse("|||||||||||").unwrap();
        assert_eq!(first, Seen::default());
        assert!(Seen::parse("a|b").is_none());
    }

    #[test]
    fn a_stage_ends_where_the_next_begins() {
        let begun = [("Stopping".to_owned(), 0.5), ("Copying".to_owned(), 2.0)];
        assert_eq!(lengths(&begun, 9.0), [("Stopping".to_owned(), 1.5), ("Copying".to_owned(), 7.0)]);
    }
}
