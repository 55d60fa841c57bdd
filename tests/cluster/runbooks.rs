//! The runbooks are followed as they are written: each step breaks something under the load, types the commands of the page
//! about it, and sees what the page says. What other steps try is named in docs/runbooks/README.md.
pub mod looks;
pub mod lost;
pub mod maintenance;
pub mod nodes;
mod page;
pub mod parts;
pub mod room;
pub mod trust;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pgpool_operator::api::v1alpha1::{NodeStatus, PgPoolStatus};

/// The reason of a node that nobody hears.
const SILENT: &str = "its agent doesn't answer";

/// What the status says of a node.
fn of_node(status: &PgPoolStatus, node: u8) -> Option<&NodeStatus> {
    status.nodes.iter().find(|its| its.index == node)
}

/// Whether a condition has this reason. How full this machine's disk is, is its own affair, and told before any other reason.
fn told_as(status: &PgPoolStatus, reason: &str) -> bool {
    let tells =
        |c: &Condition| c.reason == reason || (c.type_ == "Degraded" && c.reason == "VolumeNearlyFull");
    status.conditions.iter().any(tells)
}
