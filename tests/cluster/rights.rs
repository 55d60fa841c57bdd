//! What the operator and the agents may do, against what the API server has seen them do (its audit log).
use std::collections::BTreeSet;
use std::fmt;

use pgpool_operator::names;
use serde_json::Value;

use super::harness::{Failure, Outcome, ensure, failed};
use super::world::{POOL, RELEASE, SPACE, SYSTEM, World};

/// Names the audit log of the embedded cluster's API server.
const LOG: &str = "PGPOOL_AUDIT";

/// What the API server says where a quota is used up.
const QUOTA: &str = "exceeded quota";

/// A right, or a call that needs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

impl Right {
    fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned(), verb: verb.to_owned() }
    }

    /// Granted to the operator, though no call may be seen that needs it.
    fn is_held(&self) -> bool {
        HELD.iter().any(|(group, verb, resources)| {
            self.group == *group && self.verb == *verb && resources.contains(&self.resource.as_str())
        })
    }

    /// The record is the agents' to write: the operator holds the right to it, to hand it on, and never uses it (ADR 6).
    fn is_the_agents(&self) -> bool {
        self.group == "pgpool-operator.dev" && self.resource == "pgpoolmemberships/status"
    }
}

/// Rights that are there for another reason than a call in this act.
const HELD: [(&str, &str, &[&str]); 7] = [
    // Who makes a Role must hold its rights.
    ("pgpool-operator.dev", "update", &["pgpoolmemberships/status"]),
    // Where the API server enforces it, who makes an object that holds up the end of its owner must hold this.
    ("pgpool-operator.dev", "update", &["pgpools/finalizers"]),
    // A roll, which is in another act.
    ("", "delete", &["pods"]),
    // What a later operator makes no more is swept.
    ("", "delete", &["configmaps", "services", "serviceaccounts"]),
    ("rbac.authorization.k8s.io", "delete", &["roles", "rolebindings"]),
    ("policy", "delete", &["poddisruptionbudgets"]),
    ("networking.k8s.io", "delete", &["networkpolicies"]),
];

/// What an account has done.
#[derive(Default)]
struct Seen {
    used: BTreeSet<Right>,
    refused: BTreeSet<String>,
}

/// Nothing is used that isn't granted, nothing is granted that isn't used, and the operator writes no record.
pub async fn as_needed(world: &World) -> Outcome {
    let Some(path) = std::env::var_os(LOG) else {
        return failed(format!("{LOG} isn't set: `cargo xtask test cluster` does it"));
    };
    let log = tokio::fs::read_to_string(&path).await?;
    let operator = granted(world, &["clusterrole", RELEASE]).await?;
    let leader = granted(world, &["-n", SYSTEM, "role", &format!("{RELEASE}-leader")]).await?;
    let agent = names::agent_account(POOL);
    let agents = granted(world, &["-n", SPACE, "role", &agent]).await?;
    let accounts = [
        (format!("system:serviceaccount:{SYSTEM}:{RELEASE}"), operator.union(&leader).cloned().collect()),
        (format!("system:serviceaccount:{SPACE}:{agent}"), agents),
    ];
    let mut wrong = Vec::new();
    for (number, (account, granted)) in accounts.into_iter().enumerate() {
        let seen = seen(&log, &account)?;
        println!("    {account}: {} rights, {} used", granted.len(), seen.used.len());
        ensure(!seen.used.is_empty(), || format!("the audit log has nothing of {account}"))?;
        wrong.extend(seen.refused.iter().map(|call| format!("refused: {call}")));
        let is_operator = number == 0;
        let written = seen.used.iter().filter(|right| is_operator && right.is_the_agents());
        wrong.extend(written.map(|right| format!("used by {account}, and the agents' alone: {right}")));
        let held = |right: &Right| is_operator && right.is_held();
        let idle = granted.iter().filter(|right| !seen.used.contains(*right) && !held(right));
        wrong.extend(idle.map(|right| format!("never used by {account}: {right}")));
    }
    ensure(wrong.is_empty(), || wrong.join("\n    "))
}

/// The rights of a role.
async fn granted(world: &World, role: &[&str]) -> Outcome<BTreeSet<Right>> {
    let (kind, place) = role.split_at(role.len() - 2);
    let args = [kind, &["get"], place, &["-o", "json"]].concat();
    let role: Value = serde_json::from_str(&world.kubectl(&args).await?)?;
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        let all = rule[field].as_array().into_iter().flatten();
        all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                let verbs = texts(rule, "verbs");
                rights.extend(verbs.iter().map(|verb| Right::new(&group, &resource, verb)));
            }
        }
    }
    ensure(!rights.is_empty(), || format!("a role without rights: {role}"))?;
    Ok(rights)
}

/// What an account has done, by the log: a JSON object a line (Kubernetes: `audit.k8s.io/v1`, Event).
fn seen(log: &str, account: &str) -> Outcome<Seen> {
    let mut seen = Seen::default();
    for line in log.lines() {
        let event: Value =
            serde_json::from_str(line).map_err(|error| Failure(format!("audit log: {error}: {line}")))?;
        let (target, verb) = (&event["objectRef"], event["verb"].as_str().unwrap_or_default());
        if event["user"]["username"] != account || target.is_null() {
            continue;
        }
        let text = |field: &str| target[field].as_str().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            part => format!("{}/{part}", text("resource")),
        };
        let right = Right::new(text("apiGroup"), &resource, verb);
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        let why = event["responseStatus"]["message"].as_str().unwrap_or_default();
        // A quota refuses in the same way: that is no lack of a right.
        if code == 403 && !why.contains(QUOTA) {
            seen.refused.insert(format!("{account}: {right} {}/{}: {why}", text("namespace"), text("name")));
        } else {
            // Who applies what isn't there needs the right to create it as well.
            if code == 201 && right.verb == "patch" {
                seen.used.insert(Right { verb: "create".to_owned(), ..right.clone() });
            }
            seen.used.insert(right);
        }
    }
    Ok(seen)
}
