//! What stands on the volume of a node.
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;
use super::rules::{CLASS_NAME, rules};

/// The volume of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("spec.storage.storageClassName: can't be changed: the volumes are there already; make a new pool"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size, at least 256Mi.
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    #[x_kube(
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message("spec.storage.size: can't shrink: no volume can be made smaller; make a new pool"),
        validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('256Mi')) >= 0").message("spec.storage.size: at least 256Mi: PostgreSQL, its WAL and the archive must fit")
    )]
    pub size: String,
    /// Storage class; the cluster's default when left out, none at all where it is empty: volumes that somebody has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = CLASS_NAME))]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes when the PgPool is deleted.
    #[serde(default)]
    pub when_deleted: Fate,
    /// What becomes of the volume of a node that is removed by lowering spec.nodes.
    #[serde(default)]
    pub when_scaled: Fate,
}

/// What becomes of volumes that are no longer used.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Fate {
    /// They stay.
    #[default]
    Retain,
    /// They are deleted too.
    Delete,
}

/// The WAL archive that each node keeps on its volume.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WalArchive {
    /// Longest time until a segment is archived (`archive_timeout`).
    #[schemars(extend("x-kubernetes-validations" = rules(&[("duration(self) >= duration('1s') && duration(self) <= duration('1h')", "spec.walArchive.timeout: between 1s and 1h")])))]
    pub timeout: Span,
    /// How long archived WAL is kept.
    #[schemars(extend("x-kubernetes-validations" = rules(&[("duration(self) >= duration('10m') && duration(self) <= duration('8760h')", "spec.walArchive.retention: between 10m and 8760h")])))]
    pub retention: Span,
    /// How much archived WAL is kept; a quarter of the volume when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    #[schemars(extend("x-kubernetes-validations" = rules(&[("quantity(self).compareTo(quantity('32Mi')) >= 0", "spec.walArchive.maxSize: at least 32Mi: two segments of WAL must fit")])))]
    pub max_size: Option<String>,
}

impl Default for WalArchive {
    fn default() -> Self {
        Self { timeout: Span::from_secs(60), retention: Span::from_secs(24 * 3600), max_size: None }
    }
}
