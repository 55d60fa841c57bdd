//! Whether the pool is at rest: what a change that takes a node away waits for.
use super::draft::Draft;
use crate::api::v1alpha1::Phase;

/// Why nothing may be taken away now; none when every wished node serves and nothing is under way.
pub(super) fn unrest(draft: &Draft<'_>) -> Option<String> {
    let status = &draft.plan.status;
    if let Some(recovery) = &status.recovery {
        return Some(format!("node {} is being recovered", recovery.node));
    }
    if let Some(switchover) = &status.switchover {
        return Some(format!("node {} hands over to node {}", switchover.from, switchover.to));
    }
    if draft.record().is_none_or(|record| record.phase == Phase::Electing) || draft.primary().is_none() {
        return Some("no primary is in office".to_owned());
    }
    draft.wished().find_map(|index| away(draft, index))
}

/// Why a node doesn't serve.
fn away(draft: &Draft<'_>, index: u8) -> Option<String> {
    if !draft.is_attached(index) {
        return Some(format!("node {index} isn't attached"));
    }
    let pod = draft.node(index).and_then(|seen| seen.pod.as_ref());
    if pod.is_none_or(|pod| pod.deleting || !pod.ready) || !draft.report(index).is_some_and(|r| r.open) {
        return Some(format!("node {index} isn't ready"));
    }
    None
}

/// Whether the node does what it shall.
pub(super) fn serves(draft: &Draft<'_>, index: u8) -> bool {
    away(draft, index).is_none()
}

/// Whether one attached node may go without the pool falling below its least size.
pub(super) fn can_spare_one(draft: &Draft<'_>) -> Result<(), String> {
    let least = usize::from(draft.pool.min_attached);
    if draft.attached() > least {
        return Ok(());
    }
    Err(format!(
        "with one node less there would be fewer attached than spec.failure.minAttached ({least}): add a node, or lower it"
    ))
}

/// The node whose PostgreSQL is of another major version than the data, in words for people.
pub(super) fn other_major(draft: &Draft<'_>, index: u8) -> Option<String> {
    let data = draft.plan.status.postgres_version?;
    let own = draft.report(index)?.postgres_version.filter(|own| *own != data)?;
    Some(format!(
        "the image of node {index} brings PostgreSQL {own}, and the data of the pool is of {data}: another major version \
         can't use it; set spec.image back, or make a new pool and move the data"
    ))
}
