//! The figures: a table for people, a line of JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::report::median;
use super::{Rest, Use};

/// What is told of many processes.
fn row(text: &mut String, name: &str, uses: &[Use]) {
    let most = |value: fn(&Use) -> f64| uses.iter().map(value).fold(0.0, f64::max);
    let middle = |value: fn(&Use) -> f64| median(uses.iter().map(value));
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "  {name:<10} {:>5} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
        uses.len(),
        middle(|one| one.memory),
        most(|one| one.memory),
        middle(|one| one.anonymous),
        middle(|one| one.cpu),
        most(|one| one.cpu)
    );
}

/// The table of all.
pub fn table(rests: &[Rest]) -> String {
    let mut text = String::new();
    for rest in rests {
        let _ = writeln!(text, "\n{} pools of three nodes, at rest for {:.0} s", rest.pools, rest.seconds);
        if rest.simulated {
            text.push_str(SIMULATED);
        }
        let _ = writeln!(
            text,
            "  {:<10} {:>5} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "", "how many", "MiB", "most", "anonymous", "mCPU", "most"
        );
        row(&mut text, "operator", &rest.operator);
        if !rest.simulated {
            row(&mut text, "agents", &rest.agents);
            row(&mut text, "fronts", &rest.fronts);
        }
        for who in callers(rest) {
            let (all, writes) = rest.calls.of(who);
            let _ = writeln!(
                text,
                "  calls of the {who}: {all}, {:.1} a minute, {writes} of them writes but for its Lease",
                a_minute(all, rest)
            );
            for ((_, what), count) in rest.calls.0.iter().filter(|((whose, _), _)| whose == who) {
                let _ = writeln!(text, "    {count:>6} {what}");
            }
        }
        let _ = writeln!(text, "  another operator has answered every pool after {:.1} s", rest.converged);
    }
    text
}

/// What a reader has to know of simulated pools.
const SIMULATED: &str = "  Real: operator, Kubernetes API, controllers, scheduler, all objects. Simulated: machines, disks,\n  \
    PostgreSQL, agents (they answer the operator by mutual TLS), fronts; what these ask of the API isn't told.\n";

/// Whose calls are told of: an administrator makes those for simulated agents, and the audit log has none of his.
fn callers(rest: &Rest) -> &'static [&'static str] {
    if rest.simulated { &["operator"] } else { &["operator", "agents"] }
}

#[expect(clippy::cast_precision_loss, reason = "calls of minutes are far fewer than 2^52")]
fn a_minute(calls: u64, rest: &Rest) -> f64 {
    calls as f64 / rest.seconds * 60.0
}

/// The line of JSON of one number of pools; what isn't measured of simulated ones is null.
pub fn line(rest: &Rest) -> Value {
    let uses = |uses: &[Use]| {
        let each = |value: fn(&Use) -> f64| median(uses.iter().map(value));
        json!({ "count": uses.len(), "mib": each(|one| one.memory), "mib_anonymous": each(|one| one.anonymous),
            "milli_cpu": each(|one| one.cpu) })
    };
    let calls = |who| {
        let (all, writes) = rest.calls.of(who);
        json!({ "all": all, "a_minute": a_minute(all, rest), "writes": writes })
    };
    let real = |value: Value| if rest.simulated { Value::Null } else { value };
    json!({
        "bench": "operator", "pools": rest.pools, "simulated": rest.simulated, "seconds": rest.seconds,
        "operator": uses(&rest.operator), "agents": real(uses(&rest.agents)), "fronts": real(uses(&rest.fronts)),
        "calls_operator": calls("operator"), "calls_agents": real(calls("agents")),
        "converged_seconds": rest.converged,
    })
}

#[cfg(test)]
mod tests {
    use super::super::calls::Calls;
    use super::*;

    fn rest(simulated: bool) -> Rest {
        let one = Use { memory: 28.0, anonymous: 12.5, cpu: 3.0 };
        let calls = [(("operator", "update leases".to_owned()), 24), (("agents", "get pods".to_owned()), 2)];
        let others = if simulated { Vec::new() } else { vec![one] };
        Rest {
            pools: 300,
            simulated,
            seconds: 120.0,
            operator: vec![one],
            agents: others.clone(),
            fronts: others,
            calls: Calls(calls.into()),
            converged: 41.5,
        }
    }

    #[test]
    fn calls_are_told_by_the_minute() {
        let text = table(&[rest(false)]);
        assert!(text.contains("calls of the operator: 24, 12.0 a minute, 0 of them writes"), "{text}");
        assert!(text.contains("calls of the agents: 2, 1.0 a minute") && text.contains("fronts"), "{text}");
        let line = line(&rest(false));
        assert_eq!((&line["operator"]["mib_anonymous"], &line["agents"]["count"]), (&json!(12.5), &json!(1)));
    }

    #[test]
    fn of_simulated_pools_it_is_said_what_is_simulated() {
        let text = table(&[rest(true)]);
        assert!(text.contains("Simulated: machines, disks,\n  PostgreSQL, agents"), "{text}");
        assert!(!text.contains("calls of the agents") && text.contains("after 41.5 s"), "{text}");
        let line = line(&rest(true));
        assert!(line["agents"].is_null() && line["calls_agents"].is_null() && line["simulated"] == true);
    }
}
