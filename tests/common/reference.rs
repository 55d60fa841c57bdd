//! The reference of a custom resource, made from its definition.
use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// Fields that are Kubernetes' own types: the reference names them and doesn't repeat them.
const FOREIGN: [(&str, &str); 5] = [
    (".affinity", "Affinity"),
    (".topologySpread", "list of TopologySpreadConstraint"),
    (".tolerations", "list of Toleration"),
    (".imagePullSecrets", "list of LocalObjectReference"),
    (".conditions", "list of Condition"),
];

/// The page of one resource.
pub fn page(crd: &CustomResourceDefinition) -> String {
    let schema = root(crd);
    let names = &crd.spec.names;
    let mut out = format!(
        "# {}\n\nMade from the definition by `UPDATE=1 cargo test --test crds`; not edited by hand.\n\n{}\n\n\
         `{}/{}`, plural `{}`.\n",
        names.kind,
        text(&schema, "description"),
        crd.spec.group,
        crd.spec.versions[0].name,
        names.plural,
    );
    rules(&schema, &mut out);
    for part in ["spec", "status"] {
        write!(out, "\n## {part}\n\n| field | type | default | what |\n|---|---|---|---|\n").unwrap();
        let mut messages = String::new();
        rows(&schema["properties"][part], part, &mut out, &mut messages);
        if !messages.is_empty() {
            write!(out, "\nRefused with these words:\n\n{messages}").unwrap();
        }
    }
    out
}

/// Paths of our own fields without a description.
pub fn undescribed(crd: &CustomResourceDefinition) -> Vec<String> {
    let schema = root(crd);
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        walk(&schema["properties"][part], part, &mut |path, field| {
            if field["description"].as_str().unwrap_or_default().is_empty() {
                found.push(path.to_owned());
            }
        });
    }
    found
}

fn root(crd: &CustomResourceDefinition) -> Value {
    serde_json::to_value(&crd.spec.versions[0].schema).unwrap()["openAPIV3Schema"].take()
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

/// Calls `each` with the path and schema of every field that is ours.
fn walk(schema: &Value, path: &str, each: &mut dyn FnMut(&str, &Value)) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let list = field["type"] == "array";
        let here = format!("{path}.{name}{}", if list { "[]" } else { "" });
        each(&here, field);
        if foreign(&here).is_none() {
            walk(if list { &field["items"] } else { field }, &here, each);
        }
    }
}

fn foreign(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches("[]");
    FOREIGN.iter().find(|(end, _)| path.ends_with(end)).map(|(_, name)| *name)
}

fn rows(schema: &Value, part: &str, out: &mut String, messages: &mut String) {
    rules(schema, messages);
    walk(schema, part, &mut |path, field| {
        let what = text(field, "description").replace('\n', " ").replace('|', "\\|");
        let default = match &field["default"] {
            Value::Null | Value::Object(_) => String::new(),
            value => format!("`{value}`").replace('"', ""),
        };
        writeln!(out, "| `{path}` | {} | {default} | {what} |", kind(path, field)).unwrap();
        rules(field, messages);
        rules(&field["items"], messages);
    });
}

/// The type of a field with its bounds.
fn kind(path: &str, field: &Value) -> String {
    if let Some(name) = foreign(path) {
        return name.to_owned();
    }
    if let Some(values) = field["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let plain = match text(field, "type") {
        "object" if field["additionalProperties"].is_object() => "map",
        "array" => "list",
        other => other,
    };
    let bound = |key: &str| field[key].as_f64();
    match (bound("minimum"), bound("maximum")) {
        // The bounds of the number's own type say nothing.
        (Some(low), Some(high))
            if high < 1e9 && high > 255.0 || bound("maximum").is_some_and(|h| h < 255.0) =>
        {
            format!("{plain}, {low} to {high}")
        }
        (Some(low), _) if low > 0.0 => format!("{plain}, at least {low}"),
        _ => plain.to_owned(),
    }
}

fn rules(schema: &Value, out: &mut String) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        writeln!(out, "- {}", text(rule, "message")).unwrap();
    }
}
