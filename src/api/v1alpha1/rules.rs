//! CEL rules in a schema.

/// Pattern of the name of a Secret or ConfigMap (RFC 1123 subdomain).
pub(super) const OBJECT_NAME: &str = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
/// The same of a storage class, which may be empty: volumes that belong to no class (Kubernetes, Persistent Volumes, "Class").
pub(super) const CLASS_NAME: &str = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$";

/// CEL rules as a schema carries them: (rule, message). kube's own attribute can't be used on a
/// struct with `#[serde(default)]`, whose default its shadow struct lacks.
pub(super) fn rules(list: &[(&str, &str)]) -> serde_json::Value {
    list.iter().map(|(rule, message)| serde_json::json!({"rule": rule, "message": message})).collect()
}
