//! What is refused, and why: the last good copy is never touched.
use super::donor;
use crate::plan::draft::Draft;

/// One recovery at a time.
pub fn no_recovery(draft: &Draft<'_>) -> Result<(), String> {
    match &draft.plan.status.recovery {
        Some(running) => Err(format!(
            "node {} is being recovered (stage {:?}); one recovery at a time: ask again when it has ended",
            running.node, running.stage
        )),
        None => Ok(()),
    }
}

/// The node may be taken out: it isn't the last, nor the primary.
fn may_leave(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    let Some(record) = draft.record() else {
        return Err("the pool has no record yet: wait until its first node is up".to_owned());
    };
    if draft.is_attached(node) && record.attached.len() == 1 {
        return Err(format!(
            "node {node} is the only attached node: it holds the last good copy of the data"
        ));
    }
    if record.primary == node {
        return Err(format!(
            "node {node} is the primary; taking it out needs a switchover, which comes with failover"
        ));
    }
    Ok(())
}

/// Whether a person may have a node recovered.
pub fn may_recover(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    no_recovery(draft)?;
    may_leave(draft, node)?;
    if draft.primary().is_none() {
        return Err("the primary isn't in office at the moment: ask again when it is".to_owned());
    }
    let donor = draft.record().and_then(|record| donor::choose(record, node, |index| draft.report(index)));
    if donor.is_none() {
        return Err(
            "no attached node that could be copied from answers at the moment: ask again later".to_owned()
        );
    }
    Ok(())
}

/// Whether a person may have a node detached.
pub fn may_detach(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    if draft.plan.status.recovery.as_ref().is_some_and(|running| running.node == node) {
        return Err(format!("node {node} is being recovered; ask again when that has ended"));
    }
    may_leave(draft, node)?;
    if draft.seen.status.detached_by_wish.contains(&node) {
        return Err(format!("node {node} was detached by wish already"));
    }
    let left = draft.record().map_or(0, |record| record.attached.iter().filter(|m| m.index != node).count());
    if draft.is_attached(node) && left < usize::from(draft.pool.min_attached) {
        return Err(format!(
            "only {left} nodes would stay attached, fewer than spec.failure.minAttached ({})",
            draft.pool.min_attached
        ));
    }
    Ok(())
}

/// Whether a person may give up a node's volume.
pub fn may_replace(draft: &Draft<'_>, node: u8) -> Result<(), String> {
    may_recover(draft, node)?;
    if draft.is_attached(node) {
        return Err(format!(
            "node {node} is attached, so its volume works: detach={node} first if it shall be replaced all the same"
        ));
    }
    Ok(())
}
