//! The figures: a table for people, a line of JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Turn;
use super::recovery::COPYING;

/// The middle of the sorted values; the mean of both where two are in the middle; not a number for none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (half.checked_sub(1).and_then(|i| sorted.get(i)), sorted.get(half)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(middle)) => *middle,
        _ => f64::NAN,
    }
}

/// A measure of a turn, in seconds.
type Measure = fn(&Turn) -> f64;

/// What is compared.
const MEASURES: [(&str, Measure); 4] = [
    ("whole recovery", |turn| turn.whole.seconds),
    ("its stage Copying", |turn| stage(turn, COPYING)),
    ("pg_basebackup alone", |turn| turn.basebackup),
    ("tar over TLS", |turn| turn.tar),
];

/// A stage with its parts.
fn stage(turn: &Turn, name: &str) -> f64 {
    turn.whole.stages.iter().filter(|(stage, _)| stage.starts_with(name)).map(|(_, seconds)| seconds).sum()
}

fn exactly(turn: &Turn, name: &str) -> f64 {
    turn.whole.stages.iter().filter(|(stage, _)| stage == name).map(|(_, seconds)| seconds).sum()
}

/// All stages that were seen, in their order.
fn stages(turns: &[Turn]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in turns.iter().flat_map(|turn| &turn.whole.stages) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// Millions of bytes a second.
fn rate(turn: &Turn, seconds: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a disk has far fewer bytes than the 2^53 up to which a f64 is exact"
    )]
    let megabytes = turn.data as f64 / 1e6;
    megabytes / seconds
}

fn row(text: &mut String, name: &str, turns: &[Turn], unit: &str, value: impl Fn(&Turn) -> f64) {
    let values: Vec<f64> = turns.iter().map(value).collect();
    let cells: Vec<String> = values.iter().map(|v| format!("{v:9.2}")).collect();
    // Writing to a String can't fail.
    let _ = writeln!(text, "  {name:<34} {} {:9.2}  {unit}", cells.join(" "), median(values));
}

/// The table of one size.
pub fn table(size: u64, turns: &[Turn]) -> String {
    let heads: Vec<String> = (1..=turns.len()).map(|i| format!("{:>9}", format!("turn {i}"))).collect();
    let mut text =
        format!("\nRecovery of {} MB\n  {:<34} {}    median\n", size / 1_000_000, "", heads.join(" "));
    for (name, measure) in MEASURES {
        row(&mut text, name, turns, "s", measure);
        row(&mut text, "", turns, "MB/s", |turn| rate(turn, measure(turn)));
    }
    row(&mut text, "whole, as the operator tells", turns, "s", |turn| turn.whole.told);
    for name in stages(turns) {
        row(&mut text, &format!("stage {name}"), turns, "s", |turn| exactly(turn, name));
    }
    row(&mut text, "whole : pg_basebackup alone", turns, "of its speed", ratio);
    row(&mut text, "whole : tar over TLS", turns, "of its speed", |turn| turn.tar / turn.whole.seconds);
    for (i, name) in ["whole recovery", "pg_basebackup", "tar"].iter().enumerate() {
        row(&mut text, &format!("load before {name}"), turns, "", |turn| turn.load[i]);
    }
    text
}

fn ratio(turn: &Turn) -> f64 {
    turn.basebackup / turn.whole.seconds
}

/// The line of JSON of one size.
pub fn json(size: u64, turns: &[Turn]) -> Value {
    let each: Vec<Value> = turns.iter().map(turn_json).collect();
    let medians: serde_json::Map<String, Value> = MEASURES
        .iter()
        .map(|(name, measure)| ((*name).to_owned(), thousandths(median(turns.iter().map(measure)))))
        .collect();
    json!({ "bench": "recovery", "size": size, "turns": each, "medianSeconds": medians,
        "ratioToBasebackup": thousandths(median(turns.iter().map(ratio))),
        "ratioToTar": thousandths(median(turns.iter().map(|t| t.tar / t.whole.seconds))) })
}

fn turn_json(turn: &Turn) -> Value {
    let stages: Vec<Value> = turn
        .whole
        .stages
        .iter()
        .map(|(name, s)| json!({ "stage": name, "seconds": thousandths(*s) }))
        .collect();
    json!({ "bytes": turn.data, "donor": turn.whole.donor, "load": turn.load,
        "wholeSeconds": thousandths(turn.whole.seconds), "toldSeconds": thousandths(turn.whole.told),
        "stages": stages, "basebackupSeconds": thousandths(turn.basebackup), "tarSeconds": thousandths(turn.tar) })
}

/// A number of JSON, to three places.
fn thousandths(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// The line about new pools.
pub fn ready_table(seconds: &[f64]) -> String {
    let each: Vec<String> = seconds.iter().map(|s| format!("{s:.1}")).collect();
    format!(
        "\nApply to Ready of three nodes: {} s, median {:.1} s",
        each.join(" "),
        median(seconds.iter().copied())
    )
}

/// The same for programs.
pub fn ready_json(seconds: &[f64]) -> Value {
    let each: Vec<Value> = seconds.iter().map(|s| thousandths(*s)).collect();
    json!({ "bench": "apply-to-ready", "nodes": 3, "seconds": each,
        "medianSeconds": thousandths(median(seconds.iter().copied())) })
}

#[cfg(test)]
mod tests {
    use super::super::recovery::Whole;
    use super::*;

    fn turn(whole: f64, copying: f64, basebackup: f64, tar: f64) -> Turn {
        let stages = vec![("Stopping".to_owned(), whole - copying), ("Copying".to_owned(), copying)];
        let whole = Whole { donor: 1, seconds: whole, told: whole, stages };
        Turn { data: 1_000_000_000, whole, basebackup, tar, load: [1.0, 2.0, 3.0] }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median([]).is_nan());
    }

    #[test]
    fn half_the_speed_is_a_ratio_of_one_half() {
        let turns = [turn(10.0, 8.0, 5.0, 20.0)];
        let line = json(1_000_000_000, &turns);
        assert_eq!(line["ratioToBasebackup"], 0.5);
        assert_eq!(line["ratioToTar"], 2.0);
        assert_eq!(line["medianSeconds"]["its stage Copying"], 8.0);
        assert!(table(1_000_000_000, &turns).contains("125.00"), "MB/s of its stage Copying");
    }
}
