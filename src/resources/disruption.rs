//! PodDisruptionBudgets: one node at a time, one front at a time.
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Part, metadata, parts};
use crate::model::ValidPool;
use crate::names;

fn budget(pool: &ValidPool, name: &str, part: Part) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(pool, name, part),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(parts(pool, &[part.as_str()])),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// The nodes': a detached node is not ready and so counts as the one that may be away.
pub fn node_budget(pool: &ValidPool) -> PodDisruptionBudget {
    let mut budget = budget(pool, &names::nodes_service(pool.name()), Part::Node(0));
    if let Some(labels) = &mut budget.metadata.labels {
        labels.remove(names::LABEL_NODE);
    }
    budget
}

/// The front's.
pub fn proxy_budget(pool: &ValidPool) -> PodDisruptionBudget {
    budget(pool, &names::proxy(pool.name()), Part::Proxy)
}
