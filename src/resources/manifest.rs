//! A manifest that is applied, and whether the object that is there already fulfils it.
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Fingerprint of the manifest that was applied last: shows that a field was taken out of it.
pub const ANNOTATION_APPLIED: &str = "pgpool-operator.dev/applied";

/// Why a manifest could not be built.
#[derive(Debug, Error)]
#[error("{kind} {name}: can't be written as JSON: {source}")]
pub struct BuildError {
    kind: String,
    name: String,
    source: serde_json::Error,
}

#[cfg(test)]
impl BuildError {
    /// One for the tests of what is told of it: no object that the operator makes gives any.
    pub(crate) fn sample(kind: &str, name: &str) -> Self {
        let source = serde::ser::Error::custom("a test");
        Self { kind: kind.to_owned(), name: name.to_owned(), source }
    }
}

/// An object as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its kind, for the API.
    pub resource: ApiResource,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The whole of it.
    pub value: Value,
}

impl Manifest {
    /// Takes an object and marks it with its fingerprint.
    pub fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Self, BuildError> {
        let resource = ApiResource::erase::<K>(&());
        let name = object.meta().name.clone().unwrap_or_default();
        let mut value = serde_json::to_value(object).map_err(|source| BuildError {
            kind: resource.kind.clone(),
            name: name.clone(),
            source,
        })?;
        prune(&mut value);
        let mark = fingerprint(&value.to_string());
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            let annotations =
                metadata.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(ANNOTATION_APPLIED.to_owned(), Value::String(mark));
            }
        }
        Ok(Self { resource, namespace: object.meta().namespace.clone().unwrap_or_default(), name, value })
    }

    /// Whether an object that is there fulfils this: every field that the manifest has stands there
    /// with the same value; what others added doesn't count.
    pub fn fulfilled_by(&self, live: &Value) -> bool {
        contained(&self.value, live)
    }

    /// Kind and name, as objects are looked up.
    pub fn key(&self) -> (String, String) {
        (self.resource.kind.clone(), self.name.clone())
    }

    /// Whether it holds secret values, which must not be shown.
    pub fn is_secret(&self) -> bool {
        self.resource.kind == Secret::kind(&())
    }
}

/// Fingerprint of something that is written as JSON; `kind` and `name` say of what, should it fail.
pub(super) fn fingerprint_of(kind: &str, name: &str, part: &impl Serialize) -> Result<String, BuildError> {
    let mut value = serde_json::to_value(part).map_err(|source| BuildError {
        kind: kind.to_owned(),
        name: name.to_owned(),
        source,
    })?;
    prune(&mut value);
    Ok(fingerprint(&value.to_string()))
}

/// The first 16 hex digits of the text's SHA-256.
pub fn fingerprint(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut out, byte| {
        // Writing to a String can't fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Takes out what the API server would leave out: nulls.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, entry| !entry.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn contained(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| match live.get(key) {
                Some(there) => contained(value, there),
                // The API server doesn't store empty maps and lists.
                None => empty(value),
            })
        }
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(a, b)| contained(a, b))
        }
        _ => wanted == live,
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        let wanted = json!({"spec": {"replicas": 1, "ports": [{"port": 5432}], "emptyDir": {}}});
        let live = json!({"spec": {"replicas": 1, "ports": [{"port": 5432, "protocol": "TCP"}], "type": "ClusterIP"}});
        assert!(contained(&wanted, &live));
    }

    #[test]
    fn a_changed_value_is_a_difference() {
        let wanted = json!({"spec": {"replicas": 1, "args": ["a", "b"]}});
        assert!(!contained(&wanted, &json!({"spec": {"replicas": 0, "args": ["a", "b"]}})));
        assert!(!contained(&wanted, &json!({"spec": {"replicas": 1, "args": ["a"]}})));
        assert!(!contained(&wanted, &json!({"spec": {"args": ["a", "b"]}})));
    }
}
