//! The chart's rules and dashboard, and what they ask a Prometheus for.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::promql::{Named, named};

/// Names that are Prometheus' own.
pub const FOREIGN: [&str; 1] = ["ALERTS"];

/// A file of charts/pgpool-operator/files.
pub fn file(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/pgpool-operator/files");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// The alerts.
pub fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&file("rules.yaml")).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Every expression, with what it is of.
pub fn expressions() -> Vec<(String, String)> {
    let of = |rule: &Value| {
        let text = |key: &str| rule[key].as_str().unwrap().to_owned();
        (format!("alert {}", text("alert")), text("expr"))
    };
    let mut all: Vec<(String, String)> = rules().iter().map(of).collect();
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    asked("the dashboard", &dashboard, &mut all);
    all
}

/// Expressions at any depth of a dashboard, each with the title that stands next above it.
fn asked(title: &str, value: &Value, all: &mut Vec<(String, String)>) {
    let title = value["title"].as_str().unwrap_or(title);
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                match inner.as_str() {
                    Some(text) if key == "expr" => all.push((format!("panel {title}"), text.to_owned())),
                    Some(text) if text.starts_with("label_values(") && key == "query" => {
                        // The label that is asked for stands behind the metric.
                        let metric = text.trim_start_matches("label_values(").rsplit_once(',').unwrap().0;
                        all.push((format!("variable {title}"), metric.to_owned()));
                    }
                    _ => asked(title, inner, all),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| asked(title, item, all)),
        _ => {}
    }
}

/// The metrics that rules and dashboard ask for.
pub fn used() -> BTreeSet<String> {
    let all = expressions();
    let found = all.iter().flat_map(|(_, text)| {
        let Named { metrics, .. } = named(text);
        metrics.into_iter().map(|(metric, _)| metric)
    });
    found.filter(|metric| !FOREIGN.contains(&metric.as_str())).collect()
}
