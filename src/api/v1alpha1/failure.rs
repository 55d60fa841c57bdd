//! When a node counts as failed, and how it is taken back.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;
use super::rules::rules;

/// Online recovery.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Recovery {
    /// Whether a failed node is recovered without being asked.
    pub automatic: bool,
    /// Longest time that one recovery may take.
    #[schemars(extend("x-kubernetes-validations" = rules(&[("duration(self) >= duration('30s')", "spec.recovery.timeout: at least 30s")])))]
    pub timeout: Span,
    /// Bytes a second that a copy may use, such as 100Mi (`pg_basebackup --max-rate`: 32Ki to 1Gi).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|k|M|G)?$"))]
    #[schemars(extend("x-kubernetes-validations" = rules(&[("quantity(self).compareTo(quantity('32Ki')) >= 0 && quantity(self).compareTo(quantity('1Gi')) <= 0", "spec.recovery.bandwidth: between 32Ki and 1Gi a second")])))]
    pub bandwidth: Option<String>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { automatic: true, timeout: Span::from_secs(6 * 3600), bandwidth: None }
    }
}

/// When a node counts as failed (docs/membership.md).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[("duration(self.heartbeat) >= duration('50ms') && duration(self.heartbeat) + duration(self.heartbeat) + duration(self.heartbeat) + duration(self.heartbeat) <= duration(self.detachAfter)", "spec.failure: heartbeat is at least 50ms and at most a quarter of detachAfter"), ("duration(self.detachAfter) < duration(self.lease) && duration(self.lease) < duration(self.grace) && duration(self.grace) <= duration('10m')", "spec.failure: detachAfter < lease < grace <= 10m"), ("duration(self.detachLag) >= duration('1s') && duration(self.detachLag) <= duration('1h')", "spec.failure.detachLag: between 1s and 1h")])))]
#[serde(rename_all = "camelCase", default)]
pub struct Failure {
    /// Time between two beats of the agents.
    pub heartbeat: Span,
    /// R: silence after which a standby is detached.
    pub detach_after: Span,
    /// L: length of a read lease.
    pub lease: Span,
    /// G: silence after which the primary is deposed.
    pub grace: Span,
    /// Age of a standby's oldest unapplied commit after which it is detached.
    pub detach_lag: Span,
    /// Fewest attached nodes with which commits are acknowledged.
    #[schemars(range(min = 1, max = 15))]
    pub min_attached: u8,
}

impl Default for Failure {
    fn default() -> Self {
        Self {
            heartbeat: Span::from_millis(250),
            detach_after: Span::from_millis(1500),
            lease: Span::from_secs(2),
            grace: Span::from_secs(3),
            detach_lag: Span::from_secs(30),
            min_attached: 1,
        }
    }
}
