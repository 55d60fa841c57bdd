//! The reference of the chart's values.
//!
//! Type and bounds come from values.schema.json, which is what Helm enforces, the default from values.yaml, and the
//! description from the comment right above the value there: who sets a value reads that file (`helm show values`), so the
//! words stand in it anyway, and standing once they can't differ.
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::mem;

use serde_json::Value;

/// Values that are Kubernetes' own types: the reference names them and doesn't repeat them.
const FOREIGN: [(&str, &str); 5] = [
    ("affinity", "Affinity"),
    ("imagePullSecrets", "list of LocalObjectReference"),
    ("metrics.from", "list of NetworkPolicyPeer"),
    ("resources", "ResourceRequirements"),
    ("tolerations", "list of Toleration"),
];

/// Helm gives this one to every chart that is part of another one; nothing here reads it.
const HELMS_OWN: &str = "global";

const HEAD: &str = "# Values of the chart

Made from values.yaml and values.schema.json of [the chart](../../charts/pgpool-operator/README.md) by
`UPDATE=1 cargo test --test chart`; not edited by hand.

They are set by `--set NAME=VALUE` or `--values FILE` of `helm install` and `helm upgrade`. Helm refuses all others (but for its own
`global`), and what values.schema.json doesn't allow.

| value | type | default | what |
|---|---|---|---|
";

/// The chart's values.yaml and values.schema.json.
pub struct Values {
    /// Every key of values.yaml in the order of the file, as `a.b.c`, with the comment right above it.
    keys: Vec<(String, String)>,
    defaults: Value,
    schema: Value,
}

impl Values {
    /// Reads the texts of both files.
    pub fn read(values: &str, schema: &str) -> Self {
        Self {
            keys: keys(values),
            defaults: serde_saphyr::from_str(values).unwrap(),
            schema: serde_json::from_str(schema).unwrap(),
        }
    }

    /// What keeps the page from telling of every value.
    pub fn faults(&self) -> Vec<String> {
        let mut leaves = BTreeSet::new();
        self.leaves(&self.schema, "", &mut leaves);
        let mut found = Vec::new();
        for path in &leaves {
            match self.keys.iter().find(|(key, _)| key == path) {
                Some((_, what)) if what.is_empty() => {
                    found.push(format!("{path}: no comment right above it in values.yaml"));
                }
                Some(_) if self.default(path).is_some() => {}
                _ => found.push(format!("{path}: it isn't in values.yaml")),
            }
        }
        // Comments further down, inside of a default, would be lost.
        let lost = self.keys.iter().filter(|(path, what)| !what.is_empty() && self.at(path).is_none());
        found.extend(
            lost.map(|(path, _)| format!("{path}: a comment on what values.schema.json doesn't name")),
        );
        found
    }

    /// The page. A value that only holds others is on it where it has a comment.
    pub fn page(&self) -> String {
        let mut out = HEAD.to_owned();
        for (path, what) in &self.keys {
            let Some(schema) = self.at(path) else { continue };
            let holds = schema["properties"].is_object();
            if holds && what.is_empty() {
                continue;
            }
            let default = self.default(path).filter(|_| !holds).map(shown).unwrap_or_default();
            let kind = self.kind(path, schema);
            writeln!(out, "| `{path}` | {kind} | {} | {} |", cell(&default), cell(what)).unwrap();
        }
        out
    }

    /// The schema of a value; none for what is inside of one that the schema describes as a whole.
    fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.schema, |schema, key| {
            schema["properties"].get(key).map(|found| self.resolved(found))
        })
    }

    /// The definition, where the schema only refers to one.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(place) => self.schema.pointer(place.trim_start_matches('#')).unwrap(),
            None => schema,
        }
    }

    fn leaves(&self, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let inner = self.resolved(inner);
            if inner["properties"].is_object() {
                self.leaves(inner, &here, found);
            } else if here != HELMS_OWN {
                found.insert(here);
            }
        }
    }

    fn default(&self, path: &str) -> Option<&Value> {
        self.defaults.pointer(&format!("/{}", path.replace('.', "/")))
    }

    /// The type of a value with its bounds.
    fn kind(&self, path: &str, schema: &Value) -> String {
        if let Some((_, name)) = FOREIGN.iter().find(|(foreign, _)| *foreign == path) {
            return (*name).to_owned();
        }
        if let Some(allowed) = schema["enum"].as_array() {
            return allowed.iter().map(shown).collect::<Vec<_>>().join(", ");
        }
        let of = |key: &str| self.resolved(&schema[key])["type"].as_str();
        let bound = |key: &str| schema[key].as_i64();
        let plain = schema["type"].as_str().unwrap();
        match (plain, of("items"), of("additionalProperties")) {
            ("array", Some(items), _) => format!("list of {items}s"),
            ("object", _, Some(items)) => format!("map of {items}s"),
            _ => match (bound("minimum"), bound("maximum")) {
                (Some(low), Some(high)) => format!("{plain}, {low} to {high}"),
                _ if bound("minLength").is_some_and(|least| least > 0) => format!("{plain}, not empty"),
                _ => plain.to_owned(),
            },
        }
    }
}

/// Every key in the order of the file, with the comment right above it. It goes by the lines, as a reader of YAML gives
/// neither: what is written in another way than a key a line isn't found, and [`Values::faults`] tells of it.
fn keys(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut comment = String::new();
    // The keys that the line is inside of, each with its indentation.
    let mut outer: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let words = line.trim_start();
        let indentation = line.len() - words.len();
        if let Some(more) = words.strip_prefix('#') {
            comment.push_str(if comment.is_empty() { "" } else { " " });
            comment.push_str(more.trim());
        } else if let Some((key, _)) = words.split_once(':') {
            outer.retain(|(further_left, _)| *further_left < indentation);
            outer.push((indentation, key));
            let path = outer.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
            found.push((path, mem::take(&mut comment)));
        } else {
            comment.clear();
        }
    }
    found
}

/// A value as it is written in YAML.
fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(plain) if !plain.is_empty() => format!("`{plain}`"),
        _ => format!("`{value}`"),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
