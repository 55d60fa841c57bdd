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
        "  {name:<10} {:>5} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
        uses.len(),
        middle(|one| one.memory),
        most(|one| one.memory),
        middle(|one| one.cpu),
        most(|one| one.cpu)
    );
}

/// The table of all.
pub fn table(rests: &[Rest]) -> String {
    let mut text = String::new();
    for rest in rests {
        let _ = writeln!(
            text,
            "\n{} pools of three nodes, at rest\n  {:<10} {:>5} {:>10} {:>10} {:>10} {:>10}",
            rest.pools, "", "how many", "MiB", "most", "mCPU", "most"
        );
        row(&mut text, "operator", &rest.operator);
        row(&mut text, "agents", &rest.agents);
        row(&mut text, "fronts", &rest.fronts);
        for who in ["operator", "agents"] {
            let (all, writes) = rest.calls.of(who);
            let _ = writeln!(text, "  calls of the {who}: {all}, {writes} of them writes but for its Lease");
            for ((_, what), count) in rest.calls.0.iter().filter(|((whose, _), _)| *whose == who) {
                let _ = writeln!(text, "    {count:>6} {what}");
            }
        }
        let _ = writeln!(text, "  another operator has answered every pool after {:.1} s", rest.converged);
    }
    text
}

/// The line of JSON of one number of pools.
pub fn line(rest: &Rest) -> Value {
    let uses = |uses: &[Use]| {
        let each = |value: fn(&Use) -> f64| median(uses.iter().map(value));
        json!({ "count": uses.len(), "mib": each(|one| one.memory), "milli_cpu": each(|one| one.cpu) })
    };
    let calls = |who| {
        let (all, writes) = rest.calls.of(who);
        json!({ "all": all, "writes": writes })
    };
    json!({
        "bench": "operator", "pools": rest.pools, "operator": uses(&rest.operator), "agents": uses(&rest.agents),
        "fronts": uses(&rest.fronts), "calls_operator": calls("operator"), "calls_agents": calls("agents"),
        "converged_seconds": rest.converged,
    })
}
