//! What was asked of the Kubernetes API, by its audit log (Kubernetes docs, "Auditing"): a JSON object a line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{Error, Result, refused};

/// The operator's account.
const OPERATOR: &str = "system:serviceaccount:pgpool-system:";
/// Verbs that change something.
const WRITES: [&str; 6] = ["create", "update", "patch", "delete", "deletecollection", "apply"];

/// Calls by who made them, verb and kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Calls(pub BTreeMap<(&'static str, String), u64>);

impl Calls {
    /// How many calls of one kind of account are there, and how many of those change something that isn't the operator's Lease.
    pub fn of(&self, who: &str) -> (u64, u64) {
        let own = self.0.iter().filter(|((whose, _), _)| *whose == who);
        own.fold((0, 0), |(all, writes), ((_, what), count)| {
            let (verb, kind) = what.split_once(' ').unwrap_or_default();
            let write = WRITES.contains(&verb) && kind != "leases";
            (all + count, writes + if write { *count } else { 0 })
        })
    }
}

/// Calls that ended between two moments; of a watch that goes on, its beginning counts. A log that begins later is refused: one
/// that has grown to 100 MB is begun anew, and what was before stands elsewhere.
pub fn between(log: &str, from: Timestamp, to: Timestamp) -> Result<Calls> {
    let mut calls = Calls::default();
    for (number, line) in log.lines().enumerate() {
        let event: Value = serde_json::from_str(line)
            .map_err(|source| Error::Json { what: "a line of the audit log".to_owned(), source })?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let at: Option<Timestamp> = text(&event["stageTimestamp"]).parse().ok();
        if number == 0 && at.is_some_and(|at| at > from) {
            return refused("the audit log was begun anew while it was needed: measure again");
        }
        let verb = text(&event["verb"]);
        let wanted = if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        if at.is_none_or(|at| at < from || at > to) || event["stage"] != wanted {
            continue;
        }
        let operator = text(&event["user"]["username"]).starts_with(OPERATOR);
        let who = if operator { "operator" } else { "agents" };
        let kind = match event["objectRef"]["resource"].as_str() {
            Some(kind) => kind.to_owned(),
            None => text(&event["requestURI"]),
        };
        *calls.0.entry((who, format!("{verb} {kind}"))).or_default() += 1;
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(second: u32, account: &str, verb: &str, kind: &str, stage: &str) -> String {
        let at = format!("2026-01-01T00:00:{second:02}.000000Z");
        json!({ "stage": stage, "stageTimestamp": at, "verb": verb, "user": { "username": account },
            "objectRef": { "resource": kind } })
        .to_string()
    }

    #[test]
    fn calls_are_counted_by_who_made_them_within_the_time() {
        let operator = "system:serviceaccount:pgpool-system:pgpool-operator";
        let agent = "system:serviceaccount:a:b-agent";
        let lines = [
            line(5, operator, "update", "leases", "ResponseComplete"),
            line(9, operator, "update", "leases", "ResponseComplete"),
            line(12, operator, "update", "leases", "ResponseComplete"),
            line(15, operator, "patch", "pgpools", "ResponseComplete"),
            line(15, operator, "watch", "pods", "ResponseStarted"),
            line(16, operator, "watch", "pods", "ResponseComplete"),
            line(19, agent, "get", "pgpoolmemberships", "ResponseComplete"),
            line(21, agent, "get", "pgpoolmemberships", "ResponseComplete"),
        ];
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z").parse().unwrap();
        let calls = between(&lines.join("\n"), at(8), at(20)).unwrap();
        assert_eq!(calls.of("operator"), (4, 1));
        assert_eq!(calls.of("agents"), (1, 0));
        assert!(between("{", at(8), at(20)).is_err());
        assert!(between(&lines[1..].join("\n"), at(8), at(20)).is_err(), "what was before nine is missing");
    }
}
