//! The figures: tables for people, lines of JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::report::median;
use super::Turns;
use super::calls::Counter;
use super::idle::Idle;
use super::load::{Cell, KINDS, Turn};
use super::stage::Legs;
use super::way::{BETWEEN, WAYS, Way};
use crate::error::Result;

/// System calls of one way.
#[derive(Debug, Clone)]
pub struct Calls {
    /// The way.
    pub way: Way,
    /// A transaction at one client, in the order of [`KINDS`].
    pub each: Vec<f64>,
    /// A second without clients.
    pub idle: f64,
    /// Processor seconds a second without clients.
    pub idle_cpu: f64,
}

/// What takes part, and what encrypts it.
pub fn head(versions: &str, places: &str, legs: [Result<Legs>; 4]) -> Result<String> {
    let mut text = format!("\n{versions}\n{places}\n");
    for (way, legs) in WAYS.into_iter().zip(legs) {
        let legs = legs?;
        let _ = match way {
            Way::Direct => writeln!(text, "  {:<10} client to node {}", way.name(), legs.client),
            _ => writeln!(
                text,
                "  {:<10} client's side {}; node's side {}",
                way.name(),
                legs.client,
                legs.node
            ),
        };
    }
    Ok(text)
}

/// Median with the least and the largest.
fn ranged(values: &[f64], places: usize) -> String {
    let least = values.iter().copied().fold(f64::NAN, f64::min);
    let largest = values.iter().copied().fold(f64::NAN, f64::max);
    let middle = median(values.iter().copied());
    format!("{middle:.places$} ({least:.places$} to {largest:.places$})")
}

fn of(turns: &Turns, way: Way, value: impl Fn(&Turn) -> f64) -> Vec<f64> {
    turns.iter().map(|turn| value(&turn[way as usize])).collect()
}

/// Milliseconds that a way adds to the direct one's of the same turn.
fn added(turns: &Turns, way: Way) -> Vec<f64> {
    let direct = |turn: &[Turn; 4]| turn[Way::Direct as usize].latency;
    turns.iter().map(|turn| turn[way as usize].latency - direct(turn)).collect()
}

/// The front's CPU by PgBouncer's, of each turn.
fn ratio(turns: &Turns) -> f64 {
    let cpu = |turn: &[Turn; 4], way: Way| turn[way as usize].cpu;
    median(turns.iter().map(|turn| cpu(turn, Way::Front) / cpu(turn, Way::PgBouncer)))
}

/// The table of a cell.
pub fn cell(cell: Cell, turns: &Turns) -> String {
    let mut text = format!(
        "\n{}\n  {:<10} {:>24} {:>28} {:>28} {:>26}\n",
        cell.name(),
        "",
        "CPU, µs a transaction",
        "latency, ms",
        "added to direct, ms",
        "transactions a second"
    );
    for way in WAYS {
        let (cpu, more) = match way {
            Way::Direct => ("-".to_owned(), "-".to_owned()),
            _ => (ranged(&of(turns, way, |t| t.cpu), 1), ranged(&added(turns, way), 3)),
        };
        let latency = ranged(&of(turns, way, |t| t.latency), 3);
        let rate = ranged(&of(turns, way, |t| t.rate), 0);
        let _ = writeln!(text, "  {:<10} {cpu:>24} {latency:>28} {more:>28} {rate:>26}", way.name());
    }
    let _ = write!(text, "  CPU, front : PgBouncer {:.2}", ratio(turns));
    text
}

/// The line of JSON of a cell.
pub fn cell_json(cell: Cell, turns: &Turns) -> Value {
    let ways: Vec<Value> = WAYS
        .iter()
        .map(|way| {
            json!({ "way": way.name(), "cpuMicros": rounded(&of(turns, *way, |t| t.cpu)),
                "latencyMs": rounded(&of(turns, *way, |t| t.latency)), "tps": rounded(&of(turns, *way, |t| t.rate)),
                "addedMs": rounded(&added(turns, *way)) })
        })
        .collect();
    json!({ "bench": "front", "script": cell.script.name(), "protocol": cell.protocol.name(),
        "clients": cell.clients, "ways": ways, "cpuFrontToPgBouncer": thousandths(ratio(turns)) })
}

fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().copied().map(thousandths).collect()
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Medians of all cells: CPU of each way, and what the front's is of PgBouncer's.
pub fn matrix(clients: &[u32], all: &[(Cell, Turns)]) -> String {
    let counts = clients.iter().map(u32::to_string).collect::<Vec<_>>().join(" / ");
    let mut text = format!("\nCPU, µs a transaction (medians) at {counts} clients\n  {:<22}", "");
    for name in BETWEEN.map(Way::name).iter().chain(&["front : PgBouncer"]) {
        let _ = write!(text, " {name:>24}");
    }
    for (script, protocol) in KINDS {
        let cells: Vec<&(Cell, Turns)> =
            all.iter().filter(|(cell, _)| cell.script == script && cell.protocol == protocol).collect();
        let row = |value: &dyn Fn(&Turns) -> String| {
            cells.iter().map(|(_, turns)| value(turns)).collect::<Vec<_>>().join(" / ")
        };
        let name = format!("{}, {}", script.name(), protocol.name());
        let _ = write!(text, "\n  {name:<22}");
        for way in BETWEEN {
            let cpu = row(&|turns| format!("{:.1}", median(of(turns, way, |t| t.cpu))));
            let _ = write!(text, " {cpu:>24}");
        }
        let _ = write!(text, " {:>24}", row(&|turns| format!("{:.2}", ratio(turns))));
    }
    text
}

/// The table of the system calls.
pub fn calls(counter: Counter, all: &[Calls]) -> String {
    let mut text = format!("\nSystem calls a transaction at one client, by {}\n  {:<22}", counter.name(), "");
    for calls in all {
        let _ = write!(text, " {:>10}", calls.way.name());
    }
    for (i, (script, protocol)) in KINDS.iter().enumerate() {
        let name = format!("{}, {}", script.name(), protocol.name());
        let _ = write!(text, "\n  {name:<22}");
        for calls in all {
            let _ = write!(text, " {:>10.2}", calls.each.get(i).copied().unwrap_or(f64::NAN));
        }
    }
    let mut row = |name: &str, value: &dyn Fn(&Calls) -> f64| {
        let _ = write!(text, "\n  {name:<22}");
        for calls in all {
            let _ = write!(text, " {:>10.1}", value(calls));
        }
    };
    row("idle, calls a second", &|calls| calls.idle);
    row("idle, CPU, ms a second", &|calls| calls.idle_cpu * 1000.0);
    text
}

/// The same for programs.
pub fn calls_json(counter: Counter, all: &[Calls]) -> Value {
    let kinds = KINDS.map(|(script, protocol)| format!("{}, {}", script.name(), protocol.name()));
    let ways: Vec<Value> = all
        .iter()
        .map(|calls| {
            json!({ "way": calls.way.name(), "perTransaction": rounded(&calls.each),
                "idlePerSecond": thousandths(calls.idle), "idleCpuMs": thousandths(calls.idle_cpu * 1000.0) })
        })
        .collect();
    json!({ "bench": "front-calls", "counter": counter.name(), "kinds": kinds, "ways": ways })
}

/// The table of the memory.
pub fn memory(all: &[Idle]) -> String {
    let heads = ["before, PSS", "with, PSS", "before, RSS", "with, RSS", "a session adds", "all : sessions"];
    let mut text = format!("\nMemory of idle sessions, KiB\n  {:<36}", "");
    for head in heads {
        let _ = write!(text, " {head:>16}");
    }
    for idle in all {
        let side = if idle.tls { "TLS on both sides" } else { "TLS to the node" };
        let name = format!("{} of {}, {side}", idle.sessions, idle.way.name());
        let whole = [idle.before.pss, idle.with.pss, idle.before.rss, idle.with.rss];
        let _ = write!(text, "\n  {name:<36}");
        for value in whole {
            let _ = write!(text, " {value:>16.0}");
        }
        let _ = write!(text, " {:>16.2} {:>16.2}", idle.added(), idle.whole());
    }
    text + "\n  the front takes no client without TLS"
}

/// What a way's sessions add, as soon as it is known.
pub fn one_memory(idle: &Idle) -> String {
    format!("  {:.2} KiB for each of {} sessions of {}", idle.added(), idle.sessions, idle.way.name())
}

/// The same for programs.
pub fn memory_json(all: &[Idle]) -> Value {
    let each: Vec<Value> = all
        .iter()
        .map(|idle| {
            json!({ "way": idle.way.name(), "sessions": idle.sessions, "clientTls": idle.tls,
                "beforePssKib": idle.before.pss, "withPssKib": idle.with.pss, "beforeRssKib": idle.before.rss, "withRssKib": idle.with.rss,
                "addedKib": thousandths(idle.added()), "wholeKib": thousandths(idle.whole()) })
        })
        .collect();
    json!({ "bench": "front-memory", "ways": each })
}

#[cfg(test)]
mod tests {
    use super::super::load::{Protocol, Script};
    use super::super::process::Memory;
    use super::*;

    const CELL: Cell = Cell { script: Script::SelectOnly, protocol: Protocol::Prepared, clients: 1 };

    /// Latencies and CPU of a turn, in the order of [`WAYS`].
    fn turn(latency: [f64; 4], cpu: [f64; 4]) -> [Turn; 4] {
        [0, 1, 2, 3].map(|i| Turn { cpu: cpu[i], latency: latency[i], rate: 1000.0 / latency[i] })
    }

    fn turns() -> Turns {
        vec![
            turn([0.1, 0.2, 0.3, 0.4], [0.0, 30.0, 40.0, 100.0]),
            turn([0.5, 0.7, 0.8, 0.9], [0.0, 90.0, 60.0, 100.0]),
            turn([0.2, 0.35, 0.3, 0.4], [0.0, 40.0, 40.0, 100.0]),
        ]
    }

    #[test]
    fn what_is_added_is_taken_turn_by_turn() {
        let added = added(&turns(), Way::Front);
        assert_eq!(ranged(&added, 3), "0.150 (0.100 to 0.200)");
        assert!((ratio(&turns()) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_table_has_every_way_and_the_line_every_turn() {
        let text = cell(CELL, &turns());
        assert!(WAYS.iter().all(|way| text.contains(way.name())), "{text}");
        assert!(text.ends_with("front : PgBouncer 1.00") && text.contains("40.0 (30.0 to 90.0)"));
        let line = cell_json(CELL, &turns());
        assert_eq!(line["ways"][1]["cpuMicros"], json!([30.0, 90.0, 40.0]));
        assert_eq!(line["ways"][1]["addedMs"], json!([0.1, 0.2, 0.15]));
        assert!(matrix(&[1], &[(CELL, turns())]).contains("select-only, prepared"));
    }

    #[test]
    fn calls_and_memory_are_shown() {
        let each = Calls { way: Way::Front, each: vec![6.1; 6], idle: 90.0, idle_cpu: 0.0125 };
        let text = calls(Counter::Perf, &[each]);
        assert!(text.contains("6.10") && text.contains("12.5"), "{text}");
        let at = |pss| Memory { pss, rss: pss, ..Memory::default() };
        let idle =
            Idle { way: Way::PgBouncer, tls: false, before: at(1000.0), with: at(4000.0), sessions: 1000 };
        assert!(memory(&[idle]).contains("1000 of PgBouncer, TLS to the node"));
        assert_eq!(memory_json(&[idle])["ways"][0]["addedKib"], 3.0);
    }
}
